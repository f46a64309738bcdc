"""A merge of adapters written as one adapter, against PEFT itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapter_cases import (
    A_KEY,
    Mixed,
    Q,
    State,
    adapter,
    close,
    deltas,
    in_peft,
    llama,
    mixed,
    refusal,
    source_of,
    spec_of,
    with_tensors,
    written,
)
from peft import PeftModel
from safetensors.torch import load_file

from stockpot.merging.api import Options, merge
from stockpot.merging.spec.merge_spec import MergeSpec
from stockpot.merging.write.adapter_output import write_adapter


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
    message = run("--as-adapter", "--rank", "1")
    assert "rank 1, " in message
    assert "relative error of its ΔW" in message
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "stockpot_merge.yaml",
    }  # fmt: skip
    assert "already exists" in run()


def read_delta(base: Path, folder: Path) -> State:
    source = source_of(base, folder)
    result = {}
    for name, factors in source.factors.items():
        flat = torch.empty(source.tensors[name].numel, dtype=torch.float64)
        source.read_delta(name, 0, flat)
        result[name] = flat.view(factors.shape)
    return result


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
    result = read_delta(base, tmp_path / "out")
    assert set(result) == {*one, *two}
    for name, delta in result.items():
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
    result = read_delta(base, tmp_path / "out")
    assert set(result) == set(first)
    lost = sum(float((result[name] - (first[name] + second[name]) / 2).square().sum()) for name in result)
    total = sum(float(((first[name] + second[name]) / 2).square().sum()) for name in result)
    assert error == pytest.approx((lost / total) ** 0.5, rel=1e-6, abs=1e-14)
    assert (error > 0.01) == (rank == 2)
    torch.manual_seed(5)
    model = PeftModel.from_pretrained(Mixed().double(), tmp_path / "out")
    for name, delta in result.items():
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
