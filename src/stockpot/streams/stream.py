"""What a run needs from a stream of tasks, whatever its examples are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from stockpot.batches.examples import Batch, Examples, Mixture
from stockpot.streams.scenario import Rows
from stockpot.streams.spec import DataSpec, MixSpec
from stockpot.streams.text.part import TextPart


class StreamTask(Protocol):
    """One task or control of a stream."""

    @property
    def name(self) -> str:
        """Unique in the stream."""
        ...

    @property
    def data(self) -> DataSpec:
        """Its data, with what it inherits from the recipe."""
        ...

    @property
    def mix(self) -> MixSpec | None:
        """The general data that is mixed into it; None where there is none."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """The names of its classes, in the order of `data.classes`; empty for text to be continued."""
        ...

    @property
    def rows(self) -> tuple[int, ...]:
        """The output row of each class."""
        ...


class Stream(Protocol):
    """Tasks in the order in which they are learnt, and controls: tasks that are only evaluated.

    Two classes satisfy it: `ClassifiedStream` for images and for texts with classes, `LanguageStream` for texts that a
    causal language model continues. Tasks are numbered from 0. Examples are read when they are first used, and kept.
    """

    @property
    def scenario(self) -> str:
        """Which output rows there are, and which compete: see `Rows`."""
        ...

    @property
    def tasks(self) -> Sequence[StreamTask]:
        """The tasks, in order."""
        ...

    @property
    def controls(self) -> Sequence[StreamTask]:
        """The controls, in order."""
        ...

    @property
    def rows(self) -> Rows:
        """The output row of every class; there are none for text to be continued."""
        ...

    @property
    def has_classes(self) -> bool:
        """Whether a head answers each example: false for text to be continued, where every token is predicted."""
        ...

    @property
    def example_noun(self) -> str:
        """`images` or `texts`, for messages."""
        ...

    @property
    def tokenizer(self) -> Any | None:
        """The tokenizer of a stream of texts; None for images."""
        ...

    def first(self, count: int) -> Self:
        """The stream as if only its first `count` tasks were known."""
        ...

    def train(self, index: int) -> Examples:
        """The training examples of task `index`."""
        ...

    def beginning(self, index: int, count: int) -> Examples:
        """The first `count` training examples of task `index`; of images, others are not read."""
        ...

    def mixture(self, index: int) -> Mixture | None:
        """The general data that is mixed into task `index`; None where the recipe names none."""
        ...

    def test(self, index: int) -> Examples | TextPart:
        """The test part of task `index`: examples; for text to be continued also the strings that they come from."""
        ...

    def control(self, index: int) -> Examples | TextPart:
        """The test part of control `index`."""
        ...

    def other(self, data: DataSpec, where: str) -> Examples:
        """The training examples of a data set that no task learns, such as what the start model knows.

        Raises StockpotError where examples have classes, since no output row is theirs.
        """
        ...

    def sample(self, index: int) -> Batch:
        """A batch of one training example of task `index`, as the model receives it."""
        ...

    def notes(self, index: int) -> list[str]:
        """What a reader of the report must know about the data of task `index`, such as how many texts were cut."""
        ...

    def facts(self) -> dict[str, dict[str, Any]]:
        """Name of a task or control → path, fingerprint, classes, and how many `train` and `test` examples it has."""
        ...

    def save_preprocessor(self, folder: Path) -> None:
        """Writes the tokenizer or the image processor beside a model, so that `from_pretrained` finds it."""
        ...
