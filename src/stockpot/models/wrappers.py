"""FSDP1, which hides a model's weights in flat pieces, recognised by its wrapper and by the marks that it leaves."""

from __future__ import annotations

from torch import Tensor, nn

from stockpot.errors import StockpotError

_INSTEAD = "shard it with FSDP2: torch.distributed.fsdp.fully_shard (Accelerate and the Trainer: fsdp_version 2)."


def refuse_fsdp1(model: nn.Module) -> None:
    """Raises StockpotError for a model that FullyShardedDataParallel wraps, whole or in part, or has flattened.

    Each process then holds an unnamed piece of several concatenated weights, which looks like an ordinary tensor.
    """
    for name, module in model.named_modules():
        # By class name: that needs no import of torch.distributed.fsdp, and finds fairscale's and XLA's too.
        if any(kind.__name__.endswith("FullyShardedDataParallel") for kind in type(module).__mro__):
            place = f"its module '{name}'" if name else "the model"
            raise StockpotError(f"FSDP1 (FullyShardedDataParallel) wraps {place}: {_INSTEAD}")
    for name, parameter in model.named_parameters():
        if _is_flat(parameter):
            raise StockpotError(f"'{name}' is a piece of flat parameters of FSDP1: {_INSTEAD}")


def _is_flat(parameter: Tensor) -> bool:
    # FSDP1 sets the first mark on the weights that it flattens, the second on the flat parameter.
    return getattr(parameter, "_fsdp_flattened", False) or getattr(parameter, "_is_fsdp_flat_param", False)
