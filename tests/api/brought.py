"""Code that users bring: a method in a module of their own, and a package that registers it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stockpot import plugins

ROOT = Path(__file__).parents[2]


def damp_code() -> str:
    """The method of CONTRIBUTING.md, as it is pasted."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Add a method\n")[1].split("\n## ")[0]
    [code] = [block.split("```")[0] for block in section.split("```python\n")[1:]]
    return code


def install(folder: Path, points: str, name: str = "their-package") -> None:
    """Makes `folder`, which is on Python's path, hold what pip leaves of a package that registers entry points."""
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(points)
    plugins.registered.cache_clear()


@contextmanager
def forgotten(*modules: str) -> Iterator[None]:
    """The modules are not imported at the start, nor at the end: as in a new process."""
    folders = dict(plugins._folders)
    for module in modules:
        sys.modules.pop(module, None)
    plugins._folders.clear()
    try:
        yield
    finally:
        for module in modules:
            sys.modules.pop(module, None)
        plugins._folders.clear()
        plugins._folders.update(folders)
        plugins.registered.cache_clear()
