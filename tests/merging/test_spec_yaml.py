"""A spec written as YAML is read back as it was."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st
from mergekit_cases import spec_of

from stockpot.merging.rule import Parameter, Rule
from stockpot.merging.rules import RULES
from stockpot.merging.spec.merge_spec import Filtered, MergeModel, MergeSpec, Slice, SliceSource, spec_to_mapping
from stockpot.merging.spec.mergekit_yaml import parse_merge_config

WORDS = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)


def scalars(parameter: Parameter) -> st.SearchStrategy[Any]:
    if isinstance(parameter.default, bool):
        return st.booleans()
    if parameter.required:
        return WORDS
    numbers = st.floats(-2, 2) | st.integers(-2, 2)
    return st.none() | numbers if parameter.default is None else numbers


def settings_of(parameter: Parameter) -> st.SearchStrategy[Any]:
    one = scalars(parameter)
    over_depth = one | st.lists(one, min_size=1, max_size=3).map(tuple)
    filtered = st.builds(Filtered, over_depth, st.none() | WORDS | st.sampled_from(["*", ""]))
    return over_depth | st.lists(filtered, min_size=1, max_size=3).map(tuple)


def parameters_of(rule: Rule, own: bool) -> st.SearchStrategy[dict[str, Any]]:
    choices = {one.name: settings_of(one) for one in rule.parameters if one.each or not own}
    return st.fixed_dictionaries({}, optional=choices)


@st.composite
def specs(draw: st.DrawFn) -> MergeSpec:
    """Any spec that a configuration can express; in mergekit's dialect a base is a model only if it is merged."""
    rule = RULES[draw(st.sampled_from(list(RULES)))]
    reference = draw(st.booleans())
    paths = draw(st.lists(st.sampled_from(["a", "b/c", "d@main", "e+f", "./g"]), min_size=1, max_size=3, unique=True))
    base: str | None
    if rule.base == "required":
        base = draw(st.sampled_from(["base"] if reference else ["base", *paths]))
    elif reference and rule.name in ("slerp", "linear"):
        base = paths[0] if rule.name == "slerp" else draw(st.none() | st.sampled_from(paths))
    else:
        base = draw(st.none() | st.just("base"))
    own = parameters_of(rule, own=True)
    models: tuple[MergeModel, ...] = ()
    slices: tuple[Slice, ...] = ()
    if draw(st.booleans()):
        models = tuple(MergeModel(path, draw(own)) for path in paths)
    else:
        slices = tuple(
            Slice(
                tuple(SliceSource(path, number, number + 3, draw(own)) for path in paths),
                base if base and draw(st.booleans()) else None,
                draw(parameters_of(rule, own=False)),
            )
            for number in range(draw(st.integers(1, 2)))
        )
    return MergeSpec(
        rule.name,
        models,
        base,
        draw(parameters_of(rule, own=False)),
        slices,
        draw(st.sampled_from([None, "F32", "BF16", "F8_E4M3"])),
        draw(st.sampled_from(["model", "tensor"])),
        draw(st.sampled_from(["error", "base", "skip"])),
        draw(st.integers(0, 2**64 - 1)),
        draw(st.sampled_from([None, "base", "a", "b/c@x"])),
        draw(st.sampled_from([None, "auto", "{% for message in messages %}\n{{ message }}\n{% endfor %}"])),
        "mergekit" if reference else "stockpot",
    )


@given(specs())
def test_a_spec_written_as_yaml_is_read_back_as_it_was(spec: MergeSpec) -> None:
    assert parse_merge_config(spec_to_mapping(spec), "x.yaml") == spec
    assert spec_of(yaml.safe_dump(spec_to_mapping(spec), sort_keys=False)) == spec
