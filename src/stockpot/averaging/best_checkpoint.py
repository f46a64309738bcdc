"""A Trainer that chooses the best of its checkpoints must not choose one between two averages."""

from __future__ import annotations

from typing import Any

from transformers import TrainerState, TrainingArguments

from stockpot.averaging.refusals import between_averages
from stockpot.averaging.schedule import Schedule


def chooses_best(args: TrainingArguments) -> bool:
    """Whether the Trainer compares evaluations, and loads or keeps the best checkpoint."""
    return bool(args.load_best_model_at_end) or args.save_strategy == "best"


def saves(args: TrainingArguments) -> bool:
    """Whether the Trainer will write checkpoints."""
    return bool(args.save_strategy != "no" or getattr(args, "enable_jit_checkpoint", False))


def refuse_best_between(args: TrainingArguments, state: TrainerState, schedule: Schedule, batches: Any) -> None:
    """Raises StockpotError unless an average is due at every evaluation that is compared.

    `batches` is the Trainer's loader, whose length says when an epoch ends.
    """
    if not chooses_best(args):
        return
    first = 0.0
    if args.eval_strategy == "steps":
        interval, first = int(state.eval_steps), args.eval_delay or 0
    elif hasattr(batches, "__len__"):
        interval = max(1, -(-len(batches) // args.gradient_accumulation_steps))
    else:
        return  # an epoch of unknown length: `on_save` checks what was evaluated
    for step in range(interval, state.max_steps + 1, interval):
        if step >= first and not schedule.due(step):
            key = "load_best_model_at_end" if args.load_best_model_at_end else "save_strategy='best'"
            remedy = f"average at every evaluation, every={interval}, or drop {key}."
            raise between_averages(f"{key} would compare the evaluation at", step, remedy)
