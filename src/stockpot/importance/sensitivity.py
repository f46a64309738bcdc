"""How far the outputs move when a weight does: the importance of Memory Aware Synapses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stockpot.batches.examples import Batch, Examples
from stockpot.batches.losses import learnt_mask
from stockpot.importance.fisher import averaged, chosen
from stockpot.importance.per_example import Logits, ParameterSums, per_example_sums
from stockpot.models.wrappers import refuse_fsdp1


def sensitivity(
    model: nn.Module,
    examples: Examples,
    *,
    logits: Logits,
    batch_size: int = 64,
    samples: int | None = None,
    draws: torch.Generator | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> ParameterSums:
    """`Ω = mean_b |∂‖f(x_b)‖² / ∂θ|` by parameter name, f the logits that compete; no label's value is used.

    Of a language model an example is a sequence, and ‖f‖² the sum over the positions that are to be learnt; of several
    labels or numbers the sum over those that the example has.
    In eval mode and in the parameters' types. With `samples`, that many examples, chosen by `draws`.
    Raises StockpotError for no examples, missing `draws`, and FSDP1.
    Paper: Aljundi et al. (arXiv 1711.09601), section 4.1, equations 2 and 3 with the squared norm.
    """
    refuse_fsdp1(model)
    indices = chosen(len(examples), samples, draws, batch_size)
    total = per_example_sums(model, examples, logits, _outward, 1, indices, batch_size, on_progress)
    return averaged(total, model, len(indices))


def _outward(logits: Tensor, batch: Batch) -> Tensor:
    """∂‖f‖² / ∂f = 2f, and 0 at the rows that do not compete and where nothing is to be learnt."""
    out = (logits == float("-inf")) | ~learnt_mask(logits, batch)
    return (2 * logits.masked_fill(out, 0.0))[None]
