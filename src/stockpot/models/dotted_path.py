"""Models that a function builds, named by its dotted path: `model.build`."""

from __future__ import annotations

from typing import Any

from torch import nn

from stockpot.errors import StockpotError
from stockpot.models.spec import NETWORKS
from stockpot.plugins import load_dotted_path


def is_own(path: str) -> bool:
    """Whether a dotted path names one of Stockpot's own builders, which may be imported without consent."""
    return path.startswith(NETWORKS)


def users_builder(build: str | None) -> str | None:
    """A dotted path that names code of the user's; None for none, and for one of Stockpot's own."""
    return None if build is None or is_own(build) else build


def build_model(path: str, args: dict[str, Any], rows: int) -> nn.Module:
    """The model that `package.module:function` returns. Raises StockpotError if it does not return one."""
    function = load_dotted_path(path, "model.build")
    if not callable(function):
        raise StockpotError(f"model.build: {path} is not a function.")
    try:
        model = function(num_labels=rows, **args)
    except TypeError as error:
        raise StockpotError(f"model.build: {path}(num_labels={rows}, …): {error}.") from error
    if not isinstance(model, nn.Module):
        raise StockpotError(f"model.build: {path} returned {type(model).__name__}, not a torch.nn.Module.")
    return model
