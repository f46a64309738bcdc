"""What all tests share: no network, one thread, fixed seeds, the shared data where it exists, and tiny recipes."""

from __future__ import annotations

import gc
import logging
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings
from pristine import Pristine

settings.register_profile(
    "stockpot",
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("stockpot")

SHARED = Path(__file__).parents[2] / "shared" / "data"
PRISTINE = pytest.StashKey[Pristine]()


def _only_controls(session: pytest.Session) -> bool:
    """Whether this is the process of pytest-xdist that neither collects nor runs tests: it need not import torch."""
    return getattr(session.config.option, "dist", "no") != "no" and not hasattr(session.config, "workerinput")


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, Any, Any]:
    """Imports leave no garbage that is worth looking for."""
    if _only_controls(session):
        return (yield)
    _prepare_torch()
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _prepare_torch() -> None:
    import torch

    torch.set_num_threads(1)
    if torch.accelerator.current_accelerator() is None:  # torch is built for processors alone
        for backend in (torch.cuda, torch.xpu):  # it would format the stack at every seed, to say later where that was
            backend.manual_seed_all = lambda seed: None


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, Any, Any]:
    """Before the first test, a process is forked for those tests that want one in which nothing has run."""
    if _only_controls(session):
        return (yield)
    session.config.stash[PRISTINE] = process = Pristine()
    try:
        return (yield)
    finally:
        process.close()


@pytest.fixture(scope="session")
def pristine(request: pytest.FixtureRequest) -> Pristine:
    """A process in which no test has run, to be forked."""
    return request.config.stash[PRISTINE]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs first, so that one worker has them all before any are left to steal: it makes the runs that nothing
    interrupts, with which the others are compared."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/runs/"))


def pytest_runtest_setup() -> None:
    """Sets aside what earlier tests left. The Trainer asks for a full round of the garbage collector whenever it
    starts, and with torch and Transformers imported that takes ten times as long as to train a toy."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeds() -> None:
    from stockpot.seeds import seed_everything

    seed_everything(0)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The warnings of the logger "stockpot", as they come in. Pytest's `caplog` is off: it would hang handlers on the
    sixty loggers of torch, six times a test."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("stockpot").addHandler(handler)
    yield messages
    logging.getLogger("stockpot").removeHandler(handler)


@pytest.fixture
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of reports are made but not drawn: every file and every page has the same small one, and no Vega."""
    from markupsafe import Markup

    from stockpot.report import rendering

    drawn = {".png": b"\x89PNG", ".pdf": b"%PDF-"}
    svg = '<svg width="90" height="60" viewBox="0 0 90 60"></svg>'
    monkeypatch.setattr(rendering, "svg_of", lambda chart: svg)
    monkeypatch.setattr(rendering, "_converted", lambda text, suffix: drawn.get(suffix, text.encode()))
    monkeypatch.setattr(rendering, "vega_script", lambda: Markup("/* Vega */"))


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """`shared_data("vision/mnist10k")` → its folder; the test is skipped where the data are not there."""

    def folder(name: str) -> Path:
        path = SHARED / name
        if not path.is_dir():
            pytest.skip(f"the shared data are not here: {path}")
        return path

    return folder


@pytest.fixture
def digits_recipe() -> dict[str, Any]:
    """Two tasks of five digits, six examples of each class, one epoch of an MLP: a run of a second."""
    return {
        "model": {"build": "stockpot.models.networks:mlp", "args": {"inputs": 64, "hidden": [16]}},
        "data": {"path": "digits", "limit": 6},
        "tasks": {"split": 5},
        "train": {
            "num_train_epochs": 2,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "use_cpu": True,
        },
    }


@pytest.fixture
def write_yaml(tmp_path: Path) -> Callable[..., Path]:
    """`write_yaml(values, "name.yaml")` → the file, in the test's own folder."""

    def write(values: Any, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
        return path

    return write


@pytest.fixture
def hub_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a data set in the hub's layout (parquet) and returns its folder.

    `hub_folder({"train": {"image": [...], "label": [...]}}, label=["cat", "dog"])`: the keywords give the names of
    ClassLabel columns; columns of PIL images become Image columns.
    """

    def write(splits: dict[str, dict[str, list[Any]]], folder: str = "data", **names: list[str]) -> Path:
        import datasets
        from PIL.Image import Image

        target = tmp_path / folder
        target.mkdir()
        for split, columns in splits.items():
            features = datasets.Features({
                column: datasets.Image()
                if values and isinstance(values[0], Image)
                else datasets.ClassLabel(names=names[column])
                if column in names
                else datasets.Value("string" if isinstance(values[0], str) else "int64")
                for column, values in columns.items()
            })  # fmt: skip
            rows = datasets.Dataset.from_dict(columns, features=features)
            rows.to_parquet(target / f"{split}-00000-of-00001.parquet")
        return target

    return write
