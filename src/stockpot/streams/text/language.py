"""A stream of texts for a language model: its tasks in order, as token sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from stockpot.batches.examples import Batch, Mixture
from stockpot.errors import StockpotError
from stockpot.models.tokenizer import tokenizer_fingerprint
from stockpot.streams.hub import KEPT_OPEN
from stockpot.streams.sampling import evenly_spaced_rows
from stockpot.streams.scenario import Rows
from stockpot.streams.spec import DataSpec, Format, MixSpec, TaskSpec, inherit
from stockpot.streams.text.cache import cached
from stockpot.streams.text.part import TextPart
from stockpot.streams.text.rows import PromptPair, TextRows
from stockpot.streams.text.text_source import TextSource, open_general_text, open_text
from stockpot.streams.text.tokenised import LanguageExamples, Tokenised
from stockpot.streams.text.tokens import sequence_length, text_part

_NOUNS: dict[Format, str] = {"text": "plain texts", "chat": "chats", "prompt-completion": "prompts with completions"}


@dataclass(frozen=True)
class LanguageTask:
    """One task's texts. It has no classes and no output rows of its own: all tasks share every token."""

    name: str
    data: DataSpec
    source: TextSource
    mix: MixSpec | None = None
    general: TextRows | None = None  # what `mix` names
    classes: Sequence[str] = ()
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class LanguageSources:
    """The data sets of a stream, opened: enough to train a tokenizer on, before there are tokens."""

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
    ) -> LanguageSources:
        """Opens every data set.

        Args:
            default: the recipe's `data`, from which tasks inherit.
            tasks: the tasks, in order.
            controls: tasks that are only evaluated.
            tuning: hold out a fifth of the training rows, and use it as the test part.
            most: keep only so many rows of each test part, evenly spaced.

        Raises:
            StockpotError: a data set cannot be opened, or a row of it is bad.
        """
        return cls(
            [_open_task(default, task, tuning, most) for task in tasks],
            [_open_task(default, task, tuning, most) for task in controls],
        )

    def texts(self) -> Iterator[str]:
        """All texts that the tasks train on."""
        for task in self.tasks:
            yield from task.source.train.texts()
            yield from () if task.general is None else task.general.texts()


def _open_task(default: DataSpec, spec: TaskSpec, tuning: bool, most: int | None) -> LanguageTask:
    data = inherit(default, spec.data)
    source = _open(_Request(data.model_dump_json(), tuning, data, f"task {spec.name!r}"))
    if most is not None:
        kept = source.test.picked(evenly_spaced_rows(len(source.test.items), most).tolist())
        source = replace(source, test=kept, facts={**source.facts, "test": len(kept.items)})
    if spec.mix is None or not spec.mix.fraction:
        return LanguageTask(spec.name, data, source)
    mix = spec.mix.beside(data)
    general = _open_general(_Request(mix.model_dump_json(), False, mix, f"task {spec.name!r}: mix"))
    return LanguageTask(spec.name, data, source, mix, general)


@dataclass(frozen=True)
class _Request:
    """A data set to open; two requests are equal if they open the same one."""

    key: str
    tuning: bool
    data: DataSpec = field(compare=False)
    where: str = field(compare=False)


@lru_cache(maxsize=KEPT_OPEN)
def _open(request: _Request) -> TextSource:
    return open_text(request.data, request.where, request.tuning)


@lru_cache(maxsize=KEPT_OPEN)
def _open_general(request: _Request) -> TextRows:
    return open_general_text(request.data, request.where)


def _format(rows: TextRows) -> Format:
    first = rows.items[0]
    return "text" if isinstance(first, str) else "prompt-completion" if isinstance(first, PromptPair) else "chat"


@dataclass
class LanguageStream:
    """Tasks and controls of text to be continued, or of prompts that a decoder answers: see `Stream`."""

    tasks: list[LanguageTask]
    controls: list[LanguageTask]
    tokenizer: Any
    config: Any  # of the model, which limits the length of a sequence
    decoder_start: int | None = None  # the token that a decoder starts from; None for a causal language model
    scenario: str = field(default="language", init=False)
    has_classes = False
    example_noun = "texts"
    _fingerprint: str = ""  # of the tokenizer
    _tokenised: dict[tuple[Any, ...], Tokenised] = field(default_factory=dict)

    @classmethod
    def open(
        cls, sources: LanguageSources, tokenizer: Any, config: Any, decoder_start: int | None = None
    ) -> LanguageStream:
        """The stream of opened data sets.

        Raises StockpotError if `max_length` is more than the model takes, and for data that do not fit its kind.
        """
        fingerprint = tokenizer_fingerprint(tokenizer)
        stream = cls(sources.tasks, sources.controls, tokenizer, config, decoder_start, fingerprint)
        for task in (*stream.tasks, *stream.controls):
            stream._length(task)
            stream._check_kind(f"task {task.name!r}", task.data, task.source.format)
        for task in stream.tasks:
            if task.mix is not None:
                sequence_length(task.mix.max_length, config, f"task {task.name!r}: mix")
            if task.mix is not None and task.general is not None:
                stream._check_kind(f"task {task.name!r}: mix", task.mix, _format(task.general))
        return stream

    @property
    def rows(self) -> Rows:
        """No task has rows of its own."""
        return Rows(self.scenario, ((),) * len(self.tasks), ())

    def first(self, count: int) -> Self:
        """The stream as if only its first `count` tasks were known."""
        return replace(self, tasks=self.tasks[:count])

    def train(self, index: int) -> LanguageExamples:
        """The training sequences of task `index` (from 0)."""
        return self.tokenised(index).examples

    def beginning(self, index: int, count: int) -> LanguageExamples:
        """The first `count` training sequences of task `index` (from 0)."""
        examples = self.train(index)
        return examples.picked(range(min(count, len(examples))))

    def tokenised(self, index: int) -> Tokenised:
        """The training sequences of task `index` (from 0), and what became of its texts."""
        return self._tokenise(self.tasks[index], self.tasks[index].source.train, training=True)

    def length(self, index: int) -> int:
        """The most tokens in a sequence of task `index` (from 0)."""
        return self._length(self.tasks[index])

    def mixture(self, index: int) -> Mixture | None:
        """The general data that is mixed into task `index` (from 0); None where there is none."""
        task = self.tasks[index]
        if task.mix is None or task.general is None:
            return None
        return Mixture(self._general(task.mix, task.general, task.name).examples, task.mix.fraction)

    def test(self, index: int) -> TextPart:
        """The test part of task `index` (from 0)."""
        return self._part(self.tasks[index])

    def control(self, index: int) -> TextPart:
        """The test part of control `index` (from 0)."""
        return self._part(self.controls[index])

    def other(self, data: DataSpec, where: str) -> LanguageExamples:
        """The training sequences of a data set that no task learns."""
        task = LanguageTask(where, data, open_text(data, where, False))
        self._check_kind(where, data, task.source.format)
        return self._tokenise(task, task.source.train, training=True).examples

    def sample(self, index: int) -> Batch:
        """A batch of one training sequence of task `index` (from 0), as the model receives it."""
        return self.train(index).__getitems__([0])

    def facts(self) -> dict[str, dict[str, Any]]:
        """Name of a task or control → path, fingerprint, and how many `train` and `test` texts it has."""
        more: dict[str, Any] = {"classes": []} if self.decoder_start is None else {"classes": [], "answered": True}
        facts = {task.name: {**task.source.facts, **more} for task in (*self.tasks, *self.controls)}
        for task in self.tasks:
            if task.mix is not None and task.general is not None:
                rows = {"path": task.mix.path, "fraction": task.mix.fraction, "train": len(task.general.items)}
                facts[task.name]["mix"] = {**rows, "fingerprint": task.general.fingerprint[:16]}
        return facts

    def notes(self, index: int) -> list[str]:
        """How many texts of task `index` were cut or left out."""
        task, parts = self.tasks[index], []
        for part, rows in (("training", task.source.train), ("test", task.source.test)):
            tokenised = self._tokenise(task, rows, training=part == "training")
            over = f"over {self._length(task)} tokens"
            if tokenised.cut:
                parts.append(f"{tokenised.cut} of {len(rows.items)} {part} texts lost their end, {over}")
            if tokenised.dropped:
                parts.append(
                    f"{len(tokenised.dropped)} of {len(rows.items)} {part} texts were left out, their prompts {over}"
                )
        if skipped := task.source.facts["skipped"]:
            parts.append(f"{skipped} empty texts were left out")
        if task.mix is not None and task.general is not None:
            general = self._general(task.mix, task.general, task.name)
            parts.append(
                f"{task.mix.fraction:.1%} of every epoch are general data, of {len(general.examples)} sequences from "
                f"{task.mix.path}"
            )
        return [f"task {task.name!r}: {'; '.join(parts)}"] if parts else []

    def save_preprocessor(self, folder: Path) -> None:
        """Writes the tokenizer beside a model."""
        self.tokenizer.save_pretrained(folder)

    def _check_kind(self, where: str, data: DataSpec, format: Format) -> None:
        """Raises StockpotError for data that a model of this kind does not learn from."""
        if self.decoder_start is None:
            if data.long_prompts == "cut":
                raise StockpotError(
                    f"{where}: data.long_prompts: cut is for models with an encoder and a decoder: a causal one would "
                    "lose the question at the end of its prompt; set drop, or raise data.max_length."
                )
        elif format != "prompt-completion":
            raise StockpotError(
                f"{where}: the model, {self.config.model_type}, reads a prompt with its encoder and writes the answer "
                f"with its decoder: it learns prompts with completions, and these data are {_NOUNS[format]}; give "
                "data.prompt and data.completion, or a causal language model."
            )
        elif data.packing:
            raise StockpotError(
                f"{where}: data.packing: each prompt has an encoder's sequence of its own; drop the key."
            )

    def _length(self, task: LanguageTask) -> int:
        return sequence_length(task.data.max_length, self.config, f"task {task.name!r}")

    def _part(self, task: LanguageTask) -> TextPart:
        rows = task.source.test
        return text_part(task.name, rows, self._tokenise(task, rows, training=False), self.tokenizer)

    def _tokenise(self, task: LanguageTask, rows: TextRows, training: bool) -> Tokenised:
        return self._sequences(task.data, rows, self._length(task), training)

    def _general(self, mix: MixSpec, rows: TextRows, task: str) -> Tokenised:
        length = sequence_length(mix.max_length, self.config, f"task {task!r}: mix")
        return self._sequences(mix, rows, length, training=True)

    def _sequences(self, data: DataSpec, rows: TextRows, length: int, training: bool) -> Tokenised:
        packing, long_prompts = data.packing, data.long_prompts
        key = (rows.fingerprint, self._fingerprint, length, packing, training, long_prompts)
        if key not in self._tokenised:
            self._tokenised[key] = cached(
                rows,
                self.tokenizer,
                length,
                packing=packing,
                training=training,
                long_prompts=long_prompts,
                decoder_start=self.decoder_start,
            )
        return self._tokenised[key]
