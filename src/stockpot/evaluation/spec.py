"""The `metrics` of a recipe: each is a matrix of its own, with its own unit and its own direction."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Discriminator, Field, field_validator, model_validator

from stockpot.errors import did_you_mean
from stockpot.strict import FreeBlock, StrictModel


class Score(StrictModel):
    """Keys that every score has."""

    name: str
    label: str | None = Field(None, description="what the score is called; default: its name", min_length=1)
    tasks: list[str] | None = Field(
        None, description="tasks and controls that it is measured on; default: all it can", min_length=1
    )

    @property
    def title(self) -> str:
        """The label, or the name."""
        return self.label or self.name

    @property
    def unit(self) -> str:
        """What the score is counted in."""
        return "fraction"

    @property
    def higher_is_better(self) -> bool:
        """Which way the score runs."""
        return True


class Accuracy(Score):
    """The fraction of examples whose label has the highest logit."""

    name: Literal["accuracy"] = "accuracy"


class Loss(Score):
    """The mean of `−log p(token | what stands before it)`."""

    name: Literal["loss"] = "loss"

    @property
    def unit(self) -> str:
        """Nats for each token that is predicted."""
        return "nats per token"

    @property
    def higher_is_better(self) -> bool:
        """No."""
        return False


class Perplexity(Score):
    """`exp(loss)`: among how many equally likely tokens the model would be as unsure."""

    name: Literal["perplexity"] = "perplexity"

    @property
    def unit(self) -> str:
        """Tokens to choose from."""
        return "perplexity"

    @property
    def higher_is_better(self) -> bool:
        """No."""
        return False


class BitsPerByte(Score):
    """`nats / (ln 2 · bytes)` over the whole part: comparable between models of different tokenizers."""

    name: Literal["bits_per_byte"] = "bits_per_byte"

    @property
    def unit(self) -> str:
        """Bits for each byte of UTF-8 that is predicted."""
        return "bits per byte"

    @property
    def higher_is_better(self) -> bool:
        """No."""
        return False


class TokenAccuracy(Score):
    """The fraction of tokens that had the highest logit."""

    name: Literal["token_accuracy"] = "token_accuracy"


class ExactMatch(Score):
    """The fraction of prompts to which the model, writing greedily, gives the answer of the completion."""

    name: Literal["exact_match"] = "exact_match"
    extract: str | None = Field(
        r"#### *(-?[\d.,]+)",
        description="regular expression whose one group is the answer, first match; null: all that is written",
    )
    max_new_tokens: int = Field(256, ge=1)
    limit: int | None = Field(200, ge=1, description="examples, evenly spaced over the part; null: all")

    @field_validator("extract")
    @classmethod
    def _one_group(cls, extract: str | None) -> str | None:
        if extract is None:
            return None
        try:
            groups = re.compile(extract).groups
        except re.error as error:
            raise ValueError(f"{extract!r} is no regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"{extract!r} has {groups} groups; it needs one ( ) around the answer, others as (?: )")
        return extract


class MultipleChoice(Score):
    """The fraction of prompts after which the right completion is the likeliest of the candidates."""

    name: Literal["multiple_choice"] = "multiple_choice"
    choices: list[str] | None = Field(
        None, description="the candidates; default: the distinct completions of the part", min_length=2
    )
    group: str | None = Field(None, description="column: the candidates are those of the rows with the same value")
    normalise: Literal["none", "bytes", "tokens"] = Field(
        "none", description="compare log-likelihoods as they are, or divided by each candidate's length"
    )
    limit: int | None = Field(None, ge=1, description="examples, evenly spaced over the part; null: all")

    @model_validator(mode="after")
    def _one_source(self) -> MultipleChoice:
        if self.choices is not None and self.group is not None:
            raise ValueError("`choices` are the same for all rows: give these, or `group`, not both")
        return self


class PassAtK(Score):
    """The chance that one of k programs that the model writes passes its tests: runs what the model writes."""

    name: Literal["pass@k"] = "pass@k"
    run_code: bool = Field(
        False, description="must be true, beside --run-code: the programs are run on this machine, in a sandbox"
    )
    k: int = Field(1, ge=1)
    samples: int | None = Field(None, ge=1, description="programs written for each prompt, at least k; default: k")
    temperature: float | None = Field(None, ge=0, description="default: 0 (greedy) for one sample, else 0.8")
    tests: str = Field("test_list", description="column of a list of asserts (MBPP), or of code that defines check()")
    entry_point: str | None = Field(None, description="column of the function's name that check() gets (HumanEval)")
    begin: str | None = Field(None, description="column of what every program begins with (HumanEval: prompt)")
    stop: list[str] = Field(default_factory=list, description="what is written is cut before the first of these")
    max_new_tokens: int = Field(512, ge=1)
    limit: int | None = Field(200, ge=1, description="examples, evenly spaced over the part; null: all")
    seconds: float = Field(5.0, gt=0, description="of the wall clock, and of the processor, for each program")
    memory_mb: int = Field(512, ge=64, description="address space of each program")

    @property
    def title(self) -> str:
        """The label, or `pass@` with its k."""
        return self.label or f"pass@{self.k}"

    @property
    def programs(self) -> int:
        """n, the programs written for each prompt."""
        return self.samples or self.k

    @property
    def heat(self) -> float:
        """The temperature of sampling; 0: greedy."""
        return (0.0 if self.programs == 1 else 0.8) if self.temperature is None else self.temperature

    @model_validator(mode="after")
    def _enough(self) -> PassAtK:
        if self.programs < self.k:
            raise ValueError(f"samples: pass@{self.k} needs at least {self.k} samples, not {self.samples}")
        if self.programs > 1 and self.heat == 0:
            raise ValueError("temperature: at 0 all samples are the same; one sample is enough, or raise it")
        return self


class LmEval(Score):
    """A result of a task of lm-evaluation-harness, filled in at the one task or control that `tasks` names."""

    name: Literal["lm_eval"] = "lm_eval"
    tasks: list[str] = Field(description="the one task or control whose cells it fills", min_length=1, max_length=1)
    task: str | FreeBlock = Field(description="name in the harness, its definition, or a YAML file of it")
    metric: str = Field(description="which of its results: `acc`, or with a filter `exact_match,strict-match`")
    better: Literal["higher", "lower"] | None = Field(None, description="default: as the harness declares it")
    limit: int | None = Field(None, ge=1, description="the first so many examples; null: all")
    num_fewshot: int | None = Field(None, ge=0, description="examples shown first; default: as the task says")

    @property
    def unit(self) -> str:
        """A fraction for the harness's accuracies and matches; else the metric's name."""
        plain = self.metric.split(",")[0]
        return "fraction" if plain in {"acc", "acc_norm", "acc_bytes", "exact_match", "f1"} else plain

    @property
    def higher_is_better(self) -> bool:
        """As `better` says, or the harness; raises StockpotError where neither does."""
        if self.better is not None:
            return self.better == "higher"
        from stockpot.evaluation.language.harness import declared_direction

        return declared_direction(self)


_KINDS: tuple[type[Score], ...] = (
    Accuracy, Loss, Perplexity, BitsPerByte, TokenAccuracy, ExactMatch, MultipleChoice, PassAtK, LmEval,
)  # fmt: skip
SCORES: dict[str, type[Score]] = {str(kind.model_fields["name"].default): kind for kind in _KINDS}


def _block(given: Any) -> Any:
    """A bare name as the block that it stands for."""
    block = {"name": given} if isinstance(given, str) else given
    if isinstance(block, dict):
        name = block.get("name")
        if name is None:
            raise ValueError("a metric needs its `name`")
        if name not in SCORES:
            hint = did_you_mean(str(name), SCORES)
            raise ValueError(f"unknown metric {name!r}.{hint} Known: {', '.join(SCORES)}")
    return block


if TYPE_CHECKING:
    AnyScore = Score
else:
    _Blocks = Annotated[Union[_KINDS], Discriminator("name")]  # noqa: UP007
    AnyScore = Annotated[_Blocks, BeforeValidator(_block, json_schema_input_type=_Blocks | Literal[tuple(SCORES)])]


def defaults(kind: str) -> list[AnyScore]:
    """What is measured where the recipe names no metrics; the first is the primary one."""
    return [Loss(), BitsPerByte()] if kind == "language" else [Accuracy()]
