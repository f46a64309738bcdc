"""Every method with the settings that leave most to be taken up where a task was interrupted."""

from __future__ import annotations

from typing import Any

from stockpot.methods import registry

METHODS: dict[str, dict[str, Any]] = {name: dict(method.typical) for name, method in registry().items()} | {
    "sfa": {"beta": {"*weight": 0.5, "*": 0.1}, "every": 2, "optimizer_state": "reset"},
    "wise_ft": {"alpha": 0.5, "first_task": "average", "anchor": "pretrained"},
    "replay": {"fraction": 0.5},
    "l2": {"strength": 0.5, "new_strength": 0.1, "form": "decoupled", "first_task": "average"},
    "ewc": {"strength": 20.0, "fisher": "sample", "samples": 5},
    "agem": {"budget": "reservoir", "count": 7, "per_step": 3},
    "ties": {"mode": "chain", "continue_from": "merged"},
    "soup": {"mode": "chain"},
    "fisher_average": {"fisher": "sample", "samples": 5},
}
