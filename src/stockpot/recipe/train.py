"""The `train` block: names of Transformers' TrainingArguments, except those that a stream decides itself, and
`class_weights`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from stockpot.errors import StockpotError, did_you_mean
from stockpot.spelling import option
from stockpot.training.class_weights import CLASS_WEIGHTS, check_class_weights

RESERVED = {
    "output_dir": "the run folder decides; use -o",
    "seed": "use the recipe's `seeds`",
    "data_seed": "use the recipe's `seeds`",
    "resume_from_checkpoint": "use `stockpot resume`",
    "overwrite_output_dir": "a run folder is never overwritten",
    "eval_strategy": "the stream evaluates after every task",
    "evaluation_strategy": "the stream evaluates after every task",
    **dict.fromkeys(
        ("eval_on_start", "eval_steps", "eval_delay", "greater_is_better", "bf16_full_eval", "prediction_loss_only"),
        "the stream evaluates after every task",
    ),
    "do_eval": "the stream evaluates after every task",
    "do_train": "the stream trains on every task",
    "do_predict": "the stream evaluates after every task",
    "per_device_eval_batch_size": "use `evaluation.batch_size`",
    "load_best_model_at_end": "a task ends with its averaged weights, not with an earlier checkpoint",
    "metric_for_best_model": "the stream evaluates after every task",
    **dict.fromkeys(
        (
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "eval_accumulation_steps",
            "include_for_metrics",
            "batch_eval_metrics",
            "fp16_full_eval",
            "label_names",
        ),
        "the stream evaluates after every task, by itself",
    ),
    **dict.fromkeys(
        (
            "push_to_hub",
            "hub_token",
            "hub_private_repo",
            "hub_model_id",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
        ),
        "nothing is pushed while training; push the finished model folder instead",
    ),
    "deepspeed": "ZeRO's master weights would undo every average at the next step",
    **dict.fromkeys(
        (
            "fsdp",
            "fsdp_config",
            "parallelism_config",
            "ddp_find_unused_parameters",
            "ddp_bucket_cap_mb",
            "ddp_broadcast_buffers",
            "ddp_static_graph",
            "ddp_backend",
            "ddp_timeout",
            "local_rank",
            "log_on_each_node",
            "save_on_each_node",
            "log_level_replica",
            "average_tokens_across_devices",
        ),
        "a stream runs in one process, on one device, in this version",
    ),
    **dict.fromkeys(
        ("activation_checkpointing", "activation_checkpointing_kwargs"),
        "it has an effect only under FSDP; use gradient_checkpointing",
    ),
    **dict.fromkeys(
        (
            "train_sampling_strategy",
            "length_column_name",
            "group_by_length",
            "dataloader_in_order",
            "dataloader_multiprocessing_context",
        ),
        "the order of the examples depends only on the seed, so that every method sees the same",
    ),
    "save_total_limit": "a run keeps only the newest checkpoint of a task, until the task is learnt",
    "restore_callback_states_from_checkpoint": "the run restores everything itself",
    "disable_tqdm": "the run has its own bars in a terminal, and lines in a log",
    "skip_memory_metrics": "the run measures memory itself",
    "fp16": "methods act on unscaled gradients; use bf16",
    "auto_find_batch_size": "the number of steps must be known before a task starts",
    "save_only_model": "a checkpoint without the optimizer could not be resumed exactly",
    "ignore_data_skip": "a resumed run must see the batches that the unbroken one would have seen",
    "enable_jit_checkpoint": "SIGTERM already stops a run with a checkpoint",
    "save_strategy": "use save_steps",
    "remove_unused_columns": "the stream feeds exactly what the model takes",
}


# Smaller values would train nothing, or fail in the middle of a run.
LEAST = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "save_steps": 1,
    "learning_rate": 0,
    "weight_decay": 0,
    "warmup_steps": 0,
}
WHOLE = ("per_device_train_batch_size", "gradient_accumulation_steps", "save_steps", "max_steps")


def check_train(train: dict[str, Any], source: str, loop: str = "trainer") -> None:
    """Raises StockpotError for a name that TrainingArguments or the loop does not know, or that is not the recipe's to
    set, and for a value that is not a number where one is needed, or is too small to train with.
    """
    from transformers import TrainingArguments

    known = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    for key, value in train.items():
        if key == CLASS_WEIGHTS:
            check_class_weights(value, f"{source}.{key}")
            continue
        if key in RESERVED:
            reason = RESERVED[key].replace("-o", option("output"))
            raise StockpotError(f"{source}.{key}: not for a recipe: {reason}.")
        if key not in known:
            hint = did_you_mean(key, [*known, CLASS_WEIGHTS]) or " See the documentation of TrainingArguments."
            raise StockpotError(f"{source}.{key}: unknown key.{hint}")
        if key == "optim" and str(value).startswith("schedule_free"):
            raise StockpotError(
                f"{source}.optim: {value} trains other weights than those it gives out, which a run would publish; "
                "choose adamw_torch, for example."
            )
        if _is_number(known[key]) and not _is_number(value):
            raise StockpotError(f"{source}.{key}: should be a number, not {'null' if value is None else repr(value)}.")
        if key in WHOLE and not isinstance(value, int):
            raise StockpotError(f"{source}.{key}: should be a whole number, not {value!r}.")
        if _is_number(value) and value < LEAST.get(key, -math.inf):
            raise StockpotError(f"{source}.{key}: should be at least {LEAST[key]}, not {value!r}.")
        if key == "num_train_epochs" and value <= 0 and not train.get("max_steps"):
            raise StockpotError(f"{source}.{key}: should be more than 0, not {value!r}: nothing would be trained.")
    if loop == "plain":
        from stockpot.training.plain import check_settings

        check_settings(train, source)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
