"""What a recipe may contain. Unknown keys are errors; `stockpot schema` exports the JSON schema for editors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, WrapValidator, field_validator, model_validator

from stockpot.batches.losses import SINGLE_LABEL, ProblemType
from stockpot.evaluation.scores import AnyScore, default_scores
from stockpot.evaluation.scores.base import SUITED, Suits
from stockpot.file_names import is_file_name
from stockpot.methods import DEFAULT, any_config
from stockpot.methods.base import BaseConfig
from stockpot.models.spec import ModelKind, ModelSpec
from stockpot.plugins import PATH_PATTERN
from stockpot.recipe.ranges import check_ranges
from stockpot.spelling import option
from stockpot.streams.scenario import open_scenario
from stockpot.streams.spec import DataSpec, MixSpec, Scenario, TaskSpec, TrainSettings, inherit
from stockpot.strict import StrictModel

if TYPE_CHECKING:
    MethodConfig = BaseConfig
    ScenarioName = str
else:
    _Written = Scenario | Annotated[str, Field(pattern=PATH_PATTERN)]  # what editors are told
    ScenarioName = Annotated[Scenario, WrapValidator(open_scenario, json_schema_input_type=_Written), SerializeAsAny()]
    MethodConfig = any_config()


class Split(StrictModel):
    """Cuts the recipe's `data` into tasks of `split` classes each."""

    split: int = Field(ge=1, description="classes in a task")
    shuffle: int | None = Field(None, description="seed that shuffles the classes first; default: in label order")


class Evaluation(StrictModel):
    """How the accuracy matrix is filled."""

    batch_size: int = Field(256, ge=1)
    limit: int | None = Field(
        None, ge=1, description="the most test examples of each task and control, evenly spaced; default: all"
    )
    on: Literal["test", "tuning"] = Field(
        "test", description="tuning: a fifth of the training examples is held out, and the test part is never read"
    )


class Tune(StrictModel):
    """How `stockpot compare` chooses parameters before the reported runs, with the same number of trials per method."""

    trials: int = Field(ge=1, description="for each method with parameters that the recipe does not set")
    search: Literal["grid", "random", "optuna"] = "grid"
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=lambda: [1000], min_length=1, description="of the trials; must differ from the reported ones"
    )
    minutes: float | None = Field(
        None, gt=0, description="no new round of trials starts later; all methods have then had the same number"
    )
    ranges: dict[str, dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]]] = Field(
        default_factory=dict,
        description="label or name of a method → parameter → [low, high], where the search starts; default: built in",
    )
    extensions: int = Field(
        3,
        ge=0,
        description="the most rounds in which the search goes beyond the outermost value tried, while that is some "
        "method's best; every method gets the same number of further trials, a third of `trials` in a round",
    )


class Recipe(StrictModel):
    """A stream of tasks, a model and a method."""

    name: str | None = Field(None, description="of the folder under runs/, without slashes; default: the file's name")
    model: ModelSpec
    scenario: ScenarioName = "class-incremental"
    head: Literal["all", "seen", "masked"] = Field(
        "all",
        description="output rows: for all classes of the stream from the start, or growing with each task; masked: all "
        "from the start, and the loss over those of the classes seen so far (class-incremental, arXiv 1810.12488)",
    )
    data: DataSpec = Field(default_factory=DataSpec)
    tasks: list[TaskSpec] | Split
    mix: MixSpec | None = Field(None, description="general data that is mixed into every task, and never evaluated")
    controls: list[TaskSpec] = Field(default_factory=list, description="evaluated, never trained on")
    method: MethodConfig = Field(default_factory=dict, validate_default=True)
    compare: list[MethodConfig] = Field(default_factory=list, description="the methods of `stockpot compare`")
    train: TrainSettings = Field(
        default_factory=dict,
        description="names and values of TrainingArguments; class_weights: balanced, none or a weight for each class",
    )
    loop: Literal["trainer", "plain"] = Field("trainer", description="Transformers' Trainer, or a plain loop of torch")
    boundary: Literal["fresh", "keep-optimizer"] = Field(
        "fresh",
        description="at a new task: a new optimizer, or the state of the old one; the schedule is always new",
    )
    metrics: list[AnyScore] = Field(
        default_factory=list,
        description="scores of every task and control; default: accuracy; loss and bits_per_byte for a language, "
        "mean_average_precision, micro_f1 and macro_f1 for several labels, rmse and r2 for a regression",
    )
    primary: str | None = Field(None, description="the score that the metrics are computed from; default: the first")
    evaluation: Evaluation = Field(default_factory=Evaluation)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [0], min_length=1)
    orders: int = Field(
        1, ge=1, description="orders of the tasks in `stockpot compare`: as written, then others at random"
    )
    tune: Tune | None = Field(None, description="in `stockpot compare`; default: the parameters of the recipe")
    front: int | None = Field(
        None, ge=2, description="in `stockpot compare`: the number of strengths of every method, past against new"
    )
    keep: Literal["all", "needed"] = Field("all", description="models kept in the run folder")

    @property
    def has_classes(self) -> bool:
        """Whether examples have classes: not with `scenario: language`, where texts are continued."""
        return self.scenario != "language"

    @property
    def kind(self) -> ModelKind:
        """What the model does: `scenario: language` continues texts; else a text column makes it classify texts."""
        if not self.has_classes:
            return "language"
        tasks = self.tasks if isinstance(self.tasks, list) else []
        return "text" if any(data.text for data in (self.data, *(task.data for task in tasks))) else "image"

    @property
    def problem(self) -> ProblemType:
        """What the outputs of a classifier stand for: the same for all tasks, which share the head."""
        tasks = self.tasks if isinstance(self.tasks, list) else []
        return inherit(self.data, tasks[0].data).problem if tasks else self.data.problem

    @property
    def suited(self) -> Suits:
        """Which scores suit the model: those of a classifier, of several labels, of a regression or of a language."""
        return SUITED[self.problem] if self.has_classes else "language"

    @property
    def measured(self) -> list[AnyScore]:
        """The scores; the default ones where the recipe names none."""
        return self.metrics or default_scores(self.suited)

    @property
    def primary_score(self) -> AnyScore:
        """The score that the metrics are computed from."""
        return next((score for score in self.measured if score.title == self.primary), self.measured[0])

    @model_validator(mode="before")
    @classmethod
    def _regression_shares_its_outputs(cls, values: Any) -> Any:
        """A regression is domain-incremental unless the recipe says otherwise: it has no classes to come one by one."""
        if not isinstance(values, dict) or "scenario" in values:
            return values
        tasks = values.get("tasks")
        blocks = [values, *(tasks if isinstance(tasks, list) else ())]
        data = [block.get("data") for block in blocks if isinstance(block, dict)]
        numbers = any(isinstance(block, dict) and block.get("problem_type") == "regression" for block in data)
        return {**values, "scenario": "domain-incremental"} if numbers else values

    @field_validator("name")
    @classmethod
    def _no_path(cls, name: str | None) -> str | None:
        if name is not None and not is_file_name(name):
            raise ValueError(
                f"{name!r} is not a name: no slashes, no dot or space at its ends, 1 to 120 printable characters; "
                f"use {option('output')} to choose a folder"
            )
        return name

    @field_validator("method", mode="before")
    @classmethod
    def _with_a_name(cls, method: Any) -> Any:
        return {"name": DEFAULT, **method} if isinstance(method, dict) else method

    @model_validator(mode="after")
    def _masks_classes(self) -> Recipe:
        if self.head == "masked" and self.scenario != "class-incremental":
            raise ValueError(
                "head: masked leaves future classes out of the loss, and only class-incremental streams have those; "
                f"with scenario: {self.scenario}, set head: all"
            )
        return self

    @model_validator(mode="after")
    def _one_problem(self) -> Recipe:
        tasks = self.tasks if isinstance(self.tasks, list) else []
        for block, entries in (("tasks", tasks), ("controls", self.controls)):
            for number, task in enumerate(entries):
                if (problem := inherit(self.data, task.data).problem) != self.problem:
                    raise ValueError(
                        f"{block}.{number}.data.problem_type: {problem}, but {self.problem} in the first task: all "
                        "tasks share the model's outputs, so they need the same; set it in the recipe's `data`"
                    )
        if self.model.config is not None and "problem_type" in self.model.config:
            raise ValueError("model.config.problem_type: say it in data.problem_type, which also decides the scores")
        if self.problem == SINGLE_LABEL:
            return self
        if not self.has_classes:
            raise ValueError("data.problem_type: it is for classifiers; with scenario: language, drop the key")
        if self.problem == "regression" and self.scenario == "class-incremental":
            raise ValueError(
                "scenario: a regression has no classes that could come one by one: set domain-incremental, where all "
                "tasks share the outputs, or task-incremental, where each has its own"
            )
        if self.head == "masked":
            raise ValueError(
                "head: masked leaves classes to come out of the softmax, and with this problem_type each output has a "
                "loss of its own, where an example has its label: set head: all"
            )
        if self.train.get("label_smoothing_factor"):
            raise ValueError(
                "train.label_smoothing_factor: it smooths the one class of an example; with this problem_type, drop it"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.model.lora is not None:
            if self.head == "seen" and self.has_classes:
                raise ValueError("head: seen grows the head, which adapters cannot; with model.lora, set head: all")
            if self.boundary == "keep-optimizer":
                raise ValueError(
                    "boundary: under model.lora each task trains a new adapter, so there is no state to keep"
                )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: a seed appears twice in {self.seeds}")
        if self.tune:
            check_ranges(self.tune.ranges, self.compare or [self.method])
        if self.tune and (shared := set(self.tune.seeds) & set(self.seeds)):
            raise ValueError(f"tune.seeds: {min(shared)} is one of `seeds`, which must not be tuned on")
        if isinstance(self.tasks, list):
            if not self.tasks:
                raise ValueError("tasks: the stream is empty; name at least one task")
            names = [task.name for task in (*self.tasks, *self.controls)]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"tasks: the name {twice[0]!r} appears twice; every task and control needs its own")
        elif not self.has_classes:
            raise ValueError("tasks.split: it cuts `data` by classes, and a language stream has none; list the tasks")
        if self.kind != "image" and self.model.build is not None:
            raise ValueError("model.build: texts need a model of Transformers; give model.name or model.config")
        labels = [method.title for method in self.compare]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"compare: two methods are called {twice[0]!r}; give one of them a `label`")
        return self
