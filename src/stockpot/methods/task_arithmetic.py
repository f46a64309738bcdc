"""Task Arithmetic: task vectors are added up."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from stockpot.methods.base import ConfigValues, Task
from stockpot.methods.declare.declarations import Sweep
from stockpot.methods.declare.space import Range, Space
from stockpot.methods.shared.merged import CHAIN_OF_RAW_MODELS, Merged, MergedConfig


class TaskArithmeticConfig(MergedConfig):
    """`scale` is λ."""

    space: ClassVar[Space] = {"scale": Range(0.02, 2.0, log=True)}
    strength_key: ClassVar[str | None] = "scale"

    name: Literal["task_arithmetic"]
    scale: float = Field(0.4, ge=0, allow_inf_nan=False, description="λ, what the sum of the vectors is multiplied by")


class TaskArithmetic(Merged[TaskArithmeticConfig]):
    """After each task the model is the start weights and λ times the sum of all task vectors so far.

    Equation: `θ = θ_0 + λ Σ τ_t`, `τ_t = θ_t − θ_0` where each task is trained from θ_0
    Paper: "Editing models with task arithmetic" (arXiv 2212.04089)
    Cost: nothing; a merge after the task
    Kept: the start model, and a model for each task
    Use: to combine tasks that were trained apart; λ can be tried afterwards, at no training cost
    Reading: the paper chooses λ on held-out data; a stream has none of tasks to come, so λ is fixed, between the 0.3
    and 0.5 that are common. Parallel is the paper's; in a chain of raw models with consecutive vectors λ = 1 is the
    last model, plain fine-tuning. Rows of the output layer that a task never trained are merged like all others
    """

    title = "Task Arithmetic"
    typical: ClassVar[ConfigValues] = {"scale": 0.3}
    sweep = Sweep(settings=CHAIN_OF_RAW_MODELS)

    def rule(self, task: Task) -> tuple[str, dict[str, Any]]:
        """`task_arithmetic`."""
        return "task_arithmetic", {"lambda_": self.config.scale}
