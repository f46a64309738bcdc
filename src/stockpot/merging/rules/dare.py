"""DARE: drop elements at random and rescale the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.merging.rule import Block, Parameter, Rule
from stockpot.merging.rules.linear import WEIGHT, normalised_to_nothing
from stockpot.merging.rules.random_masks import chance, keep
from stockpot.merging.rules.task_arithmetic import LAMBDA, added, on_base
from stockpot.merging.rules.ties import elect

if TYPE_CHECKING:
    from torch import Tensor

DARE_DENSITY = Parameter(
    "density", 0.5, "probability that an element is kept", each=True, above=0, high=1, mergekit=1.0
)
RESCALE = Parameter("rescale", True, "divide what is kept by its probability of being kept")


def dare_linear(block: Block) -> Tensor:
    """DARE: each element of τ is kept with probability d and divided by d, then added (arXiv 2311.03099, section 3).

    `τ̂ᵢ = mᵢ∘τᵢ/d`, `mᵢ ~ Bernoulli(d)`, `θ = θ_base + λ Σ wᵢτ̂ᵢ`: the expected value is task arithmetic's. Dividing
    by d is the rescaling of the paper and PEFT; mergekit instead preserves the sum of |τ|. d is rounded to 1/65536,
    for the mask and for the division. The masks depend only on seed, model and tensor.
    """
    return on_base(block, added(block, _drop(block), _factors(block)))


def dare_ties(block: Block) -> Tensor:
    """DARE's random drop instead of TIES' trim: `τ̂ᵢ = mᵢ∘τᵢ/d`, then TIES' election (arXiv 2311.03099).

    Elements that agree with the elected sign are averaged, as in the TIES paper and PEFT; in mergekit they are summed
    (`normalize=false`, the default in mergekit's configurations).
    """
    weights, normalize = block.settings.numbers("weight"), block.settings.switch("normalize")
    return on_base(block, elect(_drop(block), weights, normalize, _factors(block)))


def _drop(block: Block) -> list[Tensor]:
    densities = block.settings.numbers("density")
    return [
        vector.mul_(keep(key, block.start, vector, density)) if density < 1 else vector
        for vector, density, key in zip(block.models, densities, block.keys, strict=True)
    ]


def _factors(block: Block) -> list[float]:
    rescale = block.settings.switch("rescale")
    return [1 / chance(density) if rescale else 1.0 for density in block.settings.numbers("density")]


DARE_LINEAR = Rule(
    "dare_linear",
    dare_linear,
    (WEIGHT, DARE_DENSITY, LAMBDA, RESCALE, Parameter("normalize", False, "divide by the sum of the weights")),
    random=True,
    check=normalised_to_nothing,
)
DARE_TIES = Rule(
    "dare_ties",
    dare_ties,
    (
        WEIGHT, DARE_DENSITY, LAMBDA, RESCALE,
        Parameter("normalize", True, "average what agrees; otherwise add it up", mergekit=False),
    ),
    random=True,
)  # fmt: skip
