"""SFA counts optimizer steps: not batches that accumulate gradients, nor steps that a gradient scaler skipped."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import GradientState
from accelerate.utils import GradientAccumulationPlugin
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks

from stockpot import SFA


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """Accelerate's state is one for the whole process: each test leaves it as it was."""
    GradientState._reset_state()
    yield
    GradientState._reset_state()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 4).double()


def under_accelerate(
    batches: int, *, epochs: int = 1, with_optimizer: bool = False, sync_with_dataloader: bool = True, **when: Any
) -> tuple[SFA, int]:
    """The two lines of the README inside `accumulate`; the SFA, and how many updates Accelerate made."""
    plugin = GradientAccumulationPlugin(num_steps=4, sync_with_dataloader=sync_with_dataloader)
    accelerator = Accelerator(cpu=True, gradient_accumulation_plugin=plugin)
    model = network()
    rows = torch.ones(batches, 4, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, torch.utils.data.DataLoader(rows))
    sfa = SFA(model, beta=0.25, optimizer=optimizer if with_optimizer else None, **(when or {"every": 4}))
    updates = 0
    for _ in range(epochs):
        for x in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(x).sum())
                optimizer.step()
                updates += accelerator.sync_gradients
                averaged = sfa.step()
                assert averaged is bool(accelerator.sync_gradients and sfa.schedule.due(updates))
                optimizer.zero_grad()
    return sfa, updates


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_under_accelerate_batches_that_accumulate_do_not_count(with_optimizer: bool) -> None:
    sfa, updates = under_accelerate(32, with_optimizer=with_optimizer)
    assert (updates, sfa.steps, sfa.averages) == (8, 8, 2)


def test_the_last_batches_of_an_epoch_are_a_step_where_accelerate_makes_one() -> None:
    sfa, updates = under_accelerate(6, epochs=4)  # 4 and 2 batches
    assert (updates, sfa.steps, sfa.averages) == (8, 8, 2)
    sfa, updates = under_accelerate(6, epochs=4, sync_with_dataloader=False)
    assert (updates, sfa.steps, sfa.averages) == (6, 6, 1)


def test_finish_averages_after_batches_that_did_not_count() -> None:
    sfa, _ = under_accelerate(23, sync_with_dataloader=False)
    assert (sfa.steps, sfa.averages) == (5, 1)
    assert sfa.finish()
    assert not sfa.finish()


def broken_off() -> None:
    """An Accelerate loop that was interrupted between two updates."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    with accelerator.accumulate(network()):
        pass
    assert GradientState().sync_gradients is False


@pytest.mark.parametrize("lr", [0.1, 0.0])
def test_a_plain_loop_counts_whatever_accelerate_left_in_the_process(lr: float) -> None:
    broken_off()
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    sfa = SFA(model, beta=0.25, every=2)
    for _ in range(6):
        model(torch.ones(2, 4, dtype=torch.float64)).sum().backward()
        optimizer.step()
        sfa.step()
    assert (sfa.steps, sfa.averages) == (6, 3)


def test_unseen_updates_after_such_a_loop_are_reported(logged: list[str]) -> None:
    broken_off()
    sfa = SFA(network(), beta=0.25, every=2)
    for _ in range(100):
        sfa.step()
    assert sfa.steps == 0
    assert sum("64 calls of SFA.step() in a row were not counted" in message for message in logged) == 1


def test_a_loop_that_never_uses_accelerate_counts_every_call() -> None:
    assert not GradientState._shared_state
    sfa = SFA(network(), beta=0.25, every=2)
    assert [sfa.step() for _ in range(4)] == [False, True, False, True]
    assert not GradientState._shared_state  # and does not create it


@pytest.mark.parametrize(("total_steps", "warnings"), [(4711 * 6, 1), (4711 * 2, 0)], ids=["of batches", "of steps"])
def test_total_steps_that_may_count_batches_is_reported_once(
    total_steps: int, warnings: int, logged: list[str]
) -> None:
    under_accelerate(6, epochs=2, p=1, total_steps=total_steps)
    words = f"total_steps, {total_steps}, must be the number of optimizer steps"
    assert sum(words in message for message in logged) == warnings


def scaled_loop(pass_optimizer: bool, overflow: set[int]) -> SFA:
    """Eight steps under a gradient scaler, of which those in `overflow` have infinite gradients."""
    model = network().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    sfa = SFA(model, beta=0.25, every=2, optimizer=optimizer if pass_optimizer else None)
    for step in range(8):
        factor = float("inf") if step in overflow else 1.0
        scaler.scale(model(torch.ones(2, 4)).sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        sfa.step()
        optimizer.zero_grad()
    return sfa


def test_a_step_that_a_gradient_scaler_skipped_does_not_count_where_the_optimizer_is_known() -> None:
    sfa = scaled_loop(True, overflow={0, 3, 4})
    assert (sfa.steps, sfa.averages) == (5, 2)
    assert scaled_loop(True, overflow=set()).steps == 8
    assert scaled_loop(False, overflow={0, 3, 4}).steps == 8  # not known, as step() says


def test_a_skipped_step_of_accelerate_does_not_count() -> None:
    accelerator = Accelerator(cpu=True)
    model = network().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    model, optimizer = accelerator.prepare(model, optimizer)
    sfa = SFA(model, beta=0.25, every=2, optimizer=optimizer)
    for step in range(6):
        loss = model(torch.ones(2, 4)).sum() * (float("inf") if step in (0, 3) else 1.0)
        accelerator.scaler.scale(loss).backward()
        optimizer.step()
        assert optimizer.step_was_skipped is (step in (0, 3))
        sfa.step()
        optimizer.zero_grad()
    assert (sfa.steps, sfa.averages) == (4, 2)


def test_a_trainer_that_counts_a_skipped_step_does_not_average_the_same_weights_twice() -> None:
    model = network()
    start = model.weight.detach().clone()
    sfa = SFA(model, beta=0.5, every=2)
    with torch.no_grad():
        model.weight.add_(1.0)
    assert not sfa.reach(1)
    assert sfa.reach(2, skipped=True)  # the first step is still to be averaged
    assert not sfa.reach(3, skipped=True)
    assert not sfa.reach(4, skipped=True)
    torch.testing.assert_close(model.weight.detach(), start + 0.5)
    assert not sfa.reach(5)
    assert sfa.reach(6)
    assert (sfa.steps, sfa.averages) == (6, 2)


def test_a_deleted_sfa_leaves_no_hook() -> None:
    gc.collect()
    before = len(_global_optimizer_post_hooks)
    model = network()
    sfa = SFA(model, beta=0.25, every=2)
    assert len(_global_optimizer_post_hooks) == before + 1
    del sfa  # at once, without the garbage collector: it holds the anchor
    assert len(_global_optimizer_post_hooks) == before


def test_the_optimizer_of_another_model_does_not_count() -> None:
    broken_off()
    model, other = network(), network()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    sfa = SFA(model, beta=0.25, every=1)
    other(torch.ones(2, 4, dtype=torch.float64)).sum().backward()
    optimizer.step()
    assert not sfa.step()
    assert sfa.steps == 0
