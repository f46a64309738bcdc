"""The second of two toy tasks, unbroken or stopped and taken up again by a new method and a new model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from toy import SETTINGS, Weights, copied, examples, learn, network

from stockpot import methods
from stockpot.methods.base import Method, Task
from stockpot.seeds import derive, seed_everything
from stockpot.training import dispatch
from stockpot.training.job import Interrupted, Job, planned_steps
from stockpot.training.method_state import read_state

State = tuple[Mapping[str, Tensor], dict[str, Any]]


def second_task(
    config: Any,
    loop: str,
    folder: Path,
    stop_at: int | None = None,
    *,
    build: Callable[[Any], Method] = methods.build,
    model: nn.Module | None = None,
    **settings: Any,
) -> tuple[Weights, State]:
    """The weights after it, and the method's state; `stop_at` is the step after which everything is begun anew."""
    model = model or network()
    first = learn(config, loop, folder, tasks=[examples(0)], model=model, build=build, **settings)

    def begin(resume_from: Path | None = None) -> tuple[Job, Task]:
        method, current, own = build(config), copy.deepcopy(model), examples(1)
        current.load_state_dict(first.weights[1])
        read_state(method, folder / "state-0")
        rows = [sorted(set(examples(index).labels.tolist())) for index in range(2)]
        task = Task(1, "task1", derive(0, "task", 1), current, rows=rows)
        seed_everything(task.seed)
        data = method.training_data(task, own)
        job = Job(current, method, data, {**SETTINGS, **settings}, task.seed, folder / "two", resume_from=resume_from)
        task.total_steps = planned_steps(job)
        method.task_start(task)
        return job, task

    job, task = begin()
    if stop_at is not None:
        saved: list[Path] = []
        job.on_checkpoint = lambda step, place: saved.append(place)
        broken = job

        def look(step: int, total: int) -> None:
            broken.stop.requested = step == stop_at

        job.on_step = look
        with pytest.raises(Interrupted):
            dispatch.train(job, loop)
        seed_everything(99)
        job, task = begin(saved[0])
    dispatch.train(job, loop)
    job.method.task_end(task, examples(1))
    return copied(job.model), job.method.state()
