"""`stockpot inspect`: what a checkpoint holds, and how two differ."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.cli.console import say, show
from stockpot.errors import StockpotError
from stockpot.inspect.differences import Comparison, Difference, compare, match
from stockpot.inspect.facts import Facts, Ties, facts_of, find_ties, fold, open_source
from stockpot.merging.read.inputs import located
from stockpot.merging.read.sources import TensorInfo, TensorSource
from stockpot.merging.threads import processors
from stockpot.printing import escape_controls
from stockpot.weights.layout import FLOATS

# Lines of a folded listing, and of what is named below a table; --all prints all.
_ROWS = 200
_NAMED = 12
_NONE = "—"


def inspect(
    paths: Sequence[str],
    output: Path | None,
    every: bool,
    ties: bool,
    as_json: bool,
    allow_bin: bool,
    threads: int | None,
) -> None:
    """`stockpot inspect`: the facts of one checkpoint, or how each of the others differs from the first."""
    if ties and len(paths) > 1:
        raise StockpotError("--ties looks for equal tensors within one checkpoint: name one path.")
    if output is not None and len(paths) != 2:
        raise StockpotError(f"-o draws how two checkpoints differ: name two paths, not {len(paths)}.")
    pictures = [] if output is None else _pictures(output)
    with contextlib.ExitStack() as closing:
        sources: list[TensorSource] = []
        facts: list[Facts] = []
        for path in paths:
            place = located(path)
            sources.append(closing.enter_context(contextlib.closing(open_source(place, path, allow_bin))))
            facts.append(facts_of(place, sources[-1]))
        if len(paths) == 1:
            _inspect_one(sources[0], facts[0], every, ties, as_json)
            return
        comparisons = _compare(sources, threads or min(8, processors()))
    if as_json:
        _print_json({"checkpoints": [facts_json(one) for one in facts], "comparisons": list(map(_json, comparisons))})
    elif len(comparisons) == 1:
        _print_comparison(comparisons[0], every, hint=output is None)
    else:
        _print_totals(comparisons)
    if pictures:
        from stockpot.inspect.picture import picture, save

        figure = picture(comparisons[0])
        for file in pictures:
            save(figure, file)
            if not as_json:
                say(f"Picture: {file}")


def _pictures(output: Path) -> list[Path]:
    """The files that `-o` names: itself, or in a folder a PNG and an SVG."""
    if output.suffix in (".png", ".svg") and not output.is_dir():
        if not output.parent.is_dir():
            raise StockpotError(f"{output.parent}: there is no such folder.")
        return [output]
    if output.exists() and not output.is_dir():
        raise StockpotError(f"{output} is no folder; name one, or a file that ends in .png or .svg.")
    if not output.exists() and output.suffix:
        raise StockpotError(f"{output}: a picture's name ends in .png or .svg; or name a folder.")
    return [output / "difference.png", output / "difference.svg"]


def _compare(sources: Sequence[TensorSource], threads: int) -> list[Comparison]:
    from stockpot.merging.threads import one_thread_each

    total = sum(
        source.tensors[name].nbytes
        for other in sources[1:]
        for name in match(sources[0], other).common
        for source in (sources[0], other)
    )
    with one_thread_each(), _progress(total) as seen:
        return [compare(sources[0], other, threads, seen) for other in sources[1:]]


@contextlib.contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], object]]:
    """A bar in bytes on stderr, where that is a terminal and the work takes more than a second."""
    from tqdm import tqdm

    with tqdm(total=total, unit="B", unit_scale=True, delay=1, disable=None, leave=False) as bar:
        yield bar.update


def _inspect_one(source: TensorSource, facts: Facts, every: bool, ties: bool, as_json: bool) -> None:
    found = None
    if ties:
        with _progress(None) as seen:
            found = find_ties(source, seen)
    if as_json:
        _print_json({"checkpoints": [facts_json(facts, found)], "comparisons": []})
    else:
        _print_facts(facts, every, found)


def facts_json(facts: Facts, ties: Ties | None = None) -> dict[str, Any]:
    """The facts as JSON has them."""
    told: dict[str, Any] = {
        "path": facts.path,
        "kind": facts.kind,
        "parameters": facts.parameters,
        "bytes": facts.nbytes,
        "types": {
            dtype: {"tensors": len(infos), "parameters": _numel(infos), "bytes": _nbytes(infos)}
            for dtype, infos in facts.by_type.items()
        },
        "layers": {stack.removesuffix("."): count for stack, count in facts.layers.items()},
        "config": dict(facts.config),
        "metadata": facts.metadata,
        "files": [
            {"file": file.file.name, "bytes": file.nbytes, "header_sha256": file.header_sha256} for file in facts.files
        ],
        "tensors": {
            name: {"dtype": info.dtype, "shape": info.shape, "bytes": info.nbytes}
            for name, info in facts.tensors.items()
        },
    }
    return told if ties is None else told | {"ties": ties.groups, "constant": ties.constant}


def _json(comparison: Comparison) -> dict[str, Any]:
    pairs = comparison.match
    return {
        "first": comparison.first,
        "second": comparison.second,
        "distance": comparison.distance,
        "cosine": comparison.cosine,
        "identical": comparison.identical,
        "only_in_first": pairs.only_first,
        "only_in_second": pairs.only_second,
        "shapes_differ": pairs.shapes,
        "types_differ": pairs.dtypes,
        "tensors": {
            one.name: {
                "equal": one.equal, "distance": one.distance, "cosine": one.cosine, "nonfinite": one.nonfinite,
            }
            for one in comparison.differences
        },
    }  # fmt: skip


def _print_json(told: Mapping[str, Any]) -> None:
    say(json.dumps(told, indent=2, allow_nan=False))


def _numel(infos: Iterable[TensorInfo]) -> int:
    return sum(info.numel for info in infos)


def _nbytes(infos: Iterable[TensorInfo]) -> int:
    return sum(info.nbytes for info in infos)


def printable(text: str) -> str:
    """Names come from files of others: on one line, with nothing that would steer a terminal."""
    return escape_controls(text, lines=False)


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) if shape else "scalar"


def _size(count: int) -> str:
    from stockpot.printing import human_bytes

    return human_bytes(count)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _print_facts(facts: Facts, every: bool, ties: Ties | None) -> None:
    held = f"{_plural(facts.parameters, 'parameter')}, {_size(facts.nbytes)}"
    files = f" in {_plural(len(facts.files), 'file')}" if facts.files else ""
    say(printable(f"{facts.path}: {_plural(len(facts.tensors), 'tensor')}, {held}{files}"))
    rows = [("types", ", ".join(f"{dtype} {_of_type(infos)}" for dtype, infos in facts.by_type.items()))]
    rows.append(("layers", ", ".join(f"{count} in {stack.rstrip('.')}" for stack, count in facts.layers.items())))
    rows.append(("adapter" if facts.kind == "adapter" else "config", _said(facts.config)))
    rows.append(("metadata", "; ".join(f"{key} = {' | '.join(values)}" for key, values in facts.metadata.items())))
    for title, text in rows:
        if text:
            say(printable(f"{title + ':':<10}{text if every or len(text) <= 400 else text[:399] + '…'}"))
    if every:
        for name, info in facts.tensors.items():
            say(f"{info.dtype:<8} {_size(info.nbytes):>8}  {_shape(info.shape):<20} {printable(name)}")
    else:
        _print_folded(facts)
    _print_ties(facts, ties)


def _of_type(infos: Sequence[TensorInfo]) -> str:
    return f"({_plural(len(infos), 'tensor')}, {_plural(_numel(infos), 'parameter')}, {_size(_nbytes(infos))})"


def _said(config: Mapping[str, Any]) -> str:
    names = {"r": "rank", "base_model_name_or_path": "base"}
    return ", ".join(
        f"{names.get(key, key)} = {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in config.items()
    )


def _print_folded(facts: Facts) -> None:
    table = _table("tensors", ("count", "right"), ("type", "left"), ("shape of each", "left"), ("bytes", "right"))
    groups = fold(facts.tensors, lambda name: (facts.tensors[name].dtype, facts.tensors[name].shape))
    for pattern, names in groups[:_ROWS]:
        info = facts.tensors[names[0]]
        size = _size(len(names) * info.nbytes)
        table.add_row(_text(pattern), f"{len(names):,}", info.dtype, _shape(info.shape), size)
    show(table)
    _say_rest(len(groups))


def _table(first: str, *columns: tuple[str, str]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column(first, overflow="fold")
    for title, justify in columns:
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    return table


def _text(name: str) -> Any:
    from rich.text import Text

    return Text(printable(name))


def _say_rest(rows: int) -> None:
    if rows > _ROWS:
        say(f"… and {rows - _ROWS:,} more lines; --all lists every tensor.")


def _print_ties(facts: Facts, ties: Ties | None) -> None:
    if ties is None:
        say("--all lists every tensor one by one; --ties finds tensors that are stored more than once.")
        return
    for group in ties.groups:
        say(printable(f"Tied: {' = '.join(group)}"))
    if not ties.groups:
        say("Tied: none; no two tensors hold the same bytes." if not ties.constant else "Tied: none.")
    if ties.constant:
        say(
            f"{_plural(len(ties.constant), 'tensor')} equal others because they hold one value throughout, as fresh "
            "norms and biases do: not counted as tied."
        )
    if facts.config.get("tie_word_embeddings") is True:
        say("config.json ties the output's weights to the input embeddings, whether or not both are stored.")


def _number(value: float | None) -> str:
    if value is None or value == 0:
        return _NONE if value is None else "0"
    return (f"{value:.4f}" if 0.1 <= value < 10 else f"{value:.3g}").replace("-", "−")


def _cosine(value: float | None) -> str:
    if value is None:
        return _NONE
    if value == 1:
        return "1"
    if 0 < 1 - value < 5e-7:
        return f"1−{1 - value:.0e}".replace("e-0", "e-").replace("e-", "e−")
    return f"{value:.6f}".replace("-", "−")


def _print_comparison(comparison: Comparison, every: bool, hint: bool) -> None:
    measured = comparison.measured
    say(printable(f"a: {comparison.first}"))
    say(printable(f"b: {comparison.second}"))
    say(
        f"Over {_plural(len(measured), 'tensor')} together: relative distance ‖a−b‖/‖a‖ = "
        f"{_number(comparison.distance)}, cosine = {_cosine(comparison.cosine)}"
    )
    say(f"Identical: {comparison.identical:,} of {_plural(len(comparison.differences), 'tensor')} compared")
    if every:
        for one in measured:
            say(f"{_number(one.distance):>10}  {_cosine(one.cosine):>9}  {printable(one.name)}")
    elif measured:
        _print_kinds(measured)
    _print_mismatches(comparison, every)
    if hint:
        say("--all lists every tensor; -o difference.png draws distance and cosine by depth.")


def _print_kinds(measured: Sequence[Difference]) -> None:
    table = _table(
        "tensors",
        ("distance\nleast", "right"), ("\nmedian", "right"), ("\nmost", "right"),
        ("cosine\nleast", "right"), ("\nmedian", "right"), ("\nmost", "right"),
    )  # fmt: skip
    by_name = {one.name: one for one in measured}
    groups = fold(by_name)
    for pattern, names in groups[:_ROWS]:
        distances = [by_name[name].distance for name in names]
        cosines = [by_name[name].cosine for name in names]
        table.add_row(_text(pattern), *map(_number, _spread(distances)), *map(_cosine, _spread(cosines)))
    show(table)
    _say_rest(len(groups))
    if any(one.distance is None or one.cosine is None for one in measured):
        say(f"{_NONE}: a is zero, and nothing is relative to it; or b is, and has no direction.")


def _spread(values: Iterable[float | None]) -> tuple[float | None, float | None, float | None]:
    """The least, the median and the most of what is defined."""
    known = [value for value in values if value is not None]
    return (min(known), statistics.median(known), max(known)) if known else (None, None, None)


def _print_mismatches(comparison: Comparison, every: bool) -> None:
    pairs = comparison.match
    _print_named("Only in a", dict.fromkeys(pairs.only_first, ""), every)
    _print_named("Only in b", dict.fromkeys(pairs.only_second, ""), every)
    shapes = {name: f"{_shape(a)} in a, {_shape(b)} in b" for name, (a, b) in pairs.shapes.items()}
    _print_named("Shapes differ, not compared", shapes, every)
    dtypes = {name: f"{a} in a, {b} in b" for name, (a, b) in pairs.dtypes.items()}
    compared = {one.name for one in comparison.differences}
    _print_named("Types differ", {name: text for name, text in dtypes.items() if name in compared}, every)
    others = {name: text for name, text in dtypes.items() if name not in compared}
    _print_named("Types differ, not compared", others, every)
    nonfinite = {one.name: f"{one.nonfinite[0]:,} elements in a, {one.nonfinite[1]:,} in b"
                 for one in comparison.differences if one.nonfinite != (0, 0)}  # fmt: skip
    _print_named("NaN or infinity, left out of the sums", nonfinite, every)
    integers = {one.name: one.dtypes[0] for one in comparison.differences if one.dtypes[0] not in FLOATS}
    differing = {one.name for one in comparison.differences if not one.equal}
    _print_named("Integers that differ", {name: kind for name, kind in integers.items() if name in differing}, every)


def _print_named(title: str, named: Mapping[str, str], every: bool) -> None:
    """Names with what is to be said of each, folded where the same is."""
    if not named:
        return
    say(f"{title}: {len(named):,}")
    groups = [(name, [name]) for name in named] if every else fold(named, named.__getitem__)
    for pattern, names in groups if every else groups[:_NAMED]:
        many = f" ({len(names):,})" if len(names) > 1 else ""
        said = f": {named[names[0]]}" if named[names[0]] else ""
        say(printable(f"  {pattern}{many}{said}"))
    if not every and len(groups) > _NAMED:
        say(f"  … and {len(groups) - _NAMED:,} more lines; --all lists all.")


def _print_totals(comparisons: Sequence[Comparison]) -> None:
    say(printable(f"a: {comparisons[0].first}"))
    table = _table(
        "b", ("‖a−b‖/‖a‖", "right"), ("cosine", "right"), ("compared", "right"), ("identical", "right"),
        ("not compared", "right"),
    )  # fmt: skip
    for one in comparisons:
        table.add_row(
            _text(one.second), _number(one.distance), _cosine(one.cosine), f"{len(one.differences):,}",
            f"{one.identical:,}", f"{len(one.match.left_out):,}",
        )  # fmt: skip
    show(table)
    say("For the tensors one by one name two paths.")
