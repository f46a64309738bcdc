"""One checkpoint of the Trainer is enough to resume from, wherever it is and whichever others are missing."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_training import TOTAL, Regression, StopAt, train, trainer, weights
from torch import Tensor
from transformers import TrainerCallback

from stockpot import SFACallback, StockpotError
from stockpot.weights.checkpoint import open_checkpoint, save_checkpoint

SETTINGS: dict[str, Any] = {"beta": 0.25, "p": 0.25}
NAME = "stockpot.SFACallback"


def resumed(checkpoint: Path, output: Path, callback: SFACallback | None = None, **settings: Any) -> Tensor:
    training = trainer(output, callback or SFACallback(**SETTINGS), **settings)
    training.train(resume_from_checkpoint=str(checkpoint))
    return weights(training.model)


def refusal(checkpoint: Path, output: Path, settings: dict[str, Any] | None = None, **arguments: Any) -> str:
    with pytest.raises(StockpotError) as caught:
        resumed(checkpoint, output, SFACallback(**(settings or SETTINGS)), **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    return train(tmp_path_factory.mktemp("unbroken"), SFACallback(**SETTINGS))


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The checkpoint of a training that stopped at step 5."""
    train(tmp_path / "run", SFACallback(**SETTINGS), StopAt(5))
    return tmp_path / "run" / "checkpoint-5"


def anchor_in(folder: Path) -> Path:
    return folder / "sfa-anchor" / "model.safetensors"


def test_each_checkpoint_has_the_one_anchor_as_a_hard_link(tmp_path: Path) -> None:
    train(tmp_path, SFACallback(**SETTINGS))
    files = [anchor_in(tmp_path / name) for name in (".", "checkpoint-5", "checkpoint-10", f"checkpoint-{TOTAL}")]
    assert {file.stat().st_ino for file in files} == {files[0].stat().st_ino}
    assert files[0].stat().st_nlink == 4
    for name, tensor in Regression().named_parameters():
        assert torch.equal(open_checkpoint(files[0])[name], tensor)


@pytest.mark.parametrize("name", ["checkpoint-5", "last-checkpoint", "elsewhere"])
def test_a_single_checkpoint_is_enough_wherever_it_is(
    name: str, stopped: Path, tmp_path: Path, unbroken: Tensor
) -> None:
    place = tmp_path / "moved" / name
    place.parent.mkdir()
    stopped.rename(place)
    shutil.rmtree(stopped.parent)
    assert torch.equal(resumed(place, tmp_path / "new"), unbroken)
    shutil.rmtree(place.parent)  # what the resumed training has written needs nothing of it
    assert torch.equal(resumed(tmp_path / "new" / "checkpoint-10", tmp_path / "third"), unbroken)


def test_a_copy_that_came_without_links_is_enough(stopped: Path, tmp_path: Path, unbroken: Tensor) -> None:
    shutil.copytree(stopped, tmp_path / "hub")
    shutil.rmtree(stopped.parent)
    assert torch.equal(resumed(tmp_path / "hub", tmp_path / "hub-run"), unbroken)


def test_save_total_limit_may_delete_any_of_them(tmp_path: Path, unbroken: Tensor) -> None:
    train(tmp_path, SFACallback(**SETTINGS), StopAt(8), save_steps=2, save_total_limit=1)
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-8"]
    shutil.rmtree(tmp_path / "sfa-anchor")
    assert torch.equal(resumed(tmp_path / "checkpoint-8", tmp_path, save_total_limit=1), unbroken)


def test_without_hard_links_each_has_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Tensor) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", none)
    train(tmp_path / "run", SFACallback(**SETTINGS), StopAt(5))
    checkpoint = tmp_path / "run" / "checkpoint-5"
    assert anchor_in(checkpoint).stat().st_ino != anchor_in(tmp_path / "run").stat().st_ino
    assert torch.equal(resumed(checkpoint, tmp_path / "new"), unbroken)
    assert not list(tmp_path.rglob(".tmp-*"))


def test_the_checkpoint_that_is_resumed_from_counts_not_another_training_in_the_folder(
    stopped: Path, tmp_path: Path, unbroken: Tensor
) -> None:
    class Other(TrainerCallback):
        """Another start, and so another anchor."""

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            with torch.no_grad():
                for tensor in model.parameters():
                    tensor.mul_(-1.0)

    train(tmp_path / "run2", Other(), SFACallback(**SETTINGS), StopAt(5))
    assert torch.equal(resumed(stopped, tmp_path / "run2"), unbroken)
    assert torch.equal(resumed(tmp_path / "run2" / "checkpoint-10", tmp_path / "run2"), unbroken)


def test_a_checkpoint_that_was_killed_before_it_was_complete_resumes(
    stopped: Path, tmp_path: Path, unbroken: Tensor
) -> None:
    shutil.rmtree(stopped / "sfa-anchor")
    (stopped / "sfa_state.json").unlink()  # the Trainer's own files are there, the callback's turn never came
    assert torch.equal(resumed(stopped, tmp_path / "run"), unbroken)


def test_a_killed_training_over_the_checkpoint_of_another_does_not_take_its_anchor(
    stopped: Path, tmp_path: Path, unbroken: Tensor
) -> None:
    old = tmp_path / "old"
    train(old, SFACallback(**{**SETTINGS, "beta": 0.5}), StopAt(5), learning_rate=0.1)
    for leftover in ("sfa-anchor", "sfa_state.json"):
        target = stopped / leftover
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        (old / "checkpoint-5" / leftover).rename(target)
    assert torch.equal(resumed(stopped, tmp_path / "run"), unbroken)


@pytest.mark.parametrize("event", ["on_step_begin", "on_optimizer_step"])
def test_sigterm_is_an_interruption_and_resumes_to_the_same_bits(event: str, tmp_path: Path, unbroken: Tensor) -> None:
    class Signal(TrainerCallback):
        """What the Trainer's handler of SIGTERM does after a moment, at the given event of step 8."""

    def arrives(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 7:
            jit = next(callback for callback in training.callback_handler.callbacks if "JIT" in type(callback).__name__)
            jit.jit_manager.is_checkpoint_requested = True

    setattr(Signal, event, arrives)
    training = trainer(tmp_path, SFACallback(**SETTINGS), enable_jit_checkpoint=True, save_strategy="no")
    training.add_callback(Signal())
    training.train()
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert checkpoint.name == {"on_step_begin": "checkpoint-7", "on_optimizer_step": "checkpoint-8"}[event]
    checkpoint.rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "sfa-anchor")
    assert torch.equal(resumed(tmp_path / "moved", tmp_path / "new"), unbroken)


def old_layout(checkpoint: Path) -> str:
    """Rewrites a checkpoint as older versions of Stockpot did; returns the id of its anchor."""
    shutil.rmtree(checkpoint / "sfa-anchor")
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    del state["stateful_callbacks"][NAME]
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    facts = json.loads((checkpoint / "sfa_state.json").read_text())
    for key in ("anchor_sha256", "last_average"):
        del facts[key]
    (checkpoint / "sfa_state.json").write_text(json.dumps(facts))
    return str(facts["anchor_id"])


def test_checkpoints_in_the_old_layout_resume(stopped: Path, tmp_path: Path, unbroken: Tensor) -> None:
    old_layout(stopped)
    shutil.copytree(stopped.parent, tmp_path / "kept")
    assert torch.equal(resumed(stopped, stopped.parent), unbroken)
    # A fresh training in the folder takes the place of its anchor, which the old checkpoint keeps.
    train(tmp_path / "kept", SFACallback(beta=0.5, every=100), StopAt(1), learning_rate=0.1, save_steps=100)
    assert torch.equal(resumed(tmp_path / "kept" / "checkpoint-5", tmp_path / "kept"), unbroken)


def test_what_is_missing_in_the_old_layout_is_named(stopped: Path, tmp_path: Path) -> None:
    old_layout(stopped)
    (stopped / "sfa_state.json").write_text("[1")
    assert "sfa_state.json is damaged" in refusal(stopped, tmp_path / "run")
    (stopped / "sfa_state.json").unlink()
    assert "which is missing: pass the anchor of the run, anchor=PATH" in refusal(stopped, tmp_path / "run")


def test_a_missing_or_different_anchor_is_named(stopped: Path, tmp_path: Path, unbroken: Tensor) -> None:
    file, beside = anchor_in(stopped), anchor_in(stopped.parent)
    moved = file.rename(tmp_path / "moved.safetensors")
    beside.unlink()
    assert f"{file} is missing: pass where it is now, anchor=PATH" in refusal(stopped, tmp_path / "run")
    assert torch.equal(resumed(stopped, tmp_path / "a", SFACallback(**SETTINGS, anchor=moved)), unbroken)
    metadata = open_checkpoint(moved).metadata
    other = {name: tensor + 1 for name, tensor in Regression().state_dict().items()}
    save_checkpoint(other, file, {"anchor_id": "another"})
    assert "is the anchor of another training" in refusal(stopped, tmp_path / "run")
    save_checkpoint(other, file, {"anchor_id": metadata["anchor_id"]})
    assert "differs, in what is trained here, from the anchor of the start" in refusal(stopped, tmp_path / "run")
    given = {**SETTINGS, "anchor": file}
    assert "differs, in what is trained here, from the anchor" in refusal(stopped, tmp_path / "run", given)


def test_the_content_of_an_anchor_by_path_is_checked(tmp_path: Path, unbroken: Tensor) -> None:
    old = tmp_path / "old.safetensors"
    save_checkpoint(Regression().state_dict(), old)
    settings = {**SETTINGS, "anchor": old}
    train(tmp_path / "run", SFACallback(**settings), StopAt(5))
    checkpoint = (tmp_path / "run" / "checkpoint-5").rename(tmp_path / "moved")
    assert not list(tmp_path.rglob("sfa-anchor"))
    there = {**SETTINGS, "anchor": old.rename(tmp_path / "there.safetensors")}
    assert torch.equal(resumed(checkpoint, tmp_path / "new", SFACallback(**there)), unbroken)
    assert "does not exist" in refusal(checkpoint, tmp_path / "new", settings)
    save_checkpoint({name: tensor + 1 for name, tensor in Regression().state_dict().items()}, old)
    assert "old.safetensors differs, in what is trained here, from the anchor" in refusal(
        checkpoint, tmp_path / "new", settings
    )


def test_a_longer_training_resumes_with_every_and_is_refused_with_p(tmp_path: Path) -> None:
    every = {"beta": 0.25, "every": 4}
    longer = train(tmp_path / "longer", SFACallback(**every), max_steps=20)
    train(tmp_path / "run", SFACallback(**every), max_steps=10)
    callback = SFACallback(**every)
    assert torch.equal(resumed(tmp_path / "run" / "checkpoint-5", tmp_path / "on", callback, max_steps=20), longer)
    assert callback.sfa.averages == 5
    train(tmp_path / "p", SFACallback(**SETTINGS), StopAt(5), max_steps=10)
    message = refusal(tmp_path / "p" / "checkpoint-5", tmp_path / "p", max_steps=20)
    assert "T, the steps of the training, is 20 here and 10 in" in message
    assert "p·T says when to average" in message


def test_an_earlier_trainings_checkpoint_of_the_same_step_is_left_alone(stopped: Path) -> None:
    before = (stopped / "sfa_state.json").read_text(), anchor_in(stopped).stat().st_ino
    train(stopped.parent, SFACallback(beta=0.5, every=1), StopAt(5), save_strategy="no")
    assert before == ((stopped / "sfa_state.json").read_text(), anchor_in(stopped).stat().st_ino)


def test_a_checkpoint_is_complete_before_it_goes_to_the_hub(tmp_path: Path) -> None:
    training = trainer(tmp_path, SFACallback(**SETTINGS), StopAt(5))
    pushed: list[bool] = []

    def push(folder: str) -> None:
        training.callback_handler.on_push_begin(training.args, training.state, training.control)
        pushed.append((Path(folder) / "sfa_state.json").is_file() and anchor_in(Path(folder)).is_file())

    training._push_from_checkpoint = push
    training.args.push_to_hub = True
    training._finish_current_push = lambda: None
    training.train()
    assert pushed == [True]


def test_a_search_has_its_checkpoints_in_a_folder_for_each_trial(tmp_path: Path, unbroken: Tensor) -> None:
    for place in ("run-0", "run-1"):  # as hyperparameter_search does
        training = trainer(tmp_path, SFACallback(**SETTINGS), StopAt(5))
        training._get_output_dir = lambda trial, place=place: str(tmp_path / place)
        training.train()
    assert not (tmp_path / "checkpoint-5").exists()
    for place in ("run-0", "run-1"):
        assert torch.equal(resumed(tmp_path / place / "checkpoint-5", tmp_path / "new"), unbroken)


@pytest.mark.parametrize("at", ["link", "replace"])
def test_a_failure_leaves_nothing_half_written(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = Path.replace

    def fails(self: Path, target: Any) -> Path:
        if "checkpoint-10" in str(target) and Path(target).name == "model.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return done(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    if at == "link":
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "cross-device")))
    with pytest.raises(StockpotError, match="the disk is full"):
        train(tmp_path, SFACallback(**SETTINGS))
    assert anchor_in(tmp_path / "checkpoint-5").is_file()
    assert not anchor_in(tmp_path / "checkpoint-10").exists()
    assert not list(tmp_path.rglob(".tmp-*"))
