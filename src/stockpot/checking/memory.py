"""The memory that training takes, estimated from the model, the optimizer and the method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from stockpot.checking.outcome import MemoryCheck
from stockpot.checking.planned_data import PlannedData
from stockpot.recipe.schema import Recipe
from stockpot.training.job import training_arguments

# Tensors of the trained weights' size that an optimizer keeps; Adam and its kin, and those not listed, keep two.
_MOMENTS = (("sgd", 0.0), ("adafactor", 0.0), ("adagrad", 1.0), ("rmsprop", 1.0), ("lion", 1.0), ("lomo", 0.0))
_EIGHT_BIT = ("8bit", "8_bit", "bnb")  # in an optimizer's name: a byte for each number of a moment


def memory_check(resolved: Recipe, planned: PlannedData, model: nn.Module) -> MemoryCheck:
    """The estimate for the last task, in which methods hold most. The model has its adapter, where it gets one."""
    args = training_arguments(resolved.train, Path("runs"), resolved.seeds[0])
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients, numbers = sum(tensor.nbytes for tensor in trained), sum(tensor.numel() for tensor in trained)
    device = args.device
    return MemoryCheck(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained=numbers,
        weights=sum(tensor.nbytes for tensor in weights.values()),
        gradients=gradients,
        optimizer=_optimizer(str(getattr(args.optim, "value", args.optim)), gradients, numbers, trained),
        method=_method(planned, sum(tensor.nbytes for tensor in model.parameters())),
        available=torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available,
    )


def _optimizer(name: str, size: int, numbers: int, trained: list[Any]) -> int:
    if name.startswith("adafactor"):  # a row and a column for each matrix
        return sum(4 * (sum(tensor.shape) if tensor.dim() > 1 else tensor.numel()) for tensor in trained)
    moments = next((moments for start, moments in _MOMENTS if start in name), 2.0)
    return int(moments * (numbers if any(mark in name for mark in _EIGHT_BIT) else size))


def _method(planned: PlannedData, weights: int) -> int:
    """Copies of the weights, and examples of past tasks."""
    last = len(planned.stream.tasks) - 1
    return planned.method.held_copies(last + 1) * weights + planned.past_bytes(last)
