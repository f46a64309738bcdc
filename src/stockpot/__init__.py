"""Fine-tune one model on task after task, and keep what it already knows."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from stockpot.version import __version__

if TYPE_CHECKING:
    from stockpot.api.checks import check
    from stockpot.api.many_runs import compare
    from stockpot.api.merge_sweep import whatif
    from stockpot.api.open_folder import open
    from stockpot.api.pushing import push
    from stockpot.api.single_run import add, resume, run
    from stockpot.averaging.callback import SFACallback
    from stockpot.averaging.sfa import SFA
    from stockpot.errors import StockpotError
    from stockpot.merging.api import merge

__all__ = [
    "SFA",
    "SFACallback",
    "StockpotError",
    "__version__",
    "add",
    "check",
    "compare",
    "merge",
    "open",
    "push",
    "resume",
    "run",
    "whatif",
]

# `import stockpot` costs nothing: torch and transformers are imported by what needs them.
_HOME = {
    "SFA": "stockpot.averaging.sfa",
    "SFACallback": "stockpot.averaging.callback",
    "StockpotError": "stockpot.errors",
    "add": "stockpot.api.single_run",
    "check": "stockpot.api.checks",
    "compare": "stockpot.api.many_runs",
    "merge": "stockpot.merging.api",
    "open": "stockpot.api.open_folder",
    "push": "stockpot.api.pushing",
    "resume": "stockpot.api.single_run",
    "run": "stockpot.api.single_run",
    "whatif": "stockpot.api.merge_sweep",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'stockpot' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
