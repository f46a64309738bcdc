"""Detects an average that the next optimizer step undoes, because the optimizer also keeps the weights elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from stockpot.averaging.match import TensorPair
from stockpot.errors import StockpotError
from stockpot.weights.tensor_memory import local_shard

_TENSORS, _ELEMENTS = 16, 16  # sampled


class LostAverage:
    """Samples a few weights around the first average that pulls them further than a step moves them.

    It judges the samples that the average pulled at least four times as far as the step before had moved them. The
    average was lost if there are at least eight and the next step returns nine tenths of them to within a tenth of that
    pull, or if nothing else moves at all (a learning rate of 0). What torch's own optimizers write to the tensors that
    they were given is never a loss, wherever it leads.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[str, Tensor, Tensor]] = []  # name, weight, positions
        self._last: list[Tensor] = []  # values when last remembered
        self._earlier: list[Tensor] = []  # those before the step that the last average followed
        self._before: list[Tensor] = []
        self._after: list[Tensor] = []
        self._settled = False

    def choose(self, pairs: Sequence[TensorPair]) -> None:
        """Chooses what to sample; called again for weights that were replaced or loaded."""
        weights = [pair for pair in pairs if not pair.is_buffer and pair.beta > 0 and pair.views[0].numel()]
        chosen = weights[:: -(-len(weights) // _TENSORS) or 1]
        self._samples = [(pair.name, pair.tensor, _spread(pair.views[0].numel(), pair.tensor)) for pair in chosen]
        self._last, self._earlier, self._before, self._after = [], [], [], []

    def remember(self) -> None:
        """Called at the end of the step before an average is due: remembers the weights."""
        if not self._settled:
            self._last = self._values()

    def before_average(self, pairs: Sequence[TensorPair]) -> None:
        """Called right before an average."""
        if not (self._settled or self._after):  # an average that was not judged yet comes first
            here = {id(pair.tensor) for pair in pairs}
            if not all(id(weight) in here for _, weight, _ in self._samples):
                self.choose(pairs)
            self._earlier, self._before = self._last, self._values()

    def after_average(self) -> None:
        """Called right after an average."""
        if self._before and not self._after:
            self._after = self._values()

    def stepped(self, optimizer: Optimizer) -> None:
        """Called in torch's hook, before anything else can write to the weights."""
        if self._after and type(optimizer).__module__.startswith("torch.optim."):
            updated = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
            for index, (_, weight, positions) in enumerate(self._samples):
                if id(weight) in updated:
                    self._after[index] = _values_of(weight, positions)

    def check(self) -> None:
        """Called after a step, before anything is averaged again. Raises StockpotError for a lost average."""
        looks = self._earlier, self._before, self._after
        self._before, self._after = [], []
        if not all(looks):
            return
        earlier, before, after, now = map(_joined, (*looks, self._values()))
        pull = before - after
        judged = (pull != 0) & (pull.abs() >= 4 * (before - earlier).abs())
        back = judged & ((now - before).abs() <= 0.1 * pull.abs())
        self._settled = int(judged.sum()) >= 8
        still = bool(judged.any()) and torch.equal(now, before) and torch.equal(earlier, before)
        if still or (self._settled and int(back.sum()) >= 0.9 * int(judged.sum())):
            raise StockpotError(
                f"'{self._name_at(int(back.int().argmax()))}': the optimizer step after an average restored the "
                "weights from before it, from copies kept elsewhere (fp32 masters of DeepSpeed or apex, for example): "
                "train fp32 weights with a plain optimizer, under bf16 autocast."
            )

    def _values(self) -> list[Tensor]:
        return [_values_of(weight, positions) for _, weight, positions in self._samples]

    def _name_at(self, position: int) -> str:
        for name, _, positions in self._samples:
            if position < len(positions):
                return name
            position -= len(positions)
        raise AssertionError


def _spread(count: int, weight: Tensor) -> Tensor:
    """Positions spread evenly over the first `count` elements."""
    many = min(count, _ELEMENTS)
    return torch.arange(many, device=weight.device) * count // max(1, many)


def _values_of(weight: Tensor, positions: Tensor) -> Tensor:
    piece = local_shard(weight.detach())
    return piece.take(positions.to(piece.device))


def _joined(values: list[Tensor]) -> Tensor:
    return torch.cat([value.cpu().double() for value in values])
