"""Fisher-weighted averages: each model counts more where its Fisher information is larger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.merging.rule import Block, Parameter, Rule, Settings
from stockpot.merging.rules.linear import WEIGHT

if TYPE_CHECKING:
    from torch import Tensor


def fisher_average(block: Block) -> Tensor:
    """Fisher-weighted average, element by element: `θ = Σ wᵢ(Fᵢ+ε)θᵢ / Σ wᵢ(Fᵢ+ε)` (arXiv 2111.09832, section 3).

    F is the diagonal of each model's Fisher information, saved as safetensors with the model's tensor names, next to a
    JSON file of the same name that says how it was estimated; files that were estimated in different ways are refused.
    A tensor that the Fisher file lacks counts as F=0. Where all F are 0, ε makes it the weighted average.
    """
    floor = block.settings.number("floor")
    total, below = None, None
    for model, information, weight in zip(block.models, block.fishers, block.settings.numbers("weight"), strict=True):
        scale = information.add(floor).mul_(weight)
        model.mul_(scale)
        total = model if total is None else total.add_(model)
        below = scale if below is None else below.add_(scale)
    assert total is not None
    assert below is not None
    return total.div_(below)


def _check(settings: Settings) -> str | None:
    weights = settings.numbers("weight")
    if min(weights) < 0 or sum(weights) == 0:
        return f"the weights {weights} must not be negative and must not all be zero: they are divided by"
    return None


FISHER = Rule(
    "fisher",
    fisher_average,
    (
        Parameter("fisher", None, "the model's Fisher: a .safetensors file, next to its .json", each=True,
                  required=True),
        WEIGHT,
        Parameter("floor", 1e-12, "ε, added to every F", above=0),
    ),
    of="weights",
    base="optional",
    least=2,
    fishers=True,
    check=_check,
)  # fmt: skip
