"""Which tensors move, by how much, and which errors name the ones that cannot."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from stockpot import SFA, StockpotError
from stockpot.averaging import notes


class Tied(nn.Module):
    """An embedding whose weight is the head's, as in most language models."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


class Normed(nn.Module):
    """A convolution with BatchNorm, and a mask of −inf among the buffers."""

    mask: Tensor
    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, 2)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        self.register_buffer("table", torch.ones(3), persistent=False)


def shift(model: nn.Module, by: float = 1.0) -> None:
    """Moves every trainable parameter, as an optimizer would."""
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.requires_grad:
                tensor.add_(by)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_an_anchor_with_a_wrappers_prefix_moves_the_model(prefix: str) -> None:
    model = nn.Linear(3, 2)
    anchor = {prefix + name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    before = state(model)
    SFA(model, beta=0.25, every=1, anchor=anchor).step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, 0.75 * before[name])


def test_a_wrapped_model_moves_by_a_plain_anchor() -> None:
    class Wrapper(nn.Module):  # the names of DistributedDataParallel
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    inner = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = state(inner)
    anchor = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    for model in (Wrapper(inner), torch.compile(inner), torch.compile(Wrapper(inner))):
        inner.load_state_dict(before)
        SFA(model, beta=0.5, every=1, anchor=anchor).step()
        for name, tensor in inner.state_dict().items():
            torch.testing.assert_close(tensor, 0.5 * before[name])


def test_tied_weights_are_averaged_once() -> None:
    model = Tied().double()
    start = model.embed.weight.detach().clone()
    sfa = SFA(model, beta=0.5, every=1)
    shift(model)
    sfa.step()
    torch.testing.assert_close(model.embed.weight.detach(), start + 0.5)  # twice would give + 0.25
    assert model.head.weight is model.embed.weight


@pytest.mark.parametrize("names", [["embed.weight"], ["head.weight"], ["embed.weight", "head.weight"]])
def test_tied_weights_find_their_anchor_under_any_name(names: list[str]) -> None:
    model = Tied()
    start = model.embed.weight.detach().clone()
    sfa = SFA(model, beta=0.5, every=1, anchor=dict.fromkeys(names, torch.zeros(5, 3)))
    sfa.step()
    torch.testing.assert_close(model.embed.weight.detach(), 0.5 * start)


def test_weights_that_share_memory_without_being_one_parameter_are_averaged_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = nn.Parameter(model[0].weight.data)
    start = model[0].weight.detach().clone()
    sfa = SFA(model, beta=0.5, every=1)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    sfa.step()
    torch.testing.assert_close(model[0].weight.detach(), start + 0.5)


def test_an_anchor_with_two_values_for_one_tied_weight_is_refused() -> None:
    anchor = {"embed.weight": torch.zeros(5, 3), "head.weight": torch.ones(5, 3)}
    with pytest.raises(StockpotError, match=r"'embed.weight' and 'head.weight' are one tied weight"):
        SFA(Tied(), beta=0.5, every=1, anchor=anchor)


def test_frozen_parameters_stay() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    before = state(model)
    SFA(model, beta=0.5, every=1, anchor={name: tensor + 1 for name, tensor in before.items()}).step()
    assert torch.equal(model[0].weight, before["0.weight"])
    torch.testing.assert_close(model[1].weight.detach(), before["1.weight"] + 0.5)


def test_a_parameter_unfrozen_later_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    sfa = SFA(model, beta=0.5, every=1)
    model[0].weight.requires_grad_(True)
    with pytest.raises(StockpotError, match=r"the model at its start\) has no tensor '0.weight' \(2, 2\)"):
        sfa.step()


def test_a_replaced_head_is_noticed() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    sfa = SFA(model, beta=0.5, every=1)
    sfa.step()
    model[1] = nn.Linear(2, 3)
    with pytest.raises(StockpotError, match=r"'1.weight' has shape \(3, 2\) in the model and \(2, 2\)"):
        sfa.step()


def test_a_model_moved_to_another_type_or_place_is_still_averaged() -> None:
    model = nn.Linear(2, 2)
    sfa = SFA(model, beta=0.5, every=1)
    sfa.step()
    model.double()
    before = state(model)
    shift(model)
    sfa.step()
    torch.testing.assert_close(model.weight.detach(), before["weight"] + 0.5)


def test_batchnorm_statistics_are_averaged_or_kept_and_integers_left() -> None:
    for buffers, share in (("average", 0.75), ("keep", 1.0)):
        model = Normed()
        notes._log_once.cache_clear()
        sfa = SFA(model, beta=0.25, every=1, buffers=buffers)
        assert any("BatchNorm running statistics of 1 layers" in note for note in sfa.notes)
        assert model.norm.running_mean is not None
        assert model.norm.num_batches_tracked is not None
        model.norm.running_mean.add_(2.0)
        model.norm.num_batches_tracked.add_(5)
        model.table.add_(1.0)
        sfa.step()
        torch.testing.assert_close(model.norm.running_mean, torch.full((4,), 2.0 * share))
        assert model.norm.num_batches_tracked.item() == 5
        assert torch.equal(model.mask, torch.tensor([0.0, float("-inf")]))  # lerp alone would make it NaN
        assert torch.equal(model.table, torch.full((3,), 2.0))


def test_what_happens_to_batchnorm_is_logged_once(logged: list[str]) -> None:
    notes._log_once.cache_clear()
    for _ in range(3):
        SFA(Normed(), beta=0.25, every=1)
    assert len(logged) == 1


def test_beta_by_name_first_match_wins() -> None:
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    before = state(model)
    sfa = SFA(model, beta={"head.weight": 0.0, "head.*": 1.0, "*": 0.25}, every=1)
    shift(model)
    sfa.step()
    after = model.state_dict()
    for name, moved in {"head.weight": 1.0, "head.bias": 0.0, "body.weight": 0.75, "body.bias": 0.75}.items():
        torch.testing.assert_close(after[name], before[name] + moved)


@pytest.mark.parametrize(
    ("beta", "words"),
    [
        (1.5, r"beta must lie in \[0, 1\].*1.5"),
        (-0.1, r"beta must lie in \[0, 1\]"),
        (float("nan"), r"beta must lie in \[0, 1\]"),
        ("0.1", r"beta must lie in \[0, 1\]"),
        ({"*": 2}, r"beta of '\*' must lie in \[0, 1\]"),
        ({"0.*": 0.1}, r"no pattern matches '1.weight'; add a last pattern '\*'"),
        ({"0.wieght": 0.1, "*": 0.2}, r"beta: no tensor of the model matches '0.wieght'. Did you mean '0.weight'\?"),
        ({}, r"beta has no patterns; give a number, or at least the pattern '\*'"),
    ],
)
def test_a_wrong_beta_is_refused(beta: object, words: str) -> None:
    with pytest.raises(StockpotError, match=words):
        SFA(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), beta=beta, every=1)


def test_a_grown_head_keeps_its_new_rows_and_a_new_one_is_left_alone() -> None:
    old = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 3)})
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 5), "extra": nn.Linear(2, 2)})
    before, anchor = state(model), state(old)
    SFA(model, beta=0.25, every=1, anchor=anchor, new=("head.*", "extra.*")).step()
    after = model.state_dict()
    for name in ("head.weight", "head.bias"):
        torch.testing.assert_close(after[name][:3], 0.75 * before[name][:3] + 0.25 * anchor[name])
        assert torch.equal(after[name][3:], before[name][3:])
    assert torch.equal(after["extra.weight"], before["extra.weight"])
    torch.testing.assert_close(after["body.weight"], 0.75 * before["body.weight"] + 0.25 * anchor["body.weight"])


@pytest.mark.parametrize(
    ("anchor", "new", "words"),
    [
        ({"weight": (3, 2)}, (), r"has no tensor 'bias' \(3,\).*new=\['bias'\]"),
        ({"weight": (3, 2), "bais": (3,)}, (), r"has no tensor 'bias'.* Did you mean 'bais'\?"),
        ({"weight": (3, 2), "bias": (1,)}, (), r"'bias' has shape \(3,\) in the model and \(1,\).*new=\['bias'\]"),
        ({"weight": (3, 2), "bias": ()}, (), r"'bias' has shape \(3,\) in the model and \(\)"),
        ({"weight": (4, 2), "bias": (3,)}, (), r"'weight' has shape \(3, 2\) in the model and \(4, 2\)"),
        ({"weight": (4, 2), "bias": (3,)}, ("weight",), r"new= allows more rows than the anchor has"),
        ({"weight": (2, 1), "bias": (3,)}, ("weight",), r"new= allows more rows than the anchor has"),
        ({"other": (3, 2)}, ("*",), r"nothing to average"),
        ({"weight": (3, 2), "bias": (3,)}, ("haed.*",), r"new: no tensor of the model matches 'haed.\*'"),
    ],
)
def test_an_anchor_of_another_model_is_refused_by_name(
    anchor: dict[str, tuple[int, ...]], new: tuple[str, ...], words: str
) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in anchor.items()}
    with pytest.raises(StockpotError, match=words) as caught:
        SFA(nn.Linear(2, 3), beta=0.5, every=1, anchor=tensors, new=new)
    assert "\n" not in str(caught.value)


def test_tensors_that_the_model_lacks_are_reported() -> None:
    model = nn.Linear(2, 2)
    anchor = {**state(model), "pooler.weight": torch.zeros(2), "position_ids": torch.arange(3)}
    sfa = SFA(model, beta=0.5, every=1, anchor=anchor)
    assert len(sfa.notes) == 1
    assert "1 tensors that the model lacks, not used: 'pooler.weight'" in sfa.notes[0]


def test_the_optimizers_state_is_kept_or_reset() -> None:
    for reset in (False, True):
        model = nn.Linear(2, 2)
        optimizer = torch.optim.Adam(model.parameters())
        sfa = SFA(model, beta=0.5, every=2, optimizer=optimizer, reset_optimizer=reset)
        for _ in range(2):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            sfa.step()
        assert (len(optimizer.state) == 0) is reset
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        assert optimizer.state[model.weight]["step"].item() == (1 if reset else 3)


def test_the_state_of_what_beta_0_leaves_alone_is_not_reset() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    sfa = SFA(model, beta={"bias": 0, "*": 0.5}, every=1, optimizer=optimizer, reset_optimizer=True)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    sfa.step()
    assert list(optimizer.state) == [model.bias]


def test_training_continues_through_an_average_in_place() -> None:
    model = nn.Linear(2, 2)
    pointer, anchor = model.weight.data_ptr(), copy.deepcopy(model.state_dict())
    model(torch.ones(1, 2)).sum().backward()
    SFA(model, beta=0.5, every=1, anchor=anchor).step()
    assert model.weight.data_ptr() == pointer
    assert model.weight.grad is not None
    assert model.weight.is_leaf
    assert model.weight.requires_grad


def test_weights_in_channels_last_order() -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    before = state(model)
    anchor = {name: torch.randn(tensor.shape) for name, tensor in before.items()}
    SFA(model, beta=0.25, every=1, anchor=anchor).step()
    torch.testing.assert_close(model.weight.detach(), 0.75 * before["weight"] + 0.25 * anchor["weight"])
