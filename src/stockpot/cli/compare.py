"""What `stockpot compare` does: tunes where it was asked to, runs every cell, says what was found."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.cli.console import say, show
from stockpot.cli.launched import refuse_launchers
from stockpot.cli.work import default_output, stopping
from stockpot.errors import StockpotError, did_you_mean
from stockpot.files import explained, write_text
from stockpot.quiet import quiet

if TYPE_CHECKING:
    from stockpot.compare.cells import CellPlan
    from stockpot.compare.engines import Engine
    from stockpot.methods.base import BaseConfig
    from stockpot.recipe.schema import Recipe, Tune
    from stockpot.results import Results


@dataclass(frozen=True)
class Asked:
    """What the command line says beside the recipe; what it does not say, the recipe does."""

    methods: str | None = None
    seeds: int | None = None
    orders: int | None = None
    tune: int | None = None
    search: str | None = None
    budget: str | None = None
    pareto: int | None = None
    jobs: int = 1
    engine: str | None = None
    shard: str | None = None


def compare(recipe_file: Path, overrides: Sequence[str], output: Path | None, asked: Asked) -> None:
    """`stockpot compare`. A shard whose cells are finished says so, and exits with 0."""
    shard = _shard(asked.shard)
    refuse_launchers(shares=shard[1] > 1)
    quiet()
    from stockpot.compare.running import ShareDone

    try:
        _compare(recipe_file, overrides, output, asked, shard)
    except ShareDone as done:
        say(str(done))


def _compare(
    recipe_file: Path, overrides: Sequence[str], output: Path | None, asked: Asked, shard: tuple[int, int]
) -> None:
    from stockpot.compare.cells import contenders, plan, prepare
    from stockpot.compare.front import front
    from stockpot.compare.running import Running
    from stockpot.compare.summary import summarise, write_comparison
    from stockpot.compare.tuning import tune
    from stockpot.recipe.read import read_recipe
    from stockpot.recipe.resolve import to_values, to_yaml
    from stockpot.report.beside import grid_table, of_comparison
    from stockpot.report.page import write_comparison_report
    from stockpot.report.tables import comparison_table
    from stockpot.runs.progress import shown
    from stockpot.training.job import Interrupted

    recipe = with_asked(read_recipe(recipe_file, overrides), asked)
    path = output or default_output(recipe.name)
    engine = _engine(asked)
    opened = prepare(recipe, path)
    methods, tuning = contenders(recipe), None
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
    write_text(path / "recipe.yaml", to_yaml(to_values(recipe)))
    bars = shown(_many(recipe, methods, shard))
    with stopping(_again(recipe_file, overrides, path, asked)) as stop, closing(bars) as progress:
        running = Running(recipe, path, stop, progress, engine, shard)
        if opened is not None and recipe.tune is None:
            running.opened[(0, False)] = opened
        try:
            if recipe.tune is not None:
                methods, tuning = tune(running, recipe.tune, methods)
            done = [(cell, results) for cell, results in running.run(plan(recipe, methods)) if results is not None]
            points = front(running, methods, recipe.front) if recipe.front else []
        except Interrupted:
            progress.close()
            _show_so_far(recipe, plan(recipe, methods), path)
            raise
    comparison = summarise(recipe, done, tuning, points)
    write_comparison(comparison, path)
    by_label: dict[str, list[Results]] = {}
    for cell, results in done:
        by_label.setdefault(cell.method.title, []).append(results)
    with explained(path):
        page = write_comparison_report(comparison, by_label, path)
    show(comparison_table(comparison))
    for grid in of_comparison(comparison, by_label):
        show(grid_table(grid))
    for sentence in comparison.sentences:
        say(sentence)
    say(f"Numbers: {path / 'comparison.json'}")
    say(f"Report:  {page}")


def _show_so_far(recipe: Recipe, cells: Sequence[CellPlan], path: Path) -> None:
    """The table of the reported runs that are finished; nothing is claimed of them, and nothing written."""
    from stockpot.compare.cells import is_finished
    from stockpot.compare.summary import summarise
    from stockpot.report.tables import comparison_table
    from stockpot.runs.folder import RunFolder
    from stockpot.runs.summary import results_of

    done = [(cell, results_of(RunFolder.open(path / cell.path))) for cell in cells if is_finished(path / cell.path)]
    say(f"\nSo far {len(done)} of {len(cells)} reported runs are finished.")
    if done:
        show(comparison_table(summarise(recipe, done)))


def with_asked(recipe: Recipe, asked: Asked) -> Recipe:
    """The recipe with what the command line says. Raises StockpotError for methods that there are not."""
    from stockpot.recipe.read import check
    from stockpot.recipe.schema import Recipe

    values = recipe.model_dump(mode="json", exclude_unset=True)  # what is not set is searched, or has its default
    if asked.methods is not None:
        values["compare"] = [_method(name.strip(), recipe) for name in asked.methods.split(",") if name.strip()]
    if asked.seeds is not None:
        more = (seed for seed in range(asked.seeds + len(recipe.seeds)) if seed not in recipe.seeds)
        values["seeds"] = [*recipe.seeds, *more][: asked.seeds]
    for key, value in (("orders", asked.orders), ("front", asked.pareto)):
        if value is not None:
            values[key] = value
    if asked.tune is not None:
        values["tune"] = {**values.get("tune", {}), "trials": asked.tune}
    if asked.methods is not None and (ranges := values.get("tune", {}).get("ranges")):
        compared = {name for method in values["compare"] for name in (method["name"], method.get("label"))}
        values["tune"]["ranges"] = {label: keys for label, keys in ranges.items() if label in compared}
    for key, wanted in (("search", asked.search), ("minutes", _minutes(asked.budget))):
        if wanted is not None:
            if "tune" not in values:
                raise StockpotError(f"--{'budget' if key == 'minutes' else key} is for tuning: say --tune TRIALS too.")
            values["tune"][key] = wanted
    return check(Recipe, values, "the command line")


def _method(name: str, recipe: Recipe) -> dict[str, object]:
    """A method of the recipe's `compare` by its label, else one with its defaults."""
    from stockpot.methods import REGISTRY

    for method in (*recipe.compare, recipe.method):
        if method.title == name:
            return dict(method.model_dump(mode="json", exclude_unset=True))
    if name not in REGISTRY:
        known = list(dict.fromkeys([*(method.title for method in recipe.compare), *REGISTRY]))
        raise StockpotError(f"--methods: there is no {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return {"name": name}


def _minutes(budget: str | None) -> float | None:
    """`90s`, `30m` or `2h` as minutes."""
    if budget is None:
        return None
    found = re.fullmatch(r"\s*([\d.]+)\s*([smh])\s*", budget)
    try:
        assert found is not None
        return float(found[1]) * {"s": 1 / 60, "m": 1.0, "h": 60.0}[found[2]]
    except (AssertionError, ValueError) as error:
        raise StockpotError(f"--budget: {budget!r} is no time; write 90s, 30m or 2h.") from error


def _shard(shard: str | None) -> tuple[int, int]:
    if shard is None:
        return 1, 1
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise StockpotError(f"--shard: {shard!r} is no share: write 1/4, 2/4, 3/4 and 4/4 for four of them.")
    return int(found[1]), int(found[2])


def _engine(asked: Asked) -> Engine | None:
    from stockpot.compare.engines import in_processes, on_ray

    if asked.engine not in (None, "processes", "ray"):
        raise StockpotError(f"--engine: {asked.engine!r} is none of processes, ray.")
    if asked.engine == "ray":
        return on_ray()
    return in_processes(asked.jobs) if asked.jobs > 1 or asked.engine else None


def _again(recipe_file: Path, overrides: Sequence[str], path: Path, asked: Asked) -> str:
    said = [
        (f"--{key}", str(value))
        for key, value in vars(asked).items()
        if value is not None and (key, value) != ("jobs", 1)
    ]
    flags = [word for pair in said for word in pair]
    return shlex.join(["stockpot", "compare", str(recipe_file), *overrides, *flags, "-o", str(path)])


def _many(recipe: Recipe, methods: Sequence[BaseConfig], shard: tuple[int, int]) -> int:
    """How many runs there are, at most: a grid may have fewer points than trials, a time end the tuning."""
    trials = _tuning_stages(recipe.tune, sum(bool(method.searched()) for method in methods)) if recipe.tune else []
    points = sum(method.strength_key is not None for method in methods) * _each(recipe) * (recipe.front or 0)
    number, count = shard
    return sum(len(range(number - 1, stage, count)) for stage in (*trials, len(methods) * _each(recipe), points))


def _tuning_stages(tune: Tune, methods: int) -> list[int]:
    """The runs of the trials, and those of each round beyond the ends."""
    from stockpot.compare.extension import round_size

    return [methods * many * len(tune.seeds) for many in (tune.trials, *[round_size(tune.trials)] * tune.extensions)]


def _each(recipe: Recipe) -> int:
    return len(recipe.seeds) * recipe.orders
