"""The declared schema of `whatif.json`: what merges of a finished run's checkpoints would have scored."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from stockpot.results import Metrics, Scores

WHATIF_VERSION: Final = "1"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class WhatIfPoint(_Strict):
    """A method at one strength. Tasks that were still to come were not evaluated: their scores are null."""

    value: float | None = Field(description="the strength; null where the method has none")
    scores: Scores
    metrics: Metrics
    exact: list[bool] = Field(
        description="for each row of the matrix: whether a real run with this value and this seed gives these scores; "
        "false: post-hoc, for the run's later tasks would have started from other weights"
    )


class WhatIfMethod(_Strict):
    """One method over its strength."""

    method: dict[str, Any] = Field(description="the method's resolved parameters, without its strength")
    key: str | None = Field(description="the parameter that is its strength; null where it has none")
    points: list[WhatIfPoint] = Field(description="by growing strength")
    best: int = Field(description="index of the point of the highest average accuracy; of equal ones the first")
    knee: int | None = Field(description="index of the knee, see `stockpot.compare.knee`; null where there is none")


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
    start: list[float] = Field(description="K scores of the start model, as they would be taken after the last task")
    methods: dict[str, WhatIfMethod]
    notes: list[str] = Field(description="what a reader must know: what is exact, and on which data was chosen")
    versions: dict[str, str]
    commit: str | None
