"""TIES: the merge rule on models that were trained by hand, and the golden example of the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from merging_by_hand import Vector, added, parallel, run, steps
from toy import assert_close, config

import stockpot


@pytest.mark.parametrize("trim", ["model", "tensor"])
def test_ties_is_the_merge_rule_on_models_trained_by_hand(trim: str, tmp_path: Path) -> None:
    learnt, models = run("ties", tmp_path, trim=trim, density=0.3, scale=0.8), parallel()
    merged = stockpot.merge("ties", models, learnt.weights[0], trim=trim, density=0.3, lambda_=0.8)
    assert_close(learnt.weights[3], merged)
    other = stockpot.merge("ties", models, learnt.weights[0], trim={"model": "tensor", "tensor": "model"}[trim],
                           density=0.3, lambda_=0.8)  # fmt: skip
    assert max(float((merged[key] - other[key]).abs().max()) for key in merged) > 1e-2
    usual = stockpot.merge("ties", models, learnt.weights[0], density=0.2)
    assert_close(run("ties", tmp_path / "default").weights[3], usual)


def test_ties_gives_the_golden_example_of_the_reference(tmp_path: Path) -> None:
    start = Vector(torch.zeros(5, dtype=torch.float64))
    vectors = [[1, -0.2, 0.5, 0, -3], [-0.4, -0.6, 0.7, 0.1, 1], [0.3, 0.9, -0.9, 0, 2.5]]
    found = steps(config("ties", density=0.6), tmp_path, start, [added(vector) for vector in vectors])
    expected = torch.tensor([1, 0.9, 0.6, 0, 1.75], dtype=torch.float64)
    torch.testing.assert_close(found.models[2].weight.data, expected, rtol=1e-14, atol=1e-15)
