"""Orders, tuning, fronts and shards of a comparison, and where its cells run."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pristine import Pristine
from safetensors.torch import load_file

from stockpot.comparisons import engines, worker
from stockpot.comparisons.cells import CellPlan, contenders, orders_of, plan, prepare, recipe_of
from stockpot.comparisons.engines import CellEngine, in_processes, on_ray
from stockpot.comparisons.front import run_front
from stockpot.comparisons.running import CellRunner, ShardDone
from stockpot.comparisons.summary import summarise_comparison
from stockpot.comparisons.tuning import tune
from stockpot.errors import StockpotError
from stockpot.methods.base import BaseConfig
from stockpot.recipe.read import validate
from stockpot.recipe.resolve import resolve
from stockpot.recipe.schema import Recipe
from stockpot.results import Results
from stockpot.runs.progress import Progress
from stockpot.runs.session import open_stream
from stockpot.training.job import Interrupted, Stop

Recipes = Callable[..., Recipe]


@pytest.fixture
def recipes(digits_recipe: dict[str, Any]) -> Recipes:
    def make(**changes: Any) -> Recipe:
        return validate(Recipe, {**digits_recipe, "loop": "plain", "compare": [{"name": "sfa"}], **changes}, "here")

    return make


class Said(Progress):
    def __init__(self) -> None:
        self.cells: list[tuple[str, float | None]] = []

    def cell(self, name: str, score: float | None) -> None:
        self.cells.append((name, score))


def running(recipe: Recipe, path: Path, **more: Any) -> CellRunner:
    return CellRunner(recipe, path, Stop(), Said(), **more)


def only(recipe: Recipe, *names: str) -> list[BaseConfig]:
    return [method for method in contenders(recipe) if method.name in names]


# Orders.


def test_the_first_order_is_the_one_written_and_the_others_are_drawn_once_each(recipes: Recipes) -> None:
    orders = [[task.name for task in order] for order in orders_of(recipes(tasks={"split": 3}, orders=24))]
    assert orders[0] == ["part-1", "part-2", "part-3", "part-4"]
    assert len({tuple(order) for order in orders}) == 24
    assert all(sorted(order) == orders[0] for order in orders)
    fewer = [[task.name for task in order] for order in orders_of(recipes(tasks={"split": 3}, orders=3))]
    assert fewer == orders[:3]  # a comparison can be given more of them


def test_more_orders_than_there_are_is_an_error(recipes: Recipes) -> None:
    with pytest.raises(StockpotError, match="2 tasks have 2 orders, not 3"):
        orders_of(recipes(orders=3))


def test_every_method_runs_in_every_order_with_every_seed(recipes: Recipes) -> None:
    recipe = recipes(orders=2, seeds=[0, 5])
    cells = plan(recipe)
    assert len({cell.path for cell in cells}) == len(cells) == 3 * 2 * 2
    assert {cell.path.as_posix() for cell in cells if cell.method.name == "sfa"} == {
        "cells/sfa/seed-0", "cells/sfa/seed-5", "cells/sfa/order-1/seed-0", "cells/sfa/order-1/seed-5",
    }  # fmt: skip
    again = plan(recipes(seeds=[0, 5]))
    assert {cell.path for cell in again} < {cell.path for cell in cells}


def test_a_run_in_another_order_learns_the_tasks_in_that_order(recipes: Recipes, tmp_path: Path) -> None:
    recipe = recipes(orders=2)
    done = running(recipe, tmp_path).run(plan(recipe, only(recipe, "sequential")))
    first, second = (results for _, results in done)
    assert first is not None and second is not None
    assert (first.tasks, second.tasks) == (["part-1", "part-2"], ["part-2", "part-1"])
    comparison = summarise_comparison(recipe, [(cell, results) for cell, results in done if results is not None])
    assert comparison.orders == [first.tasks, second.tasks]
    assert [cell.order for cell in comparison.methods["sequential"].cells] == [0, 1]
    assert comparison.methods["sequential"].average_accuracy.n == 2


# The tuning split.


def test_the_tuning_split_never_touches_the_test_part(recipes: Recipes) -> None:
    recipe = recipes(data={"path": "digits", "limit": 20}, controls=[{"name": "ones", "data": {"classes": [1]}}])
    method = only(recipe, "sequential")[0]
    streams = [
        open_stream(resolve(recipe_of(recipe, CellPlan(method, 0, Path(), tuning=tuning)), method, 0))
        for tuning in (False, True)
    ]

    def images(examples: Any) -> set[bytes]:
        return {image.tobytes() for image in examples.pixel_values.numpy()}

    usual, tuning = streams
    for task in range(2):
        train, held = images(tuning.train(task)), images(tuning.test(task))
        assert train | held == images(usual.train(task))
        assert not train & held
        counts = np.bincount(tuning.test(task).labels.numpy(), minlength=10)
        assert set(counts[counts > 0]) == {4}  # a fifth of every class
    assert not images(tuning.control(0)) & images(usual.control(0))
    assert tuning.facts()["part-1"]["fingerprint"] == usual.facts()["part-1"]["fingerprint"]


def test_the_tuning_split_is_the_same_each_time(recipes: Recipes) -> None:
    recipe = recipes()
    method = only(recipe, "sequential")[0]
    labels = [
        open_stream(resolve(recipe_of(recipe, CellPlan(method, seed, Path(), tuning=True)), method, seed))
        .test(0).pixel_values.sum((1, 2, 3)).tolist()
        for seed in (0, 7)
    ]  # fmt: skip
    assert labels[0] == labels[1]


# Tuning.


def test_every_method_has_as_many_trials_and_the_best_is_chosen(recipes: Recipes, tmp_path: Path) -> None:
    compare = [{"name": "sfa"}, {"name": "wise_ft"}, {"label": "set", "name": "l2", "strength": 0.1}]
    recipe = recipes(compare=compare, tune={"trials": 3, "seeds": [100, 101], "extensions": 0})
    work = running(recipe, tmp_path)
    assert recipe.tune is not None
    methods, tuning = tune(work, recipe.tune, contenders(recipe))
    assert {label: len(trials) for label, trials in tuning.methods.items()} == {
        "sequential": 0, "sfa": 3, "wise_ft": 3, "set": 3 if only(recipe, "l2")[0].searched() else 0, "joint": 0,
    }  # fmt: skip
    for label in ("sfa", "wise_ft"):
        trials = tuning.methods[label]
        [best] = [trial for trial in trials if trial.keys == tuning.chosen[label]]
        assert best.score == max(trial.score or 0 for trial in trials)
        (method,) = (one for one in methods if one.title == label)
        assert all(getattr(method, key) == value for key, value in best.keys.items())
        for trial in trials:
            scores = [
                Results.model_validate_json((tmp_path / trial.run / f"seed-{seed}" / "results.json").read_text())
                .metrics.average_accuracy
                for seed in (100, 101)
            ]  # fmt: skip
            assert trial.score == pytest.approx(sum(score or 0 for score in scores) / 2)
    assert [method.model_dump() for method in methods if method.name in ("sequential", "joint")] == [
        method.model_dump() for method in only(recipe, "sequential", "joint")
    ]
    again, same = tune(running(recipe, tmp_path), recipe.tune, contenders(recipe))
    assert (again, same) == (methods, tuning)


def test_seeds_that_are_reported_are_not_tuned_on(recipes: Recipes) -> None:
    with pytest.raises(StockpotError, match=r"tune\.seeds: 3 is one of `seeds`"):
        recipes(seeds=[1, 3], tune={"trials": 2, "seeds": [3]})


def test_a_trial_that_diverges_has_no_score_and_is_not_run_again(recipes: Recipes, tmp_path: Path) -> None:
    train = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "use_cpu": True, "optim": "sgd",
             "learning_rate": 10.0, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}  # fmt: skip
    recipe = recipes(train=train, compare=[{"name": "l2", "form": "loss", "first_task": "average"}],
                     tune={"trials": 2, "search": "grid"})  # fmt: skip
    assert recipe.tune is not None
    huge = only(recipe, "l2")[0].model_copy()
    object.__setattr__(huge, "space", {"strength": _Two(1e30, 2e30)})
    with pytest.raises(StockpotError, match=r"tuning 'l2': training diverged in all 2 trials"):
        tune(running(recipe, tmp_path), recipe.tune, [huge])
    notes = sorted(tmp_path.glob("tuning/l2/*/*/diverged.txt"))
    assert len(notes) == 2
    before = [note.stat().st_mtime_ns for note in notes]
    with pytest.raises(StockpotError, match="diverged in all 2"):
        tune(running(recipe, tmp_path), recipe.tune, [huge])
    assert [note.stat().st_mtime_ns for note in notes] == before


class _Two:
    """A search space of two values."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def grid(self, n: int) -> list[float]:
        return [*self.values][:n]


def test_a_time_ends_the_tuning_after_whole_rounds_and_going_on_adds_none(recipes: Recipes, tmp_path: Path) -> None:
    recipe = recipes(compare=[{"name": "sfa"}, {"name": "wise_ft"}], tune={"trials": 4, "minutes": 1e-9})
    assert recipe.tune is not None
    _, tuning = tune(running(recipe, tmp_path), recipe.tune, contenders(recipe))
    assert [len(tuning.methods[label]) for label in ("sfa", "wise_ft")] == [1, 1]
    longer = recipe.tune.model_copy(update={"minutes": 100.0})
    _, again = tune(running(recipe, tmp_path), longer, contenders(recipe))
    assert [len(again.methods[label]) for label in ("sfa", "wise_ft")] == [1, 1]


# The front.


def test_the_front_has_each_method_at_each_strength(recipes: Recipes, tmp_path: Path) -> None:
    recipe = recipes(seeds=[0, 1], compare=[{"name": "wise_ft"}, {"name": "soup"}])
    points = run_front(running(recipe, tmp_path), contenders(recipe), 3)
    assert {point.method for point in points} == {"wise_ft"}
    assert [point.value for point in points] == only(recipe, "wise_ft")[0].space["alpha"].grid(3)
    for point in points:
        runs = [Results.model_validate_json((tmp_path / cell.run / "results.json").read_text()) for cell in point.cells]
        assert [run.method["alpha"] for run in runs] == [point.value] * 2
        assert point.past_accuracy.values == [run.scores["accuracy"].matrix[1][0] for run in runs]
        assert point.newest_accuracy.values == [run.scores["accuracy"].matrix[1][1] for run in runs]


# Where cells run.


def weights(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): b"".join(tensor.numpy().tobytes() for tensor in load_file(file).values())
        for file in sorted(folder.glob("cells/**/model/model.safetensors"))
    }


@pytest.mark.parametrize("kind", ["process", *(pytest.param(k, marks=pytest.mark.thorough) for k in ("two", "ray"))])
def test_cells_are_the_same_wherever_they_run(kind: str, recipes: Recipes, tmp_path: Path) -> None:
    engine: CellEngine
    if kind == "ray":
        pytest.importorskip("ray", reason="Ray is an extra, and not installed")
        engine = on_ray()
    else:
        engine = in_processes(2 if kind == "two" else 1)
    recipe = recipes()
    here = running(recipe, tmp_path / "here").run(plan(recipe))
    there = running(recipe, tmp_path / "there", engine=engine).run(plan(recipe))
    assert [cell for cell, _ in here] == [cell for cell, _ in there]
    assert weights(tmp_path / "here") == weights(tmp_path / "there")
    for (_, one), (_, other) in zip(here, there, strict=True):
        assert one is not None and other is not None
        assert one.scores == other.scores


def test_shards_share_the_cells_out_and_the_last_one_sees_all(recipes: Recipes, tmp_path: Path) -> None:
    recipe = recipes(seeds=[0, 1])
    cells = plan(recipe)
    with pytest.raises(ShardDone, match="Shard 1/2 is done: 3 of 6 cells"):
        running(recipe, tmp_path, shard=(1, 2)).run(cells)
    assert len(list(tmp_path.glob("cells/*/*/results.json"))) == 3
    done = running(recipe, tmp_path, shard=(2, 2)).run(cells)
    assert all(results is not None for _, results in done)
    said = Said()
    again = CellRunner(recipe, tmp_path, Stop(), said).run(cells)
    assert [cell for cell, _ in again] == cells
    assert len(said.cells) == 6


def serve(connection: Connection) -> None:
    """A worker in a fork: its pid, then folders in and answers out through the one connection."""
    connection.send(os.getpid())
    for number in (0, 1):
        os.dup2(connection.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    worker.main()


class ForkedWorker:
    """What the engine uses of `subprocess.Popen`, without a new Python that imports torch again."""

    def __init__(self, pristine: Pristine) -> None:
        self.connection = pristine.start(serve)
        self.pid = self.connection.recv()
        self.stdin, self.stdout = (os.fdopen(os.dup(self.connection.fileno()), mode, 1) for mode in ("w", "r"))

    def __enter__(self) -> ForkedWorker:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets it read no more, and waits for its end, as Popen does."""
        self.stdin.close()
        with socket.socket(fileno=os.dup(self.connection.fileno())) as end:
            end.shutdown(socket.SHUT_WR)
        self.stdout.read()
        self.stdout.close()
        self.connection.close()

    def poll(self) -> None:
        """It ends when it reads no more."""

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


def test_a_request_to_stop_reaches_the_workers_and_leaves_a_checkpoint(
    recipes: Recipes, tmp_path: Path, pristine: Pristine, monkeypatch: pytest.MonkeyPatch
) -> None:
    forking = SimpleNamespace(Popen=lambda *_, **__: ForkedWorker(pristine), PIPE=None)
    monkeypatch.setattr(engines, "subprocess", forking)
    train = {"num_train_epochs": 4000, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "use_cpu": True}
    recipe = recipes(train=train)
    work = running(recipe, tmp_path, engine=in_processes(1))

    def ask() -> None:
        while not list(tmp_path.glob("cells/sequential/seed-0/tasks/00-start")):
            time.sleep(0.05)
        time.sleep(1.0)
        work.stop.requested = True

    threading.Thread(target=ask, daemon=True).start()
    with pytest.raises(Interrupted):
        work.run(plan(recipe))
    events = [
        json.loads(line) for line in (tmp_path / "cells/sequential/seed-0/journal.jsonl").read_text().splitlines()
    ]
    assert events[-1]["event"] == "checkpoint"
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["sequential"]


@pytest.mark.parametrize(
    "moment", ["journal.jsonl", pytest.param("tasks/00-start", marks=pytest.mark.thorough)], ids=["early", "training"]
)
def test_a_worker_that_dies_is_told_of(moment: str, recipes: Recipes, tmp_path: Path) -> None:
    train = {"num_train_epochs": 4000, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "use_cpu": True}
    recipe = recipes(train=train)
    work = running(recipe, tmp_path, engine=in_processes(1))

    def kill() -> None:
        while not (tmp_path / "cells/sequential/seed-0" / moment).exists():
            time.sleep(0.05)
        for process in _children():
            os.kill(process, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(StockpotError, match="the process of this cell died"):
        work.run(plan(recipe))


def _children() -> Iterator[int]:
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"stockpot.comparisons.worker" in status.read_bytes():
                parent = (status.parent / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == os.getpid():
                    yield int(status.parent.name)
        except OSError:
            continue


def test_a_cell_of_another_recipe_is_refused(recipes: Recipes, tmp_path: Path) -> None:
    recipe = recipes()
    cells: Sequence[CellPlan] = plan(recipe, only(recipe, "sequential"))
    running(recipe, tmp_path).run(cells)
    other = recipes(data={"path": "digits", "limit": 7})
    with pytest.raises(StockpotError, match="was run from another recipe"):
        running(other, tmp_path).run(plan(other, only(other, "sequential")))
    with pytest.raises(StockpotError, match="was run from another recipe"):
        prepare(other, tmp_path)
