"""A-GEM: the projection, where it acts, and that it leaves everything else as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rehearsing import second_task
from torch import Tensor, nn
from toy import (
    LOOPS,
    STEPS,
    Learnt,
    Weights,
    assert_close,
    assert_same,
    config,
    copied,
    differ,
    examples,
    learn,
    network,
    seed,
)

from stockpot.batches.examples import TrainingData
from stockpot.errors import StockpotError
from stockpot.methods import agem
from stockpot.methods.agem import AGEMConfig, AveragedGradientEpisodicMemory, project
from stockpot.seeds import generator
from stockpot.training.batches import EpochBatches


def settings(**keys: Any) -> AGEMConfig:
    return AGEMConfig(name="agem", **{"count": 10, "per_step": 6, **keys})


def learn_agem(keys: dict[str, Any], loop: str, folder: Path, **more: Any) -> Learnt:
    return learn(settings(**keys), loop, folder, build=AveragedGradientEpisodicMemory, **more)


def parameters(gradients: list[Tensor | None], shapes: list[int]) -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(many, dtype=torch.float64)) for many in shapes]
    for parameter, gradient in zip(made, gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.clone()
    return made


def inner(one: list[Tensor | None], other: list[Tensor | None]) -> float:
    terms = [(a * b).sum() for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return float(sum(terms))


@given(st.integers(0, 10_000), st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_a_gradient_that_raises_the_loss_becomes_orthogonal_and_another_stays(seed: int, kinds: list[int]) -> None:
    draws = torch.Generator().manual_seed(seed)
    shapes = list(range(1, len(kinds) + 1))
    vectors = [torch.randn(2, many, generator=draws, dtype=torch.float64) for many in shapes]
    gradients = [None if kind & 1 else vector[0] for kind, vector in zip(kinds, vectors, strict=True)]
    reference = [None if kind & 2 else vector[1] for kind, vector in zip(kinds, vectors, strict=True)]
    held = parameters(gradients, shapes)
    project(held, tuple(reference))
    after = [parameter.grad for parameter in held]
    along = inner(gradients, reference)
    if along >= 0:
        for gradient, now in zip(gradients, after, strict=True):
            assert (now is None) == (gradient is None)
            assert gradient is None or (now is not None and torch.equal(now, gradient))
        return
    share = along / inner(reference, reference)
    assert abs(inner(after, reference)) < 1e-12 * (1 - along)
    for gradient, other, now, many in zip(gradients, reference, after, shapes, strict=True):
        if other is None:
            assert now is gradient is None or (now is not None and gradient is not None and torch.equal(now, gradient))
        else:
            base = torch.zeros(many, dtype=torch.float64) if gradient is None else gradient
            torch.testing.assert_close(now, base - share * other, rtol=1e-12, atol=1e-12)


def test_a_projection_of_a_worked_example() -> None:
    """g = (1, −2, 3), g_ref = (1, 1, 0): ⟨g, g_ref⟩ = −1, ⟨g_ref, g_ref⟩ = 2, so g′ = (1.5, −1.5, 3)."""
    held = parameters([torch.tensor([1.0, -2.0]).double(), torch.tensor([3.0]).double()], [2, 1])
    project(held, (torch.tensor([1.0, 1.0]).double(), None))
    assert [parameter.grad.tolist() for parameter in held if parameter.grad is not None] == [[1.5, -1.5], [3.0]]


@pytest.mark.parametrize("reference", [torch.zeros(2).double(), torch.tensor([0.0, 1e-200]).double(), None])
def test_a_reference_of_zero_changes_nothing(reference: Tensor | None) -> None:
    held = parameters([torch.tensor([1.0, -2.0]).double()], [2])
    project(held, (reference,))
    assert held[0].grad is not None
    assert held[0].grad.tolist() == [1, -2]
    held = parameters([None], [2])
    project(held, (reference,))
    assert held[0].grad is None


def by_hand(first: Weights, kept: dict[str, Tensor], owners: Tensor | None) -> tuple[Weights, int]:
    """The second task, its gradients projected with one long vector; and how many steps were."""
    model, own, projected = network(), examples(1), 0
    model.load_state_dict(first)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)

    def gradient(inputs: Tensor, labels: Tensor) -> Tensor:
        logits = model(inputs)
        if owners is not None:
            logits = logits.masked_fill(owners[None] != owners[labels][:, None], float("-inf"))
        loss = nn.functional.cross_entropy(logits, labels)
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])

    batches, step = EpochBatches(TrainingData.of(own), 8, seed(1)), 0
    for epoch in range(2):
        batches.set_epoch(epoch)
        for indices in batches:
            step += 1
            drawn = torch.randperm(10, generator=generator(seed(1), "agem", step))[:6]
            flat = gradient(own.pixel_values[indices], own.labels[indices])
            reference = gradient(kept["pixel_values"][drawn], kept["labels"][drawn])
            if flat @ reference < 0:
                flat = flat - (flat @ reference) / (reference @ reference) * reference
                projected += 1
            nn.utils.vector_to_parameters(flat, grads := [torch.zeros_like(part) for part in model.parameters()])
            for parameter, part in zip(model.parameters(), grads, strict=True):
                parameter.grad = part
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return copied(model), projected


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("owners", [None, torch.tensor([0, 0, 1, 1])], ids=["all compete", "a task's own compete"])
def test_a_task_is_learnt_as_the_equation_says(loop: str, owners: Tensor | None, tmp_path: Path) -> None:
    learnt = learn_agem({}, loop, tmp_path / "agem", owners=owners)
    plain = learn(config("sequential"), loop, tmp_path / "plain", owners=owners)
    kept = {key: tensor[:10] for key, tensor in learnt.methods[1].state()[0].items()}  # of the first task
    expected, projected = by_hand(learnt.weights[1], kept, owners)
    assert 0 < projected <= STEPS
    assert_same(learnt.weights[1], plain.weights[1])
    assert_close(learnt.weights[2], expected, 1e-11)
    moved = max(float((learnt.weights[2][key] - plain.weights[2][key]).abs().max()) for key in expected)
    assert moved > 1e-2


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("keys", [{"count": 0}, {"count": None, "fraction": 0.0}, {"select": "herding", "count": 0}])
def test_an_empty_buffer_is_plain_fine_tuning(loop: str, keys: dict[str, Any], tmp_path: Path) -> None:
    plain = learn(config("sequential"), loop, tmp_path / "plain")
    for weights, without in zip(learn_agem(keys, loop, tmp_path / "agem").weights, plain.weights, strict=True):
        assert_same(weights, without)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_task_that_needs_no_projection_is_plain_fine_tuning_to_the_bit(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout and BatchNorm: the reference pass leaves masks and statistics alone."""
    model, seen = network(dropout=0.3, norm=True), 0

    def never(parameters: list[nn.Parameter], reference: tuple[Tensor | None, ...]) -> None:
        nonlocal seen
        seen += 1
        project(parameters, tuple(None if other is None else torch.zeros_like(other) for other in reference))

    monkeypatch.setattr(agem, "project", never)
    learnt = learn_agem({}, loop, tmp_path / "agem", model=model)
    plain = learn(config("sequential"), loop, tmp_path / "plain", model=model)
    assert seen == STEPS  # of the second task
    for weights, without in zip(learnt.weights, plain.weights, strict=True):
        assert_same(weights, without)


def test_the_reference_pass_is_in_training_mode_and_draws_masks_of_its_own_for_each_step(tmp_path: Path) -> None:
    model = network(dropout=0.5, norm=True)
    learnt = learn_agem({"per_step": 10}, "plain", tmp_path, model=model, tasks=[examples(0)])
    method, task = learnt.methods[0], learnt.tasks[0]
    references, modes = [], []
    task.model.train()
    task.model[4].register_forward_hook(lambda module, inputs, output: modes.append((module.training, output == 0)))
    for step in (1, 1, 2):
        torch.manual_seed(len(references))  # of no account
        before = (torch.get_rng_state(), copied(task.model))
        task.model.zero_grad()
        method.gradients(task.model, step)
        references.append(copy.deepcopy(modes[-1][1]))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert_same(copied(task.model), before[1])
        assert all(parameter.grad is None for parameter in task.model.parameters())  # nothing to project
    assert all(training for training, _ in modes)
    assert torch.equal(references[0], references[1])
    assert not torch.equal(references[0], references[2])


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("keys", [{}, {"select": "herding", "budget": "total"}, {"budget": "reservoir"}], ids=str)
def test_both_loops_agree_bitwise(keys: dict[str, Any], accumulation: int, tmp_path: Path) -> None:
    model = network(dropout=0.3, norm=True)
    one, other = (
        learn_agem(keys, loop, tmp_path / loop, model=model, gradient_accumulation_steps=accumulation) for loop in LOOPS
    )
    for trainer, plain in zip(one.weights, other.weights, strict=True):
        assert_same(trainer, plain)
    plain = learn(config("sequential"), "plain", tmp_path / "s", model=model, gradient_accumulation_steps=accumulation)
    assert differ(one.weights[2], plain.weights[2])


@pytest.mark.parametrize("loop", LOOPS)
def test_with_accumulated_gradients_it_acts_once_a_step(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three micro-batches of 8, 8 and 6 are one batch of 22."""
    calls = 0

    def counting(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        project(*arguments)

    monkeypatch.setattr(agem, "project", counting)
    parts = learn_agem({}, loop, tmp_path / "parts", gradient_accumulation_steps=3, num_train_epochs=4)
    assert calls == parts.tasks[1].total_steps == 4
    whole = learn_agem({}, loop, tmp_path / "whole", per_device_train_batch_size=22, num_train_epochs=4)
    assert_close(parts.weights[2], whole.weights[2], 1e-10)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_task_that_is_stopped_inside_goes_on_to_the_same_bits(loop: str, tmp_path: Path) -> None:
    model = network(dropout=0.3, norm=True)
    method, build = settings(select="herding", budget="total"), AveragedGradientEpisodicMemory
    whole, (tensors, values) = second_task(method, loop, tmp_path / "whole", model=model, build=build)
    for stop_at in (1, 4):
        weights, (again, values_again) = second_task(
            method, loop, tmp_path / f"stopped-{stop_at}", stop_at, model=model, build=build
        )
        assert_same(weights, whole)
        assert values_again == values
        assert all(torch.equal(tensor, again[key]) for key, tensor in tensors.items())


def test_frozen_parameters_are_left_out(tmp_path: Path) -> None:
    model = network()
    model[1].weight.requires_grad_(False)
    learnt = learn_agem({}, "plain", tmp_path, model=model)
    assert torch.equal(learnt.weights[2]["1.weight"], learnt.weights[0]["1.weight"])
    assert differ(learnt.weights[2], learnt.weights[1])


def test_it_keeps_the_examples_that_replay_keeps(tmp_path: Path) -> None:
    kept = learn_agem({}, "plain", tmp_path / "agem").methods[1].state()[0]
    other = learn(config("replay", count=10), "plain", tmp_path / "replay").methods[1].state()[0]
    assert torch.equal(kept["pixel_values"], other["pixel_values"])
    each = 6 * 8 + 8
    costs = learn_agem({}, "plain", tmp_path / "again").methods[1].costs
    assert (costs.extra_memory_bytes, costs.stored_bytes, costs.stored_data_bytes) == (10 * each, 20 * each, 20 * each)


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StockpotError, match=r"agem: task 'task0': a memory of 1 examples .* the 2 classes"):
        learn_agem({"select": "balanced", "count": 1}, "plain", tmp_path)
    learnt = learn_agem({}, "plain", tmp_path, tasks=[examples(0)])
    _, values = learnt.methods[0].state()
    with pytest.raises(StockpotError, match=r"agem: the saved buffer is damaged: 10 examples were kept"):
        AveragedGradientEpisodicMemory(settings()).load_state({}, values)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        settings(per_step=0)
