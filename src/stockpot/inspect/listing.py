"""What `stockpot inspect` prints: lines of text and tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.table import Table

from stockpot.inspect.differences import CheckpointComparison
from stockpot.inspect.facts import CheckpointFacts
from stockpot.inspect.name_patterns import fold_names
from stockpot.inspect.tied_tensors import TiedTensors
from stockpot.printing import counted, human_bytes

_ROWS = 200  # of a folded table
_NAMED = 12  # lines of names below a table
_LONGEST = 400  # letters of a line about the configuration or metadata


def facts_report(facts: CheckpointFacts, every: bool, ties: TiedTensors | None) -> Iterator[str | Table]:
    """One checkpoint: types, layers, configuration, metadata, and its tensors folded by layer, or one by one."""
    files = f" in {counted(len(facts.files), 'file')}" if facts.files else ""
    yield f"{facts.path}: {_amounts(len(facts.tensors), facts.parameters, facts.bytes)}{files}"
    titles = {"r": "rank", "base_model_name_or_path": "base"}
    config = [(titles.get(key, key), v if isinstance(v, str) else json.dumps(v)) for key, v in facts.config.items()]
    for title, text in {
        "types": ", ".join(f"{dtype} ({_amounts(**row)})" for dtype, row in facts.types.items()),
        "layers": ", ".join(f"{count} in {stack}" for stack, count in facts.layers.items()),
        "adapter" if facts.kind == "adapter" else "config": ", ".join(f"{key} = {value}" for key, value in config),
        "metadata": "; ".join(f"{key} = {' | '.join(values)}" for key, values in facts.metadata.items()),
    }.items():
        if text:
            yield f"{title + ':':<10}{text if every or len(text) <= _LONGEST else text[: _LONGEST - 1] + '…'}"
    if every:
        for name, row in facts.tensors.items():
            yield f"{row['dtype']:<8} {human_bytes(row['bytes']):>8}  {_shape(row['shape']):<20} {name}"
    else:
        groups = fold_names(facts.tensors, lambda name: (facts.tensors[name]["dtype"], facts.tensors[name]["shape"]))
        heads = ["tensors", "count", "type", "shape of each", "bytes"]
        rows = [(pattern, len(names), facts.tensors[names[0]]) for pattern, names in groups]
        yield from _folded(heads, [
            (pattern, f"{count:,}", row["dtype"], _shape(row["shape"]), human_bytes(count * row["bytes"]))
            for pattern, count, row in rows
        ])  # fmt: skip
    if ties is None:
        yield "--all lists every tensor; --ties finds tensors that are stored more than once."
        return
    yield from (f"Tied: {' = '.join(group)}" for group in ties.groups)
    if not ties.groups:
        yield "Tied: none." if ties.constant else "Tied: none; no two tensors hold the same bytes."
    if ties.constant:
        yield (
            f"{counted(len(ties.constant), 'tensor')} equal others because they hold one value throughout, as fresh "
            "norms and biases do: not counted as tied."
        )
    if facts.config.get("tie_word_embeddings") is True:
        yield "config.json ties the output weights to the input embeddings, whether or not both are stored."


def comparison_report(comparison: CheckpointComparison, every: bool) -> Iterator[str | Table]:
    """Two checkpoints: distance and cosine over all, by kind of tensor or tensor by tensor, and what does not match."""
    measured, whole = comparison.measured, comparison.whole
    yield f"a: {comparison.first}"
    yield f"b: {comparison.second}"
    yield (
        f"Over {counted(len(measured), 'tensor')} together: relative distance ‖a−b‖/‖a‖ = {_number(whole.distance)}, "
        f"cosine = {_cosine(whole.cosine)}"
    )
    yield f"Identical: {comparison.identical:,} of {counted(len(comparison.differences), 'tensor')} compared"
    if every:
        for name, tensor in measured.items():
            yield f"{_number(tensor.distance):>10}  {_cosine(tensor.cosine):>9}  {name}"
    elif measured:
        heads = ["tensors", "distance\nleast", "\nmedian", "\nmost", "cosine\nleast", "\nmedian", "\nmost"]
        yield from _folded(heads, [
            (pattern, *map(_number, _extremes(measured[name].distance for name in names)),
             *map(_cosine, _extremes(measured[name].cosine for name in names)))
            for pattern, names in fold_names(measured)
        ])  # fmt: skip
        if any(tensor.distance is None or tensor.cosine is None for tensor in measured.values()):
            yield "—: a is zero, so nothing is relative to it; or b is zero, and has no direction."
    yield from _mismatches(comparison, every)


def totals_report(comparisons: Sequence[CheckpointComparison]) -> Iterator[str | Table]:
    """Several checkpoints, each compared with the first."""
    yield f"a: {comparisons[0].first}"
    yield from _folded(["b", "‖a−b‖/‖a‖", "cosine", "compared", "identical", "not compared"], [
        (each.second, _number(each.whole.distance), _cosine(each.whole.cosine), f"{len(each.differences):,}",
         f"{each.identical:,}", f"{len(each.left_out):,}")
        for each in comparisons
    ])  # fmt: skip
    yield "Name two paths to see the tensors one by one."


def _mismatches(comparison: CheckpointComparison, every: bool) -> Iterator[str]:
    """What differs beyond numbers; names are folded where the same note stands beside them."""
    compared = comparison.differences
    dtypes = {name: f"{a} in a, {b} in b" for name, (a, b) in comparison.dtypes.items()}
    for title, notes in {
        "Only in a": dict.fromkeys(comparison.only_first, ""),
        "Only in b": dict.fromkeys(comparison.only_second, ""),
        "Shapes differ, not compared": {
            name: f"{_shape(a)} in a, {_shape(b)} in b" for name, (a, b) in comparison.shapes.items()
        },
        "Types differ": {name: note for name, note in dtypes.items() if name in compared},
        "Types differ, not compared": {name: note for name, note in dtypes.items() if name not in compared},
        "NaN or infinity, left out of the sums": {
            name: f"{tensor.nonfinite[0]:,} elements in a, {tensor.nonfinite[1]:,} in b"
            for name, tensor in compared.items()
            if tensor.nonfinite != (0, 0)
        },
        "Integers that differ": {
            name: tensor.integers for name, tensor in compared.items() if tensor.integers and not tensor.equal
        },
    }.items():
        if notes:
            yield f"{title}: {len(notes):,}"
            groups = [(name, [name]) for name in notes] if every else fold_names(notes, notes.__getitem__)
            for pattern, names in groups if every else groups[:_NAMED]:
                count = f" ({len(names):,})" if len(names) > 1 else ""
                yield f"  {pattern}{count}{notes[names[0]] and ': '}{notes[names[0]]}"
            if not every and len(groups) > _NAMED:
                yield f"  … and {len(groups) - _NAMED:,} more lines; --all lists all."


def _folded(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str | Table]:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column(heads[0], overflow="fold")  # names, which wrap
    for head in heads[1:]:
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows[:_ROWS]:
        table.add_row(*row)
    yield table
    if len(rows) > _ROWS:
        yield f"… and {len(rows) - _ROWS:,} more lines; --all lists every tensor."


def _amounts(tensors: int, parameters: int, bytes: int) -> str:
    return f"{counted(tensors, 'tensor')}, {counted(parameters, 'parameter')}, {human_bytes(bytes)}"


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "scalar"


def _extremes(values: Iterable[float | None]) -> tuple[float | None, float | None, float | None]:
    """The least, the median and the most of what is defined."""
    known = [value for value in values if value is not None]
    return (min(known), statistics.median(known), max(known)) if known else (None, None, None)


def _number(value: float | None) -> str:
    if value is None or value == 0:
        return "—" if value is None else "0"
    return (f"{value:.4f}" if 0.1 <= value < 10 else f"{value:.3g}").replace("-", "−")


def _cosine(value: float | None) -> str:
    if value is None or value == 1:
        return "—" if value is None else "1"
    if 0 < 1 - value < 5e-7:  # six decimals would show it as 1
        return f"1−{1 - value:.0e}".replace("e-0", "e-").replace("e-", "e−")
    return f"{value:.6f}".replace("-", "−")
