"""What a checkpoint holds, from its headers: no byte of a tensor is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stockpot.inspect.name_patterns import grouped
from stockpot.merging.plan.layer_stacks import layer_counts
from stockpot.merging.read.inputs import located, open_model
from stockpot.merging.read.sources import TensorSource
from stockpot.merging.write.donor import read_mapping
from stockpot.weights.adapter_config import ADAPTER_CONFIG, is_adapter
from stockpot.weights.layout import require_inside

_CONFIG_KEYS = {
    "config.json": ("model_type", "architectures", "tie_word_embeddings"),
    ADAPTER_CONFIG: ("peft_type", "r", "lora_alpha", "base_model_name_or_path"),
}


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


def open_with_facts(path: str, allow_bin: bool = False) -> tuple[TensorSource, CheckpointFacts]:
    """A checkpoint's tensors and facts; for the folder of an adapter, the adapter's own.

    Raises StockpotError for a checkpoint or a configuration that cannot be read.
    """
    place = located(path)
    adapter = is_adapter(place)
    source = open_model(place, path, allow_bin, "adapter_model" if adapter else "model")
    tensors, files = source.tensors, source.files
    types: dict[str, dict[str, int]] = {}
    for info in tensors.values():
        row = types.setdefault(info.dtype, {"tensors": 0, "parameters": 0, "bytes": 0})
        row["tensors"] += 1
        row["parameters"] += info.numel
        row["bytes"] += info.nbytes
    facts = CheckpointFacts(
        path=source.label,
        kind="adapter" if adapter else "model",
        parameters=sum(row["parameters"] for row in types.values()),
        bytes=sum(row["bytes"] for row in types.values()),
        types=types,
        layers={stack.removesuffix("."): count for stack, count in layer_counts(tensors).items()},
        config=_config(place / (ADAPTER_CONFIG if adapter else "config.json")),
        metadata=grouped(dict.fromkeys(entry for file in files for entry in file.metadata.items())),
        files=[{"file": file.file.name, "bytes": file.nbytes, "header_sha256": file.header_sha256} for file in files],
        tensors={n: {"dtype": info.dtype, "shape": info.shape, "bytes": info.nbytes} for n, info in tensors.items()},
    )
    return source, facts


def _config(file: Path) -> dict[str, Any]:
    """Some entries of a configuration; models of several parts keep theirs under `text_config`."""
    if not file.is_file():
        return {}
    config = read_mapping(require_inside(file.parent, file))
    text_config = config.get("text_config")
    if isinstance(text_config, dict):
        config = text_config | config
    return {key: config[key] for key in _CONFIG_KEYS[file.name] if key in config}
