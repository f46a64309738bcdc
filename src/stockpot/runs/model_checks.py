"""What is tried out before a stream begins: whether the model takes each task's inputs."""

from __future__ import annotations

import torch
from torch import nn

from stockpot.batches.examples import Batch
from stockpot.batches.outputs import logits_of, targets_of
from stockpot.errors import StockpotError
from stockpot.streams.stream import Stream


@torch.no_grad()
def check_model(model: nn.Module, stream: Stream, rows: int, first: int = 0) -> None:
    """Raises StockpotError where the model cannot take an example of a task, or answers in another shape."""
    model.eval()
    if not stream.has_classes:
        _check_direction(model, stream.sample(first))
        for number in range(len(stream.controls)):
            stream.control(number)
    for index, task in [*enumerate(stream.tasks)][first:]:
        batch = stream.sample(index)
        shape = "x".join(map(str, next(iter(batch.values())).shape[1:]))
        try:
            given = tuple(logits_of(model, batch).shape)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            remedy = ", or its image_processor" if stream.example_noun == "images" else ""
            raise StockpotError(
                f"task {task.name!r}: the model cannot take its {stream.example_noun}, {shape}: {reason}. "
                f"Change the model{remedy}."
            ) from error
        if not stream.has_classes:
            if given[0] != len(targets_of(batch)):
                raise StockpotError(f"the model's output has shape {given}; a language model answers at every token.")
            stream.test(index)  # a row of it that is bad is told before anything is learnt
        elif given != (1, rows):
            raise StockpotError(f"the model's output for one example has shape {given}; the stream needs (1, {rows}).")


def _check_direction(model: nn.Module, batch: Batch) -> None:
    """Raises StockpotError where the answer at a token changes with the token after it, which it is to predict."""
    few = batch["input_ids"].repeat(1, 2)[:, : max(2, min(8, batch["input_ids"].shape[1]))]
    other = few.clone()
    other[:, -1] = 1 - (few[:, -1] > 0).long()
    logits = model(input_ids=torch.cat([few, other])).logits[:, :-1]
    one, two = logits.float()
    if (one - two).abs().max() > max(1e-4, 4 * torch.finfo(logits.dtype).eps) * one.abs().max():
        raise StockpotError(
            "model: it is no causal language model: what it says at a token changes with the tokens after it, so it "
            "would learn to copy them; choose a model that only looks back (of BERT's kind: is_decoder: true)."
        )
