"""Every method on token sequences, in float64: a causal language model, and a classifier of texts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from rehearsing import second_task
from speaking import by_hand, classified, gpt2, llama, log_likelihood, texts
from torch import Tensor, nn
from toy import LOOPS, Learnt, Train, Weights, assert_close, assert_same, config, held, learn, seed

from stockpot import methods
from stockpot.batches.examples import IGNORED, Batch, TrainingData, concat
from stockpot.batches.outputs import logits_of
from stockpot.batches.token_examples import TokenExamples
from stockpot.errors import StockpotError
from stockpot.importance.fisher import default_kind
from stockpot.methods import registry
from stockpot.methods.base import Task, TaskFacts
from stockpot.methods.shared.buffer import Buffer, features_over
from stockpot.seeds import derive

METHODS = list(registry())
OF_CLASSES: list[tuple[str, dict[str, Any]]] = [
    ("replay", {"select": "herding", "count": 6}),
    ("replay", {"loss": "der++", "count": 8, "per_batch": 6}),
    ("ewc", {"strength": 20.0}),
    ("mas", {"strength": 2.0}),
    ("lwf", {"strength": 2.0}),
    ("agem", {"count": 10, "per_step": 6}),
]
NEUTRAL: list[tuple[str, dict[str, Any]]] = [
    *((name, dict(method.neutral)) for name, method in registry().items() if method.neutral is not None),
    ("replay", {"budget": "reservoir", "count": 0}),
    ("ewc", {"strength": 0.0, "fisher": "empirical"}),
]
TEXTS = [texts(0), texts(1)]


def taught(name: str, loop: str, folder: Path, model: nn.Module | None = None, **keys: Any) -> Learnt:
    model = llama() if model is None else model
    return learn(config(name, **keys), loop, folder, tasks=TEXTS, model=model)


def furthest(one: Weights, other: Weights) -> float:
    return max(float((tensor - other[name]).abs().max()) for name, tensor in one.items())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_changes_the_second_task_and_both_loops_agree_bitwise(name: str, train: Train) -> None:
    method = registry()[name]
    one, other = (train(name, loop, dict(method.typical), on="texts") for loop in LOOPS)
    plain = train("sequential", "plain", {}, on="texts")
    for trainer, without in zip(one.weights, other.weights, strict=True):
        assert_same(trainer, without)
    assert_same(one.weights[1], plain.weights[1])  # the first task is plain fine-tuning
    assert (furthest(one.weights[2], plain.weights[2]) > 1e-2) == (method.role != "floor")


@pytest.mark.parametrize("loop", ["plain", pytest.param("trainer", marks=pytest.mark.thorough)])
@pytest.mark.parametrize(("name", "neutral"), NEUTRAL, ids=str)
def test_the_neutral_setting_is_bitwise_plain_fine_tuning(
    name: str, neutral: dict[str, Any], loop: str, train: Train
) -> None:
    learnt, plain = train(name, loop, neutral, on="texts"), train("sequential", "plain", {}, on="texts")
    for weights, without in zip(learnt.weights, plain.weights, strict=True):
        assert_same(weights, without)


@pytest.mark.parametrize(("name", "keys"), OF_CLASSES, ids=str)
def test_a_classifier_of_texts_is_taught_by_every_method_that_looks_at_examples(
    name: str, keys: dict[str, Any], train: Train
) -> None:
    one, other = (train(name, loop, keys, on="classified texts") for loop in LOOPS)
    bare = train("sequential", "plain", {}, on="classified texts")
    for trainer, without in zip(one.weights, other.weights, strict=True):
        assert_same(trainer, without)
    assert_same(one.weights[1], bare.weights[1])
    assert furthest(one.weights[2], bare.weights[2]) > 1e-2


def nothing(model: nn.Module, batch: Batch) -> Tensor:
    return torch.zeros(())


@pytest.mark.parametrize("loop", LOOPS)
def test_rehearsal_trains_on_the_union_of_the_new_sequences_and_a_quarter_of_the_old(loop: str, tmp_path: Path) -> None:
    learnt = taught("replay", loop, tmp_path, gpt2(), fraction=0.25)
    draws = torch.Generator().manual_seed(derive(seed(0), "replay"))
    kept = TEXTS[0].picked(torch.randperm(22, generator=draws)[:6].sort().values.tolist())
    union = concat([TEXTS[1], kept])
    assert isinstance(learnt.data[1].examples, TokenExamples)  # batches stay one gather
    assert len(union) == 28
    expected = by_hand(learnt.weights[1], TrainingData.of(union), seed(1), gpt2(), nothing)
    assert_close(learnt.weights[2], expected, 1e-9)


@pytest.mark.parametrize("loop", LOOPS)
def test_distillation_is_the_mean_over_the_tokens_that_are_learnt_of_the_whole_vocabulary(
    loop: str, tmp_path: Path
) -> None:
    learnt = taught("lwf", loop, tmp_path, gpt2(), strength=2.0, temperature=3.0)
    teacher = gpt2().eval()
    teacher.load_state_dict(learnt.weights[1])

    def extra(model: nn.Module, batch: Batch) -> Tensor:
        learnt_here = batch["labels"].flatten() != IGNORED
        with torch.no_grad():
            p = (logits_of(teacher, batch)[learnt_here] / 3).softmax(1)
        q = (logits_of(model, batch)[learnt_here] / 3).softmax(1)
        return 2.0 * 9 * (p * (p / q).log()).sum() / len(p)

    expected = by_hand(learnt.weights[1], TrainingData.of(TEXTS[1]), seed(1), gpt2(), extra)
    assert_close(learnt.weights[2], expected, 1e-8)
    assert not learnt.methods[1].notes  # all tasks share all rows


@pytest.mark.parametrize("loop", LOOPS)
def test_the_penalty_weighs_each_weight_by_the_fisher_of_whole_sequences(loop: str, tmp_path: Path) -> None:
    learnt = taught("ewc", loop, tmp_path, gpt2(), strength=6.0, fisher="empirical", batch_size=5)
    model = gpt2().eval()
    model.load_state_dict(learnt.weights[1])
    importance = {name: torch.zeros_like(tensor) for name, tensor in model.named_parameters()}
    for index in range(22):
        gradients = torch.autograd.grad(log_likelihood(model, TEXTS[0].__getitems__([index])), list(model.parameters()))
        for into, gradient in zip(importance.values(), gradients, strict=True):
            into.add_(gradient.square(), alpha=1 / 22)
    extra = held((3.0, importance, learnt.weights[1]))
    expected = by_hand(learnt.weights[1], TrainingData.of(TEXTS[1]), seed(1), gpt2(), extra)
    assert_close(learnt.weights[2], expected, 1e-7)
    assert "variant empirical, examples 22, reduction mean, squares per sequence" in learnt.methods[0].notes[0]


def test_a_language_model_samples_its_fisher_unless_told_otherwise(tmp_path: Path) -> None:
    assert (default_kind(23), default_kind(23, language=True)) == ("exact", "sample")
    learnt = taught("ewc", "plain", tmp_path)
    assert "variant sample" in learnt.methods[0].notes[0]


def test_a_step_is_projected_by_the_mean_loss_of_the_tokens_of_a_draw(tmp_path: Path) -> None:
    model = gpt2()
    method = methods.build(config("agem", count=10, per_step=6))
    task = Task(0, "a", 3, model=model, language=True)
    method.training_data(task, TEXTS[0])
    method.task_end(task, TEXTS[0])
    method.task_start(task)
    drawn = method._buffer.draw(6, torch.Generator().manual_seed(derive(3, "agem", 1)))  # type: ignore[attr-defined]
    loss = -log_likelihood(model, drawn) / int((drawn["labels"] >= 0).sum())
    reference = torch.autograd.grad(loss, list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), reference, strict=True):
        parameter.grad = -2.0 * gradient
    model.transformer.wte.weight.grad += 1e-3 * torch.ones_like(model.transformer.wte.weight)
    before = [parameter.grad.clone() for parameter in model.parameters()]
    method.gradients(model, 1)
    after = [parameter.grad for parameter in model.parameters()]
    along = sum(float((g * r).sum()) for g, r in zip(after, reference, strict=True))
    square = sum(float((r * r).sum()) for r in reference)
    assert sum(float((g * r).sum()) for g, r in zip(before, reference, strict=True)) < -1.0 * square
    assert abs(along) < 1e-10 * square


@pytest.mark.parametrize(
    ("loop", "keys", "rows"),
    [
        ("trainer", {"fraction": 0.4}, 0),
        ("plain", {"budget": "reservoir", "count": 9}, 0),
        ("plain", {"select": "balanced", "budget": "total", "count": 9, "mix": "batch", "per_batch": 3}, 0),
        ("plain", {"loss": "der++", "select": "herding", "count": 8, "per_batch": 5}, 4),
    ],
    ids=str,
)
def test_a_task_that_is_stopped_inside_goes_on_to_the_same_bits(
    loop: str, keys: dict[str, Any], rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rehearsing.examples", classified if rows else texts)
    method, model = config("replay", **keys), llama(rows=rows)
    whole, (tensors, values) = second_task(method, loop, tmp_path / "whole", model=model)
    weights, (again, values_again) = second_task(method, loop, tmp_path / "stopped", 2, model=model)
    assert_same(weights, whole)
    assert values_again == values
    assert again.keys() == tensors.keys() >= {"tokens", "ends"}
    assert all(torch.equal(tensor, again[key]) for key, tensor in tensors.items())


def test_a_buffer_stores_no_padding() -> None:
    buffer = Buffer(config("replay", count=6))
    buffer.fill(Task(0, "a", 0, model=nn.Linear(1, 1)), TEXTS[0])
    held = buffer.examples
    assert isinstance(held, TokenExamples)
    assert buffer.nbytes == held.nbytes == 2 * 4 * len(held.tokens) + 8 * 6
    assert len(held.tokens) == int(held.ends[-1])


def test_sequences_of_one_class_share_a_memory_task_by_task() -> None:
    buffer = Buffer(config("replay", select="balanced", budget="total", count=9))
    for index, own in enumerate(TEXTS):
        buffer.check(Task(index, "t", index, model=nn.Linear(1, 1)), own)
        buffer.fill(Task(index, "t", index, model=nn.Linear(1, 1)), own)
    assert buffer.shares == [5, 4]
    tokens = buffer.examples.__getitems__(range(9))["input_ids"]
    assert (tokens[:5] < 12).all()
    assert (tokens[5:].amax(1) >= 12).all()


def test_herding_of_texts_looks_at_the_place_that_the_classifier_answers_at() -> None:
    model, own = llama(rows=4).eval(), classified(0)
    features = features_over(model, own, torch.arange(22))
    for index in (0, 7, 21):  # alone, and so without padding
        batch = own.__getitems__([index])
        hidden = model.model(batch["input_ids"]).last_hidden_state[0, -1]
        torch.testing.assert_close(features[index], hidden.detach(), rtol=1e-5, atol=1e-6)
    assert features.shape == (22, 16)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ({"tokens": slice(0, 7)}, "ends: 5, tokens: 7"),
        ({"targets": None}, "targets: missing"),
        ({"ends": None}, "ends: missing"),
        ({"ends": slice(0, 4)}, "ends: 4"),
        ({"ends": slice(0, 0)}, "ends: 0"),
    ],
    ids=str,
)
def test_a_damaged_buffer_of_sequences_is_one_clear_line(damage: dict[str, slice | None], found: str) -> None:
    buffer = Buffer(config("replay", count=5))
    buffer.fill(Task(0, "a", 0, model=nn.Linear(1, 1)), TEXTS[0])
    tensors, values = buffer.state()
    broken = {
        key: tensor[damage.get(key, slice(None))] for key, tensor in tensors.items() if damage.get(key, 0) is not None
    }
    with pytest.raises(StockpotError, match=f"buffer is damaged: 5 examples were kept, it holds .*{found}") as caught:
        Buffer(buffer.config).load_state(broken, values)
    assert "\n" not in str(caught.value)
    shuffled = {**tensors, "ends": tensors["ends"][torch.tensor([1, 0, 2, 3, 4])]}
    with pytest.raises(StockpotError, match="damaged"):
        Buffer(buffer.config).load_state(shuffled, values)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("replay", {"loss": "der++"}, "task 'b' is text to be continued: loss: der\\+\\+ would store .* use loss: er"),
        ("replay", {"select": "herding"}, "task 'b' is text to be continued, .* use random or balanced"),
        ("agem", {"select": "herding"}, "task 'b' is text to be continued, .* use random or balanced"),
        ("ewc", {"fisher": "exact"}, "'exact' of a language model .* choose sample"),
    ],
)
def test_what_makes_no_sense_for_language_is_refused_before_the_run_and_in_it(
    name: str, keys: dict[str, Any], message: str
) -> None:
    method = config(name, **keys)
    assert method.problem_in(llama(), [TaskFacts("b", 2, 22)]) is None
    problem = method.problem_in(llama(), [TaskFacts("b", 1, 22, language=True)])
    assert problem is not None and "\n" not in problem
    with pytest.raises(StockpotError, match=message):
        raise StockpotError(problem)
    active, task = methods.build(method), Task(0, "b", 0, model=copy.deepcopy(llama()), rows=[()], language=True)
    with pytest.raises(StockpotError, match=message):
        active.training_data(task, TEXTS[0])
        active.task_end(task, TEXTS[0])


def test_texts_and_classes_cannot_be_held_together() -> None:
    method = methods.build(config("replay"))
    method.task_end(Task(0, "a", 0, model=nn.Linear(1, 1)), TEXTS[0])
    with pytest.raises(StockpotError, match="the buffer holds text to be continued, task 'b' has text with classes"):
        method.training_data(Task(1, "b", 0, model=nn.Linear(1, 1)), classified(1))
