"""Models that read with an encoder and write with a decoder, such as T5 and BART."""

from __future__ import annotations

from typing import Any

from stockpot.models.spec import ModelSpec
from stockpot.models.tokenizer import padding

DECODER_START = "decoder_start_token_id"  # a key of Transformers' configurations, not in the defaults of all


def is_encoder_decoder(config: Any) -> bool:
    """Whether a configuration of Transformers, or None, is of such a model."""
    return bool(getattr(config, "is_encoder_decoder", False))


def decoder_start(spec: ModelSpec, config: Any, tokenizer: Any) -> int:
    """The token that the decoder starts from: that of the checkpoint, or of `model.config` where it names one.

    A model that is built from a configuration without one starts from the token that pads, as T5 does.
    """
    token = getattr(config, DECODER_START, None) if spec.config is None or DECODER_START in spec.config else None
    return int(token) if isinstance(token, int) and 0 <= token < len(tokenizer) else padding(tokenizer)
