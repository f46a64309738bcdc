"""The other files in a model's folder: which ones a merge copies, which it leaves out, and why."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from stockpot.errors import StockpotError
from stockpot.weights.layout import PICKLE_SUFFIXES, require_inside

LARGEST_COMPANION = 1 << 30  # bytes of one file
_MOST, _DEEPEST = 1000, 4
_LONGEST = 1 << 20  # of modules.json
_MODULES = "modules.json"
# Files that are written for the output.
_OURS = ("README.md", "stockpot_merge.yaml", "stockpot_merge.json", "*.index.json")
_WEIGHTS = frozenset({
    ".safetensors", ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".ggml", ".npz", ".npy", ".tflite", ".mlmodel",
    ".ot", ".engine", ".pdparams",
})  # fmt: skip
_CODE = frozenset({".py", ".pyc", ".so", ".dll", ".dylib", ".sh", ".exe", ".js", ".ipynb", ".jar", ".bat", ".ps1"})
_TRAINING = (
    "trainer_state.json", "training_args*", "optimizer*", "scheduler*", "rng_state*", "events.out.tfevents*",
    "zero_to_fp32*", "latest",
)  # fmt: skip


@dataclass
class Companions:
    """`files` to copy, by their names in the output; `left`, the names of those left out, by reason.

    `modules` are those files that belong to modules of sentence-transformers.
    """

    files: dict[str, Path] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)

    def leave(self, name: str, why: str) -> None:
        """Leaves a file or folder out."""
        self.left.setdefault(why, []).append(name if name.isprintable() else ascii(name))

    def notes(self, donor: str) -> Iterator[str]:
        """One line for each reason."""
        for why, names in self.left.items():
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
            yield f"not copied from {donor}: {shown} ({why})."


def companions(folder: Path, merged: Collection[Path], settled: Callable[[str], bool]) -> Companions:
    """All files in a model's folder and its subfolders, without weights, pickles, code and traces of training.

    `merged` are the files that are merged; `settled(name)` says whether others decide about a file. Hidden files, and
    files that are written for the output, are skipped. Weights are copied only for the modules that
    sentence-transformers names in modules.json, since these are not part of the model. Any other folder with weights
    is left out as a whole, and so is what a link leads to outside the folder.
    """
    result = Companions()
    modules = _modules(folder)
    weights = {os.path.realpath(file) for file in merged}
    for parent, folders, names in os.walk(folder):
        below = Path(parent).relative_to(folder)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in list(folders):
            if why := _why_not_entered(Path(parent, name), below / name, modules):
                folders.remove(name)
                result.leave(f"{(below / name).as_posix()}/", why)
        for name in sorted(names):
            relative, path = (below / name).as_posix(), Path(parent, name)
            ours = name.startswith(".") or any(fnmatchcase(relative, pattern) for pattern in _OURS)
            if ours or settled(relative) or os.path.realpath(path) in weights:
                continue
            in_module = bool(below.parts) and below.parts[0] in modules
            why = _why_not_taken(folder, path, in_module)
            if why is None and len(result.files) >= _MOST:
                why = f"more than {_MOST:,} files"
            if why:
                result.leave(relative, why)
                continue
            result.files[relative] = path
            if in_module or name == _MODULES:
                result.modules.add(relative)
    return result


def _why_not_entered(inner: Path, relative: Path, modules: Collection[str]) -> str | None:
    if inner.is_symlink():
        return "a link"
    if len(relative.parts) >= _DEEPEST:
        return "too deep"
    if relative.parts[0] in modules:
        return None
    walk = list(islice(os.walk(inner), _MOST + 1))
    if any(Path(name).suffix in _WEIGHTS | PICKLE_SUFFIXES for _, _, names in walk for name in names):
        return "a folder with weights of its own"
    return f"more than {_MOST:,} folders" if len(walk) > _MOST else None


def _why_not_taken(folder: Path, path: Path, in_module: bool) -> str | None:
    try:
        size = require_inside(folder, path).stat().st_size
    except (StockpotError, OSError):
        return "a link out of the folder, or not a plain file"
    if not path.name.isprintable():
        return "a name that cannot be printed"
    return _why_not_of_its_kind(path, in_module) or ("larger than 1 GiB" if size > LARGEST_COMPANION else None)


def _why_not_of_its_kind(path: Path, in_module: bool) -> str | None:
    if any(fnmatchcase(path.name, pattern) for pattern in _TRAINING):
        return "left by training"
    if path.suffix in PICKLE_SUFFIXES:
        needed = ", without which sentence-transformers cannot open the output: save it as safetensors first"
        return f"a pickle{needed if in_module else ''}"
    if path.suffix in _WEIGHTS and not (in_module and path.suffix == ".safetensors"):
        return "other weights"
    return "code" if path.suffix in _CODE else None


def _modules(folder: Path) -> frozenset[str]:
    """The folders that modules.json names; these names are compared with existing folders and never opened."""
    try:
        file = require_inside(folder, folder / _MODULES)
        if file.stat().st_size > _LONGEST:
            return frozenset()
        paths = [module["path"] for module in json.loads(file.read_text(encoding="utf-8"))]
        return frozenset(path.strip("/") for path in paths if isinstance(path, str) and path.strip("/"))
    except (StockpotError, OSError, ValueError, TypeError, KeyError, RecursionError):
        return frozenset()


def differing(taken: Companions, donor: str, others: Mapping[str, Path]) -> Iterator[str]:
    """Notes on sentence-transformers modules of other models that differ from the donor's, which are copied."""
    import filecmp

    for name in sorted(taken.modules):
        for other, folder in others.items():
            try:
                same = filecmp.cmp(require_inside(folder, folder / name), taken.files[name], shallow=False)
            except (StockpotError, OSError, ValueError):
                same = False
            if not same:
                merged = "; weights outside the model are not merged" if name.endswith(".safetensors") else ""
                yield f"{name} of {other} differs from that of {donor}, which is copied{merged}."
