"""Pairs each tensor of the model with its anchor and its β; whatever does not fit is an error that names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stockpot.averaging.lora_factors import Factor
from stockpot.averaging.model_tensors import ModelTensor
from stockpot.averaging.settings import AUTO, Beta
from stockpot.averaging.shares import KeptShares
from stockpot.errors import StockpotError, did_you_mean
from stockpot.weights.tensor_memory import is_sharded, local_shard, storage_address
from stockpot.weights.tensor_names import match_any, suggest_pattern


@dataclass(frozen=True)
class TensorPair:
    """One tensor θ of the model, its anchor θ_o and the weight β of the anchor.

    `rows` is how many rows the anchor has, if the model's tensor has grown. The anchor of a LoRA `factor` is zero, and
    takes no memory. With `auto` each weight has a β of its own, and `shares` says at an average which; `beta` is then
    the one that equal importances would give.
    """

    name: str
    tensor: Tensor
    anchor: Tensor
    beta: float
    rows: int | None
    is_buffer: bool
    factor: Factor | None = None
    auto: bool = False
    shares: KeptShares | None = None

    @property
    def views(self) -> tuple[Tensor, Tensor]:
        """What is averaged with what, of equal shape: this process's shards, the first rows of a grown tensor."""
        tensor = local_shard(self.tensor.detach())
        return (tensor if self.rows is None else tensor.narrow(0, 0, self.rows)), local_shard(self.anchor)


def check_patterns(kind: str, patterns: Sequence[str], names: frozenset[str]) -> None:
    """Raises StockpotError for a pattern that no tensor of the model matches."""
    for pattern in patterns:
        if not match_any(names, pattern):
            raise StockpotError(
                f"{kind}: no tensor of the model matches '{pattern}'.{suggest_pattern(pattern, sorted(names))}"
            )


def match(
    trained: list[ModelTensor],
    anchor: Mapping[str, Tensor],
    label: str,
    beta: Beta,
    new: Sequence[str],
    auto: float = 0.0,
) -> list[TensorPair]:
    """Pairs the model's tensors with the anchor's, by name. `auto` is the number that stands for a β that is "auto".

    A tensor that a pattern of `new` matches may be missing from the anchor (it is left alone) or may have more rows
    than the anchor (its first rows are averaged). A factor of LoRA is paired with zero. `label` is what the messages
    call the anchor. Raises StockpotError for any other tensor that is missing or differs in shape, for tied weights
    that the anchor holds with different values, for a tensor without a β, and if nothing is left to average.
    """
    pairs = []
    for item in trained:
        chosen = _beta_of(item, beta)
        weight, automatic = (auto, not item.is_buffer) if chosen == AUTO else (float(chosen), False)
        names = [name for name in item.names if name in anchor]
        is_new = any(match_any(item.names, pattern) for pattern in new)
        if item.factor is not None:
            piece = local_shard(item.tensor.detach())
            zero = piece.new_zeros(()).expand_as(piece)
            pairs.append(TensorPair(item.name, item.tensor, zero, weight, None, item.is_buffer, item.factor, automatic))
        elif names:
            origin = _same_in_all(names, anchor, label)
            rows = _common_rows(item, origin, is_new, label)
            pairs.append(TensorPair(item.name, item.tensor, origin, weight, rows, item.is_buffer, None, automatic))
        elif not is_new:
            raise StockpotError(
                f"{label} has no tensor '{item.name}' {tuple(item.tensor.shape)}."
                f"{did_you_mean(item.name, sorted(anchor))} If this task added it, say new=['{item.name}']."
            )
    if all(pair.is_buffer for pair in pairs):
        raise StockpotError(f"nothing to average: no trainable parameter of the model has an anchor in {label}.")
    return pairs


def _beta_of(tensor: ModelTensor, beta: Beta) -> float | str:
    if not isinstance(beta, Mapping):
        return beta
    for pattern, value in beta.items():
        if match_any(tensor.names, pattern):
            return value
    raise StockpotError(f"beta: no pattern matches '{tensor.name}'; add a last pattern '*' for all the others.")


def _same_in_all(names: list[str], anchor: Mapping[str, Tensor], label: str) -> Tensor:
    first = anchor[names[0]]
    for name in names[1:]:
        other = anchor[name]
        if other is not first and not torch.equal(local_shard(other), local_shard(first)):
            raise StockpotError(
                f"'{names[0]}' and '{name}' are one tied weight in the model, but {label} holds different values; "
                "untie them in the model, or drop the wrong one from the anchor."
            )
    return first


def _common_rows(item: ModelTensor, origin: Tensor, is_new: bool, label: str) -> int | None:
    """None if the shapes agree, else the rows that both have. Never broadcast, as `_foreach_lerp_` would."""
    here, there = tuple(item.tensor.shape), tuple(origin.shape)
    if is_sharded(item.tensor) != is_sharded(origin):
        raise StockpotError(
            f"'{item.name}' is sharded over processes and {label} is not (or the reverse); "
            "use anchor='start', or a state dict of tensors sharded in the same way."
        )
    if is_sharded(item.tensor) and getattr(item.tensor, "placements", None) != getattr(origin, "placements", None):
        raise StockpotError(f"'{item.name}' is sharded in another way than in {label}; shard both alike.")
    if not origin.is_floating_point():
        raise StockpotError(f"'{item.name}' is {origin.dtype} in {label}; the anchor must hold floating weights.")
    if hasattr(origin, "__tensor_flatten__") and not is_sharded(origin):
        kind = type(origin.data).__name__
        raise StockpotError(f"'{item.name}' is quantised ({kind}) in {label}; the anchor must hold floating weights.")
    if local_shard(origin).numel() and storage_address(origin) is None:
        raise StockpotError(f"'{item.name}' has no data of its own in {label} (a meta, sparse or wrapped tensor).")
    if here == there:
        return None
    if is_new and here and there and here[1:] == there[1:] and there[0] < here[0] and not is_sharded(origin):
        return there[0]
    grown = len(here) == len(there) > 0 and here[1:] == there[1:] and here[0] > there[0]
    remedy = f"if it grew by rows, say new=['{item.name}']" if grown else "this is the anchor of another model"
    if is_new:
        remedy = "new= allows more rows than the anchor has, nothing else"
    raise StockpotError(f"'{item.name}' has shape {here} in the model and {there} in {label}; {remedy}.")
