"""Llama-style checkpoints of any size for benchmarks: a base and models tuned from it, bf16, shards of 1 GB."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

HIDDEN, INNER, KEYS, VOCABULARY = 2048, 5632, 256, 32000


def shapes(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Llama; with 22 layers it has 1.1 B parameters."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (HIDDEN,)
        yield prefix + "mlp.down_proj.weight", (HIDDEN, INNER)
        yield prefix + "mlp.gate_proj.weight", (INNER, HIDDEN)
        yield prefix + "mlp.up_proj.weight", (INNER, HIDDEN)
        yield prefix + "post_attention_layernorm.weight", (HIDDEN,)
        yield prefix + "self_attn.k_proj.weight", (KEYS, HIDDEN)
        yield prefix + "self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield prefix + "self_attn.q_proj.weight", (HIDDEN, HIDDEN)
        yield prefix + "self_attn.v_proj.weight", (KEYS, HIDDEN)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def make(folder: Path, seed: int, layers: int) -> Path:
    """Writes the base (seed 0) or a model that differs from it by a tenth, unless the folder already holds one."""
    if (folder / "config.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for number, (name, shape) in enumerate(shapes(layers)):
        tensor = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(number))
        if seed:
            tensor += 0.002 * torch.randn(shape, generator=torch.Generator().manual_seed(100_000 * seed + number))
        if shards[-1] and filled + 2 * tensor.numel() > 10**9:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor.bfloat16()
        filled += 2 * tensor.numel()
    files = [f"model-{number + 1:05}-of-{len(shards):05}.safetensors" for number in range(len(shards))]
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, folder / file, {"format": "pt"})
    weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 4,
        "vocab_size": VOCABULARY, "torch_dtype": "bfloat16", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder
