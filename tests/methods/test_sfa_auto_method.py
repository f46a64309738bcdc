"""SFA with `beta: auto` in a stream: Ω grows task by task, through both loops, from random and pretrained starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from speaking import gpt2, texts
from toy import (
    LOOPS,
    STEPS,
    Learnt,
    Train,
    Weights,
    assert_close,
    assert_same,
    by_hand,
    config,
    copied,
    differ,
    examples,
    learn,
    network,
    seed,
)

from stockpot.averaging.auto_beta import DAMPING
from stockpot.averaging.past_importance import PastImportance
from stockpot.batches.examples import IGNORED, TrainingData
from stockpot.batches.outputs import logits_of, targets_of
from stockpot.errors import StockpotError
from stockpot.methods.base import Task
from stockpot.methods.shared.past_sample import PastSample, sample_importance
from stockpot.recipe.read import validate
from stockpot.recipe.resolve import resolve
from stockpot.recipe.schema import Recipe
from stockpot.runs.actions import create_run
from stockpot.seeds import generator
from stockpot.streams.spec import DataSpec

TASKS = 3


class Rule:
    """The rule written out, beside `by_hand`: it sees the clipped gradients, and averages at the end of a task."""

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength
        self.omega: Weights = {}
        self.tasks = 0

    def task(self, index: int, start: Weights, steps: set[int]) -> Weights:
        model = network()
        names = [name for name, _ in model.named_parameters()]
        squares = {name: torch.zeros_like(tensor) for name, tensor in model.named_parameters()}

        def after(step: int, weights: Weights, optimizer: torch.optim.Optimizer) -> None:
            tensors = optimizer.param_groups[0]["params"]
            for name, tensor in zip(names, tensors, strict=True):
                squares[name] += tensor.grad.square()
            if step in steps and self.tasks:
                v = {name: tensor / step for name, tensor in squares.items()}
                e = DAMPING / 2 * (mean(v) + mean(self.omega) / self.tasks)
                for name, tensor in weights.items():
                    kept = (v[name] + e) / (v[name] + e + self.strength * (self.omega[name] + self.tasks * e))
                    tensor.copy_(start[name] + kept * (tensor - start[name]))

        left = by_hand(start, TrainingData.of(examples(index)), seed(index), after)
        v = {name: tensor / STEPS for name, tensor in squares.items()}
        self.omega = {name: self.omega.get(name, 0.0) + tensor for name, tensor in v.items()}
        self.tasks += 1
        return left


def mean(tensors: Weights) -> float:
    return float(torch.cat([tensor.flatten() for tensor in tensors.values()]).mean())


def stream(loop: str, folder: Path, **keys: Any) -> Learnt:
    method = config("sfa", beta="auto", **keys)
    return learn(method, loop, folder, tasks=[examples(index) for index in range(TASKS)])


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("p", "steps"), [(1.0, {6}), (None, {3, 6})])
def test_it_is_what_its_equation_says(p: float | None, steps: set[int], loop: str, tmp_path: Path) -> None:
    """Three tasks: the first is only observed, later ones are weighed by all before them; p is 0.5 by default."""
    learnt = stream(loop, tmp_path, strength=2.0, **({"p": p} if p else {}))
    rule = Rule(2.0)
    for index in range(TASKS):
        expected = rule.task(index, learnt.weights[index], steps)
        assert_close(learnt.weights[index + 1], expected)
        state = load_file(tmp_path / f"state-{index}" / "method.safetensors")
        assert_close({key.removeprefix("importance/"): tensor for key, tensor in state.items()}, rule.omega)
    assert [method.costs.averages for method in learnt.methods] == [0, len(steps), len(steps)]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_start_model_that_is_protected_counts_as_one_task(loop: str, tmp_path: Path) -> None:
    learnt = stream(loop, tmp_path, first_task="average", p=1.0)
    rule, plain = Rule(), Rule()
    raw = plain.task(0, learnt.weights[0], set())
    v = plain.omega
    rule.omega, rule.tasks = {name: torch.full_like(tensor, mean(v)) for name, tensor in v.items()}, 1
    assert_close(learnt.weights[1], rule.task(0, learnt.weights[0], {STEPS}))
    assert differ(learnt.weights[1], raw)
    assert_close(learnt.weights[2], rule.task(1, learnt.weights[1], {STEPS}))
    assert rule.tasks == 3


def test_a_saved_importance_weighs_the_start_model(tmp_path: Path) -> None:
    past = {name: torch.rand_like(tensor) for name, tensor in network().named_parameters()}
    PastImportance(past, 2).save(tmp_path / "past")
    learnt = stream("plain", tmp_path, first_task="average", p=1.0, importance=str(tmp_path / "past"))
    rule = Rule()
    rule.omega, rule.tasks = dict(past), 2
    assert_close(learnt.weights[1], rule.task(0, learnt.weights[0], {STEPS}))


@pytest.mark.parametrize("loop", LOOPS)
def test_strength_0_is_plain_fine_tuning_bitwise(loop: str, train: Train) -> None:
    plain = train("sequential", loop, {})
    for first_task in ("skip", "average"):
        keys = {"beta": "auto", "strength": 0.0, "first_task": first_task}
        for weights, without in zip(train("sfa", loop, keys).weights, plain.weights, strict=True):
            assert_same(weights, without)


def test_loops_agree_bitwise_and_the_first_task_is_plain_fine_tuning(train: Train) -> None:
    one, other = (train("sfa", loop, {"beta": "auto"}, max_grad_norm=0.05) for loop in LOOPS)
    plain = train("sequential", "plain", {}, max_grad_norm=0.05)
    for weights, again in zip(one.weights, other.weights, strict=True):
        assert_same(weights, again)
    assert_same(one.weights[1], plain.weights[1])
    assert differ(one.weights[2], plain.weights[2])


def test_it_keeps_one_tensor_of_the_models_size_and_says_what_it_did(train: Train) -> None:
    first, second = train("sfa", "plain", {"beta": "auto"}).methods
    size = sum(tensor.nbytes for tensor in network().parameters())
    for method in (first, second):
        assert method.costs.extra_memory_bytes == size
        assert method.costs.stored_bytes == method.costs.stored_statistics_bytes == size
    assert first.betas is None
    assert second.betas is not None
    assert [each["tensor"] for each in second.betas["tensors"]] == [name for name, _ in network().named_parameters()]
    assert not second.notes  # a run has a line on all of its tasks


def test_equal_streams_weigh_by_the_number_of_tasks(tmp_path: Path) -> None:
    """The same examples again and again: β of all weights nears t/(t+1), whatever their importance."""
    tasks = [examples(0)] * 3
    learnt = learn(config("sfa", beta="auto", p=1.0), "plain", tmp_path, tasks=tasks, max_steps=1, learning_rate=0.0)
    for index, method in enumerate(learnt.methods[1:], start=1):
        assert method.betas is not None
        many = sum(each["weights"] for each in method.betas["tensors"])
        average = sum(each["mean"] * each["weights"] for each in method.betas["tensors"]) / many
        assert average == pytest.approx(index / (index + 1), abs=0.15)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"beta": 0.3, "strength": 2.0}, "strength belongs to beta: auto"),
        ({"importance": "some/folder"}, "importance belongs to beta: auto"),
        ({"beta": "auto", "anchor": "pretrained"}, "which the previous model holds: drop anchor"),
        ({"beta": "atuo"}, r"beta must lie in .*or be .auto., not .atuo."),
        ({"beta": {"*": "atuo"}}, r"beta of .\*. must lie in .*or be .auto., not .atuo."),
        ({"beta": "auto", "strength": -1}, "strength"),
    ],
)
def test_keys_that_do_not_go_together(keys: dict[str, Any], message: str, digits_recipe: dict[str, Any]) -> None:
    with pytest.raises(StockpotError, match=message):
        validate(Recipe, {**digits_recipe, "method": {"name": "sfa", **keys}}, "here")


def test_an_importance_that_does_not_exist_is_refused_before_anything_runs(digits_recipe: dict[str, Any]) -> None:
    method = {"name": "sfa", "beta": "auto", "first_task": "average", "importance": "unifrom"}
    recipe = validate(Recipe, {**digits_recipe, "method": method}, "here")
    with pytest.raises(StockpotError, match=r"importance: unifrom: there is no such file.*Did you mean 'uniform'"):
        resolve(recipe, recipe.method, 0)


def test_a_search_and_a_front_vary_the_strength() -> None:
    auto, fixed = config("sfa", beta="auto"), config("sfa")
    assert set(auto.searched()) == {"strength", "p"}
    assert set(fixed.searched()) == {"beta", "p"}
    assert (auto.varied_key, fixed.varied_key) == ("strength", "beta")
    assert set(config("sfa", beta="auto", every=3).searched()) == {"strength"}
    assert set(config("sfa", beta={"0.*": 0.0, "*": "auto"}).searched()) == {"strength", "p"}


def gradient(model: torch.nn.Module, batch: Any) -> Weights:
    logits, targets = logits_of(model, batch), targets_of(batch)
    loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED)
    names, tensors = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, tensors), strict=True))


def test_a_sample_weighs_the_start_model_by_its_squared_gradients() -> None:
    model, known = gpt2(), texts(0)
    before = copied(model)
    task = Task(0, "first", 3, model, language=True)
    everything = PastSample(data=DataSpec(path="known"), steps=1, batch_size=22, max_grad_norm=0.0)
    whole = sample_importance(task, known, everything)
    g = gradient(model.eval(), known.__getitems__(range(22)))
    assert whole.tasks == 1
    assert_close(dict(whole.tensors), {name: tensor.square() for name, tensor in g.items()}, 1e-10)
    clipped = sample_importance(task, known, everything.model_copy(update={"max_grad_norm": 0.1}))
    norm = float(torch.cat([tensor.flatten() for tensor in g.values()]).norm())
    assert norm > 0.1
    assert_close(dict(clipped.tensors), {name: (tensor * 0.1 / norm).square() for name, tensor in g.items()}, 1e-5)
    two = sample_importance(task, known, everything.model_copy(update={"steps": 2, "batch_size": 11}))
    parts = torch.randperm(22, generator=generator(3, "importance")).split(11)
    halves = [gradient(model, known.__getitems__(part.tolist())) for part in parts]
    assert_close(dict(two.tensors), {name: (halves[0][name] ** 2 + halves[1][name] ** 2) / 2 for name in g}, 1e-10)
    assert_same(copied(model), before)
    assert all(tensor.grad is None for tensor in model.parameters())


def test_a_sample_needs_text_to_be_continued(digits_recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "known.txt").write_text("words")
    sample = {"data": {"path": str(tmp_path / "known.txt")}}
    method = {"name": "sfa", "beta": "auto", "first_task": "average", "importance": sample}
    recipe = validate(Recipe, {**digits_recipe, "method": method}, "here")
    resolved = resolve(recipe, recipe.method, 0)
    assert resolved.method.importance.data.path == str(tmp_path / "known.txt")  # type: ignore[union-attr]
    with pytest.raises(StockpotError, match=r"needs a model that continues texts.*importance: uniform"):
        create_run(recipe, recipe.method, 0, tmp_path / "run")
    assert not (tmp_path / "run").exists()
