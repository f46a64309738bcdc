"""The weights of a checkpoint inside a task: all of them, or only what training changes where some are frozen."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from stockpot.averaging.model_tensors import persistent_buffers
from stockpot.errors import StockpotError


def save_weights(model: nn.Module, file: Path) -> None:
    """Writes safetensors under the model's own names; without frozen parameters, which training leaves alone."""
    if all(parameter.requires_grad for parameter in model.parameters()):
        save_model(model, str(file))
    else:
        save_file({name: tensor.detach().contiguous() for name, tensor in _changing(model).items()}, str(file))


def load_weights(model: nn.Module, file: Path) -> None:
    """Loads what `save_weights` wrote. Raises StockpotError where it belongs to another model."""
    if all(parameter.requires_grad for parameter in model.parameters()):
        load_model(model, str(file))
        return
    saved, wanted = load_file(str(file)), _changing(model)
    if different := sorted(saved.keys() ^ wanted.keys()):
        raise StockpotError(f"{file}: '{different[0]}' is only in the checkpoint or only in the model.")
    for name, tensor in wanted.items():
        tensor.data.copy_(saved[name])


def _changing(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters, tied ones once, and persistent buffers, by name."""
    trained: dict[str, Tensor] = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    return trained | dict(persistent_buffers(model))
