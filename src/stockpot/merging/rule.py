"""What a merge rule is: a pure function on tensors, and what it asks for, declared so that it is checked first."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Value = float | bool | str | None
Gram = Literal["tensor", "rows", "columns"]


@dataclass(frozen=True)
class Parameter:
    """One number, switch or text that a rule takes, once for the merge or (`each`) once for every model."""

    name: str
    default: Value
    help: str
    each: bool = False
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf  # an open lower end
    choices: tuple[str, ...] = ()
    mergekit: Value = None  # the default in mergekit's configurations, where it is another one
    required: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of one tensor: those of the merge, and those of every model that takes part."""

    shared: Mapping[str, Value]
    each: Sequence[Mapping[str, Value]]

    def number(self, name: str) -> float:
        """A number of the merge."""
        value = self.shared[name]
        assert isinstance(value, int | float), name
        return value

    def switch(self, name: str) -> bool:
        """A switch of the merge."""
        return bool(self.shared[name])

    def numbers(self, name: str) -> list[float]:
        """A number of every model."""
        return [float(settings[name]) for settings in self.each]  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the k largest of |τ| end: above `value`, or equal to it at an index before `position`.

    Equal magnitudes are so counted in the order in which they are stored, and exactly k elements are kept.
    """

    value: float
    position: int


@dataclass
class Block:
    """A piece of one tensor as a rule sees it, flat, in fp32 (fp64 where an input is fp64).

    `models` are the models' weights, or, for a rule of vectors, the task vectors τ = θ − θ_base; they are copies, and
    the rule may work in place on them, never on `base`. `rows` and `columns` say how a piece of whole rows folds;
    `start` is the index in its tensor of the first element.
    """

    models: list[Tensor]
    base: Tensor | None
    settings: Settings
    start: int = 0
    rows: int = 1
    columns: int = 0
    gram: Tensor | None = None
    cuts: Sequence[Mapping[str, Cut]] = ()
    keys: Sequence[int] = ()  # of each model's random masks
    fishers: Sequence[Tensor] = field(default_factory=list)

    @property
    def origin(self) -> Tensor:
        """The base's weights, where the contract asks for a base."""
        assert self.base is not None
        return self.base


@dataclass(frozen=True)
class Rule:
    """A rule's contract. `combine` turns a block into the merged weights of that block.

    of           what `Block.models` holds: the weights, or the task vectors over the base
    base         whether a base is needed; where it is only allowed, it stands in for missing and integer tensors
    least, most  number of models, the base not counted
    gram         inner products over the whole tensor (or each row, each column) that it needs, in fp64; a function
                 of the shared parameters
    cuts         how many of the largest |τ| of n are kept, by name; a function of (parameters of the model, n)
    whole_rows   whether a piece has to consist of whole rows
    random       whether it draws masks, and so takes a seed
    check        what is wrong with a tensor's settings, or None
    """

    name: str
    combine: Callable[[Block], Tensor]
    parameters: tuple[Parameter, ...]
    of: Literal["weights", "vectors"] = "vectors"
    base: Literal["required", "optional"] = "required"
    least: int = 1
    most: int | None = None
    gram: Callable[[Mapping[str, Value]], Gram] | None = None
    cuts: Callable[[Mapping[str, Value], int], Mapping[str, int]] | None = None
    whole_rows: bool = False
    random: bool = False
    fishers: bool = False
    check: Callable[[Settings], str | None] | None = None

    @property
    def doc(self) -> str:
        """What it does: the docstring of `combine`."""
        return inspect.cleandoc(self.combine.__doc__ or "")

    def parameter(self, name: str) -> Parameter | None:
        """The declared parameter of that name."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)
