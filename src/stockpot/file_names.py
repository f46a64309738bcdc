"""Names that become those of folders and files, and cannot lead out of their folder."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_LONGEST = 120


def is_file_name(text: str) -> bool:
    """Whether a text can name a folder: printable, without slashes, no dot or blank at its ends, not too long."""
    marks = any(letter in "/\\" or not letter.isprintable() for letter in text)
    return 0 < len(text) <= _LONGEST and text == text.strip(". ") and not marks


def as_file_name(text: str, otherwise: str) -> str:
    """The text with everything replaced that `is_file_name` refuses; `otherwise` if nothing is left."""
    return re.sub(r"[^\w.+=%@, -]", "-", text)[:_LONGEST].strip(". ") or otherwise


def stays_inside(path: str) -> bool:
    """Whether a relative path stays below the folder that it starts from."""
    return not path.startswith("/") and ".." not in PurePosixPath(path).parts and "\0" not in path
