"""Checks before a stream starts: whether the model takes each task's inputs."""

from __future__ import annotations

import torch
from torch import nn

from stockpot.batches.examples import Batch
from stockpot.batches.outputs import logits_of, targets_of
from stockpot.errors import StockpotError
from stockpot.streams.stream import Stream


@torch.no_grad()
def check_model(model: nn.Module, stream: Stream, rows: int, first: int = 0) -> None:
    """Raises StockpotError where the model cannot take an example of a task, or its output has the wrong shape."""
    model.eval()
    if not stream.has_classes:
        batch = stream.sample(first)
        if "decoder_input_ids" not in batch:  # a decoder looks at what it has written alone
            _check_direction(model, batch)
        for number in range(len(stream.controls)):
            stream.control(number)
    for index, task in [*enumerate(stream.tasks)][first:]:
        batch = stream.sample(index)
        shape = "x".join(map(str, next(iter(batch.values())).shape[1:]))
        try:
            output_shape = tuple(logits_of(model, batch).shape)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            remedy = ", or its image_processor" if stream.example_noun == "images" else ""
            raise StockpotError(
                f"task {task.name!r}: the model cannot take its {stream.example_noun}, {shape}: {reason}. "
                f"Change the model{remedy}."
            ) from error
        if not stream.has_classes:
            if output_shape[0] != len(targets_of(batch)):
                raise StockpotError(
                    f"the model's output has shape {output_shape}; a language model has one at every token."
                )
            stream.test(index)  # so that a bad row raises before anything is learnt
            stream.mixture(index)
        elif output_shape != (1, rows):
            raise StockpotError(
                f"the model's output for one example has shape {output_shape}; the stream needs (1, {rows})."
            )


def _check_direction(model: nn.Module, batch: Batch) -> None:
    """Raises StockpotError where the output at a token depends on the next token, which it should predict.

    Two sequences that differ in their last token alone must have the same logits before it, up to rounding.
    """
    original = batch["input_ids"].repeat(1, 2)[:, : max(2, min(8, batch["input_ids"].shape[1]))]
    changed = original.clone()
    changed[:, -1] = 1 - (original[:, -1] > 0).long()
    logits = model(input_ids=torch.cat([original, changed])).logits[:, :-1]
    first, second = logits.float()
    if (first - second).abs().max() > max(1e-4, 4 * torch.finfo(logits.dtype).eps) * first.abs().max():
        raise StockpotError(
            "model: not a causal language model: its output at a token depends on the tokens after it, so it would "
            "learn to copy them; choose a causal model (for BERT-like models, set is_decoder: true)."
        )
