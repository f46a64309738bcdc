"""SFA with LoRA in run folders, in float64: a stream of adapters is averaged as dense weights would be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from toy import Weights, assert_close
from transformers import AutoModelForCausalLM

from stockpot import SFA
from stockpot.errors import StockpotError
from stockpot.models.lora import fold_adapter, load_adapter
from stockpot.models.names import plain_tensors
from stockpot.models.pretrained import StartModel
from stockpot.models.spec import ModelSpec
from stockpot.models.start import start_model
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe
from stockpot.runs.actions import continue_run, create_run

CONFIG = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 32, "tie_word_embeddings": True, "initializer_range": 0.2,
}  # fmt: skip
WORDS = {"law": "court judge appeal the", "math": "one two plus equals", "code": "int return void class"}


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """`recipe(lora={…}, method={…})`: three tasks of 24 short texts, a Llama of one layer."""
    tasks = []
    for name, words in WORDS.items():
        rows = [{"text": " ".join(words.split()[place % 4 :] * 3)} for place in range(24)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        tasks.append({"name": name, "data": {"path": str(tmp_path / f"{name}.jsonl"), "text": "text"}})
    train = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 2e-2, "save_steps": 5,
             "use_cpu": True}  # fmt: skip

    def make(lora: dict[str, Any] | None, dtype: str = "float32", **changes: Any) -> Recipe:
        model = {"config": CONFIG, "tokenizer": {"train": 300}, "dtype": dtype, "lora": lora and {"r": 3, **lora}}
        values = {"model": model, "scenario": "language", "data": {"max_length": 16}, "tasks": tasks, "train": train}
        return validate(Recipe, {**values, **changes}, "here")

    return make


def effective(model: Any) -> Weights:
    """The plain model's tensors with W + Σ s·B·A."""
    found = {name: tensor.detach().clone() for name, tensor in plain_tensors(model).items()}
    for name, layer in model.get_base_model().named_modules():
        for adapter in layer.scaling if hasattr(layer, "lora_A") else ():
            found[f"{name}.weight"] += layer.get_delta_weight(adapter).detach()
    return found


def opened(folder: Path) -> nn.Module:
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    return model


def left(run: Path) -> list[Weights]:
    """The weights at the start and after each task, whether they are merged or adapters."""
    folders = [folder / "model" for folder in sorted((run / "tasks").iterdir())]
    return [
        plain_tensors(fold_adapter(load_adapter(opened(folders[0]), folder)))
        if (folder / "adapter_config.json").is_file()
        else plain_tensors(opened(folder))
        for folder in folders
    ]


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "stockpot.runs.loop.build_start_model", lambda *given: StartModel(start_model(*given).double(), [])
    )
    monkeypatch.setattr("stockpot.runs.session.load_model", lambda folder, *_: opened(folder))


@pytest.mark.usefixtures("in_float64")
def test_a_stream_of_adapters_is_averaged_with_the_model_before_each_task(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    averages: list[tuple[Weights, Weights]] = []
    kept: set[str] = set()
    average = SFA.average

    def watched(sfa: SFA) -> None:
        before = effective(sfa._anchored.model)
        average(sfa)
        averages.append((before, effective(sfa._anchored.model)))
        assert (sfa.anchor_bytes, dict(sfa.anchor)) == (0, {})
        for file in run.rglob("*.safetensors"):
            if file.parent.name != "model":
                with safe_open(str(file), "pt") as opened:
                    kept.update(f"{file.name}: {name}" for name in opened.keys())  # noqa: SIM118 - no iterator

    monkeypatch.setattr(SFA, "average", watched)
    ends = []
    for output in ("merged", "adapter"):
        averages.clear()
        run = tmp_path / output
        chosen = recipe({"output": output}, method={"name": "sfa", "beta": 0.25, "p": 0.5})
        create_run(chosen, chosen.method, 0, run)
        results = continue_run(run)
        models = left(run)
        assert results.costs.extra_memory_bytes == 0
        assert len(averages) == 2 * 2
        for number, (before, after) in enumerate(averages):
            anchor = models[1 + number // 2]
            assert_close(after, {name: 0.75 * tensor + 0.25 * anchor[name] for name, tensor in before.items()})
            assert max(float((tensor - after[name]).abs().max()) for name, tensor in before.items()) > 1e-3
        for place in (2, 3):
            assert_close(models[place], averages[2 * place - 3][1])  # what a task leaves is its last average
        ends.append(models[-1])
    assert_close(*ends, 1e-8)  # type: ignore[misc]
    weights = {name for name in kept if name.startswith("model.safetensors")}
    assert weights  # of checkpoints
    assert all(".task." in name for name in weights)  # which hold the adapter alone
    assert not any(name.startswith("method.safetensors") for name in kept)
    adapter = load_file(tmp_path / "adapter" / "tasks" / "03-code" / "model" / "adapter_model.safetensors")
    assert {tensor.shape[0] for name, tensor in adapter.items() if "lora_A" in name} == {9}  # one of rank Σr


@pytest.mark.usefixtures("in_float64")
def test_beta_auto_keeps_a_number_for_each_row_of_each_weight_that_adapters_change(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[tuple[Weights, Weights]] = []
    average = SFA.average

    def watched(sfa: SFA) -> None:
        before = effective(sfa._anchored.model)
        average(sfa)
        shares.append((before, effective(sfa._anchored.model)))

    monkeypatch.setattr(SFA, "average", watched)
    learning = recipe({"target_modules": ["q_proj", "down_proj"]}, method={"name": "sfa", "beta": "auto", "p": 1.0})
    create_run(learning, learning.method, 0, tmp_path / "run")
    results = continue_run(tmp_path / "run")
    assert [task is None for task in results.betas] == [True, False, False]
    starts = left(tmp_path / "run")[1:]
    for start, (before, after) in zip(starts, shares, strict=False):
        for name in (name for name in before if "q_proj" in name or "down_proj" in name):
            way, remains = before[name] - start[name], after[name] - start[name]
            kept = (remains * way).sum(1) / way.square().sum(1)  # one share for each row of ΔW
            torch.testing.assert_close(remains, kept[:, None] * way, rtol=1e-9, atol=1e-12)
            assert float(kept.max() - kept.min()) > 1e-3
            assert 0 < float(kept.min()) <= float(kept.max()) < 1
    state = load_file(tmp_path / "run" / "state" / "03-code" / "method.safetensors")
    assert [tuple(tensor.shape) for tensor in state.values()] == [(16,), (16,)]
    sizes = [tensor.weights for tensor in results.betas[2].tensors]  # type: ignore[union-attr]
    assert sizes == [16 * 16, 16 * 16]


def test_a_quantised_model_is_refused_by_name(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {key: value for key, value in CONFIG.items() if key != "model_type"}
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=300)).save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    said = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": said}))
    with pytest.raises(StockpotError, match=r"model is quantised \(bitsandbytes\), and a run needs plain weights"):
        start_model(ModelSpec(name=str(tmp_path / "model")), 0, 0, "language")


@pytest.mark.parametrize(
    ("lora", "changes", "words"),
    [
        ({"use_dora": True}, {}, "use_dora: with DoRA's magnitudes ΔW is not a product B·A"),
        ({"init_lora_weights": "pissa"}, {}, "init_lora_weights: every adapter starts at ΔW = 0"),
        ({"target_modules": "q_proj"}, {}, "target_modules: give a list of names, [q_proj], or all-linear"),
        ({"target_modules": []}, {}, "target_modules: give a list of names"),
        ({}, {"dtype": "bfloat16"}, "most of ΔW would round away in bfloat16 weights; set lora.output: adapter"),
        ({}, {"boundary": "keep-optimizer"}, "each task trains a new adapter, so there is no state to keep"),
        ({}, {"scenario": "class-incremental", "head": "seen"}, "with model.lora, set head: all"),
        ({"target_modules": ["q_proj", "k_prj"]}, {}, "target_modules: the model has no module 'k_prj'. Did you mean"),
        ({"modules_to_save": ["lm_hed"]}, {}, "modules_to_save: the model has no module 'lm_hed'. Did you mean"),
        ({"modules_to_save": ["lm_head"]}, {}, "'lm_head' shares its weight with another layer"),
        ({}, {"method": {"name": "si"}}, "method 'si': it needs gradients of whole weights"),
        (None, {"dtype": "bfloat16"}, "method 'sfa': bfloat16 weights lose small pulls to rounding"),
    ],
)
def test_what_a_run_could_not_do_is_told_before_there_is_a_folder(
    lora: dict[str, Any] | None, changes: dict[str, Any], words: str, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    with pytest.raises(StockpotError) as caught:
        create_run(chosen := recipe(lora, **changes), chosen.method, 0, tmp_path / "run")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
