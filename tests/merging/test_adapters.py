"""PEFT adapters as inputs of a merge, against PEFT itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapter_cases import DOWN, Q, close, deltas, llama, peft_merged, spec_of, weights, within_one_ulp, written
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from stockpot.merging.api import Options, merge
from stockpot.merging.plan.planned_merge import planned_merge
from stockpot.merging.spec.merge_spec import MergeSpec
from stockpot.merging.threads import PIECE


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
    """There ΔW alone is not the task vector."""
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
    reference = PeftModel.from_pretrained(llama(base), adapters[0])
    torch.testing.assert_close(model(tokens).logits, reference(tokens).logits, rtol=1e-12, atol=1e-12)


def test_ranges_read_piece_by_piece_are_the_whole_bit_for_bit(tmp_path: Path) -> None:
    """Blocks of several rows, a row that is split, and rows whose length is not a power of two."""
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
