"""What trackers are told of a stream: the curves of every task, and a row of numbers before it and after each task.

| name | when | what |
|---|---|---|
| `TASK/loss`, `TASK/learning_rate`, `TASK/grad_norm`, `TASK/epoch` | every `logging_steps` | as the Trainer logs them |
| `TASK/sfa/distance`, `TASK/sfa/averages` | the same, and after every average | ‖θ − θ_o‖₂, averages so far |
| `matrix/SCORE/TASK` | before the stream, after every task | the scores on all tasks |
| `controls/SCORE/CONTROL`, `controls/CONTROL/change` | the same | the scores on controls, the change since the start |
| `stream/METRIC` | after every task | average accuracy, forgetting and the other metrics, so far |

Steps are those of the stream: a task begins where the one before it ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stockpot import files
from stockpot.evaluation.metrics import control_metrics, stream_metrics
from stockpot.methods.base import Method
from stockpot.results import Results, Scores
from stockpot.runs.events import Evaluated
from stockpot.runs.folder import RunFolder
from stockpot.runs.results_json import results_of
from stockpot.runs.session import Session
from stockpot.runs.trackers import StreamName, Tracker, open_tracker, read_memory, write_memory
from stockpot.training.job import STREAM_TRACKERS, training_arguments

_PART = re.compile(r"(order|trial|point)-.*")  # folders of a comparison that tell runs of one method and seed apart


@dataclass
class StreamTrackers:
    """The trackers of one run; none where the recipe names none."""

    run: RunFolder
    folder: Path
    trackers: list[Tracker] = field(default_factory=list)

    def rows(self) -> None:
        """Writes the rows that a tracker does not have yet."""
        run = self.run
        have = min((tracker.memory["rows"] for tracker in self.trackers), default=len(run.finished) + 1)
        if have > len(run.finished):
            return
        events: list[Evaluated] = [run.started, *run.finished]
        results = results_of(run) if run.finished else None
        for number in range(have, len(events)):
            values, step = row_values(run, events[number], results, number), first_step(run, number)
            for tracker in self.trackers:
                if number >= tracker.memory["rows"]:
                    tracker.log(values, step)
                    tracker.memory["rows"] = number + 1
        write_memory(self.folder, self.trackers)

    def curve(self, index: int, method: Method[Any]) -> TaskCurve | None:
        """The curves of task `index`, which `method` learns; None where no tracker wants them."""
        return (
            TaskCurve(self, self.run.tasks[index].name, first_step(self.run, index), method) if self.trackers else None
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Writes the numbers of a training step to the trackers that do not have them."""
        for tracker in self.trackers:
            if not tracker.has(step):
                tracker.log(values, step)
        write_memory(self.folder, self.trackers)


@dataclass
class TaskCurve:
    """The curves of one task."""

    trackers: StreamTrackers
    task: str
    offset: int  # steps of the tasks before
    method: Method[Any]
    averages: int = 0
    _newest_average: int = 0  # its step

    def begin(self) -> None:
        """The first step comes next; averages that a resumed task has made were written then."""
        self.averages = self.method.costs.averages

    def averaged(self, step: int) -> None:
        """Writes how far the weights are from the anchor, if the method has averaged since the last call."""
        if self.method.costs.averages != self.averages:
            self.averages = self.method.costs.averages
            self._write(step, {**self.method.logged(), "sfa/averages": float(self.averages)})
            self._newest_average = step

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Writes the numbers of a step of the task, and those of its method, unless the step's average wrote them."""
        self._write(step, {**({} if step == self._newest_average else self.method.logged()), **numbers})

    def _write(self, step: int, numbers: Mapping[str, float]) -> None:
        self.trackers.log({f"{self.task}/{name}": value for name, value in numbers.items()}, self.offset + step)


@contextmanager
def stream_trackers(session: Session) -> Iterator[StreamTrackers]:
    """Opens the trackers that the recipe's `train.report_to` names, and ends their runs with the block.

    Raises StockpotError where one cannot be started.
    """
    run, recipe = session.run, session.recipe
    folder = run.path / "logs"
    settings = [recipe.train, *(task.train for task in run.tasks)]  # one that a task names holds all of the stream
    named = [training_arguments(each, run.path, run.seed).report_to for each in settings if "report_to" in each]
    opened = StreamTrackers(run, folder)
    kinds = [kind for kind in STREAM_TRACKERS if any(kind in names for names in named)]
    try:
        if kinds:
            files.make_folder(folder)
            memory, index = read_memory(folder), len(run.finished)
            checkpoint = run.checkpoint(index) if index < len(run.tasks) else None
            restart = first_step(run, index) + (0 if checkpoint is None else int(checkpoint["step"]))
            name = stream_name(run)
            for kind in kinds:
                opened.trackers.append(open_tracker(kind, name, folder, memory.get(kind), restart))
            write_memory(folder, opened.trackers)
        yield opened
    finally:
        for tracker in opened.trackers:
            tracker.close()


def stream_name(run: RunFolder) -> StreamName:
    """What a run is called: its method's label and seed; its group is the recipe's name, which a comparison shares."""
    recipe, label = run.recipe, run.created["label"]
    parts = [part for part in run.path.resolve().parts if _PART.fullmatch(part)]
    tags = [f"method:{recipe.method.name}", f"scenario:{recipe.scenario}", f"seed:{run.seed}"]
    tags += [f"split:{recipe.evaluation.on}"] if recipe.evaluation.on != "test" else []
    return StreamName(
        name="-".join([label, *parts, f"seed-{run.seed}"]),
        group=recipe.name or run.path.resolve().name,
        tags=[tag[:64] for tag in tags],  # W&B takes no longer ones
        config=run.created["recipe"],
    )


def first_step(run: RunFolder, index: int) -> int:
    """The steps of all tasks before task `index`."""
    return sum(int(event["costs"].get("steps", 0)) for event in run.finished[:index])


def row_values(run: RunFolder, event: Evaluated, results: Results | None, number: int) -> dict[str, float]:
    """The scores of all tasks and controls after `number` tasks, and the metrics of the stream so far."""
    names = [task.name for task in run.tasks]
    values = {
        f"matrix/{title}/{task}": value
        for title, scores in event["scores"].items()
        for task, value in zip(names, scores, strict=False)
    }
    values |= {
        f"controls/{title}/{control}": value
        for title, scores in event["controls"].items()
        for control, value in scores.items()
    }
    if results is not None and number:
        so_far = _first(results.scores[results.primary], number)
        chained = results.metrics.forgetting is not None or len(results.tasks) < 2
        metrics = stream_metrics(so_far, chained=chained).model_dump()
        values |= {f"stream/{name}": value for name, value in metrics.items()}
        values |= {f"controls/{name}/change": change.change for name, change in control_metrics(so_far).items()}
    return {name: float(value) for name, value in values.items() if value is not None}


def _first(scores: Scores, tasks: int) -> Scores:
    """The scores as they were when so many tasks were learnt."""
    return scores.model_copy(
        update={
            "matrix": [row[:tasks] for row in scores.matrix[:tasks]],
            "initial": scores.initial[:tasks],
            "controls": {name: values[: tasks + 1] for name, values in scores.controls.items()},
        }
    )
