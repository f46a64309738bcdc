"""An optimizer's state by parameter name, so it can be carried to a new optimizer and a grown head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def export_state(optimizer: Any, model: nn.Module) -> dict[str, Tensor]:
    """`parameter name::key` → tensor, for every tensor of the optimizer's state; plain numbers become tensors."""
    inner = getattr(optimizer, "optimizer", optimizer)
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}::{key}": torch.as_tensor(value).detach().cpu().clone()
        for parameter, state in inner.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor | int | float)
    }


def import_state(optimizer: Any, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads exported state; rows that a parameter gained since start from zero, as all state does."""
    inner = getattr(optimizer, "optimizer", optimizer)
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, entry = key.rpartition("::")
        parameter = parameters.get(name)
        if parameter is None:
            continue
        fitted = value.clone()
        if value.ndim == parameter.ndim and value.ndim and value.shape != parameter.shape:
            fitted = value.new_zeros(parameter.shape)
            fitted[: len(value)] = value
        # Adam counts steps in a scalar tensor that stays on the CPU.
        inner.state[parameter][entry] = fitted if value.ndim == 0 else fitted.to(parameter.device)
