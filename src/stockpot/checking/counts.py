"""What a task trains on, counted by the functions that train: examples, steps and tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stockpot.batches.examples import Examples, TensorExamples, TrainingData, concat
from stockpot.batches.losses import SINGLE_LABEL
from stockpot.batches.token_examples import TokenExamples
from stockpot.checking.outcome import TaskCheck, TokenCounts
from stockpot.checking.shown import LabelWords, shown_images, shown_texts
from stockpot.methods.base import BaseConfig
from stockpot.recipe.schema import Recipe
from stockpot.runs.start_checks import task_settings
from stockpot.seeds import derive
from stockpot.streams.classes import ClassifiedTask
from stockpot.streams.sampling import evenly_spaced_rows
from stockpot.streams.stream import Stream
from stockpot.streams.text.language import LanguageStream
from stockpot.training.job import steps_for, training_arguments
from stockpot.training.seen import seen_in


def training_data(stream: Stream, method: BaseConfig, index: int) -> tuple[TrainingData, bool]:
    """What task `index` trains on, and whether that is exact.

    It is not where a method draws from what it kept of past tasks: evenly spaced examples stand for these.
    """
    examples = stream.train(index)
    past = [stream.train(earlier) for earlier in range(index)]
    added = method.epoch_examples([*map(len, past), len(examples)]) - len(examples)
    exact = added in (0, sum(map(len, past)))
    if added:
        before = concat(past)
        kept = before if exact else before.picked(evenly_spaced_rows(len(before), added).tolist())
        examples = concat([kept, examples])
    data = TrainingData.of(examples)
    mixture = stream.mixture(index)
    return (data if mixture is None else data.mixed_with(mixture)), exact


def task_check(resolved: Recipe, stream: Stream, index: int, shown: int) -> TaskCheck:
    """Task `index` of a resolved recipe. Raises StockpotError where nothing would be trained."""
    assert isinstance(resolved.tasks, list), "a resolved recipe lists its tasks"
    task, method, seed = stream.tasks[index], resolved.method, resolved.seeds[0]
    args = training_arguments(task_settings(resolved, method, resolved.tasks[index]), Path("runs"), seed)
    data, exact = training_data(stream, method, index)
    steps = steps_for(data.epoch, args)
    seen = seen_in(data, args, derive(seed, "task", index), steps)
    facts = stream.facts()[task.name]
    examples = stream.train(index)
    words = LabelWords(task)
    show = shown_images(examples, shown, words) if stream.tokenizer is None else shown_texts(
        examples, shown, stream.tokenizer, words
    )  # fmt: skip
    return TaskCheck(
        name=task.name,
        path=task.data.path,
        train=facts["train"],
        test=facts["test"],
        examples=data.epoch,
        general=data.drawn_general,
        batch_size=args.train_batch_size,
        accumulation=args.gradient_accumulation_steps,
        epochs=steps * args.gradient_accumulation_steps * args.train_batch_size / data.epoch
        if args.max_steps > 0
        else float(args.num_train_epochs),
        steps=steps,
        seen_examples=seen.examples,
        seen_tokens=seen.tokens,
        exact=exact,
        tokens=_token_counts(stream, index, examples),
        classes=_class_counts(task),
        repeated=_repeated(stream, index),
        shown=[*show],
    )


def _token_counts(stream: Stream, index: int, examples: Examples) -> TokenCounts | None:
    if not isinstance(examples, TokenExamples):
        return None
    cut = left_out = 0
    longest = int(examples.lengths.max())
    limit, learnt = longest, 0
    if isinstance(stream, LanguageStream):
        tokenised, limit = stream.tokenised(index), stream.length(index)
        cut, left_out = tokenised.cut, len(tokenised.dropped)
        assert examples.targets is not None, "text to be continued has targets"
        learnt = int((examples.targets >= 0).sum())
    elif isinstance(task := stream.tasks[index], ClassifiedTask):
        limit = stream.reader.longest(task.data, f"task {task.name!r}")  # type: ignore[attr-defined]
        cut = int((examples.lengths >= limit).sum())
    return TokenCounts(len(examples.tokens), learnt, longest, limit, cut, left_out)


def _class_counts(task: Any) -> dict[str, tuple[int, int]]:
    if not isinstance(task, ClassifiedTask) or task.data.problem != SINGLE_LABEL:
        return {}
    parts = [task.part("train").labels[task.indices("train")], task.part("test").labels[task.indices("test")]]
    return {
        name: (int((parts[0] == label).sum()), int((parts[1] == label).sum()))
        for name, label in zip(task.classes, task.labels, strict=True)
    }


def _repeated(stream: Stream, index: int) -> int:
    """How many test examples are among the training examples, too; images are compared where they are in memory."""
    train, test = _contents(stream, index, "train"), _contents(stream, index, "test")
    known = set(train)
    return sum(each in known for each in test)


def _contents(stream: Stream, index: int, part: Any) -> Iterator[bytes]:
    task = stream.tasks[index]
    if isinstance(stream, LanguageStream):
        source = stream.tasks[index].source
        yield from (repr(item).encode(errors="replace") for item in (getattr(source, part).items))
    elif stream.tokenizer is not None and isinstance(task, ClassifiedTask):
        yield from (str(text).encode(errors="replace") for text in task.part(part).pick(task.indices(part)))
    else:
        examples: Any = stream.train(index) if part == "train" else stream.test(index)
        if isinstance(examples, TensorExamples):
            yield from (hashlib.sha256(image.numpy().tobytes()).digest() for image in examples.pixel_values)
