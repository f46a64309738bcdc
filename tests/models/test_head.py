"""The output layer is found by its rows, and grows without touching those that it has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stockpot.errors import StockpotError
from stockpot.models.head import find_head, fit_head, grow_head, name_rows
from stockpot.models.networks import cnn, mlp
from stockpot.models.spec import ModelSpec
from stockpot.models.start import start_model


def test_the_head_of_every_architecture_is_found_and_is_the_output(config: dict[str, Any]) -> None:
    model = start_model(ModelSpec(config=config), 7, seed=0).eval()
    size = config.get("image_size", 16)
    pixels = torch.randn(2, 3, size, size)
    head = model.get_submodule(find_head(model, 7))
    seen: list[torch.Tensor] = []
    handle = head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits = model(pixels).logits
    handle.remove()
    assert torch.equal(seen[-1].reshape(2, -1), logits)


def test_growing_keeps_every_logit_that_there_was(config: dict[str, Any]) -> None:
    model = start_model(ModelSpec(config=config), 3, seed=0).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    size = config.get("image_size", 16)
    pixels = torch.randn(2, 3, size, size)
    old = model(pixels).logits
    name = find_head(model, 3)
    grow_head(model, name, 8, torch.Generator().manual_seed(1))
    new = model(pixels).logits
    assert new.shape == (2, 8)
    torch.testing.assert_close(new[:, :3], old, rtol=1e-6, atol=1e-7)
    for key, tensor in model.state_dict().items():
        if key.startswith(name):
            assert len(tensor) == 8
            assert torch.equal(tensor[:3], before[key])  # bitwise
        else:
            assert torch.equal(tensor, before[key])
    assert find_head(model, 8) == name


@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.integers(0, 99))
def test_new_rows_depend_on_the_generator_only(rows: int, more: int, bias: bool, seed: int) -> None:
    def grown(noise: int) -> nn.Linear:
        torch.manual_seed(noise)
        layer = nn.Linear(5, rows, bias=bias)
        model = nn.Sequential(layer)
        grow_head(model, "0", rows + more, torch.Generator().manual_seed(seed))
        return layer

    one, other = grown(1), grown(2)
    assert one.out_features == rows + more
    assert torch.equal(one.weight[rows:], other.weight[rows:])
    assert not torch.equal(one.weight[:rows], other.weight[:rows])
    assert one.weight[rows:].abs().max() <= 5**-0.5  # drawn as nn.Linear draws its own
    assert one.weight[rows:].abs().max() > 0
    assert isinstance(one.weight, nn.Parameter)
    assert (one.bias is None) == (not bias)
    if bias:
        assert torch.equal(one.bias[rows:], other.bias[rows:])


def test_new_rows_of_a_transformers_model_are_drawn_as_it_draws_its_own(vit: dict[str, Any]) -> None:
    model = start_model(ModelSpec(config={**vit, "hidden_size": 64, "initializer_range": 0.5}), 2, seed=0)
    grow_head(model, "classifier", 400, torch.Generator().manual_seed(0))
    head = model.classifier
    assert abs(float(head.weight[2:].detach().std()) - 0.5) < 0.01
    assert torch.equal(head.bias[2:], torch.zeros(398))


def test_rows_grown_in_steps_depend_on_the_runs_seed_and_the_step() -> None:
    def grown(seed: int, *steps: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = mlp(2, inputs=4, hidden=[3])
        for before, rows in zip((2, *steps), steps, strict=False):
            fit_head(model, ModelSpec(build="a:b"), before, rows, seed)
        return model[-1].weight.detach()

    assert torch.equal(grown(0, 4, 6), grown(0, 4, 6))
    assert torch.equal(grown(0, 4, 6)[:4], grown(0, 4))
    assert not torch.equal(grown(1, 4), grown(0, 4))
    assert torch.equal(grown(0, 2), grown(5, 2))  # nothing to grow


def test_a_head_never_shrinks() -> None:
    with pytest.raises(StockpotError, match="'3' already has 5 rows, more than 4"):
        grow_head(mlp(5, inputs=4, hidden=[3]), "3", 4, torch.Generator())


def test_the_user_may_name_the_head_and_a_wrong_name_is_an_error() -> None:
    model = mlp(3, inputs=3, hidden=[3, 3])
    assert find_head(model, 3) == "5"  # the last of the three that have three rows
    assert find_head(model, 3, "1") == "1"
    with pytest.raises(StockpotError, match=r"model\.head: 'clasifier' is not a linear layer of the model"):
        find_head(model, 3, "clasifier")
    with pytest.raises(StockpotError, match=r"model\.head: '5' has 3 rows, the stream needs 4"):
        find_head(model, 4, "5")
    with pytest.raises(StockpotError, match=r"the model has no linear layer with 4 outputs"):
        find_head(model, 4)


def test_the_configuration_names_the_rows(vit: dict[str, Any]) -> None:
    model = start_model(ModelSpec(config=vit), 3, seed=0)
    name_rows(model, ["cat", "dog", "cow"])
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "cow"}
    assert model.config.label2id == {"cat": 0, "dog": 1, "cow": 2}
    assert model.config.num_labels == model.num_labels == 3


@pytest.mark.parametrize(
    ("model", "pixels", "parameters"),
    [
        (mlp(3, inputs=12, hidden=[5, 4]), torch.zeros(2, 3, 2, 2), 12 * 5 + 5 + 5 * 4 + 4 + 4 * 3 + 3),
        (cnn(3, channels=1, width=2), torch.zeros(2, 1, 8, 8), (18 + 2 + 4) + (72 + 4 + 8) + (288 + 8 + 16) + 24 + 3),
    ],
)
def test_the_built_in_networks_have_the_size_that_they_say(
    model: nn.Module, pixels: torch.Tensor, parameters: int
) -> None:
    assert model(pixels).shape == (2, 3)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
