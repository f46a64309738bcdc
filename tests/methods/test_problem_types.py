"""Every method on numbers and on several labels, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from brute_values import by_hand_fisher
from tiers import crossed
from toy import LOOPS, Train, Weights, assert_close, assert_same, by_hand, config, learn, network, seed, valued

from stockpot.batches.examples import Batch, TensorExamples, TrainingData, concat
from stockpot.batches.losses import ProblemType, mean_loss
from stockpot.batches.outputs import logits_of
from stockpot.errors import StockpotError
from stockpot.importance.fisher import FisherKind, fisher
from stockpot.importance.sensitivity import sensitivity
from stockpot.methods import registry
from stockpot.methods.base import TaskFacts
from stockpot.seeds import derive, generator

KINDS: dict[str, ProblemType] = {"regression": "regression", "labels": "multi_label_classification"}
METHODS = {name: dict(method.typical) for name, method in registry().items()}
ALSO: list[tuple[str, dict[str, Any]]] = [("replay", {"loss": "der++", "count": 8, "per_batch": 6})]


def furthest(one: Weights, other: Weights) -> float:
    return max(float((tensor - other[name]).abs().max()) for name, tensor in one.items())


@pytest.mark.parametrize(("method", "kind"), crossed([*METHODS.items(), *ALSO], [*KINDS]), ids=str)
def test_every_method_changes_the_second_task_and_both_loops_agree_bitwise(
    method: tuple[str, dict[str, Any]], kind: str, train: Train
) -> None:
    name, keys = method
    one, other = (train(name, loop, keys, on=kind) for loop in LOOPS)
    plain = train("sequential", "plain", {}, on=kind)
    for trainer, without in zip(one.weights, other.weights, strict=True):
        assert_same(trainer, without)
    assert_same(one.weights[1], plain.weights[1])  # the first task is plain fine-tuning
    assert (furthest(one.weights[2], plain.weights[2]) > 1e-3) == (registry()[name].role != "floor")


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_add_up_to_the_mean_over_what_is_labelled(kind: str, train: Train) -> None:
    for loop in LOOPS:  # all 22 examples are one step, whole or in pieces that hold unequally many labels
        settings = {"num_train_epochs": 1, "max_grad_norm": 0.0}
        whole = train("sequential", loop, {}, on=kind, per_device_train_batch_size=22, **settings)
        pieces = train(
            "sequential", loop, {}, on=kind, per_device_train_batch_size=5, gradient_accumulation_steps=5, **settings
        )
        assert_close(pieces.weights[2], whole.weights[2], 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_distillation_keeps_the_old_rows_answers(kind: str, tmp_path: Path) -> None:
    problem, tasks = KINDS[kind], [valued(n, kind == "regression") for n in range(2)]
    learnt = learn(config("lwf", strength=2.0), "plain", tmp_path, tasks=tasks, problem=problem)
    teacher = network()
    teacher.load_state_dict(learnt.weights[1])

    def extra(model: Any, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            old = teacher(batch["pixel_values"])[:, :2]
        new = model(batch["pixel_values"])[:, :2]
        if kind == "regression":
            return 2.0 * (new - old).square().mean()
        p, q = (old / 2).sigmoid(), (new / 2).sigmoid()
        return 2.0 * 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()

    def loss(model: Any, batch: Batch) -> torch.Tensor:
        return mean_loss(problem, model(batch["pixel_values"]), batch) + extra(model, batch)

    found = by_hand(learnt.weights[1], TrainingData.of(tasks[1]), seed(1), loss=loss)
    assert_close(learnt.weights[2], found, 1e-8)
    assert not learnt.methods[1].notes  # the tasks share an output


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["exact", "empirical", "predicted"])
def test_the_fisher_is_that_of_independent_outputs(kind: str, which: FisherKind) -> None:
    model, examples = network().eval(), valued(0, kind == "regression", many=7)
    if (kind, which) == ("regression", "predicted"):
        with pytest.raises(StockpotError, match=r"'predicted' of a regression is 0: .* choose exact, sample"):
            fisher(model, examples, which, logits=logits_of, problem=KINDS[kind])
        return
    found = fisher(model, examples, which, logits=logits_of, problem=KINDS[kind], batch_size=3)
    assert_close(found, by_hand_fisher(model, examples, which, KINDS[kind]), 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sampled_fisher_is_the_exact_one_in_the_mean(kind: str) -> None:
    model, one = network().eval(), valued(0, kind == "regression", many=2)
    many = TensorExamples(
        *(tensor.repeat(2000, *[1] * (tensor.dim() - 1)) for tensor in (one.pixel_values, one.labels))
    )
    exact = fisher(model, one, "exact", logits=logits_of, problem=KINDS[kind])
    draws = generator(0, "fisher")
    drawn = fisher(model, many, "sample", logits=logits_of, problem=KINDS[kind], draws=draws, batch_size=4000)
    for name, tensor in exact.items():
        assert float((drawn[name] - tensor).abs().max()) < 0.12 * float(tensor.max())


@pytest.mark.parametrize("kind", KINDS)
def test_sensitivity_counts_the_outputs_that_an_example_has_labels_for(kind: str) -> None:
    model, examples = network().eval(), valued(0, kind == "regression", many=6)
    expected = {name: torch.zeros_like(tensor) for name, tensor in model.named_parameters()}
    for x, labels in zip(examples.pixel_values, examples.labels, strict=True):
        outputs = model(x[None])[0][~labels.isnan()]
        slopes = torch.autograd.grad(outputs.square().sum(), list(model.parameters()))
        for into, slope in zip(expected.values(), slopes, strict=True):
            into.add_(slope.abs(), alpha=1 / 6)
    found = sensitivity(model, examples, logits=logits_of, batch_size=4)
    assert_close(found, {name: tensor.detach() for name, tensor in expected.items()}, 1e-10)


def test_rehearsal_trains_on_the_union_of_the_new_examples_and_a_quarter_of_the_old(tmp_path: Path) -> None:
    tasks = [valued(n, True) for n in range(2)]
    learnt = learn(config("replay", fraction=0.25), "plain", tmp_path, tasks=tasks, problem="regression")
    draws = torch.Generator().manual_seed(derive(seed(0), "replay"))
    union = concat([tasks[1], tasks[0].picked(torch.randperm(22, generator=draws)[:6].sort().values)])
    found = by_hand(
        learnt.weights[1],
        TrainingData.of(union),
        seed(1),
        loss=lambda model, batch: mean_loss("regression", model(batch["pixel_values"]), batch),
    )
    assert_close(learnt.weights[2], found, 1e-9)


@pytest.mark.parametrize(
    ("name", "keys", "problem", "message"),
    [
        ("replay", {"select": "herding"}, "regression", "numbers instead of one class, .* use select: random"),
        ("agem", {"select": "balanced"}, "multi_label_classification", "several labels instead of one class"),
        ("ewc", {"fisher": "predicted"}, "regression", "'predicted' of a regression is 0"),
        ("fisher_average", {"fisher": "predicted"}, "regression", "'predicted' of a regression is 0"),
        ("lwf", {"temperature": 3.0}, "regression", "temperature divides logits"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_before_the_run(
    name: str, keys: dict[str, Any], problem: ProblemType, message: str
) -> None:
    import re

    method = config(name, **keys)
    assert method.problem_in(network(), [TaskFacts("b", 2, 22)]) is None
    reason = method.problem_in(network(), [TaskFacts("b", 2, 22, problem=problem)])
    assert reason is not None and re.search(message, reason) and "\n" not in reason
