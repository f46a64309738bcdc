"""One name for one tensor, however the model is wrapped."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from stockpot.errors import did_you_mean

# How the names of a language model's embeddings and of its head end, over the architectures of Transformers.
EMBEDDING_ENDINGS = (
    "embed_tokens.weight", "wte.weight", "shared.weight", "word_embeddings.weight", "embed_in.weight",
)  # fmt: skip
HEAD_ENDINGS = ("lm_head.weight", "embed_out.weight", "predictions.decoder.weight", "lm_head.decoder.weight")

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def clean_name(name: str) -> str:
    """The name without what wrappers add: a leading `module.` (DDP) and `_orig_mod.` (torch.compile) anywhere.

    >>> clean_name("module._orig_mod.encoder._orig_mod.weight")
    'encoder.weight'
    """
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] == "module":
        del parts[0]
    return ".".join(parts)


def match_any(names: Iterable[str], pattern: str) -> bool:
    """Whether the shell pattern (`*`, `?`, `[…]`, case-sensitive) matches at least one of the names."""
    return any(fnmatchcase(name, pattern) for name in names)


def suggest_pattern(pattern: str, names: Iterable[str]) -> str:
    """`" Did you mean …?"` for a pattern that matches nothing: the closest name, or `prefix.*` of a module."""
    known: dict[str, None] = {}
    for name in names:
        known[name] = None
        parts = name.split(".")
        for end in range(1, len(parts)):
            known[".".join(parts[:end]) + ".*"] = None
    return did_you_mean(pattern, known)
