"""What a classifier says about a batch, whichever kind of module it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn


def logits_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The logits (B, rows) of a Transformers classifier or of a plain module."""
    output = model(batch["pixel_values"])
    return output if isinstance(output, Tensor) else output.logits


def moved_to(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch on the model's device."""
    device = next(model.parameters()).device
    return {key: value.to(device) for key, value in batch.items()}


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards every module's own mode is restored, since some may be frozen in eval."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
