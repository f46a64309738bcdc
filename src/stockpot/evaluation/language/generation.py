"""Greedy or sampled continuations of prompts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from stockpot.batches.outputs import evaluation_mode
from stockpot.errors import StockpotError
from stockpot.evaluation.language.likelihood import batches_of_similar_length, text_configuration
from stockpot.models.encoder_decoder import DECODER_START, is_encoder_decoder
from stockpot.models.tokenizer import padding, start_of_text
from stockpot.streams.text.answering import prompt_tokens_with_ends, shortened
from stockpot.streams.text.encoding import encode, leading_tokens

POSITIONS = 2**17  # the most in one batch, new tokens included: their keys and values are cached


def prompt_tokens(tokenizer: Any, prompt: str) -> list[int]:
    """The prompt's tokens as in training, at least one.

    The beginning-of-text token goes first where the tokenizer adds one, unless a chat template did already; an empty
    prompt becomes the token that a text starts from.
    """
    tokens: list[int] = encode(tokenizer, [prompt])[0].tolist()
    before = leading_tokens(tokenizer)
    return (tokens if before and tokens[:1] == before else before + tokens) or [start_of_text(tokenizer)]


def context_length(model: nn.Module) -> int | None:
    """The most tokens of prompt and continuation together; None where the model's configuration does not say."""
    length = getattr(text_configuration(model), "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


@torch.no_grad()
def continuations(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    batch_size: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    samples: int = 1,
    seed: int = 0,
) -> list[list[str]]:
    """`samples` continuations of each prompt, in order, without special tokens.

    At temperature 0 the likeliest token is taken each time; at T > 0 tokens are drawn from softmax(logits / T), with
    `seed`. Penalties and filters of the model's generation configuration are not applied. A prompt that leaves no room
    for `max_new_tokens` loses its start; one that is longer than an encoder reads loses its end. Torch's generators,
    the modules' modes, the model and its generation configuration are left as they were. Raises StockpotError where the
    model cannot generate text.
    """
    if not hasattr(model, "generate"):
        raise StockpotError(
            f"a {type(model).__name__} cannot generate text: only a language model of Transformers can."
        )
    limit = context_length(model)
    written = max_new_tokens if limit is None else min(max_new_tokens, limit - 1)
    answering = is_encoder_decoder(getattr(model, "config", None))
    tokens = (
        _encoder_tokens(tokenizer, prompts, limit)
        if answering
        else _decoder_tokens(tokenizer, prompts, None if limit is None else limit - written)
    )
    device = next(model.parameters()).device
    ends = end_tokens(model, tokenizer)
    pad = padding(tokenizer)
    settings = _settings(written, temperature, samples, pad, ends, _first_tokens(model) if answering else {})

    result: list[list[str]] = [[] for _ in prompts]
    lengths = [(len(prompt_ids) + written) * samples for prompt_ids in tokens]
    generators = torch.random.fork_rng([device.index] if device.type == "cuda" else [])
    with evaluation_mode(model), _generation_config_replaced(model, settings), generators:
        torch.manual_seed(seed)
        for picked in batches_of_similar_length(lengths, batch_size, POSITIONS):
            longest = max(len(tokens[index]) for index in picked)
            # Padded on the left, so that every prompt ends where generation starts; on the right for an encoder.
            padding_ids = {index: [pad] * (longest - len(tokens[index])) for index in picked}
            ids = [_beside(tokens[index], padding_ids[index], answering) for index in picked]
            mask = [_beside([1] * len(tokens[index]), [0] * len(padding_ids[index]), answering) for index in picked]
            output = model.generate(  # type: ignore[operator]
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=settings,
            )
            for row, new in enumerate(output[:, 1 if answering else longest :].tolist()):
                stop = next((place for place, token in enumerate(new) if token in ends), len(new))
                result[picked[row // samples]].append(tokenizer.decode(new[:stop], skip_special_tokens=True))
    return result


def _decoder_tokens(tokenizer: Any, prompts: Sequence[str], room: int | None) -> list[list[int]]:
    tokens = [prompt_tokens(tokenizer, prompt) for prompt in prompts]
    return tokens if room is None else [prompt_ids[-room:] for prompt_ids in tokens]


def _encoder_tokens(tokenizer: Any, prompts: Sequence[str], limit: int | None) -> list[list[int]]:
    return [shortened(tokens, limit).tolist() for tokens in prompt_tokens_with_ends(tokenizer, prompts)]


def _beside(tokens: list[int], padding_ids: list[int], right: bool) -> list[int]:
    return tokens + padding_ids if right else padding_ids + tokens


def _first_tokens(model: Any) -> dict[str, Any]:
    """What a decoder starts from, and the token that must come first, such as a language's."""
    tokens = {}
    for key in (DECODER_START, "forced_bos_token_id"):
        configs = (getattr(model, "generation_config", None), model.config)
        tokens[key] = next((token for config in configs if (token := getattr(config, key, None)) is not None), None)
    return tokens


def end_tokens(model: nn.Module, tokenizer: Any) -> list[int]:
    """The tokens that end a text: the tokenizer's, and those of the generation configuration."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    more = configured if isinstance(configured, list) else [configured]
    return [token for token in dict.fromkeys([tokenizer.eos_token_id, *more]) if token is not None]


@contextlib.contextmanager
def _generation_config_replaced(model: nn.Module, settings: Any) -> Iterator[None]:
    """Replaces every generation configuration by the settings; afterwards each is as it was.

    Transformers fills what the settings leave open from the model's own configuration, and PEFT passes its own on.
    """
    name = "generation_config"
    before = {module: vars(module).get(name) for module in model.modules()}
    for module, config in before.items():
        if config is not None:
            setattr(module, name, settings)
    try:
        yield
    finally:
        for module, config in before.items():
            if config is not None:
                setattr(module, name, config)
            else:
                vars(module).pop(name, None)


def _settings(
    written: int, temperature: float, samples: int, pad: int, ends: Sequence[int], first: dict[str, Any]
) -> Any:
    from transformers import GenerationConfig

    sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    return GenerationConfig(
        max_new_tokens=written,
        do_sample=temperature > 0,
        num_return_sequences=samples,
        use_cache=True,
        pad_token_id=pad,
        eos_token_id=list(ends) or None,
        **sampling,
        **first,
    )
