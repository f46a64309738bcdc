"""Runs that several tests look at, made once."""

from __future__ import annotations

from typing import Any

import pytest

import stockpot
from stockpot.api.comparison_result import ComparisonResult
from stockpot.api.run_result import RunResult
from stockpot.api.whatif_result import WhatIfResult

RECIPE: dict[str, Any] = {
    "model": {"build": "stockpot.models.networks:mlp", "args": {"inputs": 64, "hidden": [8]}},
    "data": {"path": "digits", "limit": 6},
    "tasks": {"split": 5},
    "controls": [{"name": "tilted", "data": {"classes": [0, 1], "rotate": 30}}],
    "method": {"name": "sequential"},
    "metrics": ["accuracy", {"name": "accuracy", "label": "newer", "tasks": ["part-2"]}],
    "loop": "plain",
    "train": {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "use_cpu": True},
}


@pytest.fixture(autouse=True)
def _pictures(quick_pictures: None) -> None:
    """What the figures of a page look like is tested in tests/report."""


@pytest.fixture
def recipe() -> dict[str, Any]:
    """A run of two tasks that takes a tenth of a second."""
    return dict(RECIPE)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run; tests must not change its folder."""
    return stockpot.run(RECIPE, output=tmp_path_factory.mktemp("python") / "run", progress=False)


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> ComparisonResult:
    """A comparison of three methods over two seeds; tests must not change its folder."""
    folder = tmp_path_factory.mktemp("compared") / "out"
    return stockpot.compare(RECIPE, output=folder, methods=["wise_ft"], seeds=2, progress=False)


@pytest.fixture(scope="session")
def merged(finished: RunResult, tmp_path_factory: pytest.TempPathFactory) -> WhatIfResult:
    """A sweep over the run's checkpoints; tests must not change its folder."""
    folder = tmp_path_factory.mktemp("merged") / "out"
    return stockpot.whatif(finished, methods=["wise_ft"], points=3, output=folder, progress=False)
