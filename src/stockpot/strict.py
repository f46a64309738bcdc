"""The base class of everything that users write in a recipe."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from stockpot.switches import read_switches

FreeBlock = Annotated[dict[str, Any], BeforeValidator(read_switches)]  # a block whose keys another library defines


class StrictModel(BaseModel):
    """A block of a recipe: frozen, without unknown keys, and strict: `yes` is not the number 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _switches(cls, values: Any) -> Any:
        """Reads `yes` and the like as true or false where a field is a bool."""
        if not isinstance(values, dict):
            return values
        wanted = {key for key, field in cls.model_fields.items() if field.annotation in (bool, bool | None)}
        return {key: read_switches(value) if key in wanted else value for key, value in values.items()}
