"""What a folder of data holds: a saved `datasets` folder, texts in files, or tables, which must be of one kind."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError
from stockpot.file_names import is_file_name
from stockpot.streams.local import BUILDERS

# Names of files and folders that say which part they are, as `datasets` reads them.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
# Files that describe the data, and are not data themselves.
_ASIDE = ("readme", "license", "licence", "notice", "requirements", "metadata", "dataset_info", "dataset_infos")
_KINDS = {".jsonl": ".json", ".ndjson": ".json", ".tsv": ".csv"}  # endings that `datasets` reads by one builder


@dataclass(frozen=True)
class TextFile:
    """One file of text, and the class that its folder names; None where files are not sorted into classes."""

    path: Path
    label: str | None


@dataclass(frozen=True)
class TextFolder:
    """A folder of .txt files, each of which is one text: split → its files, in order."""

    splits: dict[str, list[TextFile]]

    @property
    def has_classes(self) -> bool:
        """Whether the files of every split lie in folders that are named after classes."""
        return all(file.label is not None for files in self.splits.values() for file in files)

    @property
    def classes(self) -> list[str]:
        """The names of the class folders, sorted."""
        return sorted({file.label for files in self.splits.values() for file in files if file.label is not None})


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def open_saved(folder: Path, where: str) -> Any:
    """The splits that `save_to_disk` wrote; a single data set is the split `train`."""
    import datasets

    index = folder / "dataset_dict.json"
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["splits"] if index.is_file() else []
        if bad := [name for name in names if not (isinstance(name, str) and is_file_name(name))]:
            raise StockpotError(f"{where}: {index}: {bad[0]!r} is not the name of a split.")
        opened = datasets.load_from_disk(str(folder))
    except StockpotError:
        raise
    except Exception as error:  # arrow and json raise their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StockpotError(
            f"{where}: {folder}: `datasets` cannot load what it saved there: {reason}; save it again with save_to_disk."
        ) from error
    return opened if isinstance(opened, dict) else {"train": opened}


def text_folder(folder: Path) -> TextFolder | None:
    """The folder as one text per .txt file; None where it holds other data, or a file of lines for each split."""
    files = list(_data_files(folder))
    if not files or any(file.suffix.lower() != ".txt" for file in files):
        return None
    places = [file.relative_to(folder).parts for file in files]
    if all(len(place) == 1 and Path(place[0]).stem.lower() in SPLIT_WORDS for place in places):
        return None  # train.txt, test.txt: every line is a text
    parted = all(len(place) > 1 and place[0].lower() in SPLIT_WORDS for place in places)
    splits: dict[str, list[TextFile]] = {}
    for file, place in zip(files, places, strict=True):
        split = SPLIT_WORDS[place[0].lower()] if parted else "train"
        inside = place[1:] if parted else place
        splits.setdefault(split, []).append(TextFile(file, inside[0] if len(inside) > 1 else None))
    sorted_files = TextFolder(splits)
    if sorted_files.has_classes and len(sorted_files.classes) > 1:
        return sorted_files
    return TextFolder({split: [TextFile(file.path, None) for file in each] for split, each in splits.items()})


def open_text_files(folder: TextFolder, where: str) -> dict[str, Any]:
    """Splits with a column `text`, a row for each file, and `label` where the folders are classes."""
    import datasets

    opened = {}
    for split, files in folder.splits.items():
        columns: dict[str, list[Any]] = {"text": [_text_of(file.path, where) for file in files]}
        features: dict[str, Any] = {"text": datasets.Value("string")}
        if folder.has_classes:
            columns["label"] = [folder.classes.index(str(file.label)) for file in files]
            features["label"] = datasets.ClassLabel(names=folder.classes)
        opened[split] = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    return opened


def _text_of(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise StockpotError(f"{where}: {path}: it could not be read: {error.strerror}.") from error


def refuse_mixture(folder: Path, where: str) -> None:
    """Raises StockpotError where the folder holds data of several kinds, of which `datasets` would pick the commonest.

    A README.md may say which files are data, and class folders of images may have anything beside them.
    """
    if (folder / "README.md").is_file():
        return
    files = list(_data_files(folder))
    by_kind: dict[str, list[Path]] = {}
    for file in files:
        by_kind.setdefault(_kind(file), []).append(file)
    if len(by_kind) < 2 or _sorted_images(by_kind.get("images", []), folder):
        return
    counts = Counter({kind: len(group) for kind, group in by_kind.items()})
    kinds = " and ".join(f"{count} {_kind_name(kind, count)}" for kind, count in counts.most_common())
    tables = [file for kind, group in by_kind.items() if kind != "images" for file in group]
    choices = ", ".join(f"data.path: {file}" for file in tables[:4]) + (", …" if len(tables) > 4 else "")
    raise StockpotError(
        f"{where}: data.path: {folder} holds {kinds}, so it is not clear which are the data: name one file "
        f"({choices}), or move the others out of the folder."
    )


def _kind(file: Path) -> str:
    suffix = file.suffix.lower()
    return "images" if suffix in IMAGE_ENDINGS else _KINDS.get(suffix, suffix)


def _kind_name(kind: str, count: int) -> str:
    return ("image" if kind == "images" else f"{kind} file") + ("" if count == 1 else "s")


def _sorted_images(images: list[Path], folder: Path) -> bool:
    """Whether the images lie in folders named after their classes."""
    return len({image.parent for image in images} - {folder}) > 1


def _data_files(folder: Path) -> Iterator[Path]:
    """Files of data under the folder, sorted, without hidden ones and those that only describe it."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for name in sorted(names):
            file = Path(place, name)
            if name.startswith((".", "_")) or file.stem.lower() in _ASIDE:
                continue
            if file.suffix.lower() in (*BUILDERS, *IMAGE_ENDINGS):
                yield file
