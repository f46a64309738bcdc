"""TIES: trim, elect a sign, average what agrees. DARE, DELLA and Breadcrumbs use the election too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stockpot.merging.rule import Block, Cut, Parameter, Rule, Value
from stockpot.merging.rules.linear import WEIGHT
from stockpot.merging.rules.task_arithmetic import LAMBDA, on_base

if TYPE_CHECKING:
    from torch import Tensor

TIES_DENSITY = Parameter("density", 0.2, "share of the elements that is kept", each=True, above=0, high=1, mergekit=1.0)
AVERAGE_AGREEING = Parameter("normalize", True, "average what agrees; otherwise sum it")


def ties(block: Block) -> Tensor:
    """TIES: trim each τ to its largest elements, elect a sign, average those that have it (arXiv 2306.01708).

    `τ̂ᵢ = top(τᵢ, density)`, `s = sign(Σ wᵢτ̂ᵢ)`, `θ = θ_base + λ · Σ_{sign τ̂ᵢ = s} wᵢτ̂ᵢ / Σ_{sign τ̂ᵢ = s} wᵢ`.
    Exactly max(1, ⌊density·n⌋) of n elements are kept; n counts the whole model (`trim: model`, the paper) or each
    tensor (`trim: tensor`, mergekit and PEFT). The vote is weighted, as in mergekit. After a tied vote the element is
    the base's (mergekit takes the positive sign, the paper's code the tensor's majority sign). Zeros do not vote.
    """
    vectors = [
        trim(model, cuts["top"], block.start) if cuts else model
        for model, cuts in zip(block.models, block.cuts, strict=True)
    ]
    return on_base(block, elect(vectors, block.settings.numbers("weight"), block.settings.switch("normalize")))


def top(parameters: Mapping[str, Value], count: int) -> dict[str, int]:
    """How many of `count` elements are kept, by the cut's name; no cut at density 1."""
    density = parameters["density"]
    assert isinstance(density, int | float)
    return {} if density >= 1 else {"top": kept_count(density, count)}


def kept_count(density: float, count: int) -> int:
    """⌊density·count⌋, at least one."""
    return min(count, max(1, int(density * count)))


def trim(vector: Tensor, cut: Cut, start: int) -> Tensor:
    """The vector with zeros where the cut drops elements; `start` is the index of its first element."""
    before = min(max(cut.position - start, 0), vector.numel())
    if cut.value == 0:  # every nonzero element is kept
        return vector
    # hardshrink keeps |x| > λ, in one pass; with λ just below the value it also keeps those equal to it.
    if before == 0:
        return vector.hardshrink(cut.value)
    below = _below(cut.value, vector)
    if before == vector.numel():
        return vector.hardshrink(below)
    vector[:before] = vector[:before].hardshrink(below)
    vector[before:] = vector[before:].hardshrink(cut.value)
    return vector


def _below(value: float, like: Tensor) -> float:
    import torch

    point = torch.tensor(value, dtype=like.dtype)
    return float(torch.nextafter(point, torch.zeros_like(point)))


def elect(
    vectors: Sequence[Tensor], weights: Sequence[float], normalize: bool, factors: Sequence[float] | None = None
) -> Tensor:
    """`Σ_{sign wᵢτᵢ = s} wᵢτᵢ / Σ_{sign wᵢτᵢ = s} wᵢ` with `s = sign(Σ wᵢτᵢ)`; 0 where s is 0.

    With `factors`, wᵢτᵢ is replaced by wᵢfᵢτᵢ; the divisor remains the sum of the wᵢ that agree. Without `normalize`
    nothing is divided. NaN in a vector stays NaN.
    """
    scales = list(weights) if factors is None else [w * f for w, f in zip(weights, factors, strict=True)]
    if min(scales) == max(scales) > 0:  # equal scales are applied once, at the end
        after = scales[0] / weights[0] if normalize else scales[0]
        votes = [1.0] * len(weights)
        scaled = list(vectors)
    else:
        after, votes = 1.0, list(weights)
        scaled = [vector.mul_(scale) for vector, scale in zip(vectors, scales, strict=True)]
    sign = scaled[0] + scaled[1] if len(scaled) > 1 else scaled[0].clone()
    for vector in scaled[2:]:
        sign.add_(vector)
    sign.sign_()
    # Multiplied by the elected sign, what agrees is positive. `where` with a mask would take thirty times as long.
    along = [vector.mul_(sign).clamp_(min=0) for vector in scaled]
    share = _agreeing(along, votes) if normalize else None
    total, *rest = along
    for vector in rest:
        total.add_(vector)
    if share is not None:
        total.div_(share)
    return total.mul_(sign) if after == 1 else total.mul_(sign).mul_(after)


def _agreeing(along: Sequence[Tensor], votes: Sequence[float]) -> Tensor:
    """The sum of the votes of the positive elements, as a divisor: not 0 where none is positive."""
    import torch

    first = torch.empty_like(along[0])
    torch.gt(along[0], 0, out=first)
    share = first if votes[0] == 1 else first.mul_(votes[0])
    agrees = torch.empty_like(share)
    for vector, vote in zip(along[1:], votes[1:], strict=True):
        share.add_(torch.gt(vector, 0, out=agrees), alpha=vote)
    smallest = min(votes)
    return share.clamp_(min=smallest / 2) if smallest > 0 else share.masked_fill_(share == 0, 1)


TIES = Rule("ties", ties, (WEIGHT, TIES_DENSITY, LAMBDA, AVERAGE_AGREEING), cuts=top)
