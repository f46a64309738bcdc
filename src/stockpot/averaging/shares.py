"""κ = 1−β for each weight: the share that it keeps of its way from the anchor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def kept_share(
    squares: Tensor, importance: Tensor | float, damping: float, strength: float, tasks: int, n: float = 1.0
) -> Tensor:
    """κ = (v + e) / (v + e + λ·(Ω + t·e)), for each weight.

    It minimises `(v + e)(x − θ)² + λ(Ω + t·e)(x − θ_o)²`: x = θ_o + κ(θ − θ_o). Where v = Ω = e = 0 it is 1/(1 + λt).

    Args:
        squares: n·v, of any shape: v is the mean squared gradient of this task, in (loss / weight)².
        importance: Ω of the t past tasks together, of the same shape, or one number for all weights.
        damping: e, in the unit of v; at least 0.
        strength: λ, at least 0.
        tasks: t.
        n: what `squares` is to be divided by.

    Returns:
        κ in [0, 1], a new tensor of the shape, type and device of `squares`.
    """
    share = squares + n * damping
    if isinstance(importance, Tensor):
        past = importance.to(share.device, share.dtype)
        total = torch.add(share, past, alpha=strength * n).add_(strength * n * tasks * damping)
    else:
        total = share + strength * n * (importance + tasks * damping)
    if damping > 0:
        return share.div_(total)
    return torch.where(total == 0, 1 / (1 + strength * tasks), share / total)


@dataclass(frozen=True)
class KeptShares:
    """What κ of one tensor is made of; the arguments of `kept_share`.

    Of a LoRA factor the tensors have one number for each row of ΔW, else the shape of what is averaged.
    """

    squares: Tensor
    n: float
    importance: Tensor | float
    damping: float
    strength: float
    tasks: int

    def of(self, squares: Tensor, importance: Tensor | float) -> Tensor:
        """κ of a piece of them."""
        return kept_share(squares, importance, self.damping, self.strength, self.tasks, self.n)

    @property
    def all(self) -> Tensor:
        """κ of all weights."""
        return self.of(self.squares, self.importance)
