"""One file a method: adding one touches that file and its test.

`registry()` lists the modules of this folder when it is first called, and imports them; `base`, `declare` and `shared`
hold what methods are made of. `find_method` also knows the methods that users bring. Importing `stockpot.methods` alone
imports no method, nor torch: a command that needs none, such as `stockpot --help`, starts at once.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from stockpot.errors import StockpotError, did_you_mean
from stockpot.plugins import is_dotted_path, load_dotted_path, load_registered, registered

if TYPE_CHECKING:
    from stockpot.methods.base import BaseConfig, Method
    from stockpot.methods.declare.declarations import Role

DEFAULT = "sfa"  # where a recipe names no method
GROUP = "stockpot.methods"  # of entry points: packages register methods in it


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


def known_names() -> list[str]:
    """The names that a recipe may use beside dotted paths: of this folder's methods, and of installed packages'."""
    return [*registry(), *(name for name in registered(GROUP) if name not in registry())]


def find_method(name: str, where: str = "method.name") -> type[Method[Any]]:
    """The method of a name in recipes: of this folder, of an installed package, or at a dotted path.

    A method of this folder comes before one of the same name in a package. Code that users bring is imported.

    Args:
        name: as a recipe has it.
        where: the key of the recipe, for messages.

    Raises:
        StockpotError: there is no such method, its code cannot be imported, or what it names is not a method.
    """
    if name in registry():
        return registry()[name]
    if is_dotted_path(name):
        return _checked(load_dotted_path(name, where), name)
    if name in registered(GROUP):
        from stockpot.methods.declare.declarations import name_of

        method = _checked(load_registered(GROUP, name, where), name)
        if (declared := name_of(method.config_type)) != name:
            raise StockpotError(f"{name!r} is registered under this name by a package, but calls itself {declared!r}.")
        return method
    known = known_names()
    start = f"{where}: " if where else ""
    raise StockpotError(f"{start}there is no method {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")


def _checked(thing: Any, name: str) -> type[Method[Any]]:
    from stockpot.methods.base import Method

    if not (isinstance(thing, type) and issubclass(thing, Method) and hasattr(thing, "config_type")):
        raise StockpotError(
            f"{name}: this is not a method: define a class `…(Method[…Config])`, as in CONTRIBUTING.md."
        )
    if thing.role != "rival":
        raise StockpotError(f"{name}: its role is {thing.role!r}; a comparison has a floor and a ceiling.")
    return thing


def config_of(name: str, where: str = "method.name") -> type[BaseConfig]:
    """The type of the config of a method, see `find_method`; at a dotted path it has the path as its name."""
    config = find_method(name, where).config_type
    return _at_path(config, name) if is_dotted_path(name) else config


@functools.cache
def _at_path(config: type[BaseConfig], path: str) -> type[BaseConfig]:
    from pydantic import create_model

    from stockpot.methods.declare.declarations import name_of

    named: Any = (Literal[path], ...)
    located = create_model(config.__name__, __base__=config, __module__=config.__module__, name=named)
    located.declared_name = name_of(config)
    return located


def build(config: BaseConfig) -> Method[Any]:
    """The method that a configuration names."""
    return find_method(config.name)(config)


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
    """The type of a recipe's `method`: the config of any method, told apart by `name`.

    With `context={"reading": True}` no code that users bring is imported: its config is an `UnopenedConfig`.
    """
    from pydantic import Discriminator, SerializeAsAny, WrapValidator

    from stockpot.methods.base import BaseConfig, ConfigByPath, UnopenedConfig

    def open_config(value: Any, handler: Any, info: Any) -> Any:
        name = value.get("name") if isinstance(value, Mapping) else None
        if not isinstance(name, str) or name in registry():
            return value if isinstance(value, BaseConfig) else handler(value)
        if (info.context or {}).get("reading"):
            return UnopenedConfig.model_validate(value)
        if not is_dotted_path(name) and name not in registered(GROUP):
            return handler(value)  # which knows how to refuse it
        return config_of(name, "").model_validate(value)

    as_it_is: Any = SerializeAsAny  # without arguments it is an annotation
    configs: Any = Union[tuple(method.config_type for method in registry().values())]  # noqa: UP007
    written: Any = Annotated[configs, Discriminator("name")] | ConfigByPath  # what editors are told
    validator = WrapValidator(open_config, json_schema_input_type=written)
    return Annotated[configs, Discriminator("name"), as_it_is(), validator]
