"""What users should know about an average, logged once."""

from __future__ import annotations

import logging
from functools import cache

from torch import nn

from stockpot.averaging.anchor import Anchor
from stockpot.averaging.model_tensors import model_names, persistent_buffers

_log_once = cache(logging.getLogger("stockpot").warning)


def notes_on(model: nn.Module, anchor: Anchor, buffers: str) -> list[str]:
    """What happens to BatchNorm's statistics, and which tensors of the anchor are unused. Each is logged once."""
    notes = []
    layers = sum(name.endswith("running_mean") for name, _ in persistent_buffers(model))
    if layers:
        done = "averaged like weights" if buffers == "average" else "kept as training makes them"
        notes.append(
            f"BatchNorm running statistics of {layers} layers are {done} (buffers='{buffers}'); "
            "where they matter, recompute them with torch.optim.swa_utils.update_bn."
        )
    known = model_names(model)
    unused = [name for name, tensor in anchor.tensors.items() if name not in known and tensor.is_floating_point()]
    if unused:
        notes.append(f"{anchor.label} holds {len(unused)} tensors that the model lacks, not used: '{unused[0]}', ….")
    for note in notes:
        _log_once(note)
    return notes


def note_stopped_early(step: int) -> None:
    """Logs that a training which stopped early was averaged in memory, after its last checkpoint."""
    logging.getLogger("stockpot").warning(
        "training stopped early, at step %d: averaged once more; checkpoints saved before hold the weights from before "
        "that average, so save the model again.",
        step,
    )


def note_not_counted(total_steps: int | None, batches: int | None) -> None:
    """Logs once, after a call that was not counted, that `total_steps` may have been given in `batches` of an epoch."""
    if total_steps is not None and not (batches and total_steps % batches):
        _log_once(
            f"SFA.step() does not count batches that only accumulate gradients: total_steps, {total_steps}, must be "
            "the number of optimizer steps; call finish() after the last one if it may be fewer."
        )
