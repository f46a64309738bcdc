"""The exact k-th largest |τ| of a group of tensors, in one pass over them and without sorting them.

A sample brackets it. One pass counts what lies above the bracket and keeps the magnitudes inside or, if they are many,
a histogram of their bits: non-negative floats are ordered as their bits are. If a histogram bin still holds several
values, or the bracket missed, another pass follows.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from stockpot.merging.rule import Cut
from stockpot.merging.threads import PIECE, for_each

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_SAMPLE = 1 << 20  # elements, of a group of 64 times as many or more; at least 1/32 of that
_RUN = 2048  # elements that are sampled together; a quarter of it where the sample is as large as it gets
_MARGIN = 6.0  # standard errors of the sample's quantile on either side: elements of a run are alike
_GATHERED = 1 << 22  # magnitudes inside a bracket that are kept; where more are expected, a histogram counts them
_BINS = 1 << 20
_REMEMBERED = 16  # different magnitudes in a bracket that are remembered for each piece


@dataclass(frozen=True)
class Stretch:
    """The elements [start, stop) of the group's tensor number `tensor`."""

    tensor: int
    start: int
    stop: int


_NOTHING: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

# Loads one stretch of every model's task vector, as flat tensors that may be written to.
Load = Callable[[Stretch], Sequence["Tensor"]]


@dataclass
class _Search:
    """The search for one cut: the bits of the k-th largest magnitude of one model lie in [low, high]."""

    model: int
    name: str
    k: int
    low: int = 0
    high: int = 0
    shift: int = 0
    above: int = 0
    value_bits: int | None = None
    equal: int = 0
    bins: Any = None
    gathered: dict[int, Any] | None = None
    remembered: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)


def find_cuts(
    sizes: Sequence[int],
    counts: Sequence[Mapping[str, int]],
    stretches: Sequence[Stretch],
    load: Load,
    threads: int,
    wide: bool,
    on_stretch: Callable[[Stretch], None] = lambda stretch: None,
) -> list[list[dict[str, Cut]]]:
    """The cuts of each tensor of the group and each model, so that exactly `counts[model][name]` elements are kept.

    Args:
        sizes: Number of elements of each tensor.
        counts: For each model, how many elements each cut keeps, by the cut's name.
        stretches: Consecutive ranges that cover all tensors, in order.
        load: Loads a stretch of every model's task vector.
        threads: Number of threads.
        wide: Whether task vectors are fp64, not fp32.
        on_stretch: Called after each stretch of a pass.

    If several elements have the smallest magnitude that is kept, those stored first are kept.
    """
    searches = [_Search(model, name, k) for model, cuts in enumerate(counts) for name, k in cuts.items() if k > 0]
    if searches:
        _bracket(searches, sizes, load, threads, wide)
    while active := [search for search in searches if search.value_bits is None]:
        _count(active, stretches, load, threads, on_stretch)
        for search in active:
            _narrow(search, wide)
    ends = {(search.model, search.name): _end(search, len(sizes), stretches, load, wide) for search in searches}
    keys = [(model, name) for model, each in enumerate(counts) for name in each]
    keep_nothing = (math.inf, 0, 0)

    @cache  # most tensors lie wholly before or after all ends and share one result: 100,000 dicts would take 60 MB
    def by_model(cuts: tuple[Cut, ...]) -> list[dict[str, Cut]]:
        cuts_of_models: list[dict[str, Cut]] = [{} for _ in counts]
        for (model, name), cut in zip(keys, cuts, strict=True):
            cuts_of_models[model][name] = cut
        return cuts_of_models

    return [by_model(tuple(_cut(tensor, *ends.get(key, keep_nothing)) for key in keys)) for tensor in range(len(sizes))]


def magnitude_bits(vector: Tensor) -> NDArray[Any]:
    """The bits of |x| as integers, in place. Their order is that of |x|, with NaN above everything.

    IEEE 754 stores the exponent above the mantissa, so that non-negative floats are ordered as their bits are.
    """
    import numpy as np

    array = vector.numpy()
    kind, mask = (np.int64, 2**63 - 1) if array.itemsize == 8 else (np.int32, 2**31 - 1)
    bits: NDArray[Any] = array.view(kind)
    np.bitwise_and(bits, kind(mask), out=bits)
    return bits


def _value(bits: int, wide: bool) -> float:
    import numpy as np

    return float(np.array(bits, np.int64 if wide else np.int32).view(np.float64 if wide else np.float32))


def _bracket(searches: Sequence[_Search], sizes: Sequence[int], load: Load, threads: int, wide: bool) -> None:
    """Sets every search's bracket around its quantile in a sample that is spread evenly over the group."""
    import numpy as np

    total = sum(sizes)
    step = max(1, total // max(_SAMPLE // 32, min(_SAMPLE, total // 64), 1))
    longest = _RUN if total < 64 * _SAMPLE else max(1, _RUN // 4)
    run = max(1, min(longest, total // len(sizes))) if step > 1 else PIECE
    room = sum(part.stop - part.start for part in _runs_of(sizes, run, run * step))
    samples = {search.model: np.empty(room, np.int64 if wide else np.int32) for search in searches}
    lock, filled = threading.Lock(), 0

    def act(stretch: Stretch) -> None:
        nonlocal filled
        vectors = load(stretch)
        with lock:
            first = filled
            filled += stretch.stop - stretch.start
        for model, sample in samples.items():
            sample[first : first + stretch.stop - stretch.start] = magnitude_bits(vectors[model])

    for_each(_runs_of(sizes, run, run * step), act, threads)
    for model, sample in samples.items():
        sample.sort()
        for search in searches:
            if search.model == model:
                last, share = len(sample) - 1, search.k / total
                middle = len(sample) * (1 - share)
                margin = 0 if step == 1 else _MARGIN * math.sqrt(len(sample) * share * (1 - share))
                search.low = int(sample[max(0, min(last, int(middle - margin) - 1))])
                search.high = int(sample[max(0, min(last, int(middle + margin) + 1))])
                _resolve(search, 2 * margin / len(sample) * total)


def _runs_of(sizes: Sequence[int], run: int, every: int) -> Iterator[Stretch]:
    """Runs of `run` elements, one in `every` elements of all tensors together; a run ends with its tensor."""
    position, tensor_start = 0, 0
    for tensor, size in enumerate(sizes):
        while position < tensor_start + size:
            start = position - tensor_start
            yield Stretch(tensor, start, min(start + run, size))
            position = tensor_start + min(start + run, size) if every == run else position + every
        tensor_start += size


def _resolve(search: _Search, expected: float) -> None:
    """Prepares a pass in which `expected` magnitudes should lie inside the bracket."""
    import numpy as np

    search.above, search.remembered, search.bins = 0, {}, None
    search.gathered = {} if expected <= _GATHERED and search.low < search.high else None
    if search.gathered is not None:
        return
    search.shift = max(0, (search.high - search.low).bit_length() - _BINS.bit_length() + 1)
    search.bins = np.zeros(((search.high - search.low) >> search.shift) + 1, dtype=np.int64)


def _count(
    searches: Sequence[_Search],
    stretches: Sequence[Stretch],
    load: Load,
    threads: int,
    on_stretch: Callable[[Stretch], None],
) -> None:
    """One pass: counts for each search what lies above its bracket, and gathers or histograms what lies inside."""
    import numpy as np

    lock = threading.Lock()

    def act(numbered: tuple[int, Stretch]) -> None:
        number, stretch = numbered
        vectors = load(stretch)
        bits = {search.model: magnitude_bits(vectors[search.model]) for search in searches}
        for search in searches:
            magnitudes = bits[search.model]
            above = np.count_nonzero(magnitudes > search.high)
            if search.low == search.high:  # as in bf16, where magnitudes repeat
                values, counts = np.array([search.low]), np.array([np.count_nonzero(magnitudes == search.low)])
            else:
                # One unsigned comparison tests both ends: what is below `low` wraps around to a large number.
                unsigned = np.uint64 if magnitudes.itemsize == 8 else np.uint32
                from_low = (magnitudes - magnitudes.dtype.type(search.low)).view(unsigned)
                inside = magnitudes[np.flatnonzero(from_low <= unsigned(search.high - search.low))]
                if search.gathered is not None:
                    with lock:
                        search.above += int(above)
                        if len(inside):
                            search.gathered[number] = inside
                    continue
                values, counts = _runs(inside)
            bins = (values - search.low) >> search.shift
            with lock:
                search.above += int(above)
                if search.shift:
                    np.add.at(search.bins, bins, counts)  # several values may share a bin
                else:
                    search.bins[bins] += counts
                if not len(values):
                    search.remembered[number] = _NOTHING
                elif len(values) <= _REMEMBERED:
                    # Kept as small Python objects: an array here would fragment the memory that freed pieces leave.
                    search.remembered[number] = (tuple(values.tolist()), tuple(counts.tolist()))
        on_stretch(stretch)

    for_each(enumerate(stretches), act, threads)


def _joined(parts: Mapping[int, NDArray[Any]]) -> NDArray[Any]:
    import numpy as np

    return np.concatenate(list(parts.values())) if parts else np.empty(0, np.int32)


def _runs(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The distinct values, ascending, and how often each occurs."""
    import numpy as np

    values.sort()
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = np.concatenate(([0], edges)) if len(values) else edges
    return values[starts], np.diff(np.append(starts, len(values)))


def _narrow(search: _Search, wide: bool) -> None:
    """After a pass: sets the value itself, or a narrower bracket, or moves a bracket that missed to the right side."""
    import numpy as np

    gathered = None if search.gathered is None else _joined(search.gathered)
    inside = int(search.bins.sum()) if gathered is None else len(gathered)
    if search.k <= search.above:
        search.low, search.high = search.high + 1, (1 << (63 if wide else 31)) - 1
        return _resolve(search, math.inf)
    if search.k > search.above + inside:
        search.low, search.high = 0, search.low - 1
        return _resolve(search, math.inf)
    if gathered is not None:
        position = len(gathered) - (search.k - search.above)
        search.value_bits = int(np.partition(gathered, position)[position])
        search.equal = int(np.count_nonzero(gathered == search.value_bits))
        search.above += int(np.count_nonzero(gathered > search.value_bits))
        return None
    from_top = search.above + np.cumsum(search.bins[::-1])
    chosen = len(search.bins) - 1 - int(np.searchsorted(from_top, search.k))  # the bin of the k-th largest
    in_bin = int(search.bins[chosen])
    low = search.low + (chosen << search.shift)
    if search.shift == 0:
        search.value_bits, search.equal = low, in_bin
        search.above = int(from_top[len(search.bins) - 1 - chosen]) - in_bin
        search.bins = None
        return None
    search.low, search.high = low, min(search.high, low + (1 << search.shift) - 1)
    return _resolve(search, in_bin)


def _end(search: _Search, tensors: int, stretches: Sequence[Stretch], load: Load, wide: bool) -> tuple[float, int, int]:
    """The smallest magnitude that is kept, and the tensor and index from which elements equal to it are dropped."""
    import numpy as np

    assert search.value_bits is not None
    value, wanted = _value(search.value_bits, wide), search.k - search.above
    if wanted < search.equal:
        for number, stretch in enumerate(stretches):
            equal = _equals(search, number, stretch, load)
            if wanted <= equal:
                bits = magnitude_bits(load(stretch)[search.model])
                last = int(np.flatnonzero(bits == search.value_bits)[wanted - 1])
                return value, stretch.tensor, stretch.start + last + 1
            wanted -= equal
    return value, tensors, 0


def _cut(tensor: int, value: float, end: int, position: int) -> Cut:
    """One tensor's cut, if equals are kept before index `position` of tensor number `end` and dropped after it."""
    return Cut(value, position if tensor == end else sys.maxsize if tensor < end else 0)


def _equals(search: _Search, number: int, stretch: Stretch, load: Load) -> int:
    """How many elements of a stretch have the smallest magnitude that is kept."""
    import numpy as np

    if search.gathered is not None:
        inside = search.gathered.get(number)
        return 0 if inside is None else int(np.count_nonzero(inside == search.value_bits))
    if number in search.remembered:
        values, counts = search.remembered[number]
        return counts[values.index(search.value_bits)] if search.value_bits in values else 0
    return int(np.count_nonzero(magnitude_bits(load(stretch)[search.model]) == search.value_bits))
