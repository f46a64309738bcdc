"""Tiny classifiers of several architectures, from configurations."""

from __future__ import annotations

from typing import Any

import pytest

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 24},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "swin": {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2],
             "window_size": 2},
}  # fmt: skip


@pytest.fixture(params=list(ARCHITECTURES))
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The `model.config` of each architecture in turn."""
    return {"model_type": request.param, **ARCHITECTURES[request.param]}


@pytest.fixture
def vit() -> dict[str, Any]:
    return {"model_type": "vit", **ARCHITECTURES["vit"]}
