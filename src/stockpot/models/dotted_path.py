"""Models that a function builds, named by its dotted path: `model.build`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from stockpot.errors import StockpotError, did_you_mean
from stockpot.models.spec import NETWORKS


def is_own(path: str) -> bool:
    """Whether a dotted path names one of Stockpot's own builders, which may be imported without consent."""
    return path.startswith(NETWORKS)


def build_model(path: str, args: dict[str, Any], rows: int) -> nn.Module:
    """The model that `package.module:function` returns. Raises StockpotError if it does not return one."""
    function = _import_function(path)
    try:
        model = function(num_labels=rows, **args)
    except TypeError as error:
        raise StockpotError(f"model.build: {path}(num_labels={rows}, …): {error}.") from error
    if not isinstance(model, nn.Module):
        raise StockpotError(f"model.build: {path} returned {type(model).__name__}, not a torch.nn.Module.")
    return model


def _import_function(path: str) -> Callable[..., nn.Module]:
    module_name, _, function_name = path.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise StockpotError(f"model.build: {path}: {error}.") from error
    finally:
        if added:
            sys.path.remove(here)
    function = getattr(module, function_name, None)
    if not callable(function):
        hint = did_you_mean(function_name, [key for key in vars(module) if not key.startswith("_")])
        raise StockpotError(f"model.build: {module_name} has no function {function_name!r}.{hint}")
    return function  # type: ignore[no-any-return]
