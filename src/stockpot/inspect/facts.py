"""What a checkpoint holds, from its headers: no byte of a tensor is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stockpot.errors import StockpotError
from stockpot.merging.plan.layer_stacks import layer_counts
from stockpot.merging.read.adapter_config import is_adapter
from stockpot.merging.read.inputs import open_model
from stockpot.merging.read.sources import TensorSource
from stockpot.weights.layout import indexed_file

_LARGEST_CONFIG = 16 << 20  # bytes
_MODEL_KEYS = ("model_type", "architectures", "tie_word_embeddings")
_ADAPTER_KEYS = ("peft_type", "r", "lora_alpha", "base_model_name_or_path")


@dataclass(frozen=True)
class CheckpointFacts:
    """One checkpoint, as `stockpot inspect --json` prints it; tensors are in the order of the files."""

    path: str
    kind: Literal["model", "adapter"]
    parameters: int  # elements of all tensors, of any type
    bytes: int
    types: dict[str, dict[str, int]]  # type → how many tensors, parameters, bytes
    layers: dict[str, int]  # stack → how many layers
    config: dict[str, Any]
    metadata: dict[str, list[str]]  # key → the different values in the files' headers
    files: list[dict[str, Any]]
    tensors: dict[str, dict[str, Any]]  # name → dtype, shape, bytes


def open_tensors(place: Path, label: str, allow_bin: bool = False) -> TensorSource:
    """A checkpoint's tensors; for the folder of an adapter, the adapter's own."""
    return open_model(place, label, allow_bin, "adapter_model" if is_adapter(place) else "model")


def facts_of(place: Path, source: TensorSource) -> CheckpointFacts:
    """The facts of an opened checkpoint. Raises StockpotError for a configuration that cannot be read."""
    types: dict[str, dict[str, int]] = {}
    for info in source.tensors.values():
        row = types.setdefault(info.dtype, {"tensors": 0, "parameters": 0, "bytes": 0})
        for key, amount in (("tensors", 1), ("parameters", info.numel), ("bytes", info.nbytes)):
            row[key] += amount
    metadata: dict[str, dict[str, None]] = {}
    for file in source.files:
        for key, value in file.metadata.items():
            metadata.setdefault(key, {})[value] = None
    adapter = is_adapter(place)
    config = ("adapter_config.json", _ADAPTER_KEYS) if adapter else ("config.json", _MODEL_KEYS)
    return CheckpointFacts(
        path=source.label,
        kind="adapter" if adapter else "model",
        parameters=sum(row["parameters"] for row in types.values()),
        bytes=sum(row["bytes"] for row in types.values()),
        types=types,
        layers={stack.removesuffix("."): count for stack, count in layer_counts(source.tensors).items()},
        config=_config(place, *config),
        metadata={key: list(values) for key, values in metadata.items()},
        files=[
            {"file": file.file.name, "bytes": file.nbytes, "header_sha256": file.header_sha256} for file in source.files
        ],
        tensors={
            name: {"dtype": info.dtype, "shape": info.shape, "bytes": info.nbytes}
            for name, info in source.tensors.items()
        },
    )


def _config(folder: Path, name: str, keys: Sequence[str]) -> dict[str, Any]:
    """Some entries of a configuration; models of several parts keep theirs under `text_config`."""
    if not folder.is_dir() or not (folder / name).is_file():
        return {}
    file = indexed_file(folder, folder / name, name)
    try:
        if file.stat().st_size > _LARGEST_CONFIG:
            raise ValueError(f"it is larger than {_LARGEST_CONFIG:,} bytes")
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise StockpotError(f"{file} is not a configuration: {error}.") from error
    text_config = config.get("text_config")
    merged = {**(text_config if isinstance(text_config, dict) else {}), **config}
    return {key: merged[key] for key in keys if key in merged}
