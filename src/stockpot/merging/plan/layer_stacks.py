"""The stacks of layers in a model, found by the names of its tensors, and which of them are the language model's."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from stockpot.errors import StockpotError, did_you_mean

_NUMBERED = re.compile(r"^(?P<stack>.*?\.|)(?P<layer>\d{1,9})(?P<rest>\..*|)$")
# Words in the names of modules that only feed a language model, or are attached to it.
_ASIDE = frozenset({
    "visual", "vision", "image", "img", "video", "audio", "speech", "sound", "siglip", "qformer", "perceiver",
    "resampler", "connector", "projector", "merger", "abstractor", "aligner",
    "mtp", "nextn", "medusa", "eagle", "draft", "talker", "prenet", "postnet", "vocoder", "vq", "vqmodel",
})  # fmt: skip
# Those of them that come after the language model.
_BEHIND = frozenset({"mtp", "nextn", "medusa", "eagle", "draft", "talker", "postnet", "vocoder"})
_LANGUAGE = frozenset({"language", "text", "llm", "lm"})
# Names of lists of layers; other modules are numbered too, such as the parts of a classifier, or convolutions.
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
    """A numbered list of layers: `prefix` is the start of their tensors' names, up to the number."""

    prefix: str
    count: int
    role: Literal["language", "encoder", "decoder"]

    @property
    def root(self) -> str:
        """The module that contains the stack: `model.encoder.` for `model.encoder.layers.`."""
        return self.prefix[: self.prefix.rstrip(".").rfind(".") + 1]

    def __str__(self) -> str:
        return f"{self.prefix}0 to {self.count - 1}"


def layer_of(name: str) -> tuple[str, int, str] | None:
    """The name split at its first number: `model.layers.3.mlp.weight` → (`model.layers.`, 3, `.mlp.weight`)."""
    match = _NUMBERED.match(name)
    return (match["stack"], int(match["layer"]), match["rest"]) if match else None


def layer_counts(names: Iterable[str]) -> dict[str, int]:
    """The number of layers of each stack."""
    counts: dict[str, int] = {}
    for name in names:
        if (layer := layer_of(name)) is not None:
            counts[layer[0]] = max(counts.get(layer[0], 0), layer[1] + 1)
    return counts


def language_stacks(names: Iterable[str]) -> tuple[Stack, ...]:
    """The language model's stack; for an encoder–decoder both, the encoder's first.

    Vision and audio towers, projectors and heads are left out, unless the model is nothing but a tower. If the names do
    not decide between several stacks, all of them are returned.
    """
    stacks = [Stack(prefix, count, _role(prefix)) for prefix, count in layer_counts(names).items()]
    # A filter that would leave nothing is skipped.
    stacks = [stack for stack in stacks if stack.prefix.rstrip(".").rpartition(".")[2] in _LISTS] or stacks
    stacks = [stack for stack in stacks if not _ASIDE & _words(stack.prefix)] or stacks
    stacks = [stack for stack in stacks if _LANGUAGE & _words(stack.prefix)] or stacks
    by_role = {role: [stack for stack in stacks if stack.role == role] for role in ("encoder", "decoder", "language")}
    if len(stacks) > 1 and by_role["language"]:
        return tuple(by_role["language"])
    return (*by_role["encoder"], *by_role["decoder"], *by_role["language"])


def is_pair(stacks: Collection[Stack]) -> bool:
    """Whether the stacks are one encoder and one decoder, in this order."""
    return [stack.role for stack in stacks] == ["encoder", "decoder"]


def choose_stack(stacks: tuple[Stack, ...], wanted: str | None, where: str, label: str) -> Stack:
    """The stack whose layers a slice counts: `wanted` is `encoder`, `decoder` or a prefix.

    The default is the language model's. Raises StockpotError, starting with `where`, if there are several and none is
    named, or if none has that name. `label` names the model.
    """
    shown = ", ".join(str(stack) for stack in stacks)
    if not stacks:
        raise StockpotError(f"{label}: no tensor has a layer number in its name, so there are no layers to slice.")
    if wanted is None:
        if len(stacks) == 1:
            return stacks[0]
        example = "encoder" if is_pair(stacks) else stacks[0].prefix
        what = "is an encoder–decoder" if is_pair(stacks) else "has several stacks of layers"
        raise StockpotError(
            f"{where}: {label} {what} ({shown}): next to `sources`, say which one layer_range counts, "
            f"for example `stack: {example}`."
        )
    for stack in stacks:
        if wanted in (stack.prefix, stack.prefix.rstrip(".")) or (len(stacks) > 1 and wanted == stack.role):
            return stack
    known = [*(stack.role for stack in stacks if is_pair(stacks)), *(stack.prefix for stack in stacks)]
    raise StockpotError(
        f"{where}.stack: {label} has no stack {wanted!r} to slice, only {', '.join(known)}."
        f"{did_you_mean(wanted, known)}"
    )


def feeds(name: str, stack: Stack) -> bool:
    """Whether a tensor outside a stack comes before it, as embeddings and towers do; heads and final norms follow."""
    if aside := _ASIDE & _words(name) - _words(stack.prefix):
        return not aside & _BEHIND
    lower = name.lower()
    if any(part in lower for part in _FOLLOWS):
        return False
    return lower.startswith("shared.") or ".shared." in lower or any(part in lower for part in _FEEDS)


def first_layer_extras(rests: Mapping[int, Collection[str]]) -> frozenset[str]:
    """Tensors that only the first layer has, all others being alike: T5 keeps its relative position table there.

    `rests` maps each layer's number to the endings of its tensors' names.
    """
    others = {frozenset(ends) for layer, ends in rests.items() if layer}
    if 0 not in rests or len(others) != 1 or not (rest := others.pop()) < frozenset(rests[0]):
        return frozenset()
    return frozenset(rests[0]) - rest


def rests_of(names: Iterable[str], prefix: str) -> dict[int, set[str]]:
    """For each layer of a stack, the endings of its tensors' names."""
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
