"""What reaches a terminal: no escape codes of others, nothing that its encoding lacks, one line where it is full."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import stockpot
from stockpot.cli.console import fail, say, show
from stockpot.printing import SPELT, escape_controls

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (ESCAPE, SHOWN), ("a\rb", r"a\rb"), ("\u202egnp.exe", r"\u202egnp.exe"), ("\udcff", r"\udcff"), ("\0", r"\x00"),
        ("a\nb\tc", "a\nb\tc"), ("größe β 日本 👩‍💻", "größe β 日本 👩‍💻"), (r"\x1b", r"\x1b"),
    ],
)  # fmt: skip
def test_what_steers_a_terminal_is_shown(text: str, shown: str) -> None:
    assert escape_controls(text) == shown
    assert escape_controls(escape_controls(text)) == shown


def test_on_one_line_ends_of_lines_are_shown_too() -> None:
    assert escape_controls("a\nError: b\u2028c", lines=False) == r"a\nError: b\u2028c"


def test_what_an_encoding_lacks_is_spelt() -> None:
    assert "θ ← (1−β)·θ ± ½ Σ …".encode("ascii", SPELT) == b"theta <- (1-beta)*theta +/- 1/2 Sigma ..."
    assert "日".encode("ascii", SPELT) == rb"\u65e5"


def test_all_three_ways_to_the_terminal_are_harmless(capfd: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    table = Table(title=f"[red]title {ESCAPE}")
    table.add_column(f"[bold]{ESCAPE}")
    table.add_row(f"[link=http://x]{ESCAPE}[/link]")
    table.add_row(":smile:")
    say(f"say {ESCAPE}")
    show(table)
    fail(f"fail {ESCAPE}\nnext")
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err
    assert "\x07" not in out + err
    assert err == f"Error: fail {SHOWN} next\n"
    assert f"say {SHOWN}\n" in out
    assert "[red]title" in out
    assert "[bold]" in out
    assert ":smile:" in out


def test_what_libraries_say_is_harmless_too() -> None:
    import logging
    import warnings

    from stockpot.library_output import silence_libraries

    factory, formatted = logging.getLogRecordFactory(), warnings.formatwarning
    try:
        silence_libraries()
        record = logging.getLogger("theirs").makeRecord("theirs", logging.ERROR, "f", 1, "of %s", (ESCAPE,), None)
        assert logging.Formatter("%(message)s").format(record) == f"of {SHOWN}"
        assert f"of {SHOWN}" in warnings.formatwarning(f"of {ESCAPE}", UserWarning, "file", 1, "")
    finally:
        logging.setLogRecordFactory(factory)
        warnings.formatwarning = formatted


def test_nothing_prints_past_the_console() -> None:
    """`print`, rich's Console and the streams' `write` stand in the console alone, and where runs tell progress."""
    found = set()
    root = Path(stockpot.__file__).parent
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("print", "Console", "sys.stdout.write", "sys.stderr.write"):
                    found.add((file.relative_to(root).as_posix(), called))
    assert found == {
        ("cli/console.py", "sys.stdout.write"), ("cli/console.py", "sys.stderr.write"),
        ("runs/progress.py", "sys.stderr.write"),
    }  # fmt: skip


def test_names_in_checkpoints_cannot_steer_the_terminal(stockpot: Callable[..., Any], tmp_path: Path) -> None:
    name = f"layers.0.{ESCAPE}[red].weight"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_file(
            {name: torch.ones(2), f"only_{folder}{ESCAPE}": torch.ones(1)}, tmp_path / folder / "model.safetensors"
        )
        (tmp_path / folder / "config.json").write_text(json.dumps({"model_type": ESCAPE, "architectures": [ESCAPE]}))
    for arguments in (["inspect", "a"], ["inspect", "--all", "a"], ["inspect", "a", "b"], ["inspect", "--json", "a"],
                      ["merge", "linear", "a", "b"], ["merge", "linear", "a", "b", "--dry-run"]):  # fmt: skip
        paths = [str(tmp_path / word) if word in "ab" else word for word in arguments]
        done = stockpot(*paths, *(["-o", tmp_path / "out"] if arguments[0] == "merge" else []))
        assert not {"\x1b", "\x07", "\x9b"} & set(done.out + done.err), arguments
        assert "owned" in done.out + done.err, arguments


def test_an_adapters_configuration_cannot_either(stockpot: Callable[..., Any], tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": ESCAPE, "target_modules": ESCAPE}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    tensors = {f"base_model.model.q{ESCAPE}.lora_{side}.weight": torch.ones(1, 1) for side in "AB"}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    for arguments in (["inspect", tmp_path], ["merge", "linear", tmp_path, "-o", tmp_path / "out"]):
        done = stockpot(*arguments)
        assert not {"\x1b", "\x07", "\x9b"} & set(done.out + done.err)


@pytest.mark.parametrize(
    "recipe",
    [
        '"\\e[31mkey": 1', 'data: {"\\e[31mkey": 1}', 'tasks: [{name: "\\e[31m"}]', 'method: {name: "\\e[31m"}',
        'data: {classes: ["\\e[31m"]}', 'train: {"\\e[31m": 1}', 'metrics: ["\\e[31m"]', 'a: \x1b[31m',
    ],
)  # fmt: skip
def test_a_recipe_of_somebody_elses_cannot_either(
    recipe: str, finished: Path, stockpot: Callable[..., Any], tmp_path: Path
) -> None:
    lines = (finished / "recipe.yaml").read_text().splitlines(keepends=True)
    key = recipe.partition(":")[0]
    kept, skip = [], False
    for line in lines:
        skip = line.startswith(f"{key}:") or (skip and line.startswith((" ", "-")))
        kept += [] if skip else [line]
    (tmp_path / "recipe.yaml").write_text("".join(kept) + recipe + "\n", encoding="utf-8")
    done = stockpot("run", tmp_path / "recipe.yaml", "-o", tmp_path / "run")
    assert done.code == 2
    assert "\x1b" not in done.out + done.err
    assert done.err.count("\n") == 1


def _called(command: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`command` in a shell, in which "$@" is the command line with its arguments."""
    words = ["sh", "-c", command, "sh", sys.executable, "-m", "stockpot", *arguments]
    settings = {**os.environ, **environment}
    return subprocess.run(words, check=False, capture_output=True, text=True, timeout=120, env=settings)


@pytest.mark.parametrize("arguments", [["inspect", "model.safetensors"], ["rules", "ties"], ["--help"]])
def test_an_output_that_cannot_be_written_is_one_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"w": torch.ones(1)}, "model.safetensors")
    done = _called('"$@" > /dev/full', *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: the output")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1
    done = _called('"$@" >&-', *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("Error: the standard output is closed")


def test_a_reader_that_goes_away_is_no_mistake() -> None:
    done = _called('"$@" | true', "rules")
    assert done.stderr == ""


def test_an_encoding_without_letters_is_enough() -> None:
    done = _called('"$@"', "rules", "ties", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "tau" in done.stdout
    assert done.stdout.isascii()


def test_a_run_whose_results_cannot_be_shown_has_saved_them(
    finished: Path, stockpot: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        done = stockpot("report", finished / "run", "-o", tmp_path / "new")
    assert done.code == 2
    assert done.err == (
        "Error: the output could not be written: No space left on device; what was finished before is safe.\n"
    )
    assert (tmp_path / "new" / "report.html").is_file()
