"""Names are names: nothing that a recipe or a file calls something leads out of the folder where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.errors import StockpotError
from stockpot.file_names import as_file_name, is_file_name, stays_inside
from stockpot.recipe.read import read_recipe
from stockpot.results import Cell, Trial

Write = Callable[..., Path]
ESCAPES = ["../../trav", "a/b", "/etc", "..", ".", ".hidden", "a\\b", "", " ", "a\nb", "a\x1b[31m", "x" * 121, "a\x00b"]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_that_is_a_path_is_refused_wherever_it_becomes_a_folder(
    name: str, digits_recipe: dict[str, Any], write_yaml: Write
) -> None:
    for changed in (
        {"name": name},
        {"method": {"name": "sfa", "label": name}},
        {"compare": [{"name": "ewc", "label": name}]},
        {"tasks": [{"name": name}, {"name": "b"}]},
        {"controls": [{"name": name}]},
    ):
        with pytest.raises(StockpotError) as caught:
            read_recipe(write_yaml({**digits_recipe, **changed}))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Split MNIST", "exp.v1", "größe", "a=1, b=2 (once)", "-x"])
def test_other_names_are_taken(name: str, digits_recipe: dict[str, Any], write_yaml: Write) -> None:
    assert read_recipe(write_yaml({**digits_recipe, "name": name})).name == name


@pytest.mark.parametrize(
    ("file", "name"), [("r.yaml", "r"), (".hidden.yaml", "hidden"), ("...yaml", "recipe"), ("a\nb.yaml", "a-b")]
)
def test_a_file_gives_a_name_that_can_be_a_folder(
    file: str, name: str, digits_recipe: dict[str, Any], write_yaml: Write
) -> None:
    assert read_recipe(write_yaml(digits_recipe, file)).name == name


@given(st.text(max_size=150))
def test_what_is_made_a_name_is_one(text: str) -> None:
    assert is_file_name(as_file_name(text, "x"))
    if is_file_name(text):
        (part,) = Path(text).parts
        assert part == text


@pytest.mark.parametrize("run", ["../elsewhere", "cells/../../x", "/tmp/run", "a/..", "a\0b"])
def test_a_comparison_names_no_run_outside_its_folder(run: str) -> None:
    assert not stays_inside(run)
    with pytest.raises(ValueError, match="leads out of the folder"):
        Cell(seed=0, run=run)
    with pytest.raises(ValueError, match="leads out of the folder"):
        Trial(keys={}, score=None, run=run)
    assert Cell(seed=0, run="cells/sfa/seed-0").run == "cells/sfa/seed-0"
