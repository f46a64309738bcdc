"""TIES: task vectors are trimmed, a sign is elected for each element, and the values of that sign are averaged."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from stockpot.methods.base import Task
from stockpot.methods.declare.declarations import Sweep
from stockpot.methods.declare.space import Range, Space
from stockpot.methods.shared.merged import CHAIN_OF_RAW_MODELS, Merged, MergedConfig


class TiesConfig(MergedConfig):
    """`density` is the share of each task vector that is kept, `scale` is λ."""

    space: ClassVar[Space] = {"scale": Range(0.02, 5.0, log=True), "density": Range(0.05, 1.0, log=True, limits=(0, 1))}
    strength_key: ClassVar[str | None] = "scale"

    name: Literal["ties"]
    density: float = Field(0.2, gt=0, le=1, description="share of the elements that is kept, the largest ones")
    scale: float = Field(1.0, ge=0, allow_inf_nan=False, description="λ, what the merged vector is multiplied by")
    trim: Literal["model", "tensor"] = Field(
        "model", description="where the largest are counted: over the whole model, or in each tensor"
    )


class TiesMerging(Merged[TiesConfig]):
    """After each task the model is the start weights and the TIES merge of all task vectors so far.

    Equation: `θ = θ_0 + λ · mean{τ̂_t : sign τ̂_t = s}`, `τ̂_t = top(τ_t, density)`, `s = sign(Σ τ̂_t)`, element by element
    Paper: "TIES-Merging" (arXiv 2306.01708), there of models that were trained from the same weights
    Cost: nothing; a merge after the task
    Kept: the start model, and a model for each task
    Use: like task_arithmetic, where the tasks pull the same weights in different directions
    Reading: parallel as in the paper. Where the vote is a tie, nothing is merged. Rows of the output layer that a task
    never trained are merged like all others; where they did not move they have no vote, but count among the elements
    of which a share is kept
    """

    title = "TIES"
    sweep = Sweep(top=2.0, settings=CHAIN_OF_RAW_MODELS)  # it averages vectors: λ = 1 is short of the sum

    def rule(self, task: Task) -> tuple[str, dict[str, Any]]:
        """`ties`."""
        config = self.config
        return "ties", {"density": config.density, "lambda_": config.scale, "trim": config.trim}
