"""How a configuration counts a model's layers, and what else it says about each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from stockpot.errors import StockpotError
from stockpot.merging.plan.layer_stacks import Stack, is_pair

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
_ENCODER = ("encoder_layers", "num_encoder_layers", "encoder_num_hidden_layers")
_DECODER = ("decoder_layers", "num_decoder_layers", "decoder_num_hidden_layers")
_TEXT = ("text_config", "language_config", "llm_config")
# Words in the keys of lists that may happen to have one entry per layer but mean something else.
_NOT_BY_LAYER = ("token", "architectures", "keys_to_ignore", "image", "patch", "label", "language", "_ids", "mrope")
# Lists of the numbers of special layers.
_NUMBERS = (
    "mlp_only_layers", "cross_attention_layers", "moe_layers", "attn_layer_indices", "full_attn_idxs",
    "hybrid_layer_ids",
)  # fmt: skip
# Keys that make every n-th layer special, and explicit lists that override them if present.
_PERIODS: Mapping[str, tuple[str, ...]] = {
    "moe_layer_freq": (), "attn_layer_period": ("layers_block_type",),
    "expert_layer_period": (), "interleave_moe_layer_step": ("moe_layers",), "block_types": (),
    "full_attention_interval": ("layer_types",), "sliding_window_pattern": ("layer_types",),
    "global_attn_every_n_layers": ("layer_types",), "no_rope_layer_interval": ("no_rope_layers",),
}  # fmt: skip
# The period that an architecture uses if its configuration has neither a period nor a list.
_IMPLIED = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}
# Keys that describe special layers in a way that is not followed here.
_UNCLEAR = ("num_kv_shared_layers", "num_sparse_encoder_layers", "num_sparse_decoder_layers")

ConfigBlock = dict[str, Any]


def layer_count_keys(config: ConfigBlock, stack: Stack, stacks: Sequence[Stack]) -> list[tuple[ConfigBlock, str]]:
    """Every key of a configuration that may count the layers of `stack`, one of a model's `stacks`, with its block."""
    pair = is_pair(stacks)
    nested = config.get(stack.role)
    if isinstance(nested, dict):
        return [(nested, key) for key in _COUNTS if _is_count(nested.get(key))]
    blocks = [config, *(config[key] for key in _TEXT if isinstance(config.get(key), dict))]
    role_keys = {"encoder": _ENCODER, "decoder": _DECODER, "language": ()}[stack.role]
    keys = (*role_keys, *_COUNTS)
    if stack.role == "decoder" and (pair or any(key in block for block in blocks for key in role_keys)):
        keys = role_keys  # num_hidden_layers is then the encoder's
    return [(block, key) for block in blocks for key in keys if _is_count(block.get(key))]


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def pin_decoder(config: ConfigBlock, stacks: Sequence[Stack]) -> None:
    """Writes out a decoder's number of layers if the configuration implies that it equals the encoder's (T5)."""
    if is_pair(stacks) and "num_layers" in config and not any(config.get(key) for key in _DECODER):
        config["num_decoder_layers"] = config["num_layers"]


def set_layers(
    config: ConfigBlock, stack: Stack, stacks: Sequence[Stack], taken: Sequence[int], donor: str
) -> Iterator[str]:
    """Changes the configuration to that of a model with only the `taken` layers of `stack`; yields notes.

    Raises StockpotError if the configuration counts the layers differently or not at all, if a list is too short, or
    if the taken layers do not follow the rule for special layers.
    """
    counts = layer_count_keys(config, stack, stacks)
    matching = [(block, key) for block, key in counts if block[key] == stack.count]
    if not matching:
        shown = ", ".join(f"{key} is {block[key]}" for block, key in counts)
        if not counts and len(taken) == stack.count:
            return
        raise StockpotError(
            f"config.json of {donor} {f'says that {shown}' if counts else 'does not count its layers'}, but its "
            f"weights have {stack.count} ({stack}), so the output could not be loaded. Fix that file first."
        )
    blocks: list[ConfigBlock] = []
    for block, key in matching:
        block[key] = len(taken)
        if not any(block is known for known in blocks):
            blocks.append(block)
    shared = is_pair(stacks) and any(block is config for block in blocks)
    for block in blocks:
        if not shared:
            yield from _set_special(block, stack.count, taken, donor)
        _set_lists(block, stack, taken, donor, shared)


def _set_lists(block: ConfigBlock, stack: Stack, taken: Sequence[int], donor: str, shared: bool) -> None:
    """`shared`: the block describes both encoder and decoder, so only lists whose key names the role are changed."""
    for key, value in block.items():
        if shared and stack.role not in key:
            continue
        if not isinstance(value, list | str) or key in _NUMBERS or any(word in key for word in _NOT_BY_LAYER):
            continue
        if isinstance(value, str) and key != "hybrid_override_pattern":
            continue
        values = expanded(value) if key == "attention_types" else value
        if len(values) != stack.count:
            continue
        if max(taken) >= stack.count:
            raise StockpotError(
                f"{donor}: {key} in its config.json has {stack.count} entries, but layer {max(taken)} is taken: "
                "name a base with enough layers."
            )
        chosen = [values[layer] for layer in taken]
        if key == "attention_types":
            block[key] = [[chosen, 1]]
        else:
            block[key] = "".join(chosen) if isinstance(value, str) else chosen


def expanded(types: Any) -> list[Any]:
    """GPT-Neo's `[[["global", "local"], 12]]` as a list with an entry for every layer; empty for anything else."""
    try:
        return [kind for kinds, times in types for _ in range(min(times, 10_000)) for kind in kinds]
    except (TypeError, ValueError):
        return []


def _set_special(block: ConfigBlock, count: int, taken: Sequence[int], donor: str) -> Iterator[str]:
    """Adjusts keys that mark special layers in another way than by a list with an entry for each layer."""
    if list(taken) == list(range(count)):
        return
    for key, period in _periods(block, count):
        if any(layer % period != position % period for position, layer in enumerate(taken)):
            raise StockpotError(
                f"config.json of {donor}: {key} makes layers special with period {period}, which the layers taken, "
                f"{_shown(taken)}, do not keep: move slices by multiples of {period}."
            )
    _set_leading(block, taken, donor)
    for key in _NUMBERS:
        if isinstance(numbers := block.get(key), list):
            block[key] = [position for position, layer in enumerate(taken) if layer in numbers]
    step = block.get("decoder_sparse_step")
    if _is_count(step) and step > 1:  # Qwen: every step-th layer has experts; the others are listed instead
        listed = set(block.get("mlp_only_layers") or ())
        dense = {position for position, layer in enumerate(taken) if (layer + 1) % step}
        block |= {"decoder_sparse_step": 1, "mlp_only_layers": sorted(listed | dense)}
    for key in _UNCLEAR:
        if block.get(key):
            yield f"config.json: {key} is that of {donor}; check that it fits the output's layers."


def _set_leading(block: ConfigBlock, taken: Sequence[int], donor: str) -> None:
    """Adjusts first_k_dense_replace: DeepSeek's first layers have no experts."""
    leading = block.get("first_k_dense_replace")
    if not _is_count(leading):
        return
    dense = [layer < leading for layer in taken]
    if dense != sorted(dense, reverse=True):
        raise StockpotError(
            f"config.json of {donor}: its first {leading} layers have no experts (first_k_dense_replace), but among "
            f"the layers taken, {_shown(taken)}, others come before them, which a configuration cannot express."
        )
    block["first_k_dense_replace"] = sum(dense)


def _periods(block: ConfigBlock, count: int) -> Iterator[tuple[str, int]]:
    for key, lists in _PERIODS.items():
        value = block.get(key)
        if isinstance(value, list) and len(value) == count:
            continue  # an entry for each layer
        period = len(value) if isinstance(value, list | str) else value
        if _is_count(period) and not any(block.get(name) for name in lists):
            yield key, period
    implied = _IMPLIED.get(str(block.get("model_type")))
    if implied and not block.get("layer_types") and not block.get("sliding_window_pattern"):
        yield f"its model_type, {block['model_type']},", implied


def _shown(taken: Sequence[int]) -> str:
    return ", ".join(map(str, taken[:12])) + (" …" if len(taken) > 12 else "")
