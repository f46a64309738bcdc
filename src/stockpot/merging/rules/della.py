"""DELLA: drop elements at random, small ones more often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.merging.rule import Block, Parameter, Rule, Settings
from stockpot.merging.rules.dare import DARE_DENSITY, RESCALE
from stockpot.merging.rules.linear import WEIGHT, normalised_to_nothing
from stockpot.merging.rules.random_masks import keep
from stockpot.merging.rules.task_arithmetic import LAMBDA, added, on_base
from stockpot.merging.rules.ties import elect

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = Parameter("epsilon", 0.15, "the probability runs from density−ε to density+ε", each=True, low=0, high=1)


def della(block: Block) -> Tensor:
    """DELLA: keep each element of τ with a probability that grows with its rank, then elect (arXiv 2406.11617).

    `pᵢⱼ = d − ε + 2ε·rankᵢⱼ/(n−1)` is the probability of keeping an element, `τ̂ = m∘τ/p`. The rank is counted from
    the smallest |τ| of the element's row, as in the paper and mergekit; a tensor of one dimension is one row, and in a
    row of one element p = d. Dividing by p is the paper's rescaling; mergekit's is that of its DARE.
    """
    return on_base(block, elect(_drop(block), block.settings.numbers("weight"), block.settings.switch("normalize")))


def della_linear(block: Block) -> Tensor:
    """DELLA's drop without the election: `θ = θ_base + λ Σ wᵢτ̂ᵢ` (arXiv 2406.11617)."""
    return on_base(block, added(block, _drop(block)))


def chances(vector: Tensor, density: float, epsilon: float) -> Tensor:
    """The probability of keeping each element of a matrix, by the rank of its magnitude in its row.

    Equal magnitudes are ranked in their order. Rounded to 1/65536, as masks are drawn.
    """
    import torch

    columns = vector.shape[1]
    if columns == 1:
        return torch.full_like(vector, density)
    order = vector.abs().argsort(dim=1, stable=True)
    ranks = torch.linspace(density - epsilon, density + epsilon, columns, dtype=torch.float64)
    ranks = ranks.mul_(65536).round_().clamp_(min=1).div_(65536).to(vector.dtype).expand_as(vector)
    return torch.empty_like(vector).scatter_(1, order, ranks)


def _drop(block: Block) -> list[Tensor]:
    settings, dropped = block.settings, []
    numbers = zip(settings.numbers("density"), settings.numbers("epsilon"), block.keys, strict=True)
    for vector, (density, epsilon, key) in zip(block.models, numbers, strict=True):
        if density < 1:
            chance = chances(vector.view(block.rows, block.columns), density, epsilon).view(-1)
            vector.mul_(keep(key, block.start, vector, chance))
            if settings.switch("rescale"):
                vector.div_(chance)
        dropped.append(vector)
    return dropped


def _inside(settings: Settings) -> str | None:
    for density, epsilon in zip(settings.numbers("density"), settings.numbers("epsilon"), strict=True):
        if density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
            return f"density {density} ± epsilon {epsilon} must lie between 0 and 1"
    return None


def _inside_linear(settings: Settings) -> str | None:
    return _inside(settings) or normalised_to_nothing(settings)


DELLA = Rule(
    "della",
    della,
    (WEIGHT, DARE_DENSITY, EPSILON, LAMBDA, RESCALE, Parameter("normalize", True, "average what agrees")),
    whole_rows=True,
    random=True,
    check=_inside,
)
DELLA_LINEAR = Rule(
    "della_linear",
    della_linear,
    (WEIGHT, DARE_DENSITY, EPSILON, LAMBDA, RESCALE, Parameter("normalize", False, "divide by the sum of the weights")),
    whole_rows=True,
    random=True,
    check=_inside_linear,
)
