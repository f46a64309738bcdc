"""EWC: the penalty in closed form, its three modes, and how what it keeps goes on; MAS where it shares the law."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from toy import (
    LOOPS,
    Weights,
    assert_close,
    assert_same,
    by_hand,
    config,
    copied,
    differ,
    examples,
    held,
    learn,
    network,
    seed,
    standing_at,
)

from stockpot.batches.examples import TensorExamples, TrainingData
from stockpot.batches.outputs import logits_of
from stockpot.errors import StockpotError
from stockpot.importance.fisher import convention, fisher, save_fisher
from stockpot.methods import build
from stockpot.methods.base import Task


def exact(weights: Weights, task: TensorExamples) -> Weights:
    return fisher(standing_at(weights), task, "exact", logits=logits_of)


@pytest.mark.parametrize("mode", ["separate", "online", "summed"])
@pytest.mark.parametrize("loop", LOOPS)
def test_each_mode_is_what_its_equation_says(loop: str, mode: str, tmp_path: Path) -> None:
    tasks = [examples(0), examples(1), examples(2)]
    strength, gamma = 20.0, 0.5
    learnt = learn(config("ewc", strength=strength, mode=mode, gamma=gamma), loop, tmp_path, tasks=tasks)
    one, two = learnt.weights[1], learnt.weights[2]
    first, second = exact(one, tasks[0]), exact(two, tasks[1])
    assert_close(two, by_hand(one, TrainingData.of(tasks[1]), seed(1), extra=held((strength / 2, first, one))), 1e-10)
    share = {"separate": 1.0, "online": gamma, "summed": 1.0}[mode]
    terms = [(share * strength / 2, first, one if mode == "separate" else two), (strength / 2, second, two)]
    assert_close(learnt.weights[3], by_hand(two, TrainingData.of(tasks[2]), seed(2), extra=held(*terms)), 1e-10)
    plain = by_hand(two, TrainingData.of(tasks[2]), seed(2))
    assert max(float((learnt.weights[3][name] - plain[name]).abs().max()) for name in plain) > 1e-2


class Diagonal(nn.Module):
    """Weights whose losses are diagonal quadratics."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.clone())


@pytest.mark.parametrize("mode", ["separate", "summed"])
def test_on_diagonal_quadratics_it_ends_where_joint_training_does(mode: str, tmp_path: Path) -> None:
    """Two tasks ½ΣFᵢ(θ−θ*ᵢ)²; the second minimum is reached from the first with the first's F as the penalty."""
    draws = torch.Generator().manual_seed(1)
    curvature = [torch.rand(5, generator=draws, dtype=torch.float64) + 0.1 for _ in range(2)]
    minimum = [torch.randn(5, generator=draws, dtype=torch.float64) for _ in range(2)]
    model, method = Diagonal(minimum[0]), build(config("ewc", strength=1.0, mode=mode))
    method.load_state({"importance/theta": curvature[0]}, {})
    save_file({"theta": minimum[0]}, tmp_path / "model.safetensors")
    method.task_start(Task(1, "second", 0, model, checkpoint=lambda source: tmp_path, rows=[[0], [1]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for step in range(700):
        optimizer.zero_grad()
        (0.5 * curvature[1] * (model.theta - minimum[1]).square()).sum().backward()
        method.gradients(model, step + 1)
        optimizer.step()
    joint = (curvature[0] * minimum[0] + curvature[1] * minimum[1]) / (curvature[0] + curvature[1])
    torch.testing.assert_close(model.theta.detach(), joint, rtol=1e-10, atol=1e-12)


def test_with_a_fisher_of_ones_it_is_l2_bit_for_bit_nearly(tmp_path: Path) -> None:
    learn(config("sequential"), "plain", tmp_path / "plain", tasks=[examples(0)])
    ones = {name: torch.ones_like(tensor) for name, tensor in network().named_parameters()}
    save_fisher(ones, convention("exact", 22, 64), tmp_path / "ones")
    ewc = learn(
        config("ewc", strength=0.5, start_fisher=str(tmp_path / "ones")), "plain", tmp_path / "ewc", tasks=[examples(0)]
    )
    l2 = learn(config("l2", strength=0.5, first_task="average"), "plain", tmp_path / "l2", tasks=[examples(0)])
    assert_close(ewc.weights[1], l2.weights[1])
    assert differ(ewc.weights[1], learn(config("sequential"), "plain", tmp_path, tasks=[examples(0)]).weights[1])


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_penalty_and_gradient_vanish_at_the_anchor(name: str, tmp_path: Path) -> None:
    learnt = learn(config(name, strength=7.0), "plain", tmp_path, tasks=[examples(0)])
    method, model = build(config(name, strength=7.0)), standing_at(learnt.weights[1])
    method.load_state(*learnt.methods[0].state())
    method.task_start(Task(1, "second", 0, model, checkpoint=lambda source: tmp_path / "model-0", rows=[[0], [1]]))
    for tensor in model.parameters():
        tensor.grad = torch.full_like(tensor, 0.25)
    method.gradients(model, 1)
    for tensor in model.parameters():
        assert tensor.grad is not None
        assert (tensor.grad == 0.25).all()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(1.0)
    method.gradients(model, 2)
    factor = {"ewc": 7.0, "mas": 14.0}[name]
    for key, tensor in model.named_parameters():
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad, 0.25 + factor * learnt.methods[0].state()[0][f"importance/{key}"])


@pytest.mark.parametrize("mode", ["separate", "summed"])
def test_rows_that_grow_are_free_and_old_rows_stay_held(mode: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)).double()
    method = build(config("ewc", strength=3.0, mode=mode))
    method.load_state({"importance/1.weight": torch.full((2, 6), 2.0).double()}, {})
    save_file(copied(model), tmp_path / "model.safetensors")
    larger = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).double()
    new = ["1.weight", "1.bias"]
    method.task_start(Task(1, "second", 0, larger, checkpoint=lambda source: tmp_path, new=new, rows=[[0, 1], [2]]))
    for tensor in larger.parameters():
        tensor.grad = torch.zeros_like(tensor)
    method.gradients(larger, 1)
    weight = larger[1].weight
    expected = torch.cat([3.0 * 2.0 * (weight[:2] - model[1].weight), torch.zeros(1, 6).double()])
    torch.testing.assert_close(weight.grad, expected.detach())
    task = Task(1, "second", 0, larger, rows=[[0, 1], [2]])
    method.task_end(task, TensorExamples(torch.randn(4, 1, 2, 3).double(), torch.tensor([0, 1, 2, 2])))
    importance = method.state()[0]["importance/1.weight"]
    assert importance.shape == (3, 6)
    own = fisher(larger, TensorExamples(torch.randn(1, 1, 2, 3).double(), torch.tensor([2])), "exact", logits=logits_of)
    assert (importance[:2] >= 2.0).all()
    assert (own["1.weight"][2] > 0).any()


def test_separate_anchors_cost_two_tensors_a_weight_however_many_tasks(tmp_path: Path) -> None:
    tasks = [examples(number) for number in (0, 1, 2, 3)]
    learnt = learn(config("ewc", mode="separate"), "plain", tmp_path, tasks=tasks)
    size = sum(tensor.nbytes for tensor in learnt.weights[0].values())
    assert [method.costs.stored_bytes for method in learnt.methods] == [size, 2 * size, 2 * size, 2 * size]
    assert [method.costs.extra_memory_bytes for method in learnt.methods] == [0, 2 * size, 3 * size, 3 * size]
    online = learn(config("ewc", mode="online"), "plain", tmp_path / "online", tasks=tasks)
    assert [method.costs.stored_bytes for method in online.methods] == [size] * 4


def test_the_results_say_what_lambda_weighs(tmp_path: Path) -> None:
    learnt = learn(config("ewc", strength=44.0, fisher="batched", batch_size=4), "plain", tmp_path)
    (note,) = learnt.methods[0].notes
    for said in ("(λ/2)·ΣF(θ−θ*)²", "λ = 44", "variant batched", "examples 22", "batch size 4", "reduction mean",
                 "no ½, λ is 22", "sums over the examples 2"):  # fmt: skip
        assert said in note


def test_the_drawn_fisher_hangs_on_the_task_and_not_on_what_was_drawn_before(tmp_path: Path) -> None:
    keys = {"strength": 20.0, "fisher": "sample", "samples": 7}
    one = learn(config("ewc", **keys), "plain", tmp_path / "one")
    torch.randn(17)
    assert_same(one.weights[2], learn(config("ewc", **keys), "trainer", tmp_path / "other").weights[2])
    assert differ(one.weights[2], learn(config("ewc", **keys), "plain", tmp_path / "seed", seed=1).weights[2])


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_importances_of_another_model_are_named(name: str, tmp_path: Path) -> None:
    save_file(copied(network()), tmp_path / "model.safetensors")
    for wrong, said in (("9.weight", "no weight is called '9.weight'"), ("1.weight", r"\(3, 6\) there, \(5, 6\) here")):
        method = build(config(name))
        method.load_state({f"importance/{wrong}": torch.ones(3, 6).double()[: 3 if wrong == "1.weight" else 2]}, {})
        if wrong == "1.weight":
            said = r"shape \(6, 6\) there, \(5, 6\) here"  # noqa: PLW2901 - fewer rows are those of a head that grew
            method.load_state({f"importance/{wrong}": torch.ones(6, 6).double()}, {})
        with pytest.raises(StockpotError, match=said):
            method.task_start(Task(1, "second", 0, network(), checkpoint=lambda source: tmp_path, rows=[[0], [1]]))


def test_a_fisher_of_another_model_or_kind_is_named(tmp_path: Path) -> None:
    ones = {name: torch.ones_like(tensor) for name, tensor in network().named_parameters()}
    save_fisher(ones, convention("empirical", 22, 64), tmp_path / "kind")
    save_fisher({"1.weight": torch.ones(5, 6).double()}, convention("exact", 22, 64), tmp_path / "model")
    for folder, said in (("kind", "empirical, mean over examples; this run's are exact"), ("model", "another model")):
        with pytest.raises(StockpotError, match=said):
            learn(config("ewc", start_fisher=str(tmp_path / folder)), "plain", tmp_path / "run")


@pytest.mark.parametrize(
    ("key", "value"), [("strength", -1.0), ("gamma", 1.5), ("samples", 0), ("fisher", "exakt"), ("mode", "all")]
)
def test_settings_out_of_range_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        config("ewc", **{key: value})
