"""The output's config.json: the donor's, with the type, the layers and the ties that the output has."""

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

# Types that hold numbers packed, or scaled by others: their average would be nobody's.
_PACKED = frozenset({"U8", "I8", "I32", "U32", "F8_E4M3", "F8_E5M2"})
_QUANTISED = ("quantization_config", "compression_config")
_PIECE = 4 << 20


def output_config(config: Mapping[str, Any], plan: Plan, donor: str) -> tuple[dict[str, Any], list[str]]:
    """The donor's configuration made the output's, and notes on what cannot be told from names and shapes.

    Raises StockpotError where the donor's weights are quantised, or it cannot say which layers the output has.
    """
    result = copy.deepcopy(dict(config))
    notes: list[str] = []
    result.pop("_name_or_path", None)  # where the donor was loaded from, often a place on somebody's disk
    notes += _unquantised(result, plan, donor)
    dtypes = {target.dtype for target in plan.targets if target.dtype in FLOATS}
    if len(dtypes) == 1 and not (dtype := dtypes.pop()).startswith("F8"):
        _set_dtype(result, TORCH_NAMES[dtype])
    if plan.spec.slices:
        notes += _set_layers(result, plan, donor)
    return result, notes


def untie(config: dict[str, Any], entries: Mapping[str, TensorEntry]) -> list[str]:
    """Says in the configuration that the head is not tied, where the written head is not the written embedding.

    Otherwise a library would take the embedding for both, and what was merged into the head would count for nothing.
    """
    heads = [name for name in entries if name.endswith(HEAD_ENDINGS)]
    embeddings = [name for name in entries if name.endswith(EMBEDDING_ENDINGS)]
    said = [block["tie_word_embeddings"] for block in _blocks(config) if "tie_word_embeddings" in block]
    if not heads or not embeddings or (said and not any(said)):  # unsaid, it hangs on the architecture
        return []
    notes = []
    for head in heads:
        alike = [entries[name] for name in embeddings if entries[name].shape == entries[head].shape]
        if alike and not any(same_bytes(entries[head], entry) for entry in alike):
            notes.append(f"'{head}' is not '{alike[0].name}' in the output: tie_word_embeddings is false.")
    for block in _blocks(config) if notes else ():
        if block is config or "tie_word_embeddings" in block:
            block["tie_word_embeddings"] = False
    return notes


def same_bytes(first: TensorEntry, second: TensorEntry) -> bool:
    """Whether two tensors in files are the same, bit for bit."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    with first.file.open("rb") as one, second.file.open("rb") as other:
        one.seek(first.offset)
        other.seek(second.offset)
        for start in range(0, first.nbytes, _PIECE):
            count = min(_PIECE, first.nbytes - start)
            if one.read(count) != other.read(count):
                return False
    return True


def _blocks(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The configuration, and that of the language model in it."""
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
                    f"{donor} is quantised ({key} in its config.json; '{packed}' is {tensors[packed].dtype}): "
                    "only weights that stand for themselves are merged: dequantise the models first."
                )
            del block[key]
            yield f"config.json of {donor} has a {key}, but its weights are plain numbers: left out."


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
    cut = sliced_stacks(plan.spec, plan.sources)
    pin_decoder(config, stacks)
    for each in cut:
        stack = replace(each.stack, count=counts.get(each.stack.prefix, 0))
        yield from set_layers(config, stack, stacks, taken_layers(each, donor), donor)


def taken_layers(sliced: Sliced, donor: str) -> Sequence[int]:
    """For every layer of a sliced stack, which of the donor's it is; the first source's where it is none of them."""
    layers: list[int] = []
    for _, part in sliced.parts:
        source = next((source for source in part.sources if source.path == donor), part.sources[0])
        layers += range(source.first, source.last)
    return layers
