"""Bases whose linear layers bitsandbytes holds in 4 or 8 bits, for adapters to be trained beside (QLoRA)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from stockpot.errors import StockpotError
from stockpot.models.spec import ModelSpec

_METHOD = "bitsandbytes"


def quantisation(spec: ModelSpec, config: Any) -> dict[str, Any]:
    """The options with which `from_pretrained` quantises a model as it loads it; none if it is stored quantised.

    4 bits are NF4 with quantised constants (QLoRA, arXiv 2305.14314), 8 bits are LLM.int8() (arXiv 2208.07339); layers
    compute in `spec.dtype`. The output layer, embeddings and norms keep that type.

    Args:
        spec: the `model` block of the recipe.
        config: the Transformers configuration of the model.

    Raises:
        StockpotError: bitsandbytes is missing, or the model is stored quantised in a way that does not fit the recipe.
    """
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        _check_stored(spec, stored if isinstance(stored, dict) else stored.to_dict())
    if stored is None and spec.quantize is None:
        return {}
    if find_spec(_METHOD) is None:
        key = "model.name: a quantised model" if spec.quantize is None else "model.quantize"
        raise StockpotError(f"{key} needs bitsandbytes: pip install 'stockpot[quantize]'")
    if stored is not None:
        return {}
    from transformers import BitsAndBytesConfig

    if spec.quantize == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, spec.dtype),
    )
    return {"quantization_config": settings}


def _check_stored(spec: ModelSpec, settings: dict[str, Any]) -> None:
    """Raises StockpotError for a stored quantisation on which no adapter can be trained, or not this one."""
    method = settings.get("quant_method")
    method = str(getattr(method, "value", method))
    if not spec.adapts:
        raise StockpotError(
            f"model.name: {spec.name} is quantised ({method}), and a run needs plain weights: name the model that it "
            "was made from, with dtype: bfloat16 and lora.output: adapter if memory is short."
        )
    if method != _METHOD:
        raise StockpotError(
            f"model.name: {spec.name} is quantised ({method}), and adapters are trained beside plain weights or those "
            "of bitsandbytes: name the model that it was made from, with quantize: 4bit if memory is short."
        )
    bits = "4bit" if settings.get("load_in_4bit") else "8bit"
    if spec.quantize not in (None, bits):
        raise StockpotError(f"model.quantize: {spec.name} is stored in {bits[0]} bits already; drop the key.")
