"""κ = 1−β for each weight: the share that it keeps of its way from the anchor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def kept_share(
    squares: Tensor,
    importance: Tensor | float,
    damping: float,
    strength: float,
    tasks: int,
    n: float = 1.0,
    scratch: tuple[Tensor, Tensor] | None = None,
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
        scratch: two tensors like `squares` to compute in: memory that is there already is much faster than new.

    Returns:
        κ in [0, 1], of the shape, type and device of `squares`: the first of `scratch`, or a new tensor.
    """
    share, total = (torch.empty_like(squares), torch.empty_like(squares)) if scratch is None else scratch
    torch.add(squares, n * damping, out=share)
    if isinstance(importance, Tensor):
        past = importance.to(share.device, share.dtype)
        torch.add(share, past, alpha=strength * n, out=total).add_(strength * n * tasks * damping)
    else:
        torch.add(share, strength * n * (importance + tasks * damping), out=total)
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

    def of(self, squares: Tensor, importance: Tensor | float, scratch: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """κ of a piece of them."""
        return kept_share(squares, importance, self.damping, self.strength, self.tasks, self.n, scratch)

    @property
    def all(self) -> Tensor:
        """κ of all weights."""
        return self.of(self.squares, self.importance)
