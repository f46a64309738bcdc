"""PEFT's LoRA adapters as models: what one adds to its base is formed where it is read, a block at a time."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveInt, ValidationError

from stockpot.errors import StockpotError, did_you_mean
from stockpot.merging.read.sources import TensorInfo, TensorSource
from stockpot.merging.threads import PIECE
from stockpot.weights.layout import FLOATS, FileFacts, indexed_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_T = TypeVar("_T")
ADAPTER_CONFIG = "adapter_config.json"
PEFT_PREFIX = "base_model.model."
_LONGEST_PATTERN = 500
_FACTOR = re.compile(r"(?P<module>.+)\.(?:lora_(?P<plain>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))")
_LONGEST_CONFIG = 8 << 20
# Keys that say how an adapter was made or trained, not what it adds.
_WITHOUT_EFFECT = frozenset({
    "auto_mapping", "inference_mode", "peft_version", "target_modules", "exclude_modules", "lora_dropout",
    "modules_to_save", "layers_to_transform", "layers_pattern", "megatron_core", "loftq_config", "eva_config",
    "corda_config", "lora_ga_config", "velora_config", "qalora_group_size", "runtime_config",
})  # fmt: skip
# Initialisations that take from the base what they give to A and B: the file alone does not say what was trained.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "shared.weight", "word_embeddings.weight", "embed_in.weight")
_HEADS = ("lm_head.weight", "embed_out.weight", "predictions.decoder.weight", "lm_head.decoder.weight")


class AdapterConfig(BaseModel):
    """The part of an adapter_config.json that is used.

    `read_adapter_config` refuses any other key that would change the weights.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    peft_type: str
    base_model_name_or_path: str | None = None
    revision: str | None = None
    task_type: str | None = None
    r: PositiveInt = 8
    lora_alpha: FiniteFloat = 8
    rank_pattern: dict[str, PositiveInt] | None = None
    alpha_pattern: dict[str, FiniteFloat] | None = None
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    init_lora_weights: bool | str | None = True

    def rank(self, module: str) -> int:
        """r of one module."""
        return _by_pattern(self.rank_pattern or {}, module, self.r)

    def scale(self, module: str) -> float:
        """What B·A is multiplied by: `α/r`, or `α/√r` rank-stabilised (arXiv 2312.03732)."""
        alpha, rank = _by_pattern(self.alpha_pattern or {}, module, self.lora_alpha), self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter's configuration and weights."""
    names = ("adapter_model.safetensors", "adapter_model.safetensors.index.json", "adapter_model.bin")
    return (path / ADAPTER_CONFIG).is_file() and any((path / name).is_file() for name in names)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """The configuration of a LoRA adapter; raises StockpotError for another method, or a feature not supported."""
    file = indexed_file(folder, folder, ADAPTER_CONFIG)
    if file.stat().st_size > _LONGEST_CONFIG:
        raise StockpotError(f"{file} is longer than {_LONGEST_CONFIG:,} bytes: no adapter's configuration.")
    try:
        config = AdapterConfig.model_validate_json(file.read_bytes())
        for pattern in (*(config.rank_pattern or {}), *(config.alpha_pattern or {})):
            re.compile(rf"(.*\.)?({pattern})$")
            # From a foreign file: a repeated group can take for ever to not match, and no module's name needs one.
            if re.search(r"\)[*+{]", pattern) or len(pattern) > _LONGEST_PATTERN:
                raise StockpotError(
                    f"{file}: the pattern {_short(pattern)!r} repeats a group, or is too long: not read."
                )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise StockpotError(f"{file}: {where}: {first['msg']}.") from error
    except (re.error, RecursionError, OverflowError) as error:
        raise StockpotError(f"{file}: rank_pattern or alpha_pattern holds no regular expression: {error}.") from error
    refused = _refused(config)
    if refused:
        raise StockpotError(f"{file}: {refused}.")
    return config


def _refused(config: AdapterConfig) -> str | None:
    if config.peft_type != "LORA":
        return f"peft_type {config.peft_type} is not supported, only LORA: merge it with PEFT (`merge_and_unload`)"
    init = config.init_lora_weights
    if isinstance(init, str) and init.lower().startswith(_CHANGES_BASE):
        return (
            f"init_lora_weights {init!r} changes the base too: save the adapter with "
            "`save_pretrained(…, path_initial_model_for_weight_conversion=…)`, which makes it a plain one"
        )
    if config.bias != "none":
        return f"bias {config.bias!r} is not supported: biases that were trained are no part of B·A"
    for key, value in (config.model_extra or {}).items():
        if value and key not in _WITHOUT_EFFECT:
            dora = " (DoRA)" if key == "use_dora" else ""
            return f"{key}={_short(value)}{dora} is not supported: merge it with PEFT (`merge_and_unload`), if that can"
    return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:40] + "…"


def _by_pattern(patterns: Mapping[str, _T], module: str, default: _T) -> _T:
    """The first value whose key is a regular expression for the end of the module's name, from a dot on."""
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return patterns.get(module, default)


@dataclass(frozen=True, slots=True)
class Factors:
    """What an adapter adds to one tensor, folded to `rows` × `columns`: `ΔW = scale · L·R`.

    A and B are the adapter's tensors: `L = B, R = A`, and for what stores its weights the other way round
    (`transposed`, `embedding`) `L = Aᵀ, R = Bᵀ`.
    """

    module: str
    kind: Literal["linear", "transposed", "embedding", "convolution"]
    a: str
    b: str
    rank: int
    scale: float
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of ΔW."""
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Columns of ΔW, all dimensions but the first together."""
        return math.prod(self.shape[1:])


class AdapterSource:
    """A base with an adapter on it: `θ = θ_base + ΔW`, or a module that was trained whole in the base's place.

    `base` stays open when this is closed. `over` says that `base` is the base of the merge too, so that the adapter
    alone says what a task vector is; `adapter`, that it is to be merged as an adapter and not as the model it makes.
    """

    def __init__(
        self, base: TensorSource, own: TensorSource, folder: Path, label: str, over: bool = True, adapter: bool = True
    ) -> None:
        self.label, self.over, self.adapter = label, over, adapter
        self.config = read_adapter_config(folder)
        self.tensors: Mapping[str, TensorInfo] = base.tensors
        self.files = (*own.files, _facts(folder / ADAPTER_CONFIG), *(() if over else base.files))
        self.base, self.own = base, own
        self.factors: dict[str, Factors] = {}
        self.replaced: dict[str, str] = {}  # the base's name → the adapter's, of modules that were saved whole
        self._settle()
        self.matrices = functools.lru_cache(maxsize=8)(self._matrices)

    def read(self, name: str, start: int, into: Tensor) -> None:
        """Fills the flat `into`, converting to its type, with the elements from `start` on."""
        import torch

        exact = into.dtype in (torch.float32, torch.float64) or name not in self.factors
        sum_ = into if exact else torch.empty(into.numel(), dtype=torch.float32)
        if name in self.replaced:
            self.own.read(self.replaced[name], start, sum_)
        else:
            self.base.read(name, start, sum_)
        self._add(name, start, sum_)
        if sum_ is not into:
            into.copy_(sum_)

    def read_delta(self, name: str, start: int, into: Tensor) -> bool:
        """The same for ΔW alone; False where the merge has another base."""
        import torch

        if not self.over:
            return False
        if name in self.replaced:
            self.own.read(self.replaced[name], start, into)
            weights = torch.empty_like(into)
            self.base.read(name, start, weights)
            into.sub_(weights)
        else:
            into.zero_()
        self._add(name, start, into)
        return True

    def close(self) -> None:
        """Closes the adapter's files."""
        self.matrices.cache_clear()
        self.own.close()

    def _add(self, name: str, start: int, into: Tensor) -> None:
        """Adds ΔW[start:…], from blocks of a fixed grid: no bit of it hangs on the range that was asked for."""
        if name not in self.factors:
            return
        factors = self.factors[name]
        rows, columns, stop = factors.rows, factors.columns, start + into.numel()
        height, width = max(1, PIECE // max(1, columns)), min(columns, PIECE)
        left, right = self.matrices(name, into.dtype)
        place = start
        while place < stop:
            row, column = divmod(place, columns)
            top, edge = row - row % height, column - column % width
            block = left[top : min(top + height, rows)] @ right[:, edge : edge + width]
            flat = block.mul_(factors.scale).reshape(-1)
            first = top * columns + edge
            end = min(stop, first + flat.numel())
            into[place - start : end - start].add_(flat[place - first : end - first])
            place = end

    def _matrices(self, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """L and R of a tensor, without the scale."""
        import torch

        factors = self.factors[name]

        def load(key: str) -> Tensor:
            info = self.own.tensors[key]
            flat = torch.empty(info.numel, dtype=dtype)
            self.own.read(key, 0, flat)
            return flat.view(info.shape).flatten(1)

        a, b = load(factors.a), load(factors.b)
        return (b, a) if factors.kind in ("linear", "convolution") else (a.t(), b.t())

    def _settle(self) -> None:
        """Finds for every tensor of the adapter its place in the base."""
        pairs: dict[tuple[str, bool], dict[str, str]] = {}
        for key in self.own.tensors:
            if not key.startswith(PEFT_PREFIX):
                raise StockpotError(f"{self.label}: tensor '{key}' is not named as PEFT names it, {PEFT_PREFIX}….")
            name = key.removeprefix(PEFT_PREFIX)
            found = _FACTOR.fullmatch(name)
            if found is not None:
                letter = found["plain"] or found["embedding"]
                pairs.setdefault((found["module"], found["plain"] is None), {})[letter] = key
            elif ".lora_" in name:
                raise StockpotError(f"{self.label}: tensor '{key}' is more than LoRA's A and B: not supported.")
            elif ".base_layer." in name:  # beside factors for embeddings PEFT saves the embeddings themselves
                self._replace(name.replace(".base_layer.", "."), key)
            else:
                self._refuse_tied(name, key)
                self._replace(name, key)
        for (module, embedding), keys in pairs.items():
            if len(keys) != 2:
                other = "B" if "A" in keys else "A"
                raise StockpotError(f"{self.label}: '{next(iter(keys.values()))}' is there without its {other}.")
            if f"{module}.weight" in self.factors:
                raise StockpotError(f"{self.label}: '{module}' has factors of two kinds.")
            self._fit(module, keys["A"], keys["B"], embedding)
        if not pairs and not self.replaced:
            raise StockpotError(f"{self.label}: the adapter holds no tensors.")
        self._check_square()

    def _replace(self, name: str, key: str) -> None:
        shape, base = self.own.tensors[key].shape, self._in_base(name, key).shape
        if shape != base:
            raise StockpotError(
                f"{self.label}: '{key}' has the shape {list(shape)}, in the base {self.base.label} it is "
                f"{list(base)}: an adapter that resizes its base cannot be merged over it."
            )
        self.replaced[name] = key

    def _refuse_tied(self, name: str, key: str) -> None:
        """PEFT trains a copy of embeddings and leaves the head as it was, which a base without a head cannot say."""
        writes = self.config.task_type in (None, "CAUSAL_LM", "SEQ_2_SEQ_LM")
        if writes and name.endswith(_EMBEDDINGS) and not any(held.endswith(_HEADS) for held in self.base.tensors):
            raise StockpotError(
                f"{self.label}: '{key}' was trained whole, and {self.base.label} holds no head beside its embeddings "
                "(tied?): merged, the head would change with them. Save the base with a head of its own first."
            )

    def _in_base(self, name: str, key: str) -> TensorInfo:
        info = self.base.tensors.get(name)
        if info is None:
            tied = " Is it tied to the embeddings there?" if name == "lm_head.weight" else ""
            hint = tied or did_you_mean(name, self.base.tensors)
            raise StockpotError(f"{self.label}: '{key}' is for a tensor that {self.base.label} lacks: '{name}'.{hint}")
        return info

    def _fit(self, module: str, key_a: str, key_b: str, embedding: bool) -> None:
        name = f"{module}.weight"
        info, a, b = self._in_base(name, key_a), self.own.tensors[key_a], self.own.tensors[key_b]
        for key, dtype in ((key_a, a.dtype), (key_b, b.dtype), (name, info.dtype)):
            if dtype not in FLOATS or dtype.startswith("F8"):
                raise StockpotError(f"{self.label}: '{key}' has the type {dtype}; LoRA is merged in plain floats only.")
        rank, wanted = a.shape[0] if a.shape else 0, self.config.rank(module)
        kind = _kind(a.shape, b.shape, info.shape, embedding, self.config.fan_in_fan_out)
        if kind is None:
            raise StockpotError(
                f"{self.label}: '{module}' has A {list(a.shape)} and B {list(b.shape)}, which do not make the "
                f"{list(info.shape)} of '{name}' in {self.base.label}."
            )
        if rank != wanted:
            raise StockpotError(f"{self.label}: '{key_a}' has rank {rank}, {ADAPTER_CONFIG} says {wanted}.")
        self.factors[name] = Factors(module, kind, key_a, key_b, rank, self.config.scale(module), info.shape)

    def _check_square(self) -> None:
        """A square matrix does not show which way it is stored: there fan_in_fan_out has to be trustworthy."""
        dense = [one for one in self.factors.values() if one.kind in ("linear", "transposed")]
        wanted = "transposed" if self.config.fan_in_fan_out else "linear"
        against = next((one for one in dense if one.kind != wanted), None)
        square = next((one for one in dense if one.rows == one.columns), None)
        if against is not None and square is not None:
            raise StockpotError(
                f"{self.label}: fan_in_fan_out={str(self.config.fan_in_fan_out).lower()} does not fit "
                f"'{against.module}', so which way '{square.module}', which is square, is stored cannot be told."
            )


def _kind(
    a: tuple[int, ...], b: tuple[int, ...], base: tuple[int, ...], embedding: bool, fan_in_fan_out: bool
) -> Literal["linear", "transposed", "embedding", "convolution"] | None:
    if not len(a) == len(b) == len(base) >= 2 or a[0] != b[1] or a[0] < 1:
        return None
    straight, crossed = (b[0], *a[1:]) == base, len(base) == 2 and (a[1], b[0]) == base
    if embedding:
        return "embedding" if crossed else None
    if len(base) > 2:
        return "convolution" if straight and set(b[2:]) == {1} else None
    if crossed and (fan_in_fan_out or not straight):
        return "transposed"
    return "linear" if straight else None


def _facts(file: Path) -> FileFacts:
    content = file.read_bytes()
    return FileFacts(file, len(content), hashlib.sha256(content).hexdigest(), {})
