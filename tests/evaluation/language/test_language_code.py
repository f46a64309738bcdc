"""pass@k against enumeration, programs against what they are worth, and what a program may not do."""

from __future__ import annotations

import time
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stockpot.errors import StockpotError
from stockpot.evaluation.language import code
from stockpot.evaluation.language.code import pass_at_k, program
from stockpot.evaluation.language.measure import measure
from stockpot.evaluation.language.sandbox import Limits, passes
from stockpot.evaluation.spec import PassAtK
from stockpot.streams.examples import TokenExamples
from stockpot.streams.text.part import TextPart

NOTHING = TokenExamples(torch.tensor([0]).int(), torch.tensor([1]), torch.tensor([1]).int())
QUICK = Limits(seconds=3.0)


@pytest.mark.parametrize("n", [1, 3, 6])
def test_pass_at_k_is_the_share_of_draws_with_a_program_that_passes(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            draws = list(combinations([index < c for index in range(n)], k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def part(rows: list[dict[str, Any]]) -> TextPart:
    return TextPart("code", NOTHING, 1, ["write"] * len(rows), ["x"] * len(rows), rows)


def test_programs_are_what_begins_what_is_written_and_the_tests() -> None:
    mbpp = {"test_list": ["assert f(1) == 2", "assert f(2) == 3"]}
    assert program(PassAtK(), mbpp, "def f(x):\n    return x + 1") == (
        "def f(x):\n    return x + 1\nassert f(1) == 2\nassert f(2) == 3\n"
    )
    human = {"prompt": "def f(x):\n", "test": "def check(g):\n    assert g(1) == 2", "entry_point": "f"}
    spec = PassAtK(tests="test", entry_point="entry_point", begin="prompt", stop=["\nprint", "\ndef"])
    assert program(spec, human, "    return x + 1\ndef h(): 0\nprint(3)") == (
        "def f(x):\n    return x + 1\ndef check(g):\n    assert g(1) == 2\ncheck(f)\n"
    )
    assert program(PassAtK(), {"test_list": "pass"}, "Sure:\n```python\nx = 1\n```\nDone.") == "x = 1\npass\n"


def test_the_score_is_the_mean_of_pass_at_k(monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = "f = lambda x: x + 1", "f = lambda x: x"
    written = [[right, wrong, wrong], [wrong, wrong, wrong], [right, right, "f = ("]]
    monkeypatch.setattr(code, "continuations", lambda *_a, **_k: written)
    spec = PassAtK(run_code=True, k=2, samples=3)
    rows = [{"test_list": ["assert f(1) == 2"]}] * 3
    found = measure([spec], nn.Linear(1, 1), None, part(rows), 1, allow_code=True)
    assert found == {"pass@2": pytest.approx((2 / 3 + 0 + 1) / 3)}


@pytest.mark.parametrize(("run_code", "allowed"), [(False, False), (False, True), (True, False)])
def test_nothing_runs_without_consent_given_twice(
    run_code: bool, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "passes", lambda *_a: pytest.fail("a program was run"))
    monkeypatch.setattr(code, "continuations", lambda *_a, **_k: [["x"]])
    with pytest.raises(StockpotError, match=r"runs programs") as caught:
        measure([PassAtK(run_code=run_code)], nn.Linear(1, 1), None, part([{"test_list": []}]), 1, allow_code=allowed)
    assert ("run_code: true" in str(caught.value)) == (not run_code)
    assert ("--run-code" in str(caught.value)) == (not allowed)


def test_missing_columns_are_named_or_leave_the_cell_empty() -> None:
    given = part([{"tests": ["pass"]}])
    keys: dict[str, Any] = {"run_code": True, "tests": "test"}
    assert measure([PassAtK(**keys)], nn.Linear(1, 1), None, given, 1, allow_code=True) == {"pass@1": None}
    with pytest.raises(StockpotError, match=r"no column 'test'\. Did you mean 'tests'"):
        measure([PassAtK(**keys, tasks=["code"])], nn.Linear(1, 1), None, given, 1, allow_code=True)


def test_only_a_program_that_reaches_its_end_passes() -> None:
    assert passes("assert 1 + 1 == 2", QUICK)
    assert passes("import math, re, collections, heapq, itertools, functools\nprint('x' * 10**6)", QUICK)
    assert not passes("assert 1 + 1 == 3", QUICK)
    assert not passes("def f(:", QUICK)
    assert not passes("import sys; sys.exit(0)\nassert False", QUICK)
    assert not passes("import os; os._exit(0)\nassert False", QUICK)


def test_what_is_said_at_the_end_cannot_be_read_off_the_command_line() -> None:
    forged = (
        "import os\nlast = open('/proc/self/cmdline', 'rb').read().split(b'\\0')[-2]\n"
        "for number in range(20):\n"
        "    try:\n        os.write(number, last)\n    except OSError:\n        pass\nos._exit(0)"
    )
    assert not passes(forged, QUICK)


def test_an_endless_loop_is_killed_within_the_limit() -> None:
    assert not passes("while True: pass", Limits(seconds=1.0))
    assert not passes("import time; time.sleep(60)", Limits(seconds=1.0))  # it would pass after a minute


def test_memory_is_limited() -> None:
    claim = "held = bytearray({} * 2**20)"
    assert passes(claim.format(100), Limits(memory=512 * 2**20))
    assert not passes(claim.format(600), Limits(memory=512 * 2**20))


def test_files_are_limited_and_only_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write = "import os\nassert os.listdir() == []\nwith open({!r}, 'wb') as file: file.write(bytes({}))"
    assert passes(write.format("out", 1000), Limits(file=2000))
    assert not passes(write.format("out", 3000), Limits(file=2000))
    outside = tmp_path / "outside"
    assert not passes(write.format(str(outside), 10), QUICK)
    assert not outside.exists()
    outside.write_text("kept")
    assert not passes(f"import os\nos.remove({str(outside)!r})", QUICK)
    assert not passes(f"import os\nos.truncate({str(outside)!r}, 0)", QUICK)
    assert outside.read_text() == "kept"


def test_the_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert passes("open('left', 'w').write('x')", QUICK)
    assert list(tmp_path.iterdir()) == []


def test_the_environment_is_empty_and_there_is_nothing_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    # Python itself sets LC_CTYPE in the C locale.
    assert passes("import os\nassert set(os.environ) <= {'LC_CTYPE'}, os.environ", QUICK)
    assert passes("import sys\nassert sys.argv == ['program.py'] and sys.stdin.read() == ''", QUICK)
    assert not passes("input()", QUICK)


@pytest.mark.parametrize(
    "line",
    [
        "os.fork()",
        "os.system('true')",
        "os.kill(os.getppid(), 0)",
        "subprocess.run(['true'])",
        "socket.socket()",
        "os.posix_spawn('/bin/true', ['true'], {})",
    ],
)
def test_processes_signals_and_sockets_are_refused(line: str) -> None:
    assert passes(
        f"import os, subprocess, socket\ntry:\n    {line}\nexcept PermissionError:\n    pass\nelse:\n    1/0", QUICK
    )


def test_what_native_code_starts_dies_with_the_program() -> None:
    # Around the audit hook; as an ordinary user the kernel refuses this too.
    native = (
        "import ctypes, os, time\n"
        "child = ctypes.CDLL(None).fork()\n"
        "if child == 0:\n    time.sleep(30)\n    os._exit(0)\n"
        "time.sleep({})\n"
    )
    before = _sleepers()
    assert not passes(native.format(30), Limits(seconds=1.0))
    passes(native.format(0), QUICK)
    for _ in range(50):
        if _sleepers() <= before:
            break
        time.sleep(0.05)
    assert _sleepers() <= before


def _sleepers() -> set[str]:
    """Live processes that run the sandbox's child."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if b"program.py" in (entry / "cmdline").read_bytes() and state != "Z":
                found.add(entry.name)
        except OSError:
            continue
    return found
