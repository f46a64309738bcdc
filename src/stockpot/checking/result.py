"""What `stockpot.check` returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from stockpot.checking.outcome import CheckFacts
from stockpot.checking.words import check_lines


@dataclass(frozen=True)
class CheckResult(CheckFacts):
    """What `stockpot.check` says: `ok` if a run would start. `print` shows it in words."""

    def as_values(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        memory = {} if self.memory is None else {"memory": {**asdict(self.memory), "total": self.memory.total}}
        return {"ok": self.ok, **asdict(self), **memory}

    def __str__(self) -> str:
        return "\n".join(check_lines(self))
