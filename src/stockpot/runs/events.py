"""The events of a run's journal, schema 1: what each JSON line holds beside its `sum`."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from stockpot.evaluation.predictions import AnswerCounts

FileFingerprints = dict[str, dict[str, Any]]  # relative file name → {"bytes": size, "sha256": digest}
Measured = dict[str, float | None]  # title of a score, or name of a control → value; None where it was not measured


class Evaluated(TypedDict):
    """One row of every score's matrix."""

    scores: dict[str, list[float | None]]  # title of a score → a value for each task
    controls: dict[str, Measured]  # title of a score → name of a control → value
    answers: NotRequired[dict[str, AnswerCounts]]  # name of a task or control → its answers; of classifiers


class LateEvaluation(TypedDict):
    """What a task that is added now would have had before: of the start model, then after each task."""

    rows: NotRequired[SharedRows]  # with this task, where the user brought the scenario
    column: dict[str, list[float | None]]  # title of a score → its values
    answers: NotRequired[list[AnswerCounts | None]]  # of a classifier; older journals do not say


class BroughtCode(TypedDict):
    """What results need to know of code that the user or a package brought, so that reading them imports none."""

    folders: list[str]  # where modules were looked for, beside Python's path
    sources: NotRequired[dict[str, str]]  # dotted path → digest of the file that it is in
    method: NotRequired[dict[str, Any]]  # its parameters, decided for this stream
    forgets: NotRequired[bool]
    scores: NotRequired[dict[str, dict[str, Any]]]  # title → `unit` and `higher_is_better`
    rows: NotRequired[SharedRows]  # of the tasks that the run was created with


class SharedRows(TypedDict):
    """The output rows of a scenario: see `scenario.Rows`."""

    tasks: list[list[int]]
    names: list[str]


class RunFacts(TypedDict):
    """What is known about a run's data and software before it starts."""

    start_rows: int  # output rows of the start model
    data: dict[str, dict[str, Any]]  # name of a task or control → what its data was
    versions: dict[str, str]
    commit: str | None
    brought: NotRequired[BroughtCode]


class Created(RunFacts):
    """The first event: the run folder was made."""

    event: Literal["created"]
    schema: int
    label: str
    recipe: dict[str, Any]  # resolved


class Started(Evaluated):
    """The start model was published and evaluated."""

    event: Literal["started"]
    files: FileFingerprints
    drawn: NotRequired[list[str]]  # tensors that the start model's checkpoint lacked; older journals do not say


class TrainingCheckpoint(TypedDict):
    """A checkpoint inside a task was published."""

    event: Literal["checkpoint"]
    task: int
    step: int
    files: FileFingerprints
    seconds: list[float]  # of the wall clock and of the processor, since the task started


class LearntTask(Evaluated):
    """A task was learnt and all tasks were evaluated; its files are still to be written."""

    event: Literal["task"]
    index: int
    name: str
    costs: dict[str, Any]  # `results.Costs`
    notes: list[str]
    betas: NotRequired[dict[str, Any] | None]  # `results.TaskBetas`; older journals do not say


class TaskDone(LearntTask):
    """The same, with the model and the method's state published: the task is done."""

    files: FileFingerprints
    state_files: FileFingerprints


class Added(LateEvaluation):
    """A task was added to a finished run."""

    event: Literal["added"]
    task: dict[str, Any]  # its block of the recipe, resolved
    data: dict[str, dict[str, Any]]


Event = Created | Started | TrainingCheckpoint | TaskDone | Added
