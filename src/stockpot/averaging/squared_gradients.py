"""v: the mean squared gradient of each weight over the steps of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from stockpot.averaging.lora_factors import Factor
from stockpot.averaging.model_tensors import ModelTensor
from stockpot.averaging.optimizer_steps import wrapped
from stockpot.errors import StockpotError
from stockpot.weights.tensor_memory import local_shard


class MeanSquares(Protocol):
    """v of the task so far."""

    def observe(self, weights: Sequence[ModelTensor]) -> None:
        """Sees the gradients of one optimizer step."""

    def sums(self, weights: Sequence[ModelTensor]) -> dict[str, tuple[Tensor, float]]:
        """n·v and n by name: this process's shards, not to be written to; without weights that never had a gradient."""


class ObservedSquares:
    """v = Σ g² / n over the n steps observed: one more tensor of the model's size, in fp32 or better."""

    def __init__(self) -> None:
        self.steps = 0
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def observe(self, weights: Sequence[ModelTensor]) -> None:
        """Adds the squares of the gradients. Raises StockpotError where no weight has one."""
        into: list[Tensor] = []
        gradients: list[Tensor] = []
        for weight in weights:
            gradient = weight.tensor.grad
            if gradient is None:  # not used in this step: g = 0
                continue
            piece, total = local_shard(gradient), self._sum(weight)
            if weight.factor is not None:
                total.add_(row_squares(weight.factor, gradient))
            elif piece.is_sparse:
                piece = piece.coalesce()
                total.index_add_(0, piece.indices()[0], piece.values().to(total.dtype).square())
            elif piece.dtype == total.dtype:
                into.append(total)
                gradients.append(piece)
            else:
                total.addcmul_(piece.to(total.dtype), piece.to(total.dtype))
        if not any(weight.tensor.grad is not None for weight in weights):
            raise StockpotError(
                "beta='auto' found no gradients: call sfa.step() before optimizer.zero_grad(), or sfa.observe() after "
                "the backward pass, once for each optimizer step."
            )
        if into:
            torch._foreach_addcmul_(into, gradients, gradients)
        self.steps += 1

    def sums(self, weights: Sequence[ModelTensor]) -> dict[str, tuple[Tensor, float]]:
        """Σ g² and the number of steps, by name."""
        known = [weight.name for weight in weights if weight.name in self._sums]
        return {name: (self._sums[name], float(self.steps)) for name in known}

    def state(self) -> dict[str, Any]:
        """The sums (not copied) and the number of steps."""
        return {"squared_gradients": dict(self._sums), "observed": self.steps}

    def load_state(self, squares: Mapping[str, Tensor], steps: int) -> None:
        """Continues from saved sums, which are copied."""
        self._sums = {name: tensor.clone() for name, tensor in squares.items()}
        self.steps = steps

    def _sum(self, weight: ModelTensor) -> Tensor:
        piece = local_shard(weight.tensor.detach())
        total = self._sums.get(weight.name)
        if total is None:
            dtype = torch.promote_types(piece.dtype, torch.float32)
            if weight.factor is not None:
                total = piece.new_zeros(len(weight.factor.rows[0]), dtype=dtype)
            else:
                total = torch.zeros_like(piece, dtype=dtype, requires_grad=False)
        elif total.device != piece.device:
            total = total.to(piece.device)
        self._sums[weight.name] = total
        return total


class AdamSquares:
    """v read from Adam's second moment, `exp_avg_sq / (1−β₂^s)`: nothing is stored, and nothing done in a step.

    It remembers about 1/(1−β₂) steps, 1000 by default, so that in tasks much longer than that it is v at their end,
    where gradients have become small by amounts that differ between tasks.
    """

    def __init__(self, optimizer: Any) -> None:
        self._layers = [layer for layer in wrapped(optimizer) if getattr(layer, "state", None) is not None]

    def observe(self, weights: Sequence[ModelTensor]) -> None:
        """Nothing: the optimizer has seen the gradients."""

    @torch.no_grad()
    def sums(self, weights: Sequence[ModelTensor]) -> dict[str, tuple[Tensor, float]]:
        """`exp_avg_sq` and 1−β₂^s by name. Raises StockpotError where the optimizer has no such moments."""
        betas = {
            id(tensor): group.get("betas")
            for layer in self._layers
            for group in layer.param_groups
            for tensor in group["params"]
        }
        squares = {}
        for weight in weights:
            state = next((each for layer in self._layers if (each := layer.state.get(weight.tensor))), None)
            if state is None:
                continue  # it never had a gradient
            moment, chosen = state.get("exp_avg_sq"), betas.get(id(weight.tensor))
            if weight.factor is not None or chosen is None or getattr(moment, "shape", None) != weight.tensor.shape:
                raise _no_moments(weight.name)
            squares[weight.name] = local_shard(moment), 1 - float(chosen[1]) ** float(state["step"])
        if not squares:
            raise _no_moments(weights[0].name)
        return squares


def row_squares(factor: Factor, gradient: Tensor) -> Tensor:
    """v of the rows of a weight W that LoRA changes, from the gradient of the factor that starts at zero.

    Equation: `v_o = ‖∂L/∂B[o]‖² / (s²·‖A‖²)`. Since `∂L/∂B = s·∂L/∂W·Aᵀ`, and A is drawn with independent entries,
    its mean over A is the mean of `(∂L/∂W)²` over row o of W: the number that whole weights have, in the same unit. Of
    an embedding, whose A starts at zero, A and B change places, and a row is that of a token.
    """
    scale = factor.scaling**2 * float(factor.rows[1].double().square().sum())
    wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    squares = wide.movedim(1 if factor.embedding else 0, 0).flatten(1).square().sum(1)
    return squares / scale if scale else squares


def _no_moments(name: str) -> StockpotError:
    return StockpotError(
        f"'{name}': squares='adam' reads the second moments of torch's Adam or AdamW, which this optimizer does not "
        "have for it: say squares='observed'."
    )
