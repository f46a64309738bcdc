"""Examples that are held in memory: picked from others, joined, and as tensors for a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stockpot.batches.examples import Examples, TensorExamples, concat
from stockpot.batches.token_examples import TokenExamples

HeldExamples = TensorExamples | TokenExamples
_OF_IMAGES = ("pixel_values", "labels")
_OF_TOKENS, _OF_SEQUENCES = ("tokens", "targets", "positions"), ("ends", "rows")


def is_language(examples: Examples) -> bool:
    """Whether they are text to be continued, for a causal language model."""
    return isinstance(examples, TokenExamples) and examples.targets is not None


def taken(examples: Examples, picked: Tensor) -> HeldExamples:
    """The picked examples, in their order."""
    if isinstance(examples, TokenExamples):
        return examples.picked(picked.tolist())
    batch = examples.__getitems__(picked.tolist())
    return TensorExamples(batch["pixel_values"], batch["labels"])


def joined(held: HeldExamples | None, fresh: HeldExamples) -> HeldExamples:
    """The fresh examples behind those that are held, which are of the same kind."""
    both = fresh if held is None else concat([held, fresh])
    assert isinstance(both, HeldExamples), "examples of one kind"
    return both


def kind_of(examples: Examples) -> str:
    """What must be the same in examples that are held together."""
    if isinstance(examples, TokenExamples):
        return "text to be continued" if is_language(examples) else "text with classes"
    return f"inputs of shape {tuple(examples.__getitems__([0])['pixel_values'].shape[1:])}"


def to_tensors(held: HeldExamples) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, and JSON values that say what they are: nothing of images."""
    if isinstance(held, TensorExamples):
        return {key: getattr(held, key) for key in _OF_IMAGES}, {}
    found = {key: getattr(held, key) for key in (*_OF_SEQUENCES, *_OF_TOKENS)}
    present = {key: tensor for key, tensor in found.items() if tensor is not None}
    return present, {"text": list(present), "pad": held.pad}


def sizes(tensors: Mapping[str, Tensor], values: Mapping[str, Any], many: int) -> dict[str, int]:
    """How long each tensor of so many examples is, if none is damaged; −1 where not even that can be said."""
    if "text" not in values:
        return dict.fromkeys(_OF_IMAGES, many)
    ends = tensors.get("ends")
    ascending = ends is not None and len(ends) and bool((ends.diff(prepend=ends.new_zeros(1)) > 0).all())
    tokens = int(ends[-1]) if ends is not None and ascending else -1
    return {key: tokens if key in _OF_TOKENS else many for key in values["text"]}


def from_tensors(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> HeldExamples:
    """The examples that `to_tensors` was given."""
    if "text" not in values:
        return TensorExamples(*(tensors[key] for key in _OF_IMAGES))
    return TokenExamples(**{key: tensors[key] for key in values["text"]}, pad=int(values["pad"]))
