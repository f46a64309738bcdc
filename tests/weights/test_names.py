"""One name for one tensor."""

from __future__ import annotations

import pytest

from stockpot.weights.tensor_names import clean_name, match_any, suggest_pattern


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("weight", "weight"),
        ("module.weight", "weight"),
        ("_orig_mod.weight", "weight"),
        ("module._orig_mod.layers.0.weight", "layers.0.weight"),
        ("_orig_mod.module.layers.0.weight", "layers.0.weight"),
        ("layers.0._orig_mod.weight", "layers.0.weight"),
        ("layers.0._checkpoint_wrapped_module.weight", "layers.0.weight"),
        ("layers.module.weight", "layers.module.weight"),
        ("my_module.weight", "my_module.weight"),
        ("module", "module"),
    ],
)
def test_wrappers_leave_no_trace(raw: str, clean: str) -> None:
    assert clean_name(raw) == clean
    assert clean_name(clean) == clean


def test_patterns_are_those_of_the_shell() -> None:
    assert match_any(["a.weight", "b.bias"], "*.bias")
    assert not match_any(["a.weight"], "A.*")


def test_a_pattern_that_matches_nothing_gets_a_suggestion() -> None:
    names = ["encoder.layer.0.weight", "classifier.weight"]
    assert suggest_pattern("clasifier.*", names) == " Did you mean 'classifier.*'?"
    assert suggest_pattern("encoder.layr.*", names) == " Did you mean 'encoder.layer.*'?"
    assert suggest_pattern("zzz", names) == ""
