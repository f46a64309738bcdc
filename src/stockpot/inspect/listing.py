"""What `stockpot inspect` prints, line by line."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence

from stockpot.inspect.differences import CheckpointComparison
from stockpot.inspect.facts import CheckpointFacts
from stockpot.inspect.name_patterns import fold_names, grouped
from stockpot.inspect.tied_tensors import TiedTensors
from stockpot.printing import counted, human_bytes

_LONGEST = 400  # letters of a line about types, layers, configuration or metadata


def facts_report(facts: CheckpointFacts, every: bool, ties: TiedTensors | None) -> Iterator[str]:
    """One checkpoint: types, layers, configuration, metadata, and its tensors folded by layer, or one by one."""
    files = f" in {counted(len(facts.files), 'file')}" if facts.files else ""
    yield f"{facts.path}: {_amounts(len(facts.tensors), facts.parameters, facts.bytes)}{files}"
    for title, parts in {
        "types": [f"{dtype} ({_amounts(**row)})" for dtype, row in facts.types.items()],
        "layers": [f"{count} in {stack}" for stack, count in facts.layers.items()],
        facts.kind: [f"{key} = {v if isinstance(v, str) else json.dumps(v)}" for key, v in facts.config.items()],
        "metadata": [f"{key} = {' | '.join(values)}" for key, values in facts.metadata.items()],
    }.items():
        if text := "; ".join(parts):
            yield f"{title + ':':<10}{text if every or len(text) <= _LONGEST else text[: _LONGEST - 1] + '…'}"
    rows = [("count", "type", "shape of each", "bytes", "tensors")]
    for pattern, names in fold_names(facts.tensors, lambda name: tuple(facts.tensors[name].values()), every):
        dtype, shape, nbytes = facts.tensors[names[0]].values()
        rows.append((f"{len(names):,}", dtype, _shape(shape), human_bytes(len(names) * nbytes), pattern))
    yield from _aligned(rows)
    if ties is None:
        yield "--all lists every tensor; --ties finds tensors that are stored more than once."
        return
    yield from (f"Tied: {' = '.join(group)}" for group in ties.ties or [["none"]])
    if ties.constant:
        constant = counted(len(ties.constant), "tensor")
        yield f"Not counted as tied: {constant} equal to others and of one value throughout, as fresh norms are."


def comparison_report(comparisons: Sequence[CheckpointComparison], every: bool) -> Iterator[str]:
    """Each checkpoint against the first; of two alone also their tensors, by kind or one by one, and mismatches."""
    yield f"a: {comparisons[0].first}"
    for each in comparisons:
        compared, together = (counted(len(names), "tensor") for names in (each.differences, each.measured))
        left_out = {*each.only_first, *each.only_second, *each.shapes, *each.dtypes} - {*each.differences}
        distance, cosine = _number(each.whole.distance, 4), _number(each.whole.cosine, 7)
        yield f"b: {each.second}"
        yield f"   distance ‖a−b‖/‖a‖ = {distance}, cosine = {cosine} over {together} as one vector"
        yield f"   {compared} compared, {each.identical:,} identical, {len(left_out):,} not compared"
    if len(comparisons) > 1:
        yield "Name two paths to see the tensors one by one."
        return
    measured = comparisons[0].measured
    rows = [["distance: least", "median", "most", "cosine: least", "median", "most", "tensors"]]
    for pattern, names in fold_names(measured, every=every):
        tensors = [measured[name] for name in names]
        distances, cosines = [each.distance for each in tensors], [each.cosine for each in tensors]
        rows.append([*_spread(distances, digits=4), *_spread(cosines, digits=7), pattern])
    yield from _aligned(rows)
    if any(tensor.distance is None or tensor.cosine is None for tensor in measured.values()):
        yield "—: a is zero, so nothing is relative to it; or b is zero, and has no direction."
    for note, noted in grouped(_notes(comparisons[0])).items():
        for pattern, names in fold_names(noted, every=every):
            yield f"{note}: {pattern}{f' ({len(names):,})' if len(names) > 1 else ''}"
    yield "--all lists every tensor; -o difference.png draws distance and cosine by depth."


def _notes(comparison: CheckpointComparison) -> Iterator[tuple[str, str]]:
    """What differs beyond numbers, with the name of the tensor."""
    yield from (("Only in a", name) for name in comparison.only_first)
    yield from (("Only in b", name) for name in comparison.only_second)
    for name, shapes in comparison.shapes.items():
        yield "Shape {} in a, {} in b, not compared".format(*map(_shape, shapes)), name
    for name, dtypes in comparison.dtypes.items():
        left_out = "" if name in comparison.differences else ", not compared"
        yield "Type {} in a, {} in b".format(*dtypes) + left_out, name
    for name, tensor in comparison.differences.items():
        if tensor.integers and not tensor.equal:
            yield f"{tensor.integers}, not equal", name
        if tensor.nonfinite != (0, 0):
            yield "NaN or infinity, left out of the sums: {:,} elements in a, {:,} in b".format(*tensor.nonfinite), name


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table whose last column, of names, is as wide as it needs to be: a name is never broken."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *cells, name in rows:
        yield "  ".join([*map(str.rjust, cells, widths), name])


def _amounts(tensors: int, parameters: int, bytes: int) -> str:
    return f"{counted(tensors, 'tensor')}, {counted(parameters, 'parameter')}, {human_bytes(bytes)}"


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "scalar"


def _spread(values: Sequence[float | None], digits: int) -> list[str]:
    """The least, the median and the most of what is defined; a single value once."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ["", "", _number(known[0] if known else None, digits)]
    return [_number(measure(known), digits) for measure in (min, statistics.median, max)]


def _number(value: float | None, digits: int) -> str:
    return "—" if value is None else f"{value:.{digits}g}".replace("-", "−")
