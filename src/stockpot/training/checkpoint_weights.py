"""A checkpoint's weights inside a task: all of them, or, where most are frozen, what training changes."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from stockpot.averaging.model_tensors import persistent_buffers
from stockpot.errors import StockpotError


def save_weights(model: nn.Module, file: Path) -> None:
    """Writes safetensors under the model's own names; frozen parameters are those of the task's start, and left out."""
    if all(parameter.requires_grad for parameter in model.parameters()):
        save_model(model, str(file))
    else:
        save_file({name: tensor.detach().contiguous() for name, tensor in _changing(model).items()}, str(file))


def load_weights(model: nn.Module, file: Path) -> None:
    """Puts back what `save_weights` wrote. Raises StockpotError where it is of another model."""
    if all(parameter.requires_grad for parameter in model.parameters()):
        load_model(model, str(file))
        return
    held, wanted = load_file(str(file)), _changing(model)
    if different := sorted(held.keys() ^ wanted.keys()):
        raise StockpotError(f"{file}: '{different[0]}' is in the checkpoint or in the model, not in both.")
    for name, tensor in wanted.items():
        tensor.data.copy_(held[name])


def _changing(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters, tied ones once, and persistent buffers, by name."""
    trained: dict[str, Tensor] = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    return trained | dict(persistent_buffers(model))
