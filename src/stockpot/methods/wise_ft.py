"""WiSE-FT: one average at the end of a task."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from stockpot.methods.base import ConfigValues
from stockpot.methods.declare.declarations import Sweep
from stockpot.methods.declare.space import Range, Space
from stockpot.methods.shared.anchor_averaging import AnchorAveraging, AnchoredConfig


class WiseFTConfig(AnchoredConfig):
    """`alpha` weighs the NEW weights, as in the paper: the opposite of SFA's beta."""

    space: ClassVar[Space] = {"alpha": Range(0.05, 0.95, limits=(0, 1))}
    strength_key: ClassVar[str | None] = "alpha"

    name: Literal["wise_ft"]
    alpha: float = Field(0.5, ge=0, le=1, description="weight of the fine-tuned weights, 0…1; SFA's beta is 1 − alpha")


class WiseFT(AnchorAveraging[WiseFTConfig]):
    """When a task is learnt, the weights before and after it are averaged; the next task goes on from the average.

    Equation: `θ ← α·θ + (1−α)·θ_o`, which is SFA with p = 1 and β = 1−α
    Paper: "Robust fine-tuning of zero-shot models" (arXiv 2109.01903), there for one task
    Cost: nothing but one average at the end of a task
    Kept: nothing: the anchor is the previous model
    Use: when training cannot be touched: it needs two checkpoints only, and any α can be tried afterwards
    Reading: the next task goes on from the average
    """

    title = "WiSE-FT"
    neutral: ClassVar[ConfigValues] = {"alpha": 1.0}
    typical: ClassVar[ConfigValues] = {"alpha": 0.6}
    sweep = Sweep(continues=True)

    def cadence(self) -> dict[str, Any]:
        """β = 1−α, once."""
        return {"beta": 1 - self.config.alpha, "p": 1.0, "every": None}
