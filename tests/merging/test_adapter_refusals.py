"""Adapters that cannot be merged are refused, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_cases import (
    A_KEY,
    B_KEY,
    Q,
    State,
    changed,
    close,
    mixed,
    refusal,
    source_of,
    weights,
    with_tensors,
)
from safetensors.torch import save_file

from stockpot.merging.api import merge

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another method": ({"peft_type": "IA3"}, "peft_type IA3"),
    "DoRA": ({"use_dora": True}, "use_dora=True (DoRA)"),
    "biases": ({"bias": "lora_only"}, "bias 'lora_only'"),
    "a bias of B": ({"lora_bias": True}, "lora_bias=True"),
    "an initialisation that changes the base": ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for"),
    "trained tokens": ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    "replicated layers": ({"layer_replication": [[0, 2]]}, "layer_replication"),
    "parameters": ({"target_parameters": ["x"]}, "target_parameters"),
    "a key of tomorrow": ({"use_quantum": True}, "use_quantum=True is not supported"),
    "a rank that is none": ({"r": 0}, "r: Input should be greater than 0"),
    "a text for a number": ({"lora_alpha": "8"}, "lora_alpha: Input should be a valid number"),
    "infinity": ({"lora_alpha": float("inf")}, "lora_alpha: Input should be a finite number"),
    "a broken pattern": ({"rank_pattern": {"(": 2}}, "is not a regular expression"),
    "another rank than the file's": ({"r": 3}, "has rank 4, but adapter_config.json says 3"),
    "no base": ({"base_model_name_or_path": None}, "--base MODEL"),
    "a base that does not exist": ({"base_model_name_or_path": "no/such/place"}, "no/such/place does not exist"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_configurations_are_refused_by_name(adapters: list[Path], tmp_path: Path, case: str) -> None:
    settings, expected = REFUSED[case]
    folder = changed(adapters[0], tmp_path / "adapter", **settings)
    message = refusal(lambda: merge("linear", [folder]))
    assert expected in message
    assert str(folder) in message or "no/such" in message


def test_a_configuration_that_is_no_json_is_refused(adapters: list[Path], tmp_path: Path) -> None:
    folder = changed(adapters[0], tmp_path / "adapter")
    for text in ("{", "[]", "[" * 100_000, " " * (9 << 20)):
        (folder / "adapter_config.json").write_text(text)
        assert "adapter_config.json" in refusal(lambda: merge("linear", [folder]))
    (folder / "adapter_config.json").unlink()
    (tmp_path / "outside.json").write_text("{}")
    (folder / "adapter_config.json").symlink_to(tmp_path / "outside.json")
    assert "link out of its folder" in refusal(lambda: merge("linear", [folder]))


DAMAGED: dict[str, tuple[Callable[[State], State], str]] = {
    "A that does not fit the base": (lambda state: state | {A_KEY: torch.ones(4, 17)}, "have the shape [16, 16]"),
    "A that does not fit B": (lambda state: state | {A_KEY: torch.ones(3, 16)}, "A [3, 16] and B [16, 4]"),
    "A of one dimension": (lambda state: state | {A_KEY: torch.ones(16)}, "does not have the shape"),
    "A alone": (lambda state: {k: v for k, v in state.items() if k != B_KEY}, "has no matching B"),
    "integers": (lambda state: state | {A_KEY: torch.ones(4, 16, dtype=torch.int8)}, "has the type I8"),
    "a module that the base lacks": (
        lambda state: {key.replace("layers.0.self_attn.q_proj", "layers.0.self_attn.query_proj"): value
                       for key, value in state.items()},
        f"lacks. Did you mean '{Q}'?",
    ),
    "a magnitude": (
        lambda state: state | {A_KEY.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(16)},
        "only LoRA's A and B are",
    ),
    "another name": (
        lambda state: {key.removeprefix("base_model."): value for key, value in state.items()},
        "not have a name of PEFT's",
    ),
    "a resized module": (
        lambda state: state | {"base_model.model.lm_head.weight": torch.ones(49, 16)}, "resizes its base",
    ),
    "nothing": (lambda state: {}, "has no tensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_tensors_that_do_not_fit_are_refused_by_name(adapters: list[Path], tmp_path: Path, case: str) -> None:
    change, expected = DAMAGED[case]
    folder = with_tensors(adapters[0], tmp_path / "adapter", change)
    message = refusal(lambda: merge("linear", [folder]))
    assert expected in message
    assert str(folder) in message


def test_a_square_matrix_is_not_guessed(tmp_path: Path) -> None:
    base, folder, _ = mixed(tmp_path, target_modules=["crossed", "square", "blocks.0"], r=2)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"fan_in_fan_out": False}))
    message = refusal(lambda: source_of(base, folder))
    assert "fan_in_fan_out=false is wrong for 'crossed'" in message
    assert "'square'" in message


def test_adapters_of_different_bases_are_refused(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    save_file(weights(base), tmp_path / "other" / "model.safetensors")
    folder = changed(adapters[1], tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "other"))
    message = refusal(lambda: merge("linear", [adapters[0], folder]))
    assert str(base) in message
    assert str(tmp_path / "other") in message
    merge("linear", [adapters[0], folder], base)  # named, it is the base of all
    (tmp_path / "same").symlink_to(base)
    folder = changed(adapters[1], tmp_path / "linked", base_model_name_or_path=str(tmp_path / "same"))
    close(merge("linear", [adapters[0], folder]), merge("linear", adapters[:2]))


def test_an_adapter_is_no_base(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    assert "BASE+" in refusal(lambda: merge("linear", [adapters[0]], adapters[1]))
    folder = changed(adapters[0], tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "adapter"))
    for models in ([folder], [folder, base], [f"{adapters[1]}+{folder}", base]):
        assert "is an adapter and cannot be the base" in refusal(lambda models=models: merge("linear", models))
    assert "is not an adapter: no adapter_config.json" in refusal(lambda: merge("linear", [f"{base}+{base}"]))
