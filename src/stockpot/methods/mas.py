"""MAS: Memory Aware Synapses."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stockpot.batches.examples import Examples
from stockpot.importance.sensitivity import sensitivity
from stockpot.methods.base import ConfigValues, Task
from stockpot.methods.declare.space import Range, Space
from stockpot.methods.shared.importances import ImportanceConfig, ImportanceMethod
from stockpot.seeds import generator


class MASConfig(ImportanceConfig):
    """How strongly weights are held, and on how many examples their importance is measured."""

    space: ClassVar[Space] = {"strength": Range(0.01, 1e4, log=True)}
    strength_key: ClassVar[str | None] = "strength"

    name: Literal["mas"]
    strength: float = Field(1.0, ge=0, description="λ: weight of the penalty")
    samples: int | None = Field(None, ge=1, description="examples that the importance is the mean over; default all")
    batch_size: int = Field(64, ge=1, description="examples at a time")


class MemoryAwareSynapses(ImportanceMethod[MASConfig]):
    """Each weight is held where the last task left it, as strongly as the outputs depend on it. Needs no labels.

    Equation: `loss + λ·Σ Ω (θ−θ*)²`, `Ω ← Ω + mean_x |∂‖f(x)‖²/∂θ|`
    Paper: "Memory aware synapses" (arXiv 1711.09601)
    Cost: one pass over weights, anchor and Ω; after a task a pass over its examples
    Kept: Ω, a tensor of the model's size
    Use: like EWC, when there are no labels to estimate a Fisher with
    Reading: f are the logits of the rows that compete; importances of the tasks are added up, and held at the newest
    θ*; of a causal language model x is a sequence, f(x) the logits of all positions where something is to be learnt;
    under LoRA Ω and θ are those of the folded weights, and A and B get the penalty's gradient by the chain rule
    """

    title = "MAS"
    neutral: ClassVar[ConfigValues] = {"strength": 0.0}
    typical: ClassVar[ConfigValues] = {"strength": 2.0}

    @property
    def factor(self) -> float:
        """The paper's penalty has no ½."""
        return 2 * self.config.strength

    def task_end(self, task: Task, examples: Examples) -> None:
        """Adds the task's importances."""
        config = self.config
        draws = generator(task.seed, "mas")
        self.add(
            sensitivity(
                task.model,
                examples,
                logits=task.logits,
                batch_size=config.batch_size,
                samples=config.samples,
                draws=draws,
            )
        )
