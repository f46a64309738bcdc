"""What is imported when, and what is said without an extra: one new interpreter proves all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

# Each step adds to what was imported before, so the lightest comes first.
PROGRAM = """
import json, sys
loaded = {}
def look(step):
    loaded[step] = [name for name in sys.modules if name.count(".") < 3]
def refusal(package, module):
    sys.modules[package] = None
    try:
        __import__(module)
    except stockpot.StockpotError as error:
        return str(error)

import stockpot
stockpot.StockpotError
look("package")
import stockpot.report, stockpot.report.tables, stockpot.report.findings, stockpot.report.card
import stockpot.evaluation.metrics, stockpot.evaluation.statistics
look("report")
import stockpot.methods
look("methods")
import torch
stockpot.SFA(torch.nn.Linear(2, 2), beta=0.5, every=1)
look("SFA")
stockpot.methods.registry()
look("registry")
import stockpot.comparisons.search
look("search")
refusals = {
    "lightning": refusal("lightning", "stockpot.averaging.lightning"),
    "axolotl": refusal("axolotl", "stockpot.averaging.axolotl"),
}
print(json.dumps([loaded, refusals]))
"""
HEAVY = {"vl_convert", "scipy", "jinja2", "torch", "transformers", "huggingface_hub", "rich", "numpy", "pandas"}


@pytest.fixture(scope="module")
def interpreter() -> tuple[dict[str, list[str]], dict[str, Any]]:
    """The modules that each step had loaded, and the refusals without an extra."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=120)
    loaded, refusals = json.loads(done.stdout.splitlines()[-1])
    return loaded, refusals


@pytest.mark.parametrize("step", ["package", "report"])
def test_the_package_and_what_the_command_line_imports_early_stay_light(step: str, interpreter: Any) -> None:
    assert not HEAVY & set(interpreter[0][step])


def test_sfa_needs_torch_alone(interpreter: Any) -> None:
    loaded = set(interpreter[0]["SFA"])
    assert "torch" in loaded
    others = {"transformers", "vl_convert", "datasets", "accelerate", "peft", "lightning"}
    assert not loaded & (others | {"torch.distributed.fsdp"})


def test_the_registry_is_filled_when_it_is_asked_for(interpreter: Any) -> None:
    early, filled = (
        {name for name in interpreter[0][step] if name == "torch" or name.startswith("stockpot.methods.")}
        for step in ("methods", "registry")
    )
    assert not early
    assert {"torch", "stockpot.methods.sfa"} <= filled


def test_importing_methods_and_searches_does_not_import_optuna(interpreter: Any) -> None:
    assert "stockpot.comparisons.search" in interpreter[0]["search"]
    assert "optuna" not in interpreter[0]["search"]


def test_a_missing_extra_is_named_in_one_line(interpreter: Any) -> None:
    assert interpreter[1] == {
        "lightning": "SFALightning needs Lightning: pip install 'stockpot[lightning]'.",
        "axolotl": "SFAPlugin is for Axolotl, which is not installed: pip install axolotl.",
    }
