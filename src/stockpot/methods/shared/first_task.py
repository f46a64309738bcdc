"""The first task of methods that protect earlier weights, which there are those of the start model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal, Self

from pydantic import Field

from stockpot.methods.base import BaseConfig, Task
from stockpot.models.spec import Origin

ORIGINS: dict[Origin, str] = {
    "checkpoint": "comes from a checkpoint",
    "random": "has random weights",
    "code": "is built by model.build, which would say by model.drawn that it loads weights",
}


class FirstTaskConfig(BaseConfig):
    """Whether the start model is protected: whoever loads one from a checkpoint has something to lose."""

    acts: ClassVar[str] = "averaged"  # what the method does to a task

    first_task: Literal["auto", "average", "skip"] = Field(
        "auto",
        description="average protects the start model while the first task is learnt, skip does not; auto: average "
        "where it comes from a checkpoint (model.name, or build with drawn), else skip",
    )

    def settled(self, origin: Origin) -> Self:
        """The config with `first_task: auto` decided by where the start model comes from."""
        if self.first_task != "auto":
            return self
        return self.model_copy(update={"first_task": "average" if origin == "checkpoint" else "skip"})

    def problem_with(self, tasks: int) -> str | None:
        """Refuses a stream whose only task would be skipped."""
        if tasks == 1 and self.first_task != "average":
            return (
                f"nothing would ever be {self.acts}: the stream has one task, and first_task is skip, which auto means "
                "when the start model does not come from a checkpoint. Set first_task: average to protect the start "
                "model, or name more tasks."
            )
        return None

    def protects(self, task: Task) -> bool:
        """Whether the method acts in this task: in every task but the first, and in that if first_task is average."""
        return task.index > 0 or self.first_task == "average"

    def first_task_note(self, task: Task, spared: Iterable[str] = ()) -> str:
        """What was decided for the first task, for the results; `spared`: tensors that the method leaves alone."""
        acted = self.first_task == "average"
        left = ", ".join(spared) if acted else ""
        return (
            f"task {task.name!r} is the first and was {'' if acted else 'not '}{self.acts} "
            f"(first_task: {'average' if acted else 'skip'})"
            + (f", but for {left}, which the checkpoint lacks" if left else "")
            + f": the start model {ORIGINS[task.origin]}"
        )
