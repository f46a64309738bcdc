"""What a checkpoint holds: facts as plain data, from headers alone, unless ties are looked for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stockpot.errors import StockpotError
from stockpot.merging.plan.layer_stacks import layer_counts
from stockpot.merging.read.adapter_config import is_adapter
from stockpot.merging.read.inputs import open_model
from stockpot.merging.read.sources import TensorInfo, TensorSource, torch_dtype
from stockpot.merging.threads import PIECE
from stockpot.weights.layout import FileFacts, indexed_file

if TYPE_CHECKING:
    from torch import Tensor

Seen = Callable[[int], object]  # is told how many bytes were read

_NUMBER = re.compile(r"[0-9]{1,9}")
_LONGEST_CONFIG = 16 << 20
_CONFIG = ("model_type", "architectures", "tie_word_embeddings")
_ADAPTER = ("peft_type", "r", "lora_alpha", "base_model_name_or_path")


@dataclass(frozen=True)
class Facts:
    """One checkpoint: its tensors in file order, its files, and what its configuration says of them."""

    path: str
    kind: Literal["model", "adapter"]
    tensors: Mapping[str, TensorInfo]
    files: tuple[FileFacts, ...]  # none where the tensors come from a pickle
    config: Mapping[str, Any]

    @property
    def parameters(self) -> int:
        """Elements of all tensors, of whatever type."""
        return sum(info.numel for info in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.tensors.values())

    @property
    def by_type(self) -> dict[str, list[TensorInfo]]:
        """The tensors of every type."""
        found: dict[str, list[TensorInfo]] = {}
        for info in self.tensors.values():
            found.setdefault(info.dtype, []).append(info)
        return found

    @property
    def layers(self) -> dict[str, int]:
        """How many layers every stack has."""
        return layer_counts(self.tensors)

    @property
    def metadata(self) -> dict[str, list[str]]:
        """The headers' text metadata: the different values that the files give to every key."""
        found: dict[str, list[str]] = {}
        for file in self.files:
            for key, value in file.metadata.items():
                if value not in found.setdefault(key, []):
                    found[key].append(value)
        return found


def open_source(place: Path, label: str, allow_bin: bool = False) -> TensorSource:
    """A checkpoint's tensors; of an adapter's folder the adapter's own."""
    return open_model(place, label, allow_bin, "adapter_model" if is_adapter(place) else "model")


def facts_of(place: Path, source: TensorSource) -> Facts:
    """The facts of an opened checkpoint; no byte of a tensor is read for them."""
    adapter = is_adapter(place)
    config = _said(place, "adapter_config.json", _ADAPTER) if adapter else _said(place, "config.json", _CONFIG)
    return Facts(source.label, "adapter" if adapter else "model", source.tensors, source.files, config)


def _said(folder: Path, name: str, keys: Sequence[str]) -> dict[str, Any]:
    """The named entries of a configuration; models of several parts keep some of them under `text_config`."""
    if not folder.is_dir() or not (folder / name).is_file():
        return {}
    file = indexed_file(folder, folder / name, name)
    try:
        if file.stat().st_size > _LONGEST_CONFIG:
            raise ValueError("it is too long")
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise StockpotError(f"{file} is not a configuration: {error}.") from error
    inner = config.get("text_config")
    both = {**(inner if isinstance(inner, dict) else {}), **config}
    return {key: both[key] for key in keys if key in both}


def fold(names: Iterable[str], key: Callable[[str], Hashable] = lambda name: None) -> list[tuple[str, list[str]]]:
    """Names that differ in numbers alone, and agree in `key`, under one pattern, in the order of their first.

    >>> fold(["layers.0.weight", "layers.1.weight", "head.weight"])
    [('layers.{0…1}.weight', ['layers.0.weight', 'layers.1.weight']), ('head.weight', ['head.weight'])]
    """
    groups: dict[Hashable, list[str]] = {}
    for name in names:
        parts = tuple(None if _NUMBER.fullmatch(part) else part for part in name.split("."))
        groups.setdefault((parts, key(name)), []).append(name)
    return [(_pattern(group), group) for group in groups.values()]


def _pattern(names: Sequence[str]) -> str:
    columns = [dict.fromkeys(column) for column in zip(*(name.split(".") for name in names), strict=True)]
    return ".".join(next(iter(column)) if len(column) == 1 else _range(map(int, column)) for column in columns)


def _range(numbers: Iterable[int]) -> str:
    """`{0…3,7}` for 0, 1, 2, 3 and 7; the middle of more than four runs is left out."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [f"{first}" if first == last else f"{first}…{last}" for first, last in runs]
    return "{" + ",".join(texts if len(texts) <= 4 else [*texts[:2], "…", texts[-1]]) + "}"


@dataclass(frozen=True)
class Ties:
    """Names that hold the same tensor, in groups, and the names of equal tensors that have one value throughout.

    Fresh norms and biases are equal because all their elements are; that says nothing about ties.
    """

    groups: tuple[tuple[str, ...], ...]
    constant: tuple[str, ...]


def find_ties(source: TensorSource, seen: Seen = lambda nbytes: None) -> Ties:
    """Tensors of equal type, shape and bytes.

    A few elements of each tell nearly all apart; of the others all bytes are read, and compared by SHA-256.
    """
    import torch

    def bits(name: str, start: int, stop: int) -> Tensor:
        flat = torch.empty(stop - start, dtype=torch_dtype(source.tensors[name].dtype))
        source.read(name, start, flat)
        return flat.view(torch.uint8).view(stop - start, -1)

    def sample(name: str) -> bytes:
        count = source.tensors[name].numel
        return b"".join(
            bits(name, start, min(start + 16, count)).numpy().tobytes() for start in (0, count // 3, count // 2)
        )

    def digest(name: str) -> tuple[bytes, bool]:
        count, sha, constant = source.tensors[name].numel, hashlib.sha256(), True
        first = bits(name, 0, 1)
        for start in range(0, count, PIECE):
            piece = bits(name, start, min(start + PIECE, count))
            sha.update(piece.view(-1).numpy().data)
            constant = constant and bool((piece == first).all())
            seen(piece.numel())
        return sha.digest(), constant

    held = [name for name, info in source.tensors.items() if info.numel]
    alike = _alike(held, lambda name: (source.tensors[name].dtype, source.tensors[name].shape))
    alike = [group for candidates in alike for group in _alike(candidates, sample)]
    constant: set[str] = set()
    groups: list[tuple[str, ...]] = []
    for candidates in alike:
        found = {name: digest(name) for name in candidates}
        for group in _alike(candidates, found.__getitem__):
            if found[group[0]][1]:
                constant.update(group)
            else:
                groups.append(tuple(group))
    return Ties(tuple(groups), tuple(name for name in held if name in constant))


def _alike(names: Iterable[str], key: Callable[[str], Hashable]) -> list[list[str]]:
    """The names with equal keys, where there are at least two."""
    groups: dict[Hashable, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
