"""MagMax: of every element the largest change."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from stockpot.methods.base import Task
from stockpot.methods.declare.declarations import Sweep
from stockpot.methods.declare.space import Range, Space
from stockpot.methods.shared.merged import CHAIN_OF_RAW_MODELS, Merged, MergedConfig


class MagMaxConfig(MergedConfig):
    """`scale` is λ."""

    default_vectors: ClassVar[str] = "start"
    space: ClassVar[Space] = {"scale": Range(0.02, 5.0, log=True)}
    strength_key: ClassVar[str | None] = "scale"

    name: Literal["magmax"]
    mode: Literal["parallel", "chain"] = Field(
        "chain", description="each task is trained from the start weights, or one after the other"
    )
    scale: float = Field(1.0, ge=0, allow_inf_nan=False, description="λ, what the merged vector is multiplied by")


class MagMax(Merged[MagMaxConfig]):
    """Tasks are trained one after the other; after each, every weight takes the largest of its changes.

    Equation: `θ = θ_0 + λ τ_k`, `k = argmax_t |τ_t|` element by element, `τ_t = θ_t − θ_0`
    Paper: "MagMax" (arXiv 2407.06322): training goes on from the raw model, and vectors are counted from the start
    Cost: nothing; a merge after the task
    Kept: the start model, and a model for each task
    Use: for long streams of one kind, trained one after the other
    Reading: λ = 1 unless it is set. Of equal and opposite changes the positive one is taken. Rows of the output layer
    that a task never trained are merged like all others
    """

    title = "MagMax"
    sweep = Sweep(settings=CHAIN_OF_RAW_MODELS)

    def rule(self, task: Task) -> tuple[str, dict[str, Any]]:
        """`magmax`."""
        return "magmax", {"lambda_": self.config.scale}
