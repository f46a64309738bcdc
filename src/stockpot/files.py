"""Files that are complete or absent: written under a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError

TEMPORARY = ".tmp-"


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(path: Path) -> None:
    for folder, _, names in os.walk(path):
        for name in names:
            sync(Path(folder) / name)
        sync(Path(folder))


_REFUSED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
    errno.ELOOP, errno.EFBIG, errno.EIO, errno.ENOLCK,
)  # fmt: skip


class DiskFullError(StockpotError):
    """The disk is full: `path` could not be written. `advice` says what to do."""

    def __init__(self, path: Path, advice: str) -> None:
        super().__init__(f"the disk is full: {path} could not be written; {advice}")
        self.path = path


_ADVICE = (
    "what was finished before is safe. Free some space and continue: a run with `stockpot resume`, anything else "
    "with the same command."
)


@contextlib.contextmanager
def explaining_disk_errors(path: Path, advice: Callable[[], str] | None = None) -> Iterator[None]:
    """Turns a full disk, or a folder without write permission, into one clear line.

    `advice`, called when a disk is full, says what to do; it applies to everything that the block writes.
    """
    try:
        yield
    except DiskFullError as error:
        if advice is None:
            raise
        raise DiskFullError(error.path, advice()) from error
    except StockpotError:
        raise
    except Exception as error:
        number = _errno(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(path, advice() if advice else _ADVICE) from error
        if number in _REFUSED:
            raise StockpotError(f"{getattr(error, 'filename', None) or path}: {os.strerror(number)}.") from error
        raise


def _errno(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    number = re.search(r"(?:os error |\[Errno )(\d+)", str(error))  # as safetensors and shutil word it
    return int(number[1]) if number else None


def make_folder(path: Path) -> None:
    """Creates a folder and its parents, and syncs every folder that got a new entry."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def write_text(path: Path, text: str) -> None:
    """Replaces the content of `path` in one step: a reader sees the old file or the new one."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    with explaining_disk_errors(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON; NaN and infinity are refused."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON in ASCII, with a newline at its end; NaN and infinity are refused."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


@contextlib.contextmanager
def publishing(target: Path, replace: bool = True) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes `target` if the block succeeds, and is deleted otherwise.

    An existing `target` is replaced, which is for callers that know that nothing refers to it yet; without `replace` it
    is left alone, and a StockpotError is raised.
    """
    temporary = target.with_name(f"{TEMPORARY}{target.name}")
    with explaining_disk_errors(target):
        make_folder(target.parent)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            _sync_tree(temporary)
            if replace:
                remove_folder(target)
            elif target.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
            temporary.rename(target)
            sync(target.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def remove_folder(folder: Path) -> None:
    """Deletes a folder that may be missing. A reader sees all of it or none, even if the deletion is interrupted."""
    if folder.is_dir():
        doomed = folder.with_name(f"{TEMPORARY}old-{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_temporaries(folder: Path) -> None:
    """Deletes what interrupted writes left under `folder`: only names that this module gives."""
    for path in list(folder.rglob(f"{TEMPORARY}*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def refuse_links(folder: Path) -> None:
    """Raises StockpotError if anything under `folder` is a link: it could redirect writes and deletions."""
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            if (path := Path(place) / name).is_symlink():
                raise StockpotError(f"{path} is a link: a run folder holds none; put there what it points to.")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(folder: Path) -> dict[str, dict[str, Any]]:
    """Relative file name → its size in bytes and SHA-256, for every file under `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files
    }


def verify_fingerprint(folder: Path, expected: dict[str, dict[str, Any]]) -> None:
    """Raises StockpotError, naming the file, if `folder` differs from its `fingerprint`.

    Hidden files, which file managers leave, do not count. Only files in `folder` are opened, whatever is expected.
    """
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for name in expected:
        if name not in files:
            raise StockpotError(f"{folder / name} is missing, although the journal records it; restore it from a copy.")
    for name, path in files.items():
        if name not in expected and path.name.startswith("."):
            continue
        if name not in expected:
            raise StockpotError(f"{path} is not in the journal: something else put it there; move it out of the run.")
        facts, size = expected[name], path.stat().st_size
        if size != facts["bytes"]:
            raise StockpotError(f"{path} has {size} bytes, the journal records {facts['bytes']}: truncated or edited.")
        with explaining_disk_errors(path):
            digest = sha256(path)
        if digest != facts["sha256"]:
            raise StockpotError(f"{path} differs from what the journal records: it was edited or is damaged.")


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
