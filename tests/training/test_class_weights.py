"""`train.class_weights` in float64: the weighted mean of torch, in both loops and with every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from test_loops import Recorder, gradients_of
from tiers import sample
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as torch_cross_entropy
from toy import (
    LOOPS,
    SETTINGS,
    assert_close,
    by_hand,
    config,
    differ,
    examples,
    held,
    learn,
    network,
    seed,
    standing_at,
)

from stockpot.batches.examples import Mixture, TensorExamples, TrainingData
from stockpot.errors import StockpotError
from stockpot.importance.fisher import fisher
from stockpot.methods import registry
from stockpot.recipe.read import checked_recipe, validate
from stockpot.recipe.schema import Recipe
from stockpot.recipe.train import check_train
from stockpot.results import Results
from stockpot.runs.actions import continue_run, create_run
from stockpot.runs.folder import RunFolder
from stockpot.streams.scenario import mask_rivals
from stockpot.training import dispatch
from stockpot.training.batches import EpochBatches
from stockpot.training.class_weights import check_class_names, row_weights, weights_note
from stockpot.training.job import Job, batch_loss, cross_entropy

WEIGHTS = torch.tensor([0.25, 4.0, 1.0, 2.5], dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("owners", [None, [0, 0, 1, 1], [0, 0, 0, -1]], ids=["all rows", "own rows", "rows seen"])
def test_the_loss_is_that_of_torch_over_the_rows_that_compete(owners: list[int] | None, smoothing: float) -> None:
    draws = torch.Generator().manual_seed(1)
    logits = torch.randn(12, 4, generator=draws, dtype=torch.float64)
    labels = torch.randint(0, 3, (12,), generator=draws)
    masked = mask_rivals(logits, labels, None if owners is None else torch.tensor(owners))
    loss = cross_entropy(masked, labels, smoothing, WEIGHTS)
    if owners is None:
        assert torch.equal(loss, torch_cross_entropy(logits, labels, WEIGHTS, label_smoothing=smoothing))
        return
    total, divisor = 0.0, 0.0
    for row, label in zip(masked, labels, strict=True):  # one example at a time, over its own rows alone
        rows = torch.isfinite(row).nonzero().flatten()
        place = (rows == label).nonzero().flatten()
        one = torch_cross_entropy(row[rows][None], place, WEIGHTS[rows], reduction="sum", label_smoothing=smoothing)
        total, divisor = total + float(one), divisor + float(WEIGHTS[label])
    assert float(loss) == pytest.approx(total / divisor, abs=1e-14)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("many", "accumulation"), [(22, 1), (22, 3), (9, 4)])
def test_the_gradient_is_that_of_the_whole_weighted_batch(
    many: int, accumulation: int, loop: str, tmp_path: Path
) -> None:
    """Micro-batches of 8 and a smaller one, whose classes weigh differently, and a method's term beside them."""
    data = TrainingData.of(examples(0, many))

    class Term(Recorder):
        def loss(self, loss: Tensor, logits: Tensor, batch: dict[str, Tensor], model: nn.Module) -> Tensor:
            return super().loss(loss, logits, batch, model) + logits.square().sum(1).mean()

    method = Term()
    settings = {"optim": "sgd", "max_grad_norm": 0.0, "num_train_epochs": 1}
    settings |= {"gradient_accumulation_steps": accumulation, "class_weights": {"0": 0.25}}  # the loops drop the key
    job = Job(network(), method, data, {**SETTINGS, **settings}, 3, tmp_path, class_weights=WEIGHTS)
    dispatch.train(job, loop)
    order = list(EpochBatches(data, 8, 3))
    steps = [order[first : first + accumulation] for first in range(0, len(order), accumulation)]
    model = network()
    for micro, seen, weights in zip(steps, method.seen, method.weights[::2], strict=True):
        model.load_state_dict(weights)
        whole = data.examples.__getitems__([index for batch in micro for index in batch])
        logits = model(whole["pixel_values"])
        model.zero_grad()
        (torch_cross_entropy(logits, whole["labels"], WEIGHTS) + logits.square().sum(1).mean()).backward()
        assert_close(seen, gradients_of(model), 1e-14)


@pytest.mark.parametrize(("name", "loop"), sample([(name, LOOPS[n % 2]) for n, name in enumerate(registry())]))
def test_equal_weights_change_nothing(name: str, loop: str, tmp_path: Path) -> None:
    keys = dict(registry()[name].typical)
    plain = learn(config(name, **keys), loop, tmp_path / "plain")
    weighed = learn(config(name, **keys), loop, tmp_path / "weighed", class_weights=torch.full((4,), 3.0).double())
    assert_close(plain.weights[2], weighed.weights[2], 1e-9)


def test_a_penalty_is_not_weighed(tmp_path: Path) -> None:
    learnt = learn(config("l2", strength=0.5), "plain", tmp_path, class_weights=WEIGHTS)
    first = by_hand(learnt.weights[0], TrainingData.of(examples(0)), seed(0), class_weights=WEIGHTS)
    second = TrainingData.of(examples(1))
    penalty = held((0.25, None, first))
    assert_close(learnt.weights[2], by_hand(first, second, seed(1), extra=penalty, class_weights=WEIGHTS))
    assert differ(learnt.weights[2], by_hand(first, second, seed(1), extra=penalty))


def test_rehearsed_examples_have_the_weight_of_their_class(tmp_path: Path) -> None:
    learnt = learn(config("replay", fraction=0.5), "plain", tmp_path, class_weights=WEIGHTS)
    assert set(learnt.data[1].examples.labels.tolist()) == {0, 1, 2, 3}
    assert_close(learnt.weights[2], by_hand(learnt.weights[1], learnt.data[1], seed(1), class_weights=WEIGHTS))


@pytest.mark.parametrize(("name", "keys"), [("lwf", {"strength": 2.0}), ("replay", {"loss": "der++", "fraction": 0.5})])
def test_distillation_and_draws_from_a_buffer_are_not_weighed(name: str, keys: dict[str, Any], tmp_path: Path) -> None:
    """What the method adds to the loss of a batch is the same number with weights and without."""
    batch, added = examples(1).__getitems__(range(8)), []
    for weights in (None, WEIGHTS):
        learnt = learn(config(name, **keys), "plain", tmp_path / str(weights is None))  # the same state both times
        model, method = standing_at(learnt.weights[1]), learnt.methods[1]  # the teacher stands at what was learnt
        method.task_start(learnt.tasks[1])
        job = Job(model, method, learnt.data[1], {}, 0, tmp_path, class_weights=weights)
        alone = torch_cross_entropy(model(batch["pixel_values"]), batch["labels"], weights)
        added.append((batch_loss(job, model, batch) - alone).item())
    assert added[0] == pytest.approx(added[1], abs=1e-12)
    assert abs(added[0]) > 1e-3


def test_a_fisher_is_not_weighed(tmp_path: Path) -> None:
    learnt = learn(config("ewc", fisher="empirical"), "plain", tmp_path, class_weights=WEIGHTS)
    task, method = learnt.tasks[0], learnt.methods[0]
    expected = fisher(standing_at(learnt.weights[1]), examples(0), "empirical", logits=task.logits)
    assert_close(method.importance, expected)  # type: ignore[attr-defined]


def imbalanced(*many: int) -> TensorExamples:
    labels = torch.repeat_interleave(torch.arange(len(many)), torch.tensor(many))
    return TensorExamples(torch.zeros(len(labels), 1), labels)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    data = TrainingData.of(imbalanced(30, 6, 1))
    weights = row_weights("balanced", [], data, batches=5, rows=5)
    assert weights is not None and weights.dtype == torch.float64
    labels = data.examples.labels.numpy()
    np.testing.assert_allclose(weights[:3], compute_class_weight("balanced", classes=np.arange(3), y=labels), 1e-15)
    assert weights[3:].tolist() == [1.0, 1.0]  # never trained on
    assert float(weights[data.examples.labels].mean()) == pytest.approx(1)


def test_balanced_weights_count_how_often_a_rehearsed_example_is_drawn() -> None:
    """20 new examples of class 2; of 3 and 1 in a buffer, two are drawn into each of five batches: 7.5 and 2.5."""
    stored, new = imbalanced(3, 1), TensorExamples(torch.zeros(20, 1), torch.full((20,), 2))
    data = TrainingData(new.followed_by([stored]), new=20, rehearsed_per_batch=2)
    weights = row_weights("balanced", [], data, batches=5, rows=3)
    assert weights is not None
    assert weights.tolist() == pytest.approx([30 / (3 * 7.5), 30 / (3 * 2.5), 30 / (3 * 20)])
    general = Mixture(imbalanced(0, 0, 0, 50), 0.2)  # five of them in every epoch
    mixed = row_weights("balanced", [], data.mixed_with(general), batches=5, rows=4)
    assert mixed is not None
    assert mixed.tolist() == pytest.approx([35 / (4 * 7.5), 35 / (4 * 2.5), 35 / (4 * 20), 35 / (4 * 5)])


def test_weights_by_class_go_to_its_row_in_every_later_task() -> None:
    data = TrainingData.of(imbalanced(2, 2))
    value = {"cat": 2.0, 7: 3}
    seen = [(["cat", "cow"], [0, 1]), (["7", "dog"], [2, 3])]
    weights = [row_weights(value, seen[:many], data, 1, 4) for many in (1, 2)]
    assert [each.tolist() for each in weights if each is not None] == [[2, 1, 1, 1], [2, 1, 3, 1]]
    shared = row_weights(value, [(["cat", "cow"], [0, 1]), (["dog", "cat"], [0, 1])], data, 1, 2)
    assert shared is not None and shared.tolist() == [1, 2]  # domain-incremental: of classes in one row, the newest
    note = weights_note(value, torch.tensor([2.0, 1.0]), ["cat", "cow"], torch.tensor([0, 1, 1]), "a")
    assert note == "class weights of task 'a': by class, 1 (cow) to 2 (cat)"
    for nothing in (None, "none"):
        assert row_weights(nothing, seen, data, 1, 4) is None


def learnt_run(values: dict[str, Any], path: Path, **changes: Any) -> tuple[Results, dict[str, Tensor]]:
    recipe = validate(Recipe, {**values, **changes}, "here")
    create_run(recipe, recipe.method, 0, path)
    results = continue_run(path)
    from safetensors.torch import load_file

    return results, load_file(RunFolder.open(path).model(1) / "model.safetensors")


@pytest.mark.parametrize("head", ["masked", pytest.param("seen", marks=pytest.mark.thorough)])
def test_both_loops_of_a_run_agree_and_the_weights_act(
    head: str, digits_recipe: dict[str, Any], tmp_path: Path
) -> None:
    weighed = {**digits_recipe["train"], "class_weights": {1: 8.0, "7": 0.5}, "gradient_accumulation_steps": 2}
    values = {**digits_recipe, "head": head, "method": {"name": "replay", "fraction": 0.3}, "train": weighed}
    (results, trainer), (_, plain) = (learnt_run(values, tmp_path / loop, loop=loop) for loop in LOOPS)
    assert_close(trainer, plain, 0.0)
    assert "class weights of task 'part-1': by class, 1 (0) to 8 (1)" in results.notes
    assert "class weights of task 'part-2': by class, 0.5 (7) to 8 (1)" in results.notes
    # A method, and then a task, may turn them off again.
    values["tasks"] = [
        {
            "name": f"part-{n + 1}",
            "data": {"classes": list(range(5 * n, 5 * n + 5))},
            "train": {"class_weights": "none"},
        }
        for n in range(2)
    ]
    (off, unweighed) = learnt_run(values, tmp_path / "off", loop="plain")
    assert not any("class weights" in note for note in off.notes)
    assert differ(unweighed, plain)


def test_a_method_of_a_comparison_has_weights_of_its_own(digits_recipe: dict[str, Any], tmp_path: Path) -> None:
    method = {"name": "sequential", "train": {"class_weights": "balanced"}}
    results, _ = learnt_run(digits_recipe, tmp_path / "run", loop="plain", method=method)
    assert "class weights of task 'part-1': balanced, 1 (0) to 1 (4)" in results.notes


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("balancd", r"train\.class_weights: should be balanced, none, or .*'balancd'\. Did you mean 'balanced'\?"),
        (2.0, r"train\.class_weights: should be balanced, none, or a weight for each class"),
        ({"cat": 0}, r"train\.class_weights\.cat: a weight should be a number above 0, not 0; .*data\.classes"),
        ({"cat": float("nan")}, r"class_weights\.cat: a weight should be a number above 0"),
        ({"cat": True}, r"class_weights\.cat: a weight should be a number above 0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("loop", LOOPS)
def test_a_wrong_weight_is_refused_with_its_key(value: Any, words: str, loop: str) -> None:
    with pytest.raises(StockpotError, match=words):
        check_train({"class_weights": value}, "r.yaml: train", loop)


def test_a_weight_of_no_class_is_refused_before_there_is_a_folder(
    digits_recipe: dict[str, Any], tmp_path: Path
) -> None:
    digits_recipe["train"]["class_weights"] = {"10": 2.0}
    recipe = checked_recipe(digits_recipe, [], "here")
    with pytest.raises(StockpotError, match=r"train\.class_weights: no task has a class '10'.*Classes: 0, 1, 2"):
        create_run(recipe, recipe.method, 0, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tokens_have_no_class_weights() -> None:
    check_class_names("none", [], "train.class_weights")
    for value in ("balanced", {"cat": 2.0}):
        with pytest.raises(
            StockpotError, match=r"train\.class_weights: only examples with one class each can be weighed"
        ):
            check_class_names(value, [], "train.class_weights")
