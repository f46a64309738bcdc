"""What the loop in the Trainer needs of Transformers, and could be lost with a new version."""

from __future__ import annotations

import inspect

import pytest
from transformers import Trainer

from stockpot.training.trainer import TaskTrainer


@pytest.mark.parametrize("name", ["_save_checkpoint", "_load_from_checkpoint", "save_model", "get_batch_samples"])
def test_the_trainer_still_has_what_is_overridden(name: str) -> None:
    theirs, ours = (inspect.signature(getattr(trainer, name)) for trainer in (Trainer, TaskTrainer))
    assert list(theirs.parameters) == list(ours.parameters)


def test_these_are_all_of_its_private_methods_that_are_overridden() -> None:
    private = {name for name in vars(TaskTrainer) if name.startswith("_") and not name.startswith("__")}
    assert {name for name in private if hasattr(Trainer, name)} == {"_save_checkpoint", "_load_from_checkpoint"}
