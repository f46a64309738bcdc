"""What a method declares is checked when its class is defined, and when the registry lists the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

import stockpot.methods
from stockpot.methods import registry
from stockpot.methods.base import BaseConfig, Method
from stockpot.methods.declare.declarations import Sweep
from stockpot.methods.declare.space import Choices, Range

DOCUMENTED = "It does this.\n\nEquation: `θ`\nCost: nothing\nKept: nothing\nUse: never"


class PlainConfig(BaseConfig):
    name: Literal["plain"]
    rate: float = 0.5


def define(config: type[BaseConfig] = PlainConfig, **declared: Any) -> type[Method[Any]]:
    """A method of these declarations, as a class statement would define it."""
    body = {"__doc__": DOCUMENTED, "title": "Plain", **declared}
    body["__orig_bases__"] = (Method[config],)  # type: ignore[valid-type]
    return type("Plain", (Method,), body)


def test_the_config_is_the_argument_of_method() -> None:
    assert define().config_type is PlainConfig
    assert all(method.config_type.__name__.endswith("Config") for method in registry().values())


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"title": ""}, "declare the name in prose"),
        ({"role": "best"}, "role is one of floor, ceiling, rival, not 'best'"),
        (
            {"__doc__": "It does this. Equation: `θ`"},
            "lacks, each at the start of a line: Equation:, Cost:, Kept:, Use:",
        ),
        ({"typical": {"rat": 1.0}}, "typical: Extra inputs are not permitted"),
        ({"neutral": {"rate": "none"}}, "neutral: Input should be a valid number"),
        ({"sweep": Sweep()}, "a method with a sweep needs `post_hoc`"),
    ],
)
def test_a_mistake_says_what_to_add(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=r"Plain: ") as caught:
        define(**declared)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"space": {"rat": Range(0, 1)}}, "space names rat, which the config has no key for"),
        ({"path_keys": {"file": ()}}, "path_keys names file, which the config has no key for"),
        ({"strength_key": "rate"}, "strength_key 'rate' needs a Range in space"),
        ({"space": {"rate": Choices((1.0, 2.0))}, "strength_key": "rate"}, "needs a Range in space"),
    ],
)
def test_a_mistake_of_the_config_says_what_to_add(declared: dict[str, Any], message: str) -> None:
    annotations = dict.fromkeys(declared, ClassVar)
    body = {**declared, "__annotations__": annotations, "__module__": __name__}
    with pytest.raises(TypeError, match=message):
        define(type("BadConfig", (PlainConfig,), body))


def test_a_config_without_one_name_is_refused() -> None:
    with pytest.raises(TypeError, match="declare the name in recipes as `name: Literal"):
        define(BaseConfig)


@pytest.mark.parametrize(
    ("file", "code"), [("nothing", "x = 1\n"), ("other", "from stockpot.methods.sfa import *\n"), ("twice", "")]
)
def test_a_file_that_is_no_method_of_its_name_is_named(
    file: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{file}.py").write_text(code)
    monkeypatch.setattr(stockpot.methods, "__path__", [*stockpot.methods.__path__, str(tmp_path)])
    with pytest.raises(TypeError, match=rf"{file}\.py: a file of this folder defines one method, with the file's name"):
        registry.__wrapped__()
