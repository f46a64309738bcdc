"""Code that users bring: objects named by a dotted path, `package.module:name`, and those that packages register.

Importing a module runs it. So a name in a recipe that the user hands over is imported, and a name in a folder, which
may come from others, only where the user agrees (`--allow-code`). Nothing here is imported until a recipe names it.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.errors import StockpotError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PATH_PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
_PATH = re.compile(PATH_PATTERN, re.ASCII)
_MAIN = "__main__"
_folders: dict[str, None] = {}  # of the recipes that were read, in order


def is_dotted_path(name: Any) -> bool:
    """Whether a name is of the form `package.module:name`."""
    return isinstance(name, str) and _PATH.fullmatch(name) is not None


def search_in(folder: Path | str) -> None:
    """Lets dotted paths name modules of this folder, after those that Python knows already and the current folder's."""
    _folders[str(Path(folder).resolve())] = None


def searched_folders() -> list[str]:
    """The folders of `search_in`."""
    return list(_folders)


def load_dotted_path(path: str, where: str) -> Any:
    """The object at a dotted path; `where` says for messages which key of the recipe names it, if that is not clear.

    Raises:
        StockpotError: there is no such module or object, or the module's own code fails: with file and line.
    """
    module_name, _, name = path.partition(":")
    with _importable():
        try:
            module: Any = importlib.import_module(module_name)
        except Exception as error:  # whatever the module does
            raise StockpotError(f"{_start(where)}{path}: {import_problem(error, module_name)}") from error
    thing = module
    for part in name.split("."):
        if not hasattr(thing, part):
            hint = did_you_mean(part, [key for key in vars(thing) if not key.startswith("_")])
            place = "this notebook or script" if module_name == _MAIN else module_name
            raise StockpotError(f"{_start(where)}{path}: {place} has no {part!r}.{hint}")
        thing = getattr(thing, part)
    return thing


def dotted_path_of(thing: Any, where: str) -> str:
    """The dotted path of a class or function, for a recipe.

    Raises:
        StockpotError: it has none, as a lambda, or what is defined inside a function.
    """
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "")
    path = f"{module}:{name}"
    if not is_dotted_path(path):
        shown = name or type(thing).__name__
        raise StockpotError(
            f"{where}: {shown} has no name by which a resumed run would find it: define it with `def` or `class` at "
            "the top level of a module, a script or a notebook."
        )
    return path


def source_digest(path: str) -> str | None:
    """SHA-256 of the file that holds what is at a dotted path, 16 digits of it; None for what has no file."""
    module = sys.modules.get(path.partition(":")[0])
    file = Path(str(getattr(module, "__file__", None) or ""))
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None


def lives_in_main(path: str) -> bool:
    """Whether a dotted path names what the running script or notebook defines, which other processes cannot import."""
    return path.startswith(f"{_MAIN}:")


@cache
def registered(group: str) -> Mapping[str, EntryPoint]:
    """What installed packages register in a group of entry points, by name; nothing of theirs is imported."""
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in sorted(entry_points(group=group), key=lambda entry: entry.name)}


def load_registered(group: str, name: str, where: str) -> Any:
    """The object of an entry point. Raises StockpotError where the package's code fails."""
    entry = registered(group)[name]
    try:
        return entry.load()
    except Exception as error:
        reason = import_problem(error, entry.module)
        raise StockpotError(f"{_start(where)}{name}, of the package {package_of(entry)}: {reason}") from error


def package_of(entry: EntryPoint) -> str:
    """The package that registers an entry point, with its version."""
    return "?" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def _start(where: str) -> str:
    return f"{where}: " if where else ""


@contextmanager
def _importable() -> Iterator[None]:
    """Python's path, then the current folder and those of recipes."""
    added = [folder for folder in dict.fromkeys((str(Path.cwd()), *_folders)) if folder not in sys.path]
    sys.path.extend(added)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)


def import_problem(error: Exception, module: str) -> str:
    """One line on code that users bring: what is missing, or where it fails; `module` is what was imported."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return (
            f"there is no module {error.name!r} on Python's path, in the current folder or beside the recipe: install "
            "it, or set PYTHONPATH."
        )
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}."
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    frames = [frame for frame in frames if frame.filename != __file__]
    place = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
    return f"{place}{type(error).__name__}: {message}"
