"""Data sets that are passed in Python: `datasets.Dataset`, and PyTorch's map-style data sets.

A recipe is text, so in it such a data set is a path: `memory:` and a fingerprint of its content. The object itself
stays in this process; whoever resumes the run in another one passes the same data again, known by its fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from stockpot.errors import StockpotError
from stockpot.streams.pairs import Pairs, as_pairs, pairs_digest
from stockpot.streams.sampling import evenly_spaced_rows

SCHEME = "memory:"
_SAMPLED = 8  # rows whose pictures and sounds are part of a fingerprint: all of them would be slow
_HEAVY = ("Image", "Audio", "Video", "Array2D", "Array3D", "Array4D", "Array5D")
_passed: dict[str, dict[str, Any]] = {}  # path → its splits by name


def is_passed(path: str | None) -> bool:
    """Whether a path in a recipe stands for a data set that was passed in Python."""
    return path is not None and path.startswith(SCHEME)


def holds_pairs(path: str | None) -> bool:
    """Whether it stands for one of (input, label), which has no columns."""
    return any(isinstance(part, Pairs) for part in _passed.get(path or "", {}).values())


def is_data_set(value: Any) -> bool:
    """Whether a value is one part of a data set: of `datasets`, or with the two methods of PyTorch's `Dataset`."""
    if isinstance(value, str | bytes | list | tuple | range | Mapping) or hasattr(value, "ndim"):
        return False
    return (hasattr(value, "__getitem__") and hasattr(value, "__len__")) or _is_stream(value)


def is_split_data_set(value: Any) -> bool:
    """Whether a value has parts by name: a `DatasetDict`, or a dict of data sets."""
    return (
        isinstance(value, Mapping) and len(value) > 0 and "path" not in value and all(map(is_data_set, value.values()))
    )


def _is_stream(value: Any) -> bool:
    names = {kind.__name__ for kind in type(value).__mro__}
    return "IterableDataset" in names


def pass_data(value: Any, where: str) -> str:
    """Keeps a data set for this process; returns its path for a recipe.

    Args:
        value: a data set, which is the training part, or a dict of parts by name.
        where: what it is for, in messages.

    Raises:
        StockpotError: it is a stream, it has no rows, or an item is not an input with its label.
    """
    splits = dict(value) if isinstance(value, Mapping) else {"train": value}
    digest, parts = hashlib.sha256(), {}
    for name, part in splits.items():
        place = f"{where}, part {name!r}"
        if _is_stream(part):
            raise StockpotError(
                f"{place}: {type(part).__name__} can only be read from front to end, and a run reads any row: pass a "
                "data set with a length."
            )
        if not len(part):
            raise StockpotError(f"{place}: it is empty.")
        parts[str(name)] = part.with_format(None) if _is_table(part) else as_pairs(part, place)
        digest.update(f"{name}:{_digest(parts[str(name)])};".encode())
    path = f"{SCHEME}{digest.hexdigest()[:16]}"
    _passed[path] = parts
    return path


def pass_again(value: Any) -> None:
    """Keeps what a run that is resumed was given before: a data set, or several in a list or a dict."""
    if is_data_set(value) or is_split_data_set(value):
        pass_data(value, "data")
    parts: Iterable[Any] = value.values() if isinstance(value, Mapping) else value if _is_several(value) else ()
    for part in parts:
        pass_again(part)
    if not (is_data_set(value) or _is_several(value) or isinstance(value, Mapping)):
        raise StockpotError(f"data: {type(value).__name__} is not a data set, nor several of them.")


def _is_several(value: Any) -> bool:
    return isinstance(value, list | tuple)


def splits_of(path: str, where: str) -> dict[str, Any]:
    """The parts of a data set by name. Raises StockpotError, starting with `where`, if it was not passed here."""
    if path not in _passed:
        raise StockpotError(
            f"{where}: its data set was passed in Python, and nothing here has its fingerprint, {path}: pass it again, "
            "as it was, with stockpot.resume(…, data=…) or stockpot.add(…, data=…)."
        )
    return _passed[path]


def _is_table(part: Any) -> bool:
    return hasattr(part, "features") and hasattr(part, "with_format")


def _digest(part: Any) -> str:
    """A fingerprint of a part's content: of every value, but of pictures and sounds of a few rows only."""
    if not _is_table(part):
        return pairs_digest(part)
    digest = hashlib.sha256(f"{len(part)}{part.features!r}".encode())
    heavy = [name for name, feature in part.features.items() if type(feature).__name__ in _HEAVY]
    light = [name for name in part.features if name not in heavy]
    arrow = part.with_format("arrow")
    if light:
        for batch in arrow.select_columns(light).iter(batch_size=1000):
            digest.update(json.dumps(batch.to_pydict(), default=repr).encode(errors="surrogatepass"))
    if heavy:
        rows = evenly_spaced_rows(len(part), _SAMPLED)
        pictures = arrow.select_columns(heavy)[np.asarray(rows).tolist()].to_pydict()
        contents = [[_content(value) for value in values] for values in pictures.values()]
        digest.update(repr(contents).encode(errors="surrogatepass"))
    return digest.hexdigest()


def _content(value: Any) -> Any:
    """A picture without the path of the file that it came from, where it has its bytes."""
    return value["bytes"] if isinstance(value, dict) and value.get("bytes") is not None else value
