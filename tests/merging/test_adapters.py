"""PEFT adapters as inputs of a merge and as its output, against PEFT itself."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from stockpot import StockpotError
from stockpot.merging.api import Options, merge
from stockpot.merging.execute import merge_identity
from stockpot.merging.plan.planned_merge import planned_merge
from stockpot.merging.read.adapter_source import AdapterSource
from stockpot.merging.read.inputs import open_model
from stockpot.merging.spec.merge_spec import MergeModel, MergeSpec
from stockpot.merging.threads import PIECE
from stockpot.merging.write.adapter_output import write_adapter

State = dict[str, Tensor]
Q, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in float64."""
    folder = tmp_path_factory.mktemp("models") / "base"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False, max_position_embeddings=32,
    )  # fmt: skip
    LlamaForCausalLM(config).double().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path) -> list[Path]:
    """Three adapters over it; the second has other modules and another rank than the first."""
    return [
        adapter(base, "one", 1, r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"]),
        adapter(base, "two", 2, r=2, lora_alpha=8, target_modules=["q_proj", "down_proj"]),
        adapter(base, "three", 3, r=4, lora_alpha=4, target_modules=["q_proj", "v_proj"]),
    ]


def llama(base: Path) -> nn.Module:
    model: nn.Module = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    return model


def randomised(model: nn.Module, seed: int) -> None:
    """Gives every trained tensor numbers of its own: PEFT begins with B = 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def adapter(base: Path, name: str, seed: int = 1, **settings: Any) -> Path:
    """An adapter of PEFT's over a Llama, with random factors."""
    model = get_peft_model(llama(base), LoraConfig(task_type="CAUSAL_LM", **settings))
    randomised(model, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(base.parent / name)
    return base.parent / name


def peft_merged(base: Path, *folders: Path) -> State:
    """The base with an adapter merged in by PEFT."""
    return PeftModel.from_pretrained(llama(base), folders[0]).merge_and_unload().state_dict()


def deltas(base: Path, folder: Path) -> State:
    """ΔW of every adapted tensor, by PEFT."""
    model = PeftModel.from_pretrained(llama(base), folder)
    return {
        f"{name.removeprefix('base_model.model.')}.weight": module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def in_peft(base: Path, folder: Path) -> nn.Module:
    """The adapter in PEFT, which found all of its tensors and missed none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning)
        model = PeftModel.from_pretrained(llama(base), folder)
    assert set(get_peft_model_state_dict(model)) == set(load_file(folder / "adapter_model.safetensors"))
    return model


def weights(base: Path) -> State:
    return load_file(base / "model.safetensors")


def within_one_ulp(base: Path, folder: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """One unit in the last place of the largest of the numbers that are summed."""
    assert set(found) == set(expected)
    source = source_of(base, folder)
    for name, start in weights(base).items():
        largest = torch.maximum(start.abs(), expected[name].abs())
        if name in source.factors:
            left, right = source.matrices(name, torch.float64)
            largest = torch.maximum(largest, (left.abs() @ right.abs()).mul_(source.factors[name].scale))
        ulp = np.spacing(largest.numpy())
        assert (np.abs((found[name] - expected[name]).numpy()) <= ulp).all(), name


def close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-13, atol=1e-15)


def changed(folder: Path, to: Path, **settings: Any) -> Path:
    """A copy of an adapter with other settings."""
    to.mkdir()
    config = json.loads((folder / "adapter_config.json").read_text()) | settings
    (to / "adapter_config.json").write_text(json.dumps(config))
    save_file(load_file(folder / "adapter_model.safetensors"), to / "adapter_model.safetensors")
    return to


def with_tensors(folder: Path, to: Path, change: Callable[[State], State]) -> Path:
    """A copy of an adapter with other tensors."""
    changed(folder, to)
    tensors = change(load_file(folder / "adapter_model.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, to / "adapter_model.safetensors")
    return to


def spec_of(rule: str, *models: Path | str, base: Path | None = None, **parameters: Any) -> MergeSpec:
    each = parameters.pop("weights", [1.0] * len(models))
    specs = tuple(MergeModel(str(model), {"weight": weight}) for model, weight in zip(models, each, strict=True))
    return MergeSpec(rule, specs, str(base) if base else None, parameters)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(StockpotError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- merging -------------------------------------------------------------------------------------------------------


def test_one_adapter_of_weight_1_is_what_peft_merges_to_one_ulp(base: Path, adapters: list[Path]) -> None:
    for folder in adapters:
        expected = peft_merged(base, folder)
        assert not torch.equal(expected[Q], weights(base)[Q])
        for rule in ("linear", "task_arithmetic"):
            within_one_ulp(base, folder, merge(rule, [folder], base), expected)


def test_the_base_is_the_one_that_the_adapters_name(base: Path, adapters: list[Path]) -> None:
    with planned_merge(spec_of("task_arithmetic", *adapters[:2]), Options()) as work:
        assert work.plan.spec.base == str(base)
        assert work.plan.vectors
        assert work.folders == dict.fromkeys(map(str, (*adapters[:2], base)), base)
        assert set(work.paths) == {base, *adapters[:2]}


def test_linear_averages_what_adapters_add_and_not_their_factors(base: Path, adapters: list[Path]) -> None:
    one, three = deltas(base, adapters[0]), deltas(base, adapters[2])
    expected = weights(base)
    for name in one:
        expected[name] = expected[name] + (one[name] + three[name]) / 2
    merged = merge("linear", [adapters[0], adapters[2]])
    close(merged, expected)
    a, b = (
        [load_file(folder / "adapter_model.safetensors")[f"base_model.model.{Q[:-7]}.lora_{letter}.weight"]
         for folder in (adapters[0], adapters[2])]
        for letter in "AB"
    )  # fmt: skip
    factors = weights(base)[Q] + (b[0] + b[1]) / 2 @ (a[0] + a[1]) / 2
    assert (merged[Q] - factors).abs().max() > 1e-3


def test_weights_of_linear_are_of_the_deltas_and_an_adapter_counts_where_it_adds_nothing(
    base: Path, adapters: list[Path]
) -> None:
    one, two = deltas(base, adapters[0]), deltas(base, adapters[1])
    merged = merge("linear", adapters[:2], weight=[3.0, 1.0])
    summed = merge("linear", adapters[:2], weight=[3.0, 1.0], normalize=False)
    for name, start in weights(base).items():
        both = 3 * one.get(name, torch.zeros_like(start)) + two.get(name, torch.zeros_like(start))
        torch.testing.assert_close(merged[name], start + both / 4, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(summed[name], start + both, rtol=1e-13, atol=1e-15)


def test_task_arithmetic_scales_and_negates(base: Path, adapters: list[Path]) -> None:
    one, two = deltas(base, adapters[0]), deltas(base, adapters[1])
    merged = merge("task_arithmetic", adapters[:2], base, weight=[1.0, -1.0], lambda_=0.3)
    for name, start in weights(base).items():
        both = one.get(name, torch.zeros_like(start)) - two.get(name, torch.zeros_like(start))
        torch.testing.assert_close(merged[name], start + 0.3 * both, rtol=1e-13, atol=1e-15)
    back = merge("task_arithmetic", [adapters[0], adapters[0]], base, weight=[1.0, -1.0])
    assert all(torch.equal(back[name], start) for name, start in weights(base).items())


@pytest.mark.parametrize("rule", ["ties", "dare_ties", "magmax", "slerp", "model_stock"])
def test_other_rules_merge_adapters_as_the_models_that_they_make(base: Path, adapters: list[Path], rule: str) -> None:
    merged = merge(rule, [adapters[0], adapters[2]], base, seed=1)
    close(merged, merge(rule, [peft_merged(base, adapters[0]), peft_merged(base, adapters[2])], base, seed=1))


def test_a_base_in_memory_and_a_model_beside_an_adapter(base: Path, adapters: list[Path]) -> None:
    full = peft_merged(base, adapters[0])
    merged = merge("linear", [adapters[1], full])
    expected = {name: (start + full[name]) / 2 for name, start in peft_merged(base, adapters[1]).items()}
    close(merged, expected)
    doubled = {name: 2 * tensor for name, tensor in weights(base).items()}
    moved = merge("linear", [adapters[0]], doubled)
    torch.testing.assert_close(moved[Q], doubled[Q] + deltas(base, adapters[0])[Q], rtol=1e-13, atol=1e-15)


def test_base_plus_adapter_is_the_model_that_it_makes(base: Path, adapters: list[Path]) -> None:
    spelled = f"{base}+{adapters[0]}"
    within_one_ulp(base, adapters[0], merge("linear", [spelled]), peft_merged(base, adapters[0]))
    within_one_ulp(base, adapters[0], merge("task_arithmetic", [spelled]), peft_merged(base, adapters[0]))
    doubled = merge("linear", [spelled], weight=2.0, normalize=False)  # of the whole weights, as of any other model
    close(doubled, {name: 2 * tensor for name, tensor in peft_merged(base, adapters[0]).items()})
    # Over another base the task vector is that of the whole model.
    other = {name: tensor + 1 for name, tensor in weights(base).items()}
    merged = merge("task_arithmetic", [spelled], other, lambda_=0.5)
    torch.testing.assert_close(merged[Q], (other[Q] + peft_merged(base, adapters[0])[Q]) / 2, rtol=1e-12, atol=1e-14)
    # As a base it is one more model: an adapter without a base of its own goes on top.
    stacked = merge("linear", [adapters[1]], spelled)
    torch.testing.assert_close(
        stacked[Q], peft_merged(base, adapters[0])[Q] + deltas(base, adapters[1])[Q], rtol=1e-13, atol=1e-15
    )


def test_in_bfloat16_the_sum_is_rounded_once(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    small = {name: tensor.bfloat16() for name, tensor in weights(base).items()}
    (tmp_path / "base").mkdir()
    save_file(small, tmp_path / "base" / "model.safetensors")
    merged = merge("linear", [adapters[0]], tmp_path / "base")
    delta = deltas(base, adapters[0])
    for name, start in small.items():
        assert merged[name].dtype is torch.bfloat16
        exact = start.double() + delta.get(name, torch.zeros(()))
        # Half a unit in the last of 8 bits, and a little for the sum in float32.
        assert bool(((merged[name].double() - exact).abs() <= exact.abs() * 2**-8 * 1.001 + 1e-7).all()), name
    copy = merge("task_arithmetic", [adapters[0]], tmp_path / "base", lambda_=0.0)
    assert all(torch.equal(copy[name], start) for name, start in small.items())


def test_slices_take_layers_of_adapted_models(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    from stockpot.merging.execute import merge_state
    from stockpot.merging.spec.merge_spec import Slice, SliceSource

    slices = tuple(Slice((SliceSource(str(adapters[1]), layer, layer + 1),)) for layer in (1, 0, 1))
    merged = merge_state(MergeSpec("passthrough", slices=slices), Options())
    expected = peft_merged(base, adapters[1])
    for place, layer in enumerate((1, 0, 1)):
        name = f"model.layers.{layer}.mlp.down_proj.weight"
        torch.testing.assert_close(merged[f"model.layers.{place}.mlp.down_proj.weight"], expected[name])


def test_a_layer_over_another_layer_of_the_base_is_the_whole_layer(base: Path, adapters: list[Path]) -> None:
    """There the adapter alone is not the task vector."""
    from stockpot.merging.execute import merge_state
    from stockpot.merging.spec.merge_spec import Slice, SliceSource

    moved = Slice((SliceSource(str(base), 0, 1), SliceSource(str(adapters[1]), 1, 2)))
    merged = merge_state(MergeSpec("task_arithmetic", base=str(base), slices=(moved,)), Options())
    expected = peft_merged(base, adapters[1])[DOWN]
    torch.testing.assert_close(merged["model.layers.0.mlp.down_proj.weight"], expected, rtol=1e-12, atol=1e-14)


def test_a_merge_of_adapters_loads_as_a_model(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    merge("linear", [adapters[0]], output=tmp_path / "out", options=Options(sync=False))
    tokens = torch.arange(12).view(2, 6)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float64)
    theirs = PeftModel.from_pretrained(llama(base), adapters[0])
    torch.testing.assert_close(model(tokens).logits, theirs(tokens).logits, rtol=1e-12, atol=1e-12)


# --- reading ranges --------------------------------------------------------------------------------------------------


def test_ranges_read_piece_by_piece_are_the_whole_bit_for_bit(tmp_path: Path) -> None:
    """Blocks of several rows, one row that is cut, and of a tensor with rows of no round length."""
    torch.manual_seed(0)
    shapes = {"wide": (3, PIECE + 1000), "tall": (777, 1000), "odd": (11, 7)}
    state = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    factors = {}
    for name, (rows, columns) in shapes.items():
        factors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(3, columns).bfloat16()
        factors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(rows, 3).bfloat16()
    source = written(tmp_path, state, factors, r=3, lora_alpha=5)
    for dtype in (torch.float32, torch.float64):
        for name, weight in state.items():
            module = f"base_model.model.{name[:-7]}"
            whole, delta = torch.empty(weight.numel(), dtype=dtype), torch.empty(weight.numel(), dtype=dtype)
            source.read(name, 0, whole)
            assert source.read_delta(name, 0, delta)
            assert torch.equal(whole, weight.view(-1).to(dtype) + delta)
            a, b = (factors[f"{module}.lora_{letter}.weight"].double() for letter in "AB")
            torch.testing.assert_close(delta.double(), (b @ a * (5 / 3)).view(-1), rtol=1e-4, atol=1e-5)
            for step in (weight.numel() // 3 + 1, 100_003, *([7] if weight.numel() < 100 else [])):
                for start in range(0, weight.numel(), step):
                    part = torch.empty(min(step, weight.numel() - start), dtype=dtype)
                    source.read(name, start, part)
                    assert torch.equal(part, whole[start : start + step])
                    source.read_delta(name, start, part)
                    assert torch.equal(part, delta[start : start + step])


def test_threads_change_nothing(adapters: list[Path]) -> None:
    one = merge("ties", adapters, options=Options(threads=1), density=0.3)
    two = merge("ties", adapters, options=Options(threads=3), density=0.3)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_tensor_without_factors_has_the_delta_zero(base: Path, adapters: list[Path]) -> None:
    with planned_merge(spec_of("linear", adapters[0]), Options()) as work:
        source = work.plan.sources[0]
        delta = torch.full((24 * 16,), 5.0)
        assert source.read_delta(DOWN, 0, delta)
        assert not delta.any()
        half = torch.empty(10, dtype=torch.bfloat16)  # as where a tensor is copied
        source.read(Q, 3, half)
        exact = peft_merged(base, adapters[0])[Q].view(-1)[3:13].float()
        assert torch.equal(half, exact.bfloat16())


# --- every feature against PEFT --------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """One of every kind of layer, some with names that end like others."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 6)])
        self.more = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(6, 5)])})
        self.crossed = Conv1D(10, 6)  # transformers': it stores (in, out)
        self.square = Conv1D(6, 6)
        self.image = nn.Conv2d(3, 5, (3, 2))
        self.point = nn.Conv2d(3, 5, 1)
        self.series = nn.Conv1d(3, 4, 5)


def written(folder: Path, state: State, factors: State, **config: Any) -> AdapterSource:
    """A base and an adapter from tensors."""
    for name in ("base", "adapter"):
        (folder / name).mkdir(parents=True)
    save_file(state, folder / "base" / "model.safetensors")
    save_file(factors, folder / "adapter" / "adapter_model.safetensors")
    text = json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(folder / "base")} | config)
    (folder / "adapter" / "adapter_config.json").write_text(text)
    return source_of(folder / "base", folder / "adapter")


def source_of(base: Path, folder: Path) -> AdapterSource:
    own = open_model(folder, str(folder), stem="adapter_model")
    return AdapterSource(open_model(base, str(base)), own, folder, str(folder))


def mixed(folder: Path, seed: int = 0, **settings: Any) -> tuple[Path, Path, dict[str, Tensor]]:
    """A base with an adapter of PEFT's, and PEFT's ΔW by the base's names."""
    torch.manual_seed(5)
    module = Mixed().double()
    (folder / "base").mkdir(parents=True, exist_ok=True)
    save_file(module.state_dict(), folder / "base" / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(module, LoraConfig(**settings))
        randomised(model, seed)
        model.save_pretrained(folder / f"adapter{seed}")
    found = {
        f"{name.removeprefix('base_model.model.')}.weight": layer.get_delta_weight("default").detach()
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }
    return folder / "base", folder / f"adapter{seed}", found


FEATURES: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["blocks.0", "blocks.1"], "r": 3, "lora_alpha": 5},
    "rank-stabilised": {"target_modules": ["blocks.0"], "r": 3, "lora_alpha": 5, "use_rslora": True},
    "rank_pattern by the end of the name": {
        "target_modules": r".*blocks\.\d", "r": 2, "lora_alpha": 6, "rank_pattern": {"0": 3, "blocks.0": 4, "s.1": 1},
    },
    "rank_pattern by the whole name": {
        "target_modules": r".*blocks\.\d", "r": 2, "lora_alpha": 6, "rank_pattern": {"^blocks.0": 3},
    },
    "alpha_pattern": {
        "target_modules": r".*blocks\.\d", "r": 2, "lora_alpha": 6, "alpha_pattern": {r"more\.blocks\.\d": 7, "s.1": 1},
    },
    "both patterns, rank-stabilised": {
        "target_modules": r".*blocks\.\d", "r": 2, "use_rslora": True, "rank_pattern": {"0": 3},
        "alpha_pattern": {"1": 5},
    },
    "embedding": {"target_modules": ["embed"], "r": 4, "lora_alpha": 6},
    "fan_in_fan_out": {"target_modules": ["crossed", "square"], "r": 2, "lora_alpha": 6, "fan_in_fan_out": True},
    "fan_in_fan_out that PEFT set itself": {"target_modules": ["crossed", "blocks.0"], "r": 2},
    "convolution in two dimensions": {"target_modules": ["image"], "r": 2, "lora_alpha": 6},
    "convolution of a point": {"target_modules": ["point"], "r": 2, "lora_alpha": 6},
    "convolution in one dimension": {"target_modules": ["series"], "r": 2, "lora_alpha": 6},
}  # fmt: skip


@pytest.mark.parametrize("feature", FEATURES)
def test_delta_is_that_of_peft(feature: str, tmp_path: Path) -> None:
    base, folder, expected = mixed(tmp_path, **FEATURES[feature])
    source = source_of(base, folder)
    assert set(source.factors) == set(expected) != set()
    for name, delta in expected.items():
        found = torch.empty(delta.numel(), dtype=torch.float64)
        assert source.read_delta(name, 0, found)
        assert delta.abs().max() > 0
        torch.testing.assert_close(found.view(delta.shape), delta, rtol=1e-13, atol=1e-15)


def test_the_command_writes_a_model_or_an_adapter(
    adapters: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from stockpot.cli import main

    def run(*more: str) -> str:
        with pytest.raises(SystemExit) as leaving:
            main(["merge", "linear", *map(str, adapters), "-o", str(tmp_path / "out"), *more])
        heard = capsys.readouterr()
        return heard.err if leaving.value.code else heard.out

    assert "Writes an adapter to" in run("--as-adapter", "--dry-run")
    assert "--rank is only for writing an adapter" in run("--rank", "2")
    assert not (tmp_path / "out").exists()
    said = run("--as-adapter", "--rank", "1")
    assert "rank 1, " in said
    assert "relative error of its ΔW" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "stockpot_merge.yaml",
    }  # fmt: skip
    assert "already exists" in run()


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|aa)+$", "x" * 1000])
def test_patterns_that_could_take_for_ever_are_not_read(pattern: str, adapters: list[Path], tmp_path: Path) -> None:
    hostile = changed(adapters[0], tmp_path / "hostile", rank_pattern={pattern: 4})
    assert "repeats a group or is too long" in refusal(lambda: merge("linear", [hostile]))


def test_modules_saved_whole_stand_in_for_the_bases(base: Path) -> None:
    folder = adapter(base, "saved", 4, r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    trained = load_file(folder / "adapter_model.safetensors")["base_model.model.lm_head.weight"]
    start = weights(base)["lm_head.weight"]
    assert torch.equal(merge("linear", [folder])["lm_head.weight"], start + (trained - start))
    assert torch.equal(merge("slerp", [folder, base], t=0.0)["lm_head.weight"], trained)
    half = merge("task_arithmetic", [folder], base, lambda_=0.5)["lm_head.weight"]
    torch.testing.assert_close(half, (start + trained) / 2, rtol=1e-13, atol=1e-15)


def test_embeddings_that_peft_saves_beside_their_factors_are_read(base: Path) -> None:
    folder = adapter(base, "embedded", 5, r=2, target_modules=["embed_tokens"])
    name = "model.embed_tokens.weight"
    assert f"base_model.model.{name[:-7]}.base_layer.weight" in load_file(folder / "adapter_model.safetensors")
    with planned_merge(spec_of("linear", folder), Options()) as work:
        source = work.plan.sources[0]
        assert isinstance(source, AdapterSource)
        assert set(source.replaced) == {name}
    within_one_ulp(base, folder, merge("linear", [folder]), peft_merged(base, folder))


def test_embeddings_trained_whole_over_a_base_without_a_head_are_refused(base: Path, tmp_path: Path) -> None:
    """PEFT leaves the head of a tied model as it was; a checkpoint that ties them cannot say so."""
    folder = adapter(base, "embeddings", 4, r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    within_one_ulp(base, folder, merge("linear", [folder]), peft_merged(base, folder))
    tied = {name: tensor for name, tensor in weights(base).items() if name != "lm_head.weight"}
    assert "(tied?)" in refusal(lambda: merge("linear", [folder], tied))
    (tmp_path / "tied").mkdir()
    save_file(tied, tmp_path / "tied" / "model.safetensors")
    factors = adapter(base, "factors_of_embeddings", 4, r=2, target_modules=["embed_tokens"])
    merged, expected = merge("linear", [factors], tmp_path / "tied"), peft_merged(base, factors)
    torch.testing.assert_close(merged["model.embed_tokens.weight"], expected["model.embed_tokens.weight"])


def test_an_adapter_in_a_pickle_is_read_only_when_asked(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    folder = changed(adapters[0], tmp_path / "pickled")
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    assert "--allow-bin" in refusal(lambda: merge("linear", [folder]))
    merged = merge("linear", [folder], options=Options(allow_bin=True))
    within_one_ulp(base, adapters[0], merged, peft_merged(base, adapters[0]))


def test_a_changed_adapter_is_another_merge(adapters: list[Path], tmp_path: Path) -> None:
    folder = changed(adapters[0], tmp_path / "copy")

    def identity() -> str:
        with planned_merge(spec_of("linear", folder), Options()) as work:
            files = {facts.file for facts in work.plan.sources[0].files}
            assert files == {folder / "adapter_model.safetensors", folder / "adapter_config.json"}
            return merge_identity(work, 1)

    first = identity()
    assert identity() == first
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 3}))
    assert identity() != first


# --- written back ----------------------------------------------------------------------------------------------------


def read_delta(base: Path, folder: Path) -> State:
    source = source_of(base, folder)
    found = {}
    for name, factors in source.factors.items():
        flat = torch.empty(source.tensors[name].numel, dtype=torch.float64)
        source.read_delta(name, 0, flat)
        found[name] = flat.view(factors.shape)
    return found


def test_a_merge_written_as_an_adapter_gives_the_same_logits_in_peft(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    spec = spec_of("linear", *adapters, weights=[2.0, 1.0, -0.5])
    assert write_adapter(spec, tmp_path / "out") == 0.0
    merged = merge("linear", adapters, weight=[2.0, 1.0, -0.5])
    model = llama(base)
    model.load_state_dict(merged)
    ours = in_peft(base, tmp_path / "out")
    tokens = torch.arange(12).view(2, 6)
    expected = model(tokens).logits
    torch.testing.assert_close(ours(tokens).logits, expected, rtol=1e-12, atol=1e-13)
    assert (llama(base)(tokens).logits - expected).abs().max() > 1e-3
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "q_proj", "v_proj"]
    assert config["base_model_name_or_path"] == str(base)
    ranks = {name: factors.rank for name, factors in source_of(base, tmp_path / "out").factors.items()}
    assert {rank for name, rank in ranks.items() if "q_proj" in name} == {4 + 2 + 4}
    assert {rank for name, rank in ranks.items() if "v_proj" in name} == {4 + 4}
    assert {rank for name, rank in ranks.items() if "down_proj" in name} == {2}
    close(merge("linear", [tmp_path / "out"]), merged)


def test_task_arithmetic_and_settings_by_tensor_are_written(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    from stockpot.merging.spec.merge_spec import Filtered

    spec = spec_of("task_arithmetic", *adapters[:2], base=base, **{"lambda": 0.3})
    by_name = (Filtered(-1.0, "v_proj"), Filtered((1.0, 2.0)))
    spec = replace(spec, models=(replace(spec.models[0], parameters={"weight": by_name}), spec.models[1]))
    write_adapter(spec, tmp_path / "out")
    one, two = deltas(base, adapters[0]), deltas(base, adapters[1])
    found = read_delta(base, tmp_path / "out")
    assert set(found) == {*one, *two}
    for name, delta in found.items():
        weight = -1.0 if "v_proj" in name else 1.0 + ("layers.1" in name)
        expected = 0.3 * (weight * one.get(name, torch.zeros(())) + two.get(name, torch.zeros(())))
        torch.testing.assert_close(delta, expected, rtol=1e-13, atol=1e-15)


def test_truncation_is_the_nearest_matrix_of_its_rank(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    spec = spec_of("linear", *adapters)
    write_adapter(spec, tmp_path / "whole")
    error = write_adapter(spec, tmp_path / "cut", rank=3)
    whole, cut = read_delta(base, tmp_path / "whole"), read_delta(base, tmp_path / "cut")
    lost = 0.0
    for name, delta in whole.items():
        turned, values, back = torch.linalg.svd(delta, full_matrices=False)
        nearest = turned[:, :3] * values[:3] @ back[:3]
        torch.testing.assert_close(cut[name], nearest, rtol=1e-9, atol=1e-12)
        lost += float((delta - nearest).square().sum())
    expected = (lost / sum(float(delta.square().sum()) for delta in whole.values())) ** 0.5
    assert error == pytest.approx(expected, rel=1e-9)
    assert 0.01 < error < 1
    ranks = {factors.rank for factors in source_of(base, tmp_path / "cut").factors.values()}
    assert ranks == {2, 3}  # a module of a smaller rank keeps it
    in_peft(base, tmp_path / "cut")
    assert write_adapter(spec, tmp_path / "more", rank=100) == 0.0


@pytest.mark.parametrize("rank", [None, 2])
def test_every_kind_of_layer_is_written_back(tmp_path: Path, rank: int | None) -> None:
    targets = ["embed", "blocks.0", "crossed", "image", "point", "series"]
    base, one, first = mixed(tmp_path, 1, target_modules=targets, r=2, lora_alpha=6)
    _, two, second = mixed(tmp_path, 2, target_modules=targets, r=1, lora_alpha=3)
    error = write_adapter(spec_of("linear", one, two, base=base), tmp_path / "out", rank)
    found = read_delta(base, tmp_path / "out")
    assert set(found) == set(first)
    lost = sum(float((found[name] - (first[name] + second[name]) / 2).square().sum()) for name in found)
    total = sum(float(((first[name] + second[name]) / 2).square().sum()) for name in found)
    assert error == pytest.approx((lost / total) ** 0.5, rel=1e-6, abs=1e-14)
    assert (error > 0.01) == (rank == 2)
    torch.manual_seed(5)
    model = PeftModel.from_pretrained(Mixed().double(), tmp_path / "out")
    for name, delta in found.items():
        layer = model.get_submodule(f"base_model.model.{name.removesuffix('.weight')}")
        torch.testing.assert_close(layer.get_delta_weight("default").detach(), delta, rtol=1e-13, atol=1e-15)


def test_modules_are_named_whole_where_their_last_parts_fit_others(base: Path, tmp_path: Path) -> None:
    folder = adapter(base, "layer0", 6, r=2, target_modules=["q_proj"], layers_to_transform=[0])
    write_adapter(spec_of("linear", folder), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == [Q.removesuffix(".weight")]


def test_float32_factors_are_written_as_float32_and_another_type_when_asked(tmp_path: Path) -> None:
    state = {"x.weight": torch.randn(4, 5)}
    factors = {
        "base_model.model.x.lora_A.weight": torch.randn(2, 5),
        "base_model.model.x.lora_B.weight": torch.ones(4, 2),
    }
    written(tmp_path, state, factors, r=2)
    spec = spec_of("linear", tmp_path / "adapter")
    write_adapter(spec, tmp_path / "out")
    write_adapter(replace(spec, dtype="BF16"), tmp_path / "small")
    dtypes = [
        {t.dtype for t in load_file(tmp_path / name / "adapter_model.safetensors").values()}
        for name in ("out", "small")
    ]
    assert dtypes == [{torch.float32}, {torch.bfloat16}]


def test_no_more_than_full_rank_is_written_when_truncated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    factors = {
        "base_model.model.x.lora_A.weight": torch.randn(6, 9),
        "base_model.model.x.lora_B.weight": torch.randn(3, 6),
    }
    written(tmp_path, {"x.weight": torch.randn(3, 9)}, factors, r=6)
    assert write_adapter(spec_of("linear", tmp_path / "adapter"), tmp_path / "out", rank=5) == pytest.approx(
        0, abs=1e-9
    )
    source = source_of(tmp_path / "base", tmp_path / "out")
    assert source.factors["x.weight"].rank == 3
    before, after = read_delta(tmp_path / "base", tmp_path / "adapter"), read_delta(tmp_path / "base", tmp_path / "out")
    torch.testing.assert_close(after["x.weight"], before["x.weight"], rtol=1e-5, atol=1e-5)


def test_options_write_an_adapter_too(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    merge("linear", adapters[:2], output=tmp_path / "out", options=Options(as_adapter=True, adapter_rank=1))
    assert {factors.rank for factors in source_of(base, tmp_path / "out").factors.values()} == {1}


# --- refusals --------------------------------------------------------------------------------------------------------


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
    settings, said = REFUSED[case]
    folder = changed(adapters[0], tmp_path / "adapter", **settings)
    message = refusal(lambda: merge("linear", [folder]))
    assert said in message
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


A_KEY = f"base_model.model.{Q[:-7]}.lora_A.weight"
B_KEY = f"base_model.model.{Q[:-7]}.lora_B.weight"
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
    change, said = DAMAGED[case]
    folder = with_tensors(adapters[0], tmp_path / "adapter", change)
    message = refusal(lambda: merge("linear", [folder]))
    assert said in message
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


def test_what_cannot_be_written_as_an_adapter_is_refused(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    full = adapter(base, "full", 7, r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])

    def refused(spec: MergeSpec, rank: int | None = None) -> str:
        message = refusal(lambda: write_adapter(spec, out, rank))
        assert not out.exists()
        assert not list(tmp_path.glob(".tmp-*"))
        return message

    assert "only linear and task_arithmetic" in refused(spec_of("ties", *adapters))
    assert "'lm_head.weight' trained whole" in refused(spec_of("linear", adapters[0], full))
    assert str(base) in refused(spec_of("linear", adapters[0], base, base=base))
    assert "without its base" in refused(spec_of("linear", f"{base}+{adapters[0]}"))
    assert "must be 1 or more" in refused(spec_of("linear", adapters[0]), 0)
    nan = with_tensors(adapters[0], tmp_path / "nan", lambda state: state | {A_KEY: torch.full((4, 16), torch.nan)})
    assert Q.removesuffix(".weight") in refused(spec_of("linear", nan))
    assert Q in refused(spec_of("linear", nan), 1)
    assert "would overwrite the input" in refusal(lambda: write_adapter(spec_of("linear", adapters[0]), adapters[0]))
    (out / "mine").mkdir(parents=True)
    assert "already exists" in refusal(lambda: write_adapter(spec_of("linear", adapters[0]), out))


def test_an_empty_folder_is_filled_and_the_base_among_the_models_adds_nothing(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    embedded = adapter(base, "embedded_too", 8, r=2, target_modules=["embed_tokens"])
    write_adapter(spec_of("task_arithmetic", base, adapters[0], embedded, base=base), tmp_path / "out")
    expected = deltas(base, adapters[0]) | deltas(base, embedded)
    close(read_delta(base, tmp_path / "out"), expected)
