"""A check in words, in lines of styled pieces: for the terminal in colour, and for pipes and files with marks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stockpot.checking.outcome import CheckFacts, MemoryCheck, ShownImage, ShownText, TaskCheck
from stockpot.printing import counted, human_bytes
from stockpot.report.formatting import seconds

LEARNT, CONTEXT, HEAD, ERROR, WARNING = "learnt", "context", "head", "error", "warning"
_MOST_CLASSES = 20  # whose examples are listed


@dataclass(frozen=True)
class StyledText:
    """A part of a line; `style` is one of the constants here, or empty."""

    text: str
    style: str = ""


Line = list[StyledText]


def check_lines(result: CheckFacts) -> list[str]:
    """The check as plain lines, in which what is learnt stands between « and »."""
    return ["".join(_marked(piece) for piece in line) for line in styled_lines(result)]


def _marked(piece: StyledText) -> str:
    return f"«{piece.text}»" if piece.style == LEARNT else piece.text


def styled_lines(result: CheckFacts) -> Iterator[Line]:
    """Everything that a check says: guesses, tasks with their examples, memory and time, and problems last."""
    yield [StyledText(result.source, HEAD), StyledText(_design(result))]
    if result.guesses:
        yield []
        yield [StyledText("Guessed from the data", HEAD), StyledText(" (keys of the recipe override it)")]
        yield from ([StyledText(f"  {guess}")] for guess in result.guesses)
    for task in result.tasks:
        yield []
        yield from _task_lines(task)
    for name, count in result.controls.items():
        yield []
        yield [StyledText(f"Control {name}", HEAD), StyledText(f": {counted(count, 'test example')}, never trained on")]
    if result.memory is not None:
        yield []
        yield from _memory_lines(result.memory, result.device)
    if result.tasks and all(task.seconds is not None for task in result.tasks):
        total = sum(task.seconds or 0.0 for task in result.tasks)
        yield [
            StyledText("Time", HEAD),
            StyledText(
                f": about {seconds(total)}, an estimate from forward and backward passes of a few batches, without "
                "optimizer steps, evaluation and what the method does"
            ),
        ]
    yield from ([StyledText("Images", HEAD), StyledText(f": {file}")] for file in result.pictures)
    yield []
    yield from ([StyledText("Warning: ", WARNING), StyledText(message)] for message in result.warnings)
    yield from ([StyledText("Error: ", ERROR), StyledText(message)] for message in result.errors)
    if result.ok:
        yield [StyledText("Nothing stands in the way of a run. Nothing was trained or written.")]
    else:
        yield [StyledText(f"{counted(len(result.errors), 'error')}: a run would not start.", ERROR)]


def _design(result: CheckFacts) -> str:
    if not result.tasks:
        return f": {result.scenario}, method {result.method}"
    model = f", model {result.model}" if result.model else ""
    return f": {counted(len(result.tasks), 'task')}, {result.scenario}, method {result.method}{model}"


def _task_lines(task: TaskCheck) -> Iterator[Line]:
    yield [StyledText(f"Task {task.name}", HEAD), StyledText(f" ({task.path})")]
    repeated = f", of which {task.repeated} are among the training examples, too" if task.repeated else ""
    yield [StyledText(f"  data   {task.train:,} to train on, {task.test:,} to test on{repeated}")]
    if task.classes:
        yield [StyledText(f"  class  {_class_words(task.classes)}")]
    yield from _token_lines(task)
    yield [StyledText(f"  steps  {_step_words(task)}")]
    for number, example in enumerate(task.shown, 1):
        yield from _example_lines(number, example)


def _class_words(classes: dict[str, tuple[int, int]]) -> str:
    listed = [f"{name} {train:,} + {test:,}" for name, (train, test) in list(classes.items())[:_MOST_CLASSES]]
    more = len(classes) - len(listed)
    return f"train + test: {', '.join(listed)}" + (f" and {more} more classes" if more else "")


def _token_lines(task: TaskCheck) -> Iterator[Line]:
    counts = task.tokens
    if counts is None:
        return
    learnt = f", {counts.learnt / counts.epoch:.0%} of them learnt" if counts.learnt else ""
    cut = (
        f"{counts.cut:,} texts ({counts.cut / max(1, task.train):.0%}) lose their end" if counts.cut else "none is cut"
    )
    left_out = f"; {counts.left_out:,} left out, their prompts are too long" if counts.left_out else ""
    yield [StyledText(f"  tokens {counts.epoch:,} an epoch{learnt}")]
    yield [StyledText(f"  length the longest has {counts.longest:,} of {counts.limit:,} tokens; {cut}{left_out}")]


def _step_words(task: TaskCheck) -> str:
    batch = f"{task.batch_size} a batch"
    if task.accumulation > 1:
        batch += f", {task.accumulation} batches a step"
    general = f", {task.general:,} of them general data" if task.general else ""
    tokens = f", {'' if task.exact else 'about '}{task.seen_tokens:,} tokens" if task.seen_tokens else ""
    time = "" if task.seconds is None else f", about {seconds(task.seconds)}"
    return (
        f"{task.steps:,}: {counted(task.examples, 'example')} an epoch{general}, {task.epochs:.3g} epochs, {batch}; "
        f"{counted(task.seen_examples, 'example')}{tokens} in all{time}"
    )


def _example_lines(number: int, example: ShownText | ShownImage) -> Iterator[Line]:
    if isinstance(example, ShownImage):
        shape = " x ".join(map(str, example.shape))
        values = f"mean {example.mean:.3g}, from {example.low:.3g} to {example.high:.3g}"
        yield [StyledText(f"  example {number}: class {example.label}, {shape}, {values}")]
        return
    label = "" if example.label is None else f", class {example.label}"
    yield [StyledText(f"  example {number}: {counted(example.tokens, 'token')}{label}")]
    yield [StyledText(piece.text, LEARNT if piece.learnt else CONTEXT) for piece in example.pieces]
    if example.left_out:
        yield [StyledText(f"  … and {counted(example.left_out, 'token')} more")]


def _memory_lines(memory: MemoryCheck, device: str | None) -> Iterator[Line]:
    share = "all" if memory.trained == memory.parameters else f"{memory.trained:,}"
    yield [StyledText("Model", HEAD), StyledText(f": {memory.parameters:,} parameters, {share} trained, on {device}")]
    parts = {
        "weights": memory.weights, "gradients": memory.gradients, "optimizer": memory.optimizer,
        "method": memory.method,
    }  # fmt: skip
    listed = ", ".join(f"{name} {human_bytes(size)}" for name, size in parts.items() if size)
    yield [
        StyledText("Memory", HEAD),
        StyledText(
            f": about {human_bytes(memory.total)} without activations ({listed}); {human_bytes(memory.available)} are "
            "free. An estimate"
        ),
    ]
