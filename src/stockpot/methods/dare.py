"""DARE: elements of each task vector are dropped at random, and the rest is scaled up."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from stockpot.methods.base import ConfigValues, Task
from stockpot.methods.declare.space import Range, Space
from stockpot.methods.shared.merged import Merged, MergedConfig
from stockpot.seeds import derive


class DareConfig(MergedConfig):
    """`density` is the probability that an element is KEPT, 1 − p in the paper; `scale` is λ."""

    space: ClassVar[Space] = {"scale": Range(0.02, 2.0, log=True), "density": Range(0.05, 0.9, log=True, limits=(0, 1))}
    strength_key: ClassVar[str | None] = "scale"

    name: Literal["dare"]
    density: float = Field(0.5, gt=0, le=1, description="probability that an element is kept")
    elect: bool = Field(
        False, description="elect a sign and average the elements that have it, as TIES does, instead of summing"
    )
    scale: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="λ; default 0.4, and 1 with elect, which averages"
    )


class Dare(Merged[DareConfig]):
    """After each task the model is the start weights and λ times the sum of all task vectors, thinned out at random.

    Equation: `θ = θ_0 + λ Σ m_t∘τ_t/d`, `m_t ~ Bernoulli(d)`, d the density; with `elect` TIES' election of the same
    Paper: "Language Models are Super Mario" (arXiv 2311.03099), there of models that were trained from the same weights
    Cost: nothing; a merge after the task
    Kept: the start model, and a model for each task
    Use: like task_arithmetic, for task vectors that are small and redundant, as those of large models are
    Reading: parallel as in the paper. All masks, also those of older tasks, are drawn again at each merge, from
    the seed of the task. Rows of the output layer that a task never trained are merged like all others
    """

    title = "DARE"
    typical: ClassVar[ConfigValues] = {"density": 0.7}

    def rule(self, task: Task) -> tuple[str, dict[str, Any]]:
        """`dare_linear` or `dare_ties`."""
        config = self.config
        scale = config.scale if config.scale is not None else 1.0 if config.elect else 0.4
        rule = "dare_ties" if config.elect else "dare_linear"
        return rule, {"density": config.density, "lambda_": scale, "seed": derive(task.seed, "dare")}
