"""Opens what the user names: a folder, a file, a model on the hub, an adapter."""

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

    from stockpot.weights.adapter_config import AdapterConfig

# Weights, configuration and tokenizer: never code.
_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.spm", "*.tiktoken", "*.codes", "*.bpe")
_HUB = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")


def located(path: str) -> Path:
    """The local folder or file of that name; a model on the hub is downloaded, or found in the hub's cache."""
    try:
        local = Path(path).expanduser()
        if local.exists():
            return local
    except (OSError, RuntimeError) as error:  # a name that is too long, an unknown ~user
        raise StockpotError(f"{path} is not a valid path: {error}") from error
    if not _HUB.match(path):
        raise StockpotError(f"{path} does not exist and does not name a model on the hub (OWNER/NAME).")
    from huggingface_hub import snapshot_download

    name, _, revision = path.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(_WANTED)))
    except Exception as error:  # offline, unknown, gated: whatever the hub's client says
        raise StockpotError(f"{path} is not a folder here and could not be read from the hub: {error}") from error


class Inputs:
    """The inputs of a merge, each opened once, in the order of `spec.paths`; adapters on their bases.

    If the spec has no base and all models are adapters of the same base, `self.spec` gets that base. `BASE+ADAPTER` is
    the model that the adapter makes of that base; an adapter alone is put on the spec's base, or else on the one that
    its own configuration names. `folders` maps each model's name to its folder; an adapter's is that of its base,
    since the base's configuration is the model's. Raises StockpotError if an input cannot be opened or if adapters
    name different bases.
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
        """Every folder and file that is read, the bases of adapters included."""
        return list(self._places.values())

    def close(self) -> None:
        """Closes every source."""
        for source in self._opened.values():
            source.close()

    def _over_one_base(self, spec: MergeSpec) -> MergeSpec:
        if spec.base is not None:
            self._refuse_adapter(spec.base)
            return spec
        bases: dict[str, str] = {}
        for path in spec.paths:
            if (parts := self._base_and_adapter(path)) is not None:
                bases[path] = parts[0]
            elif self._is_adapter(path):
                bases[path] = _own_base(path, self._config(path))
        alone = [path for path in bases if self._base_and_adapter(path) is None]
        for path in alone[1:]:
            if not self._same_model(bases[path], bases[alone[0]]):
                raise StockpotError(
                    f"adapters of different bases: {alone[0]} names {bases[alone[0]]}, {path} names {bases[path]}. "
                    "If these are one model under two names, give it: --base MODEL."
                )
        first = bases.get(spec.models[0].path) if spec.models else None
        if first is None or not all(
            model.path in bases and self._same_model(bases[model.path], first) for model in spec.models
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
        if (parts := self._base_and_adapter(path)) is not None:
            base, adapter = parts
            if not self._is_adapter(adapter):
                raise StockpotError(f"{path}: {adapter} is not an adapter: no adapter_config.json with weights.")
            return self._adapter(path, adapter, base)
        if self._is_adapter(path):
            return self._adapter(path, path, self.spec.base or _own_base(path, self._config(path)))
        self._places[path] = self.folders[path] = self._located(path)
        return open_model(self._places[path], path, self._allow_bin)

    def _adapter(self, label: str, adapter: str, base: str) -> TensorSource:
        from stockpot.merging.read.adapter_source import AdapterSource

        self._refuse_adapter(base)
        # A slice can put an adapted layer over another layer of the base than the adapter was trained on: then the
        # adapter's ΔW alone is not the task vector.
        over_base = self.spec.base is not None and not self.spec.slices and self._same_model(base, self.spec.base)
        base = self.spec.base if over_base and self.spec.base is not None else base
        base_source = self._source(base)
        if base in self.folders:
            self.folders[label] = self.folders[base]
        folder = self._places[adapter] = self._located(adapter)
        factors = open_model(folder, label, self._allow_bin, "adapter_model")
        return AdapterSource(base_source, factors, folder, label, over_base, over_base and label == adapter)

    def _base_and_adapter(self, path: str) -> tuple[str, str] | None:
        """The two parts of BASE+ADAPTER; None for any other name."""
        if path in self._states or "+" not in path or Path(path).expanduser().exists():
            return None
        base, _, adapter = path.partition("+")
        return base, adapter

    def _is_adapter(self, path: str) -> bool:
        if path in self._states or not (self._located(path) / "adapter_config.json").is_file():
            return False
        from stockpot.weights.adapter_config import is_adapter

        return is_adapter(self._located(path))

    def _config(self, path: str) -> AdapterConfig:
        from stockpot.weights.adapter_config import read_adapter_config

        return read_adapter_config(self._located(path))

    def _refuse_adapter(self, base: str) -> None:
        if base not in self._states and self._base_and_adapter(base) is None and self._is_adapter(base):
            raise StockpotError(f"{base} is an adapter and cannot be the base; the model that it makes is BASE+{base}.")

    def _same_model(self, first: str, second: str) -> bool:
        if first == second:
            return True
        if {first, second} & set(self._states) or self._base_and_adapter(first) or self._base_and_adapter(second):
            return False
        return self._located(first).resolve() == self._located(second).resolve()


def _own_base(path: str, config: AdapterConfig) -> str:
    name = config.base_model_name_or_path
    if not name:
        raise StockpotError(f"{path}: adapter_config.json has no base_model_name_or_path: give it, --base MODEL.")
    return f"{name}@{config.revision}" if config.revision and not Path(name).expanduser().exists() else name


def open_model(path: Path, label: str, allow_bin: bool = False, stem: str = "model") -> TensorSource:
    """Opens a checkpoint's tensors; a pickle only with `allow_bin`, and then without running any code in it."""
    if allow_bin and (pickles := _pickles(path, stem)):
        return MemorySource(_load(pickles), label, tuple(_facts(file) for file in pickles.values()))
    if path.suffix in PICKLE_SUFFIXES or (path.is_dir() and not _has_safetensors(path) and _pickles(path, stem)):
        raise StockpotError(
            f"{label} holds a pickle, which could run code, and no safetensors: --allow-bin loads only its tensors."
        )
    return FileSource(read_layout(path, stem), label)


def _has_safetensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _pickles(path: Path, stem: str = "model") -> dict[str, Path]:
    """File name → file of the pickles that hold a model; empty if there are safetensors."""
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
    """A pickle has no header: the hash is that of its first 64 KiB, which list its contents."""
    with file.open("rb") as handle:
        return FileFacts(file, file.stat().st_size, hashlib.sha256(handle.read(1 << 16)).hexdigest(), {})


def _load(files: Mapping[str, Path]) -> dict[str, Tensor]:
    import torch

    state: dict[str, Tensor] = {}
    for file in files.values():
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch raises many types for a pickle that holds more than tensors
            reason = str(error).splitlines()[0]
            raise StockpotError(f"{file} holds more than tensors, or is damaged: {reason}") from error
        if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
            loaded = loaded["state_dict"]
        if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
            raise StockpotError(f"{file} does not hold a state dict, which maps names to tensors and nothing else.")
        state.update(loaded)
    return state
