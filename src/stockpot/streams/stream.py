"""A stream: its tasks in order, their examples ready for the model, and the output row of every class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import numpy as np
import psutil
import torch
from torch import Tensor

from stockpot.batches.examples import Batch, Examples, LazyExamples, TensorExamples
from stockpot.errors import StockpotError, did_you_mean
from stockpot.streams.scenario import Rows
from stockpot.streams.source import Labels, Part, Source, open_source
from stockpot.streams.spec import TUNING_SHARE, DataSpec, Scenario, TaskSpec
from stockpot.streams.transforms import permute, rotate

Processor = Callable[[list[Any]], Tensor]  # PIL images → (B, C, H, W)


@dataclass(frozen=True)
class TextProcessor:
    """In the place of an image processor: texts → token sequences for a classifier, long ones cut."""

    tokenizer: Any
    config: Any  # of the model, which says how long its texts may be

    def __call__(self, texts: list[Any], rows: list[int], data: DataSpec, where: str) -> Examples:
        from stockpot.streams.text.tokens import classification_tokens, sequence_length

        return classification_tokens(texts, rows, self.tokenizer, sequence_length(data.max_length, self.config, where))


_CHUNK = 512  # images processed at once
MEMORY_SHARE = 0.25  # of the free memory: what one split's tensors may take before they are read lazily


def inherit(default: DataSpec, own: DataSpec) -> DataSpec:
    """A task's data: what it does not say comes from the recipe's."""
    return default.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})


def chosen_classes(data: DataSpec, source: Source, where: str) -> list[int]:
    """The class numbers that `data.classes` names, in that order; all of them without it."""
    if data.classes is None:
        return list(range(len(source.classes)))
    numbers = []
    for wanted in data.classes:
        if isinstance(wanted, int) and 0 <= wanted < len(source.classes):
            numbers.append(wanted)
        elif str(wanted) in source.classes:
            numbers.append(source.classes.index(str(wanted)))
        else:
            hint = did_you_mean(wanted, source.classes) if isinstance(wanted, str) else ""
            known = ", ".join(source.classes[:20]) + (", …" if len(source.classes) > 20 else "")
            raise StockpotError(
                f"{where}: data.classes: {data.path!r} has no class {wanted!r}.{hint} "
                f"Classes 0 to {len(source.classes) - 1}: {known}."
            )
    if len(set(numbers)) < len(numbers):
        raise StockpotError(f"{where}: data.classes: a class stands twice in {data.classes}.")
    return numbers


def split_classes(data: DataSpec, size: int, shuffle: int | None) -> list[TaskSpec]:
    """Tasks of `size` classes each, in label order or shuffled by a seed; the last one takes what is left."""
    source = _open(data, "tasks.split")
    numbers = chosen_classes(data, source, "tasks.split")
    if shuffle is not None:
        numbers = np.random.default_rng(shuffle).permutation(numbers).tolist()
    if size > len(numbers):
        raise StockpotError(f"tasks.split: {size} classes in a task, but {data.path!r} has only {len(numbers)}.")
    groups = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return [
        TaskSpec(name=f"part-{number}", data=DataSpec(classes=[int(label) for label in group]))
        for number, group in enumerate(groups, 1)
    ]


_SOURCES: dict[str, Source] = {}  # data sets opened by this process: a comparison opens each of them once


def class_texts(default: DataSpec, tasks: Sequence[TaskSpec]) -> Iterator[str]:
    """All that tasks of texts with classes train on, to train a tokenizer on."""
    for task in tasks:
        opened = _open_task(default, task, tuning=False)
        yield from opened.source.train.pick(_rows(opened, "train"))


def _open(data: DataSpec, where: str) -> Source:
    key = data.model_dump_json(exclude={"classes", "rotate", "permute", "limit", "in_memory"})
    if key not in _SOURCES:
        if data.text is None:
            _SOURCES[key] = open_source(data, where)
        else:
            from stockpot.streams.text.classes import open_text_classes

            _SOURCES[key] = open_text_classes(data, where)
    return _SOURCES[key]


@dataclass
class StreamTask:
    """One task's data: which classes it has, and how to read its two parts."""

    name: str
    data: DataSpec
    source: Source
    labels: list[int]  # the class numbers, in order
    tuning: bool = False  # both parts are cut from the training examples; the test part is not touched
    most: int | None = None  # test examples
    rows: tuple[int, ...] = ()  # the output row of each

    @property
    def classes(self) -> list[str]:
        """The class names, in order."""
        return [self.source.classes[label] for label in self.labels]


@dataclass
class Stream:
    """Tasks and controls, opened lazily and kept in memory as tensors where they fit."""

    scenario: Scenario
    tasks: list[StreamTask]
    controls: list[StreamTask]
    processor: Processor | TextProcessor
    _cache: dict[tuple[str, str], Examples] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        scenario: Scenario,
        default: DataSpec,
        tasks: Sequence[TaskSpec],
        controls: Sequence[TaskSpec],
        processor: Processor | TextProcessor,
        tuning: bool = False,
        most: int | None = None,
    ) -> Stream:
        """Opens every data set of the stream, and assigns the output rows.

        With `tuning`, a fifth of each class's training examples is held out and stands for the test part, of which
        `most` keeps so many, evenly spaced.
        """
        opened = [_open_task(default, task, tuning, most) for task in tasks]
        rows = Rows.of(scenario, [(task.name, task.classes) for task in opened])
        for task, own in zip(opened, rows.tasks, strict=True):
            task.rows = own
        stream = cls(scenario, opened, [_open_task(default, task, tuning, most) for task in controls], processor)
        for control in stream.controls:
            control.rows = stream._control_rows(control)
        return stream

    @property
    def called(self) -> str:
        """What an example is, in messages."""
        return "texts" if isinstance(self.processor, TextProcessor) else "images"

    @property
    def task_names(self) -> list[str]:
        """The tasks' names, in order."""
        return [task.name for task in self.tasks]

    @property
    def control_names(self) -> list[str]:
        """The controls' names, in order."""
        return [control.name for control in self.controls]

    def first(self, count: int) -> Self:
        """The stream as if only so many tasks were known."""
        return replace(self, tasks=self.tasks[:count])

    @property
    def rows(self) -> Rows:
        """The output row of every class."""
        return Rows.of(self.scenario, [(task.name, task.classes) for task in self.tasks])

    def _control_rows(self, control: StreamTask) -> tuple[int, ...]:
        rows = self.rows
        if self.scenario == "task-incremental":
            raise StockpotError(f"controls: {control.name!r}: a task-incremental head has no rows for a control.")
        keys = control.classes if self.scenario == "class-incremental" else list(map(str, range(len(control.labels))))
        missing = [key for key in keys if key not in rows.names]
        if missing:
            raise StockpotError(f"controls: {control.name!r}: no task of the stream has the class {missing[0]!r}.")
        return tuple(rows.names.index(key) for key in keys)

    def train(self, index: int) -> Examples:
        """The training examples of task `index` (from 0)."""
        return self._examples(self.tasks[index], "train")

    def test(self, index: int) -> Examples:
        """The test examples of task `index` (from 0)."""
        return self._examples(self.tasks[index], "test")

    def control(self, index: int) -> Examples:
        """The test examples of control `index` (from 0)."""
        return self._examples(self.controls[index], "test")

    def sample(self, index: int) -> Batch:
        """One processed example of task `index` (from 0): what the model will be given."""
        task = self.tasks[index]
        first = task.source.train.pick(_rows(task, "train")[:1])
        if isinstance(self.processor, TextProcessor):
            return self.processor(first, [0], task.data, f"task {task.name!r}").__getitems__([0])
        return {"pixel_values": _process(first, task.data, self.processor)}

    def notes(self, index: int) -> list[str]:
        """What a reader must know of task `index`: nothing, where examples are taken as they are."""
        return []

    def facts(self) -> dict[str, dict[str, Any]]:
        """Task name → what its data is: path, fingerprint, sizes, classes."""
        return {
            task.name: {**task.source.facts, "classes": task.classes, "train": len(_rows(task, "train")),
                        "test": len(_rows(task, "test"))}
            for task in (*self.tasks, *self.controls)
        }  # fmt: skip

    def _examples(self, task: StreamTask, part: str) -> Examples:
        key = (task.name, part)
        if key not in self._cache:
            self._cache[key] = _read(task, part, self.processor)
        return self._cache[key]


def _open_task(default: DataSpec, spec: TaskSpec, tuning: bool, most: int | None = None) -> StreamTask:
    data = inherit(default, spec.data)
    where = f"task {spec.name!r}"
    source = _open(data, where)
    task = StreamTask(spec.name, data, source, chosen_classes(data, source, where), tuning, most)
    for part in ("train", "test"):
        if not len(_rows(task, part)):
            raise StockpotError(
                f"{where}: it is empty: the {part} part of {data.path!r} has no example of its classes "
                f"{task.classes[:10]}."
            )
    return task


def _rows(task: StreamTask, part: str) -> Labels:
    """The rows of a part of the data set that belong to the task, in order."""
    rows = _whole_part(task, part)
    return rows if part == "train" or task.most is None else rows[evenly(len(rows), task.most)]


def evenly(count: int, most: int) -> Labels:
    """At most so many of the numbers below `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _whole_part(task: StreamTask, part: str) -> Labels:
    if not task.tuning:
        return _of_classes(task, part)
    rows = _of_classes(task, "train")
    labels = task.source.train.labels[rows]
    held = [
        np.random.default_rng(label).permutation(own)[: max(len(own) // TUNING_SHARE, min(1, len(own) - 1))]
        for label in task.labels
        for own in (rows[labels == label],)
    ]
    out = np.sort(np.concatenate(held))
    return out if part == "test" else np.setdiff1d(rows, out)


def _of_classes(task: StreamTask, part: str) -> Labels:
    labels = (task.source.train if part == "train" else task.source.test).labels
    rows = np.flatnonzero(np.isin(labels, task.labels))
    if task.data.limit is None:
        return rows
    kept = [rows[labels[rows] == label][: task.data.limit] for label in task.labels]
    return np.sort(np.concatenate(kept))


def _process(images: list[Any], data: DataSpec, processor: Processor) -> Tensor:
    if data.rotate:
        images = [rotate(image, data.rotate) for image in images]
    pixel_values = processor(images)
    return pixel_values if data.permute is None else permute(pixel_values, data.permute)


def _read(task: StreamTask, part: str, processor: Processor | TextProcessor) -> Examples:
    source: Part = task.source.train if part == "train" or task.tuning else task.source.test
    rows = _rows(task, part)
    to_row = dict(zip(task.labels, task.rows, strict=True))
    labels = torch.tensor([to_row[int(label)] for label in source.labels[rows]])
    if isinstance(processor, TextProcessor):
        return processor(source.pick(rows), labels.tolist(), task.data, f"task {task.name!r}")
    first = _process(source.pick(rows[:1]), task.data, processor)
    in_memory = task.data.in_memory
    if in_memory is None:
        in_memory = first.nbytes * len(rows) <= MEMORY_SHARE * psutil.virtual_memory().available
    if not in_memory:
        read = partial(_process, data=task.data, processor=processor)
        return LazyExamples(_Picked(source, rows), read, labels, first.nbytes)
    chunks = [
        _process(source.pick(rows[start : start + _CHUNK]), task.data, processor)
        for start in range(0, len(rows), _CHUNK)
    ]
    return TensorExamples(torch.cat(chunks), labels)


@dataclass(frozen=True)
class _Picked:
    """The chosen rows of a split, indexed by position."""

    part: Part
    rows: Labels

    def __getitem__(self, positions: list[int]) -> list[Any]:
        return self.part.pick(self.rows[positions])
