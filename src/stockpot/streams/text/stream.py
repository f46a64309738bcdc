"""A stream of texts for a causal language model: its tasks in order, as token sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from stockpot.batches.examples import Batch
from stockpot.batches.token_examples import TokenExamples
from stockpot.streams.scenario import Rows
from stockpot.streams.spec import DataSpec, Scenario, TaskSpec
from stockpot.streams.stream import evenly, inherit
from stockpot.streams.text.cache import cached
from stockpot.streams.text.part import TextPart
from stockpot.streams.text.rows import TextRows
from stockpot.streams.text.source import TextSource, open_text
from stockpot.streams.text.tokens import Tokenised, sequence_length, text_part


@dataclass(frozen=True)
class LanguageTask:
    """One task's texts. It has no classes and no output rows of its own: every token is everybody's."""

    name: str
    data: DataSpec
    source: TextSource
    classes: Sequence[str] = ()
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sources:
    """The data sets of a stream, opened: what a tokenizer can be trained on before there are any tokens."""

    tasks: list[LanguageTask]
    controls: list[LanguageTask]

    @classmethod
    def open(
        cls,
        default: DataSpec,
        tasks: Sequence[TaskSpec],
        controls: Sequence[TaskSpec],
        tuning: bool = False,
        most: int | None = None,
    ) -> Sources:
        """Opens every data set; with `tuning`, a fifth of the training rows stands for the test part.

        `most` keeps so many rows of each test part, evenly spaced.
        """
        return cls(*([_open(default, task, tuning, most) for task in some] for some in (tasks, controls)))

    def texts(self) -> Iterator[str]:
        """All that the tasks train on."""
        for task in self.tasks:
            yield from task.source.train.texts()


_SOURCES: dict[tuple[str, bool], TextSource] = {}  # opened by this process: a comparison opens each of them once
_TOKENISED: dict[tuple[Any, ...], Tokenised] = {}


def _open(default: DataSpec, spec: TaskSpec, tuning: bool, most: int | None) -> LanguageTask:
    data = inherit(default, spec.data)
    key = data.model_dump_json(), tuning
    if key not in _SOURCES:
        _SOURCES[key] = open_text(data, f"task {spec.name!r}", tuning)
    source = _SOURCES[key]
    if most is not None:
        kept = source.test.picked(evenly(len(source.test.items), most).tolist())
        source = replace(source, test=kept, facts={**source.facts, "test": len(kept.items)})
    return LanguageTask(spec.name, data, source)


@dataclass
class LanguageStream:
    """Tasks and controls of text; sequences are made when they are first read, and kept in memory."""

    called = "texts"  # what an example is, in messages
    scenario: Scenario = field(default="language", init=False)

    tasks: list[LanguageTask]
    controls: list[LanguageTask]
    tokenizer: Any
    config: Any  # of the model, which says how long its texts may be
    fingerprint: str

    @classmethod
    def open(cls, sources: Sources, tokenizer: Any, config: Any) -> LanguageStream:
        """The stream in the tokens of a tokenizer. Raises StockpotError where a task asks for too long sequences."""
        from stockpot.models.tokenizer import tokenizer_fingerprint

        stream = cls(sources.tasks, sources.controls, tokenizer, config, tokenizer_fingerprint(tokenizer))
        for task in (*stream.tasks, *stream.controls):
            stream._length(task)
        return stream

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
        """No task has rows of its own."""
        return Rows(self.scenario, ((),) * len(self.tasks), ())

    def train(self, index: int) -> TokenExamples:
        """The training sequences of task `index` (from 0)."""
        return self._made(self.tasks[index], self.tasks[index].source.train, training=True).examples

    def test(self, index: int) -> TextPart:
        """The test part of task `index` (from 0)."""
        return self._part(self.tasks[index])

    def control(self, index: int) -> TextPart:
        """The test part of control `index` (from 0)."""
        return self._part(self.controls[index])

    def sample(self, index: int) -> Batch:
        """A batch of one training sequence of task `index` (from 0): what the model will be given."""
        return self.train(index).__getitems__([0])

    def facts(self) -> dict[str, dict[str, Any]]:
        """Task name → what its data is: path, fingerprint, sizes."""
        return {task.name: {**task.source.facts, "classes": []} for task in (*self.tasks, *self.controls)}

    def notes(self, index: int) -> list[str]:
        """What a reader must know of task `index`: texts that were cut or left out."""
        task, found = self.tasks[index], []
        for part, rows in (("training", task.source.train), ("test", task.source.test)):
            made, over = self._made(task, rows, training=part == "training"), f"over {self._length(task)} tokens"
            if made.cut:
                found.append(f"{made.cut} of {len(rows.items)} {part} texts lost their end, {over}")
            if made.dropped:
                found.append(
                    f"{len(made.dropped)} of {len(rows.items)} {part} texts were left out, their prompts {over}"
                )
        if skipped := task.source.facts["skipped"]:
            found.append(f"{skipped} empty texts were left out")
        return [f"task {task.name!r}: {'; '.join(found)}"] if found else []

    def _length(self, task: LanguageTask) -> int:
        return sequence_length(task.data.max_length, self.config, f"task {task.name!r}")

    def _part(self, task: LanguageTask) -> TextPart:
        rows = task.source.test
        return text_part(task.name, rows, self._made(task, rows, training=False), self.tokenizer)

    def _made(self, task: LanguageTask, rows: TextRows, training: bool) -> Tokenised:
        settings = (self._length(task), task.data.packing, training, task.data.long_prompts == "drop")
        key = (rows.fingerprint, self.fingerprint, *settings)
        if key not in _TOKENISED:
            length, packing, _, drop = settings
            _TOKENISED[key] = cached(rows, self.tokenizer, length, packing=packing, training=training, drop=drop)
        return _TOKENISED[key]
