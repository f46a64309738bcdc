"""The public names of the package, and its version."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import stockpot


def test_public_names() -> None:
    from stockpot.averaging.callback import SFACallback

    assert stockpot.SFACallback is SFACallback
    assert set(stockpot.__all__) <= set(dir(stockpot))
    with pytest.raises(AttributeError, match="no attribute 'SFB'"):
        _ = stockpot.SFB


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert stockpot.__version__ == project["version"]
