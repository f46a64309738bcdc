"""Every method on prompts that a decoder answers: T5, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rehearsing import second_task
from speaking import answered, log_likelihood, t5
from toy import LOOPS, Train, assert_same, config

from stockpot.batches.answered_examples import AnsweredExamples
from stockpot.batches.examples import concat
from stockpot.batches.outputs import logits_of
from stockpot.errors import StockpotError
from stockpot.importance.fisher import fisher
from stockpot.methods import registry
from stockpot.methods.base import Task
from stockpot.methods.shared.buffer import Buffer

SAMPLE = ["sequential", "sfa", "replay", "ewc", "lwf", "agem"]  # look at examples, or average tied weights
LOOPED = [
    pytest.param(
        name, loop, marks=[] if name in SAMPLE and (loop == "plain" or name in SAMPLE[:3]) else pytest.mark.thorough
    )
    for name in registry()
    for loop in LOOPS
]


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((tensor - other[name]).abs().max()) for name, tensor in one.items())


@pytest.mark.parametrize(("name", "loop"), LOOPED)
def test_every_method_changes_the_second_task(name: str, loop: str, train: Train) -> None:
    learnt = train(name, loop, dict(registry()[name].typical), on="answers")
    plain = train("sequential", "plain", {}, on="answers")
    assert_same(learnt.weights[1], plain.weights[1])  # the first task is plain fine-tuning
    assert (furthest(learnt.weights[2], plain.weights[2]) > 1e-3) == (registry()[name].role != "floor")
    if loop == "trainer":
        assert_same(learnt.weights[2], train(name, "plain", dict(registry()[name].typical), on="answers").weights[2])


def test_the_fisher_is_that_of_whole_answers() -> None:
    model, examples = t5().eval(), answered(0, many=6)
    found = fisher(model, examples, "empirical", logits=logits_of, batch_size=4)
    expected = {name: torch.zeros_like(tensor) for name, tensor in model.named_parameters()}
    for index in range(6):
        value = log_likelihood(model, examples.__getitems__([index]))
        slopes = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
        for into, slope in zip(expected.values(), slopes, strict=True):
            if slope is not None:
                into.add_(slope.square(), alpha=1 / 6)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor.detach(), rtol=1e-4, atol=1e-5 * float(tensor.max()))


def test_a_task_that_is_stopped_inside_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rehearsing.examples", answered)
    method = config("replay", budget="reservoir", count=9)
    whole, (tensors, values) = second_task(method, "plain", tmp_path / "whole", model=t5())
    weights, (again, values_again) = second_task(method, "plain", tmp_path / "stopped", 2, model=t5())
    assert_same(weights, whole)
    assert values_again == values
    assert again.keys() == tensors.keys() >= {"tokens", "ends", "decoder_tokens", "targets", "answer_ends"}
    assert all(torch.equal(tensor, again[key]) for key, tensor in tensors.items())


def test_a_buffer_of_answers_stores_no_padding_and_notices_damage() -> None:
    buffer = Buffer(config("replay", count=6))
    for number in range(2):
        buffer.check(Task(number, "a", number, model=t5(), language=True), answered(number))
        buffer.fill(Task(number, "a", number, model=t5(), language=True), answered(number))
    held: Any = buffer.examples
    assert isinstance(held, AnsweredExamples) and len(held) == 12
    assert buffer.nbytes == 4 * (len(held.tokens) + 2 * len(held.targets)) + 8 * 24
    tensors, state = buffer.state()
    again = Buffer(buffer.config)
    again.load_state(tensors, state)
    batches = [each.examples.__getitems__([11, 0]) for each in (buffer, again)]
    assert all(torch.equal(tensor, batches[1][key]) for key, tensor in batches[0].items())
    with pytest.raises(StockpotError, match=r"buffer is damaged: 12 examples were kept, it holds .*targets: 3"):
        Buffer(buffer.config).load_state({**tensors, "targets": tensors["targets"][:3]}, state)


def test_examples_that_are_joined_are_those_that_went_in() -> None:
    both = concat([answered(0), answered(1).picked([3, 1])])
    assert isinstance(both, AnsweredExamples)
    for place, (part, index) in {5: (answered(0), 5), 22: (answered(1), 3), 23: (answered(1), 1)}.items():
        one, other = both.__getitems__([place]), part.__getitems__([index])
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
