"""A model's own tensor names and those in its saved files, which Transformers 5 writes in the older form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stockpot.weights.checkpoint import Checkpoint
from stockpot.weights.tensor_names import clean_name


def plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's state dict; of a PEFT model that of the plain model, without the adapters' tensors."""
    state = model.state_dict()
    if not hasattr(model, "peft_config"):
        return state
    plain = {}
    for name, tensor in state.items():
        parts = name.removeprefix("base_model.model.").split(".")
        if "modules_to_save" in parts or any(part.startswith("lora_") for part in parts):
            continue
        plain[".".join(part for part in parts if part not in ("base_layer", "original_module"))] = tensor
    return plain


def plain_name(name: str) -> str:
    """The plain model's name for a tensor that a PEFT model trains; a LoRA factor has that of the weight it changes."""
    parts = name.removeprefix("base_model.model.").split(".")
    for place, part in enumerate(parts):
        if part == "modules_to_save" or part.startswith("lora_"):
            parts = [*parts[:place], *(parts[place + 2 :] or ["weight"])]  # without the adapter's name
            break
    return ".".join(part for part in parts if part != "base_layer")


def saved_names(model: nn.Module) -> dict[str, str] | None:
    """Name in the model → name in the files that `save_pretrained` writes; None if tensors are fused or split.

    It is the identity for models that are saved under their own names.
    """
    plain = plain_tensors(model)
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers 4 saves the names that the model has
        return {name: name for name in plain}
    tensors = {name: torch.empty(tensor.shape, device="meta") for name, tensor in plain.items()}
    base: Any = _base(model)
    try:
        reverted = revert_weight_conversion(base, dict(tensors))
    except RuntimeError:  # an operation that meta tensors do not support
        return None
    # A tensor that is only renamed comes back as the same object; one that is fused or split does not.
    by_identity = {id(tensor): name for name, tensor in reverted.items()}
    if any(id(tensor) not in by_identity for tensor in tensors.values()):
        return None
    return {name: by_identity[id(tensor)] for name, tensor in tensors.items()}


def _base(model: nn.Module) -> nn.Module:
    """The Transformers model inside a PEFT model; any other model itself."""
    inner: nn.Module = getattr(model, "get_base_model", lambda: model)() if hasattr(model, "peft_config") else model
    return inner


def under_own_names(checkpoint: Checkpoint, model: nn.Module) -> tuple[Mapping[str, Tensor], bool]:
    """A checkpoint's tensors by the model's own names for them, and whether they are still memory-mapped.

    A PEFT model's tensors have the names of the plain model. Tensors that the model fuses, and its files store apart,
    are read into memory by `from_pretrained`.
    """
    while isinstance(inner := getattr(model, "module", getattr(model, "_orig_mod", None)), nn.Module):
        model = inner
    base = _base(model)
    from_pretrained = getattr(type(base), "from_pretrained", None)
    known = set(map(clean_name, checkpoint))
    if from_pretrained is None or not hasattr(base, "config"):
        return checkpoint, True
    if known.issuperset(plain_name(name) if base is not model else name for name, _ in model.named_parameters()):
        return checkpoint, True
    names = saved_names(model)
    if names is None:
        folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
        if not (folder / "config.json").is_file():
            return checkpoint, True
        whole: nn.Module = from_pretrained(folder)
        return dict(whole.state_dict()), False
    stored = {name: name if name in checkpoint else saved for name, saved in names.items()}
    renamed = {name: checkpoint[file_name] for name, file_name in stored.items() if file_name in checkpoint}
    return renamed or checkpoint, True
