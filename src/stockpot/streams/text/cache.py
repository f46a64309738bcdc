"""Token sequences kept on disk beside the data sets, so that a text is tokenised once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from stockpot.batches.token_examples import TokenExamples
from stockpot.files import TEMPORARY
from stockpot.models.tokenizer import tokenizer_fingerprint
from stockpot.streams.text.rows import TextRows
from stockpot.streams.text.tokens import Tokenised, tokenise

VERSION = 2  # of what `tokenise` makes: a change of its output makes every kept file a stranger
TENSORS = ("tokens", "ends", "targets", "positions")


def cached(
    rows: TextRows, tokenizer: Any, max_length: int, *, packing: bool | None, training: bool, drop: bool = False
) -> Tokenised:
    """What `tokenise` gives, from the cache of `datasets` where it has been made before.

    A damaged file is made anew; a cache that cannot be written costs the time only.
    """
    settings = [VERSION, rows.fingerprint, tokenizer_fingerprint(tokenizer), max_length, packing, training, drop]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    path = cache_folder() / f"{key}.safetensors"
    found = _read(path, key)
    if found is not None:
        return found
    made = tokenise(rows, tokenizer, max_length, packing=packing, training=training, drop=drop)
    with contextlib.suppress(Exception):  # safetensors has errors of its own for a full disk
        _write(path, key, made)
    return made


def cache_folder() -> Path:
    """Where token sequences are kept; HF_DATASETS_CACHE moves it."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "stockpot"


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].dtype}{tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().numpy().data)
    return digest.hexdigest()


def _write(path: Path, key: str, made: Tokenised) -> None:
    from safetensors.torch import save_file

    every = {name: getattr(made.examples, name) for name in TENSORS}
    tensors = {name: tensor.contiguous() for name, tensor in every.items() if tensor is not None}
    facts = {"key": key, "digest": _digest(tensors), "pad": made.examples.pad}
    facts |= {"bytes": made.bytes, "cut": made.cut, "dropped": made.dropped}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    os.close(handle)
    try:
        save_file(tensors, temporary, {"stockpot": json.dumps(facts)})
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path, key: str) -> Tokenised | None:
    """The sequences of a file; None where it is missing, damaged or something else."""
    from safetensors import safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads(file.metadata()["stockpot"])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts["key"] != key or facts["digest"] != _digest(tensors):
            return None
        examples = TokenExamples(pad=facts["pad"], **tensors)
        return Tokenised(examples, facts["bytes"], facts["cut"], tuple(facts["dropped"]))
    except Exception:  # whatever is wrong with the file, it is made anew
        return None
