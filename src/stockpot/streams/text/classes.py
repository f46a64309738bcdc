"""Texts with classes: a data set whose "images" are strings, for the scenarios that count classes."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from stockpot.errors import StockpotError, did_you_mean
from stockpot.streams.source import Labels, Part, Source, not_a_class, numbered
from stockpot.streams.spec import DataSpec
from stockpot.streams.text.source import text_column
from stockpot.streams.text.splits import columns_of, open_splits, parts
from stockpot.streams.text.templates import open_template


def open_text_classes(data: DataSpec, where: str) -> Source:
    """Opens texts and labels: a ClassLabel column, whole numbers from 0, or strings, which are sorted.

    `Part.pick` gives strings. `limit`, which counts examples of each class, is left to the stream.
    Raises StockpotError that says where it was asked for, and which row is bad.
    """
    splits = open_splits(data, where)
    train = splits[data.train_split]
    names = list(train.features)
    label = _label_column(data, train.features, where)
    wanted = data.text or text_column(train.features, but=label)
    if wanted is None:
        raise StockpotError(f"{where}: data.text: name the column to classify, or a template. Columns: {names}.")
    template = open_template(wanted, names, f"{where}: data.text")
    read: dict[str, tuple[list[str], list[Any]]] = {}
    chosen = parts(data.model_copy(update={"limit": None}), splits, where, tuning=False)
    for part, (split, numbers) in chosen.items():
        place = f"{where}: {data.path}, split {split!r}"
        texts, labels = [], []
        for number, row in columns_of(splits[split], list({*template.columns, label}), numbers, place):
            try:
                text = template(row)
            except StockpotError as error:
                raise StockpotError(f"{place}, row {number}: {error}; mend the row, or leave it out.") from error
            if reason := not_a_class(row[label]):
                raise StockpotError(f"{place}, row {number}: data.label: column {label!r}: {reason}.")
            if not text.strip() or not isinstance(row[label], str | int) or row[label] in (-1, ""):
                lacking = "label" if text.strip() else "text"
                raise StockpotError(f"{place}, row {number}: it has no {lacking}; mend the row, or leave it out.")
            texts.append(text)
            labels.append(row[label])
        read[part] = (texts, labels)
    every = [value for _, labels in read.values() for value in labels]
    classes = _classes(train.features[label], every, f"{where}: data.label: column {label!r}")
    numbered = {name: number for number, name in enumerate(classes)}
    made = {
        part: _part(texts, np.array([numbered[str(value)] for value in labels], dtype=np.int64))
        for part, (texts, labels) in read.items()
    }
    return Source(classes, made["train"], made["test"], _facts(str(data.path), read))


def _part(texts: list[str], labels: Labels) -> Part:
    return Part(lambda rows: [texts[int(row)] for row in rows], labels)


def _label_column(data: DataSpec, features: Any, where: str) -> str:
    names = list(features)
    found = [name for name in names if getattr(features[name], "names", None)]
    label = data.label or ("label" if "label" in names else found[0] if len(found) == 1 else None)
    if label is None:
        raise StockpotError(f"{where}: data.label: name the column of the classes. Columns: {names}.")
    if label not in names:
        hint = did_you_mean(label, names)
        raise StockpotError(f"{where}: data.label: there is no column {label!r}.{hint} Columns: {names}.")
    return label


def _classes(feature: Any, labels: list[Any], where: str) -> list[str]:
    if getattr(feature, "names", None):
        return list(feature.names)
    if all(isinstance(value, int) and not isinstance(value, bool) for value in labels):
        if min(labels) < 0:
            raise StockpotError(f"{where}: {min(labels)} is not the number of a class: they are counted from 0.")
        return numbered(max(labels), where)
    return sorted({str(value) for value in labels})


def _facts(path: str, read: dict[str, tuple[list[str], list[Any]]]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for texts, labels in read.values():
        for text, label in zip(texts, labels, strict=True):
            digest.update(f"{len(text)}:{text}{label}".encode(errors="surrogatepass"))
    sizes = {part: len(texts) for part, (texts, _) in read.items()}
    return {"path": path, **sizes, "fingerprint": digest.hexdigest()[:16]}
