"""A model's tensors, each paired with its anchor and its β, and kept up to date while the model trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stockpot.averaging.anchor import Anchor, find_anchor, hold_anchor, move_anchor
from stockpot.averaging.lora_factors import Factor, lora_factors
from stockpot.averaging.match import TensorPair, check_patterns, match
from stockpot.averaging.model_tensors import ModelTensor, model_names, model_tensors, signature
from stockpot.averaging.notes import notes_on
from stockpot.averaging.saved_anchor import digest
from stockpot.averaging.settings import AUTO, AnchorSource, Keep, SFASettings
from stockpot.errors import StockpotError


class AnchoredModel:
    """The model and the anchor that `take` last checked it against.

    `folder` is where keep="disk" writes an anchor that is not a file yet. `auto` is the number that stands for a β that
    is "auto". `notes` says what was decided about the model, `anchor` holds θ_o.

    Raises:
        StockpotError: for a pattern of `new` or β that no tensor of the model matches.
    """

    anchor: Anchor

    def __init__(self, model: nn.Module, settings: SFASettings, folder: Path | None, auto: float = 0.0) -> None:
        self.model = model
        self.notes: list[str] = []
        self._settings = settings
        self._keep: Keep = settings.keep or ("disk" if settings.anchor_is_path else "device")
        self._folder = folder
        self._auto = auto
        self._pairs: list[TensorPair] = []
        self._weights: list[ModelTensor] = []
        self._signature: list[object] = []  # of the model, when pairs and weights were made
        self._sha256: str | None = None
        self._unclaimed: Path | None = None  # a file written into `folder` that no saved state refers to yet
        names = model_names(model)
        check_patterns("new", settings.new, names)
        if isinstance(settings.beta, Mapping):
            check_patterns("beta", list(settings.beta), names)

    @property
    def idle(self) -> bool:
        """Whether nothing is ever averaged: β is "auto", which comes to 0 for every weight, or 0. No anchor is kept."""
        beta = self._settings.beta
        values = [*beta.values()] if isinstance(beta, Mapping) else [beta]
        return AUTO in values and not any(self._auto if value == AUTO else value for value in values)

    def take(self, source: AnchorSource) -> list[TensorPair]:
        """Makes `source` the anchor, once every tensor has been checked against it."""
        tensors = self._tensors()
        anchor = find_anchor(source, [tensor for tensor in tensors if tensor.factor is None], self.model)
        pairs = [] if self.idle else self._match(tensors, anchor)
        self.notes = [] if self.idle else notes_on(self.model, anchor, self._settings.buffers)
        anchored = [pair for pair in pairs if pair.factor is None]
        self.anchor = hold_anchor(anchor, anchored, self.model, self._keep, self._folder)
        self._unclaimed = self.anchor.path if anchor.path is None and self.anchor.scratch is None else None
        self._signature, self._sha256 = [], None
        return pairs

    def replace(self, source: AnchorSource) -> list[TensorPair]:
        """`take`, and deletes the file that held the anchor before, unless a saved state refers to it."""
        unclaimed = self._unclaimed
        pairs = self.take(source)
        if unclaimed is not None:
            unclaimed.unlink(missing_ok=True)
        return pairs

    def pairs(self) -> list[TensorPair]:
        """The model's tensors as they are now; matched anew when one was replaced, moved, frozen or unfrozen."""
        self._refresh()
        return self._pairs

    def weights(self) -> list[ModelTensor]:
        """What is trained, as it is now, whether or not the anchor has it; of LoRA the factors that are averaged."""
        self._refresh()
        return self._weights

    def saved(self) -> dict[str, Any]:
        """The anchor in a saved state: the path and SHA-256 of a file that stays, or its tensors (not copied)."""
        self._unclaimed = None
        if self.anchor.path is not None and self.anchor.scratch is None:
            return {"anchor": str(self.anchor.path), "anchor_sha256": self.sha256()}
        return {"anchor": dict(self.anchor.tensors), "anchor_sha256": None}

    def sha256(self) -> str:
        """SHA-256 of θ_o as averages see it: the same for the same anchor, wherever and however it is stored."""
        if self._sha256 is None:
            self._sha256 = digest(self.pairs())
        return self._sha256

    def _refresh(self) -> None:
        now = signature(self.model)
        if now != self._signature:
            tensors = self._tensors()
            if self._keep == "device":
                move_anchor(self.anchor, tensors)
            self._pairs = [] if self.idle else self._match(tensors, self.anchor)
            self._weights = [tensor for tensor in tensors if not tensor.is_buffer]
            self._signature = now

    def _match(self, tensors: list[ModelTensor], anchor: Anchor) -> list[TensorPair]:
        settings = self._settings
        return match(tensors, anchor.tensors, anchor.label, settings.beta, settings.new, self._auto)

    def _tensors(self) -> list[ModelTensor]:
        settings = self._settings
        factors = lora_factors(self.model)
        tensors = model_tensors(
            self.model, buffers=settings.buffers == "average", halves=settings.rounding is not None, lora=factors
        )
        if settings.rounding == "stochastic" and any(each.tensor.dtype == torch.float16 for each in tensors):
            raise StockpotError("rounding='stochastic' is for bf16 weights; say rounding='nearest' for fp16 ones.")
        return tensors


def factors_of(pairs: list[TensorPair]) -> dict[str, Factor]:
    """The LoRA factors among the pairs, by name."""
    return {pair.name: pair.factor for pair in pairs if pair.factor is not None}
