"""What a recipe may say. Unknown keys are errors; `stockpot schema` exports the JSON schema for editors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from stockpot.evaluation.scores import AnyScore, default_scores
from stockpot.file_names import is_file_name
from stockpot.methods import DEFAULT, any_config
from stockpot.methods.base import BaseConfig
from stockpot.models.spec import ModelKind, ModelSpec
from stockpot.recipe.ranges import check_ranges
from stockpot.streams.spec import DataSpec, Scenario, TaskSpec, TrainSettings
from stockpot.strict import StrictModel

if TYPE_CHECKING:
    MethodConfig = BaseConfig
else:
    MethodConfig = any_config()


class Split(StrictModel):
    """Cuts the recipe's `data` into tasks of so many classes each."""

    split: int = Field(ge=1, description="classes in a task")
    shuffle: int | None = Field(None, description="seed that shuffles the classes first; default: in label order")


class Evaluation(StrictModel):
    """How the accuracy matrix is filled."""

    batch_size: int = Field(256, ge=1)
    limit: int | None = Field(
        None, ge=1, description="at most so many test examples of each task and control, evenly spaced; default: all"
    )
    on: Literal["test", "tuning"] = Field(
        "test", description="tuning: a fifth of the training examples is held out, and the test part never touched"
    )


class Tune(StrictModel):
    """How `stockpot compare` chooses parameters before the reported runs: as many trials for every method."""

    trials: int = Field(ge=1, description="for each method with parameters that the recipe does not set")
    search: Literal["grid", "random", "optuna"] = "grid"
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=lambda: [1000], min_length=1, description="of the trials; none of the reported ones"
    )
    minutes: float | None = Field(
        None, gt=0, description="no new round of trials begins later; every method has then had as many"
    )
    ranges: dict[str, dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]]] = Field(
        default_factory=dict,
        description="label or name of a method → parameter → [low, high], where the search begins; default: built in",
    )
    extensions: int = Field(
        3,
        ge=0,
        description="rounds at most in which, while a method's best value is the outermost tried, the search goes on "
        "beyond it; every method gets as many further trials, a third of `trials` in a round",
    )


class Recipe(StrictModel):
    """A stream of tasks, a model and a method."""

    name: str | None = Field(None, description="of the folder below runs/, without slashes; default: the file's name")
    model: ModelSpec
    scenario: Scenario = "class-incremental"
    head: Literal["all", "seen", "masked"] = Field(
        "all",
        description="output rows: for all classes of the stream from the start, or growing with each task; masked: all "
        "from the start, and the loss over those of the classes seen so far (class-incremental, arXiv 1810.12488)",
    )
    data: DataSpec = Field(default_factory=DataSpec)
    tasks: list[TaskSpec] | Split
    controls: list[TaskSpec] = Field(default_factory=list, description="evaluated, never trained on")
    method: MethodConfig = Field(default_factory=dict, validate_default=True)
    compare: list[MethodConfig] = Field(default_factory=list, description="the methods of `stockpot compare`")
    train: TrainSettings = Field(default_factory=dict, description="names and values of TrainingArguments")
    loop: Literal["trainer", "plain"] = Field("trainer", description="Transformers' Trainer, or a plain loop of torch")
    boundary: Literal["fresh", "keep-optimizer"] = Field(
        "fresh", description="at a new task: a new optimizer, or its state carried over; the schedule is always new"
    )
    metrics: list[AnyScore] = Field(
        default_factory=list, description="scores of every task and control; default: accuracy, or loss of a language"
    )
    primary: str | None = Field(None, description="the score that the metrics are made of; default: the first")
    evaluation: Evaluation = Field(default_factory=Evaluation)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [0], min_length=1)
    orders: int = Field(1, ge=1, description="of the tasks, in `stockpot compare`: as written, then others at random")
    tune: Tune | None = Field(None, description="in `stockpot compare`; default: parameters as the recipe has them")
    front: int | None = Field(
        None, ge=2, description="in `stockpot compare`: every method at so many strengths, past against new"
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
    def measured(self) -> list[AnyScore]:
        """The scores, with what is measured where the recipe names none."""
        return self.metrics or default_scores(self.kind)

    @property
    def primary_score(self) -> AnyScore:
        """The score that the metrics are made of."""
        return next((score for score in self.measured if score.title == self.primary), self.measured[0])

    @field_validator("name")
    @classmethod
    def _no_path(cls, name: str | None) -> str | None:
        if name is not None and not is_file_name(name):
            raise ValueError(
                f"{name!r} is not a name: no slashes, no dot or blank at its ends, 1 to 120 printable letters; "
                "-o says where a folder goes"
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
                "head: masked leaves classes to come out of the loss, which only class-incremental streams have; "
                f"with scenario: {self.scenario} say head: all"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.model.lora is not None:
            if self.head == "seen" and self.has_classes:
                raise ValueError("head: seen grows the head, which no adapter follows; with model.lora say head: all")
            if self.boundary == "keep-optimizer":
                raise ValueError("boundary: under model.lora each task trains a new adapter, with no state to keep")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: a seed is named twice in {self.seeds}")
        if self.tune:
            check_ranges(self.tune.ranges, self.compare or [self.method])
        if self.tune and (shared := set(self.tune.seeds) & set(self.seeds)):
            raise ValueError(f"tune.seeds: {min(shared)} is one of `seeds`, which must not have been tuned on")
        if isinstance(self.tasks, list):
            if not self.tasks:
                raise ValueError("tasks: the stream is empty; name at least one task")
            names = [task.name for task in (*self.tasks, *self.controls)]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"tasks: the name {twice[0]!r} is used twice; every task and control needs its own")
        elif not self.has_classes:
            raise ValueError(
                "tasks.split: it cuts `data` by classes, and texts to be continued have none; list the tasks"
            )
        if self.kind != "image" and self.model.build is not None:
            raise ValueError("model.build: texts need a model of Transformers; give model.name or model.config")
        labels = [method.title for method in self.compare]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"compare: two methods are called {twice[0]!r}; give one of them a `label`")
        return self
