"""Model Breadcrumbs: drop the largest and the smallest changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stockpot.merging.rule import Block, Parameter, Rule, Value
from stockpot.merging.rules.linear import WEIGHT, normalised_to_nothing
from stockpot.merging.rules.task_arithmetic import LAMBDA, added, on_base
from stockpot.merging.rules.ties import elect, trim

if TYPE_CHECKING:
    from torch import Tensor

BREADCRUMBS_DENSITY = Parameter(
    "density", 0.9, "share of the elements that is kept", each=True, above=0, high=1, mergekit=1.0
)
GAMMA = Parameter("gamma", 0.01, "share of the largest elements that is dropped", each=True, low=0, high=1)


def breadcrumbs(block: Block) -> Tensor:
    """Model Breadcrumbs: drop the largest γ·n and the smallest of |τ|, add what is left (arXiv 2312.06795, section 3).

    `θ = θ_base + λ Σ wᵢτ̂ᵢ`; ⌊density·n⌋ of n elements are kept, and if density and γ add up to more than 1, fewer of
    the largest are dropped. n counts the whole model, or each tensor (`trim: tensor`, as in the paper and mergekit).
    """
    return on_base(block, added(block, _drop(block)))


def breadcrumbs_ties(block: Block) -> Tensor:
    """Breadcrumbs' drop instead of TIES' trim, then TIES' election of signs."""
    return on_base(block, elect(_drop(block), block.settings.numbers("weight"), block.settings.switch("normalize")))


def between(parameters: Mapping[str, Value], count: int) -> dict[str, int]:
    """How many of the largest elements are considered (`inner`), and how many of those are dropped (`outer`)."""
    density, gamma = parameters["density"], parameters["gamma"]
    assert isinstance(density, int | float)
    assert isinstance(gamma, int | float)
    if density >= 1:
        return {}
    target = int(density * count)
    smallest = max(0, count - target - int(gamma * count))
    return {"inner": count - smallest, "outer": count - smallest - target}


def _drop(block: Block) -> list[Tensor]:
    vectors = []
    for vector, cuts in zip(block.models, block.cuts, strict=True):
        if cuts:
            outliers = trim(vector.clone(), cuts["outer"], block.start)
            vectors.append(trim(vector, cuts["inner"], block.start).sub_(outliers))
        else:
            vectors.append(vector)
    return vectors


BREADCRUMBS = Rule(
    "breadcrumbs",
    breadcrumbs,
    (WEIGHT, BREADCRUMBS_DENSITY, GAMMA, LAMBDA, Parameter("normalize", False, "divide by the sum of the weights")),
    cuts=between,
    check=normalised_to_nothing,
)
BREADCRUMBS_TIES = Rule(
    "breadcrumbs_ties",
    breadcrumbs_ties,
    (
        WEIGHT, BREADCRUMBS_DENSITY, GAMMA, LAMBDA,
        Parameter("normalize", True, "average what agrees; otherwise add it up", mergekit=False),
    ),
    cuts=between,
)  # fmt: skip
