"""The parameters of one tensor, from those of the spec: filters, values over depth, defaults, ranges."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from functools import lru_cache

from stockpot.errors import StockpotError, did_you_mean
from stockpot.merging.rule import Parameter, Rule, Settings, Value
from stockpot.merging.spec.merge_spec import Filtered, MergeModel, MergeSpec, Parameters, Setting, SliceSource

# mergekit's keys that change nothing here, such as `rescale: false` for a rule that never rescales.
_WITHOUT_EFFECT: dict[str, tuple[Value, ...]] = {"int8_mask": (True, False), "rescale": (False,)}


def check_parameters(spec: MergeSpec, rule: Rule) -> None:
    """Raises StockpotError for parameters that the rule lacks, that are misplaced, or that are out of range."""
    for parameters, of_model in _blocks(spec):
        for key, setting in parameters.items():
            parameter = rule.parameter(key)
            values = list(_values(setting))
            if parameter is None:
                if key in _WITHOUT_EFFECT and all(value in _WITHOUT_EFFECT[key] for value in values):
                    continue
                raise _unknown(rule, key, setting)
            if of_model and not parameter.each:
                raise StockpotError(f"{rule.name}: {key} applies to the whole merge and cannot be set for one model.")
            for value in values:
                _check_value(rule, parameter, value)
    for parameter in rule.parameters:
        if parameter.required and not all(
            parameter.name in parameters or parameter.name in spec.parameters
            for parameters, of_model in _blocks(spec)
            if of_model
        ):
            raise StockpotError(f"{rule.name} needs {parameter.name} for every model: {parameter.help}.")


def settings_of(
    rule: Rule,
    spec: MergeSpec,
    name: str,
    models: Iterable[tuple[Parameters, str]],
    scopes: Iterable[Parameters],
    depth: float,
) -> Settings:
    """The settings of one tensor.

    `models` gives for each model its own parameters and its name of the tensor, `scopes` the parameters of the slice
    and of the merge. The nearest scope with a value for this tensor wins. `name` is the tensor's name in the output:
    filters of shared parameters match it, filters of one model's parameters match that model's name. `depth` is 0 at
    the first layer and 1 at the last.
    """
    scopes = tuple(scopes)

    def find(parameter: Parameter, nearest_first: Iterable[Parameters], tensor: str) -> Value:
        for parameters in nearest_first:
            if parameter.name in parameters:
                value, matches = value_at(parameters[parameter.name], tensor, depth)
                if matches:
                    return value
        return _default(parameter, spec)

    shared = {parameter.name: find(parameter, scopes, name) for parameter in rule.parameters if not parameter.each}
    each = [
        {
            parameter.name: find(parameter, (parameters, *scopes), tensor)
            for parameter in rule.parameters
            if parameter.each
        }
        for parameters, tensor in models
    ]
    return _settings(tuple(shared.items()), tuple(tuple(values.items()) for values in each))


@lru_cache(maxsize=1024)
def _settings(shared: tuple[tuple[str, Value], ...], each: tuple[tuple[tuple[str, Value], ...], ...]) -> Settings:
    """Tensors with equal settings share one object: separate ones for 100,000 tensors would take 60 MB."""
    return Settings(dict(shared), tuple(dict(values) for values in each))


def value_at(setting: Setting, tensor: str, depth: float) -> tuple[Value, bool]:
    """A setting's value for one tensor at one depth, and whether it has one.

    Numbers over depth are interpolated linearly; switches and strings take the value at or before that depth.
    """
    if not isinstance(setting, tuple):
        return setting, True
    if setting and isinstance(setting[0], Filtered):
        for part in setting:
            assert isinstance(part, Filtered)
            if part.filter in (None, "*") or str(part.filter) in tensor:
                return value_at(part.value, tensor, depth)
        return None, False
    values = [value for value in setting if not isinstance(value, Filtered)]
    position = depth * (len(values) - 1)
    first = int(position)
    low, high = values[first], values[min(first + 1, len(values) - 1)]
    if isinstance(low, bool | str) or isinstance(high, bool | str) or low is None or high is None:
        return low, True
    return (1 - (position - first)) * low + (position - first) * high, True


def _blocks(spec: MergeSpec) -> list[tuple[Parameters, bool]]:
    sources = [source for part in spec.slices for source in part.sources]
    models: list[MergeModel | SliceSource] = [*spec.models, *sources]
    return [
        (spec.parameters, False),
        *((part.parameters, False) for part in spec.slices),
        *((model.parameters, True) for model in models),
    ]


def _values(setting: Setting) -> Iterable[Value]:
    if not isinstance(setting, tuple):
        yield setting
        return
    for part in setting:
        yield from _values(part.value if isinstance(part, Filtered) else part)


def _default(parameter: Parameter, spec: MergeSpec) -> Value:
    return parameter.default_in(spec.dialect)


def _unknown(rule: Rule, key: str, setting: Setting) -> StockpotError:
    if key in _WITHOUT_EFFECT:
        return StockpotError(f"{rule.name}: {key}={setting} is not supported.")
    known = [parameter.name for parameter in rule.parameters]
    hint = did_you_mean(key, known) or (f" Known: {', '.join(known)}." if known else " It has no parameters.")
    return StockpotError(f"{rule.name} has no parameter '{key}'.{hint}")


def _check_value(rule: Rule, parameter: Parameter, value: Value) -> None:
    where = f"{rule.name}: {parameter.name}"
    default = parameter.default
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise StockpotError(f"{where} must be true or false, not {value!r}.")
    elif isinstance(default, int | float) or (default is None and not parameter.required):
        if value is None and default is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise StockpotError(f"{where} must be a finite number, not {value!r}.")
        if not parameter.low <= value <= parameter.high or value <= parameter.above:
            bounds = [f"above {parameter.above:g}" if parameter.above > -math.inf else f"at least {parameter.low:g}"]
            bounds += [f"at most {parameter.high:g}"] * (parameter.high < math.inf)
            raise StockpotError(f"{where} must be {' and '.join(bounds)}, not {value:g}.")
    elif not isinstance(value, str):
        raise StockpotError(f"{where} must be a string, not {value!r}.")
