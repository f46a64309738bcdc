"""The model that a stream starts from."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stockpot.batches.losses import SINGLE_LABEL, ProblemType
from stockpot.errors import StockpotError, did_you_mean
from stockpot.models.adapter_start import folded, stacked
from stockpot.models.dotted_path import build_model
from stockpot.models.encoder_decoder import decoder_start, is_encoder_decoder
from stockpot.models.head import find_head
from stockpot.models.named_adapter import NamedAdapter, named_adapter
from stockpot.models.pretrained import StartModel, from_config, from_hub, make_config
from stockpot.models.spec import ModelKind, ModelSpec
from stockpot.models.tokenizer import padding
from stockpot.seeds import derive, seed_everything


def start_model(
    spec: ModelSpec,
    rows: int,
    seed: int,
    kind: ModelKind = "image",
    tokenizer: Any = None,
    problem: ProblemType = SINGLE_LABEL,
) -> nn.Module:
    """The model of `build_start_model`, without the names of drawn tensors."""
    return build_start_model(spec, rows, seed, kind, tokenizer, problem).model


def build_start_model(
    spec: ModelSpec,
    rows: int,
    seed: int,
    kind: ModelKind = "image",
    tokenizer: Any = None,
    problem: ProblemType = SINGLE_LABEL,
) -> StartModel:
    """The model that the stream starts from; drawn weights depend on `seed` only.

    An adapter that the spec names is folded into its base, or frozen beside it. A model of text takes its special
    tokens from its tokenizer; one that is built from a configuration has an embedding for each token of the tokenizer,
    unless the configuration asks for more.

    Args:
        spec: the `model` block of the recipe.
        rows: the outputs of a classifier; ignored for a language model.
        seed: of the run.
        kind: what the model does.
        tokenizer: of a model of text.
        problem: what the outputs of a classifier stand for; Transformers' configuration says it, too.

    Raises:
        StockpotError: the model cannot be opened, or has no recognisable output layer.
    """
    seed_everything(derive(seed, "model"))
    classifies = kind != "language"
    labels: dict[str, Any] = {"num_labels": rows} if classifies else {}
    drawn: list[str] = []
    adapter: NamedAdapter | None = None
    if spec.build is not None:
        model = build_model(spec.build, spec.args, rows)
        drawn = _names_in(model, spec.drawn or [])
    elif spec.config is not None:
        model = from_config(_with_tokens(spec.config, tokenizer, kind), kind, **labels)
    else:
        adapter = named_adapter(spec)
        plain = spec if adapter is None else adapter.base
        model, drawn = from_hub(plain, kind, **labels, **({"ignore_mismatched_sizes": True} if classifies else {}))
        if adapter is not None and adapter.how == "fold":
            model, drawn = folded(StartModel(model, drawn), adapter, classifies)
    if classifies:
        find_head(model, rows, spec.head)
        config = getattr(model, "config", None)
        if config is not None and (problem != SINGLE_LABEL or getattr(config, "problem_type", None) is not None):
            config.problem_type = problem  # so that the saved model computes this loss, too
    if tokenizer is not None:
        _fit_tokenizer(model, spec, tokenizer, kind)
    if spec.dtype != "float32" and not getattr(model, "is_quantized", False):  # which is loaded in its type
        model = model.to(getattr(torch, spec.dtype))
    if adapter is not None and adapter.how == "stack":
        model = stacked(model, adapter, classifies)
    return StartModel(model, drawn)


def _names_in(model: nn.Module, wanted: list[str]) -> list[str]:
    """The tensors that these names of tensors and layers stand for. Raises StockpotError if one stands for none."""
    names = set(model.state_dict())
    chosen: set[str] = set()
    for name in wanted:
        of_name = {tensor for tensor in names if tensor == name or tensor.startswith(f"{name}.")}
        if not of_name:
            hint = did_you_mean(name, sorted(names | {layer for layer, _ in model.named_modules() if layer}))
            raise StockpotError(f"model.drawn: the model has no tensor or layer '{name}'.{hint}")
        chosen |= of_name
    return sorted(chosen)


def _with_tokens(values: dict[str, Any], tokenizer: Any, kind: ModelKind) -> dict[str, Any]:
    """The configuration with the tokenizer's vocabulary size and special tokens, where it does not set them itself."""
    if tokenizer is None:
        return values
    if values.get("vocab_size", len(tokenizer)) < len(tokenizer):
        raise StockpotError(
            f"model.config.vocab_size: {values['vocab_size']} is less than the tokenizer's {len(tokenizer)} tokens; "
            "drop the key to use the tokenizer's size."
        )
    known = make_config(values)
    more = {"vocab_size": len(tokenizer), **_special_tokens(tokenizer, kind)}
    return {key: value for key, value in more.items() if hasattr(known, key)} | values


def _special_tokens(tokenizer: Any, kind: ModelKind = "image") -> dict[str, int | None]:
    """The tokens that start, end and pad a text.

    A language model is not given a padding token that is also a start or an end: Transformers would never train its
    embedding.
    """
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    pad = None if kind == "language" and pad in (start, end) else pad
    return {"bos_token_id": start, "eos_token_id": end, "pad_token_id": pad}


def _fit_tokenizer(model: nn.Module, spec: ModelSpec, tokenizer: Any, kind: ModelKind) -> None:
    """Writes the tokenizer's special tokens into the model's configurations; raises StockpotError if tokens lack a row.

    Tokens that the configurations set are kept if they exist. Generation also stops at the token that ends a text in
    training.
    """
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    if len(tokenizer) > embeddings.num_embeddings:
        raise StockpotError(
            f"model.tokenizer: it has {len(tokenizer)} tokens, the model embeddings for {embeddings.num_embeddings}; "
            "use the tokenizer that the model was trained with."
        )
    generation = getattr(model, "generation_config", None)
    for config, special in ((model.config, _special_tokens(tokenizer, kind)), (generation, _special_tokens(tokenizer))):
        for key, token in special.items() if config is not None else ():
            current = getattr(config, key, None)
            current = current if isinstance(current, list) else [current]
            if not all(known is not None and 0 <= known < len(tokenizer) for known in current):
                setattr(config, key, token)
            elif key == "eos_token_id" and token is not None and token not in current:
                setattr(config, key, [token, *current])
    if is_encoder_decoder(model.config):
        first = decoder_start(spec, model.config, tokenizer)
        both: list[Any] = [model.config, generation]
        for settings in both:
            if settings is not None:
                settings.decoder_start_token_id = first
                settings.pad_token_id = padding(tokenizer) if settings.pad_token_id is None else settings.pad_token_id
