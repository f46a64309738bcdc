"""Merge configurations read from text, and planned over tensors without data."""

from __future__ import annotations

import pytest
import torch

from stockpot import StockpotError
from stockpot.merging.plan.merge_plan import Plan, Target, make_plan
from stockpot.merging.read.sources import MemorySource
from stockpot.merging.spec.merge_spec import MergeSpec
from stockpot.merging.spec.mergekit_yaml import parse_merge_config
from stockpot.yaml_text import parse_yaml

Q, UP, NORM = "self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight"


def spec_of(text: str) -> MergeSpec:
    return parse_merge_config(parse_yaml(text, "x.yaml"), "x.yaml")


def plan_of(spec: MergeSpec, layers: int = 4) -> Plan:
    names = [f"model.layers.{layer}.{name}" for layer in range(layers) for name in (Q, UP, NORM)]
    names = ["model.embed_tokens.weight", *names, "model.norm.weight", "lm_head.weight"]
    state = {name: torch.zeros(2, 2) for name in names}
    return make_plan(spec, [MemorySource(state, path) for path in spec.paths])


def targets_of(text: str, layers: int = 4) -> dict[str, Target]:
    return {target.name: target for target in plan_of(spec_of(text), layers).targets}


def each(targets: dict[str, Target], name: str) -> dict[str, list[float]]:
    """Each model's parameters, by name, over the layers; every layer has a tensor `name`."""
    settings = [target.settings for key, target in targets.items() if key.endswith(f".{name}")]
    return {key: [value for one in settings for value in one.numbers(key)] for key in settings[0].each[0]}


def refusal(text: str) -> str:
    with pytest.raises(StockpotError) as caught:
        spec_of(text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("x.yaml: ")
    return str(caught.value).removeprefix("x.yaml: ")
