"""The base of everything that a user writes in a recipe."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A block of the recipe: frozen, closed to keys that it does not know, and strict: `yes` is not the number 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
