"""The base of everything that a user writes in a recipe."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from stockpot.switches import read_switches

FreeBlock = Annotated[dict[str, Any], BeforeValidator(read_switches)]  # a block whose keys somebody else knows


class StrictModel(BaseModel):
    """A block of the recipe: frozen, closed to keys that it does not know, and strict: `yes` is not the number 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _switches(cls, values: Any) -> Any:
        """`yes` and its like where true or false is wanted."""
        if not isinstance(values, dict):
            return values
        wanted = {key for key, field in cls.model_fields.items() if field.annotation in (bool, bool | None)}
        return {key: read_switches(value) if key in wanted else value for key, value in values.items()}
