"""The stacks of layers in a model, told apart by the names of its tensors: which are the language model's."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from stockpot.errors import StockpotError, did_you_mean

_NUMBERED = re.compile(r"^(?P<stack>.*?\.|)(?P<layer>\d{1,9})(?P<rest>\..*|)$")
# Words in the name of what only feeds a language model, or hangs on to it.
_ASIDE = frozenset({
    "visual", "vision", "image", "img", "video", "audio", "speech", "sound", "siglip", "qformer", "perceiver",
    "resampler", "connector", "projector", "merger", "abstractor", "aligner",
    "mtp", "nextn", "medusa", "eagle", "draft", "talker", "prenet", "postnet", "vocoder", "vq", "vqmodel",
})  # fmt: skip
# What comes after the language model although it is none of it.
_BEHIND = frozenset({"mtp", "nextn", "medusa", "eagle", "draft", "talker", "postnet", "vocoder"})
_LANGUAGE = frozenset({"language", "text", "llm", "lm"})
# What lists of layers are called; a classifier of several modules, or convolutions, are numbered too.
_LISTS = frozenset({
    "layers", "layer", "h", "block", "blocks", "resblocks", "decoder_layers", "encoder_layers", "albert_layer_groups",
})  # fmt: skip
_FEEDS = (
    "emb", "wte", "wpe", "cls_token", "mask_token", "dist_token", "register_token", "patch", "pos_", "position",
    "conv1.", "conv2.", "feature_extractor", "feature_projection", "pre_layernorm", "pre_layrnorm", "ln_pre",
    "project_in", "rotary",
)  # fmt: skip
_FOLLOWS = ("embed_out", "unembed", "output_embed", "out_emb", "norm_after", "head")


@dataclass(frozen=True, slots=True)
class Stack:
    """A numbered list of layers: `prefix` is what their names begin with, up to the number."""

    prefix: str
    count: int
    role: Literal["language", "encoder", "decoder"]

    @property
    def root(self) -> str:
        """The module that the stack is a part of: `model.encoder.` of `model.encoder.layers.`."""
        return self.prefix[: self.prefix.rstrip(".").rfind(".") + 1]

    def __str__(self) -> str:
        return f"{self.prefix}0 to {self.count - 1}"


def layer_of(name: str) -> tuple[str, int, str] | None:
    """The name cut at its first number: `model.layers.3.mlp.weight` is layer 3 of the stack `model.layers.`."""
    match = _NUMBERED.match(name)
    return (match["stack"], int(match["layer"]), match["rest"]) if match else None


def layer_counts(names: Iterable[str]) -> dict[str, int]:
    """How many layers every stack has."""
    counts: dict[str, int] = {}
    for name in names:
        if (layer := layer_of(name)) is not None:
            counts[layer[0]] = max(counts.get(layer[0], 0), layer[1] + 1)
    return counts


def language_stacks(names: Iterable[str]) -> tuple[Stack, ...]:
    """The language model's stack, or where that is an encoder–decoder both, the encoder's first.

    Vision and audio towers, projectors and heads are left out. A model that is nothing but a tower has that; more than
    two, or two that are no encoder and decoder, are those between which names do not decide.
    """
    stacks = [Stack(prefix, count, _role(prefix)) for prefix, count in layer_counts(names).items()]
    # Each sieve counts only where something is left.
    stacks = [stack for stack in stacks if stack.prefix.rstrip(".").rpartition(".")[2] in _LISTS] or stacks
    stacks = [stack for stack in stacks if not _ASIDE & _words(stack.prefix)] or stacks
    stacks = [stack for stack in stacks if _LANGUAGE & _words(stack.prefix)] or stacks
    by_role = {role: [stack for stack in stacks if stack.role == role] for role in ("encoder", "decoder", "language")}
    if len(stacks) > 1 and by_role["language"]:
        return tuple(by_role["language"])
    return (*by_role["encoder"], *by_role["decoder"], *by_role["language"])


def is_pair(stacks: Collection[Stack]) -> bool:
    """Whether they are an encoder and a decoder."""
    return [stack.role for stack in stacks] == ["encoder", "decoder"]


def choose_stack(stacks: tuple[Stack, ...], wanted: str | None, where: str, label: str) -> Stack:
    """The stack whose layers a slice counts: `wanted` is `encoder`, `decoder`, or what its names begin with.

    Without it, that of the language model. Raises StockpotError, beginning with `where`, where there is more than one
    or none of that name; `label` is the model's.
    """
    shown = ", ".join(str(stack) for stack in stacks)
    if not stacks:
        raise StockpotError(f"{label}: no tensor's name has a layer's number, so there are no layers to slice.")
    if wanted is None:
        if len(stacks) == 1:
            return stacks[0]
        example = "encoder" if is_pair(stacks) else stacks[0].prefix
        what = "is an encoder–decoder" if is_pair(stacks) else "has several stacks of layers"
        raise StockpotError(
            f"{where}: {label} {what} ({shown}): say beside `sources` which of them layer_range counts, "
            f"`stack: {example}`."
        )
    for stack in stacks:
        if wanted in (stack.prefix, stack.prefix.rstrip(".")) or (len(stacks) > 1 and wanted == stack.role):
            return stack
    known = [*(stack.role for stack in stacks if is_pair(stacks)), *(stack.prefix for stack in stacks)]
    raise StockpotError(
        f"{where}.stack: {label} has no stack {wanted!r} that could be sliced, only {', '.join(known)}."
        f"{did_you_mean(wanted, known)}"
    )


def feeds(name: str, stack: Stack) -> bool:
    """Whether a tensor outside a stack comes before it: embeddings, other towers. Heads and norms follow."""
    if aside := _ASIDE & _words(name) - _words(stack.prefix):
        return not aside & _BEHIND
    lower = name.lower()
    if any(part in lower for part in _FOLLOWS):
        return False
    return lower.startswith("shared.") or ".shared." in lower or any(part in lower for part in _FEEDS)


def first_layer_extras(rests: Mapping[int, Collection[str]]) -> frozenset[str]:
    """What the first layer alone has where all others are alike: T5 keeps its table of relative positions there.

    `rests` are the ends of the names in each layer.
    """
    others = {frozenset(ends) for layer, ends in rests.items() if layer}
    if 0 not in rests or len(others) != 1 or not (rest := others.pop()) < frozenset(rests[0]):
        return frozenset()
    return frozenset(rests[0]) - rest


def rests_of(names: Iterable[str], prefix: str) -> dict[int, set[str]]:
    """The ends of the names in every layer of a stack."""
    ends: dict[int, set[str]] = {}
    for name in names:
        if (layer := layer_of(name)) is not None and layer[0] == prefix:
            ends.setdefault(layer[1], set()).add(layer[2])
    return ends


def _words(name: str) -> set[str]:
    return set(re.split(r"[._]", name.lower()))


def _role(prefix: str) -> Literal["language", "encoder", "decoder"]:
    for part in prefix.split("."):
        words = part.split("_")
        if "decoder" in words:
            return "decoder"
        if "encoder" in words:
            return "encoder"
    return "language"
