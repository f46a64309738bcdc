"""Which folder a Trainer resumes from. It does not tell callbacks, so the state that it reads there remembers it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from transformers import TrainerState, TrainingArguments

_FOLDER = "_stockpot_folder"


def remember_folders() -> None:
    """From now on a TrainerState that is read from a file knows the folder of that file."""
    read: Any = TrainerState.load_from_json
    if hasattr(read, _FOLDER):
        return

    @functools.wraps(read.__func__)
    def load_from_json(cls: type[TrainerState], json_path: str) -> TrainerState:
        state: TrainerState = read.__func__(cls, json_path)
        setattr(state, _FOLDER, Path(json_path).parent)
        return state

    setattr(load_from_json, _FOLDER, None)
    TrainerState.load_from_json = classmethod(load_from_json)


def resumed_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """The checkpoint that training resumes from; if that is unknown, the one of this step in `output_dir`."""
    usual = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
    return Path(getattr(state, _FOLDER, usual))
