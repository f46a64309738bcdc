"""Tokenizers: a model's own, another's, or one trained on the stream's texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError
from stockpot.models.named_adapter import file_home
from stockpot.models.spec import ModelSpec, TrainedTokenizer

END = "<|endoftext|>"
_VOCABULARY_FILES = ("tokenizer.json", "vocab.*", "*.model")


def open_tokenizer(spec: ModelSpec, texts: Callable[[], Iterable[str]]) -> Any:
    """The fast tokenizer of a model; `texts` is called only if one is to be trained.

    The end of text replaces a missing padding token, since padding is masked; the vocabulary never grows.
    Raises StockpotError if it cannot be opened.
    """
    if isinstance(spec.tokenizer, TrainedTokenizer):
        tokenizer = train_tokenizer(texts(), spec.tokenizer.train)
    else:
        home = spec if spec.tokenizer is not None else file_home(spec, *_VOCABULARY_FILES)
        name = spec.tokenizer or home.name
        if name is None:
            raise StockpotError(
                "model.tokenizer: a model built from a configuration has none: name another model's or a folder, "
                "or train one on the stream's texts: {train: 8192}."
            )
        tokenizer = _open_named(name, home)
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if spec.chat_template is not None:
        tokenizer.chat_template = spec.chat_template
    return tokenizer


def _open_named(name: str, spec: ModelSpec) -> Any:
    from transformers import AutoTokenizer

    folder = Path(name).expanduser()
    if name.startswith((".", "/", "~")) and not folder.is_dir():
        raise StockpotError(f"model.tokenizer: {name}: there is no such folder.")
    # Without one of these Transformers opens a tokenizer with an empty vocabulary.
    if folder.is_dir() and not any(file for kind in _VOCABULARY_FILES for file in folder.glob(kind)):
        raise StockpotError(
            f"model.tokenizer: {name} holds no tokenizer.json: name another model's tokenizer, or save this one there."
        )
    revision = (spec.revision if name == spec.name else None) or "main"
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder) if folder.is_dir() else name, revision=revision, trust_remote_code=spec.trust_remote_code
        )
    except Exception as error:  # what the libraries raise ranges from OSError to plain Exception
        reason = "it has no tokenizer.json that could be read"
        if not folder.is_dir():
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StockpotError(
            f"model.tokenizer: {name}: {reason} (a hub name needs the network or a filled cache; "
            "a folder needs what tokenizer.save_pretrained writes)"
        ) from error
    if not tokenizer.is_fast:
        raise StockpotError(
            f"model.tokenizer: {name} has no fast version (a tokenizer.json); name another model's tokenizer."
        )
    return tokenizer


def train_tokenizer(texts: Iterable[str], size: int) -> Any:
    """Byte-level BPE (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909) of at most `size` tokens.

    Its only special token starts, ends and pads texts. Every string can be encoded, and decodes to itself.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        bos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
    )


def end_of_text(tokenizer: Any) -> int:
    """The token that ends a text; raises StockpotError if there is none."""
    if tokenizer.eos_token_id is None:
        raise StockpotError(
            f"model.tokenizer: {_name(tokenizer)} has no end-of-text token, so a model cannot learn to stop: "
            "save it again with tokenizer.eos_token set to a token of its vocabulary, and name that folder."
        )
    return int(tokenizer.eos_token_id)


def start_of_text(tokenizer: Any) -> int:
    """The token from which the first one of a text is predicted: the start of text, or the end of another."""
    return end_of_text(tokenizer) if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)


def padding(tokenizer: Any) -> int:
    """The token that pads batches, and is always masked: the tokenizer's own, or the end of text.

    Raises StockpotError if there is neither.
    """
    token = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if token is None:
        raise StockpotError(
            f"model.tokenizer: {_name(tokenizer)} has neither a padding nor an end-of-text token to pad batches with: "
            "save it again with tokenizer.pad_token set to a token of its vocabulary, and name that folder."
        )
    return int(token)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256, in hexadecimal, of what decides the tokens of a text: backend, special tokens and chat template."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {
        key: value for key, value in backend.items() if key not in ("truncation", "padding")
    }  # each call sets these
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    settings = json.dumps([kept, special, tokenizer.chat_template], sort_keys=True, default=str)
    return hashlib.sha256(settings.encode()).hexdigest()


def _name(tokenizer: Any) -> str:
    return str(tokenizer.name_or_path or "the tokenizer")
