"""Carries out `stockpot merge`, and prints its result."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from stockpot.api.launchers import refuse_launchers
from stockpot.cli.console import say, show
from stockpot.cli.interrupts import stopping_cleanly
from stockpot.errors import StockpotError
from stockpot.file_names import as_file_name
from stockpot.merging.execute import merge_into
from stockpot.merging.options import Options
from stockpot.merging.plan.costs import MergeEstimate, estimate_costs
from stockpot.merging.plan.merge_plan import check_rule
from stockpot.merging.plan.planned_merge import PlannedMerge, planned_merge
from stockpot.merging.spec.merge_spec import MergeModel, MergeSpec
from stockpot.merging.spec.spec_values import divide_parameters, dtype_name
from stockpot.merging.write.donor import choose_sidecars
from stockpot.merging.write.model_folder import refuse_output, resume_hint
from stockpot.printing import counted, human_bytes

_FEW = 20  # how many of the tensors that do not fit are printed


def merge_checkpoints(
    what: str,
    models: Sequence[str],
    base: str | None,
    output: Path | None,
    settings: Sequence[str],
    options: Options,
    changes: dict[str, Any],
    dry_run: bool,
    score: str | None,
) -> None:
    """Merges by a rule and models, or by a configuration file.

    Args:
        what: A rule, `greedy_soup`, or the path of a YAML file.
        models: The models; none with a file, which lists them.
        base: The base model.
        output: The output folder; default: `merged/RULE`.
        settings: The arguments of `--set`, see `parse_settings`.
        options: How to carry it out.
        changes: Fields of the spec that the command line sets; None means not set.
        dry_run: Only print what would be read and written.
        score: With `greedy_soup`: the scoring command.
    """
    refuse_launchers()
    if Path(what).suffix in (".yaml", ".yml"):
        spec = _from_file(Path(what), models, base, settings)
    else:
        spec = _from_arguments("linear" if what == "greedy_soup" else what, models, base, settings)
    if changes.get("dtype"):
        changes["dtype"] = dtype_name(changes["dtype"])
    spec = replace(spec, **{key: value for key, value in changes.items() if value is not None})
    target = output or Path("merged") / as_file_name(Path(what).stem if Path(what).suffix else what, "merge")
    if score and what != "greedy_soup":
        raise StockpotError("--score is only for greedy_soup.")
    with stopping_cleanly(lambda: _what_next(target)):
        if what == "greedy_soup":
            _greedy(spec, target, options, score)
        elif options.as_adapter:
            _adapter(spec, target, options, dry_run)
        elif options.adapter_rank is not None:
            raise StockpotError("--rank is only for writing an adapter: add --as-adapter.")
        elif dry_run:
            _dry_run(spec, target, options)
        else:
            _plain(spec, target, options)


def _what_next(output: Path) -> str:
    return (
        f"the model was already written: {output}."
        if output.is_dir() and any(output.iterdir())
        else resume_hint(output)
    )


def _plain(spec: MergeSpec, target: Path, options: Options) -> None:
    start = time.perf_counter()
    expected = _estimate(spec, target, options)
    with _progress_bar(expected.work) as on_progress:
        merge_into(spec, target, options, on_progress)
    seconds = time.perf_counter() - start
    say(
        f"Merged {counted(len(spec.models) or len(spec.slices), 'model' if spec.models else 'slice')} by {spec.rule}: "
        f"{counted(expected.tensors, 'tensor')}, {expected.parameters:,} parameters, {human_bytes(expected.written)} "
        f"in {seconds:.1f} s."
    )
    for note in expected.notes:
        say(f"Note: {note}.")
    say(f"Model: {target}")


def _estimate(spec: MergeSpec, output: Path, options: Options) -> MergeEstimate:
    with planned_merge(spec, options) as planned:
        return _with_notes(planned, output, options)


def _with_notes(planned: PlannedMerge, output: Path, options: Options) -> MergeEstimate:
    refuse_output(output, planned.paths)
    costs, sidecars = estimate_costs(planned.plan, output, options), choose_sidecars(planned.plan, planned.folders)
    return replace(costs, notes=tuple(note.rstrip(".") for note in (*costs.notes, *sidecars.notes)))


def parse_settings(rule: str, settings: Sequence[str], count: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Parses `key=value` (for all models), `key=v1,v2` (one for each model) and `key=[v1,v2]` (over depth).

    Returns the parameters of each of the `count` models, and the shared ones.
    """
    from stockpot.switches import read_switches
    from stockpot.yaml_text import parse_yaml

    def read(text: str) -> Any:
        return read_switches(parse_yaml(text, f"--set {setting}"))

    values: dict[str, Any] = {}
    over_depth: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise StockpotError(f"--set {setting}: write --set key=value.")
        if text.strip().startswith("["):
            items = read(text)
            if not isinstance(items, list) or not items:
                raise StockpotError(f"--set {setting}: write a list over depth as [first, …, last].")
            over_depth[key.strip()] = tuple(items)
        elif "," in text:
            values[key.strip()] = [read(part) for part in text.split(",")]
        else:
            values[key.strip()] = read(text)
    each, shared = divide_parameters(rule, values, count)
    return each, {**shared, **over_depth}


def _from_arguments(rule: str, models: Sequence[str], base: str | None, settings: Sequence[str]) -> MergeSpec:
    each, shared = parse_settings(rule, settings, len(models))
    merge_models = tuple(MergeModel(path, parameters) for path, parameters in zip(models, each, strict=True))
    return MergeSpec(rule, merge_models, base, shared)


def _from_file(file: Path, models: Sequence[str], base: str | None, settings: Sequence[str]) -> MergeSpec:
    from stockpot.merging.spec.mergekit_yaml import read_merge_config

    if models:
        raise StockpotError(f"{file} lists its models itself: leave out {models[0]}.")
    spec = read_merge_config(file)
    try:
        check_rule(spec)
    except StockpotError as error:
        raise StockpotError(f"{file}: {error}") from error
    each, shared = parse_settings(spec.rule, settings, len(spec.models))
    keys = {*shared, *(key for parameters in each for key in parameters)}

    def without(parameters: Any) -> dict[str, Any]:
        return {key: value for key, value in parameters.items() if key not in keys}

    merge_models = [
        MergeModel(model.path, {**without(model.parameters), **parameters})
        for model, parameters in zip(spec.models, each, strict=True)
    ]
    slices = [
        replace(
            part,
            parameters=without(part.parameters),
            sources=tuple(replace(source, parameters=without(source.parameters)) for source in part.sources),
        )
        for part in spec.slices
    ]
    return replace(
        spec,
        models=tuple(merge_models),
        slices=tuple(slices),
        base=base or spec.base,
        parameters={**without(spec.parameters), **shared},
    )


@contextmanager
def _progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar in bytes, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda nbytes: None
        return
    from tqdm import tqdm

    lock = threading.Lock()
    with tqdm(total=total, unit="B", unit_scale=True, dynamic_ncols=True, desc="merging") as bar:

        def on_progress(nbytes: int) -> None:
            with lock:
                bar.update(min(nbytes, total - int(bar.n)))

        yield on_progress
        bar.update(total - int(bar.n))


def _dry_run(spec: MergeSpec, output: Path, options: Options) -> None:
    from rich.table import Table

    if spec.on_missing == "error":
        _print_misfits(spec, options)
    with planned_merge(spec, options) as planned:
        expected = _with_notes(planned, output, options)
        table = Table("input", "files", "tensors", "types", "bytes", title=f"{spec.rule}: what would be read")
        for source in planned.plan.sources:
            kinds = sorted({info.dtype for info in source.tensors.values()})
            nbytes = sum(info.nbytes for info in source.tensors.values())
            table.add_row(
                source.label, str(len(source.files)), f"{len(source.tensors):,}", ", ".join(kinds), human_bytes(nbytes)
            )
    show(table)
    for line in _cost_lines(expected, output):
        say(line)


def _print_misfits(spec: MergeSpec, options: Options) -> None:
    """Prints all tensors that do not fit; the merge itself stops at the first."""
    try:
        with planned_merge(replace(spec, on_missing="skip"), options) as planned:
            notes = planned.plan.notes
    except StockpotError:
        return  # another mistake, which is reported later
    for note in notes[:_FEW]:
        say(f"Does not fit: {note.partition(': left out')[0]}.")
    if len(notes) > _FEW:
        say(f"Does not fit: {len(notes) - _FEW} more.")


def _cost_lines(expected: MergeEstimate, output: Path) -> list[str]:
    shards = counted(len(expected.shards), "file")
    return [
        f"Writes {human_bytes(expected.written)} to {output}: {counted(expected.tensors, 'tensor')}, "
        f"{expected.parameters:,} parameters of {', '.join(expected.dtypes)}, in {shards}.",
        f"Reads {human_bytes(expected.read)}{' in two passes' if expected.passes > 1 else ''}; memory about "
        f"{human_bytes(expected.memory)} with {counted(expected.threads, 'thread')}; "
        f"free on that disk: {human_bytes(expected.free)}.",
        *(f"Note: {note}." for note in expected.notes),
        "Nothing was written." if expected.fits else "Nothing was written, and it would not fit on that disk.",
    ]


def _adapter(spec: MergeSpec, output: Path, options: Options, dry_run: bool) -> None:
    from stockpot.merging.write.adapter_output import merged_modules, write_adapter

    with planned_merge(spec, options) as planned:
        refuse_output(output, planned.paths)
        modules = merged_modules(planned.plan, options.adapter_rank)
        parameters = sum(module.rank * (module.like.rows + module.like.columns) for module in modules)
    ranks = sorted({module.rank for module in modules})
    rank = f"rank {ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else "")
    what = f"{counted(len(modules), 'module')}, {rank}, {parameters:,} parameters"
    if dry_run:
        say(f"Writes an adapter to {output}: {what}.")
        say("Nothing was written.")
        return
    lost = write_adapter(spec, output, options.adapter_rank, options)
    say(f"Merged {counted(len(spec.models), 'adapter')} by {spec.rule} into an adapter: {what}.")
    if lost:
        say(f"The relative error of its ΔW against the full-rank merge is {lost:.3g}.")
    say(f"Adapter: {output}")


def _greedy(spec: MergeSpec, output: Path, options: Options, command: str | None) -> None:
    from stockpot.merging.greedy_soup import run_score
    from stockpot.merging.soup_candidates import soup_into

    if not command:
        raise StockpotError('greedy_soup needs a score on held-out data: --score "python evaluate.py {model}".')
    _estimate(spec, output, options)

    def on_score(models: Sequence[str], value: float) -> None:
        say(f"{value:.6g}  {' + '.join(models)}")

    soup = soup_into(spec, lambda folder: run_score(command, folder), output, options, on_score=on_score)
    say(f"The soup of {counted(len(soup.members), 'model')} scores {soup.score:.6g}.")
    say(f"Model: {output}")
