"""Files that are whole or absent: written under a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError

TEMPORARY = ".tmp-"


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(path: Path) -> None:
    for folder, _, names in os.walk(path):
        for name in names:
            with (Path(folder) / name).open("rb") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(folder))


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns a full disk, or a folder that may not be written, into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StockpotError(
                f"the disk is full: {path} could not be written; what was finished before is safe. "
                "Free some space and go on with `stockpot resume`."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR):
            raise StockpotError(f"{path} could not be written: {error.strerror}.") from error
        raise


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` in one step: a reader sees the old file or the new one."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    with explained(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def publishing(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes `target` when the block ends well, and vanishes otherwise.

    A folder that stands at `target` already is replaced: callers publish only what nothing refers to yet.
    """
    temporary = target.with_name(f"{TEMPORARY}{target.name}")
    with explained(target):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            _sync_tree(temporary)
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
            _sync_folder(target.parent)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if _is_full_disk(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise


def _is_full_disk(error: BaseException) -> bool:
    # safetensors and torch report a failed write in errors of their own.
    words = str(error).lower()
    return not isinstance(error, OSError) and ("no space left" in words or "os error 28" in words)


def remove_temporaries(folder: Path) -> None:
    """Deletes what an interrupted write left under `folder`: only names that this module makes."""
    for path in folder.rglob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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


def verify(folder: Path, expected: dict[str, dict[str, Any]]) -> None:
    """Raises StockpotError, naming the file, where `folder` is not what `fingerprint` saw."""
    for name, facts in expected.items():
        path = folder / name
        if not path.is_file():
            raise StockpotError(f"{path} is missing, although the journal records it; restore it from a copy.")
        size = path.stat().st_size
        if size != facts["bytes"]:
            raise StockpotError(f"{path} has {size} bytes, the journal records {facts['bytes']}: truncated or edited.")
        if sha256(path) != facts["sha256"]:
            raise StockpotError(f"{path} differs from what the journal records: it was edited or is damaged.")


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
