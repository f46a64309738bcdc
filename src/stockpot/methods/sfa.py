"""SFA: Sequential Fine-tuning with Averaging."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from torch.optim import Optimizer

from stockpot.averaging.settings import check_beta
from stockpot.methods.base import ConfigValues
from stockpot.methods.declare.space import Range, Space
from stockpot.methods.shared.anchor_averaging import AnchorAveraging, AnchoredConfig


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
        """Without p where `every` says when to average."""
        return super().searched(*without, *(["p"] if self.every is not None else []))


class SequentialFineTuningWithAveraging(AnchorAveraging[SFAConfig]):
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

    title = "SFA"
    neutral: ClassVar[ConfigValues] = {"beta": 0.0}
    typical: ClassVar[ConfigValues] = {"beta": 0.3, "p": 0.4}

    def cadence(self) -> dict[str, Any]:
        """β and when to average, as SFA takes them."""
        config = self.config
        p = None if config.every else config.p or 0.25
        return {"beta": config.beta, "p": p, "every": config.every}

    def averaged(self, optimizer: Optimizer) -> None:
        """Forgets the optimizer's state, with `optimizer_state: reset`."""
        if self.config.optimizer_state == "reset":
            optimizer.state.clear()
