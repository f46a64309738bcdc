"""Pictures that a table names by their files, or holds as bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError
from stockpot.streams.layouts import IMAGE_ENDINGS
from stockpot.streams.spec import DataSpec


def with_pictures(dataset: Any, image: str, data: DataSpec, place: str) -> Any:
    """The split with pictures in its column `image`, which are opened when a row is read.

    Names of files are relative to the folder of the table, unless they are absolute. Raises StockpotError, starting
    with `place`, that names the first row whose file is missing.
    """
    import datasets

    feature = dataset.features[image]
    if isinstance(feature, datasets.Image):
        return dataset
    values = dataset.select_columns([image])[:1][image]
    if not values or isinstance(values[0], dict | bytes):
        return dataset.cast_column(image, datasets.Image()) if values else dataset
    if not isinstance(values[0], str) or not values[0].lower().endswith(IMAGE_ENDINGS):
        return dataset
    table = Path(str(data.path)).expanduser()
    folder = table.parent if table.is_file() else table
    names = dataset[image]
    paths = []
    for row, name in enumerate(names):
        path = folder / str(name)
        if not path.is_file():
            raise StockpotError(
                f"{place}, row {row}: data.image: column {image!r} names {name!r}, and there is no file {path}; fix "
                "the row, or leave it out."
            )
        paths.append(str(path.resolve()))
    return dataset.remove_columns(image).add_column(image, paths).cast_column(image, datasets.Image())
