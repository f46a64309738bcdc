"""One file a method: adding one touches that file and its test.

`registry()` lists the modules of this folder when it is first called, and imports them; `base`, `declare` and `shared`
hold what methods are made of. Importing `stockpot.methods` alone imports no method, nor torch: a command that needs
none, such as `stockpot --help`, starts at once.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

if TYPE_CHECKING:
    from stockpot.methods.base import BaseConfig, Method
    from stockpot.methods.declare.declarations import Role

DEFAULT = "sfa"  # where a recipe names no method


@functools.cache
def registry() -> Mapping[str, type[Method[Any]]]:
    """Every method by its name in recipes: the floor, the ceiling, and the rivals from A to Z.

    Raises TypeError where a module of this folder does not define exactly one method, called like the module.
    """
    modules = (module for module in pkgutil.iter_modules(__path__) if not module.ispkg and module.name != "base")
    methods = {module.name: _method_in(module.name) for module in modules}
    order = ("floor", "ceiling", "rival")
    return dict(sorted(methods.items(), key=lambda item: (order.index(item[1].role), item[0])))


def _method_in(name: str) -> type[Method[Any]]:
    from stockpot.methods.base import Method
    from stockpot.methods.declare.declarations import name_of

    module = importlib.import_module(f"{__name__}.{name}")
    classes = [thing for thing in vars(module).values() if isinstance(thing, type) and issubclass(thing, Method)]
    methods = [thing for thing in classes if thing.__module__ == module.__name__ and hasattr(thing, "config_type")]
    if [name_of(method.config_type) for method in methods] != [name]:
        raise TypeError(
            f"{module.__file__}: a file of this folder defines one method, with the file's name, {name!r}; "
            "what several methods share goes to the folder shared"
        )
    return methods[0]


def build(config: BaseConfig) -> Method[Any]:
    """The method that a configuration names."""
    return registry()[config.name](config)


def in_role(role: Role) -> str:
    """The name of the only method in this role: of the floor or the ceiling."""
    return next(name for name, method in registry().items() if method.role == role)


def role_of(config: Mapping[str, Any]) -> Role:
    """The role of the method of a recorded config; one that this version does not know is a rival."""
    method = registry().get(str(config.get("name")))
    return "rival" if method is None else method.role


def floor_among(configs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The label of the floor among recorded configs by label: called like the method, or the only one of its role."""
    labels = [label for label, config in configs.items() if role_of(config) == "floor"]
    name = in_role("floor")
    return name if name in labels else labels[0] if len(labels) == 1 else None


def title_of(label: str) -> str:
    """The name in prose where a label is a method's name in recipes, else the label."""
    method = registry().get(label)
    return label if method is None else method.title


def any_config() -> Any:
    """The type of a recipe's `method`: the config of any method, told apart by `name`."""
    from pydantic import Discriminator

    return Annotated[Union[tuple(method.config_type for method in registry().values())], Discriminator("name")]  # noqa: UP007
