"""Tensors copied as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.merging.rule import Block, Parameter, Rule

if TYPE_CHECKING:
    from torch import Tensor


def passthrough(block: Block) -> Tensor:
    """One model's tensors, unchanged or times `scale`; with `slices` in a configuration, layers in a new order."""
    scale = block.settings.each[0]["scale"]
    return block.models[0] if scale is None else block.models[0].mul_(float(scale))


PASSTHROUGH = Rule(
    "passthrough",
    passthrough,
    (Parameter("scale", None, "a factor; none: a bit-for-bit copy", each=True),),
    of="weights",
    base="optional",
    most=1,
)
