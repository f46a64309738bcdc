"""PEFT's LoRA adapters as models: ΔW is computed when it is read, a block at a time."""

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
from stockpot.merging.read.sources import TensorInfo, TensorSource
from stockpot.merging.threads import PIECE
from stockpot.weights.adapter_config import ADAPTER_CONFIG, read_adapter_config
from stockpot.weights.layout import FLOATS, FileFacts
from stockpot.weights.tensor_names import EMBEDDING_ENDINGS, HEAD_ENDINGS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PEFT_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.(?:lora_(?P<plain>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))")


@dataclass(frozen=True, slots=True)
class Factors:
    """What an adapter adds to one tensor, as a matrix of `rows` × `columns`: `ΔW = scale · L·R`.

    `a` and `b` name the adapter's tensors A and B: `L = B, R = A`, or for layers that store their weights transposed
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
        """Columns of ΔW: the product of all dimensions but the first."""
        return math.prod(self.shape[1:])


class AdapterSource:
    """A base with an adapter on it: `θ = θ_base + ΔW`; modules that were trained whole replace the base's.

    `stored` are the adapter's own tensors. `base` stays open when this is closed. `on_merge_base` says that `base` is
    also the base of the merge, so that ΔW is the task vector; `is_adapter` that this is merged as an adapter, not as
    the model that it makes.
    """

    def __init__(
        self,
        base: TensorSource,
        stored: TensorSource,
        folder: Path,
        label: str,
        on_merge_base: bool = True,
        is_adapter: bool = True,
    ) -> None:
        self.label, self.on_merge_base, self.is_adapter = label, on_merge_base, is_adapter
        self.config = read_adapter_config(folder)
        self.tensors: Mapping[str, TensorInfo] = base.tensors
        self.files = (*stored.files, _facts(folder / ADAPTER_CONFIG), *(() if on_merge_base else base.files))
        self.base, self.stored = base, stored
        self.factors: dict[str, Factors] = {}
        self.replaced: dict[str, str] = {}  # base's name → adapter's name, of tensors that were saved whole
        self._match_tensors()
        self.matrices = functools.lru_cache(maxsize=8)(self._matrices)

    def read(self, name: str, start: int, into: Tensor) -> None:
        """Fills the flat `into`, converting to its type, with the elements from `start` on."""
        import torch

        # Added in fp32 and rounded once, also where the caller wants bf16.
        exact = into.dtype in (torch.float32, torch.float64) or name not in self.factors
        total = into if exact else torch.empty(into.numel(), dtype=torch.float32)
        if name in self.replaced:
            self.stored.read(self.replaced[name], start, total)
        else:
            self.base.read(name, start, total)
        self._add(name, start, total)
        if total is not into:
            into.copy_(total)

    def read_delta(self, name: str, start: int, into: Tensor) -> bool:
        """The same for ΔW alone; returns False if the merge has another base."""
        import torch

        if not self.on_merge_base:
            return False
        if name in self.replaced:
            self.stored.read(self.replaced[name], start, into)
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
        self.stored.close()

    def _add(self, name: str, start: int, into: Tensor) -> None:
        """Adds ΔW[start:…], computed in blocks of a fixed grid, so that every bit is the same for any range."""
        if name not in self.factors:
            return
        factors = self.factors[name]
        rows, columns, stop = factors.rows, factors.columns, start + into.numel()
        height, width = max(1, PIECE // max(1, columns)), min(columns, PIECE)
        left, right = self.matrices(name, into.dtype)
        position = start
        while position < stop:
            row, column = divmod(position, columns)
            top, edge = row - row % height, column - column % width
            block = left[top : min(top + height, rows)] @ right[:, edge : edge + width]
            flat = block.mul_(factors.scale).reshape(-1)
            first = top * columns + edge
            end = min(stop, first + flat.numel())
            into[position - start : end - start].add_(flat[position - first : end - first])
            position = end

    def _matrices(self, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """L (rows × rank) and R (rank × columns) of a tensor, without the scale."""
        import torch

        factors = self.factors[name]

        def load(key: str) -> Tensor:
            info = self.stored.tensors[key]
            flat = torch.empty(info.numel, dtype=dtype)
            self.stored.read(key, 0, flat)
            return flat.view(info.shape).flatten(1)

        a, b = load(factors.a), load(factors.b)
        return (b, a) if factors.kind in ("linear", "convolution") else (a.t(), b.t())

    def _match_tensors(self) -> None:
        """Finds the base's tensor for every tensor of the adapter."""
        pairs: dict[tuple[str, bool], dict[str, str]] = {}
        for key in self.stored.tensors:
            if not key.startswith(PEFT_PREFIX):
                raise StockpotError(
                    f"{self.label}: tensor '{key}' does not have a name of PEFT's, which starts with {PEFT_PREFIX}"
                )
            name = key.removeprefix(PEFT_PREFIX)
            factor = _FACTOR.fullmatch(name)
            if factor is not None:
                letter = factor["plain"] or factor["embedding"]
                pairs.setdefault((factor["module"], factor["plain"] is None), {})[letter] = key
            elif ".lora_" in name:
                raise StockpotError(f"{self.label}: tensor '{key}' is not supported: only LoRA's A and B are.")
            elif ".base_layer." in name:  # next to the factors of embeddings PEFT saves the embeddings themselves
                self._replace(name.replace(".base_layer.", "."), key)
            else:
                self._refuse_tied(name, key)
                self._replace(name, key)
        for (module, embedding), keys in pairs.items():
            if len(keys) != 2:
                other = "B" if "A" in keys else "A"
                raise StockpotError(f"{self.label}: '{next(iter(keys.values()))}' has no matching {other}.")
            if f"{module}.weight" in self.factors:
                raise StockpotError(f"{self.label}: '{module}' has two kinds of factors.")
            self._fit(module, keys["A"], keys["B"], embedding)
        if not pairs and not self.replaced:
            raise StockpotError(f"{self.label}: the adapter has no tensors.")
        self._check_square()

    def _replace(self, name: str, key: str) -> None:
        shape, base = self.stored.tensors[key].shape, self._in_base(name, key).shape
        if shape != base:
            raise StockpotError(
                f"{self.label}: '{key}' has the shape {list(shape)}, but in the base {self.base.label} it is "
                f"{list(base)}: an adapter that resizes its base cannot be merged."
            )
        self.replaced[name] = key

    def _refuse_tied(self, name: str, key: str) -> None:
        """PEFT trains a copy of the embeddings and keeps the head; a base that stores no head cannot express that."""
        has_head = any(tensor.endswith(HEAD_ENDINGS) for tensor in self.base.tensors)
        generates = self.config.task_type in (None, "CAUSAL_LM", "SEQ_2_SEQ_LM")
        if generates and name.endswith(EMBEDDING_ENDINGS) and not has_head:
            raise StockpotError(
                f"{self.label}: '{key}' was trained whole, but {self.base.label} has no head apart from its embeddings "
                "(tied?), so the merged head would change too. Save the base with an untied head first."
            )

    def _in_base(self, name: str, key: str) -> TensorInfo:
        info = self.base.tensors.get(name)
        if info is None:
            tied = " Is it tied to the embeddings there?" if name == "lm_head.weight" else ""
            hint = tied or did_you_mean(name, self.base.tensors)
            raise StockpotError(f"{self.label}: '{key}' is for '{name}', which {self.base.label} lacks.{hint}")
        return info

    def _fit(self, module: str, key_a: str, key_b: str, embedding: bool) -> None:
        name = f"{module}.weight"
        info, a, b = self._in_base(name, key_a), self.stored.tensors[key_a], self.stored.tensors[key_b]
        for key, dtype in ((key_a, a.dtype), (key_b, b.dtype), (name, info.dtype)):
            if dtype not in FLOATS or dtype.startswith("F8"):
                raise StockpotError(f"{self.label}: '{key}' has the type {dtype}; LoRA needs F16, BF16, F32 or F64.")
        rank, wanted = a.shape[0] if a.shape else 0, self.config.rank(module)
        kind = _kind(a.shape, b.shape, info.shape, embedding, self.config.fan_in_fan_out)
        if kind is None:
            raise StockpotError(
                f"{self.label}: '{module}' has A {list(a.shape)} and B {list(b.shape)}, whose product does not have "
                f"the shape {list(info.shape)} of '{name}' in {self.base.label}."
            )
        if rank != wanted:
            raise StockpotError(f"{self.label}: '{key_a}' has rank {rank}, but {ADAPTER_CONFIG} says {wanted}.")
        self.factors[name] = Factors(module, kind, key_a, key_b, rank, self.config.scale(module), info.shape)

    def _check_square(self) -> None:
        """A square matrix does not show whether it is stored transposed; fan_in_fan_out must be right for it."""
        dense = [factors for factors in self.factors.values() if factors.kind in ("linear", "transposed")]
        declared = "transposed" if self.config.fan_in_fan_out else "linear"
        contradicting = next((factors for factors in dense if factors.kind != declared), None)
        square = next((factors for factors in dense if factors.rows == factors.columns), None)
        if contradicting is not None and square is not None:
            raise StockpotError(
                f"{self.label}: fan_in_fan_out={str(self.config.fan_in_fan_out).lower()} is wrong for "
                f"'{contradicting.module}', so it is unknown whether the square '{square.module}' is transposed."
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
