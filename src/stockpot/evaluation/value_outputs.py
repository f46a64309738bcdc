"""What a model gives for examples that have several labels, or numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from stockpot.batches.examples import Examples
from stockpot.batches.outputs import evaluation_mode, logits_of, moved_to


@dataclass(frozen=True)
class Outputs:
    """Labels (N, rows), NaN where none is known, and the model's outputs, NaN in rows that the model lacks so far."""

    labels: NDArray[np.float64]
    values: NDArray[np.float64]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Where there is a label."""
        known: NDArray[np.bool_] = ~np.isnan(self.labels)
        return known

    @property
    def complete(self) -> bool:
        """Whether the model has an output wherever there is a label."""
        return not bool(np.isnan(self.values[self.known]).any())

    def columns(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Labels and outputs of each row that has a label, without the examples that lack it."""
        for labels, values, known in zip(self.labels.T, self.values.T, self.known.T, strict=True):
            if known.any():
                yield labels[known], values[known]

    def mean_of(self, score: Callable[[NDArray[np.float64], NDArray[np.float64]], float]) -> float | None:
        """The mean over rows of `score(labels, outputs)`; None where the model lacks a row that has labels."""
        if not self.complete:
            return None
        return float(np.mean([score(labels, values) for labels, values in self.columns()]))


@torch.no_grad()
def model_outputs(model: nn.Module, examples: Examples, batch_size: int) -> Outputs:
    """The outputs of all examples, in eval mode. Every module's mode is restored."""
    rows = examples.labels.shape[1]
    outputs = []
    with evaluation_mode(model):
        for start in range(0, len(examples), batch_size):
            batch = moved_to(model, examples.__getitems__(range(start, min(start + batch_size, len(examples)))))
            logits = logits_of(model, batch)[:, :rows].float().cpu()
            outputs.append(functional.pad(logits, (0, rows - logits.shape[1]), value=torch.nan))
    return Outputs(_numbers(examples.labels), _numbers(torch.cat(outputs)))


def _numbers(tensor: torch.Tensor) -> NDArray[Any]:
    return tensor.cpu().numpy().astype(np.float64)
