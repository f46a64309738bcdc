"""Small checkpoints for the tests of merging."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (13, 8),
    **{
        f"model.layers.{layer}.{name}": shape
        for layer in range(3)
        for name, shape in {"mlp.weight": (24, 8), "norm.weight": (8,), "attention.weight": (8, 2, 4)}.items()
    },
    "model.scale": (),
    "lm_head.weight": (13, 8),
}


def state(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random tensors under Llama-like names."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def tuned(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """`state(0)` after a little training."""
    change = state(seed)
    return {name: (tensor + 0.1 * change[name]).to(dtype) for name, tensor in state(0).items()}


def saved(folder: Path, tensors: dict[str, Tensor], shards: int = 1) -> Path:
    """A checkpoint in the hub's layout."""
    folder.mkdir(parents=True)
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    else:
        files = [f"model-{number + 1:05}-of-{shards:05}.safetensors" for number in range(shards)]
        weight_map = {name: files[number * shards // len(names)] for number, name in enumerate(names)}
        for file in files:
            save_file({name: tensors[name] for name in names if weight_map[name] == file}, folder / file)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"model_type": "toy", "num_hidden_layers": 3}))
    return folder


def loaded(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, by the safetensors library."""
    result: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        result.update(load_file(file))
    return result


def assert_same(result: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Names, types and every bit."""
    assert set(result) == set(expected)
    for name, tensor in expected.items():
        assert result[name].dtype == tensor.dtype
        assert result[name].shape == tensor.shape
        assert torch.equal(result[name], tensor), name
