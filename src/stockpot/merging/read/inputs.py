"""From what the user named to a source: a folder, a file, a model of the hub, an adapter."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.errors import StockpotError
from stockpot.merging.read.sources import FileSource, MemorySource, TensorSource
from stockpot.merging.spec.merge_spec import MergeSpec
from stockpot.weights.layout import PICKLE_SUFFIXES, FileFacts, indexed_file, read_index, read_layout

if TYPE_CHECKING:
    from torch import Tensor

    from stockpot.merging.read.adapter_config import AdapterConfig

# Weights and what stands beside them: never code.
_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.spm", "*.tiktoken", "*.codes", "*.bpe")
_HUB = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")


def located(path: str) -> Path:
    """The local folder or file that was named; a name of the hub is downloaded, or found in the hub's cache."""
    try:
        place = Path(path).expanduser()
        if place.exists():
            return place
    except (OSError, RuntimeError) as error:  # a name that is too long, an unknown ~user
        raise StockpotError(f"{path}: there can be no such file: {error}") from error
    if not _HUB.match(path):
        raise StockpotError(f"{path} does not exist, and is no model of the hub (OWNER/NAME).")
    from huggingface_hub import snapshot_download

    name, _, revision = path.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(_WANTED)))
    except Exception as error:  # offline, unknown, gated: the hub's own words, in one line
        raise StockpotError(f"{path}: no such folder, and not to be had from the hub: {error}") from error


class Inputs:
    """The inputs of a merge, each opened once, in the order of `spec.paths`; adapters over their bases.

    Without a base in the spec, where every model is an adapter of one and the same base, `spec` gets it. `BASE+ADAPTER`
    is the model that an adapter makes of that base; an adapter alone goes over the spec's base, or else over the one
    that it names itself. `folders` are the places of the models by their names, of an adapter that of its base, whose
    configuration is the model's. Raises StockpotError where an input cannot be opened, or adapters name different
    bases.
    """

    def __init__(self, spec: MergeSpec, states: Mapping[str, Mapping[str, Tensor]], allow_bin: bool = False) -> None:
        self._states, self._allow_bin = states, allow_bin
        self._located = cache(located)
        self._opened: dict[str, TensorSource] = {}
        self._places: dict[str, Path] = {}
        self.folders: dict[str, Path] = {}
        self.spec = self._over_one_base(spec)
        self.sources = [self._source(path) for path in self.spec.paths]

    @property
    def places(self) -> list[Path]:
        """Every folder and file that is read from, bases of adapters among them."""
        return list(self._places.values())

    def close(self) -> None:
        """Closes all of them."""
        for source in self._opened.values():
            source.close()

    def _over_one_base(self, spec: MergeSpec) -> MergeSpec:
        if spec.base is not None:
            self._refuse_adapter(spec.base)
            return spec
        bases: dict[str, str] = {}
        for path in spec.paths:
            if (parts := self._spelled(path)) is not None:
                bases[path] = parts[0]
            elif self._is_adapter(path):
                bases[path] = _own_base(path, self._config(path))
        alone = [path for path in bases if self._spelled(path) is None]
        for path in alone[1:]:
            if not self._same(bases[path], bases[alone[0]]):
                raise StockpotError(
                    f"adapters of different bases: {alone[0]} names {bases[alone[0]]}, {path} names {bases[path]}. "
                    "Where they are one model under two names, name it: --base MODEL."
                )
        first = bases.get(spec.models[0].path) if spec.models else None
        if first is None or not all(
            model.path in bases and self._same(bases[model.path], first) for model in spec.models
        ):
            return spec
        self._refuse_adapter(first)
        return replace(spec, base=first)

    def _source(self, path: str) -> TensorSource:
        if path not in self._opened:
            self._opened[path] = self._open(path)
        return self._opened[path]

    def _open(self, path: str) -> TensorSource:
        if path in self._states:
            return MemorySource(self._states[path], path)
        if (parts := self._spelled(path)) is not None:
            base, adapter = parts
            if not self._is_adapter(adapter):
                raise StockpotError(f"{path}: BASE+ADAPTER, but {adapter} holds no adapter_config.json with weights.")
            return self._adapter(path, adapter, base)
        if self._is_adapter(path):
            return self._adapter(path, path, self.spec.base or _own_base(path, self._config(path)))
        self._places[path] = self.folders[path] = self._located(path)
        return open_model(self._places[path], path, self._allow_bin)

    def _adapter(self, label: str, adapter: str, base: str) -> TensorSource:
        from stockpot.merging.read.adapter_source import AdapterSource

        self._refuse_adapter(base)
        # Layers that slices move meet other layers of the base than the adapter was trained on.
        over = self.spec.base is not None and not self.spec.slices and self._same(base, self.spec.base)
        base = self.spec.base if over and self.spec.base is not None else base
        below = self._source(base)
        if base in self.folders:
            self.folders[label] = self.folders[base]
        folder = self._places[adapter] = self._located(adapter)
        own = open_model(folder, label, self._allow_bin, "adapter_model")
        return AdapterSource(below, own, folder, label, over, over and label == adapter)

    def _spelled(self, path: str) -> tuple[str, str] | None:
        if path in self._states or "+" not in path or Path(path).expanduser().exists():
            return None
        base, _, adapter = path.partition("+")
        return base, adapter

    def _is_adapter(self, path: str) -> bool:
        if path in self._states or not (self._located(path) / "adapter_config.json").is_file():
            return False
        from stockpot.merging.read.adapter_config import is_adapter

        return is_adapter(self._located(path))

    def _config(self, path: str) -> AdapterConfig:
        from stockpot.merging.read.adapter_config import read_adapter_config

        return read_adapter_config(self._located(path))

    def _refuse_adapter(self, base: str) -> None:
        if base not in self._states and self._spelled(base) is None and self._is_adapter(base):
            raise StockpotError(f"{base} is an adapter, and so no base; the model that it makes is BASE+{base}.")

    def _same(self, one: str, other: str) -> bool:
        if one == other:
            return True
        if {one, other} & set(self._states) or self._spelled(one) or self._spelled(other):
            return False
        return self._located(one).resolve() == self._located(other).resolve()


def _own_base(path: str, config: AdapterConfig) -> str:
    name = config.base_model_name_or_path
    if not name:
        raise StockpotError(f"{path}: adapter_config.json names no base_model_name_or_path: name it, --base MODEL.")
    return f"{name}@{config.revision}" if config.revision and not Path(name).expanduser().exists() else name


def open_model(path: Path, label: str, allow_bin: bool = False, stem: str = "model") -> TensorSource:
    """A checkpoint's tensors; a `.bin` only with `allow_bin`, and then without running what is pickled in it."""
    if allow_bin and (pickles := _pickles(path, stem)):
        return MemorySource(_load(pickles), label, tuple(_facts(file) for file in pickles.values()))
    if path.suffix in PICKLE_SUFFIXES or (path.is_dir() and not _has_safetensors(path) and _pickles(path, stem)):
        raise StockpotError(
            f"{label} holds no safetensors but a pickle, which could run code: --allow-bin loads its tensors alone."
        )
    return FileSource(read_layout(path, stem), label)


def _has_safetensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _pickles(path: Path, stem: str = "model") -> dict[str, Path]:
    """File name → file of the pickles that hold a model, where there are no safetensors."""
    if path.is_file():
        return {path.name: path} if path.suffix in PICKLE_SUFFIXES else {}
    if _has_safetensors(path):
        return {}
    whole = "pytorch_model.bin" if stem == "model" else f"{stem}.bin"
    if (path / whole).is_file():
        return {whole: indexed_file(path, path, whole)}
    index = path / "pytorch_model.bin.index.json"
    if not index.is_file():
        return {}
    return {name: indexed_file(path, index, name) for name in dict.fromkeys(read_index(index).values())}


def _facts(file: Path) -> FileFacts:
    """A pickle has no header: the hash is that of its first bytes, which list what it holds."""
    with file.open("rb") as handle:
        return FileFacts(file, file.stat().st_size, hashlib.sha256(handle.read(1 << 16)).hexdigest(), {})


def _load(files: Mapping[str, Path]) -> dict[str, Tensor]:
    import torch

    state: dict[str, Tensor] = {}
    for file in files.values():
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # whatever a pickle that is not just tensors makes torch raise
            said = str(error).splitlines()[0]
            raise StockpotError(f"{file} does not load as tensors alone: {said}") from error
        if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
            loaded = loaded["state_dict"]
        if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
            raise StockpotError(f"{file} does not hold a state dict: names and tensors, nothing else.")
        state.update(loaded)
    return state
