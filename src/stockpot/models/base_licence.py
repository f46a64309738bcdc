"""The licence of the model that a run starts from, as its own card says it."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

_LONGEST_CARD = 4 << 20
_KEYS = ("license", "license_name", "license_link")  # the last two where the first is "other"
_NAME = re.compile(r"[\w.+-]{1,96}")


def licence_of(name: str, revision: str | None = None) -> dict[str, str]:
    """The keys of a card's metadata that say the licence; none if the card cannot be read, or does not say it.

    Args:
        name: of a model on the hub, or a folder.
        revision: the hub's, of the model.

    Returns:
        `license`, and where it is "other" also `license_name` and `license_link`.
    """
    folder = Path(name).expanduser()
    file = folder / "README.md" if folder.is_dir() else _downloaded(name, revision or "main")
    if file is None or not file.is_file() or file.stat().st_size > _LONGEST_CARD:
        return {}
    from huggingface_hub import metadata_load

    try:
        stated = metadata_load(file)
    except Exception:  # a card is text from strangers: YAML of any kind
        return {}
    if not isinstance(stated, dict):
        return {}
    values = {key: value for key in _KEYS if isinstance(value := stated.get(key), str) and value.isprintable()}
    if not _NAME.fullmatch(values.get("license", "")):
        return {}
    return values if values["license"] == "other" else {"license": values["license"]}


@lru_cache(maxsize=8)
def _downloaded(name: str, revision: str) -> Path | None:
    """A model's card in the hub's cache; None if the hub cannot be reached, or it has none."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "README.md", revision=revision))
    except Exception:  # a missing licence must never stop a run
        return None
