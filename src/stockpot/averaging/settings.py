"""The settings of SFA, declared once for `SFA`, the Trainer callback, the Lightning callback and the Axolotl plugin."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Required, TypedDict, TypeVar, cast, get_args, get_type_hints

from torch import Tensor

from stockpot.averaging.past_importance import ImportanceSource
from stockpot.averaging.schedule import Schedule, is_number
from stockpot.errors import StockpotError

AnchorSource = str | os.PathLike[str] | Mapping[str, Tensor]
AUTO: Literal["auto"] = "auto"
AUTO_P = 0.5  # p of beta="auto" where the user does not say when to average
_MOST = 1e6  # λ; beyond it nothing but the anchor is left
BetaValue = float | Literal["auto"]
Beta = BetaValue | Mapping[str, BetaValue]
Keep = Literal["device", "cpu", "disk"]
Rounding = Literal["nearest", "stochastic"]
Squares = Literal["observed", "adam"]
Buffers = Literal["average", "keep"]
_Init = TypeVar("_Init", bound=Callable[..., None])


class SFAOptions(TypedDict, total=False):
    """The fields of `SFASettings` as keyword arguments, for type checkers and editors."""

    beta: Required[Beta]
    p: float | None
    every: int | None
    anchor: AnchorSource
    keep: Keep | None
    new: Sequence[str]
    rounding: Rounding | None
    buffers: Buffers
    reset_optimizer: bool
    seed: int
    strength: float
    importance: ImportanceSource
    squares: Squares


@dataclass(frozen=True, kw_only=True)
class SFASettings:
    """What `SFA` averages, with what, when and how. `SFA` explains each field.

    Raises:
        StockpotError: for a value that no training could use. Whether it fits the model, `SFA` checks.
    """

    beta: Annotated[Beta, "Weight of the anchor, in [0, 1], or auto; or name pattern → weight."]
    p: Annotated[float | None, "Average after every p·T optimizer steps and after the last, in (0, 1]."] = None
    every: Annotated[int | None, "Instead of p: average after every so many optimizer steps."] = None
    anchor: Annotated[AnchorSource, "'start' (the model as training starts) or a path to safetensors."] = "start"
    keep: Annotated[Keep | None, "Where the anchor is stored: device, cpu or disk."] = None
    new: Annotated[Sequence[str], "Patterns of names that the anchor may lack, or hold with fewer rows."] = ()
    rounding: Annotated[Rounding | None, "How averages of bf16 weights are rounded; none refuses them."] = None
    buffers: Annotated[Buffers, "Whether floating-point buffers are averaged or kept."] = "average"
    reset_optimizer: Annotated[bool, "Discard the optimizer's state of what was averaged."] = False
    seed: Annotated[int, "Seed of the noise of rounding: stochastic."] = 0
    strength: Annotated[float, "λ of beta: auto; more keeps more of the past, less learns more."] = 1.0
    importance: Annotated[
        ImportanceSource, "Of the past tasks, for beta: auto: uniform, none, or a saved importance."
    ] = "uniform"
    squares: Annotated[Squares, "For beta: auto: gradients observed at each step, or adam's second moments."] = (
        "observed"
    )

    def __post_init__(self) -> None:
        _one_of("keep", self.keep, (None, *get_args(Keep)))
        _one_of("rounding", self.rounding, (None, *get_args(Rounding)))
        _one_of("buffers", self.buffers, get_args(Buffers))
        _one_of("squares", self.squares, get_args(Squares))
        object.__setattr__(self, "beta", check_beta(self.beta))
        self._check_auto()
        self.schedule(total_steps=1)  # refuses a wrong p or every at once; T is known when training starts
        object.__setattr__(self, "new", (self.new,) if isinstance(self.new, str) else tuple(self.new))

    def _check_auto(self) -> None:
        if self.automatic:
            if self.p is None and self.every is None:
                object.__setattr__(self, "p", AUTO_P)
        elif (self.strength, self.importance, self.squares) != (1.0, "uniform", "observed"):
            raise StockpotError("strength, importance and squares belong to beta='auto': leave them out, or say it.")
        if not is_number(self.strength) or not 0 <= self.strength <= _MOST:
            raise StockpotError(f"strength must lie in [0, {_MOST:g}], λ of beta='auto', not {self.strength!r}.")

    @property
    def automatic(self) -> bool:
        """Whether any β is "auto"."""
        return AUTO in self.beta.values() if isinstance(self.beta, Mapping) else self.beta == AUTO

    def schedule(self, total_steps: int | None) -> Schedule:
        """When to average in a task of `total_steps` optimizer steps."""
        return Schedule(self.p, total_steps, self.every)

    @property
    def anchor_is_path(self) -> bool:
        """Whether the anchor is a file or a folder, and so need not be saved again."""
        return isinstance(self.anchor, str | os.PathLike) and self.anchor != "start"

    def options(self) -> SFAOptions:
        """The settings as keyword arguments of `SFA`."""
        return cast(SFAOptions, {each.name: getattr(self, each.name) for each in fields(self)})

    def recorded(self) -> dict[str, Any]:
        """What a checkpoint records, beside β and the schedule, and a resumed training must share; JSON values."""
        settings = {
            "new": list(self.new),
            "rounding": self.rounding,
            "buffers": self.buffers,
            "reset_optimizer": self.reset_optimizer,
        }
        return {**settings, **self.recorded_of_auto()}

    def recorded_of_auto(self) -> dict[str, Any]:
        """The same of what belongs to beta="auto"; empty without it."""
        if not self.automatic:
            return {}
        word = self.importance if self.importance in ("uniform", "none") else "saved"  # a folder may have moved
        return {"strength": self.strength, "importance": word, "squares": self.squares}


def lists_settings(init: _Init) -> _Init:
    """Makes `help()` and `inspect.signature` list the settings in place of `**settings`."""
    parameters = inspect.signature(init).parameters.values()
    init_only = [parameter for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    types = get_type_hints(SFASettings)
    settings = [
        parameter.replace(annotation=types[name])
        for name, parameter in inspect.signature(SFASettings).parameters.items()
    ]
    vars(init)["__signature__"] = inspect.Signature([*init_only, *settings])
    return init


def check_beta(beta: Beta) -> BetaValue | dict[str, BetaValue]:
    """β as a number or "auto", or as name pattern → β in the order written.

    Raises:
        StockpotError: unless every β is "auto" or lies in [0, 1], and there is at least one.
    """
    if isinstance(beta, Mapping) and not beta:
        raise StockpotError("beta has no patterns; give a number, or at least the pattern '*'.")
    for pattern, value in beta.items() if isinstance(beta, Mapping) else [(None, beta)]:
        if value != AUTO and (not is_number(value) or not 0 <= value <= 1):
            where = "beta" if pattern is None else f"beta of '{pattern}'"
            raise StockpotError(f"{where} must lie in [0, 1], the weight of the anchor, or be 'auto', not {value!r}.")
    if isinstance(beta, Mapping):
        return {str(name): _number_or_auto(value) for name, value in beta.items()}
    return _number_or_auto(beta)


def _number_or_auto(value: BetaValue) -> BetaValue:
    return AUTO if value == AUTO else float(value)


def _one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        options = ", ".join(map(repr, allowed))
        raise StockpotError(f"{name} must be one of {options}, not {value!r}.")
