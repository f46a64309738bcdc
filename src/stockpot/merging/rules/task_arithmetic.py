"""Task arithmetic: task vectors added to the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stockpot.merging.rule import Block, Parameter, Rule
from stockpot.merging.rules.linear import WEIGHT, normalised_to_nothing

if TYPE_CHECKING:
    from torch import Tensor

LAMBDA = Parameter("lambda", 1.0, "λ, the scale of the merged task vector")


def task_arithmetic(block: Block) -> Tensor:
    """Task vectors added to the base: `θ = θ_base + λ Σ wᵢτᵢ`, `τᵢ = θᵢ − θ_base` (arXiv 2212.04089, section 2).

    A negative weight removes what a model has learnt. λ=0 is the base, bit for bit. λ is best chosen on held-out
    data; 0.3 to 0.5 is common for the sum of several. Agrees with mergekit's task_arithmetic.
    """
    return on_base(block, added(block, block.models))


def added(block: Block, vectors: Sequence[Tensor], factors: Sequence[float] | None = None) -> Tensor:
    """`Σ wᵢvᵢ`, with factors `Σ wᵢfᵢvᵢ`; with `normalize` divided by Σ wᵢ. Overwrites the first vector."""
    weights = block.settings.numbers("weight")
    scales = weights if factors is None else [w * f for w, f in zip(weights, factors, strict=True)]
    total = vectors[0].mul_(scales[0])
    for vector, scale in zip(vectors[1:], scales[1:], strict=True):
        total.add_(vector, alpha=scale)
    return total.div_(sum(weights)) if block.settings.switch("normalize") else total


def on_base(block: Block, vector: Tensor) -> Tensor:
    """`θ_base + λ·vector`; with λ=0 the base itself, since −0.0 + 0.0 is not −0.0."""
    scale = block.settings.number("lambda")
    if scale == 0:
        return block.origin
    return (vector if scale == 1 else vector.mul_(scale)).add_(block.origin)


TASK_ARITHMETIC = Rule(
    "task_arithmetic",
    task_arithmetic,
    (WEIGHT, LAMBDA, Parameter("normalize", False, "divide by the sum of the weights")),
    check=normalised_to_nothing,
)
