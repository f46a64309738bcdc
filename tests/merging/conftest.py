"""What the tests of merging share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from refusals import random_model


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge syncs every file. That matters when the power fails, which no test can show; it takes most of their time
    on a busy disk. Tests of what a failing sync does replace `os.fsync` themselves.
    """
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Three small models: one, two and base."""
    return [random_model(tmp_path / name, seed) for seed, name in enumerate(("one", "two", "base"))]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in float64, the base of adapters."""
    from adapter_cases import save_llama  # imports PEFT and Transformers

    return save_llama(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="session")
def adapters(base: Path) -> list[Path]:
    """Three adapters of that base; the second has other modules and another rank than the first."""
    from adapter_cases import adapter

    return [
        adapter(base, "one", 1, r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"]),
        adapter(base, "two", 2, r=2, lora_alpha=8, target_modules=["q_proj", "down_proj"]),
        adapter(base, "three", 3, r=4, lora_alpha=4, target_modules=["q_proj", "v_proj"]),
    ]
