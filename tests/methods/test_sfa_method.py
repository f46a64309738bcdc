"""SFA and WiSE-FT in a stream: the identities of the reference, and every choice of anchor, cadence and state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.optim import Optimizer
from toy import (
    LOOPS,
    STEPS,
    Train,
    Weights,
    assert_close,
    assert_same,
    averaged,
    by_hand,
    config,
    copied,
    differ,
    examples,
    learn,
    network,
    seed,
)

from stockpot.averaging.schedule import average_steps
from stockpot.batches.examples import TrainingData
from stockpot.errors import StockpotError
from stockpot.methods.sfa import SequentialFineTuningWithAveraging

pytestmark = pytest.mark.parametrize("loop", LOOPS)


def test_it_is_what_its_equation_says(loop: str, train: Train) -> None:
    """β = 0.3, p = 0.4: after steps 2 and 5 of 6, and at the end."""
    _, one, two = train("sfa", loop, {"beta": 0.3, "p": 0.4}).weights
    after = averaged(one, 0.3, [2, 5, 6])
    assert_close(two, by_hand(one, TrainingData.of(examples(1)), seed(1), after))


def test_sfa_at_the_end_only_is_wise_ft_bitwise(loop: str, tmp_path: Path) -> None:
    tasks = [examples(index) for index in range(3)]
    one = learn(config("sfa", beta=0.5, p=1.0), loop, tmp_path / "sfa", tasks=tasks)
    other = learn(config("wise_ft", alpha=0.5), loop, tmp_path / "wise", tasks=tasks)
    for sfa, wise in zip(one.weights, other.weights, strict=True):
        assert_same(sfa, wise)


@pytest.mark.parametrize(("name", "keys"), [("sfa", {"beta": 1.0}), ("wise_ft", {"alpha": 0.0})])
def test_all_weight_on_the_anchor_gives_the_previous_weights_back_bitwise(
    name: str, keys: dict[str, Any], loop: str, tmp_path: Path
) -> None:
    learnt = learn(config(name, **keys), loop, tmp_path / "skip", model=network(norm=True))
    for key, tensor in learnt.weights[2].items():
        if "num_batches_tracked" not in key:  # a counter, no weight
            assert torch.equal(tensor, learnt.weights[1][key])
    assert differ(learnt.weights[1], learnt.weights[0])
    from_start = learn(config(name, first_task="average", **keys), loop, tmp_path / "average")
    assert_same(from_start.weights[2], from_start.weights[0])


class Recorder(SequentialFineTuningWithAveraging):
    """Keeps what training left at the last step, before the average."""

    raw: Weights

    def after_step(self, model: torch.nn.Module, optimizer: Optimizer, step: int) -> None:
        self.raw = copied(model)
        super().after_step(model, optimizer, step)


@pytest.mark.parametrize("first", ["skip", "average"])
def test_tasks_add_up_as_the_reference_says(first: str, loop: str, tmp_path: Path) -> None:
    """p = 1: θ_K = θ_0 + c₁δ₁ + (1−β)Σδ_k, with c₁ = 1 where the first task is skipped."""
    beta, tasks = 0.3, [examples(index) for index in range(4)]
    learnt = learn(config("sfa", beta=beta, p=1.0, first_task=first), loop, tmp_path, tasks=tasks, build=Recorder)
    total = learnt.weights[0]
    for index, method in enumerate(learnt.methods):
        share = 1.0 if index == 0 and first == "skip" else 1 - beta
        start = learnt.weights[index]
        total = {key: tensor + share * (method.raw[key] - start[key]) for key, tensor in total.items()}
    assert_close(learnt.weights[-1], total, 1e-14)


def test_a_task_survives_with_its_power_when_the_anchor_is_the_pretrained_model(loop: str, tmp_path: Path) -> None:
    """p = 1, anchor θ_0: θ_K − θ_0 = Σ_j (1−β)^(K−j+1) δ_j, the first task averaged too."""
    beta, tasks = 0.3, [examples(index) for index in range(3)]
    method = config("sfa", beta=beta, p=1.0, first_task="average", anchor="pretrained")
    learnt = learn(method, loop, tmp_path, tasks=tasks, build=Recorder)
    total = learnt.weights[0]
    for index, active in enumerate(learnt.methods):
        start, share = learnt.weights[index], (1 - beta) ** (len(tasks) - index)
        total = {key: tensor + share * (active.raw[key] - start[key]) for key, tensor in total.items()}
    assert_close(learnt.weights[-1], total, 1e-14)


@pytest.mark.parametrize(
    ("keys", "steps"),
    [({"p": 0.25}, [2, 3, 5, 6]), ({"p": 0.01}, [1, 2, 3, 4, 5, 6]), ({"every": 4}, [4, 6]), ({"every": 3}, [3, 6]),
     ({"every": 100}, [6]), ({}, [2, 3, 5, 6])],
)  # fmt: skip
def test_averages_come_when_the_cadence_says(keys: dict[str, Any], steps: list[int], loop: str, tmp_path: Path) -> None:
    learnt = learn(config("sfa", beta=0.3, **keys), loop, tmp_path)
    first = learnt.weights[1]
    assert_close(learnt.weights[2], by_hand(first, TrainingData.of(examples(1)), seed(1), averaged(first, 0.3, steps)))
    assert learnt.methods[1].costs.averages == len(steps)
    if "every" not in keys:
        assert steps == average_steps(STEPS, keys.get("p", 0.25))


def test_the_first_task_is_averaged_where_that_is_asked_for(loop: str, tmp_path: Path) -> None:
    skipped = learn(config("sfa", p=0.5), loop, tmp_path / "skip")
    averaging = learn(config("sfa", p=0.5, first_task="average"), loop, tmp_path / "average")
    start = averaging.weights[0]
    assert_close(averaging.weights[1],
                 by_hand(start, TrainingData.of(examples(0)), seed(0), averaged(start, 0.25, [3, 6])))  # fmt: skip
    assert differ(averaging.weights[1], skipped.weights[1])
    why = "the start model has random weights"
    assert skipped.methods[0].notes == [f"task 'task0' is the first and was not averaged (first_task: skip): {why}"]
    assert averaging.methods[0].notes == [f"task 'task0' is the first and was averaged (first_task: average): {why}"]
    assert not averaging.methods[1].notes


def test_the_anchor_may_be_the_pretrained_model_or_a_path(loop: str, tmp_path: Path) -> None:
    tasks = [examples(index) for index in range(3)]
    pretrained = learn(config("sfa", p=1.0, anchor="pretrained"), loop, tmp_path / "a", tasks=tasks)
    start, before = pretrained.weights[0], pretrained.weights[2]
    by_formula = by_hand(before, TrainingData.of(tasks[2]), seed(2), averaged(start, 0.25, [6]))
    assert_close(pretrained.weights[3], by_formula)

    other = {key: torch.randn_like(tensor) for key, tensor in start.items()}
    save_file(other, tmp_path / "other.safetensors")
    path = learn(config("sfa", p=1.0, anchor=str(tmp_path / "other.safetensors")), loop, tmp_path / "b")
    before = path.weights[1]
    by_formula = by_hand(before, TrainingData.of(tasks[1]), seed(1), averaged(other, 0.25, [6]))
    assert_close(path.weights[2], by_formula)
    stored = (tmp_path / "other.safetensors").stat().st_size
    assert path.methods[1].costs.stored_bytes == stored  # something more than the previous model must be kept


def test_beta_may_differ_by_name_and_the_first_pattern_counts(loop: str, tmp_path: Path) -> None:
    learnt = learn(config("sfa", beta={"1.*": 1.0, "*.bias": 0.0, "*": 0.3}, p=1.0), loop, tmp_path)
    first, second = learnt.weights[1:]
    raw = by_hand(first, TrainingData.of(examples(1)), seed(1))
    assert torch.equal(second["1.weight"], first["1.weight"])
    assert torch.equal(second["1.bias"], first["1.bias"])
    torch.testing.assert_close(second["4.bias"], raw["4.bias"], rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(second["4.weight"], 0.7 * raw["4.weight"] + 0.3 * first["4.weight"], rtol=1e-13, atol=0)


def test_patterns_that_fit_nothing_are_refused_before_the_first_task_is_learnt(loop: str, tmp_path: Path) -> None:
    with pytest.raises(StockpotError, match=r"no tensor of the model matches '5\.\*'"):
        learn(config("sfa", beta={"5.*": 0.5, "*": 0.1}), loop, tmp_path, tasks=[examples(0)])
    with pytest.raises(StockpotError, match=r"no pattern matches '4\.weight'; add a last pattern '\*'"):
        learn(config("sfa", beta={"1.*": 0.5}), loop, tmp_path, tasks=[examples(0)])


def test_resetting_the_optimizer_at_an_average_is_a_new_optimizer(loop: str, tmp_path: Path) -> None:
    def after(step: int, weights: Weights, optimizer: Optimizer) -> Optimizer | None:
        averaged(first, 0.25, [3, 6])(step, weights, optimizer)
        again = torch.optim.AdamW(optimizer.param_groups[0]["params"], lr=0.05, weight_decay=0.0)
        return again if step == 3 else None

    keep, reset = (
        learn(config("sfa", p=0.5, optimizer_state=choice), loop, tmp_path / choice) for choice in ("keep", "reset")
    )
    first = reset.weights[1]
    assert_same(first, keep.weights[1])
    assert differ(keep.weights[2], reset.weights[2])
    assert_close(reset.weights[2], by_hand(first, TrainingData.of(examples(1)), seed(1), after))


@pytest.mark.parametrize("place", ["disk", "cpu", "device"])
def test_where_the_anchor_is_held_changes_no_bit_and_is_counted(place: str, loop: str, tmp_path: Path) -> None:
    usual = learn(config("sfa", p=0.5), loop, tmp_path / "usual")
    other = learn(config("sfa", p=0.5, anchor_on=place), loop, tmp_path / "other")
    assert_same(usual.weights[2], other.weights[2])
    memory = sum(tensor.nbytes for tensor in usual.weights[0].values())
    assert other.methods[1].costs.extra_memory_bytes == (0 if place == "disk" else memory)


@pytest.mark.parametrize("buffers", ["average", "keep"])
def test_running_statistics_are_averaged_or_kept(buffers: str, loop: str, tmp_path: Path) -> None:
    learnt = learn(config("sfa", beta=1.0, buffers=buffers), loop, tmp_path, model=network(norm=True))
    first, second = learnt.weights[1:]
    assert torch.equal(second["2.weight"], first["2.weight"])
    assert torch.equal(second["2.running_mean"], first["2.running_mean"]) == (buffers == "average")
