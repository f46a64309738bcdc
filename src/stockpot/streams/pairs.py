"""PyTorch's map-style data sets: an item is an input and its label."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from stockpot.errors import StockpotError
from stockpot.streams.labelled import LabelledPart, Labels, label_problem
from stockpot.streams.sampling import evenly_spaced_rows

_INPUTS = ("pixel_values", "image", "input", "x", "text")
_LABELS = ("label", "labels", "target", "y")
_SAMPLED = 8  # items that are looked at twice: for a fingerprint, and to see whether `targets` are the labels


@dataclass(frozen=True)
class Pairs:
    """A data set of (input, label): inputs are PIL images or tensors, read when they are needed."""

    items: Any
    labels: Labels
    classes: Sequence[str]  # names, where the data set knows them

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: Labels | None = None) -> LabelledPart:
        """These rows, by default all."""
        chosen = np.arange(len(self)) if rows is None else rows
        return LabelledPart(
            lambda picked: [_pair(self.items[int(row)])[0] for row in chosen[np.asarray(picked)]], self.labels[chosen]
        )


def as_pairs(items: Any, where: str) -> Any:
    """Pairs of a data set; of texts, a `datasets.Dataset` with the columns `text` and `label`.

    Raises StockpotError, starting with `where`, for an item that is not an input with a class number.
    """
    first = _checked(items[0], 0, where)
    if isinstance(first[0], str):
        import datasets

        pairs = [_checked(items[row], row, where) for row in range(len(items))]
        return datasets.Dataset.from_dict({"text": [text for text, _ in pairs], "label": [label for _, label in pairs]})
    if not isinstance(first[0], Tensor) and not hasattr(first[0], "convert"):
        raise StockpotError(
            f"{where}: the input of item 0 is {type(first[0]).__name__}: it should be a tensor of floats, as the model "
            "receives it, a PIL image, or a text."
        )
    labels = _targets(items, where)
    if labels is None:
        labels = np.array([_checked(items[row], row, where)[1] for row in range(len(items))], dtype=np.int64)
    return Pairs(items, labels, [str(name) for name in getattr(items, "classes", ())])


def pairs_digest(pairs: Pairs) -> str:
    """A fingerprint: of all labels, and of a few inputs unless they are drawn at random, as augmented images are."""
    digest = hashlib.sha256(f"{len(pairs)}{list(pairs.classes)}".encode())
    digest.update(pairs.labels.tobytes())
    for row in evenly_spaced_rows(len(pairs), _SAMPLED):
        content, again = (_content(_pair(pairs.items[int(row)])[0]) for _ in range(2))
        if content == again:
            digest.update(content)
    return digest.hexdigest()


def _pair(item: Any) -> tuple[Any, Any]:
    """The input and the label of an item; None for what it lacks."""
    if isinstance(item, Mapping):
        places = [next((item[key] for key in keys if key in item), None) for keys in (_INPUTS, _LABELS)]
        return places[0], places[1]
    return (item[0], item[1]) if isinstance(item, tuple | list) and len(item) == 2 else (None, None)


def _checked(item: Any, row: int, where: str) -> tuple[Any, int]:
    content, label = _pair(item)
    if content is None or label is None:
        raise StockpotError(f"{where}: item {row} is not (input, label), nor a dict with `image` and `label`.")
    if isinstance(content, Tensor) and not content.is_floating_point():
        raise StockpotError(
            f"{where}: the tensor of item {row} holds {content.dtype}: it should hold floats, as the model receives it."
        )
    if isinstance(label, Tensor | np.ndarray | np.generic):
        label = label.tolist()
    if isinstance(label, bool) or not isinstance(label, int) or label < 0:
        problem = label_problem(label)
        reason = problem or f"{label!r} is not a class number: classes are counted from 0"
        raise StockpotError(f"{where}: the label of item {row}: {reason}.")
    return content, label


def _targets(items: Any, where: str) -> Labels | None:
    """The labels that torchvision's data sets list in `targets`, if they are those of the items: no item is read."""
    targets = getattr(items, "targets", None)
    if targets is None or len(targets) != len(items):
        return None
    labels = np.asarray(targets)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        return None
    sampled = evenly_spaced_rows(len(items), _SAMPLED)
    same = all(_checked(items[int(row)], int(row), where)[1] == labels[row] for row in sampled)
    return labels.astype(np.int64) if same else None


def _content(content: Any) -> bytes:
    data: bytes = content.contiguous().numpy().tobytes() if isinstance(content, Tensor) else content.tobytes()
    return data
