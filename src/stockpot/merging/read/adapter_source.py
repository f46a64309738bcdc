"""PEFT's LoRA adapters as models: what one adds to its base is formed where it is read, a block at a time."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stockpot.errors import StockpotError, did_you_mean
from stockpot.merging.read.adapter_config import ADAPTER_CONFIG, read_adapter_config
from stockpot.merging.read.sources import TensorInfo, TensorSource
from stockpot.merging.threads import PIECE
from stockpot.weights.layout import FLOATS, FileFacts
from stockpot.weights.tensor_names import EMBEDDING_ENDINGS, HEAD_ENDINGS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PEFT_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.(?:lora_(?P<plain>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))")


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
        if (
            writes
            and name.endswith(EMBEDDING_ENDINGS)
            and not any(held.endswith(HEAD_ENDINGS) for held in self.base.tensors)
        ):
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
