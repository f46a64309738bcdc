"""Rehearsal: what the buffer holds, how much, what is drawn from it, and what DER++ adds to the loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rehearsing import second_task
from scipy.stats import chi2
from tiers import crossed
from torch import Tensor
from toy import (
    LOOPS,
    STEPS,
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
)
from toy import seed as seed_of

from stockpot import methods
from stockpot.batches.examples import TensorExamples, TrainingData, concat
from stockpot.errors import StockpotError
from stockpot.methods.base import Task
from stockpot.methods.replay import logit_distance
from stockpot.methods.shared.buffer import Reservoir
from stockpot.seeds import derive, generator
from stockpot.training.batches import EpochBatches
from stockpot.training.method_state import read_state, write_state


@pytest.mark.parametrize("loop", LOOPS)
def test_it_is_what_its_equation_says(loop: str, train: Train) -> None:
    """Task 2 is trained on its examples and a quarter of the 22 of task 1, rounded, in one shuffled set."""
    _, one, two = train("replay", loop, {"fraction": 0.25}).weights
    picked = torch.randperm(22, generator=generator(seed_of(0), "replay"))[:6].sort().values
    past = TensorExamples(examples(0).pixel_values[picked], examples(0).labels[picked])
    union = TrainingData.of(concat([examples(1), past]))
    assert_close(two, by_hand(one, union, seed_of(1)))


def numbered(task: int, many: int) -> TensorExamples:
    """Examples that hold their own number: 1000 · task + position."""
    numbers = 1000.0 * task + torch.arange(many)
    return TensorExamples(numbers.reshape(-1, 1, 1, 1), torch.full((many,), task))


def rehearse(sizes: list[int], seed: int = 0, **keys: Any) -> tuple[list[TrainingData], list[list[int]]]:
    """Replay over tasks of so many examples: what each trained on, and the buffer's numbers after each."""
    method = methods.build(config("replay", **keys))
    trained, buffers = [], []
    for index, many in enumerate(sizes):
        own = numbered(index, many)
        task = Task(index, f"task{index}", derive(seed, "task", index), model=torch.nn.Linear(1, 1))
        trained.append(method.training_data(task, own))
        method.task_end(task, own)
        held = method.state()[0].get("pixel_values", torch.zeros(0))
        buffers.append([int(number) for number in held.flatten()])
    return trained, buffers


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 20), st.floats(0, 1), st.sampled_from("cfr")
)
def test_the_buffer_has_its_size_and_only_examples_of_the_past(
    sizes: list[int], count: int, fraction: float, kind: str
) -> None:
    keys = {"c": {"count": count}, "f": {"fraction": fraction}, "r": {"budget": "reservoir", "count": count}}[kind]
    trained, buffers = rehearse(sizes, **keys)
    for index, buffer in enumerate(buffers):
        assert len(set(buffer)) == len(buffer)
        owners = Counter(number // 1000 for number in buffer)
        if kind == "r":
            assert len(buffer) == min(count, sum(sizes[: index + 1]))
            assert set(owners) <= set(range(index + 1))
        else:  # so many of EACH task
            share = {task: min(count, many) if kind == "c" else int(fraction * many + 0.5)
                     for task, many in enumerate(sizes[: index + 1])}  # fmt: skip
            assert owners == Counter({task: many for task, many in share.items() if many})
        assert all(number % 1000 < sizes[number // 1000] for number in buffer)
    for index, data in enumerate(trained):
        numbers = [int(data.examples.__getitems__([row])["pixel_values"]) for row in range(len(data.examples))]
        before = buffers[index - 1] if index else []
        assert numbers[: sizes[index]] == [1000 * index + own for own in range(sizes[index])]
        assert numbers[sizes[index] :] == before  # drawn before anything of this task is kept
        assert data.new == len(numbers)  # one shuffled data set


def test_labels_stay_with_their_examples() -> None:
    method = methods.build(config("replay", budget="reservoir", count=7))
    for index in range(3):
        own = numbered(index, 9)
        method.task_end(Task(index, "t", index, model=torch.nn.Linear(1, 1)), own)
        held, _ = method.state()
        assert torch.equal(held["labels"], (held["pixel_values"].flatten() // 1000).long())


def test_every_item_is_equally_likely_to_be_in_the_reservoir() -> None:
    capacity, sizes, trials = 6, (10, 5, 15), 1500
    items, draws = sum(sizes), torch.Generator().manual_seed(0)
    counts = torch.zeros(items)
    for _ in range(trials):
        slots: dict[int, int] = {}
        reservoir, start = Reservoir(capacity), 0
        for many in sizes:
            slots |= {slot: start + item for slot, item in reservoir.offer(many, draws).items()}
            start += many
        assert sorted(slots) == list(range(capacity))
        counts[list(slots.values())] += 1
    share = capacity / items
    statistic = float(((counts - trials * share) ** 2).sum() / (trials * share * (1 - share)))
    assert 0.001 < chi2.sf(statistic, items - 1) < 0.999


def test_every_example_is_equally_likely_to_be_kept_by_the_method() -> None:
    counts: Counter[int] = Counter()
    trials, sizes = 400, [8, 4, 12]
    for seed in range(trials):
        counts.update(rehearse(sizes, seed, budget="reservoir", count=6)[1][-1])
    share = 6 / 24
    expected = trials * share
    numbers = [1000 * task + own for task, many in enumerate(sizes) for own in range(many)]
    statistic = sum((counts[number] - expected) ** 2 for number in numbers) / (expected * (1 - share))
    assert 0.001 < chi2.sf(statistic, 23) < 0.999


@given(st.integers(1, 20), st.integers(1, 15), st.integers(1, 20), st.integers(1, 8))
def test_batch_mixing_draws_so_many_without_repeats(new: int, kept: int, per_batch: int, size: int) -> None:
    trained, buffers = rehearse([kept, new], count=kept, mix="batch", per_batch=per_batch)
    data = trained[1]
    assert (data.new, data.rehearsed_per_batch) == (new, per_batch)
    batches = EpochBatches(data, size, seed=3)
    fresh: list[int] = []
    drawn: Counter[int] = Counter()
    for batch in batches:
        own = [index for index in batch if index < new]
        rehearsed = [index for index in batch if index >= new]
        fresh += own
        drawn.update(rehearsed)
        assert len(rehearsed) == min(per_batch, len(buffers[0]))
        assert len(set(rehearsed)) == len(rehearsed)
    assert sorted(fresh) == list(range(new))  # each new example once in an epoch
    assert len(list(batches)) == len(batches) == -(-new // size)


def test_steps_count_the_union_and_not_what_is_mixed_into_batches(tmp_path: Path) -> None:
    union = learn(config("replay", fraction=0.5), "plain", tmp_path / "union")
    mixed = learn(config("replay", fraction=0.5, mix="batch", per_batch=4), "plain", tmp_path / "batch")
    assert [task.total_steps for task in union.tasks] == [2 * 3, 2 * 5]  # ⌈22 / 8⌉, then ⌈33 / 8⌉ batches
    assert [task.total_steps for task in mixed.tasks] == [2 * 3, 2 * 3]
    assert differ(union.weights[2], mixed.weights[2])


@pytest.mark.parametrize("keys", [{"fraction": 0.3}, {"budget": "reservoir", "count": 5}])
def test_the_state_survives_a_round_trip_and_goes_on_alike(keys: dict[str, Any], tmp_path: Path) -> None:
    def task(index: int) -> Task:
        return Task(index, "t", derive(0, index), model=torch.nn.Linear(1, 1))

    method, again = (methods.build(config("replay", **keys)) for _ in range(2))
    for index in range(3):
        method.task_end(task(index), numbered(index, 8))
    write_state(method, tmp_path)
    read_state(again, tmp_path)
    for one in (method, again):
        one.task_end(task(3), numbered(3, 8))
    (tensors, values), (tensors_again, values_again) = method.state(), again.state()
    assert values == values_again
    assert all(torch.equal(tensor, tensors_again[key]) for key, tensor in tensors.items())
    assert len(tensors["labels"]) > 0


@pytest.mark.parametrize("loop", LOOPS)
def test_rehearsal_in_every_batch_is_trained_on(loop: str, tmp_path: Path) -> None:
    """A buffer of the whole past, mixed into each batch: the loss of the first task rises less."""

    def loss(weights: dict[str, torch.Tensor]) -> float:
        hidden = torch.tanh(examples(0).pixel_values.flatten(1) @ weights["1.weight"].T + weights["1.bias"])
        logits = hidden @ weights["4.weight"].T + weights["4.bias"]
        return float(torch.nn.functional.cross_entropy(logits, examples(0).labels))

    plain = learn(config("sequential"), loop, tmp_path / "plain", num_train_epochs=8)
    replay = learn(config("replay", fraction=1, mix="batch", per_batch=8), loop, tmp_path / "r", num_train_epochs=8)
    assert loss(replay.weights[2]) < 0.5 * loss(plain.weights[2])


def test_inputs_of_another_shape_cannot_be_rehearsed() -> None:
    method = methods.build(config("replay"))
    method.task_end(Task(0, "a", 0, model=torch.nn.Linear(1, 1)), numbered(0, 10))
    other = TensorExamples(torch.zeros(3, 3, 4, 4), torch.zeros(3, dtype=torch.long))
    with pytest.raises(StockpotError, match=r"buffer holds inputs of shape \(1, 1, 1\), task 'b' has \(3, 4, 4\)"):
        method.training_data(Task(1, "b", 0, model=torch.nn.Linear(1, 1)), other)


def der(**keys: Any) -> dict[str, Any]:
    return {"loss": "der++", "count": 10, "per_batch": 6, **keys}


def der_by_hand(
    first: Weights, buffer: Mapping[str, Tensor], weights: tuple[float, float], owners: Tensor | None = None
) -> Weights:
    """The second task: AdamW on CE(new) + a·mean (z(x₁) − z₁)² + b·CE(x₂, y₂)."""
    model, own = network(), examples(1)
    model.load_state_dict(first)
    stored = model(buffer["pixel_values"]).detach()  # the model at the end of the first task is this one

    def cross_entropy(inputs: Tensor, labels: Tensor) -> Tensor:
        logits = model(inputs)
        if owners is not None:
            logits = logits.masked_fill(owners[None] != owners[labels][:, None], float("-inf"))
        return torch.nn.functional.cross_entropy(logits, labels)

    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    batches, step = EpochBatches(TrainingData.of(own), 8, seed_of(1)), 0
    for epoch in range(2):
        batches.set_epoch(epoch)
        for indices in batches:
            draws = generator(seed_of(1), "der", step)
            one, two = (torch.randperm(10, generator=draws)[:6] for _ in range(2))
            loss = cross_entropy(own.pixel_values[indices], own.labels[indices])
            loss = loss + weights[0] * (model(buffer["pixel_values"][one]) - stored[one]).square().mean()
            loss = loss + weights[1] * cross_entropy(buffer["pixel_values"][two], buffer["labels"][two])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
    return copied(model)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("keys", "weights"),
    [
        ({}, (0.2, 0.5)),
        ({"logits_weight": 3.0, "labels_weight": 0.0}, (3.0, 0.0)),
        ({"logits_weight": 0.0, "labels_weight": 2.0}, (0.0, 2.0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("owners", [None, torch.tensor([0, 0, 1, 1])], ids=["all compete", "a task's own compete"])
def test_dark_experience_replay_is_its_equation(
    loop: str, keys: dict[str, Any], weights: tuple[float, float], owners: Tensor | None, tmp_path: Path
) -> None:
    learnt = learn(config("replay", **der(**keys)), loop, tmp_path, owners=owners)
    plain = learn(config("sequential"), loop, tmp_path / "plain", owners=owners)
    buffer = {key: tensor[:10] for key, tensor in learnt.methods[1].state()[0].items()}  # of the first task
    assert_close(learnt.weights[2], der_by_hand(learnt.weights[1], buffer, weights, owners), 1e-11)
    assert_same(learnt.weights[1], plain.weights[1])
    moved = max(float((learnt.weights[2][key] - plain.weights[2][key]).abs().max()) for key in plain.weights[2])
    assert moved > 1e-2


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "keys", [{"logits_weight": 0.0, "labels_weight": 0.0}, {"count": 0}, {"select": "herding", "count": 0}]
)
def test_dark_experience_replay_without_weight_or_buffer_is_plain_fine_tuning(
    loop: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    model = network(dropout=0.3, norm=True)  # an extra forward pass would draw masks and move the statistics
    learnt = learn(config("replay", **der(**keys)), loop, tmp_path / "der", model=model)
    plain = learn(config("sequential"), loop, tmp_path / "plain", model=model)
    for weights, without in zip(learnt.weights, plain.weights, strict=True):
        assert_same(weights, without)


@pytest.mark.parametrize(
    ("keys", "loop"),
    crossed(
        [der(), der(budget="reservoir", count=9), der(select="herding", budget="total"),
         {"select": "herding", "count": 6},
         {"select": "balanced", "budget": "total", "count": 7, "mix": "batch", "per_batch": 3}],
        LOOPS,
    ),
    ids=str,
)  # fmt: skip
def test_a_task_that_is_stopped_inside_goes_on_to_the_same_bits(
    loop: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    model = network(dropout=0.3, norm=True)
    settings = {"gradient_accumulation_steps": 2, "num_train_epochs": 3}
    whole, (tensors, values) = second_task(config("replay", **keys), loop, tmp_path / "whole", model=model, **settings)
    for stop_at in (1, 3):
        weights, (again, values_again) = second_task(
            config("replay", **keys), loop, tmp_path / f"stopped-{stop_at}", stop_at, model=model, **settings
        )
        assert_same(weights, whole)
        assert values_again == values
        assert all(torch.equal(tensor, again[key]) for key, tensor in tensors.items())
    assert values["drawn"] == (9 if keys.get("loss") else 0)  # ⌈22 / 8⌉ micro-batches, three times


@pytest.mark.parametrize("accumulation", [1, 3])
def test_both_loops_learn_dark_experience_replay_bitwise_alike(accumulation: int, tmp_path: Path) -> None:
    one, other = (
        learn(config("replay", **der(select="balanced")), loop, tmp_path / loop, model=network(dropout=0.3, norm=True),
              gradient_accumulation_steps=accumulation)
        for loop in LOOPS
    )  # fmt: skip
    for trainer, plain in zip(one.weights, other.weights, strict=True):
        assert_same(trainer, plain)
    tensors, again = one.methods[1].state()[0], other.methods[1].state()[0]
    assert all(torch.equal(tensor, again[key]) for key, tensor in tensors.items())


def test_the_draws_of_every_task_are_counted_from_its_start(tmp_path: Path) -> None:
    learnt = learn(config("replay", **der()), "plain", tmp_path, tasks=[examples(0), examples(1), examples(2)])
    assert [method.state()[1]["drawn"] for method in learnt.methods] == [0, STEPS, STEPS]


def test_rows_that_did_not_exist_are_left_out_of_the_distance() -> None:
    logits = torch.tensor([[1.0, 2.0, 7.0, 8.0], [1.0, 2.0, 3.0, 9.0]], dtype=torch.float64, requires_grad=True)
    stored = torch.tensor([[0.0, 4.0, 0.0], [1.0, 2.0, 0.0]], dtype=torch.float64)
    value = logit_distance(logits, stored, torch.tensor([2, 3]))
    assert value.item() == (1 + 4 + 0 + 0 + 9) / 5
    value.backward()
    assert logits.grad is not None
    expected = torch.tensor([[2.0, -4.0, 0.0, 0.0], [0.0, 0.0, 6.0, 0.0]], dtype=torch.float64) / 5
    torch.testing.assert_close(logits.grad, expected, rtol=1e-15, atol=0)


def test_what_dark_experience_replay_keeps_is_counted(tmp_path: Path) -> None:
    first, second = (method.costs for method in learn(config("replay", **der()), "plain", tmp_path).methods)
    image, extra = 6 * 8 + 8, 4 * 8 + 8  # an input and its label; its logits and how many there are
    assert (first.stored_data_bytes, first.stored_bytes) == (10 * image, 10 * (image + extra))
    assert (second.stored_data_bytes, second.stored_bytes) == (20 * image, 20 * (image + extra))
    assert second.extra_memory_bytes == first.stored_bytes


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"loss": "der++", "mix": "batch"}, "drop mix: batch"),
        ({"logits_weight": 0.5}, "belong to loss: der"),
        ({"labels_weight": 0.5}, "belong to loss: der"),
        ({"loss": "der++", "labels_weight": -0.5}, "greater than or equal to 0"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config("replay", **keys)


def test_a_buffer_that_was_kept_without_logits_is_no_buffer_of_dark_experience_replay(tmp_path: Path) -> None:
    learnt = learn(config("replay", count=5), "plain", tmp_path, tasks=[examples(0)])
    with pytest.raises(StockpotError, match=r"buffer is damaged: 5 examples .* logits: missing"):
        methods.build(config("replay", **der())).load_state(*learnt.methods[0].state())
