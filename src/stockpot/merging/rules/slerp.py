"""Interpolation on a sphere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stockpot.merging.rule import Block, Gram, Parameter, Rule, Value
from stockpot.merging.rules.linear import WEIGHT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def slerp(block: Block) -> Tensor:
    """Spherical interpolation of two models, tensor by tensor: `sin((1−t)ω)/sin ω · θ₁ + sin(tω)/sin ω · θ₂`.

    ω is the angle between the two flattened tensors, from norms and products summed in fp64. If |cos ω| > 0.9995 or a
    norm is zero, it is the straight line `(1−t)θ₁ + tθ₂`, as in mergekit, which sums in fp32 (Shoemake, SIGGRAPH 1985).
    """
    assert block.gram is not None
    t = block.settings.number("t")
    first, second = block.models
    cosine = _cosine(*(float(block.gram[i, j]) for i, j in ((0, 0), (1, 1), (0, 1))))
    if abs(cosine) > 0.9995:
        return first.mul_(1 - t).add_(second, alpha=t)
    omega = math.acos(cosine)
    return first.mul_(math.sin((1 - t) * omega) / math.sin(omega)).add_(
        second, alpha=math.sin(t * omega) / math.sin(omega)
    )


def nuslerp(block: Block) -> Tensor:
    """Spherical interpolation with a weight for each model, `t = w₂/(w₁+w₂)`; with a base, of the task vectors.

    With `flatten=true` a tensor is one vector; otherwise each row is, or with `row_wise=true` each column, as in
    mergekit's nuslerp_row_wise. The straight line is used only if the two are parallel to within 1e-8. If the weights
    sum to zero, t = ½. Agrees with mergekit's nuslerp, whose norms are in fp32.
    """
    assert block.gram is not None
    weights = block.settings.numbers("weight")
    total = sum(weights)
    t = 0.5 if abs(total) < 1e-6 else weights[1] / total
    gram = block.gram
    norms = (gram[0, 0].sqrt().clamp(min=1e-7), gram[1, 1].sqrt().clamp(min=1e-7))
    cosine = (gram[0, 1] / norms[0] / norms[1]).clamp(-1, 1)
    line = 1 - cosine.square() <= 1e-16
    omega = cosine.masked_fill(line, 0).acos()
    parts = []
    for model, share in zip(block.models, (1 - t, t), strict=True):
        scale = ((share * omega).sin() / omega.sin()).masked_fill(line, share).to(model.dtype)
        if scale.dim() == 0:
            parts.append(model.mul_(float(scale)))
            continue
        # One angle for each row of the piece, or for each column.
        folded = model.view(block.rows, block.columns)
        folded.mul_(scale[:, None] if gram_of(block.settings.shared) == "rows" else scale)
        parts.append(model)
    merged = parts[0].add_(parts[1])
    return merged if block.base is None else merged.add_(block.base)


def gram_of(shared: Mapping[str, Value]) -> Gram:
    """What nuslerp's inner products run over."""
    return "tensor" if shared["flatten"] else "columns" if shared["row_wise"] else "rows"


def _cosine(first: float, second: float, product: float) -> float:
    norms = [math.sqrt(square) if square > 1e-16 else 1.0 for square in (first, second)]
    return max(-1.0, min(1.0, product / norms[0] / norms[1]))


SLERP = Rule(
    "slerp",
    slerp,
    (Parameter("t", 0.5, "0 is the first model, 1 the second", low=0, high=1, required=False),),
    of="weights",
    base="optional",
    least=2,
    most=2,
    gram=lambda shared: "tensor",
)
NUSLERP = Rule(
    "nuslerp",
    nuslerp,
    (
        WEIGHT,
        Parameter("flatten", True, "each tensor is one vector"),
        Parameter("row_wise", False, "without flatten: vectors run along the first dimension"),
    ),
    base="optional",
    least=2,
    most=2,
    gram=gram_of,
)
