"""A stream of images or texts with labels: tasks in order, examples ready for the model, a row for every label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from stockpot.batches.examples import Batch, Examples, Mixture
from stockpot.batches.losses import SINGLE_LABEL
from stockpot.errors import StockpotError
from stockpot.streams.classes import ClassifiedTask, PartName
from stockpot.streams.labelled import Labels, Values
from stockpot.streams.readers import Reader
from stockpot.streams.scenario import Rows
from stockpot.streams.spec import DataSpec, MixSpec, TaskSpec


@dataclass
class ClassifiedStream:
    """Tasks and controls whose examples have a class, several labels or numbers each: see `Stream`."""

    scenario: str
    tasks: list[ClassifiedTask]
    controls: list[ClassifiedTask]
    reader: Reader
    has_classes = True
    _examples: dict[tuple[str, PartName], Examples] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        scenario: str,
        default: DataSpec,
        tasks: Sequence[TaskSpec],
        controls: Sequence[TaskSpec],
        reader: Reader,
        tuning: bool = False,
        most: int | None = None,
    ) -> ClassifiedStream:
        """Opens every data set of the stream, and assigns the output rows.

        Args:
            scenario: which classes have rows of their own.
            default: the recipe's `data`, from which tasks inherit.
            tasks: the tasks, in order.
            controls: tasks that are only evaluated.
            reader: makes examples of images or texts.
            tuning: hold out a fifth of each class's training examples, and use it as the test part.
            most: keep only so many test examples of each task, evenly spaced.

        Raises:
            StockpotError: a data set cannot be opened, a class does not exist, a task has no examples, or a control
                has a class that no task has.
        """
        opened = [ClassifiedTask.open(default, task, tuning, most) for task in tasks]
        rows = Rows.of(scenario, [(task.name, task.classes) for task in opened])
        for task, task_rows in zip(opened, rows.tasks, strict=True):
            task.rows = task_rows
        checks = [ClassifiedTask.open(default, task, tuning, most) for task in controls]
        stream = cls(scenario, opened, checks, reader)
        for control in stream.controls:
            control.rows = stream._control_rows(control)
        for index, task in enumerate(opened):
            if task.mix is not None:
                stream._general(index, task.mix)  # raises where it does not fit
        return stream

    @property
    def example_noun(self) -> str:
        """`images` or `texts`, for messages."""
        return self.reader.noun

    @property
    def tokenizer(self) -> Any | None:
        """The tokenizer of a stream of texts; None for images."""
        return self.reader.tokenizer

    @property
    def rows(self) -> Rows:
        """The output row of every class."""
        rows = Rows.of(self.scenario, [(task.name, task.classes) for task in self.tasks])
        return replace(rows, compete=self.tasks[0].data.problem == SINGLE_LABEL)

    def first(self, count: int) -> Self:
        """The stream as if only its first `count` tasks were known."""
        return replace(self, tasks=self.tasks[:count])

    def train(self, index: int) -> Examples:
        """The training examples of task `index` (from 0)."""
        return self._read(self.tasks[index], "train")

    def beginning(self, index: int, count: int) -> Examples:
        """The first `count` training examples of task `index` (from 0); others are not read."""
        task = self.tasks[index]
        part, rows = task.part("train"), task.indices("train")[:count]
        return self.reader.read(part, rows, _outputs(task, part.labels[rows]), task.data, f"task {task.name!r}")

    def mixture(self, index: int) -> Mixture | None:
        """The general data that is mixed into task `index` (from 0); None where there is none."""
        task = self.tasks[index]
        if task.mix is None:
            return None
        return Mixture(self._read(self._general(index, task.mix), "train"), task.mix.fraction)

    def test(self, index: int) -> Examples:
        """The test examples of task `index` (from 0)."""
        return self._read(self.tasks[index], "test")

    def control(self, index: int) -> Examples:
        """The test examples of control `index` (from 0)."""
        return self._read(self.controls[index], "test")

    def other(self, data: DataSpec, where: str) -> Examples:
        """Refused: see `Stream`."""
        raise StockpotError(f"{where}: {self.reader.noun} with classes that no task has cannot be scored by the head.")

    def sample(self, index: int) -> Batch:
        """A batch of one training example of task `index` (from 0), as the model receives it."""
        task = self.tasks[index]
        first = task.source.train.pick(task.indices("train")[:1])
        return self.reader.sample(first, task.data, f"task {task.name!r}")

    def notes(self, index: int) -> list[str]:
        """What was mixed into task `index`; every example is used as it is."""
        mix = self.tasks[index].mix
        if mix is None:
            return []
        count = len(self._general(index, mix).indices("train"))
        general = f"{mix.fraction:.1%} of every epoch are general data, of {count} {self.example_noun} from {mix.path}"
        return [f"task {self.tasks[index].name!r}: {general}"]

    def facts(self) -> dict[str, dict[str, Any]]:
        """Name of a task or control → path, fingerprint, classes, and how many `train` and `test` examples it has."""
        facts: dict[str, dict[str, Any]] = {
            task.name: {**task.source.facts, "classes": task.classes, "train": len(task.indices("train")),
                        "test": len(task.indices("test"))}
            for task in (*self.tasks, *self.controls)
        }  # fmt: skip
        for index, task in enumerate(self.tasks):
            if task.mix is not None:
                general = self._general(index, task.mix)
                sizes = {"fraction": task.mix.fraction, "train": len(general.indices("train"))}
                facts[task.name]["mix"] = {
                    "path": task.mix.path, **sizes, "fingerprint": general.source.facts["fingerprint"]
                }  # fmt: skip
        return facts

    def save_preprocessor(self, folder: Path) -> None:
        """Writes the tokenizer or the image processor beside a model."""
        self.reader.save(folder)

    def _general(self, index: int, mix: MixSpec) -> ClassifiedTask:
        """The general data of task `index`, whose classes must be those of the tasks up to it."""
        name = f"{self.tasks[index].name}: mix"
        if self.scenario == "task-incremental":
            raise StockpotError(f"task {name!r}: a task-incremental head has no rows for general data; drop mix.")
        if self.tasks[index].data.problem != SINGLE_LABEL:
            raise StockpotError(f"task {name!r}: general data are mixed into texts and into classes alone; drop mix.")
        general = ClassifiedTask.open(mix, TaskSpec.model_construct(name=name, data=DataSpec(), mix=None))
        rows = self.first(index + 1).rows
        keys = general.classes if self.scenario == "class-incremental" else list(map(str, range(len(general.labels))))
        if missing := [key for key in keys if key not in rows.names]:
            raise StockpotError(
                f"task {name!r}: no task up to this one has the class {missing[0]!r}, so the head has no row for it: "
                "choose others with mix.classes."
            )
        general.rows = tuple(rows.names.index(key) for key in keys)
        return general

    def _control_rows(self, control: ClassifiedTask) -> tuple[int, ...]:
        rows = self.rows
        if self.scenario == "task-incremental":
            raise StockpotError(f"controls: {control.name!r}: a task-incremental head has no rows for a control.")
        keys = rows.row_keys(control.name, control.classes)
        missing = [key for key in keys if key not in rows.names]
        if missing:
            raise StockpotError(f"controls: {control.name!r}: no task of the stream has the class {missing[0]!r}.")
        return tuple(rows.names.index(key) for key in keys)

    def _read(self, task: ClassifiedTask, name: PartName) -> Examples:
        key = (task.name, name)
        if key not in self._examples:
            part, rows = task.part(name), task.indices(name)
            outputs = _outputs(task, part.labels[rows])
            self._examples[key] = self.reader.read(part, rows, outputs, task.data, f"task {task.name!r}")
        return self._examples[key]


def _outputs(task: ClassifiedTask, labels: Labels | Values) -> Tensor:
    """Labels of the data set as those of `Examples`: output rows (N,), or values (N, rows) with NaN in other rows."""
    if task.data.problem == SINGLE_LABEL:
        row_of = dict(zip(task.labels, task.rows, strict=True))
        return torch.tensor([row_of[int(label)] for label in labels])
    outputs = torch.full((len(labels), 1 + max(task.rows)), torch.nan)
    outputs[:, list(task.rows)] = torch.from_numpy(labels[:, task.labels].astype(np.float32))
    return outputs
