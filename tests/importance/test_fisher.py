"""The five Fishers against their formulas, and their form on disk."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from brute import CLASSES, Twice, by_loop, clouds, settled
from torch import Tensor, nn

import stockpot
from stockpot.batches.examples import TensorExamples
from stockpot.batches.outputs import logits_of
from stockpot.errors import StockpotError
from stockpot.importance.fisher import convention, default_kind, fisher, load_fisher, save_fisher
from stockpot.importance.sensitivity import sensitivity
from stockpot.seeds import generator

Weights = dict[str, Tensor]


def assert_close(found: Weights, expected: Weights, tolerance: float = 1e-12) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance * float(tensor.max()))


def test_the_exact_fisher_is_the_diagonal_of_the_hessian_for_softmax_regression() -> None:
    model, examples = settled(nn.Linear(5, CLASSES)), clouds(5, many=30)

    def loss(flat: Tensor) -> Tensor:
        weight, bias = flat[: 5 * CLASSES].view(CLASSES, 5), flat[5 * CLASSES :]
        return nn.functional.cross_entropy(examples.pixel_values @ weight.T + bias, examples.labels)

    flat = torch.cat([model.weight.detach().flatten(), model.bias.detach()])
    hessian = torch.func.hessian(loss)(flat).diagonal()
    found = fisher(model, examples, "exact", logits=logits_of, batch_size=7)
    ours = torch.cat([found["weight"].flatten(), found["bias"]])
    torch.testing.assert_close(ours, hessian, rtol=1e-13, atol=0.0)


def test_the_fisher_of_a_logistic_unit_in_numbers() -> None:
    model = nn.Linear(1, 2, bias=False).double()
    model.weight.data = torch.tensor([[math.log(3.0)], [0.0]], dtype=torch.float64)  # p = (3/4, 1/4) at x = 1
    examples = TensorExamples(torch.ones(1, 1, dtype=torch.float64), torch.tensor([0]))
    assert_close(fisher(model, examples, "exact", logits=logits_of), {"weight": torch.full((2, 1), 3 / 16).double()})
    assert_close(
        fisher(model, examples, "empirical", logits=logits_of), {"weight": torch.full((2, 1), 1 / 16).double()}
    )
    omega = sensitivity(model, examples, logits=logits_of)  # ‖f‖² = (wx)², whose derivative is 2wx²: here 2 log 3 and 0
    assert_close(omega, {"weight": 2 * model.weight.detach()})


def test_the_fisher_of_the_predicted_label_needs_no_labels() -> None:
    model = nn.Linear(1, 2, bias=False).double()
    model.weight.data = torch.tensor([[math.log(3.0)], [0.0]], dtype=torch.float64)  # p = (3/4, 1/4) at x = 1
    both = TensorExamples(torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([1, 0]))  # both labels are the other's
    wanted = {"weight": torch.full((2, 1), 1 / 16).double()}  # (1 − 3/4)² of either example
    assert_close(fisher(model, both, "predicted", logits=logits_of), wanted)
    assert_close(fisher(model, both, "empirical", logits=logits_of), {"weight": torch.full((2, 1), 9 / 16).double()})
    assert convention("predicted", 2, 64)["variant"] == "predicted"


def test_the_sampled_fisher_is_unbiased_and_follows_its_generator() -> None:
    model, examples = settled(Twice()), clouds(6, many=12)
    exact = fisher(model, examples, "exact", logits=logits_of)
    draws, times = generator(0, "fisher"), 100
    found = [fisher(model, examples, "sample", logits=logits_of, draws=draws) for _ in range(times)]
    for name, tensor in exact.items():
        every = torch.stack([each[name] for each in found])
        error = every.std(0) / times**0.5
        assert bool((every.std(0).max() > 0.01 * tensor.max()).all()), "nothing was drawn"
        assert bool(((every.mean(0) - tensor).abs() <= 5 * error + 1e-12).all())
    again = fisher(model, examples, "sample", logits=logits_of, draws=generator(0, "fisher"))
    for name, tensor in found[0].items():
        assert torch.equal(again[name], tensor)


def test_the_batched_fisher_shrinks_with_the_batch_and_is_the_empirical_one_at_one() -> None:
    torch.manual_seed(1)
    model, many = settled(nn.Linear(5, CLASSES)), 4000
    inputs = torch.randn(many, 5, dtype=torch.float64)
    labels = torch.multinomial(model(inputs).softmax(1), 1).flatten()  # at the optimum, where mean gradients vanish
    examples = TensorExamples(inputs, labels)
    exact = fisher(model, examples, "exact", logits=logits_of)
    few = examples.picked(list(range(100)))
    empirical = fisher(model, few, "empirical", logits=logits_of)
    assert_close(fisher(model, few, "batched", logits=logits_of, batch_size=1), empirical)
    for size in (4, 10, 40):
        found = fisher(model, examples, "batched", logits=logits_of, batch_size=size)
        ratio = float(found["weight"].sum() / exact["weight"].sum()) * size
        assert abs(ratio - 1) < 5 * (2 * size / many) ** 0.5, f"{ratio} at {size}"


def test_a_smaller_last_batch_counts_by_its_size() -> None:
    model, examples = settled(Twice()), clouds(6)
    expected = {name: torch.zeros_like(tensor) for name, tensor in model.named_parameters()}
    for picked in (range(3), range(3, 6), range(6, 7)):
        batch = examples.__getitems__(picked)
        loss = nn.functional.cross_entropy(logits_of(model, batch), batch["labels"])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for into, gradient in zip(expected.values(), gradients, strict=True):
            into.data += len(picked) / 7 * gradient**2
    assert_close(fisher(model, examples, "batched", logits=logits_of, batch_size=3), expected)


def test_samples_are_chosen_without_replacement_by_the_generator() -> None:
    model, examples = settled(Twice()), clouds(6, many=20)
    picked = torch.randperm(20, generator=generator(0, "x"))[:9]
    some = TensorExamples(examples.pixel_values[picked], examples.labels[picked])
    told: list[int] = []
    found = fisher(
        model,
        examples,
        "exact",
        logits=logits_of,
        samples=9,
        draws=generator(0, "x"),
        batch_size=4,
        on_progress=told.append,
    )
    assert_close(found, by_loop(model, some, "exact"))
    assert told == [4, 8, 9]
    omega = sensitivity(model, examples, logits=logits_of, samples=9, draws=generator(0, "x"))
    assert_close(omega, by_loop(model, some, "sensitivity"))
    everything = fisher(model, examples, "exact", logits=logits_of, samples=50)
    assert_close(everything, by_loop(model, examples, "exact"))


def test_mistakes_are_told_in_one_line() -> None:
    model, examples = settled(Twice()), clouds(6)
    for said, kind, keys in [
        ("Did you mean 'exact'", "exakt", {}),
        ("'sample' draws labels", "sample", {}),
        ("samples: 0", "exact", {"samples": 0}),
        ("needs `draws`", "exact", {"samples": 2}),
        ("batch_size: 0", "batched", {"batch_size": 0}),
    ]:
        with pytest.raises(StockpotError, match=said):
            fisher(model, examples, kind, logits=logits_of, **keys)
    with pytest.raises(StockpotError, match="examples: 0"):
        sensitivity(model, clouds(6, many=0), logits=logits_of)
    with pytest.raises(StockpotError, match=r"the logits of 3 examples are \[3, 4, 1\]"):
        fisher(model, examples, "exact", logits=lambda model, batch: logits_of(model, batch)[..., None])


def test_default_kind_is_exact_up_to_a_hundred_classes() -> None:
    assert [default_kind(rows) for rows in (2, 100, 101)] == ["exact", "exact", "sample"]


def test_a_saved_fisher_comes_back_and_weighs_a_merge(tmp_path: Path) -> None:
    models = [settled(Twice()), settled(Twice())]
    fishers = [fisher(model, clouds(6), "exact", logits=logits_of) for model in models]
    for number, found in enumerate(fishers):
        save_fisher(found, convention("exact", 7, 64), tmp_path / str(number))
        tensors, values = load_fisher(tmp_path / str(number), models[number])
        assert values == convention("exact", 7, 64) == json.loads(json.dumps(values))
        for name, tensor in found.items():
            assert torch.equal(tensors[name], tensor)
    states = [dict(model.state_dict()) for model in models]
    merged = stockpot.merge("fisher", states, fisher=[str(tmp_path / "0"), str(tmp_path / "1")], floor=1e-12)
    for name, tensor in fishers[0].items():
        weights = [tensor + 1e-12, fishers[1][name] + 1e-12]
        expected = (weights[0] * states[0][name] + weights[1] * states[1][name]) / (weights[0] + weights[1])
        torch.testing.assert_close(merged[name], expected, rtol=1e-6, atol=1e-9)


def test_a_file_that_is_no_fisher_of_the_model_is_refused_in_one_line(tmp_path: Path) -> None:
    model = settled(Twice())
    found = fisher(model, clouds(6), "empirical", logits=logits_of)

    def refusal(tensors: Weights, said: str = '{"variant": "empirical"}') -> str:
        save_fisher(tensors, {}, tmp_path / "f")
        (tmp_path / "f" / "fisher.json").write_text(said)
        with pytest.raises(StockpotError) as caught:
            load_fisher(tmp_path / "f" / "fisher.safetensors", model)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "another model" in refusal({**found, "head.bias": torch.zeros(9)})
    assert "'head.bias' is missing" in refusal({key: value for key, value in found.items() if key != "head.bias"})
    assert "'head.bias' holds values that are not finite numbers" in refusal(
        {**found, "head.bias": torch.full((4,), -1.0)}
    )
    assert "'head.bias' holds values that are not finite numbers" in refusal(
        {**found, "head.bias": torch.full((4,), math.nan)}
    )
    assert "not a JSON object" in refusal(found, "[]")
    assert "does not say how" in refusal(found, "{")
    with pytest.raises(StockpotError, match=r"nowhere"):
        load_fisher(tmp_path / "nowhere")
    save_fisher(found, {}, tmp_path / "pickle")
    (tmp_path / "pickle" / "fisher.safetensors").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(StockpotError, match="not a whole safetensors file"):
        load_fisher(tmp_path / "pickle")
