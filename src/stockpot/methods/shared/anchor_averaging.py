"""Averages with an anchor while a task is learnt: what SFA and WiSE-FT share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from stockpot.averaging.model_tensors import model_names
from stockpot.averaging.optimizer_steps import was_skipped
from stockpot.averaging.settings import Keep
from stockpot.averaging.sfa import SFA
from stockpot.batches.examples import Examples
from stockpot.files import folder_bytes
from stockpot.methods.base import Method, Task, Tensors
from stockpot.methods.shared.anchor_config import AnchorConfig
from stockpot.models.names import plain_name
from stockpot.models.spec import ModelSpec
from stockpot.seeds import derive


class AnchoredConfig(AnchorConfig):
    """What can be chosen for every method that averages with an anchor."""

    anchor_on: Literal["disk", "cpu", "device"] = Field("disk", description="where the anchor is held while training")
    buffers: Literal["average", "keep"] = Field("average", description="BatchNorm's running statistics")
    rounding: Literal["nearest", "stochastic"] | None = Field(
        None, description="how bf16 weights are rounded after an average; default: they are refused"
    )

    def problem_with_model(self, spec: ModelSpec) -> str | None:
        """Refuses another anchor under LoRA, and bf16 weights without a rule for rounding."""
        if spec.dtype == "bfloat16" and spec.lora is None and self.rounding is None:
            return (
                "bfloat16 weights lose small pulls to rounding: drop model.dtype and set train.bf16: true (fp32 "
                "weights, bf16 arithmetic), or choose the method's rounding: stochastic (unbiased) or nearest."
            )
        return super().problem_with_model(spec)


AnchoredT = TypeVar("AnchoredT", bound=AnchoredConfig)


class AnchorAveraging(Method[AnchoredT]):
    """Averages the weights with an anchor, as often as `cadence` says; the arithmetic is that of `stockpot.SFA`."""

    _sfa: SFA | None = None

    @property
    def observes(self) -> bool:
        """Whether steps are followed even in a task that is not averaged."""
        return False

    def cadence(self) -> dict[str, Any]:
        """β and when to average, as the keywords of `stockpot.SFA`."""
        raise NotImplementedError

    def averaged(self, optimizer: Optimizer) -> None:
        """Acts after an average that followed an optimizer step."""

    def task_start(self, task: Task) -> None:
        """Opens the anchor."""
        config = self.config
        self._sfa = None
        if task.index == 0:
            self.notes.append(config.first_task_note(task, task.drawn))
        if not config.protects(task):
            opened = self._open(task, self._anchor(task, "previous"), "disk")  # refuses now what it would a task later
            self._sfa = opened if self.observes else None
            return
        anchor = self._anchor(task, config.anchor)
        self._sfa = self._open(task, anchor, config.anchor_on)
        self.notes += self._sfa.notes
        self.costs.extra_memory_bytes = self._sfa.anchor_bytes
        if isinstance(anchor, Path) and config.anchor != "previous":  # the previous model is kept anyway
            size = folder_bytes(anchor) if anchor.is_dir() else anchor.stat().st_size
            self.costs.stored_bytes = self.costs.stored_model_bytes = size

    def _anchor(self, task: Task, source: str) -> Path | Literal["start"]:
        """Where θ_o is; under LoRA it is the base that the adapter sits on, and no file is opened."""
        return "start" if task.adapted else task.checkpoint(source)

    def _open(self, task: Task, anchor: Path | Literal["start"], keep: Keep) -> SFA:
        cadence = self.cadence()
        if drawn := [name for name in model_names(task.model) if plain_name(name) in task.drawn]:
            others = cadence["beta"] if isinstance(cadence["beta"], dict) else {"*": cadence["beta"]}
            cadence["beta"] = dict.fromkeys(sorted(drawn), 0.0) | others  # no pull towards weights drawn at random
        return SFA(
            task.model,
            **cadence,
            total_steps=task.total_steps,
            anchor=anchor,
            keep=None if task.adapted else keep,
            new=task.new,
            rounding=self.config.rounding,
            buffers=self.config.buffers,
            seed=derive(task.seed, "rounding"),
        )

    def after_step(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        """Averages if the schedule says so."""
        if self._sfa is not None and self._sfa.reach(step, skipped=was_skipped(optimizer)):
            self.averaged(optimizer)
            self._count()

    def logged(self) -> dict[str, float]:
        """‖θ − θ_o‖₂, and the averages of the task so far."""
        if self._sfa is None:
            return {}
        return {"sfa/distance": self._sfa.distance(), "sfa/averages": float(self._sfa.averages)}

    def task_end(self, task: Task, examples: Examples) -> None:
        """The last average, unless the last step was one."""
        if self._sfa is not None and self._sfa.finish():
            self._count()

    def post_hoc(self, task: Task) -> None:
        """The average that is due after the task's last step."""
        if self._sfa is not None and self._sfa.reach(task.total_steps):
            self._count()

    def _count(self) -> None:
        assert self._sfa is not None
        self.costs.averages = self._sfa.averages
        self.costs.averaging_seconds = self._sfa.seconds
        self.costs.averaging_cpu_seconds = self._sfa.cpu_seconds

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """The position in the schedule; the anchor is a model of the run, and not repeated here."""
        if self._sfa is None:
            return {}, {}
        seconds = {"seconds": self._sfa.seconds, "cpu_seconds": self._sfa.cpu_seconds}
        return {}, {"sfa": {**self._sfa.progress(), "anchor": None, **seconds}}

    def load_state(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Resumes inside a task; between tasks there is nothing to restore."""
        if self._sfa is not None and "sfa" in values:
            self._sfa.load_state_dict({**values["sfa"], "anchor": self._sfa.anchor})  # the task's start, opened above
            self._sfa.seconds, self._sfa.cpu_seconds = values["sfa"]["seconds"], values["sfa"]["cpu_seconds"]
            self._count()
