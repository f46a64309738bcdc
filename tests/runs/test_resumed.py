"""Inside a task, from a checkpoint: every method, both loops, and whatever a recipe may set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import MLP, TASKS, TRAIN, VIT, Stockpot, Unbroken, journal, same, task
from taken_up import METHODS
from tiers import crossed, sample

from stockpot.results import Results

Make = Callable[..., Unbroken]
LOOPS = ["trainer", "plain"]


def resumed(stockpot: Stockpot, whole: Unbroken, run: Path, step: int) -> list[dict[str, Any]]:
    """Kills a run at an optimizer step, resumes it, compares; returns the journal as the kill left it."""
    fault = {"do": "kill", "kind": "step", "at": step}
    assert stockpot("run", whole.file, "-o", run, root=run, fault=fault).code == -9
    left = journal(run)
    done = stockpot("resume", run, root=run)
    assert done.code == 0, done.err
    same(run, whole.run)
    return left


def steps_of(whole: Unbroken) -> int:
    """Optimizer steps of the first task."""
    return int(next(event for event in journal(whole.run) if event["event"] == "task")["costs"]["steps"])


@pytest.mark.parametrize(("method", "loop"), sample([(method, loop) for method in METHODS for loop in LOOPS]))
def test_every_method_goes_on_inside_a_task(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, method: str, loop: str
) -> None:
    """What each method keeps in a checkpoint is held by tests/methods/test_every_method.py, for all and both loops."""
    whole = unbroken(
        loop=loop,
        method={"name": method, **METHODS[method]},
        boundary="keep-optimizer",
        head="seen",
        tasks=TASKS[:2],
        train={**TRAIN, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "weight_decay": 0.1},
    )
    left = resumed(stockpot, whole, tmp_path / "run", step=steps_of(whole) + 5)
    assert [event["event"] for event in left[-2:]] == ["task", "checkpoint"]
    carried = whole.run / "state" / "02-second" / "optimizer.safetensors"
    assert carried.exists() == (method != "sfa")  # which was told to forget it at the last average


@pytest.mark.parametrize(("first_task", "loop"), crossed(["skip", "average"], LOOPS))
def test_beta_auto_goes_on_inside_a_task(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, first_task: str, loop: str
) -> None:
    """In the first task, which is only observed or averaged as well, and in the second."""
    whole = unbroken(
        loop=loop,
        model=MLP,
        method={"name": "sfa", "beta": "auto", "first_task": first_task},
        tasks=TASKS[:2],
        train={**TRAIN, "per_device_train_batch_size": 3, "save_steps": 1},
    )
    results = Results.model_validate_json((whole.run / "results.json").read_bytes())
    averaged = [name for name, betas in zip(results.tasks, results.betas, strict=True) if betas is not None]
    assert averaged == (["first", "second"] if first_task == "average" else ["second"])
    (note,) = [note for note in results.notes if note.startswith("beta: auto gave mean β ")]
    assert all(f"at task {name!r}" in note for name in averaged)
    for number, before in enumerate((0, steps_of(whole))):
        left = resumed(stockpot, whole, tmp_path / f"run-{number}", step=before + 3)
        assert (left[-1]["event"], left[-1]["step"]) == ("checkpoint", 2)


@pytest.mark.parametrize(("step", "loop"), sample([(step, loop) for loop in LOOPS for step in range(1, 9)]))
def test_it_goes_on_from_every_step_ends_of_epochs_among_them(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, step: int, loop: str
) -> None:
    whole = unbroken(
        loop=loop,
        model=VIT,  # with dropout: the state of the generators matters
        tasks=TASKS[:1],
        method={"name": "sfa", "first_task": "average"},
        train={**TRAIN, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "save_steps": 1,
               "num_train_epochs": 3},
    )  # fmt: skip
    assert steps_of(whole) == 9
    left = resumed(stockpot, whole, tmp_path / "run", step=step + 1)
    assert left[-1]["step"] == step


SETTINGS = [
    {"max_steps": 6},
    {"num_train_epochs": 1.5},
    {"save_steps": 7},
    {"per_device_train_batch_size": 3, "dataloader_drop_last": True},
    {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}},
    {"optim": "sgd"},
    {"optim": "adafactor"},
    {"label_smoothing_factor": 0.1, "max_grad_norm": 0},
]


@pytest.mark.parametrize(
    ("train", "loop"),
    crossed(SETTINGS, LOOPS),
    ids=str,
)
def test_it_goes_on_whatever_train_says(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, train: dict[str, Any], loop: str
) -> None:
    train = {**TRAIN, "save_steps": 5, **train}
    whole = unbroken(loop=loop, model=MLP, tasks=TASKS[:2], train=train, boundary="keep-optimizer")
    left = resumed(stockpot, whole, tmp_path / "run", step=2 * steps_of(whole))
    assert left[-1]["event"] == "checkpoint"


def test_workers_that_load_the_data_change_nothing(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    whole = unbroken(tasks=TASKS[:1], method={"name": "replay"}, train={**TRAIN, "dataloader_num_workers": 1})
    left = resumed(stockpot, whole, tmp_path / "run", step=6)
    assert left[-1]["step"] == 3


def test_batch_statistics_go_on(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    cnn = {"build": "stockpot.models.networks:cnn", "args": {"width": 4}}
    whole = unbroken(loop="plain", model=cnn, method={"name": "sfa"}, tasks=TASKS[:2])
    resumed(stockpot, whole, tmp_path / "run", step=14)


def test_a_checkpoint_that_is_deleted_is_not_missed(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    from shutil import rmtree

    whole, run = unbroken(), tmp_path / "run"
    stockpot("run", whole.file, "-o", run, root=run, fault={"do": "kill", "kind": "step", "at": 13})
    rmtree(run / "checkpoints" / "02-second" / "checkpoint-3")
    assert stockpot("resume", run, root=run).code == 0
    same(run, whole.run)


def test_a_pretrained_anchor_lacks_the_rows_of_all_tasks_since(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path
) -> None:
    whole = unbroken(
        loop="plain",
        head="seen",
        method={"name": "sfa", "anchor": "pretrained"},
        tasks=[task("first", 0, 1), task("second", 2, 3), task("again", 0, 2)],  # the last one brings no rows
    )
    resumed(stockpot, whole, tmp_path / "run", step=20)


@pytest.mark.parametrize("scenario", ["domain-incremental", "task-incremental"])
def test_the_other_scenarios_go_on(stockpot: Stockpot, unbroken: Make, tmp_path: Path, scenario: str) -> None:
    whole = unbroken(loop="plain", scenario=scenario, head="seen", tasks=TASKS[:2])
    resumed(stockpot, whole, tmp_path / "run", step=14)


@pytest.mark.parametrize("loop", LOOPS)
def test_what_a_task_leaves_reaches_the_next_one(unbroken: Make, loop: str) -> None:
    replay = {"name": "replay", "fraction": 0.5}
    run = unbroken(loop=loop, model=MLP, method=replay).run
    steps = [event["costs"]["steps"] for event in journal(run) if event["event"] == "task"]
    assert steps == [8, 12, 16]  # two epochs of 16, 24 and 32 examples, four in a batch
    carried = unbroken(loop=loop, model=MLP, method=replay, boundary="keep-optimizer").run
    first, second = (f"tasks/{place}/model/model.safetensors" for place in ("01-first", "02-second"))
    assert (run / first).read_bytes() == (carried / first).read_bytes()
    assert (run / second).read_bytes() != (carried / second).read_bytes()
