"""Methods that users bring: by dotted path, class or entry point; in runs, comparisons, sweeps, worker processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import brought
import pytest
import torch
import yaml
from safetensors.torch import load_file

import stockpot
from stockpot import plugins
from stockpot.api.comparison_result import ComparisonResult
from stockpot.api.run_result import RunResult
from stockpot.cli import main
from stockpot.errors import StockpotError

PATH = "their_damp:Damp"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with the module of the method, which nothing has imported; it is not on Python's path."""
    (tmp_path / "their_damp.py").write_text(brought.damp_code())
    with brought.forgotten("their_damp"):
        yield tmp_path


@pytest.fixture
def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, on Python's path."""
    monkeypatch.syspath_prepend(folder)
    return folder


def weights(run: RunResult) -> dict[str, torch.Tensor]:
    return load_file(run.model_folder() / "model.safetensors")


def damped(recipe: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {**recipe, "method": {"name": PATH, **keys}}


def test_a_dotted_path_trains_beside_the_recipe_and_resumes_with_consent_alone(
    folder: Path, recipe: dict[str, Any], finished: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(damped(recipe, rate=0.0)))
    neutral = stockpot.run(folder / "recipe.yaml", output=folder / "neutral", progress=False)
    assert all(torch.equal(tensor, weights(finished)[name]) for name, tensor in weights(neutral).items())
    run = stockpot.run(folder / "recipe.yaml", ["method.rate=0.9"], output=folder / "run", progress=False)
    assert run.results.label == "damp"
    assert run.results.method == {"name": PATH, "rate": 0.9}
    assert not all(torch.equal(tensor, weights(neutral)[name]) for name, tensor in weights(run).items())

    with brought.forgotten("their_damp"):  # a new process that reads
        again = stockpot.open(run.path)
        assert again.results == run.results
        assert again.doubts == [] and "damp" in again.export("md")
        for call in (
            lambda: stockpot.add(run.path, {"name": "next", "data": {"classes": [1, 2]}}, progress=False),
            lambda: stockpot.add(run.path, {"name": "next", "data": {"classes": [1, 2]}}, output=folder / "branch"),
        ):
            with pytest.raises(StockpotError, match="read it, and add allow_code=True"):
                call()
        assert "their_damp" not in sys.modules
    with brought.forgotten("their_damp"):  # the folder of the recipe is remembered
        task = {"name": "next", "data": {"classes": [1, 2]}}
        longer = stockpot.add(run.path, task, allow_code=True, progress=False)
        assert longer.results.tasks == ["part-1", "part-2", "next"]
        assert longer.results.method == run.results.method
        assert stockpot.resume(run.path, allow_code=True, progress=False).results == longer.results
        assert longer.notes == run.notes
    (folder / "their_damp.py").write_text(brought.damp_code() + "\n# another version\n")
    with brought.forgotten("their_damp"):
        changed = stockpot.add(run.path, {**task, "name": "last"}, allow_code=True, progress=False)
    assert set(changed.notes) - set(run.notes) == {"the file of their_damp:Damp was changed after the run was created"}


def test_an_interrupted_run_goes_on_to_the_same_bits(importable: Path, recipe: dict[str, Any]) -> None:
    from stockpot.runs.actions import continue_run, create_run
    from stockpot.runs.loop import Interrupted
    from stockpot.training.job import Stop

    whole = stockpot.run(damped(recipe), output=importable / "whole", progress=False)
    checked = stockpot.api.recipe_like.as_recipe(damped(recipe))
    create_run(checked, checked.method, 0, importable / "run")
    with pytest.raises(Interrupted):
        continue_run(importable / "run", allow_code=True, stop=Stop(requested=True))
    with pytest.raises(StockpotError, match=r"read it, and add --allow-code"):
        continue_run(importable / "run")
    run = stockpot.resume(importable / "run", allow_code=True, progress=False)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(run).items())


@pytest.mark.thorough  # it starts a Python
def test_a_class_is_its_dotted_path_and_runs_in_worker_processes(
    importable: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from their_damp import Damp  # type: ignore[import-not-found]

    monkeypatch.setenv("PYTHONPATH", str(importable))
    here = stockpot.compare({**recipe, "compare": [Damp]}, output=importable / "here", progress=False)
    assert here.run("damp").results.method == {"name": PATH, "rate": 0.5}
    assert stockpot.run({**recipe, "method": Damp}, output=importable / "run", progress=False).results.label == "damp"
    there = stockpot.compare(recipe, methods=[Damp], engine="processes", output=importable / "there", progress=False)
    assert isinstance(there, ComparisonResult)
    assert there.matrix("damp").equals(here.matrix("damp"))
    assert [cell.run for cell in there.results.methods["damp"].cells] == ["cells/damp/seed-0"]


def test_what_other_processes_cannot_import_is_refused_before_they_start(
    folder: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook: Any = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    exec(brought.damp_code(), vars(notebook))
    run = stockpot.run({**recipe, "method": notebook.Damp}, output=folder / "run", progress=False)
    assert run.results.method["name"] == "__main__:Damp"
    with pytest.raises(StockpotError, match="defined in this notebook or script, where other processes cannot import"):
        stockpot.compare({**recipe, "compare": [notebook.Damp]}, jobs=2, output=folder / "out", progress=False)
    assert not (folder / "out").exists()
    del notebook.Damp
    with pytest.raises(StockpotError, match="this notebook or script has no 'Damp'"):
        stockpot.add(run, {"name": "next", "data": {"classes": [1]}}, allow_code=True, progress=False)
    with pytest.raises(StockpotError, match="define it with `def` or `class` at the top level"):
        stockpot.run({**recipe, "method": type("Local", (), {"__qualname__": "f.<locals>.Local"})}, progress=False)


def test_a_package_registers_methods_that_are_listed_and_need_no_consent(
    importable: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    brought.install(importable, "[stockpot.methods]\ndamp = their_damp:Damp\nbroken = their_damp:Nothing\n")
    run = stockpot.run({**recipe, "method": {"name": "damp", "rate": 0.25}}, output=importable / "run", progress=False)
    assert run.results.method == {"name": "damp", "rate": 0.25}
    task = {"name": "next", "data": {"classes": [1, 2]}}
    assert stockpot.add(run, task, progress=False).results.tasks[-1] == "next"
    with pytest.raises(StockpotError, match=r"unknown method 'dampp'\. Did you mean 'damp'\?"):
        stockpot.run({**recipe, "method": {"name": "dampp"}}, progress=False)
    with pytest.raises(StockpotError, match=r"method\.rat: unknown key\. Did you mean 'rate'\?"):
        stockpot.run({**recipe, "method": {"name": "damp", "rat": 1}}, progress=False)
    with pytest.raises(SystemExit):
        main(["methods"])
    listed, complaints = capsys.readouterr()
    assert "From: their-package 1.2, their_damp:Damp" in listed
    assert "Equation: `θ ← (1 − rate)·θ + rate·θ_before`" in listed
    assert "broken, of the package their-package 1.2" in complaints and "Nothing" in complaints
    (importable / "their_package-1.2.dist-info" / "entry_points.txt").unlink()
    plugins.registered.cache_clear()
    assert stockpot.open(run.path).results.label == "damp"  # a colleague without the package can read it
    with pytest.raises(StockpotError, match="unknown method 'damp'"):
        stockpot.add(run, {**task, "name": "another"}, progress=False)


def test_a_method_with_a_sweep_is_swept(importable: Path, finished: RunResult) -> None:
    code = (brought.ROOT / "src" / "stockpot" / "methods" / "wise_ft.py").read_text()
    (importable / "their_merge.py").write_text(code.replace('Literal["wise_ft"]', 'Literal["theirs"]'))
    with brought.forgotten("their_merge"):
        path = "their_merge:WiseFT"
        out = importable / "out"
        swept = stockpot.whatif(finished, methods=[path, "wise_ft"], points=2, output=out, progress=False)
    assert swept.matrix("theirs", 1.0).equals(swept.matrix("wise_ft", 1.0))


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        (None, "not_there:Damp", r"there is no module 'not_there' on Python's path, in the current folder or beside"),
        ("x = 1\ny = x +\n", "their_bad:Damp", r"their_bad\.py, line 2: invalid syntax"),
        ("x = 1\nx.absent\n", "their_bad:Damp", r"their_bad\.py, line 2: AttributeError: 'int' object has no"),
        ("class Damp: pass\n", "their_bad:Damp", "this is not a method: define a class"),
        ("class Damp: pass\n", "their_bad:Dump", r"their_bad has no 'Dump'\. Did you mean 'Damp'\?"),
        (brought.damp_code().replace("    Cost:", "    Costs:"), "their_bad:Damp", r"the docstring lacks.*Cost:"),
        (
            brought.damp_code().replace('title = "Damp"', 'title = "Damp"\n    role = "floor"'),
            "their_bad:Damp",
            "its role is 'floor'",
        ),
    ],
)
def test_what_is_wrong_with_it_is_one_line(
    folder: Path, recipe: dict[str, Any], code: str | None, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    if code is not None:
        (folder / "their_bad.py").write_text(code)
    with (
        brought.forgotten("their_bad"),
        pytest.raises(StockpotError, match=f"method: {name}: .*{message}|{message}") as e,
    ):
        stockpot.run({**recipe, "method": {"name": name}}, output=folder / "run", progress=False)
    assert "\n" not in str(e.value)
    assert not (folder / "run").exists()


def test_editors_take_what_users_bring(recipe: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator

    from stockpot.cli.schema import schema_of

    schema = Draft202012Validator(schema_of("recipe"))
    for change in (
        {"method": {"name": PATH, "rate": 0.5}},
        {"compare": [{"name": PATH}, {"name": "ewc", "strength": 3.0}]},
        {"metrics": ["my.scores:f1", {"name": "my.scores:f1", "better": "lower"}, "accuracy"]},
        {"scenario": "my.scenarios:Parity"},
    ):
        assert list(schema.iter_errors({**recipe, **change})) == []
    for change in ({"method": {"name": "ewcc"}}, {"metrics": ["acuracy"]}, {"scenario": "class-incremntal"}):
        assert list(schema.iter_errors({**recipe, **change})) != []
