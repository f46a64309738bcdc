"""What a task trains on, counted by the functions that train: examples, steps and tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.batches.answered_examples import AnsweredExamples
from stockpot.batches.examples import Examples
from stockpot.batches.losses import SINGLE_LABEL
from stockpot.batches.token_examples import TokenExamples
from stockpot.checking.outcome import TaskCheck, TokenCounts
from stockpot.checking.planned_data import PlannedData
from stockpot.checking.shown import LabelWords, shown_images, shown_texts
from stockpot.recipe.schema import Recipe
from stockpot.runs.start_checks import task_settings
from stockpot.seeds import derive
from stockpot.streams.classes import ClassifiedTask, PartName
from stockpot.streams.stream import Stream
from stockpot.streams.text.language import LanguageStream
from stockpot.training.job import steps_for, training_arguments
from stockpot.training.seen import seen_in

_MOST_COMPARED = 5000  # images of a task, which are decoded to be compared


def task_check(resolved: Recipe, planned: PlannedData, index: int, shown: int) -> TaskCheck:
    """Task `index` of a resolved recipe. Raises StockpotError where nothing would be trained."""
    assert isinstance(resolved.tasks, list), "a resolved recipe lists its tasks"
    stream, seed = planned.stream, resolved.seeds[0]
    task, facts = stream.tasks[index], planned.facts[stream.tasks[index].name]
    args = training_arguments(task_settings(resolved, planned.method, resolved.tasks[index]), Path("runs"), seed)
    data, exact = planned.training(index)
    steps = steps_for(data.epoch, args)
    seen = seen_in(data, args, derive(seed, "task", index), steps)
    words = LabelWords(task)
    first = stream.beginning(index, shown) if shown else planned.examples(index)
    show = shown_images(first, shown, words) if planned.of_images else shown_texts(
        first, shown, stream.tokenizer, words
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
        tokens=_token_counts(stream, index, planned.examples(index)),
        classes=_class_counts(task),
        repeated=_repeated(stream, index),
        shown=[*show],
    )


def _token_counts(stream: Stream, index: int, examples: Examples) -> TokenCounts | None:
    if not isinstance(examples, TokenExamples | AnsweredExamples):
        return None
    cut = left_out = 0
    longest = int(examples.lengths.max())
    limit, learnt = longest, 0
    tokens = len(examples.tokens) + (len(examples.targets) if isinstance(examples, AnsweredExamples) else 0)
    if isinstance(stream, LanguageStream):
        tokenised, limit = stream.tokenised(index), stream.length(index)
        cut, left_out = tokenised.cut, len(tokenised.dropped)
        assert examples.targets is not None, "text to be continued has targets"
        learnt = int((examples.targets >= 0).sum())
    elif isinstance(task := stream.tasks[index], ClassifiedTask):
        limit = stream.reader.longest(task.data, f"task {task.name!r}")  # type: ignore[attr-defined]
        cut = int((examples.lengths >= limit).sum())
    return TokenCounts(tokens, learnt, longest, limit, cut, left_out)


def _class_counts(task: Any) -> dict[str, tuple[int, int]]:
    if not isinstance(task, ClassifiedTask) or task.data.problem != SINGLE_LABEL:
        return {}
    parts = [task.part("train").labels[task.indices("train")], task.part("test").labels[task.indices("test")]]
    return {
        name: (int((parts[0] == label).sum()), int((parts[1] == label).sum()))
        for name, label in zip(task.classes, task.labels, strict=True)
    }


def _repeated(stream: Stream, index: int) -> int:
    """How many test examples are among the training examples, too; many images are not compared."""
    task = stream.tasks[index]
    if isinstance(task, ClassifiedTask) and stream.tokenizer is None and _size(task) > _MOST_COMPARED:
        return 0
    known = set(_contents(task, "train"))
    return sum(each in known for each in _contents(task, "test"))


def _size(task: ClassifiedTask) -> int:
    return len(task.indices("train")) + len(task.indices("test"))


def _contents(task: Any, part: PartName) -> Iterator[bytes]:
    """Each example of a part, before it is processed."""
    if isinstance(task, ClassifiedTask):
        for example in task.part(part).pick(task.indices(part)):
            text = isinstance(example, str)
            yield example.encode(errors="replace") if text else hashlib.sha256(np.asarray(example).tobytes()).digest()
        return
    rows = task.source.train if part == "train" else task.source.test
    yield from (repr(item).encode(errors="replace") for item in rows.items)
