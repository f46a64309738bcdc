"""Text for people (counts and sizes) and for terminals, which untrusted text must not control."""

from __future__ import annotations

import codecs
import unicodedata

SPELT = "stockpot.spelt"  # an error handler for streams: "β ≥ 0 — ±1" is written "beta >= 0 - +/-1"
_SYMBOLS = {
    "×": "x", "·": "*", "±": "+/-", "−": "-", "–": "-", "—": "-", "…": "...", "←": "<-", "→": "->", "≤": "<=",
    "≥": ">=", "≠": "!=", "≈": "~", "∞": "inf", "√": "sqrt", "‖": "||", "²": "^2", "½": "1/2", "“": '"', "”": '"',
    "‘": "'", "’": "'", "\u00a0": " ",
}  # fmt: skip
_STEERING = ("Cc", "Cs", "Zl", "Zp")  # control characters, surrogates, line separators
_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"


def escape_controls(text: str, lines: bool = True) -> str:
    """The text with control characters shown as `\\x1b` and the like; with `lines`, newlines and tabs stay.

    Escape sequences can come from any file: configurations, names of tensors and classes, rows of data.
    """
    if text.isascii() and text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(_escaped(c) if c not in kept and _steers(c) else c for c in text)


def _steers(letter: str) -> bool:
    return letter in _DIRECTIONS or unicodedata.category(letter) in _STEERING


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def human_bytes(value: float) -> str:
    """Bytes to three digits, in decimal units: `3.74 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def counted(count: int, noun: str) -> str:
    """`1 tensor`, `2,048 tensors`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _spelt(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(map(_spell, letters)), error.end


def _spell(letter: str) -> str:
    if letter in _SYMBOLS:
        return _SYMBOLS[letter]
    name = unicodedata.name(letter, "")
    if name.startswith("GREEK") and " LETTER " in name:
        word = name.rpartition(" LETTER ")[2].partition(" WITH ")[0].lower()
        return word.title() if "CAPITAL" in name else word
    return _escaped(letter)


codecs.register_error(SPELT, _spelt)
