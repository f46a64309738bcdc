"""SFA in the Trainer: the same weights as the loop written by hand, resumed or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_training import ACCUMULATE, EPOCHS, TOTAL, Regression, Spy, StopAt, train, trainer, weights
from torch import Tensor
from transformers import TrainerCallback

from stockpot import SFA, SFACallback, StockpotError
from stockpot.weights.checkpoint import open_checkpoint, save_checkpoint


@pytest.mark.parametrize("settings", [{"p": 0.25}, {"every": 5}], ids=["p", "every"])
def test_the_trainer_equals_the_loop_written_by_hand(settings: dict[str, Any], tmp_path: Path) -> None:
    callback = SFACallback(beta=0.25, **settings)
    training = trainer(tmp_path, callback, max_grad_norm=0.0)
    training.train()

    batches = []  # the Trainer's own order: it seeds the sampler with args.seed
    twin = trainer(tmp_path, max_grad_norm=0.0)
    for epoch in range(EPOCHS):
        loader = twin.get_train_dataloader()
        loader.set_epoch(epoch)
        batches += list(loader)
    model = Regression()
    sfa = SFA(model, beta=0.25, total_steps=TOTAL, **settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    for first in range(0, len(batches), ACCUMULATE):
        optimizer.zero_grad()
        for batch in batches[first : first + ACCUMULATE]:
            (model(**batch)["loss"] / ACCUMULATE).backward()
        optimizer.step()
        sfa.step()
    assert sfa.steps == TOTAL
    assert callback.sfa.averages == sfa.averages == {"p": 4, "every": 3}[next(iter(settings))]
    torch.testing.assert_close(weights(training.model), weights(model), rtol=1e-5, atol=1e-6)


def test_it_averages_after_updates_only_and_by_the_formula(tmp_path: Path) -> None:
    before, after = Spy(), Spy()
    start = weights(Regression())
    train(tmp_path, before, SFACallback(beta=0.25, p=0.25), after)
    assert len(before.seen) == TOTAL  # updates, not micro-batches
    for step, (tuned, averaged) in enumerate(zip(before.seen, after.seen, strict=True), start=1):
        expected = tuned.lerp(start, 0.25) if step % 3 == 0 else tuned
        torch.testing.assert_close(averaged, expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(averaged, tuned) is bool(step % 3)


def test_beta_0_is_bitwise_the_plain_trainer(tmp_path: Path) -> None:
    assert torch.equal(train(tmp_path / "a"), train(tmp_path / "b", SFACallback(beta=0.0, p=0.25)))


@pytest.mark.parametrize("settings", [{"p": 0.25}, {"every": 2, "keep": "disk"}], ids=["p", "every"])
def test_resumed_equals_unbroken(settings: dict[str, Any], tmp_path: Path) -> None:
    unbroken = SFACallback(beta=0.25, **settings)
    expected = train(tmp_path / "unbroken", unbroken)
    train(tmp_path / "run", SFACallback(beta=0.25, **settings), StopAt(5))
    callback = SFACallback(beta=0.25, **settings)
    resumed = trainer(tmp_path / "run", callback)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-5"))
    assert torch.equal(weights(resumed.model), expected)
    assert (callback.sfa.steps, callback.sfa.averages) == (TOTAL, unbroken.sfa.averages)
    saved = json.loads((tmp_path / "run" / "checkpoint-10" / "sfa_state.json").read_text())
    assert saved["steps"] == 10
    start = open_checkpoint(tmp_path / "run" / "sfa-anchor")
    for name, tensor in Regression().named_parameters():
        assert torch.equal(start[name], tensor)


def test_stochastic_rounding_continues_as_if_unbroken(tmp_path: Path) -> None:
    def run(folder: Path, *callbacks: TrainerCallback, resume: str | None = None, seed: int = 3) -> Tensor:
        sfa = SFACallback(beta=0.25, every=2, rounding="stochastic", seed=seed)
        training = trainer(folder, sfa, *callbacks, learning_rate=0.1)
        training.model.bfloat16()
        for row in training.train_dataset:
            row.update({key: value.bfloat16() for key, value in row.items()})
        training.train(resume_from_checkpoint=resume)
        return weights(training.model)

    unbroken = run(tmp_path / "unbroken")
    assert not torch.equal(run(tmp_path / "other", seed=4), unbroken)
    run(tmp_path / "run", StopAt(5))
    torch.manual_seed(77)
    assert torch.equal(run(tmp_path / "run", resume=str(tmp_path / "run" / "checkpoint-5"), seed=9), unbroken)


def test_resume_from_a_path_anchor_saves_no_copy(tmp_path: Path) -> None:
    save_checkpoint(Regression().state_dict(), tmp_path / "old.safetensors")
    settings: dict[str, Any] = {"beta": 0.25, "p": 0.25, "anchor": tmp_path / "old.safetensors"}
    expected = train(tmp_path / "unbroken", SFACallback(**settings))
    assert torch.equal(expected, train(tmp_path / "start", SFACallback(beta=0.25, p=0.25)))
    train(tmp_path / "run", SFACallback(**settings), StopAt(5))
    assert not (tmp_path / "run" / "sfa-anchor").exists()
    resumed = trainer(tmp_path / "run", SFACallback(**settings))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-5"))
    assert torch.equal(weights(resumed.model), expected)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that stopped at its first checkpoint."""
    train(tmp_path, SFACallback(beta=0.25, p=0.25), StopAt(5))
    return tmp_path


def refusal(folder: Path, **settings: Any) -> str:
    resumed = trainer(folder, SFACallback(**{"beta": 0.25, "p": 0.25, **settings}))
    with pytest.raises(StockpotError) as caught:
        resumed.train(resume_from_checkpoint=str(folder / "checkpoint-5"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_resume_with_other_settings_is_refused(stopped: Path) -> None:
    assert "beta is 0.5 here and 0.25 in" in refusal(stopped, beta=0.5)
    assert "p is 0.5 here and 0.25 in" in refusal(stopped, p=0.5)
    assert "buffers is 'keep' here and 'average' in" in refusal(stopped, buffers="keep")


def test_a_training_that_stops_early_is_averaged_at_its_end(tmp_path: Path, logged: list[str]) -> None:
    spy, callback = Spy(), SFACallback(beta=0.25, p=1)
    result = train(tmp_path, callback, spy, StopAt(5))
    assert callback.sfa.averages == 1
    torch.testing.assert_close(result, spy.seen[-1].lerp(weights(Regression()), 0.25), rtol=1e-6, atol=1e-7)
    assert any("stopped early, at step 5" in message for message in logged)


def test_each_training_takes_an_anchor_of_its_own(tmp_path: Path) -> None:
    callback = SFACallback(beta=1.0, p=1)
    training = trainer(tmp_path, callback)
    training.train()
    with torch.no_grad():
        for tensor in training.model.parameters():
            tensor.add_(1.0)
    second = weights(training.model).clone()
    training.train()
    assert torch.equal(weights(training.model), second)


def test_mistakes_are_reported_when_the_callback_is_made() -> None:
    for settings, words in (
        ({}, "either p .* or every"),
        ({"p": 0.1, "every": 3}, "either p .* or every"),
        ({"p": 1.5}, r"p must lie in \(0, 1\]"),
        ({"p": 0.1, "beta": 1.5}, r"beta must lie in \[0, 1\]"),
    ):
        with pytest.raises(StockpotError, match=words):
            SFACallback(**{"beta": 0.25, **settings})


def test_deepspeed_is_refused(tmp_path: Path) -> None:
    training = trainer(tmp_path, SFACallback(beta=0.25, p=1))
    callback = SFACallback(beta=0.25, p=1)
    arguments = type("Arguments", (), {"deepspeed": "zero2.json"})()
    with pytest.raises(StockpotError, match="train without DeepSpeed"):
        callback.on_train_begin(arguments, training.state, training.control, model=training.model)


class Tracker(TrainerCallback):
    """What a Trainer's tracker does: it comes before the callbacks of the user, and keeps what is logged."""

    def __init__(self) -> None:
        self.logs: dict[int, dict[str, float]] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.logs[state.global_step] = dict(logs)


def test_trackers_get_the_distance_and_the_averages_with_every_log_of_the_loss(tmp_path: Path) -> None:
    tracker, sfa = Tracker(), SFACallback(beta=0.5, every=4)
    trained = trainer(tmp_path, sfa, logging_strategy="steps", logging_steps=2, max_steps=8, save_strategy="no")
    trained.callback_handler.callbacks.insert(0, tracker)
    start = [tensor.detach().clone() for tensor in trained.model.parameters()]
    trained.train()
    moved = [(new - old).pow(2).sum() for new, old in zip(trained.model.parameters(), start, strict=True)]
    assert {step: logs["sfa/averages"] for step, logs in tracker.logs.items()} == {2: 0, 4: 1, 6: 1, 8: 2}
    assert tracker.logs[8]["sfa/distance"] == pytest.approx(torch.stack(moved).sum().sqrt().item(), rel=1e-5)
    history = {entry["step"]: entry for entry in trained.state.log_history if "loss" in entry}
    assert all(history[step]["sfa/distance"] == logs["sfa/distance"] for step, logs in tracker.logs.items())
    trained.train()  # another task: the numbers are there once
    assert {step: logs["sfa/averages"] for step, logs in tracker.logs.items()} == {2: 0, 4: 1, 6: 1, 8: 2}
    assert sum(type(each).__name__ == "NumbersInLogs" for each in trained.callback_handler.callbacks) == 1
