"""The example of CONTRIBUTING.md, as it is pasted: one file, and the method is everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from pristine import Pristine

ROOT = Path(__file__).parents[2]
SUITES = {
    "tests/methods/test_every_method.py": 5,  # it acts, is neutral (both loops), with dropout, and what it stores
    "tests/methods/test_language_methods.py": 2,
    "tests/methods/test_methods_in_a_run.py": 1,
    "tests/methods/test_masked_head.py": 2,
    "tests/methods/test_spaces.py": 3,
    "tests/runs/test_resumed.py": 2,
}
RUN = ("tests/methods/test_every_method.py", "tests/methods/test_spaces.py")


def serve(connection: Connection) -> None:
    """One process does it all: trains with the method, lists it, and runs some of the suites on it."""
    folder, recipe, output = connection.recv()
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(1, 2)
    for name, module in [*sys.modules.items()]:  # to be imported anew, when there is one method more
        file = getattr(module, "__file__", None) or ""
        if name.partition(".")[0] == "stockpot" or file.startswith(str(ROOT / "tests")):
            del sys.modules[name]
    connection.send(_code(folder, recipe))


def _code(folder: Path, values: dict[str, Any]) -> int:
    """Says on stdout what the tests below are to find there."""
    import stockpot.methods

    stockpot.methods.__path__.append(
        str(folder)
    )  # the registry lists the package's folder: here it is told of one more
    from stockpot.cli import main
    from stockpot.recipe.read import validate
    from stockpot.recipe.schema import Recipe
    from stockpot.runs.actions import continue_run, create_run

    recipe = validate(Recipe, values, "here")
    create_run(recipe, recipe.method, 0, folder / "run")
    results = continue_run(folder / "run")
    print("trained", json.dumps([results.label, results.method, results.tasks, stockpot.methods.title_of("damp")]))
    with pytest.raises(SystemExit) as done:
        main(["methods", "damp"])
    assert not done.value.code
    options = ["-q", "-k", "damp", "-m", "thorough or not thorough", "-p", "no:cacheprovider"]
    code = pytest.main([*options, *(str(ROOT / suite) for suite in SUITES)], plugins=[Cheap()])
    sys.stdout.flush()
    return int(code)


class Cheap:
    """Of the suites, only those that cost little."""

    @pytest.hookimpl(trylast=True)  # after -k
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            print("collected", item.nodeid)
        items[:] = [item for item in items if item.nodeid.startswith(RUN)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file of the example, the only Python block of its section."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Add a method\n")[1].split("\n## ")[0]
    [code] = [block.split("```")[0] for block in section.split("```python\n")[1:]]
    path = tmp_path_factory.mktemp("contributed")
    (path / "damp.py").write_text(code, encoding="utf-8")
    return path


def test_it_trains_is_listed_with_its_equation_and_is_in_every_suite(
    folder: Path, digits_recipe: dict[str, Any], pristine: Pristine
) -> None:
    recipe = {**digits_recipe, "method": {"name": "damp", "rate": 0.25}}
    output = folder / "output.txt"
    with pristine.start(serve) as connection:
        connection.send((folder, recipe, output))
        ended = connection.poll(600) and connection.recv() == 0
    assert ended, output.read_text(encoding="utf-8")[-8000:]
    lines = output.read_text(encoding="utf-8").splitlines()
    [trained] = [json.loads(line.removeprefix("trained ")) for line in lines if line.startswith("trained ")]
    assert trained == ["damp", {"name": "damp", "rate": 0.25}, ["part-1", "part-2"], "Damp"]
    assert "  Equation: `θ ← (1 − rate)·θ + rate·θ_before`" in lines
    assert any("rate = 0.5" in line and "share of every step that is taken back" in line for line in lines)
    collected = [line.split("::")[0].split()[-1] for line in lines if "collected tests/" in line]
    for suite, least in SUITES.items():
        assert collected.count(suite) >= least, (suite, collected)


def test_it_passes_ruff(folder: Path) -> None:
    for command in (["check"], ["format", "--check"]):
        tool = [sys.executable, "-m", "ruff", *command, "--config", ROOT / "pyproject.toml", folder / "damp.py"]
        done = subprocess.run([*map(str, tool)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.thorough
def test_it_passes_mypy(folder: Path) -> None:
    tool = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", folder / "damp.py"]
    done = subprocess.run([*map(str, tool)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
