"""The output's config.json: the donor's, with the type, the layers and the tied weights of the output."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stockpot.errors import StockpotError
from stockpot.merging.plan.layer_stacks import language_stacks, layer_counts
from stockpot.merging.plan.merge_plan import Plan
from stockpot.merging.plan.tensor_origins import Sliced, sliced_stacks
from stockpot.merging.read.sources import TORCH_NAMES
from stockpot.merging.write.layer_config import pin_decoder, set_layers
from stockpot.weights.layout import FLOATS, TensorEntry
from stockpot.weights.tensor_names import EMBEDDING_ENDINGS, HEAD_ENDINGS

# Types of packed or scaled numbers, whose average would be meaningless.
_PACKED = frozenset({"U8", "I8", "I32", "U32", "F8_E4M3", "F8_E5M2"})
_QUANTISED = ("quantization_config", "compression_config")
_PIECE = 4 << 20


def output_config(config: Mapping[str, Any], plan: Plan, donor: str) -> tuple[dict[str, Any], list[str]]:
    """The donor's configuration adapted to the output, and notes on what names and shapes cannot show.

    Raises StockpotError if the donor's weights are quantised, or if the configuration cannot describe the output's
    layers.
    """
    result = copy.deepcopy(dict(config))
    notes: list[str] = []
    result.pop("_name_or_path", None)  # where the donor was loaded from, often somebody's local path
    notes += _unquantised(result, plan, donor)
    dtypes = {target.dtype for target in plan.targets if target.dtype in FLOATS}
    if len(dtypes) == 1 and not (dtype := dtypes.pop()).startswith("F8"):
        _set_dtype(result, TORCH_NAMES[dtype])
    if plan.spec.slices:
        notes += _set_layers(result, plan, donor)
    return result, notes


def untie(config: dict[str, Any], entries: Mapping[str, TensorEntry]) -> list[str]:
    """Sets tie_word_embeddings to false if the written head differs from the written embedding; returns notes.

    Otherwise a library would use the embedding for both, and the merged head would be ignored.
    """
    heads = [name for name in entries if name.endswith(HEAD_ENDINGS)]
    embeddings = [name for name in entries if name.endswith(EMBEDDING_ENDINGS)]
    tied = [block["tie_word_embeddings"] for block in _blocks(config) if "tie_word_embeddings" in block]
    if not heads or not embeddings or (tied and not any(tied)):  # without the key the architecture decides
        return []
    notes = []
    for head in heads:
        alike = [entries[name] for name in embeddings if entries[name].shape == entries[head].shape]
        if alike and not any(same_bytes(entries[head], entry) for entry in alike):
            notes.append(f"'{head}' differs from '{alike[0].name}' in the output: tie_word_embeddings is false.")
    for block in _blocks(config) if notes else ():
        if block is config or "tie_word_embeddings" in block:
            block["tie_word_embeddings"] = False
    return notes


def same_bytes(first: TensorEntry, second: TensorEntry) -> bool:
    """Whether two tensors on disk are equal, bit for bit."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    with first.file.open("rb") as first_file, second.file.open("rb") as second_file:
        first_file.seek(first.offset)
        second_file.seek(second.offset)
        for start in range(0, first.nbytes, _PIECE):
            count = min(_PIECE, first.nbytes - start)
            if first_file.read(count) != second_file.read(count):
                return False
    return True


def _blocks(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The configuration, and the language model's part of it."""
    inner = config.get("text_config")
    return [config, inner] if isinstance(inner, dict) else [config]


def _unquantised(config: dict[str, Any], plan: Plan, donor: str) -> Iterator[str]:
    for block in _blocks(config):
        for key in _QUANTISED:
            if not block.get(key):
                continue
            tensors = plan.sources[plan.spec.paths.index(donor)].tensors
            packed = next((name for name, info in tensors.items() if info.dtype in _PACKED), None)
            if packed is not None:
                raise StockpotError(
                    f"{donor} is quantised ({key} in its config.json; '{packed}' is {tensors[packed].dtype}) and "
                    "cannot be merged: dequantise the models first."
                )
            del block[key]
            yield f"config.json of {donor} has a {key}, but its weights are not quantised: left out."


def _set_dtype(config: dict[str, Any], dtype: str) -> None:
    inner = [value for key, value in config.items() if key.endswith("_config") and isinstance(value, dict)]
    for block in (config, *inner):
        for key in ("dtype", "torch_dtype"):
            if key in block:
                block[key] = dtype
    if "torch_dtype" not in config:
        config["dtype"] = dtype


def _set_layers(config: dict[str, Any], plan: Plan, donor: str) -> Iterator[str]:
    tensors = plan.sources[plan.spec.paths.index(donor)].tensors
    stacks, counts = language_stacks(tensors), layer_counts(tensors)
    pin_decoder(config, stacks)
    for sliced in sliced_stacks(plan.spec, plan.sources):
        stack = replace(sliced.stack, count=counts.get(sliced.stack.prefix, 0))
        yield from set_layers(config, stack, stacks, taken_layers(sliced, donor), donor)


def taken_layers(sliced: Sliced, donor: str) -> Sequence[int]:
    """For each layer of a sliced stack, its number in the donor, or in the first source if the donor is not one."""
    layers: list[int] = []
    for _, part in sliced.parts:
        source = next((source for source in part.sources if source.path == donor), part.sources[0])
        layers += range(source.first, source.last)
    return layers
