"""What trackers hold of a stream: one run, each number once, equal to the run's own, over interruptions too."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking
from transformers import TrainerCallback
from transformers.integrations import integration_utils

import stockpot as package
from stockpot.evaluation.metrics import stream_metrics
from stockpot.results import Results, Scores
from stockpot.runs.trackers import read_memory

STEPS = 4  # of a task
STOP_AT = 2  # of the second task: the user stops the run here
LOOPS = ["trainer", "plain"]
Written = dict[str, list[tuple[int, float]]]  # name → step and value, in order


@pytest.fixture
def tracked(digits_recipe: dict[str, Any]) -> dict[str, Any]:
    """A stream of two tasks of four steps whose second task is averaged after its second and last step."""
    return {
        **digits_recipe,
        "name": "digits",
        "data": {"path": "digits", "limit": 4},
        "controls": [{"name": "tilted", "data": {"classes": [0, 1], "rotate": 30}}],
        "method": {"name": "sfa", "p": 0.5},
        "train": {**digits_recipe["train"], "max_steps": STEPS, "save_steps": 1, "logging_steps": 1},
    }


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user stops the run once, in the second task: it has logged the step that it ends after."""
    from stockpot.runs.progress import Progress

    seen: list[int] = []

    def step(self: Progress, number: int, total: int) -> None:
        seen.append(number)
        if seen == [1, 2, 3, 4, 1, STOP_AT]:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("stockpot.runs.progress.Lines.step", step)


def events(folder: Path) -> Written:
    """What TensorBoard would show of the files in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def expected(results: Results) -> Written:
    """The rows that follow from a run's results."""
    scores = results.scores["accuracy"]
    written: Written = {}

    def write(name: str, row: int, value: float | None) -> None:
        if value is not None:
            written.setdefault(name, []).append((row * STEPS, value))

    for row in range(3):
        for column, task in enumerate(results.tasks):
            write(f"matrix/accuracy/{task}", row, [scores.initial, *scores.matrix][row][column])
        write("controls/accuracy/tilted", row, scores.controls["tilted"][row])
        if row:
            write("controls/tilted/change", row, scores.controls["tilted"][row] - scores.controls["tilted"][0])
            square = {"matrix": [line[:row] for line in scores.matrix[:row]], "initial": scores.initial[:row]}
            for name, value in stream_metrics(Scores(**{**scores.model_dump(), **square})).model_dump().items():
                write(f"stream/{name}", row, value)
    return written


def check(written: Written, results: Results) -> None:
    """Rows equal to the results; curves with each step once; the distance after every average, and at every log."""
    rows = expected(results)
    assert {name: written[name] for name in rows} == {
        name: [(step, pytest.approx(value, abs=1e-6)) for step, value in values] for name, values in rows.items()
    }
    assert written["stream/forgetting"][-1][1] == pytest.approx(results.metrics.forgetting, abs=1e-6)
    curves = {name: values for name, values in written.items() if name.startswith("part-")}
    for number, task in enumerate(("part-1", "part-2")):
        steps = [number * STEPS + step for step in range(1, STEPS + 1)]
        for name in ("loss", "learning_rate", "grad_norm", "epoch"):
            assert [step for step, _ in curves.pop(f"{task}/{name}")] == steps, name
    averages, distances = curves.pop("part-2/sfa/averages"), curves.pop("part-2/sfa/distance")
    assert averages == [(5, 0), (6, 1), (7, 1), (8, 2)]
    assert [step for step, _ in distances] == [5, 6, 7, 8]
    assert all(distance > 0 for _, distance in distances)
    assert curves == {}
    assert written.keys() == {*rows, *(name for name in written if name.startswith("part-"))}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.usefixtures("stopping")
def test_tensorboard_has_one_run_with_every_number_once_over_an_interruption(
    loop: str,
    stockpot: Callable[..., Any],
    tracked: dict[str, Any],
    write_yaml: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    tracked["loop"] = loop
    tracked["train"]["report_to"] = "tensorboard"
    run = tmp_path / "run"
    assert stockpot("run", write_yaml(tracked), "-o", run).code == 128 + signal.SIGTERM
    assert stockpot("resume", run).code == 0
    check(events(run / "logs" / "tensorboard"), package.open(run).results)
    files = sorted(path.name for path in (run / "logs" / "tensorboard").iterdir())
    assert len(files) == 2 and all(name.startswith("events.") for name in files)


class Recorder:
    """A tracker at Accelerate's boundary: what it is opened with, and what it is told."""

    opened: list[Recorder]

    def __init__(self, project: str, **options: Any) -> None:
        self.project, self.options = project, options
        self.written: list[tuple[int, dict[str, float]]] = []
        self.finished = False
        type(self).opened.append(self)

    def start(self) -> None:
        self.run_id = self.options.get("run_id") or "abc123"

    @property
    def tracker(self) -> Any:
        return type("ActiveRun", (), {"info": type("Info", (), {"run_id": self.run_id})})

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.parameters = values

    def log(self, values: dict[str, float], step: int) -> None:
        self.written.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Recorder]]:
    """Stand-ins for the trackers of W&B, MLflow and Trackio."""
    made = {}
    for kind, name in (("wandb", "WandBTracker"), ("mlflow", "MLflowTracker"), ("trackio", "TrackioTracker")):
        made[kind] = type(name, (Recorder,), {"opened": []})
        monkeypatch.setattr(tracking, name, made[kind])
        monkeypatch.setattr(integration_utils, f"is_{kind}_available", lambda: True)
    for name in ("WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return made


def merged(recorder: list[Recorder]) -> Written:
    written: Written = {}
    for step, values in (entry for each in recorder for entry in each.written):
        for name, value in values.items():
            written.setdefault(name, []).append((step, value))
    return written


@pytest.mark.usefixtures("stopping")
def test_the_others_find_their_run_again(
    recorders: dict[str, type[Recorder]],
    stockpot: Callable[..., Any],
    tracked: dict[str, Any],
    write_yaml: Callable[..., Path],
    tmp_path: Path,
) -> None:
    tracked |= {"loop": "plain", "seeds": [3]}
    tracked["train"] |= {"report_to": ["wandb", "mlflow", "trackio"], "save_steps": 500}
    run = tmp_path / "run"
    assert stockpot("run", write_yaml(tracked), "-o", run).code == 128 + signal.SIGTERM
    assert stockpot("resume", run).code == 0
    results = package.open(run).results
    tags = ["method:sfa", "scenario:class-incremental", "seed:3"]
    for kind, recorder in recorders.items():
        first, second = recorder.opened
        assert first.finished and second.finished
        assert first.project == second.project == "stockpot"
        check(merged([first, second]), results)
        names = {each.options.get("name", each.options.get("run_name")) for each in (first, second)}
        assert len(names) == 1 and str(*names).startswith("sfa-seed-3"), kind
    first, second = recorders["wandb"].opened
    assert first.options["id"] == second.options["id"] and first.options["resume"] == "allow"
    assert (first.options["group"], first.options["tags"]) == ("digits", tags)
    assert first.options["config"]["method"]["beta"] == 0.25
    first, second = recorders["mlflow"].opened
    assert (first.options["run_id"], second.options["run_id"]) == (None, "abc123")
    assert first.options["tags"] == {"group": "digits", "method": "sfa", "scenario": "class-incremental", "seed": "3"}
    assert first.parameters["method.beta"] == 0.25 and not hasattr(second, "parameters")
    assert {each.options["group"] for each in recorders["trackio"].opened} == {"digits"}


def test_steps_that_a_crash_takes_back_are_there_once(
    recorders: dict[str, type[Recorder]], tracked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second task crashes after its third step, without a checkpoint: it is learnt again from its start."""
    tracked |= {"loop": "plain"}
    tracked["train"] |= {"report_to": ["tensorboard", "wandb"], "save_steps": 500}
    steps: list[int] = []

    def crash(self: Any, number: int, total: int) -> None:
        steps.append(number)
        if len(steps) == 2 * STEPS:
            raise MemoryError

    monkeypatch.setattr("stockpot.runs.progress.Progress.step", crash)
    with pytest.raises(MemoryError):
        package.run(tracked, output=tmp_path / "run", progress=False)
    resumed = package.resume(tmp_path / "run", progress=False)
    assert steps == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]
    check(events(tmp_path / "run" / "logs" / "tensorboard"), resumed.results)
    check(merged(recorders["wandb"].opened), resumed.results)


def test_added_tasks_go_on_and_branches_begin_anew(
    recorders: dict[str, type[Recorder]], tracked: dict[str, Any], tmp_path: Path
) -> None:
    tracked |= {"loop": "plain"}
    tracked["train"] |= {"report_to": "wandb"}
    run = package.run(tracked, output=tmp_path / "run", progress=False)
    task = {"name": "third", "data": {"classes": [0, 1]}}
    branch = package.add(run, task, output=tmp_path / "branch", progress=False)
    longer = package.add(run, task, progress=False)
    first, branched, added = recorders["wandb"].opened
    assert first.options["id"] == added.options["id"] != branched.options["id"]
    matrix = [longer.matrix(start=True)["third"].iloc[-1]]
    assert merged([added])["matrix/accuracy/third"] == [(3 * STEPS, pytest.approx(*matrix))]
    assert [step for step, _ in merged([added])["matrix/accuracy/part-1"]] == [3 * STEPS]
    assert [step for step, _ in merged([branched])["matrix/accuracy/part-1"]] == [0, STEPS, 2 * STEPS, 3 * STEPS]
    assert branch.matrix().equals(longer.matrix())


def test_each_run_of_a_comparison_is_one_of_a_group(
    recorders: dict[str, type[Recorder]], tracked: dict[str, Any], tmp_path: Path
) -> None:
    tracked |= {"loop": "plain", "seeds": [0, 1]}
    tracked["train"] |= {"report_to": "wandb", "max_steps": 1}
    package.compare(tracked, output=tmp_path / "out", progress=False)
    opened = recorders["wandb"].opened
    assert {each.options["group"] for each in opened} == {"digits"}
    assert sorted(each.options["name"] for each in opened) == [
        f"{label}-seed-{seed}" for label in ("joint", "sequential", "sfa") for seed in (0, 1)
    ]
    assert len({each.options["id"] for each in opened}) == 6


def test_a_tracker_that_fails_stops_before_the_run_or_is_left_out(
    recorders: dict[str, type[Recorder]], tracked: dict[str, Any], tmp_path: Path, logged: list[str]
) -> None:
    tracked |= {"loop": "plain"}
    tracked["train"] |= {"report_to": "wandb"}

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    wandb: Any = recorders["wandb"]
    wandb.log = fail
    assert package.run(tracked, output=tmp_path / "run", progress=False).results.tasks == ["part-1", "part-2"]
    assert sum("wandb: nothing more is written to it: no route to host" in message for message in logged) == 1
    wandb.start = fail
    with pytest.raises(package.StockpotError, match=r"report_to: wandb could not be started: no route to host"):
        package.run(tracked, output=tmp_path / "other", progress=False)
    (tmp_path / "run" / "logs" / "trackers.json").write_text(
        json.dumps({"wandb": {"id": "../..", "step": 0, "rows": 9}})
    )

    assert re.fullmatch("[0-9a-f]{32}", read_memory(tmp_path / "run" / "logs")["wandb"]["id"])


class Emissions(TrainerCallback):
    """A tracker that knows the Trainer's output folder alone."""

    def on_step_end(self, args: Any, *_: Any, **__: Any) -> None:
        with (Path(args.output_dir) / "emissions.csv").open("a") as file:
            file.write("x\n")


@pytest.mark.usefixtures("stopping")
def test_what_other_trackers_write_beside_checkpoints_is_kept(
    monkeypatch: pytest.MonkeyPatch,
    stockpot: Callable[..., Any],
    tracked: dict[str, Any],
    write_yaml: Callable[..., Path],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(integration_utils, "is_codecarbon_available", lambda: True)
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "codecarbon", Emissions)
    tracked["keep"] = "needed"
    tracked["train"]["report_to"] = "codecarbon"
    run = tmp_path / "run"
    assert stockpot("run", write_yaml(tracked), "-o", run).code == 128 + signal.SIGTERM
    assert stockpot("resume", run).code == 0
    assert not (run / "checkpoints").exists()
    kept = {str(path.relative_to(run / "logs")): path.read_text() for path in (run / "logs").rglob("*.csv")}
    assert kept == {f"{task}/emissions.csv": "x\n" * STEPS for task in ("01-part-1", "02-part-2")}


@pytest.mark.parametrize(
    ("loop", "tracker", "message"),
    [
        ("trainer", "tensorboard", r"train\.report_to: tensorboard is not installed here: pip install tensorboard, or"),
        ("plain", "trackio", r"train\.report_to: trackio is not installed here: pip install trackio, or leave it out"),
        ("trainer", "tensorbord", r"train\.report_to: unknown tracker 'tensorbord'\. Did you mean 'tensorboard'\?"),
        ("plain", "codecarbon", r"train\.report_to: the plain loop does not write to 'codecarbon'\. Use loop: trainer"),
    ],
)
def test_a_tracker_that_is_not_there_is_one_line_before_the_run_begins(
    loop: str,
    tracker: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    stockpot: Callable[..., Any],
    tracked: dict[str, Any],
    write_yaml: Callable[..., Path],
    tmp_path: Path,
) -> None:
    for kind in ("tensorboard", "trackio"):
        monkeypatch.setattr(integration_utils, f"is_{kind}_available", lambda: False)
    tracked["loop"] = loop
    tracked["train"]["report_to"] = tracker
    done = stockpot("run", write_yaml(tracked), "-o", tmp_path / "run")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert re.search(message, done.err), done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_mlflows_own_store_holds_it(tracked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    tracked |= {"loop": "plain"}
    tracked["train"] |= {"report_to": "mlflow"}
    results = package.run(tracked, output=tmp_path / "run", progress=False).results
    client = mlflow.MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("stockpot").experiment_id])
    assert (run.info.run_name, run.data.tags["group"]) == ("sfa-seed-0", "digits")
    written = {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    check(written, results)


@pytest.mark.thorough
def test_trackios_own_store_holds_it(tracked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    tracked |= {"loop": "plain"}
    tracked["train"] |= {"report_to": "trackio"}
    results = package.run(tracked, output=tmp_path / "run", progress=False).results
    [store] = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(store) as database:
        rows = database.execute("select step, metrics from metrics order by id").fetchall()
    written: Written = {}
    for step, text in rows:
        for name, value in json.loads(text).items():
            written.setdefault(name, []).append((step, value))
    check(written, results)


@pytest.mark.thorough
def test_wandb_offline_names_the_run_and_its_numbers(
    tracked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    tracked |= {"loop": "plain"}
    tracked["train"] |= {"report_to": "wandb"}
    run = package.run(tracked, output=tmp_path / "run", progress=False)
    [file] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    content = file.read_bytes()
    names = ("part-2/sfa/distance", "stream/forgetting", "matrix/accuracy/part-1")
    for word in ("sfa-seed-0", "digits", "method:sfa", *names):
        assert word.encode() in content, word
    assert not any(path.is_symlink() for path in run.path.rglob("*"))  # which a run folder refuses
    task = {"name": "third", "data": {"classes": [0, 1]}}
    assert package.add(run, task, progress=False).results.tasks[-1] == "third"
