"""A training that ends early, and the best of its checkpoints: never plain fine-tuning passed off as SFA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hf_training import TOTAL, Regression, Spy, StopAt, trainer, weights
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from stockpot import SFACallback, StockpotError
from stockpot.weights.checkpoint import open_checkpoint

BEST: dict[str, Any] = {"load_best_model_at_end": True, "metric_for_best_model": "loss"}


class Scores:
    """Gives the evaluations of a Trainer these losses, one after the other, whatever the weights."""

    def __init__(self, training: Trainer, losses: list[float]) -> None:
        loop, rest = training.evaluation_loop, iter(losses)
        self.steps: list[int] = []

        def scored(*arguments: Any, **settings: Any) -> Any:
            self.steps.append(training.state.global_step)
            output = loop(*arguments, **settings)
            return output._replace(metrics={**output.metrics, "eval_loss": next(rest)})

        training.evaluation_loop = scored


def run(folder: Path, callback: SFACallback, losses: list[float], *more: Any, **settings: Any) -> tuple[Any, Spy]:
    """The Trainer, and the weights after each update, before SFA's turn."""
    spy = Spy()
    training = trainer(folder, spy, callback, *more, **settings)
    scores = Scores(training, losses)
    training.train()
    training.evaluated = scores.steps
    return training, spy


def averaged(tuned: torch.Tensor) -> torch.Tensor:
    return tuned.lerp(weights(Regression()), 0.25)


def stopping(**settings: Any) -> dict[str, Any]:
    return {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "metric_for_best_model": "loss", **settings}


def test_early_stopping_before_the_first_average_ends_with_one(tmp_path: Path, logged: list[str]) -> None:
    callback = SFACallback(beta=0.25, every=10)
    training, spy = run(tmp_path, callback, [1.0, 2.0], EarlyStoppingCallback(1), **stopping())
    assert training.state.global_step == 4
    assert callback.sfa.averages == 1
    torch.testing.assert_close(weights(training.model), averaged(spy.seen[-1]), rtol=1e-6, atol=1e-7)
    assert any("stopped early, at step 4" in message for message in logged)
    on_disk = open_checkpoint(tmp_path / "checkpoint-4")  # to resume from, as an unbroken training would be there
    assert all(torch.equal(on_disk[name], spy_part) for name, spy_part in parts(spy.seen[-1]).items())


def parts(flat: torch.Tensor) -> dict[str, torch.Tensor]:
    shapes = {name: tensor.shape for name, tensor in Regression().named_parameters()}
    pieces = flat.split([shape.numel() for shape in shapes.values()])
    return {name: piece.view(shapes[name]) for name, piece in zip(shapes, pieces, strict=True)}


@pytest.mark.parametrize(
    ("settings", "step", "interval"),
    [
        ({"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, **BEST}, 2, 2),
        ({"eval_strategy": "steps", "eval_steps": 0.25, "save_steps": 0.25, **BEST}, 3, 3),
        ({"eval_strategy": "epoch", "save_strategy": "epoch", **BEST}, 6, 6),
        ({"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "best", "metric_for_best_model": "loss"}, 4, 4),
    ],
    ids=["steps", "fractions", "epochs", "saving the best"],
)
def test_a_best_between_two_averages_is_refused_before_the_first_step(
    settings: dict[str, Any], step: int, interval: int, tmp_path: Path
) -> None:
    training = trainer(tmp_path, SFACallback(beta=0.25, every=5), **settings)
    with pytest.raises(StockpotError) as caught:
        training.train()
    assert f"would compare the evaluation at step {step}, which lies between two averages" in str(caught.value)
    assert f"every={interval}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert training.state.global_step == 0
    callback = SFACallback(beta=0.25, every=interval)  # the remedy
    trainer(tmp_path, callback, **settings).train()
    assert callback.sfa.averages == TOTAL // interval


def test_p_that_averages_at_every_evaluation_is_accepted(tmp_path: Path) -> None:
    callback = SFACallback(beta=0.25, p=0.25)
    trainer(tmp_path, callback, **stopping(eval_steps=3, save_steps=3, load_best_model_at_end=True)).train()
    assert callback.sfa.averages == 4
    with pytest.raises(StockpotError, match="at step 2, which lies between"):
        trainer(tmp_path, SFACallback(beta=0.25, p=1), **stopping(load_best_model_at_end=True)).train()


def test_the_best_checkpoint_holds_averaged_weights_however_training_stops(tmp_path: Path) -> None:
    for name, losses, more, best in (
        ("patience", [1.0, 0.5, 2.0], [EarlyStoppingCallback(1)], 4),
        ("between", [1.0, 2.0], [StopAt(5)], 2),
        ("the end", [3.0, 2.0, 1.0, 0.5, 4.0, 5.0], [], 8),
    ):
        callback = SFACallback(beta=0.25, every=2)
        settings = stopping(load_best_model_at_end=True)
        training, spy = run(tmp_path / name, callback, losses, *more, **settings)
        assert training.state.best_global_step == best
        torch.testing.assert_close(weights(training.model), averaged(spy.seen[best - 1]), rtol=1e-6, atol=1e-7)


def test_a_stop_within_an_epoch_is_not_compared_between_averages(tmp_path: Path) -> None:
    callback = SFACallback(beta=0.25, every=6)
    settings: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch", **BEST}
    training, spy = run(tmp_path, callback, [1.0, 0.0], StopAt(8), **settings)
    assert training.evaluated == [6]  # at step 8, were it compared, plain fine-tuning would be the best
    torch.testing.assert_close(weights(training.model), averaged(spy.seen[5]), rtol=1e-6, atol=1e-7)
    early, spy = run(tmp_path / "early", callback, [0.0], StopAt(3), **settings)
    assert early.state.best_model_checkpoint is None
    torch.testing.assert_close(weights(early.model), averaged(spy.seen[2]), rtol=1e-6, atol=1e-7)


def test_an_unforeseen_evaluation_cannot_make_plain_fine_tuning_the_best(tmp_path: Path) -> None:
    class AtStep3(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                control.should_evaluate = control.should_save = True

    settings = stopping(load_best_model_at_end=True)
    with pytest.raises(StockpotError, match="best checkpoint so far is that of step 3, which lies between"):
        run(tmp_path, SFACallback(beta=0.25, every=2), [1.0, 0.5], AtStep3(), **settings)


def test_the_last_step_is_averaged_whatever_the_schedule(tmp_path: Path) -> None:
    for settings in ({"every": 5}, {"p": 1}):
        callback = SFACallback(beta=0.25, **settings)
        training, spy = run(tmp_path, callback, [], max_steps=7)
        torch.testing.assert_close(weights(training.model), averaged(spy.seen[-1]), rtol=1e-6, atol=1e-7)
        on_disk = open_checkpoint(tmp_path / "checkpoint-7")
        assert all(torch.equal(on_disk[name], tensor) for name, tensor in training.model.state_dict().items())
