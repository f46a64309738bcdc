"""NaN, infinity and overflow in inputs and results of a merge."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import model, random_model, refusal
from safetensors.torch import load_file, save_file

from stockpot import StockpotError
from stockpot.merging.api import Options, merge
from stockpot.merging.rules import RULES


@pytest.mark.parametrize(
    ("value", "threads"),
    [
        (math.nan, 1), (math.inf, 1), (-math.inf, 1), (math.nan, 3),
        # The same code checks every element for any number of threads: the other values prove nothing more.
        pytest.param(math.inf, 3, marks=pytest.mark.thorough),
        pytest.param(-math.inf, 3, marks=pytest.mark.thorough),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "fisher"])
def test_nan_and_infinity_in_any_one_input_are_reported_with_the_tensor_and_the_input(
    tmp_path: Path, three: list[Path], rule: str, value: float, threads: int
) -> None:
    """Only an input that the rule does not read may hold them: a base that only replaces missing tensors."""
    contract = RULES[rule]
    models = three[: contract.most or 2]
    for bad in (*models, three[2]):
        before = (bad / "model.safetensors").read_bytes()
        state = load_file(bad / "model.safetensors")
        state["a.weight"][4, 1] = value
        save_file(state, bad / "model.safetensors")
        if bad == three[2] and contract.base == "optional" and contract.of == "weights":
            merged = merge(rule, models, base=three[2])
            assert isinstance(merged, dict)
            assert all(bool(tensor.isfinite().all()) for tensor in merged.values())
        else:
            message = refusal(tmp_path, rule, models, base=three[2], options=Options(threads=threads))
            assert "tensor 'a.weight'" in message
            blamed = message.rpartition(" in ")[2]
            assert str(bad) in blamed
            assert not any(str(other) in blamed for other in three if other != bad)
        (bad / "model.safetensors").write_bytes(before)


@pytest.mark.parametrize("rule", ["ties", "dare_ties", "dare_linear", "breadcrumbs", "breadcrumbs_ties", "della"])
@pytest.mark.parametrize("trim", ["model", "tensor"])
@pytest.mark.parametrize("many", [1, 20])
def test_what_drops_elements_never_drops_nan(
    tmp_path: Path, three: list[Path], rule: str, trim: str, many: int
) -> None:
    state = load_file(three[0] / "model.safetensors")
    state["a.weight"].view(-1)[:many] = math.nan
    save_file(state, three[0] / "model.safetensors")
    density: dict[str, Any] = {"density": 0.1} | ({"epsilon": 0.05} if rule == "della" else {})
    with pytest.raises(StockpotError, match=f"'a.weight' would hold nan at element 0: NaN or infinity in {three[0]}"):
        merge(rule, three[:2], base=three[2], trim=trim, **density)
    merged = merge(rule, three[:2], base=three[2], trim=trim, options=Options(allow_nonfinite=True), **density)
    assert isinstance(merged, dict)
    assert bool(merged["a.weight"].view(-1)[:many].isnan().all())


def test_a_model_of_weight_zero_does_not_hide_its_nan(tmp_path: Path, three: list[Path]) -> None:
    bad = random_model(tmp_path / "bad", 5, b_weight=torch.full((5,), math.nan))
    for rule in ("linear", "task_arithmetic", "ties", "dare_ties"):
        assert str(bad) in refusal(tmp_path, rule, [three[0], bad], base=three[2], weight=[1, 0])


def test_a_rule_that_is_told_not_to_use_an_input_may_leave_its_nan_out(tmp_path: Path, three: list[Path]) -> None:
    """λ=0 is the base and α=1 the model, bit for bit: the other one does not enter the result."""
    bad = random_model(tmp_path / "bad", 5, b_weight=torch.full((5,), math.nan))
    merged = merge("ties", [bad], base=three[2], lambda_=0)
    assert isinstance(merged, dict)
    assert torch.equal(merged["b.weight"], load_file(three[2] / "model.safetensors")["b.weight"])
    merged = merge("wise_ft", [three[0]], base=bad, alpha=1)
    assert isinstance(merged, dict)
    assert torch.equal(merged["b.weight"], load_file(three[0] / "model.safetensors")["b.weight"])


def test_nan_in_a_fisher_is_reported_with_the_fisher(tmp_path: Path, three: list[Path]) -> None:
    fishers = []
    for number, value in enumerate((1.0, math.nan)):
        file = tmp_path / f"fisher{number}.safetensors"
        save_file({"b.weight": torch.full((5,), value)}, file)
        file.with_suffix(".json").write_text("{}")
        fishers.append(str(file))
    message = refusal(tmp_path, "fisher", three[:2], fisher=fishers)
    assert "tensor 'b.weight'" in message
    assert "fisher1.safetensors" in message
    assert "fisher0.safetensors" not in message


@pytest.mark.parametrize(
    ("dtype", "large"), [("float16", 70_000.0), ("float8_e5m2", 70_000.0), ("float8_e4m3fn", 500.0), ("float32", 1e39)]
)
def test_a_result_that_the_output_cannot_hold_is_refused_and_never_infinite(
    tmp_path: Path, dtype: str, large: float
) -> None:
    models = [model(tmp_path / name, w=torch.tensor([1.0, large], dtype=torch.float64)) for name in ("one", "two")]
    message = refusal(tmp_path, "linear", models, dtype=dtype)
    assert "tensor 'w' would hold" in message
    assert "at element 1" in message
    assert "cannot hold the result" in message


def test_what_f8_e4m3_cannot_hold_is_refused_and_not_made_its_largest_number(tmp_path: Path) -> None:
    """torch turns both 500 and infinity into 448; 464 rounds to it."""
    most = model(tmp_path / "most", w=torch.tensor([464.0, -464.0]), n=torch.ones(2))
    for rule, base in (("linear", None), ("passthrough", None), ("ties", most)):
        merged = merge(rule, [most], base=base, dtype="float8_e4m3fn")
        assert isinstance(merged, dict)
        assert merged["w"].float().tolist() == [448.0, -448.0]
    for value in (465.0, 1e30, math.inf, -math.inf, math.nan):
        bad = model(tmp_path / f"{value}", w=torch.tensor([1.0, value]), n=torch.ones(2))
        for rule, base in (("linear", None), ("passthrough", None), ("ties", most), ("ties", bad)):
            assert "tensor 'w' would hold nan" in refusal(tmp_path, rule, [bad], base, dtype="float8_e4m3fn")
        # Also where the tensor is only copied.
        without = model(tmp_path / "without", n=torch.ones(2))
        message = refusal(tmp_path, "task_arithmetic", [without], bad, dtype="float8_e4m3fn", on_missing="skip")
        assert "tensor 'w' would hold nan at element 1" in message
