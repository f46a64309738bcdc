"""How two checkpoints differ, tensor by tensor: distances and cosines, summed in fp64 a piece at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import add
from typing import TYPE_CHECKING, Any

from stockpot.errors import StockpotError
from stockpot.merging.read.sources import TensorSource, read_pieces
from stockpot.merging.threads import for_each, one_thread_each
from stockpot.weights.layout import FLOATS

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """How a piece of a tensor differs, a whole one, or several as if they were one vector; differences add up."""

    sums: tuple[float, ...] = (0.0,) * 4  # ⟨a,a⟩, ⟨b,b⟩, ⟨a,b⟩ and ‖a−b‖² in fp64; integers have none
    equal: bool = True  # all elements, NaN to NaN
    nonfinite: tuple[int, ...] = (0, 0)  # how many elements are NaN or infinite, in each
    integers: str = ""  # the type of integers, empty for floats

    def __add__(self, other: TensorDifference) -> TensorDifference:
        sums, nonfinite = map(add, self.sums, other.sums), map(add, self.nonfinite, other.nonfinite)
        equal, integers = self.equal and other.equal, self.integers or other.integers
        return TensorDifference(tuple(sums), equal, tuple(nonfinite), integers)

    @property
    def measured(self) -> bool:
        """Whether all elements are finite floats."""
        return not self.integers and self.nonfinite == (0, 0)

    @property
    def distance(self) -> float | None:
        """‖a−b‖/‖a‖; 0 where a equals b; None where only a is zero, and where the sums exceed the range of fp64."""
        if not self.measured or not all(map(math.isfinite, self.sums)):
            return None
        aa, _, _, dd = self.sums
        return 0.0 if self.equal else math.sqrt(dd) / math.sqrt(aa) if aa and dd else None

    @property
    def cosine(self) -> float | None:
        """⟨a,b⟩/(‖a‖‖b‖); None where a or b is zero, and where the sums exceed the range of fp64."""
        aa, bb, ab, _ = self.sums
        if self.distance is None or not aa or not bb:
            return None
        return 1.0 if self.equal else max(-1.0, min(1.0, ab / (math.sqrt(aa) * math.sqrt(bb))))


@dataclass(frozen=True)
class CheckpointComparison:
    """How a second checkpoint differs from a first; tensors are in the order of the first's files."""

    first: str
    second: str
    only_first: list[str]
    only_second: list[str]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]  # that differ
    dtypes: dict[str, tuple[str, str]]  # that differ; two types of floats are compared all the same
    differences: dict[str, TensorDifference]

    @property
    def measured(self) -> dict[str, TensorDifference]:
        """The tensors of finite floats."""
        return {name: difference for name, difference in self.differences.items() if difference.measured}

    @property
    def whole(self) -> TensorDifference:
        """All that is measured, as if it were one vector; where nothing is, it has no distance."""
        measured = self.measured
        return sum(measured.values(), TensorDifference(equal=bool(measured)))

    @property
    def identical(self) -> int:
        """How many of the compared tensors are equal."""
        return sum(difference.equal for difference in self.differences.values())

    def as_json(self) -> dict[str, Any]:
        """As `stockpot inspect --json` prints it."""
        whole, keys = self.whole, ("equal", "distance", "cosine", "nonfinite")
        return {
            "first": self.first, "second": self.second,
            "distance": whole.distance, "cosine": whole.cosine, "identical": self.identical,
            "only_in_first": self.only_first, "only_in_second": self.only_second,
            "shapes_differ": self.shapes, "types_differ": self.dtypes,
            "tensors": {name: {key: getattr(each, key) for key in keys} for name, each in self.differences.items()},
        }  # fmt: skip


def match_tensors(first: TensorSource, second: TensorSource) -> CheckpointComparison:
    """Pairs tensors by name, from headers alone; raises StockpotError where no name is common to both."""
    a, b = first.tensors, second.tensors
    both = [name for name in a if name in b]
    if not both:
        starts = " and ".join(repr(next(iter(tensors), "")) for tensors in (a, b))
        raise StockpotError(
            f"{first.label} and {second.label} have no tensor name in common (they start with {starts})."
        )
    shapes = {name: (a[name].shape, b[name].shape) for name in both if a[name].shape != b[name].shape}
    dtypes = {name: (a[name].dtype, b[name].dtype) for name in both if a[name].dtype != b[name].dtype}
    differences = {
        name: TensorDifference(integers="" if a[name].dtype in FLOATS else a[name].dtype)
        for name in both
        if name not in shapes and FLOATS.issuperset(dtypes.get(name, ()))
    }
    only_first, only_second = [name for name in a if name not in b], [name for name in b if name not in a]
    return CheckpointComparison(first.label, second.label, only_first, only_second, shapes, dtypes, differences)


def compare_checkpoints(first: TensorSource, *others: TensorSource, threads: int = 1) -> list[CheckpointComparison]:
    """Compares each of the others with the first: every tensor that both hold in one shape.

    The numbers are the same for any number of threads: a tensor's pieces are summed in their order.
    Raises StockpotError where no name is common to both, before anything is read.
    """
    comparisons = [match_tensors(first, other) for other in others]
    if not comparisons:
        return []
    from tqdm import tqdm

    def compare_tensor(pair: tuple[int, str]) -> None:
        number, name = pair
        differences = comparisons[number].differences
        dtype = differences[name].integers or "F64"
        for pieces in zip(read_pieces(first, name, dtype), read_pieces(others[number], name, dtype), strict=True):
            differences[name] += _difference(*pieces)

    pairs = [(number, name) for number, comparison in enumerate(comparisons) for name in comparison.differences]
    with one_thread_each(), tqdm(pairs, unit=" tensors", delay=1, disable=None, leave=False) as bar:
        for_each(bar, compare_tensor, threads)
    return comparisons


def _difference(a: Tensor, b: Tensor) -> TensorDifference:
    import torch

    if not a.is_floating_point():
        return TensorDifference(equal=torch.equal(a.view(torch.uint8), b.view(torch.uint8)))
    aa, bb, ab = (float(torch.dot(x, y)) for x, y in ((a, a), (b, b), (a, b)))
    equal, nonfinite = torch.equal(a, b), (0, 0)
    if not math.isfinite(aa + bb):  # the only case in which the slow checks can find anything
        equal = torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        nonfinite = (int((~a.isfinite()).sum()), int((~b.isfinite()).sum()))
    b.sub_(a)
    return TensorDifference((aa, bb, ab, float(torch.dot(b, b))), equal, nonfinite)
