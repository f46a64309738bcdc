"""The example of CONTRIBUTING.md, as it is pasted: one file, and the method is everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
# The registry lists the package's folder: here it is told of one more.
ADDED = """
import sys
import stockpot.methods
stockpot.methods.__path__.append(sys.argv[1])
"""
TRAINED = """
import json
from pathlib import Path
from stockpot.cli import main
from stockpot.methods import title_of
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe
from stockpot.runs.actions import continue_run, create_run
recipe = validate(Recipe, json.loads(sys.argv[2]), "here")
create_run(recipe, recipe.method, 0, Path(sys.argv[1]) / "run")
results = continue_run(Path(sys.argv[1]) / "run")
print(json.dumps([results.label, results.method, results.tasks, title_of("damp")]))
try:
    main(["methods", "damp"])
except SystemExit as done:
    sys.exit(done.code)
"""
COLLECTED = """
import pytest
class Names:
    def pytest_collection_finish(self, session):
        for item in session.items:
            print("collected", item.nodeid)
common = ["-q", "-k", "damp", "-m", "thorough or not thorough", "-p", "no:cacheprovider"]
code = pytest.main([*common, "--collect-only", *sys.argv[2].split()], plugins=[Names()])
sys.exit(code or pytest.main([*common, *sys.argv[3].split()]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the file of the example, the only Python block of its section."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Add a method\n")[1].split("\n## ")[0]
    [code] = [block.split("```")[0] for block in section.split("```python\n")[1:]]
    (tmp_path / "damp.py").write_text(code, encoding="utf-8")
    return tmp_path


def python(code: str, *arguments: object) -> str:
    """What the code prints, in a process of its own."""
    command = [sys.executable, "-c", ADDED + code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_it_trains_and_is_listed_with_its_equation(folder: Path, digits_recipe: dict[str, Any]) -> None:
    recipe = {**digits_recipe, "method": {"name": "damp", "rate": 0.25}}
    first, *listed = python(TRAINED, folder, json.dumps(recipe)).splitlines()
    assert json.loads(first) == ["damp", {"name": "damp", "rate": 0.25}, ["part-1", "part-2"], "Damp"]
    assert "  Equation: `θ ← (1 − rate)·θ + rate·θ_before`" in listed
    assert any("rate = 0.5" in line and "share of every step that is taken back" in line for line in listed)


def test_it_is_in_every_suite_and_passes_what_is_cheap_of_them(folder: Path) -> None:
    lines = python(COLLECTED, folder, " ".join(SUITES), " ".join(RUN)).splitlines()
    collected = [line.split("::")[0].split()[-1] for line in lines if line.startswith("collected ")]
    for suite, least in SUITES.items():
        assert collected.count(suite) >= least, suite


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
