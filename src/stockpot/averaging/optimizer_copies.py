"""Optimizers that keep a second copy of the weights: the copy is averaged too, or the optimizer is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from stockpot.averaging.match import TensorPair
from stockpot.averaging.optimizer_steps import holds_any, wrapped
from stockpot.averaging.refusals import deepspeed
from stockpot.errors import StockpotError

# Keys of a parameter's state that hold weights: Lookahead's slow ones (timm, pytorch_optimizer), fp32 masters (apex,
# Transformer Engine), the shadow of EmoNavi and its relatives, the running mean of torch's ASGD (ax).
_WEIGHTS = ("lookahead_slow_buff", "slow_buffer", "slow_params", "lookahead_params", "master_param", "shadow", "ax")
# Schedule-free keeps z, and in its reference versions x and y; MirrorMADGRAD keeps z. FTRL's z are not weights.
_SEQUENCES = ("z", "x", "y")
# These recompute the weights from sums or means of their own; so does dual averaging, recognised by x0 in its state.
_ANEW = frozenset({"FTRL", "TRAC", "SPlus", "SRMM", "AccSGD"})


def check_optimizer(optimizer: Any, model: nn.Module) -> None:
    """Raises StockpotError for an optimizer that steps on other tensors than the model's, such as DeepSpeed's."""
    innermost = optimizer
    for innermost in wrapped(optimizer):
        _refuse_recomputing(innermost)
        if type(innermost).__module__.split(".")[0] == "deepspeed":
            raise deepspeed(f"DeepSpeed's {type(innermost).__name__}")
    on_host = getattr(optimizer, "param_d2h_map", {})  # torchao's CPUOffloadOptimizer
    if not (holds_any(optimizer, model) or any(tensor in on_host for tensor in model.parameters())):
        raise StockpotError(
            f"optimizer: {type(innermost).__name__} holds none of the model's own tensors, so its next step would "
            "overwrite an average with the copies that it does hold: build it from model.parameters(), after the model "
            "was wrapped or moved."
        )


def with_copies(pairs: Iterable[TensorPair], optimizers: Iterable[Any]) -> list[TensorPair]:
    """The pairs, and with the same anchor and β each copy that the optimizers keep of a pair's tensor.

    An optimizer's rule that is linear in its copies (schedule-free's y = (1−β₁)z + β₁x, Lookahead's slow and fast
    weights) gives the same weights whether all copies are averaged, or what the rule makes of them. Raises
    StockpotError for dual averaging (MADGRAD, D-Adaptation), which recomputes the weights from where it started.
    """
    layers = [layer for optimizer in optimizers for layer in wrapped(optimizer)]
    for layer in layers:
        _refuse_recomputing(layer)
    result: list[TensorPair] = []
    for pair in pairs:
        result.append(pair)
        if not pair.is_buffer:
            added = {id(pair.tensor)}
            for key, copy in _copies(pair, layers):
                if id(copy) not in added:
                    added.add(id(copy))
                    result.append(replace(pair, name=f"{pair.name} ({key})", tensor=copy))
    return result


def forget(optimizer: Any, pairs: Iterable[TensorPair]) -> None:
    """Removes the optimizer's state of the tensors that an average changed: moments, and copies of the weights."""
    for layer in wrapped(optimizer):
        for pair in pairs:
            if pair.beta > 0:
                layer.state.pop(pair.tensor, None)


def _refuse_recomputing(optimizer: Any) -> None:
    if any(kind.__name__ in _ANEW for kind in type(optimizer).__mro__):
        raise _undoes(optimizer)


def _undoes(optimizer: Any) -> StockpotError:
    return StockpotError(
        f"{type(optimizer).__name__} recomputes the weights from sums or means of its own, which would undo an "
        "average; choose an optimizer that steps from the current weights."
    )


def _copies(pair: TensorPair, layers: list[Any]) -> Iterator[tuple[str, Any]]:
    for layer in layers:
        state = getattr(layer, "state", {}).get(pair.tensor) or {}
        tensors = {key: value for key, value in state.items() if getattr(value, "shape", None) == pair.tensor.shape}
        if "x0" in tensors:
            raise _undoes(layer)
        sequences = "grad_sum_sq" in state or any("weight_sum" in group for group in layer.param_groups)
        keys = (*_WEIGHTS, *_SEQUENCES) if sequences else _WEIGHTS
        yield from ((key, tensors[key]) for key in keys if key in tensors)
        host = getattr(layer, "param_d2h_map", {}).get(pair.tensor)
        if host is not None:
            yield "on the host", host
