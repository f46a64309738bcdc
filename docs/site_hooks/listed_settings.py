"""Signatures of the Python API: the settings of SFA stand in the place of `**settings`, as `help()` shows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import griffe


class ListedSettings(griffe.Extension):
    """Does for the site what the decorator `lists_settings` does at run time."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Changes every decorated function of the package."""
        settings = list(_parameters(pkg["averaging.settings.SFASettings"]))
        for function in _functions(pkg):
            if any(decorator.callable_path.endswith("lists_settings") for decorator in function.decorators):
                others = [each for each in function.parameters if each.kind is not griffe.ParameterKind.var_keyword]
                function.parameters = griffe.Parameters(*others, *settings)


def _parameters(settings: griffe.Class) -> Iterator[griffe.Parameter]:
    for name, field in settings.attributes.items():
        if isinstance(field.annotation, griffe.ExprSubscript) and "property" not in field.labels:
            inside = field.annotation.slice  # of Annotated[type, description]
            kind = inside.elements[0] if isinstance(inside, griffe.ExprTuple) else inside
            yield griffe.Parameter(name, annotation=kind, kind=griffe.ParameterKind.keyword_only, default=field.value)


def _functions(parent: griffe.Module | griffe.Class) -> Iterator[griffe.Function]:
    yield from parent.functions.values()
    for inner in (*parent.classes.values(), *parent.modules.values()):
        if not inner.is_alias:
            yield from _functions(inner)
