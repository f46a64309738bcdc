"""Model soup: the mean of the models of all tasks."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from stockpot.methods.base import Task
from stockpot.methods.declare.declarations import Sweep
from stockpot.methods.shared.merged import CHAIN_OF_RAW_MODELS, Merged, MergedConfig


class SoupConfig(MergedConfig):
    """No parameters of its own."""

    of_models: ClassVar[bool] = True

    name: Literal["soup"]


class UniformSoup(Merged[SoupConfig]):
    """After each task the model is the mean of what training left after every task so far.

    Equation: `θ = (1/t) Σ θ_i`, which is Task Arithmetic with λ = 1/t
    Paper: "Model soups" (arXiv 2203.05482), the uniform soup, there of models of one task
    Cost: nothing; a merge after the task
    Kept: the start model, and a model for each task
    Use: the simplest merge; for tasks that are alike
    Reading: parallel as in the paper; the models of different tasks are averaged as if they were of one. Rows of the
    output layer that a task never trained are averaged like all others
    """

    title = "the uniform soup"
    sweep = Sweep(settings=CHAIN_OF_RAW_MODELS)

    def rule(self, task: Task) -> tuple[str, dict[str, Any]]:
        """`linear`, with equal weights."""
        return "linear", {}
