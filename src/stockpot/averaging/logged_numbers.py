"""SFA's numbers in what a Trainer logs, for every tracker that it reports to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler

Numbers = Callable[[], Mapping[str, float]]


class NumbersInLogs(TrainerCallback):
    """Adds numbers to each log of the training loss."""

    def __init__(self, owner: object, numbers: Numbers) -> None:
        self.owner = owner
        self._numbers = numbers

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Adds them for the callbacks that come later, and to the Trainer's history."""
        if logs is None or "loss" not in logs:
            return
        numbers = dict(self._numbers())
        logs.update(numbers)
        if state.log_history:
            state.log_history[-1].update(numbers)


def add_to_logs(owner: object, numbers: Numbers) -> None:
    """Called from a callback's event: lets the Trainer log `numbers` with the training loss, once for each owner.

    A Trainer tells its trackers before the callbacks of the user, and does not hand itself to them. So the handler
    that calls this event is looked up among the callers, and gets a callback that comes before the trackers. Where
    there is none, as under another trainer that calls callbacks itself, nothing is logged.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not isinstance(frame.f_locals.get("self"), CallbackHandler):
        frame = frame.f_back
    if frame is None:
        return
    handler: Any = frame.f_locals["self"]
    others = [each for each in handler.callbacks if not (isinstance(each, NumbersInLogs) and each.owner is owner)]
    handler.callbacks = [NumbersInLogs(owner, numbers), *others]  # a new list: the old one is being gone through
