"""What a method declares beside its hooks, and the check that it is right, made when its class is defined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from stockpot.methods.declare.docstring import REQUIRED, sections
from stockpot.methods.declare.space import Range

Role = Literal["floor", "ceiling", "rival"]


@dataclass(frozen=True)
class Sweep:
    """What `stockpot whatif` tries of a method that acts on finished checkpoints: its strength from 0 to `top`.

    Attributes:
        top: The largest strength tried.
        settings: Other keys of the config.
        continues: Whether a real run trains the next task from the merged weights. Then a sweep over the checkpoints
            of another run is exact for the first merge only.
    """

    top: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False


def name_of(config: type[BaseModel]) -> str:
    """The name in recipes, from `name: Literal["…"]`. Raises TypeError where the config does not declare one."""
    annotation = config.model_fields["name"].annotation
    if get_origin(annotation) is not Literal or len(get_args(annotation)) != 1:
        raise TypeError(f'{config.__name__}: declare the name in recipes as `name: Literal["…"]`')
    return str(get_args(annotation)[0])


def check_declarations(method: Any, post_hoc: bool) -> None:
    """Raises TypeError, saying what to add, where a method's declarations are missing or contradict each other.

    `post_hoc`: whether the method has a hook of this name.
    """
    if problems := list(_problems(method, post_hoc)):
        raise TypeError(f"{method.__module__}.{method.__name__}: {'; '.join(problems)}")


def _problems(method: Any, post_hoc: bool) -> Iterator[str]:
    config, name = method.config_type, name_of(method.config_type)
    if not getattr(method, "title", ""):
        yield 'declare the name in prose, `title = "…"`'
    if method.role not in get_args(Role):
        yield f"role is one of {', '.join(get_args(Role))}, not {method.role!r}"
    texts = sections(method.__doc__)
    if absent := [word for word in ("", *REQUIRED) if not texts.get(word)]:
        words = ", ".join(f"{word}:" if word else "what it does" for word in absent)
        yield f"the docstring lacks, each at the start of a line: {words}"
    keys = set(config.model_fields)
    for declared in ("space", "path_keys"):
        if unknown := sorted(set(getattr(config, declared)) - keys):
            yield f"{declared} names {', '.join(unknown)}, which the config has no key for"
    if config.strength_key is not None and not isinstance(config.space.get(config.strength_key), Range):
        yield f"strength_key {config.strength_key!r} needs a Range in space"
    settings = {"typical": method.typical, "neutral": method.neutral}
    settings["sweep"] = None if method.sweep is None else method.sweep.settings
    for declared, values in settings.items():
        try:
            if values is not None:
                config.model_validate({"name": name, **values})
        except ValidationError as error:
            yield f"{declared}: {error.errors()[0]['msg']}"
    if method.sweep is not None and not post_hoc:
        yield "a method with a sweep needs `post_hoc`"
