"""The schemas of `results.json`, `comparison.json` and `whatif.json`.

A score's `unit` says whether it is a fraction or a loss; times are in seconds, sizes in bytes. A score that was not
measured is null. Readers reject files of another version, and unknown keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from stockpot.errors import StockpotError
from stockpot.file_names import stays_inside

SCHEMA_VERSION: Final = "1"
WHATIF_VERSION: Final = "1"
START_ROW: Final = "start"  # the row before the first task, in every table
_T = TypeVar("_T", bound=BaseModel)


def _inside(path: str) -> str:
    if not stays_inside(path):
        raise ValueError(f"{path!r} leads out of the folder")
    return path


InsidePath = Annotated[str, AfterValidator(_inside)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Scores(_Strict):
    """One score on every task after every task: `matrix[i][j]` is the score on task j after learning task i."""

    matrix: list[list[float | None]] = Field(description="K rows of K scores; row i: after learning task i")
    initial: list[float | None] = Field(description="K scores before the first task was learnt")
    controls: dict[str, list[float | None]] = Field(
        default_factory=dict, description="data never trained on: K+1 scores, the first before task 1"
    )
    higher_is_better: bool
    unit: str = Field(description="'fraction', 'nats', ...")


class Metrics(_Strict):
    """Functions of the primary score's matrix; formulas in `stockpot.evaluation.metrics`. Null: not defined."""

    average_accuracy: float | None
    average_over_time: float | None
    forgetting: float | None
    backward_transfer: float | None
    forward_transfer: float | None
    plasticity: float | None
    past_accuracy: float | None = None
    newest_accuracy: float | None


class ControlMetrics(_Strict):
    """How the score on data that is never trained on changed; formulas in `stockpot.evaluation.metrics`."""

    change: float | None = Field(description="after the last task, relative to the start model; positive is better")
    worst: float | None = Field(description="the same after the task where it is lowest")


class Costs(_Strict):
    """What one task, or a whole stream, cost: seconds of wall clock and processor time, and bytes."""

    training_seconds: float = Field(0.0, description="wall seconds inside training, averaging included")
    training_cpu_seconds: float = 0.0
    averaging_seconds: float = Field(0.0, description="the part of training spent inside the method's weight averages")
    averaging_cpu_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    evaluation_cpu_seconds: float = 0.0
    peak_memory_bytes: int = Field(0, description="highest memory use of the process, on its training device")
    extra_memory_bytes: int = Field(0, description="memory that the method holds while training, beyond plain training")
    stored_bytes: int = Field(0, description="what the method keeps between tasks, beside the newest model")
    stored_data_bytes: int = Field(0, description="of it, examples of past tasks")
    stored_model_bytes: int = Field(0, description="of it, models, or parts of them")
    stored_statistics_bytes: int = Field(0, description="of it, importances and the like")
    steps: int = 0
    examples: int = Field(0, description="examples trained on, each as often as it came; 0 in older results")
    tokens: int = Field(0, description="tokens of texts trained on, without padding, each as often as it came")
    averages: int = 0


class TensorBetas(_Strict):
    """β of one tensor's weights."""

    tensor: str
    weights: int
    mean: float
    counts: list[int] = Field(description="weights with β in each tenth of [0, 1]")


class TaskBetas(_Strict):
    """β for each weight, as a method chose it at the last average of a task."""

    kept: float | None = Field(description="how far from the anchor weights were after it, of how far they were before")
    tensors: list[TensorBetas] = Field(description="in the model's order")


class ClassAnswers(_Strict):
    """How the test examples of each class of a task or control were answered; lists are in the order of `classes`."""

    classes: list[str]
    examples: list[int] = Field(description="test examples of each class")
    correct: list[list[int] | None] = Field(
        description="K+1 rows: correctly answered examples of each class, before task 1 and after each; null: unknown"
    )
    answers: list[dict[str, int]] = Field(
        description="after the last task, of each class: answer → examples that were given it"
    )


class Results(_Strict):
    """`results.json` of one run folder."""

    schema_version: Literal["1"] = SCHEMA_VERSION
    label: str = Field(description="the method's name in a comparison")
    method: dict[str, Any] = Field(description="the method's resolved parameters and its name")
    scenario: str
    tasks: list[str]
    scores: dict[str, Scores]
    primary: str = Field(description="the score that the metrics are computed from")
    metrics: Metrics
    controls: dict[str, ControlMetrics] = Field(
        default_factory=dict, description="control → its metrics, of the primary score; positive is better"
    )
    costs: Costs
    task_costs: list[Costs]
    betas: list[TaskBetas | None] = Field(
        default_factory=list, description="of each task, with `beta: auto`; null where nothing was averaged"
    )
    classes: dict[str, ClassAnswers] = Field(
        default_factory=dict, description="task or control of a classifier → its classes; older files do not say"
    )
    seed: int
    head: dict[str, list[str]] = Field(
        description="task name → the class of each output row that it uses, in row order"
    )
    notes: list[str] = Field(default_factory=list, description="what a reader must know, such as skipped averages")
    versions: dict[str, str]
    commit: str | None
    data: dict[str, dict[str, Any]] = Field(description="task name → fingerprints and sizes of its data")
    recipe: dict[str, Any]


class Estimate(_Strict):
    """A mean over seeds and its 95 % Student t interval; low and high are null below two values."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    values: list[float | None] = Field(description="one per cell, in the order of `cells`")


class Difference(_Strict):
    """A paired difference to plain sequential fine-tuning, over the same seeds, corrected by Holm across methods."""

    mean: float | None
    low: float | None = Field(description="of the corrected interval")
    high: float | None = Field(description="of the corrected interval")
    p_value: float | None
    p_holm: float | None
    verdict: Literal["better", "worse", "no difference shown", "no comparison"] = Field(
        description="no comparison: a verdict against a method whose parameters were chosen at an end of their range"
    )
    n: int


class Cell(_Strict):
    """One finished run of a comparison."""

    seed: int
    order: int = Field(0, description="index into the comparison's `orders`")
    run: InsidePath = Field(description="the run folder, relative to comparison.json")
    digest: str | None = Field(
        None, description="of the run's journal, and so of its scores, when the comparison was written; null: unknown"
    )


def _unknown() -> Estimate:
    return Estimate(mean=None, low=None, high=None, n=0, values=[])


class ControlSummary(_Strict):
    """One control under one method: its metrics over the cells, and their differences to sequential fine-tuning."""

    change: Estimate = Field(description="since the start, after the last task; positive is better")
    worst: Estimate = Field(description="the lowest change over the stream")
    versus_sequential: dict[str, Difference] = Field(
        default_factory=dict, description="'change' and 'worst' → paired difference; empty for sequential itself"
    )


class MethodSummary(_Strict):
    """One method of a comparison: every metric and every cost over its cells."""

    method: dict[str, Any]
    cells: list[Cell]
    average_accuracy: Estimate
    average_over_time: Estimate
    forgetting: Estimate
    backward_transfer: Estimate
    forward_transfer: Estimate
    plasticity: Estimate
    past_accuracy: Estimate
    newest_accuracy: Estimate
    kept: Estimate = Field(description="1 − F/F_sequential, per seed; null where sequential's forgetting touches 0")
    training_seconds: Estimate
    training_cpu_seconds: Estimate
    averaging_seconds: Estimate
    averaging_cpu_seconds: Estimate
    evaluation_seconds: Estimate
    evaluation_cpu_seconds: Estimate
    peak_memory_bytes: Estimate
    extra_memory_bytes: Estimate
    stored_bytes: Estimate
    stored_data_bytes: Estimate
    stored_model_bytes: Estimate = Field(default_factory=_unknown)
    stored_statistics_bytes: Estimate = Field(default_factory=_unknown)
    steps: Estimate
    examples: Estimate = Field(default_factory=_unknown)
    tokens: Estimate = Field(default_factory=_unknown)
    averages: Estimate
    controls: dict[str, ControlSummary] = Field(default_factory=dict, description="of the primary score")
    versus_sequential: dict[str, Difference] = Field(
        default_factory=dict, description="metric → paired difference; empty for sequential itself"
    )


class Trial(_Strict):
    """One set of parameters that was tried."""

    keys: dict[str, Any] = Field(description="the parameters that were searched, with the values tried")
    score: float | None = Field(description="the objective, on the tuning split; null where training diverged")
    run: InsidePath = Field(description="the run folder, relative to comparison.json")


class Tuning(_Strict):
    """How parameters were chosen before the reported runs: the same number of trials for every method that has any."""

    search: Literal["grid", "random", "optuna"]
    trials: int = Field(description="for each method, in its first range")
    extensions: int = Field(
        0, description="rounds of further trials, made because a method's best value was the outermost"
    )
    further_trials: int = Field(0, description="for each method, in all of these rounds")
    seeds: list[int] = Field(description="of the trials; other seeds than the reported ones")
    objective: str = "average_accuracy"
    split: str = Field(description="what the objective is measured on")
    methods: dict[str, list[Trial]] = Field(description="label → its trials; methods without parameters have none")
    chosen: dict[str, dict[str, Any]] = Field(description="label → the parameters of the reported runs")
    ranges: dict[str, dict[str, list[float]]] = Field(
        default_factory=dict, description="label → parameter → low and high of its first range"
    )
    at_end: dict[str, dict[str, float]] | None = Field(
        None,
        description="label → the parameters whose chosen value is the outermost tried, though others lie beyond; null: "
        "not recorded, in older files",
    )
    at_limit: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="label → the parameters chosen at a mathematical limit: nothing lies beyond"
    )


class FrontPoint(_Strict):
    """A method at one strength: a point of the past-versus-new front."""

    method: str = Field(description="the method's label")
    key: str = Field(description="the parameter that is its strength")
    value: float
    cells: list[Cell]
    past_accuracy: Estimate
    newest_accuracy: Estimate
    average_accuracy: Estimate
    training_seconds: Estimate
    extra_memory_bytes: Estimate
    stored_bytes: Estimate
    stored_data_bytes: Estimate
    stored_model_bytes: Estimate = Field(default_factory=_unknown)
    stored_statistics_bytes: Estimate = Field(default_factory=_unknown)
    controls: dict[str, Estimate] = Field(
        default_factory=dict, description="control → its change since the start; positive is better"
    )


class Comparison(_Strict):
    """`comparison.json`: every method of one comparison, keyed by label."""

    schema_version: Literal["1"] = SCHEMA_VERSION
    name: str
    scenario: str
    tasks: list[str]
    seeds: list[int]
    primary: str
    unit: str = Field("fraction", description="of the primary score")
    higher_is_better: bool = True
    confidence: float = 0.95
    orders: list[list[str]] = Field(default_factory=list, description="the tasks in each order that was run")
    methods: dict[str, MethodSummary]
    tuning: Tuning | None = Field(None, description="null: the parameters are those of the recipe")
    front: list[FrontPoint] = Field(default_factory=list, description="every method over its strength")
    sentences: list[str] = Field(
        default_factory=list, description="findings, verdicts only where an interval supports them"
    )
    versions: dict[str, str]
    commit: str | None


class WhatIfPoint(_Strict):
    """A method at one strength. Tasks that were still to come were not evaluated: their scores are null."""

    value: float | None = Field(description="the strength; null where the method has none")
    scores: Scores
    metrics: Metrics
    exact: list[bool] = Field(
        description="for each row of the matrix: whether a real run with this value and this seed gives these scores; "
        "false: post-hoc, since the run's later tasks would have started from other weights"
    )


class WhatIfMethod(_Strict):
    """One method over its strength."""

    method: dict[str, Any] = Field(description="the method's resolved parameters, without its strength")
    key: str | None = Field(description="the parameter that is its strength; null where it has none")
    points: list[WhatIfPoint] = Field(description="in order of strength")
    best: int = Field(description="index of the point with the best average; of equal ones the first")
    knee: int | None = Field(
        description="index of the knee, see `stockpot.evaluation.pareto`; null where there is none"
    )


class WhatIf(_Strict):
    """`whatif.json`: merges of the checkpoints of one run of plain sequential fine-tuning. Nothing was trained."""

    schema_version: Literal["1"] = WHATIF_VERSION
    run: str = Field(description="the name of the run folder")
    scenario: str
    tasks: list[str]
    seed: int
    primary: str
    unit: str
    plain: Scores = Field(description="of the run itself")
    plain_metrics: Metrics
    start: list[float] = Field(description="K scores of the start model, evaluated as after the last task")
    methods: dict[str, WhatIfMethod]
    notes: list[str] = Field(description="what a reader must know: what is exact, and on which data values were chosen")
    versions: dict[str, str]
    commit: str | None


def read_results(path: Path) -> Results:
    """Reads a results.json; raises StockpotError if it is missing, of another version, or against the schema."""
    return _read(path, Results)


def read_comparison(path: Path) -> Comparison:
    """Reads a comparison.json; raises StockpotError if it is missing, of another version, or against the schema."""
    return _read(path, Comparison)


def read_whatif(path: Path) -> WhatIf:
    """Reads a whatif.json; raises StockpotError if it is missing, of another version, or against the schema."""
    return _read(path, WhatIf)


def _read(path: Path, model: type[_T]) -> _T:
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StockpotError(f"{path}: could not be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise StockpotError(f"{path}: not a text file in UTF-8.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StockpotError(f"{path}: not a file of this version of Stockpot: {where}: {first['msg']}.") from error
