"""A model's own tensor names against those in its saved files, which Transformers 5 keeps in the older form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def saved_names(model: nn.Module) -> dict[str, str] | None:
    """Name in the model → name in the files that `save_pretrained` writes; None where tensors are fused or split.

    Models that are saved under their own names give the identity.
    """
    own = {name: name for name in model.state_dict()}
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers 4 saves the names that the model has
        return own
    if not hasattr(model, "save_pretrained"):
        return own
    tensors = {name: torch.empty(tensor.shape, device="meta") for name, tensor in model.state_dict().items()}
    state: Any = model
    try:
        reverted = revert_weight_conversion(state, dict(tensors))
    except (RuntimeError, NotImplementedError):
        return None
    by_identity = {id(tensor): name for name, tensor in reverted.items()}
    if any(id(tensor) not in by_identity for tensor in tensors.values()):
        return None
    return {name: by_identity[id(tensor)] for name, tensor in tensors.items()}


class Renamed(Mapping[str, Tensor]):
    """An opened checkpoint under the model's own names; tensors that the checkpoint lacks are absent."""

    def __init__(self, checkpoint: Mapping[str, Tensor], names: dict[str, str]) -> None:
        self._checkpoint = checkpoint
        known = set(checkpoint)
        self._names = {own: saved for own, saved in names.items() if saved in known}

    def __getitem__(self, name: str) -> Tensor:
        return self._checkpoint[self._names[name]]

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
