"""Token sequences kept on disk beside the data sets, so that a text is tokenised once.

Not `Dataset.map`: its cache keeps rows, and what is kept here is one set of sequences, packed across rows, with counts;
it fails where its folder cannot be written, and returns the content of a damaged file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from stockpot.batches.answered_examples import AnsweredExamples
from stockpot.batches.token_examples import TokenExamples
from stockpot.files import TEMPORARY
from stockpot.models.tokenizer import tokenizer_fingerprint
from stockpot.streams.text.answering import LongPrompts, tokenise_answers
from stockpot.streams.text.rows import TextRows
from stockpot.streams.text.tokenised import Tokenised
from stockpot.streams.text.tokens import tokenise

VERSION = 2  # of what `tokenise` returns: increase it when that changes, and no older file is read


def cached(
    rows: TextRows,
    tokenizer: Any,
    max_length: int,
    *,
    packing: bool | None,
    training: bool,
    long_prompts: LongPrompts = "error",
    decoder_start: int | None = None,
) -> Tokenised:
    """What `tokenise` returns, from the cache of `datasets` if it was made before; with a decoder `tokenise_answers`.

    A damaged file is made again; if the cache cannot be written, that only costs time.
    """
    drop = long_prompts == "drop"
    settings = [VERSION, rows.fingerprint, tokenizer_fingerprint(tokenizer), max_length, packing, training, drop]
    settings += [] if decoder_start is None else [decoder_start, long_prompts]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    path = cache_folder() / f"{key}.safetensors"
    tokenised = _read(path, key)
    if tokenised is None:
        if decoder_start is None:
            tokenised = tokenise(rows, tokenizer, max_length, packing=packing, training=training, drop=drop)
        else:
            tokenised = tokenise_answers(
                rows, tokenizer, max_length, decoder_start=decoder_start, training=training, long_prompts=long_prompts
            )
        with contextlib.suppress(Exception):  # safetensors raises its own errors for a full disk
            _write(path, key, tokenised)
    return tokenised


def cache_folder() -> Path:
    """The folder of token sequences; HF_DATASETS_CACHE moves it."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "stockpot"


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].dtype}{tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().numpy().data)
    return digest.hexdigest()


def _write(path: Path, key: str, tokenised: Tokenised) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in tokenised.examples.to_tensors()[0].items()}
    facts = {"key": key, "digest": _digest(tensors), "pad": tokenised.examples.pad}
    facts |= {"bytes": tokenised.bytes, "cut": tokenised.cut, "dropped": tokenised.dropped}
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
    """The sequences in a file; None if it is missing, damaged or another file."""
    from safetensors import safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads(file.metadata()["stockpot"])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts["key"] != key or facts["digest"] != _digest(tensors):
            return None
        kind = AnsweredExamples if "answer_ends" in tensors else TokenExamples
        examples = kind(pad=facts["pad"], **tensors)
        return Tokenised(examples, facts["bytes"], facts["cut"], tuple(facts["dropped"]))
    except Exception:  # whatever is wrong with the file, it is made again
        return None
