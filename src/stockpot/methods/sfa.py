"""SFA: Sequential Fine-tuning with Averaging."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from stockpot.averaging.anchor import Keep
from stockpot.averaging.model_tensors import model_names
from stockpot.averaging.optimizer_steps import was_skipped
from stockpot.averaging.settings import check_beta
from stockpot.averaging.sfa import SFA
from stockpot.batches.examples import Examples
from stockpot.files import folder_bytes
from stockpot.methods.base import Method, Task, Tensors
from stockpot.methods.shared.anchor_config import AnchorConfig
from stockpot.methods.shared.space import Range, Space
from stockpot.models.names import plain_name
from stockpot.models.spec import ModelSpec
from stockpot.seeds import derive


class AnchoredConfig(AnchorConfig):
    """What every method that averages with an anchor lets one choose."""

    anchor_on: Literal["disk", "cpu", "device"] = Field("disk", description="where the anchor is held while training")
    buffers: Literal["average", "keep"] = Field("average", description="BatchNorm's running statistics")
    rounding: Literal["nearest", "stochastic"] | None = Field(
        None, description="how bf16 weights are rounded after an average; without it they are refused"
    )

    def problem_with_model(self, spec: ModelSpec) -> str | None:
        """Another anchor under LoRA; weights in bf16, where nobody said how averages are rounded."""
        if spec.dtype == "bfloat16" and spec.lora is None and self.rounding is None:
            return (
                "small pulls round away in bfloat16 weights: drop model.dtype and say train.bf16: true (fp32 weights, "
                "bf16 arithmetic), or choose the method's rounding: stochastic (unbiased) or nearest."
            )
        return super().problem_with_model(spec)


class SFAConfig(AnchoredConfig):
    """`beta` weighs the anchor; averages come every `p` of the task's steps, or every `every` steps, and at its end."""

    space: ClassVar[Space] = {
        "beta": Range(0.05, 0.95, limits=(0, 1)),
        "p": Range(0.05, 1.0, log=True, limits=(0, 1)),
    }
    strength_key: ClassVar[str | None] = "beta"

    name: Literal["sfa"]
    beta: float | dict[str, float] = Field(
        0.25, description="weight of the anchor, 0…1; or name pattern → weight, the first match counts"
    )
    p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="fraction of the task's steps between averages; default 0.25"
    )
    every: Annotated[int, Field(ge=1)] | None = Field(None, description="steps between averages, instead of p")
    optimizer_state: Literal["keep", "reset"] = Field("keep", description="the optimizer's state at an average")

    @field_validator("beta")
    @classmethod
    def _in_range(cls, beta: float | dict[str, float]) -> float | dict[str, float]:
        return check_beta(beta)

    @model_validator(mode="after")
    def _one_cadence(self) -> SFAConfig:
        if self.p is not None and self.every is not None:
            raise ValueError("give p (a fraction of the steps) or every (a number of steps), not both")
        return self

    def searched(self, *without: str) -> Space:
        """p only where `every` does not say when to average."""
        return super().searched(*without, *(["p"] if self.every is not None else []))


class SequentialFineTuningWithAveraging(Method):
    """Every p·T optimizer steps, and at the task's end, the weights are averaged with the previous task's checkpoint.

    Equation: `θ ← (1−β)·θ + β·θ_o`
    Paper: "Soup to go" (arXiv 2501.05559); θ_o is the previous task's final model, frozen for the task
    Cost: nothing but an average, about one pass over the weights, 1/p times a task; the anchor can stay on disk
    Kept: nothing: the anchor is the previous model
    Use: when no data may be kept and memory is short; raise `beta` to keep more, and lower it to learn more
    Reading: the first task is averaged where the start model comes from a checkpoint; rows of the head that the anchor
    or that checkpoint lacks are left as training made them; under LoRA the base is the anchor and an average is
    `B ← (1−β)·B`: no copy
    """

    config: Any
    _sfa: SFA | None = None

    def cadence(self) -> dict[str, Any]:
        """β and when to average, as SFA takes them."""
        config: SFAConfig = self.config
        p = None if config.every else config.p or 0.25
        return {"beta": config.beta, "p": p, "every": config.every}

    def task_start(self, task: Task) -> None:
        """Opens the anchor."""
        config: AnchoredConfig = self.config
        self._sfa = None
        if task.index == 0:
            self.notes.append(config.first_task_note(task, task.drawn))
        if not config.protects(task):
            self._open(task, self._anchor(task, "previous"), "disk")  # what it refuses is told now, not a task later
            return
        anchor = self._anchor(task, config.anchor)
        self._sfa = self._open(task, anchor, config.anchor_on)
        self.notes += self._sfa.notes
        self.costs.extra_memory_bytes = self._sfa.anchor_bytes
        if isinstance(anchor, Path) and config.anchor != "previous":  # the previous model is there anyway
            size = folder_bytes(anchor) if anchor.is_dir() else anchor.stat().st_size
            self.costs.stored_bytes = self.costs.stored_model_bytes = size

    def _anchor(self, task: Task, source: str) -> Path | Literal["start"]:
        """Where θ_o is; under LoRA it is the base that the adapter sits on, and no file is opened."""
        if not task.adapted:
            return task.checkpoint(source)
        return "start"

    def _open(self, task: Task, anchor: Path | Literal["start"], keep: Keep) -> SFA:
        cadence = self.cadence()
        if drawn := [name for name in model_names(task.model) if plain_name(name) in task.drawn]:
            others = cadence["beta"] if isinstance(cadence["beta"], dict) else {"*": cadence["beta"]}
            cadence["beta"] = dict.fromkeys(sorted(drawn), 0.0) | others  # no pull towards what this task began with
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
        """Averages when the schedule says so."""
        if self._sfa is not None and self._sfa.reach(step, skipped=was_skipped(optimizer)):
            if getattr(self.config, "optimizer_state", "keep") == "reset":
                optimizer.state.clear()
            self._count()

    def task_end(self, task: Task, examples: Examples) -> None:
        """The last average, unless the last step was one."""
        if self._sfa is not None and self._sfa.finish():
            self._count()

    def _count(self) -> None:
        assert self._sfa is not None
        self.costs.averages = self._sfa.averages
        self.costs.averaging_seconds = self._sfa.seconds
        self.costs.averaging_cpu_seconds = self._sfa.cpu_seconds

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Where in the schedule the task stands; the anchor is a model of the run, and not repeated here."""
        if self._sfa is None:
            return {}, {}
        seconds = {"seconds": self._sfa.seconds, "cpu_seconds": self._sfa.cpu_seconds}
        return {}, {"sfa": {**self._sfa.progress(), "anchor": None, **seconds}}

    def load_state(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Goes on inside a task; between tasks there is nothing to take up."""
        if self._sfa is not None and "sfa" in values:
            self._sfa.load_state_dict({**values["sfa"], "anchor": self._sfa.anchor})  # the task's start, opened above
            self._sfa.seconds, self._sfa.cpu_seconds = values["sfa"]["seconds"], values["sfa"]["cpu_seconds"]
            self._count()
