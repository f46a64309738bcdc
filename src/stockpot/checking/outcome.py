"""What a check of a recipe says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Problem:
    """Something that is wrong: an error, with which a run would not start, or a warning."""

    kind: Literal["error", "warning"]
    message: str


@dataclass(frozen=True)
class TextPiece:
    """A run of tokens as text, and whether they have a loss."""

    text: str
    learnt: bool


@dataclass(frozen=True)
class ShownText:
    """One training sequence as the model sees it; `left_out` tokens at its end are not shown."""

    pieces: list[TextPiece]
    tokens: int
    left_out: int = 0
    label: str | None = None  # its class, where texts are classified


@dataclass(frozen=True)
class ShownImage:
    """One training image after the processor, without its pixels."""

    label: str
    shape: tuple[int, ...]  # (channels, height, width)
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class TokenCounts:
    """The tokens of a task's training sequences."""

    epoch: int  # of the task's own sequences
    learnt: int  # of these, those that have a loss; 0 where texts are classified
    longest: int  # sequence
    limit: int  # tokens that a sequence may have
    cut: int  # texts that lost their end
    left_out: int  # texts whose prompt alone was too long


@dataclass(frozen=True)
class TaskCheck:
    """One task, as a run would train on it."""

    name: str
    path: str | None
    train: int  # rows: texts or images
    test: int
    examples: int  # that make an epoch of this task, with those that the method and `mix` add
    general: int  # of these, general data
    batch_size: int
    accumulation: int
    epochs: float
    steps: int
    seen_examples: int  # in all steps
    seen_tokens: int  # 0 for images
    exact: bool  # false where the method draws from what it kept: tokens are then estimated
    tokens: TokenCounts | None = None
    classes: dict[str, tuple[int, int]] = field(default_factory=dict)  # class → training and test examples
    repeated: int = 0  # test examples that are among the training examples, too
    shown: list[ShownText | ShownImage] = field(default_factory=list)
    seconds: float | None = None  # estimated, of forward and backward passes; None unless they were timed


@dataclass(frozen=True)
class MemoryCheck:
    """An estimate of the memory that training takes, in bytes, without activations and what libraries hold."""

    parameters: int  # numbers, not bytes
    trained: int  # of these, those that change
    weights: int
    gradients: int
    optimizer: int
    method: int  # copies of the weights and past examples that the method holds
    available: int  # free on the device that trains

    @property
    def total(self) -> int:
        """All of it together."""
        return self.weights + self.gradients + self.optimizer + self.method


@dataclass(frozen=True)
class CheckFacts:
    """What is known about a recipe: see `CheckResult`."""

    source: str
    problems: list[Problem]
    guesses: list[str] = field(default_factory=list)
    scenario: str | None = None
    method: str | None = None
    model: str | None = None
    device: str | None = None
    tasks: list[TaskCheck] = field(default_factory=list)
    controls: dict[str, int] = field(default_factory=dict)  # name → test examples
    memory: MemoryCheck | None = None
    pictures: list[str] = field(default_factory=list)  # files of contact sheets

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    @property
    def errors(self) -> list[str]:
        """The messages of all errors."""
        return [problem.message for problem in self.problems if problem.kind == "error"]

    @property
    def warnings(self) -> list[str]:
        """The messages of all warnings."""
        return [problem.message for problem in self.problems if problem.kind == "warning"]
