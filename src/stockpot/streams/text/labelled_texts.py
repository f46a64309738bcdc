"""Data sets of texts with labels: a class, several labels or numbers."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from stockpot.batches.losses import SINGLE_LABEL
from stockpot.errors import StockpotError
from stockpot.streams.labelled import (
    LabelledPart,
    LabelledSource,
    Labels,
    Values,
    label_problem,
    numbered_classes,
)
from stockpot.streams.recognition import class_reading
from stockpot.streams.spec import DataSpec
from stockpot.streams.text.splits import open_splits, part_rows, read_columns
from stockpot.streams.text.templates import open_template
from stockpot.streams.values import ValueReader, value_columns


def open_labelled_texts(data: DataSpec, where: str) -> LabelledSource:
    """Opens texts and labels: a ClassLabel column, whole numbers from 0, or strings, which are sorted.

    For several labels or numbers see `ValueReader`. `limit`, which counts examples of each class, is left to the
    stream. Raises StockpotError, starting with `where`, that names the first bad row.
    """
    splits = open_splits(data, where)
    train = splits[data.train_split]
    names = list(train.features)
    single = data.problem == SINGLE_LABEL
    wanted, columns = data.text, [] if single else value_columns(data, train.features, where)
    if wanted is None or single:
        keys = class_reading(data, train, where).keys
        wanted, columns = wanted or keys["text"], columns or [keys["label"]]
    label = columns[0]
    if wanted in names and _lists(train.features[wanted]) and _lists(train.features[label]):
        raise StockpotError(
            f"{where}: data.label: column {label!r} holds a label for every word of {wanted!r}: token classification "
            "is not supported, which would need a score of spans; a text needs a class, labels or numbers of its own."
        )
    template = open_template(wanted, names, f"{where}: data.text")
    contents: dict[str, tuple[list[str], list[Any]]] = {}
    places: dict[str, tuple[str, list[int]]] = {}
    parts = part_rows(data.model_copy(update={"limit": None}), splits, where, tuning=False)
    for part, (split, numbers) in parts.items():
        place = f"{where}: {data.path}, split {split!r}"
        places[part] = (place, numbers)
        texts, labels = [], []
        for number, row in read_columns(splits[split], list({*template.columns, *columns}), numbers, place):
            try:
                text = template(row)
            except StockpotError as error:
                raise StockpotError(f"{place}, row {number}: {error}; fix the row, or leave it out.") from error
            if not single:
                if not text.strip():
                    raise StockpotError(f"{place}, row {number}: it has no text; fix the row, or leave it out.")
                texts.append(text)
                labels.append([row[column] for column in columns])
                continue
            if problem := label_problem(row[label]):
                raise StockpotError(f"{place}, row {number}: data.label: column {label!r}: {problem}.")
            if not text.strip() or not isinstance(row[label], str | int) or row[label] in (-1, ""):
                lacking = "label" if text.strip() else "text"
                raise StockpotError(f"{place}, row {number}: it has no {lacking}; fix the row, or leave it out.")
            texts.append(text)
            labels.append(row[label])
        contents[part] = (texts, labels)
    if not single:
        reader = ValueReader(data, columns, train.features, where)
        labels_of = {part: (*places[part], labels) for part, (_, labels) in contents.items()}
        targets, arrays = reader.read(labels_of)
        known = dict(zip(contents, arrays, strict=True))
        parts_of = {part: _part(texts, known[part]) for part, (texts, _) in contents.items()}
        return LabelledSource(targets, parts_of["train"], parts_of["test"], _facts(str(data.path), contents))
    values = [value for _, labels in contents.values() for value in labels]
    classes = _classes(train.features[label], values, f"{where}: data.label: column {label!r}")
    number_of = {name: number for number, name in enumerate(classes)}
    opened = {
        part: _part(texts, np.array([number_of[str(value)] for value in labels], dtype=np.int64))
        for part, (texts, labels) in contents.items()
    }
    return LabelledSource(classes, opened["train"], opened["test"], _facts(str(data.path), contents))


def _lists(feature: Any) -> bool:
    return isinstance(feature, list) or hasattr(feature, "feature")


def _part(texts: list[str], labels: Labels | Values) -> LabelledPart:
    return LabelledPart(lambda rows: [texts[int(row)] for row in rows], labels)


def _classes(feature: Any, labels: list[Any], where: str) -> list[str]:
    if getattr(feature, "names", None):
        return list(feature.names)
    if all(isinstance(value, int) and not isinstance(value, bool) for value in labels):
        if min(labels) < 0:
            raise StockpotError(f"{where}: {min(labels)} is not a class number: classes are counted from 0.")
        return numbered_classes(max(labels), where)
    return sorted({str(value) for value in labels})


def _facts(path: str, contents: dict[str, tuple[list[str], list[Any]]]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for texts, labels in contents.values():
        for text, label in zip(texts, labels, strict=True):
            digest.update(f"{len(text)}:{text}{label}".encode(errors="surrogatepass"))
    sizes = {part: len(texts) for part, (texts, _) in contents.items()}
    return {"path": path, **sizes, "fingerprint": digest.hexdigest()[:16]}
