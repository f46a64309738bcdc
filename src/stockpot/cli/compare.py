"""`stockpot compare`: tunes if asked to, runs every cell, and says what was found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.api.launchers import refuse_launchers
from stockpot.cli.arguments import Output, Overrides, RecipeFile, RunCode, RunCodeUnsandboxed
from stockpot.cli.compare_options import CompareOptions, apply_options, command_line
from stockpot.cli.console import say, show
from stockpot.cli.interrupts import explaining_stops
from stockpot.cli.json_document import Json, one_document

if TYPE_CHECKING:
    from stockpot.api.comparison_result import ComparisonResult
    from stockpot.recipe.schema import Recipe


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
    as_json: Json = False,
) -> None:
    """Run the methods of `compare` beside plain fine-tuning and joint training, over all seeds; resumable."""
    options = CompareOptions(methods, seeds, orders, tune, search, minutes, front, jobs, engine, shard)
    from stockpot.api.many_runs import check_engine, compare
    from stockpot.api.recipe_changes import parse_shard
    from stockpot.api.recipe_like import as_recipe, default_folder
    from stockpot.comparisons.running import ShardDone

    refuse_launchers(shares=parse_shard(shard, "--shard")[1] > 1)
    recipe = apply_options(as_recipe(recipe_file, overrides or []), options)
    check_engine(engine, "--engine")
    path = output or default_folder(recipe)
    with one_document(as_json) as hand_over:
        try:
            with explaining_stops(partial(_go_on, recipe, recipe_file, overrides or [], options)):
                done = compare(
                    recipe,
                    output=path,
                    jobs=jobs,
                    engine=engine,
                    shard=shard,
                    run_code=run_code,
                    run_code_unsandboxed=run_code_unsandboxed,
                )
        except ShardDone as part:  # the other shards are not finished: no mistake, exit code 0
            say(str(part))
            hand_over({"unfinished": str(part)})
        else:
            _finish_comparison(done)
            hand_over(done.results)


def _go_on(recipe: Recipe, recipe_file: Path, overrides: Sequence[str], options: CompareOptions, path: Path) -> str:
    """Shows the reported runs that are finished, without conclusions; returns the command that goes on."""
    from stockpot.api.many_runs import so_far
    from stockpot.report.terminal import comparison_table

    comparison, done, count = so_far(recipe, path)
    say(f"\nSo far {done} of {count} reported runs are finished.")
    if comparison is not None:
        show(comparison_table(comparison))
    return command_line(recipe_file, overrides, path, options)


def _finish_comparison(done: ComparisonResult) -> None:
    """Writes the report, and prints tables, findings and where things are."""
    from stockpot.report.other_scores import other_scores_of_comparison
    from stockpot.report.terminal import comparison_table, grid_table

    page = done.report(again=True)
    show(comparison_table(done.results))
    for grid in other_scores_of_comparison(done.results, done.runs):
        show(grid_table(grid))
    for sentence in done.results.sentences:
        say(sentence)
    say(f"Numbers: {done.path / 'comparison.json'}")
    say(f"Report:  {page}")
