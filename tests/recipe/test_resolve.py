"""A resolved recipe says everything: it can be written, read again, and is the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stockpot.cli.schema import schema_of
from stockpot.errors import StockpotError
from stockpot.methods import registry
from stockpot.recipe.read import parse_yaml, read_recipe, validate
from stockpot.recipe.resolve import resolve, to_values, to_yaml
from stockpot.recipe.schema import Recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"


def recipe_of(values: dict[str, Any], **changes: Any) -> Recipe:
    return validate(Recipe, {**values, **changes}, "here")


def test_a_resolved_recipe_lists_its_tasks_with_all_that_they_inherit(digits_recipe: dict[str, Any]) -> None:
    resolved = resolve(recipe_of(digits_recipe, seeds=[3, 4]), recipe_of(digits_recipe).method, 4)
    assert [task.name for task in resolved.tasks] == ["part-1", "part-2"]
    assert resolved.tasks[1].data.model_dump() == {
        **resolved.data.model_dump(), "path": "digits", "limit": 6, "classes": [5, 6, 7, 8, 9],
    }  # fmt: skip
    assert resolved.seeds == [4]
    assert resolved.compare == []


@pytest.mark.parametrize(
    "method",
    [
        {"name": "sequential"},
        {"name": "joint", "label": "ceiling"},
        {"name": "sfa", "beta": {"0.*": 0.5, "*": 0.25}, "every": 3, "optimizer_state": "reset"},
        {"name": "wise_ft", "alpha": 0.25, "first_task": "average", "anchor": "pretrained"},
        {"name": "replay", "budget": "reservoir", "count": 10, "mix": "batch", "per_batch": 4},
    ],
)
def test_a_resolved_recipe_survives_yaml_and_json(method: dict[str, Any], digits_recipe: dict[str, Any]) -> None:
    task = {"name": "b", "data": {"classes": [1, "2"], "rotate": 30, "permute": 0}, "train": {"max_steps": 2}}
    recipe = recipe_of(digits_recipe, tasks=[{"name": "a"}, task], controls=[{"name": "c"}], method=method)
    resolved = resolve(recipe, recipe.method, 7)
    values = to_values(resolved)
    assert validate(Recipe, parse_yaml(to_yaml(values), "again"), "again") == resolved
    assert validate(Recipe, json.loads(json.dumps(values)), "again") == resolved
    again = resolve(resolved, resolved.method, 7)
    assert again == resolved  # resolving twice changes nothing


def test_local_paths_become_absolute_and_hub_names_stay(
    digits_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "own").mkdir(parents=True)
    (tmp_path / "anchor").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of(
        digits_recipe,
        tasks=[{"name": "a", "data": {"path": "data/own"}}, {"name": "b", "data": {"path": "hub/name"}}],
        method={"name": "sfa", "anchor": "anchor"},
    )
    resolved = resolve(recipe, recipe.method, 0)
    assert [task.data.path for task in resolved.tasks] == [str(tmp_path / "data" / "own"), "hub/name"]
    assert resolved.method.anchor == str(tmp_path / "anchor")
    assert resolved.data.path == "digits"


@pytest.mark.parametrize("name", ["sfa", "wise_ft"])
def test_a_stream_in_which_nothing_would_be_averaged_is_an_error(name: str, digits_recipe: dict[str, Any]) -> None:
    recipe = recipe_of(digits_recipe, tasks=[{"name": "only"}], method={"name": name})
    with pytest.raises(StockpotError, match=r"nothing would ever be averaged.*first_task: average"):
        resolve(recipe, recipe.method, 0)
    averaging = recipe_of(digits_recipe, tasks=[{"name": "only"}], method={"name": name, "first_task": "average"})
    assert len(resolve(averaging, averaging.method, 0).tasks) == 1


def test_an_anchor_that_does_not_exist_is_an_error(digits_recipe: dict[str, Any]) -> None:
    recipe = recipe_of(digits_recipe, method={"name": "sfa", "anchor": "previuos"})
    with pytest.raises(StockpotError, match=r"previuos: there is no such file or folder\. Did you mean 'previous'\?"):
        resolve(recipe, recipe.method, 0)


@pytest.mark.parametrize("name", ["recipe", "task", "results", "comparison", "whatif"])
def test_the_exported_schemas_are_those_of_the_code(name: str) -> None:
    assert json.loads((SCHEMAS / f"{name}.schema.json").read_text()) == schema_of(name)


def test_the_schema_is_closed_and_describes_every_method() -> None:
    schema = schema_of("recipe")
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Recipe.model_fields)
    mapping = schema["properties"]["method"]["anyOf"][0]["discriminator"]["mapping"]  # beside methods by dotted path
    assert set(mapping) == set(registry())
    for name, reference in mapping.items():
        block = schema["$defs"][reference.rpartition("/")[2]]
        assert block["additionalProperties"] is False
        assert set(block["properties"]) == set(registry()[name].config_type.model_fields)


TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


def accepts(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """The part of JSON Schema that the exported schemas use."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return any(accepts(choice, value, root) for choice in choices)
    if "const" in schema or "enum" in schema:
        return value in schema.get("enum", [schema.get("const")])
    kind = schema.get("type", "object")
    if not isinstance(value, TYPES[kind]) or isinstance(value, bool) != (kind == "boolean"):
        return False
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    if kind == "array":
        return all(accepts(schema["items"], item, root) for item in value)
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    return kind != "object" or (
        set(schema.get("required", [])) <= set(value)
        and all(
            accepts(known[key], item, root)
            if key in known
            else others is True or bool(others and accepts(others, item, root))
            for key, item in value.items()
        )
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_schema_accepts_the_shipped_recipes(path: Path) -> None:
    values, schema = parse_yaml(path.read_text(), path.name), schema_of("recipe")
    assert accepts(schema, values, schema)
    assert not accepts(schema, {**values, "unknown": 1}, schema)
    assert not accepts(schema, {**values, "scenario": "class"}, schema)
    assert not accepts(schema, {**values, "method": {**values["method"], "betta": 1}}, schema)
    assert not accepts(schema, {key: value for key, value in values.items() if key != "model"}, schema)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_shipped_recipes_are_read_without_a_mistake(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert {method.name for method in recipe.compare} >= {"sequential", "sfa", "joint"}


def test_null_survives_where_it_is_not_the_default(digits_recipe: dict[str, Any]) -> None:
    metrics = ["loss", {"name": "exact_match", "extract": None}]
    method = {"name": "fisher_average", "samples": None}
    data = {"prompt": "q", "completion": "a"}
    model = {"config": {"model_type": "t5"}}
    recipe = recipe_of(
        {"scenario": "language", "tasks": [{"name": "a"}]}, metrics=metrics, method=method, data=data, model=model
    )
    written = to_values(recipe)
    assert written["metrics"][1]["extract"] is None and "limit" in written["metrics"][1]
    assert written["method"]["samples"] is None and "label" not in written["method"]
    assert validate(Recipe, parse_yaml(to_yaml(written), "here"), "here") == recipe
