"""The `data` and `tasks` blocks of a recipe, and the scenario."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from stockpot.batches.losses import SINGLE_LABEL, ProblemType
from stockpot.strict import StrictModel
from stockpot.switches import read_switches

Scenario = Literal["class-incremental", "domain-incremental", "task-incremental", "language"]
Format = Literal["text", "prompt-completion", "instruction", "chat"]
TUNING_SHARE = 5  # one in so many training examples (of each class, where there are classes) is held out to tune on

# Keys of TrainingArguments that take the word `no`; in all others YAML's `no` means false.
_NO_IS_A_WORD = ("eval_strategy", "include_num_input_tokens_seen", "logging_strategy", "save_strategy")


def _train_words(train: Any) -> Any:
    if not isinstance(train, dict):
        return train
    return {key: value if key in _NO_IS_A_WORD else read_switches(value) for key, value in train.items()}


_CLASS_WEIGHTS = {
    "anyOf": [
        {"enum": ["balanced", "none"]},
        {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}},
        {"type": "null"},
    ],
    "description": "how much the examples of each class count in the cross-entropy: a weight by class, others 1; "
    "balanced: N / (classes × n_c), n_c the examples of the class in an epoch",
}
_TRAIN_SCHEMA = {"type": "object", "additionalProperties": True, "properties": {"class_weights": _CLASS_WEIGHTS}}
TrainSettings = Annotated[dict[str, Any], BeforeValidator(_train_words), WithJsonSchema(_TRAIN_SCHEMA)]


class DataSpec(StrictModel):
    """A data set, narrowed and transformed. A task inherits keys that it does not set from the recipe's `data`."""

    path: str | None = Field(None, description="hub name or local folder for datasets.load_dataset, or `digits`")
    name: str | None = Field(None, description="the configuration of a hub data set")
    revision: str | None = None
    image: str | None = Field(None, description="the image column, where there are several")
    label: str | list[str] | None = Field(
        None, description="the label column, where there are several; a list of them for several labels or numbers"
    )
    problem_type: ProblemType | None = Field(
        None,
        description="what a label is, as Transformers says it: one class of each example (single_label_classification, "
        "the default), any number of labels (multi_label_classification), or numbers (regression)",
    )
    train_split: str = "train"
    test_split: str | None = Field(None, description="default: test, else validation, else a fifth of train held out")
    classes: list[int | str] | None = Field(None, description="keep these classes only, by number or by name")
    rotate: float = Field(0.0, description="rotate every image counter-clockwise by this many degrees")
    permute: int | None = Field(None, ge=0, description="shuffle the pixels by one fixed permutation with this seed")
    limit: int | None = Field(None, ge=1, description="at most this many training and test examples of each class")
    in_memory: bool | None = Field(None, description="hold the processed images as tensors; default: if they fit")
    format: Format | None = Field(
        None,
        description="which part of a text is learnt: all of it, or only the answers; chat puts prompts into the "
        "model's chat template, instruction into Alpaca's",
    )
    text: str | None = Field(None, description="a text column, or a template of columns: 'Title: {title}\\n{text}'")
    each: Literal["line", "paragraph", "file"] | None = Field(
        None, description="what one text of .txt files is; default: a line of one file, each file of a folder"
    )
    prompt: str | None = Field(None, description="column or template of the prompt, which is not learnt")
    input: str | None = Field(
        None, description="column with more of an instruction, where there is any; default: input, or context"
    )
    completion: str | None = Field(None, description="column or template of the completion, which is learnt")
    messages: str | None = Field(None, description="column of chat messages; default: messages")
    max_length: int | None = Field(
        None, ge=2, description="tokens in a sequence; default: what the model takes, at most 1024"
    )
    long_prompts: Literal["error", "drop", "cut"] = Field(
        "error",
        description="rows whose prompt leaves no room for the completion: an error, or left out and counted; cut, of a "
        "model with an encoder and a decoder: the prompt loses its end",
    )
    packing: bool | None = Field(None, description="fill sequences with several texts; default: with format: text")

    @property
    def problem(self) -> ProblemType:
        """`problem_type`, or its default."""
        return self.problem_type or SINGLE_LABEL

    @field_validator("label")
    @classmethod
    def _distinct_columns(cls, label: str | list[str] | None) -> str | list[str] | None:
        if isinstance(label, list) and (not label or len(set(label)) < len(label)):
            raise ValueError(f"it needs one column or more, each once, not {label}")
        return label

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: list[int | str] | None) -> list[int | str] | None:
        if classes is not None and not classes:
            raise ValueError("an empty list leaves the task without classes; name at least one, or drop the key")
        if classes is not None and len(set(map(str, classes))) < len(classes):
            raise ValueError(f"a class is named twice in {classes}")
        return classes


def inherit(default: DataSpec, task: DataSpec) -> DataSpec:
    """A task's data: keys that the task does not set come from the recipe's `data`."""
    return default.model_copy(update={key: getattr(task, key) for key in task.model_fields_set})


class MixSpec(DataSpec):
    """General data that is mixed into what a task trains on, and never evaluated; it has keys as other data has.

    `max_length`, `packing` and `long_prompts` are by default those of the task.
    """

    fraction: float = Field(
        ge=0, lt=1, description="share of general examples among those of every epoch; 0 in a task: none, after all"
    )

    @model_validator(mode="after")
    def _named(self) -> MixSpec:
        if self.path is None and self.fraction:
            raise ValueError("path is missing: it names the data to mix in")
        return self

    def beside(self, task: DataSpec) -> MixSpec:
        """With what a task's own data decide about sequences, where this does not."""
        keys = {"max_length", "packing", "long_prompts"} - self.model_fields_set
        return self.model_copy(update={key: getattr(task, key) for key in keys})


class TaskSpec(StrictModel):
    """One task of the stream; also what `stockpot add` reads."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    data: DataSpec = Field(default_factory=DataSpec)
    train: TrainSettings = Field(default_factory=dict, description="settings that differ for this task")
    mix: MixSpec | None = Field(None, description="general data in every epoch; default: that of the recipe")
