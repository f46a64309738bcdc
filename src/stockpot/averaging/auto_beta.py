"""β without a sweep: one for each weight, from its mean squared gradients in this task and in those before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stockpot.averaging.match import TensorPair
from stockpot.averaging.model_tensors import ModelTensor
from stockpot.averaging.over_processes import total_over_processes
from stockpot.averaging.past_importance import PastImportance, past_importance, with_rows
from stockpot.averaging.settings import SFASettings
from stockpot.averaging.shares import KeptShares
from stockpot.averaging.squared_gradients import AdamSquares, MeanSquares, ObservedSquares
from stockpot.averaging.whole_tensors import piece_like, whole
from stockpot.errors import StockpotError, did_you_mean

DAMPING = 0.1  # ε


class AutoBeta:
    """What `beta="auto"` adds to SFA: it sees each step's gradients, and gives each weight its β at an average.

    Equation, for each weight i, with t past tasks:
    `v_i = mean over the task's steps so far of g_i²`, `e = ε/2·(mean v + mean Ω/t)`,
    `β_i = 1 − (v_i + e)/(v_i + e + λ(Ω_i + t·e))`, and at the task's end `Ω_i ← Ω_i + v_i`.

    The means in e are over the weights that are averaged. A tensor that Ω lacks although the anchor has it (it was
    frozen) counts as the mean of Ω; rows that Ω lacks (they were new) count 0.

    Raises:
        StockpotError: for an importance that cannot be read, and for squares="adam" without an optimizer.
    """

    def __init__(self, settings: SFASettings, optimizer: object | None) -> None:
        self.past = past_importance(settings.importance)
        self.strength = settings.strength
        if settings.squares == "adam" and optimizer is None:
            raise StockpotError("squares='adam' needs optimizer=…, whose second moments are to be read.")
        self.squares: MeanSquares = AdamSquares(optimizer) if settings.squares == "adam" else ObservedSquares()
        self._seen = False  # the gradients of the step to come
        self._past_sums: dict[tuple[str, torch.Size], float] = {}  # of this process's Ω, which a task does not change

    @property
    def beta(self) -> float:
        """λt/(1 + λt): β where all importances are equal; that of buffers, which have no gradients."""
        return self.strength * self.past.tasks / (1 + self.strength * self.past.tasks)

    def observe(self, weights: Sequence[ModelTensor]) -> None:
        """Sees the gradients of one optimizer step. Raises StockpotError if it is called twice before the step."""
        if self._seen:
            raise StockpotError(
                "sfa.observe() was called twice before one sfa.step(): call it once for each optimizer step, when the "
                "gradients are complete."
            )
        self.squares.observe(weights)
        self._seen = True

    def stepped(self, weights: Sequence[ModelTensor]) -> None:
        """The optimizer has made a step: sees its gradients, unless `observe` has."""
        if not self._seen:
            self.squares.observe(weights)
        self._seen = False

    def weighed(self, pairs: Sequence[TensorPair], weights: Sequence[ModelTensor]) -> list[TensorPair]:
        """The pairs, those whose β is "auto" with the shares that each weight keeps of its way from the anchor.

        Raises StockpotError if gradients were not finite, or if Ω belongs to another model.
        """
        automatic = [pair for pair in pairs if pair.auto and pair.beta > 0]
        if not automatic:
            return list(pairs)
        sums, past = self.squares.sums(weights), self._fitted(weights)
        local = {pair.name: _local(pair, sums.get(pair.name), past.get(pair.name)) for pair in automatic}
        mean_v, mean_past, unknown = self._means(automatic, local)
        tasks = self.past.tasks
        damping = DAMPING * (mean_v + mean_past / tasks) / 2
        shares = {
            name: KeptShares(squares, n, unknown if importance is None else importance, damping, self.strength, tasks)
            for name, (squares, n, importance) in local.items()
        }
        return [replace(pair, shares=shares.get(pair.name)) for pair in pairs]

    def importance(self, weights: Sequence[ModelTensor], pairs: Sequence[TensorPair]) -> PastImportance:
        """Ω + v, whole tensors: what the next task is weighed with. Where weights are sharded all processes call it."""
        sums, past = self.squares.sums(weights), self._fitted(weights)
        if not sums:
            raise StockpotError("no step was observed, so there is no importance to save.")
        automatic = [pair for pair in pairs if pair.auto] if self.past.tasks else []
        local = {pair.name: _local(pair, sums.get(pair.name), past.get(pair.name)) for pair in automatic}
        unknown = self._means(automatic, local)[2]
        anchored = {pair.name: pair for pair in automatic}
        names = {name for weight in weights for name in weight.names}
        tensors = {name: tensor for name, tensor in self.past.tensors.items() if name not in names}  # frozen today
        for weight in weights:
            total, n = sums.get(weight.name, (None, 1.0))
            pair = anchored.get(weight.name)
            old = past.get(weight.name)
            if total is None and old is None and pair is None:
                continue
            if total is None:  # never had a gradient: v = 0
                wide = torch.promote_types(weight.tensor.dtype, torch.float32)
                fresh = torch.zeros(_shape(weight), dtype=wide, device=weight.tensor.device)
            else:
                fresh = whole(total, weight.tensor) / n
            if old is not None:
                fresh = fresh + old.to(fresh)
            elif pair is not None:
                fresh[slice(pair.rows) if weight.factor is None else slice(None)] += unknown
            tensors[weight.name] = fresh
        return PastImportance(tensors, self.past.tasks + 1)

    def state(self) -> dict[str, Any]:
        """What a resumed task needs beside the settings."""
        return self.squares.state() if isinstance(self.squares, ObservedSquares) else {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues from `state`."""
        if isinstance(self.squares, ObservedSquares):
            if "squared_gradients" not in state:
                raise StockpotError("the saved state has no squared gradients: it was not saved with beta='auto'.")
            self.squares.load_state(state["squared_gradients"], int(state["observed"]))

    def _means(
        self, automatic: Sequence[TensorPair], local: Mapping[str, tuple[Tensor, float, Tensor | None]]
    ) -> tuple[float, float, float]:
        """The mean of v, that of Ω, and what stands for Ω where it is unknown: the mean where it is known, or v's."""

        def sums(pair: TensorPair) -> tuple[float, ...]:
            squares, n, importance = local[pair.name]
            many = _weights_for_each(pair)
            v, count = float(squares.sum()) / n * many, squares.numel() * many
            if importance is None:
                return v, count, 0.0, 0.0
            return v, count, self._past_sum(pair.name, importance) * many, count

        if not automatic:
            return 0.0, 0.0, 0.0
        v, count, past, counted = total_over_processes((pair.tensor, sums(pair)) for pair in automatic)
        if not math.isfinite(v):
            raise StockpotError(
                "gradients were not finite in a step that counted: with a gradient scaler pass optimizer=… to SFA and "
                "call sfa.step() after scaler.step(optimizer), so that skipped steps are left out."
            )
        mean_v = v / count if count else 0.0
        unknown = past / counted if counted else mean_v
        return mean_v, (past + unknown * (count - counted)) / count if count else 0.0, unknown

    def _past_sum(self, name: str, importance: Tensor) -> float:
        key = name, importance.shape
        if key not in self._past_sums:
            self._past_sums[key] = float(importance.sum())
        return self._past_sums[key]

    def _fitted(self, weights: Sequence[ModelTensor]) -> dict[str, Tensor]:
        """Ω of the weights that it holds, whole, with as many rows as the weights have."""
        fitted: dict[str, Tensor] = {}
        for weight in weights:
            stored = next((name for name in weight.names if name in self.past.tensors), None)
            if stored is None:
                continue
            importance = self.past.tensors[stored]
            shape, wanted = tuple(importance.shape), _shape(weight)
            if shape[1:] != wanted[1:] or len(shape) != len(wanted):
                raise StockpotError(
                    f"the importance belongs to another model: '{stored}' has shape {shape} there, {wanted} here."
                )
            fitted[weight.name] = with_rows(importance, wanted[0]) if wanted else importance
        if self.past.tensors and not fitted:
            name = weights[0].name
            raise StockpotError(
                f"the importance belongs to another model: it does not hold '{name}' or any other weight that is "
                f"trained here.{did_you_mean(name, sorted(self.past.tensors))}"
            )
        return fitted


def _shape(weight: ModelTensor) -> tuple[int, ...]:
    return tuple(weight.tensor.shape) if weight.factor is None else (len(weight.factor.rows[0]),)


def _local(
    pair: TensorPair, sums: tuple[Tensor, float] | None, past: Tensor | None
) -> tuple[Tensor, float, Tensor | None]:
    """n·v, n and Ω of what the pair averages: this process's shard, the rows that the anchor has."""
    tensor = pair.views[0]
    shape = tensor.shape if pair.factor is None else torch.Size([len(pair.factor.rows[0])])
    if sums is None:  # never had a gradient
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        sums = tensor.new_zeros((), dtype=dtype).expand(shape), 1.0
    squares, n = sums
    importance = None if past is None else piece_like(past, pair.tensor) if pair.factor is None else past
    if pair.rows is not None:
        squares = squares[: pair.rows]
        importance = None if importance is None else importance[: pair.rows]
    return squares, n, importance


def _weights_for_each(pair: TensorPair) -> int:
    """How many weights a number of v stands for: the row of ΔW under LoRA, else itself."""
    if pair.factor is None:
        return 1
    return int(pair.factor.layer.get_base_layer().weight.numel()) // len(pair.factor.rows[0])
