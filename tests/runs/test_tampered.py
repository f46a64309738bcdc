"""A run folder that was edited, damaged, or made by somebody else: one line that says what and where, nothing lost."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
import torch
from running import TASKS, VIT, Stockpot, Unbroken, journal, recipe, same, task, tree, write

Make = Callable[..., Unbroken]
Refuse = Callable[..., str]
Refused = Callable[..., None]
PLAIN: dict[str, Any] = {"loop": "plain", "model": VIT, "head": "seen", "method": {"name": "replay"}}


@pytest.fixture(scope="session", params=["plain", pytest.param("trainer", marks=pytest.mark.thorough)])
def half(
    request: pytest.FixtureRequest, stockpot: Stockpot, unbroken: Make, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Unbroken]:
    """A run that was killed in its second task, after a checkpoint; and the unbroken one."""
    whole = unbroken(**{**PLAIN, "loop": request.param})
    run = tmp_path_factory.mktemp("half") / "run"
    fault = {"do": "kill", "kind": "step", "at": whole_steps(whole) + 5}
    assert stockpot("run", whole.file, "-o", run, root=run, fault=fault).code == -9
    assert journal(run)[-1]["event"] == "checkpoint"
    return run, whole


def whole_steps(whole: Unbroken) -> int:
    """Optimizer steps of the first task."""
    return int(next(event for event in journal(whole.run) if event["event"] == "task")["costs"]["steps"])


@pytest.fixture
def run(half: tuple[Path, Unbroken], tmp_path: Path) -> Path:
    """A copy of the killed run, to be damaged."""
    copytree(half[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def refused(refuse: Refuse) -> Refused:
    """`refused(run, *words)` asserts that `resume` refuses, says these words, and leaves every file as it was."""

    def resume(run: Path, *words: object) -> None:
        before = tree(run)
        error = refuse("resume", run)
        for word in words:
            assert str(word) in error
        assert tree(run) == before

    return resume


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 10)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def sealed(events: list[dict[str, Any]]) -> str:
    """A journal with valid checksums: what somebody who knows how they are made would forge."""
    lines, last = [], ""
    for event in events:
        body = {key: value for key, value in event.items() if key != "sum"}
        last = hashlib.sha256(f"{last}\n{json.dumps(body, sort_keys=True)}".encode()).hexdigest()[:16]
        lines.append(json.dumps({**body, "sum": last}))
    return "\n".join(lines) + "\n"


def forge(run: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    events = journal(run)
    change(events)
    (run / "journal.jsonl").write_text(sealed(events), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "words"),
    [(truncate, "truncated or edited"), (flip, "edited or is damaged"), (Path.unlink, "is missing")],
)
@pytest.mark.parametrize(
    "file",
    [
        "tasks/01-first/model/model.safetensors",
        "tasks/01-first/model/config.json",
        "state/01-first/method.safetensors",
        "state/01-first/method.json",
        "checkpoints/02-second/checkpoint-3/model.safetensors",
        "checkpoints/02-second/checkpoint-3/method.json",
    ],
)
def test_a_damaged_file_is_named(
    refused: Refused, run: Path, file: str, damage: Callable[[Path], None], words: str
) -> None:
    damage(run / file)
    refused(run, run / file, words)


@pytest.mark.parametrize("folder", ["tasks/01-first", "tasks/01-first/model", "state/01-first", "state"])
def test_a_missing_folder_is_named(refused: Refused, run: Path, folder: str) -> None:
    rmtree(run / folder)
    refused(run, run / folder, "is missing")


def test_a_damaged_checkpoint_may_be_deleted(
    stockpot: Stockpot, refused: Refused, run: Path, half: tuple[Path, Unbroken]
) -> None:
    checkpoint = run / "checkpoints" / "02-second" / "checkpoint-3"
    flip(checkpoint / "model.safetensors")
    refused(run, f"Or delete {checkpoint}, and the task is learnt again from its start")
    rmtree(checkpoint)
    assert stockpot("resume", run, root=run).code == 0
    same(run, half[1].run)


@pytest.mark.parametrize("line", range(1, 4))
def test_an_edited_line_of_the_journal_is_named(refused: Refused, run: Path, line: int) -> None:
    file = run / "journal.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[line - 1] = lines[line - 1].replace("0", "1", 1)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    refused(run, f"{file}: line {line} was edited")


@pytest.mark.parametrize("line", ["", "[]", "[1]", "7", "null", "{}", "\x00\x01", "{" * 100_000, '{"sum": 1}', "\xff"])
def test_a_line_that_is_no_event_is_named(refused: Refused, run: Path, line: str) -> None:
    file = run / "journal.jsonl"
    with file.open("ab") as journal_file:
        journal_file.write(line.encode("latin-1") + b"\n")
    refused(run, f"{file}: line {len(file.read_bytes().splitlines())} ")


def test_a_line_that_is_gone_is_noticed(refused: Refused, run: Path) -> None:
    file = run / "journal.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([lines[0], *lines[2:]]) + "\n", encoding="utf-8")
    refused(run, f"{file}: line 2 was edited")


def test_half_a_last_line_is_as_if_it_had_not_happened(
    stockpot: Stockpot, run: Path, half: tuple[Path, Unbroken]
) -> None:
    file = run / "journal.jsonl"
    truncate(file)
    assert stockpot("resume", run, root=run).code == 0
    same(run, half[1].run)


def test_half_a_line_of_a_task_loses_nothing(refused: Refused, unbroken: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    copytree(unbroken(**PLAIN).run, run)
    truncate(run / "journal.jsonl")  # what the task before it left has been deleted since
    refused(run, run / "state" / "02-second", "is missing")


def test_an_edited_recipe_is_refused_and_a_missing_one_put_back(
    stockpot: Stockpot, refused: Refused, run: Path, half: tuple[Path, Unbroken]
) -> None:
    text = (run / "recipe.yaml").read_text(encoding="utf-8")
    for new in (text.replace("0.01", "0.02"), "", "\ufeff", text + "#"):
        (run / "recipe.yaml").write_text(new, encoding="utf-8")
        refused(run, f"{run / 'recipe.yaml'}: edited since the run was created")
    (run / "recipe.yaml").write_bytes(b"\xff\xfe")
    refused(run, f"{run / 'recipe.yaml'}: edited since the run was created")
    (run / "recipe.yaml").unlink()
    assert stockpot("resume", run, root=run).code == 0
    same(run, half[1].run)


@pytest.mark.parametrize("content", [None, b"", b'{"step": 1}\n', b"\x80\x04pickle\n", b"no line"])
def test_a_foreign_folder_is_left_alone(
    refuse: Refuse, refused: Refused, tmp_path: Path, content: bytes | None
) -> None:
    folder = tmp_path / "thesis"
    (folder / "tasks" / ".tmp-notes").mkdir(parents=True)
    (folder / "tasks" / ".tmp-notes" / "text").write_text("years of work")
    (folder / "recipe.yaml").write_text("soup")
    if content is not None:
        (folder / "journal.jsonl").write_bytes(content)
    refused(folder, folder)
    before = tree(folder)
    assert str(folder) in refuse("run", write(tmp_path / "recipe.yaml", recipe()), "-o", folder)
    refuse("add", folder, write(tmp_path / "task.yaml", TASKS[0]))
    assert tree(folder) == before


def test_a_run_is_not_begun_over_another(refuse: Refuse, run: Path, tmp_path: Path) -> None:
    before = tree(run)
    error = refuse("run", write(tmp_path / "recipe.yaml", recipe()), "-o", run)
    assert f"{run}: there is already a run here; continue it with `stockpot resume {run}`" in error
    assert tree(run) == before


@pytest.mark.parametrize("name", ["missing", "file", "file/below"])
def test_a_path_that_is_no_folder_is_named(refuse: Refuse, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("text")
    assert str(tmp_path / name) in refuse("resume", tmp_path / name)
    if name != "missing":
        error = refuse("run", write(tmp_path / "r.yaml", recipe()), "-o", tmp_path / name)
        assert str(tmp_path / "file") in error


def test_another_schema_is_named(refused: Refused, run: Path) -> None:
    forge(run, lambda events: events[0].update(schema=2))
    refused(run, "its journal has schema 2, this version of Stockpot reads 1")


def test_data_that_changed_are_named(refused: Refused, run: Path) -> None:
    forge(run, lambda events: events[0]["data"]["third"].update(fingerprint="0" * 16))
    refused(run, "task 'third': the data at digits changed since the run was created")


@pytest.mark.parametrize("place", ["tasks/01-first/model", "checkpoints/02-second/checkpoint-3", "state/01-first"])
@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "pytorch_model.bin", "adapter_config.json"])
def test_a_planted_pickle_is_never_loaded(refused: Refused, run: Path, tmp_path: Path, place: str, name: str) -> None:
    file = run / place / name
    existed = file.exists()
    file.write_bytes(bomb(tmp_path / "exploded"))
    refused(run, file, "the journal records" if existed else "is not in the journal")
    assert not (tmp_path / "exploded").exists()


class _Bomb:
    def __init__(self, fuse: Path) -> None:
        self.fuse = fuse

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.fuse,)


def bomb(fuse: Path) -> bytes:
    """A pickle that touches a file when it is loaded."""
    return pickle.dumps(_Bomb(fuse))


def test_the_bomb_would_explode(tmp_path: Path) -> None:
    pickle.loads(bomb(tmp_path / "exploded"))
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_forged_checkpoint_is_never_loaded(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, name: str
) -> None:
    run = tmp_path / "run"
    whole = unbroken(tasks=TASKS[:1], method={"name": "sequential"})
    fault = {"do": "kill", "kind": "step", "at": 5}
    assert stockpot("run", whole.file, "-o", run, root=run, fault=fault).code == -9
    file = run / "checkpoints" / "01-first" / "checkpoint-3" / name
    torch.save(_Bomb(tmp_path / "exploded"), file)
    facts = {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    forge(run, lambda events: events[-1]["files"].update({name: facts}))
    done = stockpot("resume", run, root=run)
    assert done.code == 2
    assert str(run / "checkpoints") in done.error
    assert "it holds a pickle of more than tensors" in done.error
    assert not (tmp_path / "exploded").exists()


def test_a_forged_journal_leads_nowhere_outside(
    stockpot: Stockpot, refused: Refused, run: Path, tmp_path: Path, half: tuple[Path, Unbroken]
) -> None:
    outside = tmp_path / "outside"
    copytree(run / "checkpoints" / "02-second", outside)
    before = tree(outside)
    hidden = {"bytes": 0, "sha256": ""}

    def lead_away(events: list[dict[str, Any]]) -> None:
        events[-1].update(folder="../outside/checkpoint-3")
        events[-1]["files"]["../../../../outside/checkpoint-3/model.safetensors"] = hidden

    forge(run, lead_away)
    refused(run, "is missing, although the journal records it")
    forge(run, lambda events: events[-1]["files"].popitem())
    assert stockpot("resume", run, root=run).code == 0
    same(run, half[1].run)
    assert tree(outside) == before


@pytest.mark.parametrize("name", ["../../outside", "a/b", "/etc", ".."])
def test_a_forged_task_leads_nowhere_outside(refused: Refused, run: Path, name: str) -> None:
    def lead_away(events: list[dict[str, Any]]) -> None:
        events[0]["recipe"]["tasks"][0]["name"] = name
        events[0]["data"][name] = events[0]["data"]["first"]

    forge(run, lead_away)
    refused(run, "tasks.0.name")


@pytest.mark.parametrize("step", ["../../../../outside", -1, None])
def test_a_forged_step_leads_nowhere_outside(stockpot: Stockpot, run: Path, tmp_path: Path, step: object) -> None:
    copytree(run / "checkpoints" / "02-second" / "checkpoint-3", tmp_path / "outside")
    before = tree(tmp_path / "outside")
    forge(run, lambda events: events[-1].update(step=step))
    stockpot("resume", run, root=run)
    assert tree(tmp_path / "outside") == before


@pytest.mark.parametrize(
    "place",
    ["checkpoints/02-second", "checkpoints", "tasks/01-first", "state", ".tmp-results.json", "journal.jsonl",
     "tasks/00-start/model/model.safetensors"],
)  # fmt: skip
def test_a_link_is_refused_and_what_it_points_to_is_left(
    refused: Refused, run: Path, tmp_path: Path, place: str
) -> None:
    outside = tmp_path / "outside"
    link = run / place
    if link.exists():
        link.rename(outside)
    else:
        outside.write_text("precious")
    link.symlink_to(outside)
    before = tree(tmp_path / "outside") if outside.is_dir() else outside.read_bytes()
    refused(run, f"{link} is a link")
    assert (tree(tmp_path / "outside") if outside.is_dir() else outside.read_bytes()) == before


@pytest.mark.parametrize("model", [{"build": "planted:model"}, {"name": "PLANTED", "trust_remote_code": True}])
def test_code_that_a_foreign_run_names_is_not_imported(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, model: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    whole = unbroken(**PLAIN)
    fault = {"do": "kill", "kind": "evaluate", "at": 1}  # before the first model is there
    assert stockpot("run", whole.file, "-o", run, root=run, fault=fault).code == -9
    folder = tmp_path / "planted"
    folder.mkdir()
    code = f"open({str(tmp_path / 'exploded')!r}, 'w')\n"
    (folder / "planted.py").write_text(code)
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "planted.C"}, "model_type": "planted"}))
    model = {**model, "name": str(folder)} if "name" in model else model

    def plant(events: list[dict[str, Any]]) -> None:
        events[0]["recipe"]["model"] = model

    forge(run, plant)
    (run / "recipe.yaml").unlink()
    done = stockpot("resume", run, root=run, path=folder)
    assert done.code == 2
    assert "add --allow-code to import it" in done.error
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("damage", [truncate, flip])
@pytest.mark.parametrize("place", ["00-start", "01-first", "02-second"])
def test_an_added_task_needs_whole_models(
    refuse: Refuse, unbroken: Make, tmp_path: Path, place: str, damage: Callable[[Path], None]
) -> None:
    run = tmp_path / "run"
    copytree(unbroken(**PLAIN, tasks=TASKS[:2]).run, run)
    damage(run / "tasks" / place / "model" / "model.safetensors")
    before = tree(run)
    error = refuse("add", run, write(tmp_path / "task.yaml", task("fourth", 6, 7)))
    assert str(run / "tasks" / place / "model" / "model.safetensors") in error
    assert tree(run) == before
