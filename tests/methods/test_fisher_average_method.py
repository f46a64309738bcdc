"""Fisher averaging: each model is weighted by its own Fisher, which is estimated at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from merging_by_hand import TASKS, Grown, add_row, mean, parallel, run, shifted, steps
from torch import nn
from toy import LOOPS, Weights, assert_close, assert_same, config, copied, network, seed

import stockpot
from stockpot.batches.examples import Examples
from stockpot.errors import StockpotError
from stockpot.methods import fisher_average
from stockpot.seeds import derive, generator


def weighted(models: list[Weights], fishers: list[Weights]) -> Weights:
    found = {}
    for name in models[0]:
        weights = torch.stack([one[name] for one in fishers]) + 1e-12
        found[name] = (weights * torch.stack([model[name] for model in models])).sum(0) / weights.sum(0)
    return found


def test_fisher_average_weighs_each_model_by_its_own_fisher(fishers: list[Weights], tmp_path: Path) -> None:
    learnt, models = run("fisher_average", tmp_path), parallel()
    for at, model in zip(fishers, models, strict=True):
        assert_close(at, model)  # each estimated at what training left
    for index in range(3):
        draws = generator(seed(index), "fisher")
        fishers[index] = {name: torch.rand(one.shape, generator=draws).double() for name, one in models[index].items()}
    assert_close(learnt.weights[3], weighted(models, fishers))


@pytest.mark.parametrize("loop", LOOPS)
def test_fisher_average_with_the_exact_fisher_of_each_model(loop: str, tmp_path: Path) -> None:
    learnt, models, found = run("fisher_average", tmp_path, loop, samples=None), parallel(), []
    for own, weights in zip(TASKS, models, strict=True):
        model = network()
        model.load_state_dict(weights)
        squares = {name: torch.zeros_like(one) for name, one in weights.items()}
        for image in own.pixel_values:
            logs = model(image[None])[0].log_softmax(0)
            for row in range(4):
                gradients = torch.autograd.grad(logs[row], list(model.parameters()), retain_graph=True)
                for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
                    squares[name] += logs[row].exp().detach() * gradient**2 / len(own)
        found.append(squares)
    assert_close(learnt.weights[3], weighted(models, found), 1e-10)
    assert max(float((tensor - mean(models)[name]).abs().max()) for name, tensor in learnt.weights[3].items()) > 1e-2


def test_fisher_average_with_equal_fishers_is_the_soup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def ones(model: nn.Module, own: Examples, kind: str, **more: Any) -> Weights:
        return {name: torch.full_like(one, 0.37) for name, one in model.named_parameters()}

    monkeypatch.setattr(fisher_average, "fisher", ones)
    learnt = run("fisher_average", tmp_path / "fisher", first_task="average")
    assert_close(learnt.weights[1], parallel()[0])  # the mean of one model
    assert_close(learnt.weights[3], run("soup", tmp_path / "soup").weights[3])


def test_fisher_average_asks_for_the_fisher_of_its_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[Any, ...]] = []

    def fisher(model: nn.Module, own: Examples, kind: str, **more: Any) -> Weights:
        asked.append((own, kind, more["samples"], more["draws"].initial_seed()))
        batch = own.__getitems__([0, 1])
        assert torch.equal(more["logits"](model, batch), model(batch["pixel_values"]))
        return {name: torch.ones_like(one) for name, one in model.named_parameters()}

    monkeypatch.setattr(fisher_average, "fisher", fisher)
    run("fisher_average", tmp_path / "default")
    run("fisher_average", tmp_path / "other", fisher="empirical", samples=7)
    assert [(one[0], *one[1:3]) for one in asked[:3]] == [(own, "exact", 500) for own in TASKS]
    assert [(one[0], *one[1:3]) for one in asked[3:]] == [(own, "empirical", 7) for own in TASKS]
    assert [one[3] for one in asked[:3]] == [derive(seed(index), "fisher") for index in range(3)]


def test_fisher_average_takes_a_row_that_only_the_newest_model_had_from_that_model(
    fishers: list[Weights], tmp_path: Path
) -> None:
    found = steps(config("fisher_average"), tmp_path, Grown(), [shifted(index) for index in range(2)], add_row)
    merged, newest = copied(found.models[1]), fishers[1]
    torch.testing.assert_close(merged["head.weight"][2:], newest["head.weight"][2:], rtol=1e-10, atol=1e-10)
    assert (merged["head.weight"][:2] - newest["head.weight"][:2]).abs().max() > 1e-2


def test_fishers_in_memory_are_those_of_files(tmp_path: Path) -> None:
    from stockpot.weights.checkpoint import save_checkpoint

    draws = torch.Generator().manual_seed(0)
    models, held = ([{"a": torch.randn(3, 2, generator=draws).abs(), "b": torch.randn(4, generator=draws).abs()}
                     for _ in range(2)] for _ in range(2))  # fmt: skip
    files = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for file, one in zip(files, held, strict=True):
        save_checkpoint(one, file)
        file.with_suffix(".json").write_text("{}")
    merged = stockpot.merge("fisher", models, fisher=held)
    assert_same(merged, stockpot.merge("fisher", models, fisher=[str(file) for file in files]))
    assert_same(merged, stockpot.merge("fisher", models, fisher=[held[0], str(files[1])]))
    with pytest.raises(StockpotError, match=r"fisher\[1\]: 'a' is F32 \[1, 2\]: it is the Fisher of another model"):
        stockpot.merge("fisher", models, fisher=[held[0], {"a": torch.ones(1, 2)}])
    with pytest.raises(StockpotError, match=r"fisher\[1\] has none of the model's tensors"):
        stockpot.merge("fisher", models, fisher=[held[0], {"c": torch.ones(1, 2)}])
