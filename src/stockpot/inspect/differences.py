"""How two checkpoints differ, tensor by tensor: distances and cosines, summed in fp64 a piece at a time."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from stockpot.errors import StockpotError
from stockpot.inspect.facts import Seen
from stockpot.merging.read.sources import TensorSource, torch_dtype
from stockpot.merging.threads import PIECE, for_each
from stockpot.weights.layout import FLOATS

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sums:
    """⟨a,a⟩, ⟨b,b⟩, ⟨a,b⟩ and ‖a−b‖² of two tensors, in fp64, and whether all elements are equal."""

    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    dd: float = 0.0
    equal: bool = True

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.aa + other.aa, self.bb + other.bb, self.ab + other.ab, self.dd + other.dd, self.equal and other.equal
        )

    @property
    def distance(self) -> float | None:
        """‖a−b‖/‖a‖; 0 where a equals b; None where only a is zero, and where the sums leave fp64's range."""
        if not all(map(math.isfinite, (self.aa, self.bb, self.ab, self.dd))):
            return None
        if self.equal:
            return 0.0
        return math.sqrt(self.dd) / math.sqrt(self.aa) if self.aa and self.dd else None

    @property
    def cosine(self) -> float | None:
        """⟨a,b⟩/(‖a‖‖b‖); None where a or b is zero, and where the sums leave fp64's range."""
        if self.distance is None or not self.aa or not self.bb:
            return None
        return 1.0 if self.equal else max(-1.0, min(1.0, self.ab / (math.sqrt(self.aa) * math.sqrt(self.bb))))


@dataclass(frozen=True, slots=True)
class Difference:
    """How one tensor differs: integers are equal or not; floats have a distance and a cosine too, while finite."""

    name: str
    dtypes: tuple[str, str]
    shape: tuple[int, ...]
    sums: Sums
    nonfinite: tuple[int, int]  # how many elements are NaN or infinite, in each

    @property
    def measured(self) -> bool:
        """Whether distance and cosine are to be had."""
        return self.dtypes[0] in FLOATS and self.nonfinite == (0, 0)

    @property
    def equal(self) -> bool:
        """Whether all elements are equal, NaN to NaN."""
        return self.sums.equal

    @property
    def distance(self) -> float | None:
        """‖a−b‖/‖a‖; see `Sums`."""
        return self.sums.distance if self.measured else None

    @property
    def cosine(self) -> float | None:
        """⟨a,b⟩/(‖a‖‖b‖); see `Sums`."""
        return self.sums.cosine if self.measured else None


@dataclass(frozen=True)
class Match:
    """Which tensors two checkpoints share: `common` can be compared, the others are named with the reason."""

    common: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]  # that differ
    dtypes: Mapping[str, tuple[str, str]]  # that differ; floats are compared all the same

    @property
    def left_out(self) -> frozenset[str]:
        """The names that cannot be compared."""
        return frozenset((*self.only_first, *self.only_second, *self.shapes, *self.dtypes)).difference(self.common)


@dataclass(frozen=True)
class Comparison:
    """How a second checkpoint differs from a first, tensor by tensor in the order of the first's files."""

    first: str
    second: str
    match: Match
    differences: tuple[Difference, ...]

    @cached_property
    def measured(self) -> tuple[Difference, ...]:
        """The tensors that have a distance and a cosine."""
        return tuple(one for one in self.differences if one.measured)

    @property
    def identical(self) -> int:
        """How many of the tensors compared are equal."""
        return sum(one.equal for one in self.differences)

    @property
    def distance(self) -> float | None:
        """‖a−b‖/‖a‖ over all that is measured, as if it were one vector; None where nothing is."""
        return self._total.distance if self.measured else None

    @property
    def cosine(self) -> float | None:
        """⟨a,b⟩/(‖a‖‖b‖) over all that is measured, as if it were one vector; None where nothing is."""
        return self._total.cosine if self.measured else None

    @cached_property
    def _total(self) -> Sums:
        return sum((one.sums for one in self.measured), Sums())


def match(first: TensorSource, second: TensorSource) -> Match:
    """Pairs tensors by name; from headers alone."""
    a, b = first.tensors, second.tensors
    both = [name for name in a if name in b]
    shapes = {name: (a[name].shape, b[name].shape) for name in both if a[name].shape != b[name].shape}
    dtypes = {name: (a[name].dtype, b[name].dtype) for name in both if a[name].dtype != b[name].dtype}
    common = [
        name
        for name in both
        if name not in shapes and (name not in dtypes or (a[name].dtype in FLOATS and b[name].dtype in FLOATS))
    ]
    only_first, only_second = (name for name in a if name not in b), (name for name in b if name not in a)
    return Match(tuple(common), tuple(only_first), tuple(only_second), shapes, dtypes)


def compare(
    first: TensorSource, second: TensorSource, threads: int = 1, seen: Seen = lambda nbytes: None
) -> Comparison:
    """Compares every tensor that both hold in one shape; the numbers are the same for any number of threads.

    Raises StockpotError where no name is common to both.
    """
    import torch

    found = match(first, second)
    if not found.common and not found.shapes and not found.dtypes:
        names = [next(iter(source.tensors), None) for source in (first, second)]
        shown = " and ".join(f"'{name}'" if name is not None else "no tensor at all" for name in names)
        raise StockpotError(
            f"{first.label} and {second.label} have no tensor's name in common (they begin with {shown}): "
            "nothing to compare."
        )
    pending = {name: _Pending(first.tensors[name].numel) for name in found.common}
    lock = threading.Lock()

    def act(piece: tuple[str, int, int]) -> None:
        name, start, stop = piece
        infos = first.tensors[name], second.tensors[name]
        wide = torch.float64 if "F64" in (infos[0].dtype, infos[1].dtype) else torch.float32
        dtype = wide if infos[0].dtype in FLOATS else torch_dtype(infos[0].dtype)
        a, b = torch.empty(stop - start, dtype=dtype), torch.empty(stop - start, dtype=dtype)
        first.read(name, start, a)
        second.read(name, start, b)
        part = _sums(a, b) if infos[0].dtype in FLOATS else (_unmeasured(a, b), (0, 0))
        with lock:
            pending[name].add(start, *part)
            seen(sum(info.nbytes * (stop - start) // info.numel for info in infos))

    pieces = (
        (name, start, min(start + PIECE, one.numel))
        for name, one in pending.items()
        for start in range(0, one.numel, PIECE)
    )
    for_each(pieces, act, threads)
    differences = tuple(
        Difference(name, (first.tensors[name].dtype, second.tensors[name].dtype), first.tensors[name].shape,
                   one.sums, (one.nonfinite[0], one.nonfinite[1]))
        for name, one in pending.items()
    )  # fmt: skip
    return Comparison(first.label, second.label, found, differences)


@dataclass
class _Pending:
    """A tensor's sums while its pieces come in; they are added in the order in which they lie in the tensor."""

    numel: int
    sums: Sums = Sums()
    nonfinite: Counter[int] = field(default_factory=Counter)
    _next: int = 0
    _waiting: dict[int, Sums] = field(default_factory=dict)

    def add(self, start: int, sums: Sums, nonfinite: tuple[int, int]) -> None:
        self.nonfinite.update({0: nonfinite[0], 1: nonfinite[1]})
        self._waiting[start] = sums
        while (ready := self._waiting.pop(self._next, None)) is not None:
            self.sums += ready
            self._next += PIECE


def _sums(a: Tensor, b: Tensor) -> tuple[Sums, tuple[int, int]]:
    import torch

    equal = torch.equal(a, b)
    x = a.double()
    aa = float(torch.dot(x, x))
    if equal and math.isfinite(aa):
        return Sums(aa, aa, aa, 0.0), (0, 0)
    y = b.double()
    bb, ab = float(torch.dot(y, y)), float(torch.dot(x, y))
    nonfinite = (0, 0)
    if not (math.isfinite(aa) and math.isfinite(bb)):
        nonfinite = (int((~a.isfinite()).sum()), int((~b.isfinite()).sum()))
        equal = bool(((a == b) | (a.isnan() & b.isnan())).all())
    y.sub_(x)
    return Sums(aa, bb, ab, float(torch.dot(y, y)), equal), nonfinite


def _unmeasured(a: Tensor, b: Tensor) -> Sums:
    import torch

    return Sums(equal=torch.equal(a.view(torch.uint8), b.view(torch.uint8)))
