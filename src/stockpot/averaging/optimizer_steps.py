"""Whether a call of `SFA.step()` follows an optimizer step, or only a batch that accumulated gradients."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from stockpot.averaging.lost_average import LostAverage

_logger = logging.getLogger("stockpot")
_PATIENCE = 64  # uncounted calls in a row, for example while a gradient scaler searches for its scale


class OptimizerSteps:
    """Sees each step that a torch optimizer makes on tensors of `model`, through torch's hook for all optimizers."""

    def __init__(self, model: nn.Module, guard: LostAverage) -> None:
        self._model = model
        self._guard = guard
        self._optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._made = False  # since the last call of `follows_step`
        self._not_counted = 0  # calls in a row
        reference = weakref.ref(self)

        def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            steps = reference()
            if steps is not None:
                steps._after(optimizer)

        weakref.finalize(self, register_optimizer_step_post_hook(after).remove)

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers that have made a step on the model's tensors and still exist."""
        return list(self._optimizers)

    def follows_step(self, optimizer: object) -> bool:
        """Whether this call of `SFA.step()`, with this `optimizer=`, counts as an optimizer step."""
        made, self._made = self._made, False
        if made or not (accumulating() or self._is_sure_of(optimizer)):
            self._not_counted = 0
            return True
        self._not_counted += 1
        if self._not_counted == max(_PATIENCE, 2 * accumulating()):
            _logger.warning(
                "%d calls of SFA.step() in a row were not counted: no optimizer step came before them. In a CUDA "
                "graph steps cannot be seen: leave optimizer= out. After a loop with Accelerate that was interrupted, "
                "call GradientState()._set_sync_gradients(True) before a loop without it.",
                self._not_counted,
            )
        return False

    def _is_sure_of(self, optimizer: object) -> bool:
        """Whether every step of the optimizer is seen: torch's hook is in place, and no CUDA graph replays it."""
        innermost = [None, *wrapped(optimizer)][-1]
        return (
            isinstance(innermost, Optimizer)
            and getattr(type(innermost).step, "hooked", False)
            and holds_any(innermost, self._model)
            and not any(group.get("capturable") for group in innermost.param_groups)
        )

    def _after(self, optimizer: Optimizer) -> None:
        if optimizer not in self._optimizers:
            if not holds_any(optimizer, self._model):
                return
            self._optimizers.add(optimizer)
        self._made = True
        self._guard.stepped(optimizer)


def was_skipped(optimizer: object) -> bool:
    """Whether Accelerate's optimizer reports that its gradient scaler skipped the last step."""
    return bool(getattr(optimizer, "step_was_skipped", False))


def wrapped(optimizer: object) -> Iterator[Any]:
    """The optimizer, then the one that it wraps, and so on inwards."""
    while optimizer is not None:
        yield optimizer
        inner = (getattr(optimizer, name, None) for name in ("optimizer", "base", "base_optimizer", "_base_optimizer"))
        optimizer = next((each for each in inner if hasattr(each, "param_groups")), None)


def holds_any(optimizer: Any, model: nn.Module) -> bool:
    """Whether a tensor of the model itself is among those that the optimizer updates."""
    known = {id(tensor) for tensor in model.parameters()}
    return any(id(tensor) in known for group in optimizer.param_groups for tensor in group["params"])


def batches_of_epoch() -> int | None:
    """How many batches Accelerate's active data loader has; None if there is none, or its length is unknown."""
    state = _accelerate()
    try:
        return len(state.active_dataloader) if state is not None and state.in_dataloader else None
    except TypeError:
        return None


def accumulating() -> int:
    """The batches that Accelerate accumulates over, if its state says that this one makes no step; else 0."""
    state = _accelerate()
    return 0 if state is None or state.sync_gradients else max(1, int(state.num_steps))


def _accelerate() -> Any:
    """Accelerate's gradient state, if it is in use already."""
    kind = getattr(sys.modules.get("accelerate.state"), "GradientState", None)
    return kind() if kind is not None and kind._shared_state else None  # else kind() would create it
