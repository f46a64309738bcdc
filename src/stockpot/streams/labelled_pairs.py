"""A data set of PyTorch that was passed in Python, as a data set with classes."""

from __future__ import annotations

from collections.abc import Mapping

from stockpot.batches.losses import SINGLE_LABEL
from stockpot.errors import StockpotError
from stockpot.streams.hub import choose_test_split
from stockpot.streams.images import hold_out
from stockpot.streams.labelled import LabelledSource, numbered_classes
from stockpot.streams.pairs import Pairs
from stockpot.streams.spec import DataSpec


def open_pairs(data: DataSpec, splits: Mapping[str, Pairs], where: str) -> LabelledSource:
    """Its parts, or a fifth of each class of the training part held out; raises StockpotError, starting with `where`.

    The fingerprint is the path: it is of the content.
    """
    for key in ("image", "label", "name", "revision"):
        if getattr(data, key) is not None:
            raise StockpotError(f"{where}: data.{key}: a data set of PyTorch has no such choice; drop the key.")
    if data.problem != SINGLE_LABEL:
        raise StockpotError(f"{where}: data.problem_type: pass a `datasets.Dataset` for {data.problem}.")
    train, test = splits[data.train_split], choose_test_split(data, splits)
    if test is not None:
        parts = train.part(), splits[test].part()
    else:
        kept, held_out = hold_out(train.labels, where)
        parts = train.part(kept), train.part(held_out)
    highest = max(int(part.labels.max()) for part in parts)
    classes = list(train.classes) if highest < len(train.classes) else numbered_classes(highest, f"{where}: labels")
    sizes = {name: len(part.labels) for name, part in zip(("train", "test"), parts, strict=True)}
    return LabelledSource(classes, *parts, {"path": data.path, **sizes, "fingerprint": str(data.path)})
