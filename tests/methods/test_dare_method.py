"""DARE: whole elements of each vector are kept or dropped; without drops it is Task Arithmetic, or TIES."""

from __future__ import annotations

from pathlib import Path

import torch
from merging_by_hand import parallel, run
from toy import assert_close, assert_same, copied, network, seed

import stockpot
from stockpot.seeds import derive


def test_dare_keeps_or_drops_whole_elements_of_each_vector(tmp_path: Path) -> None:
    start, models, density = copied(network()), parallel()[:2], 0.25
    learnt = run("dare", tmp_path / "a", density=density, scale=0.5)
    kept = 0
    for name, tensor in learnt.weights[2].items():
        one, two = ((model[name] - start[name]) / density for model in models)
        change = (tensor - start[name]) / 0.5
        could = torch.stack([torch.zeros_like(one), one, two, one + two])
        which = (could - change).abs().argmin(0)
        torch.testing.assert_close(could.gather(0, which[None])[0], change, rtol=0, atol=1e-12)
        kept += int(((which == 1) | (which == 3)).sum() + ((which == 2) | (which == 3)).sum())
    elements = 2 * sum(tensor.numel() for tensor in start.values())
    assert abs(kept / elements - density) < 4 * (density * (1 - density) / elements) ** 0.5
    merged = stockpot.merge("dare_linear", models, start, density=density, lambda_=0.5, seed=derive(seed(1), "dare"))
    assert_close(learnt.weights[2], merged)


def test_dare_that_drops_nothing_is_task_arithmetic_or_ties(tmp_path: Path) -> None:
    for one, other in (({}, ("task_arithmetic", {})), ({"elect": True}, ("ties", {"density": 1.0}))):
        name = other[0]
        learnt = run("dare", tmp_path / f"dare-{name}", density=1.0, **one)
        assert_same(learnt.weights[3], run(name, tmp_path / name, **other[1]).weights[3])
