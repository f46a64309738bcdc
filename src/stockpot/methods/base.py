"""What a method is: declarations, a config, and the hooks that it needs. Every hook of the base class does nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar, get_args

from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.optim import Optimizer

from stockpot.batches.examples import Batch, Examples, TrainingData
from stockpot.batches.losses import SINGLE_LABEL, ProblemType, mean_loss
from stockpot.batches.outputs import logits_of, moved_to, targets_of
from stockpot.methods.declare.declarations import Role, Sweep, check_declarations
from stockpot.methods.declare.space import Space
from stockpot.models.spec import ModelSpec, Origin
from stockpot.plugins import PATH_PATTERN
from stockpot.streams.scenario import mask_rivals
from stockpot.streams.spec import DataSpec, TrainSettings
from stockpot.strict import StrictModel

Tensors = dict[str, Tensor]
StartsFrom = Literal["previous", "pretrained"]
ConfigValues = Mapping[str, Any]  # of a config, without its name


class TaskFacts(NamedTuple):
    """What is known about a task before the stream starts."""

    name: str
    classes: int
    examples: int  # to train on
    language: bool = False  # text that a language model continues or answers: one class
    problem: ProblemType = SINGLE_LABEL  # of several labels or numbers, `classes` counts those


class BaseConfig(StrictModel):
    """Keys that every method has."""

    space: ClassVar[Space] = {}  # the values that a search or a front may take
    strength_key: ClassVar[str | None] = None  # the key that trades the new for the past: its range is in `space`
    path_keys: ClassVar[
        Mapping[str, Sequence[str]]
    ] = {}  # keys that name a file, with words that they may hold instead
    declared_name: ClassVar[str | None] = None  # of a method at a dotted path, which is then its `name`

    name: str
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+=%-]*$", max_length=60)] | None = Field(
        None, description="what it is called in a comparison; default: its name"
    )
    train: TrainSettings | None = Field(
        None, description="TrainingArguments that differ for this method; those of a task come before them"
    )

    @property
    def title(self) -> str:
        """The label, or the method's name."""
        return self.label or self.declared_name or self.name

    @property
    def varied_key(self) -> str | None:
        """The key that a front varies: the strength."""
        return self.strength_key

    @property
    def starts_from(self) -> StartsFrom:
        """The model that each task is trained from: the previous task's, or the start model."""
        return "previous"

    def searched(self, *without: str) -> Space:
        """What a search may choose: the space, without keys that the user has set or that have no effect here."""
        return {key: values for key, values in self.space.items() if key not in {*self.model_fields_set, *without}}

    def settled(self, origin: Origin) -> Self:
        """The config with everything decided that depends on where the start model comes from."""
        return self

    def located(self, locate: Callable[[DataSpec], DataSpec]) -> Self:
        """The config with local paths of data that it names made absolute by `locate`."""
        return self

    def decided(self, rows: int, language: bool) -> Self:
        """The config with everything decided that depends on the whole stream's head, once for a run.

        `rows` is the number of outputs of all tasks together, without tasks that are added later.
        """
        return self

    def epoch_examples(self, sizes: Sequence[int]) -> int:
        """Examples in an epoch of the last of tasks with so many training examples, without those of `mix`."""
        return sizes[-1]

    def held_copies(self, tasks: int) -> int:
        """Tensors of the weights' size that the method holds in memory while it trains the last of so many tasks."""
        return 0

    def problem_with(self, tasks: int) -> str | None:
        """Why the method would do nothing, or cannot work, in a stream of this many tasks."""
        return None

    def problem_with_model(self, spec: ModelSpec) -> str | None:
        """Why the method cannot work with what the recipe trains: an adapter for each task, or weights in bf16."""
        return None

    def problem_in(self, model: nn.Module, tasks: Sequence[TaskFacts]) -> str | None:
        """Why the method cannot work with this start model or these tasks; also raises StockpotError."""
        return None


class UnopenedConfig(BaseConfig):
    """What a run folder recorded of a method that the user's own code, or a package's, defines: none is imported."""

    model_config = ConfigDict(extra="allow")

    @property
    def title(self) -> str:
        """The label, or the last part of the name."""
        return self.label or self.name.rpartition(":")[2]


class ConfigByPath(UnopenedConfig):
    """A method of the user's own code, and its parameters."""

    name: Annotated[str, Field(pattern=PATH_PATTERN, description="where its class is: package.module:Class")]


@dataclass
class Task:
    """What a method knows when a task starts: the model has the weights that the task starts from."""

    index: int  # from 0
    name: str
    seed: int  # of this task; derive a seed for each purpose from it
    model: nn.Module
    past: Sequence[Callable[[], Examples]] = ()  # the training examples of each earlier task
    total_steps: int = 0  # T, optimizer steps; known from `task_start` on
    checkpoint: Callable[[str], Path] = Path  # "previous", "pretrained" or a path → where those weights are
    new: Sequence[str] = ()  # tensors that have more rows than in those weights
    rows: Sequence[Sequence[int]] = ()  # the output rows of each task up to this one
    owners: Tensor | None = None  # see scenario.Rows.owners
    language: bool = False  # a language model: its rows are the tokens, and all tasks share them
    problem: ProblemType = SINGLE_LABEL  # what the outputs stand for
    origin: Origin = "random"  # of the stream's start model
    drawn: Sequence[str] = ()  # in the first task, tensors that the checkpoint lacks (an output layer), drawn at random
    sample: Callable[[DataSpec, str], Examples] | None = None  # examples of a data set that no task learns
    adapted: bool = False  # a fresh LoRA adapter is trained; at the task's end it is folded into the weights

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """A model's logits of a batch, on its device: −∞ at the rows that do not compete for an example.

        See `logits_of` for their shape.
        """
        return self._logits(model, moved_to(model, batch))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a batch, on the model's device, as the task trains on it; see `mean_loss`."""
        batch = moved_to(model, batch)
        return mean_loss(self.problem, self._logits(model, batch), batch)

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = logits_of(model, batch)
        return logits if self.owners is None else mask_rivals(logits, targets_of(batch), self.owners)


@dataclass
class MethodCosts:
    """What a method adds to plain fine-tuning in one task: bytes and seconds."""

    extra_memory_bytes: int = 0  # held while training
    stored_bytes: int = 0  # kept between tasks, beside the newest model
    stored_data_bytes: int = 0  # the part that is examples
    stored_model_bytes: int = 0  # the part that is models, or what tasks left of them
    stored_statistics_bytes: int = 0  # the part that is importances and the like
    averages: int = 0
    averaging_seconds: float = 0.0
    averaging_cpu_seconds: float = 0.0


ConfigT = TypeVar("ConfigT", bound=BaseConfig)


class Method(Generic[ConfigT]):
    """Base of all methods: plain fine-tuning.

    A method is a subclass with its config, `class Damp(Method[DampConfig])`, alone in a module of this folder that
    has its name in recipes. What it declares is checked when the class is defined, which raises TypeError.
    In a task the hooks are called in their order here, from `training_data` to `task_end`.
    """

    title: ClassVar[str]  # in prose: "Task Arithmetic"
    role: ClassVar[Role] = "rival"  # in comparisons; every comparison has the floor and the ceiling
    forgets: ClassVar[bool] = True  # False: each task is learnt anew, and nothing is carried over to be forgotten
    neutral: ClassVar[ConfigValues | None] = None  # settings under which it is plain fine-tuning, bit for bit
    typical: ClassVar[ConfigValues] = {}  # settings under which the suites see it act on toy tasks
    sweep: ClassVar[Sweep | None] = None  # what `stockpot whatif` tries; with it comes `post_hoc`

    config_type: ClassVar[type[BaseConfig]]  # the argument of `Method[…]`
    config: ConfigT

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        arguments = [argument for base in cls.__dict__.get("__orig_bases__", ()) for argument in get_args(base)]
        configs = [each for each in arguments if isinstance(each, type) and issubclass(each, BaseConfig)]
        if configs:  # else it is a base of several methods, whose argument is a TypeVar, or it inherits a config
            cls.config_type = configs[0]
            check_declarations(cls, cls.post_hoc is not Method.post_hoc)

    def __init__(self, config: ConfigT) -> None:
        self.config = config
        self.costs = MethodCosts()
        self.notes: list[str] = []
        self.betas: dict[str, Any] | None = None  # see `results.TaskBetas`, of a method that chose β for each weight

    def training_data(self, task: Task, examples: Examples) -> TrainingData:
        """Chooses what the task trains on."""
        return TrainingData.of(examples)

    def task_start(self, task: Task) -> None:
        """Prepares for the task; also called before a task is resumed, with the weights of its start."""

    def loss(self, loss: Tensor, logits: Tensor, batch: Batch, model: nn.Module) -> Tensor:
        """Changes the loss of a micro-batch."""
        return loss

    def gradients(self, model: nn.Module, step: int) -> None:
        """Changes the gradients, once a step, unscaled and before clipping."""

    def after_step(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        """Acts after optimizer step number `step` (from 1); gradients are still there."""

    def logged(self) -> dict[str, float]:
        """Numbers for trackers beside the loss, read at the Trainer's `logging_steps` and after every average."""
        return {}

    def task_end(self, task: Task, examples: Examples) -> None:
        """Finishes the task: `examples` are the task's own; what is in the model now is evaluated and saved."""

    def post_hoc(self, task: Task) -> None:
        """Acts on a model that was trained without the method: `task.model` holds the weights that the task left.

        What `task_end` does for methods that only merge: between it and `task_start` no step was taken, and there are
        no examples. Methods with a `sweep` implement it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not act on checkpoints alone")

    @contextlib.contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[None]:
        """Wraps evaluation; restores whatever it changes."""
        yield

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """What must survive a restart, within a task and between tasks: tensors, and JSON values."""
        return {}, {}

    def load_state(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Restores what `state` returned."""
