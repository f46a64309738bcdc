"""The `train` block: names of Transformers' TrainingArguments, less those that a stream decides itself."""

from __future__ import annotations

import dataclasses
from typing import Any

from stockpot.errors import StockpotError, did_you_mean

RESERVED = {
    "output_dir": "the run folder decides; use -o",
    "seed": "use the recipe's `seeds`",
    "data_seed": "use the recipe's `seeds`",
    "resume_from_checkpoint": "use `stockpot resume`",
    "overwrite_output_dir": "a run folder is never overwritten",
    "eval_strategy": "the stream evaluates after every task",
    "evaluation_strategy": "the stream evaluates after every task",
    "do_eval": "the stream evaluates after every task",
    "do_train": "the stream trains on every task",
    "do_predict": "the stream evaluates after every task",
    "per_device_eval_batch_size": "use `evaluation.batch_size`",
    "load_best_model_at_end": "a task ends with its averaged weights, not with an earlier checkpoint",
    "metric_for_best_model": "the stream evaluates after every task",
    "push_to_hub": "push the finished model folder instead",
    "deepspeed": "ZeRO's master weights would undo every average at the next step",
    "fsdp": "a stream runs on one device in this version",
    "fp16": "methods act on unscaled gradients; use bf16",
    "auto_find_batch_size": "the number of steps must be known before a task starts",
    "save_only_model": "a checkpoint without the optimizer could not be resumed exactly",
    "ignore_data_skip": "a resumed run must see the batches that the unbroken one would have seen",
    "enable_jit_checkpoint": "SIGTERM already stops a run with a checkpoint",
    "save_strategy": "use save_steps",
    "remove_unused_columns": "the stream feeds exactly what the model takes",
}


def check_train(train: dict[str, Any], source: str) -> None:
    """Raises StockpotError for a name that TrainingArguments lacks, or that is not the recipe's to set."""
    from transformers import TrainingArguments

    known = [field.name for field in dataclasses.fields(TrainingArguments)]
    for key in train:
        if key in RESERVED:
            raise StockpotError(f"{source}.{key}: not for a recipe: {RESERVED[key]}.")
        if key not in known:
            hint = did_you_mean(key, known) or " See the documentation of TrainingArguments."
            raise StockpotError(f"{source}.{key}: unknown key.{hint}")
