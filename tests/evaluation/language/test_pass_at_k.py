"""pass@k against enumeration, programs against what they are worth, and the consent that running them needs."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from scoring import measured
from torch import nn

from stockpot.batches.token_examples import TokenExamples
from stockpot.errors import StockpotError
from stockpot.evaluation.scores import pass_at_k as module
from stockpot.evaluation.scores.lm_eval import LmEval
from stockpot.evaluation.scores.pass_at_k import PassAtK, pass_at_k, program_text
from stockpot.streams.text.part import TextPart

NOTHING = TokenExamples(torch.tensor([0]).int(), torch.tensor([1]), torch.tensor([1]).int())


@pytest.fixture(autouse=True)
def _anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKPOT_RUN_CODE_UNSANDBOXED", "1")  # also where there is no sandbox


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
    assert program_text(PassAtK(), mbpp, "def f(x):\n    return x + 1") == (
        "def f(x):\n    return x + 1\nassert f(1) == 2\nassert f(2) == 3\n"
    )
    human = {"prompt": "def f(x):\n", "test": "def check(g):\n    assert g(1) == 2", "entry_point": "f"}
    spec = PassAtK(tests="test", entry_point="entry_point", begin="prompt", stop=["\nprint", "\ndef"])
    assert program_text(spec, human, "    return x + 1\ndef h(): 0\nprint(3)") == (
        "def f(x):\n    return x + 1\ndef check(g):\n    assert g(1) == 2\ncheck(f)\n"
    )
    assert program_text(PassAtK(), {"test_list": "pass"}, "Sure:\n```python\nx = 1\n```\nDone.") == "x = 1\npass\n"


def test_the_score_is_the_mean_of_pass_at_k(monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = "f = lambda x: x + 1", "f = lambda x: x"
    written = [[right, wrong, wrong], [wrong, wrong, wrong], [right, right, "f = ("]]
    monkeypatch.setattr(module, "continuations", lambda *_a, **_k: written)
    spec = PassAtK(run_code=True, k=2, samples=3)
    rows = [{"test_list": ["assert f(1) == 2"]}] * 3
    values = measured([spec], nn.Linear(1, 1), None, part(rows), 1, allow_code=True)
    assert values == {"pass@2": pytest.approx((2 / 3 + 0 + 1) / 3)}


@pytest.mark.parametrize(("run_code", "allowed"), [(False, False), (False, True), (True, False)])
def test_nothing_runs_without_consent_given_twice(
    run_code: bool, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "passes", lambda *_a: pytest.fail("a program was run"))
    monkeypatch.setattr(module, "continuations", lambda *_a, **_k: [["x"]])
    with pytest.raises(StockpotError, match=r"runs programs") as caught:
        measured([PassAtK(run_code=run_code)], nn.Linear(1, 1), None, part([{"test_list": []}]), 1, allow_code=allowed)
    assert ("run_code: true" in str(caught.value)) == (not run_code)
    assert ("--run-code" in str(caught.value)) == (not allowed)


def test_missing_columns_are_named_or_leave_the_cell_empty() -> None:
    without_tests = part([{"tests": ["pass"]}])
    keys: dict[str, Any] = {"run_code": True, "tests": "test"}
    assert measured([PassAtK(**keys)], nn.Linear(1, 1), None, without_tests, 1, allow_code=True) == {"pass@1": None}
    with pytest.raises(StockpotError, match=r"no column 'test'\. Did you mean 'tests'"):
        measured([PassAtK(**keys, tasks=["code"])], nn.Linear(1, 1), None, without_tests, 1, allow_code=True)


@pytest.mark.parametrize("unsandboxed", [False, True])
def test_programs_of_the_harness_which_no_sandbox_confines_need_the_consent_for_that(
    unsandboxed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOCKPOT_RUN_CODE", "1")
    monkeypatch.setenv("STOCKPOT_RUN_CODE_UNSANDBOXED", str(int(unsandboxed)))
    monkeypatch.setattr("stockpot.evaluation.scores.lm_eval.run_harness", lambda *arguments: float(arguments[-1]))
    spec = LmEval(name="lm_eval", task="humaneval", metric="pass@1", tasks=["code"])
    assert measured([spec], nn.Linear(1, 1), None, part([]), 1, allow_code=True) == {spec.title: float(unsandboxed)}
