"""Arguments of `stockpot.merge` and of the command line, turned into the values that a spec holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stockpot.errors import StockpotError, did_you_mean
from stockpot.merging.rule import Value

_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip


def dtype_name(name: str) -> str:
    """`bfloat16` → `BF16`; raises StockpotError for anything that is not a floating-point type."""
    known = {**_DTYPES, **{short: short for short in _DTYPES.values()}}
    if name not in known:
        raise StockpotError(
            f"{name!r} is not a floating-point type.{did_you_mean(name, known)} Known: {', '.join(_DTYPES)}."
        )
    return known[name]


def one_of(name: str, value: str, known: Sequence[str]) -> Any:
    """Returns `value`; raises StockpotError if it is not one of `known`."""
    if value not in known:
        raise StockpotError(f"{name} must be one of {', '.join(known)}, not {value!r}.")
    return value


def divide_parameters(
    rule: str, parameters: Mapping[str, Any], count: int
) -> tuple[list[dict[str, Value]], dict[str, Any]]:
    """Splits parameters into those given as a list, one value for each model, and those shared by all models."""
    each: list[dict[str, Value]] = [{} for _ in range(count)]
    shared: dict[str, Any] = {}
    for key, value in parameters.items():
        if not isinstance(value, list | tuple):
            shared[key] = value
            continue
        if len(value) != count:
            raise StockpotError(f"{rule}: {key} has {len(value)} values for {count} models.")
        for parameters_of_model, item in zip(each, value, strict=True):
            parameters_of_model[key] = item
    return each, shared
