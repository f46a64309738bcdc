"""What a merge rule is: a pure function on tensors, and its declared needs, which are checked before it runs."""

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
    """A number, switch or string that a rule takes, once for the merge or (`each`) once for every model."""

    name: str
    default: Value
    help: str
    each: bool = False
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf  # an exclusive lower bound
    choices: tuple[str, ...] = ()
    mergekit: Value = None  # the default in mergekit's configurations, if it differs
    required: bool = False

    def default_in(self, dialect: str) -> Value:
        """The default in configurations of that dialect, `stockpot` or `mergekit`."""
        return self.mergekit if dialect == "mergekit" and self.mergekit is not None else self.default


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of one tensor: those of the merge, and those of each model that is merged."""

    shared: Mapping[str, Value]
    each: Sequence[Mapping[str, Value]]

    def number(self, name: str) -> float:
        """A number set for the merge."""
        value = self.shared[name]
        assert isinstance(value, int | float), name
        return value

    def switch(self, name: str) -> bool:
        """A switch set for the merge."""
        return bool(self.shared[name])

    def numbers(self, name: str) -> list[float]:
        """A number set for each model, in the order of the models."""
        return [float(settings[name]) for settings in self.each]  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Cut:
    """The threshold of the k largest |τ|: an element is kept if it is above `value`, or equal to it before `position`.

    Of equal magnitudes those stored first are kept, so that exactly k elements are.
    """

    value: float
    position: int


@dataclass
class Block:
    """A piece of one tensor as a rule sees it: flat tensors of n elements, in fp32 (fp64 if an input is fp64).

    `models` are the models' weights or, for a rule of vectors, the task vectors τ = θ − θ_base. They are copies: the
    rule may change them in place, but never `base`. `rows` and `columns` are the shape of a piece of whole rows;
    `start` is the index in the tensor of the piece's first element.
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
        """The base's weights, for rules that require a base."""
        assert self.base is not None
        return self.base


@dataclass(frozen=True)
class Rule:
    """A rule's contract. `combine` turns a block into the merged weights of that block.

    of           what `Block.models` holds: the weights, or the task vectors over the base
    base         whether a base is required; an optional one replaces missing tensors and gives the integer ones
    least, most  number of models, the base not counted
    gram         whether it needs the models' inner products, in fp64, over the whole tensor, each row or each column;
                 a function of the shared parameters
    cuts         how many of the n largest |τ| are kept, by name; a function of (parameters of the model, n)
    whole_rows   whether a piece must consist of whole rows
    random       whether it draws random masks, and so needs a seed
    fishers      whether it needs each model's Fisher information
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
        """The docstring of `combine`."""
        return inspect.cleandoc(self.combine.__doc__ or "")

    def parameter(self, name: str) -> Parameter | None:
        """The declared parameter of that name, or None."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)
