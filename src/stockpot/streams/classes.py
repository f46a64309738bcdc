"""The classes, labels or numbers of a data set that belong to a task, and its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from stockpot.batches.losses import SINGLE_LABEL
from stockpot.errors import StockpotError, did_you_mean
from stockpot.streams.hub import KEPT_OPEN, open_hub
from stockpot.streams.images import open_images
from stockpot.streams.labelled import LabelledPart, LabelledSource, Labels
from stockpot.streams.labelled_pairs import open_pairs
from stockpot.streams.pairs import Pairs
from stockpot.streams.passed_data import is_passed
from stockpot.streams.sampling import evenly_spaced_rows
from stockpot.streams.spec import TUNING_SHARE, DataSpec, MixSpec, TaskSpec, inherit
from stockpot.streams.text.labelled_texts import open_labelled_texts

PartName = Literal["train", "test"]
_NARROWING = {"classes", "rotate", "permute", "limit", "in_memory"}  # keys that tasks of one data set may differ in


def chosen_classes(data: DataSpec, source: LabelledSource, where: str) -> list[int]:
    """The class numbers that `data.classes` names, in that order; without it, all of them. So for several labels."""
    if data.classes is None:
        return list(range(len(source.classes)))
    if data.problem == "regression":
        raise StockpotError(f"{where}: data.classes: a regression has none; name columns of numbers in data.label.")
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
        raise StockpotError(f"{where}: data.classes: a class appears twice in {data.classes}.")
    return numbers


def split_classes(data: DataSpec, size: int, shuffle: int | None) -> list[TaskSpec]:
    """Tasks of `size` classes each, in label order or shuffled by a seed; the last one takes what is left."""
    if data.problem == "regression":
        raise StockpotError("tasks.split: it cuts `data` by classes, and a regression has none; list the tasks.")
    numbers = chosen_classes(data, open_labelled(data, "tasks.split"), "tasks.split")
    if shuffle is not None:
        numbers = np.random.default_rng(shuffle).permutation(numbers).tolist()
    if size > len(numbers):
        raise StockpotError(f"tasks.split: {size} classes in a task, but {data.path!r} has only {len(numbers)}.")
    groups = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return [
        TaskSpec(name=f"part-{number}", data=DataSpec(classes=[int(label) for label in group]))
        for number, group in enumerate(groups, 1)
    ]


@dataclass(frozen=True)
class _Request:
    """A data set to open; two requests are equal if they open the same one."""

    key: str
    data: DataSpec = field(compare=False)
    where: str = field(compare=False)


def open_labelled(data: DataSpec, where: str) -> LabelledSource:
    """The data set of images, or of texts with classes, that `data` names; the newest KEPT_OPEN stay open."""
    return _open(_Request(data.model_dump_json(exclude=_NARROWING), data, where))


@lru_cache(maxsize=KEPT_OPEN)
def _open(request: _Request) -> LabelledSource:
    if is_passed(request.data.path):
        splits = open_hub(request.data, request.where)
        if isinstance(splits[request.data.train_split], Pairs):
            return open_pairs(request.data, splits, request.where)
    if request.data.text is None:
        return open_images(request.data, request.where)
    return open_labelled_texts(request.data, request.where)


@dataclass
class ClassifiedTask:
    """One task's data: its classes, and the rows of its training and test parts."""

    name: str
    data: DataSpec
    source: LabelledSource
    labels: list[int]  # the numbers of its classes, or of the labels or numbers that an example has, in order
    tuning: bool = False  # both parts are cut from the training examples; the test part is not touched
    most: int | None = None  # test examples
    rows: tuple[int, ...] = ()  # the output row of each class
    mix: MixSpec | None = None  # general data, which `mixed` opens

    @classmethod
    def open(cls, default: DataSpec, spec: TaskSpec, tuning: bool = False, most: int | None = None) -> ClassifiedTask:
        """Opens the task's data set. Raises StockpotError if a class does not exist, or a part has no examples."""
        data = inherit(default, spec.data)
        where = f"task {spec.name!r}"
        source = open_labelled(data, where)
        task = cls(spec.name, data, source, chosen_classes(data, source, where), tuning, most)
        task.mix = spec.mix if spec.mix is not None and spec.mix.fraction else None
        parts: tuple[PartName, PartName] = ("train", "test")
        for part in parts:
            if not len(task.indices(part)):
                raise StockpotError(
                    f"{where}: it is empty: the {part} part of {data.path!r} has no example of its classes "
                    f"{task.classes[:10]}."
                )
        return task

    @property
    def classes(self) -> list[str]:
        """The class names, in order."""
        return [self.source.classes[label] for label in self.labels]

    @property
    def _has_classes(self) -> bool:
        return self.data.problem == SINGLE_LABEL

    def part(self, name: PartName) -> LabelledPart:
        """The part of the data set that `indices` count in."""
        return self.source.train if name == "train" or self.tuning else self.source.test

    def indices(self, name: PartName) -> Labels:
        """The rows of the part that belong to the task, in order."""
        rows = self._held_out(name) if self.tuning else self._of_classes(name)
        return rows if name == "train" or self.most is None else rows[evenly_spaced_rows(len(rows), self.most)]

    def _held_out(self, name: PartName) -> Labels:
        """A share of each class's training examples stands for the test part; the rest is trained on."""
        rows = self._of_classes("train")
        labels = self.source.train.labels[rows]
        by_class = [rows[labels == label] for label in self.labels] if self._has_classes else [rows]
        drawn = [
            np.random.default_rng(label).permutation(members)[
                : max(len(members) // TUNING_SHARE, min(1, len(members) - 1))
            ]
            for label, members in zip(self.labels if self._has_classes else [0], by_class, strict=True)
        ]
        held_out = np.sort(np.concatenate(drawn))
        return held_out if name == "test" else np.setdiff1d(rows, held_out)

    def _of_classes(self, name: PartName) -> Labels:
        labels = (self.source.train if name == "train" else self.source.test).labels
        if not self._has_classes:  # examples in which at least one of the task's labels is known
            return np.flatnonzero(~np.isnan(labels[:, self.labels]).all(1))[: self.data.limit]
        rows = np.flatnonzero(np.isin(labels, self.labels))
        if self.data.limit is None:
            return rows
        kept = [rows[labels[rows] == label][: self.data.limit] for label in self.labels]
        return np.sort(np.concatenate(kept))


def class_texts(default: DataSpec, tasks: Sequence[TaskSpec]) -> Iterator[str]:
    """All training texts of tasks of texts with classes, to train a tokenizer on."""
    for spec in tasks:
        task = ClassifiedTask.open(default, spec)
        yield from task.source.train.pick(task.indices("train"))
