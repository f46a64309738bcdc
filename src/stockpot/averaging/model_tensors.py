"""The tensors of a model that SFA averages, and those that it refuses because it could not average them correctly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stockpot.averaging.lora_factors import Factor
from stockpot.averaging.refusals import deepspeed
from stockpot.errors import StockpotError
from stockpot.models.wrappers import refuse_fsdp1
from stockpot.weights.tensor_memory import (
    group_tied,
    is_plain_float,
    local_shard,
    memory_key,
    storage_address,
    view_key,
)
from stockpot.weights.tensor_names import clean_name

_LORA = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")


@dataclass(frozen=True)
class ModelTensor:
    """One tensor of the model with all of its names (tied weights have several); the first is its own.

    `factor` is set for a factor of LoRA, whose anchor is zero.
    """

    names: tuple[str, ...]
    tensor: Tensor
    is_buffer: bool
    factor: Factor | None = None

    @property
    def name(self) -> str:
        return self.names[0]


def model_tensors(
    model: nn.Module, *, buffers: bool, halves: bool, lora: Mapping[int, Factor | None] | None = None
) -> list[ModelTensor]:
    """Trainable floating parameters, tied ones once, and with `buffers` the persistent floating buffers.

    Of the LoRA factors in `lora` (see `lora_factors`) only those that an average scales; other factors are refused.

    Quantised buffers are left alone, as integers are. Raises StockpotError, naming the tensor, for tensors without
    data, FSDP1's, DeepSpeed's and quantised parameters, LoRA factors, complex parameters, and bf16 or fp16 parameters
    unless `halves` allows them.
    """
    refuse_fsdp1(model)  # again: it may have been wrapped since SFA was made
    factors = lora or {}
    named: list[tuple[str, Tensor]] = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            _refuse(clean_name(name), parameter, halves, id(parameter) in factors)
            if id(parameter) not in factors or factors[id(parameter)] is not None:  # else the factor that stays
                named.append((clean_name(name), parameter))
    averaged_buffers = set()
    for name, buffer in persistent_buffers(model) if buffers else ():
        if is_plain_float(buffer):
            _refuse_empty(clean_name(name), buffer)
            averaged_buffers.add(id(buffer))
            named.append((clean_name(name), buffer))

    def key(tensor: Tensor) -> object:
        return view_key(tensor) if id(tensor) in factors else memory_key(tensor)

    tensors = [
        ModelTensor(tuple(names), tensor, id(tensor) in averaged_buffers, factors.get(id(tensor)))
        for names, tensor in group_tied(named, key)
    ]
    _refuse_equal_names(tensors)
    return tensors


def persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The persistent buffers: those that a checkpoint holds, unlike caches such as rotary frequencies."""
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield (f"{prefix}.{name}" if prefix else name), buffer


def signature(model: nn.Module) -> list[object]:
    """Changes whenever a tensor of the model is replaced, moved, resized, frozen or unfrozen."""
    tensors: list[object] = []
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                tensors.append((id(tensor), tensor.requires_grad, tensor.shape, tensor.dtype, tensor.device))
    return tensors


def _refuse(name: str, parameter: nn.Parameter, halves: bool, known_factor: bool) -> None:
    if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
        raise deepspeed(f"'{name}' belongs to DeepSpeed ZeRO, which")
    if nn.parameter.is_lazy(parameter):
        raise StockpotError(f"'{name}' has no shape yet; run one batch through the model before SFA(model, …).")
    if is_plain_float(parameter):
        _refuse_empty(name, parameter)
    if not known_factor and not name.endswith(".bias") and any(part in _LORA for part in name.split(".")):
        raise StockpotError(
            f"'{name}' is a LoRA factor: averaging A and B apart is not averaging their product BA; train the merged "
            "model, or merge after the task (`merge_and_unload`) and average those weights with the old ones (p=1)."
        )
    if not is_plain_float(parameter):
        kind = str(parameter.dtype) if type(parameter.data) is Tensor else type(parameter.data).__name__
        raise StockpotError(f"'{name}' is a trainable {kind}, quantised or not real: SFA averages only fp16 to fp64.")
    if not halves and parameter.dtype.itemsize == 2:
        raise StockpotError(
            f"'{name}' is {str(parameter.dtype).removeprefix('torch.')}, where a small pull rounds away: load the "
            "weights in fp32 and train with bf16=True, or say rounding='stochastic' (unbiased, bf16) or 'nearest'."
        )


def _refuse_empty(name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        raise StockpotError(f"'{name}' is a meta tensor without data; load the weights before SFA(model, …).")
    if storage_address(tensor) is None and local_shard(tensor).numel():
        kind = "sparse tensor" if tensor.layout != torch.strided else type(tensor.data).__name__
        raise StockpotError(f"'{name}' is a {kind} without memory of its own: SFA averages dense weights only.")


def _refuse_equal_names(tensors: list[ModelTensor]) -> None:
    names = Counter(name for tensor in tensors for name in tensor.names)
    for name, count in names.items():
        if count > 1:
            raise StockpotError(f"two tensors are called '{name}' once wrapper prefixes are removed; rename a module.")


def is_deepspeed(model: nn.Module) -> bool:
    """Whether the model is a DeepSpeed engine, or the module of one that trains in half precision.

    In fp32 an engine of stage 0 keeps no copies; parameters of ZeRO carry attributes of their own (see `_refuse`).
    """
    hooks = (*model._forward_pre_hooks.values(), *model._forward_hooks.values())
    halves = any(parameter.dtype.itemsize == 2 for parameter in model.parameters())
    return _of_deepspeed(type(model)) or (halves and any(map(_of_deepspeed, hooks)))


def _of_deepspeed(value: object) -> bool:
    return str(getattr(value, "__module__", "")).split(".")[0] == "deepspeed"


def model_names(model: nn.Module) -> frozenset[str]:
    """Every name that the model's own checkpoint would hold, wrappers removed."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    names += [name for name, _ in model.named_buffers(remove_duplicate=False)]
    return frozenset(map(clean_name, names))


def storages(model: nn.Module) -> frozenset[int]:
    """Addresses of the memory that holds the model's tensors, as far as they have any."""
    return frozenset(filter(None, map(storage_address, (*model.parameters(), *model.buffers()))))
