"""FSDP1, which hides a model's weights in flat pieces: told by its wrapper and by the marks that it leaves."""

from __future__ import annotations

from torch import Tensor, nn

from stockpot.errors import StockpotError

_INSTEAD = "shard it with FSDP2: torch.distributed.fsdp.fully_shard (Accelerate and the Trainer: fsdp_version 2)."


def refuse_fsdp1(model: nn.Module) -> None:
    """Raises StockpotError for a model that FullyShardedDataParallel wraps, whole or in part, or has flattened.

    Each process then holds an unnamed piece of several weights run together, which passes for an ordinary tensor.
    """
    for name, module in model.named_modules():
        # By the name of its class: torch.distributed.fsdp need not be imported, and fairscale's and XLA's do the same.
        if any(kind.__name__.endswith("FullyShardedDataParallel") for kind in type(module).__mro__):
            place = f"its module '{name}'" if name else "the model"
            raise StockpotError(f"FSDP1 (FullyShardedDataParallel) wraps {place}: {_INSTEAD}")
    for name, parameter in model.named_parameters():
        if _is_flat(parameter):
            raise StockpotError(f"'{name}' is a piece of flat parameters of FSDP1: {_INSTEAD}")


def _is_flat(parameter: Tensor) -> bool:
    # The first mark is on what FSDP1 flattened, the second on what it made of that.
    return getattr(parameter, "_fsdp_flattened", False) or getattr(parameter, "_is_fsdp_flat_param", False)
