"""`stockpot.compare`: tunes if asked to, runs every cell, and sums them up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.api.comparison_result import ComparisonResult
from stockpot.api.preparation import prepared
from stockpot.api.recipe_changes import RecipeChanges, parse_shard
from stockpot.api.recipe_like import as_recipe, default_folder, method_names, passed_names, recognised, with_data
from stockpot.api.stopping import stopping_after_step
from stockpot.comparisons.cells import contenders, is_finished, plan, prepare
from stockpot.comparisons.engines import CellEngine, in_processes, on_ray
from stockpot.comparisons.extension import round_size
from stockpot.comparisons.front import run_front
from stockpot.comparisons.running import CellRunner
from stockpot.comparisons.summary import summarise_comparison, write_comparison
from stockpot.comparisons.tuning import tune as tune_methods
from stockpot.errors import StockpotError
from stockpot.files import explaining_disk_errors, write_text
from stockpot.methods.base import BaseConfig
from stockpot.plugins import lives_in_main
from stockpot.recipe.resolve import to_values, to_yaml
from stockpot.recipe.schema import Recipe, Tune
from stockpot.results import Comparison, Results
from stockpot.runs.brought_code import named_code
from stockpot.runs.folder import RunFolder
from stockpot.runs.progress import Progress, terminal_progress, write_line
from stockpot.runs.results_json import results_of

if TYPE_CHECKING:
    from stockpot.api.recipe_like import RecipeLike
    from stockpot.methods.base import Method


def compare(
    recipe: RecipeLike,
    overrides: Sequence[str] = (),
    *,
    output: str | os.PathLike[str] | None = None,
    data: Any = None,
    methods: Sequence[str | type[Method[Any]]] | None = None,
    seeds: int | None = None,
    orders: int | None = None,
    tune: int | None = None,
    search: str | None = None,
    minutes: float | None = None,
    front: int | None = None,
    jobs: int = 1,
    engine: str | None = None,
    shard: str | None = None,
    run_code: bool = False,
    run_code_unsandboxed: bool = False,
    progress: bool = True,
) -> ComparisonResult:
    """Runs the methods of `compare` beside plain fine-tuning and joint training, over all seeds, as `stockpot compare`.

    The same call again goes on where it was stopped: finished runs are only read. Ctrl-C, or "interrupt" in a notebook,
    stops after the current step and writes a checkpoint. The page is written by `.report()`.

    Args:
        recipe: the path of a recipe, a dict of what would be in it, or a Recipe. Code that it names is imported.
        overrides: `key.sub=value` each, values in YAML.
        output: the comparison's folder; default: runs/NAME.
        data: data sets in place of the recipe's `data.path`, as in `stockpot.run`; not with `jobs` or `engine`.
        methods: labels of the recipe's `compare`, or names or classes of methods; default: those of the recipe.
        seeds: the number of seeds: the recipe's first, then others.
        orders: the number of orders of the tasks: as written first, then others.
        tune: first tune parameters, with this many trials a method.
        search: how trials are chosen: grid, random or optuna.
        minutes: start no new round of trials after this time.
        front: every method at this many strengths: past against new.
        jobs: how many runs at a time.
        engine: where the runs are executed: processes or ray; default: in this process if `jobs` is 1.
        shard: `"1/4"`: only this share of the runs.
        run_code: agree to run the programs that a model writes, in a sandbox (metric pass@k).
        run_code_unsandboxed: agree to run them even without a sandbox: they can then do what you can do here.
        progress: bars or lines on stderr.

    Returns:
        The comparison, with its numbers and those of its runs.

    Raises:
        StockpotError: for a mistake in the recipe, the data or the folder, and where a reported run diverged.
        ShardDone: this shard's runs are finished, but not those of others; no mistake.
        Stopped: a KeyboardInterrupt, when it was asked to stop.
    """
    share = parse_shard(shard)
    names = method_names(methods)
    with prepared(run_code, run_code_unsandboxed, shares=share[1] > 1):
        checked = with_data(as_recipe(recipe, overrides), data)
        changes = RecipeChanges(names, seeds, orders, tune, search, minutes, front)
        if changes != RecipeChanges():
            checked = changes.applied(checked)
        checked, guesses = recognised(checked)
        for guess in guesses if progress else ():
            write_line(guess)
        path = default_folder(checked) if output is None else Path(output)
        check_engine(engine)
        chosen = _engine(jobs, engine)
        if chosen is not None:
            _refuse_what_is_here_alone(checked)
        return _compared(checked, path, chosen, share, progress)


def so_far(recipe: Recipe, path: Path) -> tuple[Comparison | None, int, int]:
    """A comparison of the reported runs that are finished, their number, and that of all; None for no finished run."""
    recipe, _ = recognised(recipe)
    cells = plan(recipe)
    done = [(cell, results_of(RunFolder.open(path / cell.path))) for cell in cells if is_finished(path / cell.path)]
    return summarise_comparison(recipe, done) if done else None, len(done), len(cells)


def check_engine(engine: str | None, spelt: str = "engine") -> None:
    """Raises StockpotError for an engine that does not exist; `spelt` is how the user writes the key."""
    if engine not in (None, "processes", "ray"):
        raise StockpotError(f"{spelt}: {engine!r} is not processes or ray.")


def _engine(jobs: int, engine: str | None) -> CellEngine | None:
    if engine == "ray":
        return on_ray()
    return in_processes(jobs) if jobs > 1 or engine else None


def _refuse_what_is_here_alone(recipe: Recipe) -> None:
    """Raises StockpotError for code that worker processes cannot import, and data that they do not have."""
    if names := passed_names(recipe):
        raise StockpotError(
            f"{names[0]}: its data set was passed in Python, where other processes cannot see it: write it with "
            "save_to_disk or to_parquet and name the folder, or leave out jobs and engine."
        )
    for path in named_code(recipe):
        if lives_in_main(path):
            raise StockpotError(
                f"{path} is defined in this notebook or script, where other processes cannot import it: put it into a "
                "module and import it from there, or leave out jobs and engine."
            )


def _compared(
    recipe: Recipe, path: Path, engine: CellEngine | None, shard: tuple[int, int], progress: bool
) -> ComparisonResult:
    opened = prepare(recipe, path)
    methods, tuning = contenders(recipe), None
    with explaining_disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    write_text(path / "recipe.yaml", to_yaml(to_values(recipe)))
    bars = terminal_progress(_most_runs(recipe, methods, shard)) if progress else Progress()
    again = "the same call of stockpot.compare"
    with stopping_after_step(path, again) as stop, closing(bars) as shown:
        running = CellRunner(recipe, path, stop, shown, engine, shard)
        if opened is not None and recipe.tune is None:
            running.opened[(0, False)] = opened
        if recipe.tune is not None:
            methods, tuning = tune_methods(running, recipe.tune, methods)
        done = [(cell, results) for cell, results in running.run(plan(recipe, methods)) if results is not None]
        points = run_front(running, methods, recipe.front) if recipe.front else []
    comparison = write_comparison(summarise_comparison(recipe, done, tuning, points), path)
    by_label: dict[str, list[Results]] = {}
    for cell, results in done:
        by_label.setdefault(cell.method.title, []).append(results)
    return ComparisonResult(path, comparison, by_label)


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
    return [
        methods * trials * len(tune.seeds) for trials in (tune.trials, *[round_size(tune.trials)] * tune.extensions)
    ]


def _runs_per_method(recipe: Recipe) -> int:
    return len(recipe.seeds) * recipe.orders
