"""MagMax: of all changes to an element, the largest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.merging.rule import Block, Rule
from stockpot.merging.rules.task_arithmetic import LAMBDA, on_base

if TYPE_CHECKING:
    from torch import Tensor


def magmax(block: Block) -> Tensor:
    """MagMax: each element's largest change, `θ = θ_base + λ τ_{argmaxᵢ |τᵢ|}` (arXiv 2407.06322, section 4).

    If the largest are equal and opposite, the positive one is taken, so that the order of the models does not matter.
    """
    import torch

    high, low = block.models[0], block.models[0].clone()
    for model in block.models[1:]:
        torch.maximum(high, model, out=high)
        torch.minimum(low, model, out=low)
    return on_base(block, torch.where(high < -low, low, high))


MAGMAX = Rule("magmax", magmax, (LAMBDA,))
