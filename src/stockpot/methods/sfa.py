"""SFA: Sequential Fine-tuning with Averaging."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from stockpot.averaging.past_importance import NOTHING, PastImportance, past_importance
from stockpot.averaging.settings import AUTO, AUTO_P, BetaValue, check_beta
from stockpot.batches.examples import Examples
from stockpot.methods.base import ConfigValues, Task, TaskFacts, Tensors
from stockpot.methods.declare.space import Range, Space
from stockpot.methods.shared.anchor_averaging import AnchorAveraging, AnchoredConfig
from stockpot.methods.shared.past_sample import PastSample, sample_importance
from stockpot.models.spec import ModelSpec
from stockpot.streams.spec import DataSpec

_IMPORTANCE, _SQUARES = "importance/", "squares/"


class SFAConfig(AnchoredConfig):
    """`beta` weighs the anchor; averages come every `p` of the task's steps, or every `every` steps, and at its end."""

    space: ClassVar[Space] = {
        "beta": Range(0.05, 0.95, limits=(0, 1)),
        "strength": Range(0.1, 10.0, log=True),
        "p": Range(0.05, 1.0, log=True, limits=(0, 1)),
    }
    strength_key: ClassVar[str | None] = "beta"
    path_keys: ClassVar[Mapping[str, Sequence[str]]] = {**AnchoredConfig.path_keys, "importance": ("uniform",)}

    name: Literal["sfa"]
    beta: BetaValue | dict[str, BetaValue] = Field(
        0.25,
        description="weight of the anchor, 0…1; auto: one for each weight, from squared gradients; or name pattern → "
        "weight, the first match counts",
    )
    strength: float = Field(
        1.0, ge=0, le=1e6, description="λ of beta: auto: more keeps more of the past, less learns more"
    )
    importance: str | PastSample = Field(
        "uniform",
        description="of the start model's weights, for beta: auto with first_task: average: uniform, a folder that "
        "`SFA.save_importance` wrote, or {data: a sample of the text that the model knows}",
    )
    p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="fraction of the task's steps between averages; default 0.25, with beta: auto 0.5"
    )
    every: Annotated[int, Field(ge=1)] | None = Field(None, description="steps between averages, instead of p")
    optimizer_state: Literal["keep", "reset"] = Field("keep", description="the optimizer's state at an average")

    @field_validator("beta", mode="before")
    @classmethod
    def _no_other_word(cls, beta: Any) -> Any:
        words = [value for value in (beta.values() if isinstance(beta, Mapping) else [beta]) if isinstance(value, str)]
        return check_beta(beta) if words else beta

    @field_validator("beta")
    @classmethod
    def _in_range(cls, beta: BetaValue | dict[str, BetaValue]) -> BetaValue | dict[str, BetaValue]:
        return check_beta(beta)

    @model_validator(mode="after")
    def _one_cadence(self) -> SFAConfig:
        if self.p is not None and self.every is not None:
            raise ValueError("give p (a fraction of the steps) or every (a number of steps), not both")
        return self

    @model_validator(mode="after")
    def _auto_keys(self) -> SFAConfig:
        if self.automatic and self.anchor != "previous":
            raise ValueError("beta: auto weighs the past tasks, which the previous model holds: drop anchor")
        if not self.automatic:
            for key in ("strength", "importance"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} belongs to beta: auto; set that, or leave {key} out")
        return self

    @property
    def automatic(self) -> bool:
        """Whether any β is "auto"."""
        return AUTO in (self.beta.values() if isinstance(self.beta, dict) else [self.beta])

    @property
    def varied_key(self) -> str | None:
        """λ with beta: auto, else β."""
        return "strength" if self.automatic else "beta"

    def searched(self, *without: str) -> Space:
        """Without p where `every` says when to average; with beta: auto without β, else without λ."""
        unused = ["beta" if self.automatic else "strength", *(["p"] if self.every is not None else [])]
        return super().searched(*without, *unused)

    def located(self, locate: Callable[[DataSpec], DataSpec]) -> Self:
        """The config with an absolute path of the sample."""
        if isinstance(self.importance, str):
            return self
        sample = self.importance.model_copy(update={"data": locate(self.importance.data)})
        return self.model_copy(update={"importance": sample})

    def problem_with(self, tasks: int) -> str | None:
        """With beta: auto a single task from random weights is observed, for the tasks that are added to it."""
        return None if self.automatic else super().problem_with(tasks)

    def problem_in(self, model: nn.Module, tasks: Sequence[TaskFacts]) -> str | None:
        """A sample where examples have classes."""
        if isinstance(self.importance, PastSample) and not all(task.language for task in tasks):
            return (
                "importance: {data: …} needs a model that continues texts; a classifier has no output row for what its "
                "start model knows. Say importance: uniform."
            )
        return super().problem_in(model, tasks)

    def problem_with_model(self, spec: ModelSpec) -> str | None:
        """Refuses stacked adapters with beta: auto, whose tasks would not be weighed in one unit."""
        if self.automatic and spec.adapts:
            return f"beta: auto needs the merged weights after each task; {spec.merged_instead}."
        return super().problem_with_model(spec)

    def held_copies(self, tasks: int) -> int:
        """With beta: auto the squared gradients; the anchor stays on disk."""
        return 1 if self.automatic else 0


class SequentialFineTuningWithAveraging(AnchorAveraging[SFAConfig]):
    """Every p·T optimizer steps, and at the task's end, the weights are averaged with the previous task's checkpoint.

    Equation: `θ ← (1−β)·θ + β·θ_o`; with beta: auto `β_i = 1 − (v_i+e)/(v_i+e+λ(Ω_i+t·e))` for weight i, where v is the
    mean over the task's steps of g², Ω the sum of v over the t past tasks, and `e = 0.05·(mean v + mean Ω/t)`
    Paper: "Soup to go" (arXiv 2501.05559); θ_o is the previous task's final model, frozen for the task; beta: auto is
    ours: Bayesian merging of tasks with the squares along the path in place of the Fisher information at its end
    Cost: nothing but an average, about one pass over the weights, 1/p times a task; the anchor can stay on disk; beta:
    auto adds one pass over the gradients a step and a tensor of the model's size
    Kept: nothing: the anchor is the previous model; with beta: auto Ω, a tensor of the model's size
    Use: when no data may be kept and memory is short; raise `beta` (or `strength`) to keep more, lower it to learn more
    Reading: the first task is averaged where the start model comes from a checkpoint; rows of the head that the anchor
    or that checkpoint lacks are left as training made them; under LoRA the base is the anchor and an average is
    `B ← (1−β)·B`: no copy; g is what the optimizer gets, after clipping; a start model that is protected counts as one
    past task, of which `importance` says what matters; buffers get β = λt/(1+λt)
    """

    title = "SFA"
    neutral: ClassVar[ConfigValues] = {"beta": 0.0}
    typical: ClassVar[ConfigValues] = {"beta": 0.3, "p": 0.4}

    def __init__(self, config: SFAConfig) -> None:
        super().__init__(config)
        self._past = NOTHING  # Ω
        self._total_steps = 0

    @property
    def observes(self) -> bool:
        """With beta: auto gradients are observed even in a first task that is not averaged."""
        return self.config.automatic

    def cadence(self) -> dict[str, Any]:
        """β and when to average, as SFA takes them."""
        config = self.config
        p = None if config.every else config.p or (AUTO_P if config.automatic else 0.25)
        auto = {"strength": config.strength, "importance": self._past} if config.automatic else {}
        return {"beta": config.beta, "p": p, "every": config.every, **auto}

    def task_start(self, task: Task) -> None:
        """Opens the anchor; with beta: auto, in a first task that is averaged, the importance of the start model."""
        if self.config.automatic and task.index == 0:
            self._past = self._of_start_model(task) if self.config.protects(task) else NOTHING
        self._total_steps = task.total_steps
        super().task_start(task)
        if self.config.automatic:
            trained = sum(weight.nbytes for weight in task.model.parameters() if weight.requires_grad)
            self.costs.extra_memory_bytes += trained  # v

    def _of_start_model(self, task: Task) -> PastImportance:
        source = self.config.importance
        if isinstance(source, str):
            return past_importance(source)
        assert task.sample is not None
        examples = task.sample(source.data, f"method {self.config.title!r}: importance")
        self.notes.append(
            f"sfa: importance of the start model: squared gradients of {source.steps} batches of {source.batch_size} "
            f"of {source.data.path}"
        )
        return sample_importance(task, examples, source)

    def after_step(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        """Averages if the schedule says so; after the last step, Ω ← Ω + v."""
        super().after_step(model, optimizer, step)
        if self.config.automatic and step == self._total_steps:
            assert self._sfa is not None
            profile = self._sfa.beta_profile()
            self.betas = None if profile is None else asdict(profile)
            self._past = self._sfa.importance()

    def task_end(self, task: Task, examples: Examples) -> None:
        """The last average, unless the last step was one."""
        super().task_end(task, examples)
        if self.config.automatic:
            self._sfa = None  # what is kept from here on is Ω
            stored = sum(tensor.nbytes for tensor in self._past.tensors.values())
            self.costs.stored_bytes += stored
            self.costs.stored_statistics_bytes = stored

    def averaged(self, optimizer: Optimizer) -> None:
        """Forgets the optimizer's state, with `optimizer_state: reset`."""
        if self.config.optimizer_state == "reset":
            optimizer.state.clear()

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """The position in the schedule; with beta: auto Ω, and inside a task the squares so far."""
        tensors, values = super().state()
        if not self.config.automatic:
            return tensors, values
        observed = {} if self._sfa is None else self._sfa.observed()
        past = {_IMPORTANCE + name: tensor for name, tensor in self._past.tensors.items()}
        squares = {_SQUARES + name: tensor for name, tensor in observed.get("squared_gradients", {}).items()}
        counts = {"past_tasks": self._past.tasks, "observed": observed.get("observed", 0)}
        return {**tensors, **past, **squares}, {**values, **counts}

    def load_state(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Restores Ω of the tasks before, and inside a task the squares."""
        if not self.config.automatic:
            super().load_state(tensors, values)
            return
        if self._sfa is None:  # between tasks
            self._past = PastImportance(_under(_IMPORTANCE, tensors), values["past_tasks"])
        else:
            observed = {"squared_gradients": _under(_SQUARES, tensors), "observed": values["observed"]}
            super().load_state(tensors, {**values, "sfa": {**values["sfa"], **observed}})


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
