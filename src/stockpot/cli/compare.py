"""`stockpot compare`: tunes if asked to, runs every cell, and says what was found."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.arguments import (
    Output,
    Overrides,
    RecipeFile,
    RunCode,
    RunCodeUnsandboxed,
    default_output,
)
from stockpot.cli.compare_options import CompareOptions, apply_options, command_line, parse_shard
from stockpot.cli.console import say, show
from stockpot.cli.interrupts import stopping_after_step
from stockpot.cli.preparation import prepare_command
from stockpot.errors import StockpotError
from stockpot.files import explaining_disk_errors, write_text

if TYPE_CHECKING:
    from stockpot.comparisons.cells import CellPlan
    from stockpot.comparisons.engines import CellEngine
    from stockpot.methods.base import BaseConfig
    from stockpot.recipe.schema import Recipe, Tune
    from stockpot.results import Results


def compare_command(
    recipe_file: RecipeFile,
    overrides: Overrides = None,
    output: Output = None,
    methods: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="labels of the recipe's `compare`, or names of methods")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="number of seeds: the recipe's first, then others")] = None,
    orders: Annotated[
        int | None, typer.Option(min=1, help="number of orders of the tasks: as written first, then others")
    ] = None,
    tune: Annotated[
        int | None, typer.Option(min=1, metavar="TRIALS", help="first tune parameters, with this many trials a method")
    ] = None,
    search: Annotated[str | None, typer.Option(metavar="grid|random|optuna", help="how trials are chosen")] = None,
    minutes: Annotated[
        str | None,
        typer.Option("--budget", metavar="TIME", help="90s, 30m, 2h: start no new round of trials after this time"),
    ] = None,
    front: Annotated[
        int | None,
        typer.Option("--pareto", min=2, metavar="POINTS", help="every method at this many strengths: past against new"),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="number of runs at a time")] = 1,
    engine: Annotated[str | None, typer.Option(metavar="processes|ray", help="where the runs are executed")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="only this share of the runs")] = None,
    run_code: RunCode = False,
    run_code_unsandboxed: RunCodeUnsandboxed = False,
) -> None:
    """Run the methods of `compare` beside plain fine-tuning and joint training, over all seeds; resumable."""
    options = CompareOptions(methods, seeds, orders, tune, search, minutes, front, jobs, engine, shard)
    share = parse_shard(shard)
    prepare_command(run_code, run_code_unsandboxed, shares=share[1] > 1)
    from stockpot.comparisons.running import ShardDone

    try:
        _compare(recipe_file, overrides or [], output, options, share)
    except ShardDone as done:  # the other shards are not finished: no mistake, exit code 0
        say(str(done))


def _compare(
    recipe_file: Path, overrides: Sequence[str], output: Path | None, options: CompareOptions, shard: tuple[int, int]
) -> None:
    from stockpot.comparisons.cells import contenders, plan, prepare
    from stockpot.comparisons.front import run_front
    from stockpot.comparisons.running import CellRunner
    from stockpot.comparisons.summary import summarise_comparison, write_comparison
    from stockpot.comparisons.tuning import tune
    from stockpot.recipe.read import read_recipe
    from stockpot.recipe.resolve import to_values, to_yaml
    from stockpot.report.comparison_page import write_comparison_report
    from stockpot.report.other_scores import other_scores_of_comparison
    from stockpot.report.terminal import comparison_table, grid_table
    from stockpot.runs.progress import terminal_progress
    from stockpot.training.job import Interrupted

    recipe = apply_options(read_recipe(recipe_file, overrides), options)
    path = output or default_output(recipe.name)
    engine = _engine(options)
    opened = prepare(recipe, path)
    methods, tuning = contenders(recipe), None
    with explaining_disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    write_text(path / "recipe.yaml", to_yaml(to_values(recipe)))
    again = command_line(recipe_file, overrides, path, options)
    bars = terminal_progress(_most_runs(recipe, methods, shard))
    with stopping_after_step(again) as stop, closing(bars) as progress:
        running = CellRunner(recipe, path, stop, progress, engine, shard)
        if opened is not None and recipe.tune is None:
            running.opened[(0, False)] = opened
        try:
            if recipe.tune is not None:
                methods, tuning = tune(running, recipe.tune, methods)
            done = [(cell, results) for cell, results in running.run(plan(recipe, methods)) if results is not None]
            points = run_front(running, methods, recipe.front) if recipe.front else []
        except Interrupted:
            progress.close()
            _show_so_far(recipe, plan(recipe, methods), path)
            raise
    comparison = summarise_comparison(recipe, done, tuning, points)
    write_comparison(comparison, path)
    by_label: dict[str, list[Results]] = {}
    for cell, results in done:
        by_label.setdefault(cell.method.title, []).append(results)
    with explaining_disk_errors(path):
        page = write_comparison_report(comparison, by_label, path)
    show(comparison_table(comparison))
    for grid in other_scores_of_comparison(comparison, by_label):
        show(grid_table(grid))
    for sentence in comparison.sentences:
        say(sentence)
    say(f"Numbers: {path / 'comparison.json'}")
    say(f"Report:  {page}")


def _show_so_far(recipe: Recipe, cells: Sequence[CellPlan], path: Path) -> None:
    """The table of the reported runs that are finished, without conclusions; nothing is written."""
    from stockpot.comparisons.cells import is_finished
    from stockpot.comparisons.summary import summarise_comparison
    from stockpot.report.terminal import comparison_table
    from stockpot.runs.folder import RunFolder
    from stockpot.runs.results_json import results_of

    done = [(cell, results_of(RunFolder.open(path / cell.path))) for cell in cells if is_finished(path / cell.path)]
    say(f"\nSo far {len(done)} of {len(cells)} reported runs are finished.")
    if done:
        show(comparison_table(summarise_comparison(recipe, done)))


def _engine(options: CompareOptions) -> CellEngine | None:
    from stockpot.comparisons.engines import in_processes, on_ray

    if options.engine not in (None, "processes", "ray"):
        raise StockpotError(f"--engine: {options.engine!r} is not processes or ray.")
    if options.engine == "ray":
        return on_ray()
    return in_processes(options.jobs) if options.jobs > 1 or options.engine else None


def _most_runs(recipe: Recipe, methods: Sequence[BaseConfig], shard: tuple[int, int]) -> int:
    """An upper limit of the runs: a grid may have fewer points than trials, and a time limit may end the tuning."""
    trials = _tuning_stages(recipe.tune, sum(bool(method.searched()) for method in methods)) if recipe.tune else []
    points = sum(method.varied_key is not None for method in methods) * _runs_per_method(recipe) * (recipe.front or 0)
    number, count = shard
    return sum(
        len(range(number - 1, stage, count)) for stage in (*trials, len(methods) * _runs_per_method(recipe), points)
    )


def _tuning_stages(tune: Tune, methods: int) -> list[int]:
    """How many runs the trials are, and each round of further ones beyond the ends of what was tried."""
    from stockpot.comparisons.extension import round_size

    return [
        methods * trials * len(tune.seeds) for trials in (tune.trials, *[round_size(tune.trials)] * tune.extensions)
    ]


def _runs_per_method(recipe: Recipe) -> int:
    return len(recipe.seeds) * recipe.orders
