"""What a language model writes: greedy or sampled continuations of prompts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from stockpot.batches.outputs import evaluation_mode
from stockpot.errors import StockpotError
from stockpot.evaluation.language.likelihood import alike, text_configuration
from stockpot.models.tokenizer import padding, start_of_text
from stockpot.streams.text.encoding import encode, leading_tokens

POSITIONS = 2**17  # at most so many in one batch, those still to be written among them: their keys and values are kept


def prompt_tokens(tokenizer: Any, prompt: str) -> list[int]:
    """The prompt's tokens as training gives them, at least one.

    Beginning of text goes first where the tokenizer puts one, unless a chat template did already; an empty prompt is
    the token that a text starts from.
    """
    found: list[int] = encode(tokenizer, [prompt])[0].tolist()
    before = leading_tokens(tokenizer)
    return (found if before and found[:1] == before else before + found) or [start_of_text(tokenizer)]


def context(model: nn.Module) -> int | None:
    """Tokens that the model can read and write at once; None where its configuration does not say."""
    found = getattr(text_configuration(model), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


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
    """For each prompt, in order, `samples` texts that the model goes on with, special tokens left out.

    At temperature 0 the likeliest token is taken each time, at T > 0 it is drawn from softmax(logits / T), from `seed`.
    What the model's generation configuration says of penalties and filters does not count. A prompt that leaves no
    room for `max_new_tokens` loses its beginning. Torch's generators, the modules' modes, the model and its generation
    configuration are left as they were. Raises StockpotError where the model cannot write.
    """
    if not hasattr(model, "generate"):
        raise StockpotError(f"a {type(model).__name__} cannot write: only a causal language model of Transformers can.")
    limit = context(model)
    written = max_new_tokens if limit is None else min(max_new_tokens, limit - 1)
    room = None if limit is None else limit - written
    tokens = [prompt_tokens(tokenizer, prompt) for prompt in prompts]
    tokens = tokens if room is None else [found[-room:] for found in tokens]
    device = next(model.parameters()).device
    ends = end_tokens(model, tokenizer)
    pad = padding(tokenizer)
    settings = _settings(written, temperature, samples, pad, ends)

    result: list[list[str]] = [[] for _ in prompts]
    lengths = [(len(found) + written) * samples for found in tokens]
    generators = torch.random.fork_rng([device.index] if device.type == "cuda" else [])
    with evaluation_mode(model), _only(model, settings), generators:
        torch.manual_seed(seed)
        for picked in alike(lengths, batch_size, POSITIONS):
            longest = max(len(tokens[index]) for index in picked)
            # On the left, so that every prompt ends where the writing begins.
            ids = [[pad] * (longest - len(tokens[index])) + tokens[index] for index in picked]
            mask = [[0] * (longest - len(tokens[index])) + [1] * len(tokens[index]) for index in picked]
            output = model.generate(  # type: ignore[operator]
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=settings,
            )
            for row, new in enumerate(output[:, longest:].tolist()):
                stop = next((place for place, token in enumerate(new) if token in ends), len(new))
                result[picked[row // samples]].append(tokenizer.decode(new[:stop], skip_special_tokens=True))
    return result


def end_tokens(model: nn.Module, tokenizer: Any) -> list[int]:
    """The tokens after which nothing more is written: the tokenizer's, and those of the generation configuration."""
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    more = found if isinstance(found, list) else [found]
    return [token for token in dict.fromkeys([tokenizer.eos_token_id, *more]) if token is not None]


@contextlib.contextmanager
def _only(model: nn.Module, settings: Any) -> Iterator[None]:
    """Puts the settings in the place of every generation configuration; afterwards each is as it was.

    Transformers fills what settings leave open from the model's own configuration, and PEFT hands its own on.
    """
    name = "generation_config"
    before = {module: vars(module).get(name) for module in model.modules()}
    for module, own in before.items():
        if own is not None:
            setattr(module, name, settings)
    try:
        yield
    finally:
        for module, own in before.items():
            if own is not None:
                setattr(module, name, own)
            else:
                vars(module).pop(name, None)


def _settings(written: int, temperature: float, samples: int, pad: int, ends: Sequence[int]) -> Any:
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
    )


def sample_continuations(
    model: nn.Module, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int = 60, batch_size: int = 8
) -> list[str]:
    """What the model goes on with, greedily, after each prompt: for a reader to see."""
    found = continuations(model, tokenizer, prompts, batch_size=batch_size, max_new_tokens=max_new_tokens)
    return [texts[0] for texts in found]
