"""Opening a data set: from the hub, from a folder in its layout, or from one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError, did_you_mean
from stockpot.streams.layouts import is_saved, open_saved, open_text_files, refuse_mixture, text_folder
from stockpot.streams.local import SAMPLE_BY, is_data, open_file, refuse_encoding
from stockpot.streams.passed_data import is_passed, splits_of
from stockpot.streams.spec import DataSpec

KEPT_OPEN = 32  # data sets that a process keeps open, of each kind: the runs of a comparison share them


def open_hub(data: DataSpec, where: str) -> Any:
    """The splits of the data set that `data` names, by name.

    Raises StockpotError, starting with `where`, if it cannot be opened or lacks a split that `data` names.
    """
    if data.path is None:
        raise StockpotError(f"{where}: no data set is named: give data.path, in the recipe or in the task.")
    file = Path(data.path).expanduser()
    try:
        if is_passed(data.path):
            splits = splits_of(data.path, where)
        elif file.is_file() or (is_data(file) and not file.is_dir()):
            splits = open_file(data.path, where, data.each)
        else:
            splits = _open_named(data, file, where)
    except Exception as error:
        refuse_encoding(error, where, data.path)
        raise
    for key, wanted in (("train_split", data.train_split), ("test_split", data.test_split)):
        if wanted is not None and wanted not in splits:
            hint = did_you_mean(wanted, splits)
            raise StockpotError(f"{where}: data.{key}: there is no split {wanted!r}.{hint} Splits: {list(splits)}.")
    return splits


def choose_test_split(data: DataSpec, splits: Any) -> str | None:
    """The split to test on: `data.test_split`, else `test`, else `validation`; None if a part is to be held out."""
    candidates = (name for name in ("test", "validation") if name in splits and name != data.train_split)
    return data.test_split or next(candidates, None)


def _open_named(data: DataSpec, folder: Path, where: str) -> Any:
    import datasets

    path = str(data.path)
    if path.startswith((".", "/", "~")):
        if not folder.exists():
            raise StockpotError(f"{where}: data.path: {path}: there is no such folder.")
        path = str(folder)
    settings: dict[str, Any] = {}
    if Path(path).is_dir():
        if is_saved(Path(path)):
            return open_saved(Path(path), where)
        texts = text_folder(Path(path)) if data.each is not None else None
        if texts is not None and data.each == "file":
            return open_text_files(texts, where)
        refuse_mixture(Path(path), where)
        if texts is not None:
            settings = {"sample_by": SAMPLE_BY[str(data.each)]}
    try:
        try:
            return datasets.load_dataset(path, name=data.name, revision=data.revision, **settings)
        except datasets.exceptions.DatasetGenerationError:
            if not Path(path).is_dir():
                raise
            return _open_splits_apart(path, data.name)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StockpotError(
            f"{where}: the data set {data.path!r} could not be opened: {reason} "
            "(a hub name needs the network or a filled cache; a local folder needs the hub's layout)"
        ) from error


def _open_splits_apart(path: str, name: str | None) -> Any:
    """The splits of a folder, each with its own column types.

    `datasets` infers one schema for all splits: a column whose lists are all empty in one split fits no other split.
    """
    import datasets

    builder = datasets.load_dataset_builder(path, name=name)
    return {
        str(split): datasets.load_dataset(str(builder.name), data_files={str(split): list(files)}, split=str(split))
        for split, files in builder.config.data_files.items()
    }


def refuse_audio(features: Any, where: str) -> None:
    """Raises StockpotError if a column holds audio, which no model of a stream takes."""
    columns = [name for name, feature in features.items() if type(feature).__name__ == "Audio"]
    if columns:
        raise StockpotError(
            f"{where}: column {columns[0]!r} holds audio: speech is not supported, whose models need recordings and a "
            "word error rate; streams have images or texts."
        )
