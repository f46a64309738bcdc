"""`import stockpot` costs nothing."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import stockpot


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_the_package_imports_nothing_heavy() -> None:
    assert not loaded_by("import stockpot; stockpot.StockpotError") & {"torch", "transformers", "matplotlib", "numpy"}


def test_sfa_needs_no_transformers() -> None:
    made = loaded_by("import stockpot, torch; stockpot.SFA(torch.nn.Linear(2, 2), beta=0.5, every=1)")
    assert not made & {"transformers", "matplotlib", "datasets", "accelerate", "torch.distributed.fsdp"}


def test_public_names() -> None:
    from stockpot.averaging.callback import SFACallback

    assert stockpot.SFACallback is SFACallback
    assert set(stockpot.__all__) <= set(dir(stockpot))
    with pytest.raises(AttributeError, match="no attribute 'SFB'"):
        _ = stockpot.SFB


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert stockpot.__version__ == project["version"]
