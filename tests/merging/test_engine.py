"""Pieces, threads, files and memory change nothing; types, integers and missing tensors are treated as requested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_same, loaded, saved, state, tuned
from torch import Tensor

import stockpot
from stockpot import StockpotError
from stockpot.merging.api import Options
from stockpot.merging.compute import cuts, engine
from stockpot.merging.plan import merge_plan as plan
from stockpot.merging.rules import RULES

EVERY: dict[str, dict[str, Any]] = {
    "linear": {"weight": [1.0, 2.0]},
    "wise_ft": {"alpha": 0.3},
    "slerp": {"t": 0.3},
    "nuslerp": {"weight": [1.0, 2.0]},
    "task_arithmetic": {"lambda_": 0.7},
    "ties": {"density": 0.3},
    "dare_linear": {"density": 0.5},
    "dare_ties": {"density": 0.5, "weight": [1.0, 0.5]},
    "breadcrumbs": {"density": 0.5, "gamma": 0.1},
    "breadcrumbs_ties": {"density": 0.5, "gamma": 0.1},
    "della": {"density": 0.5},
    "della_linear": {"density": 0.5},
    "magmax": {},
    "model_stock": {"filter_wise": True},
    "passthrough": {"scale": 0.5},
}


def arguments(rule: str, models: list[Any], base: Any) -> tuple[Any, ...]:
    most = RULES[rule].most
    used = models[: most or len(models)]
    return rule, used, base if RULES[rule].base == "required" or rule == "nuslerp" else None


def memory(rule: str, threads: int = 1, trim: str = "model", **parameters: Any) -> dict[str, Tensor]:
    result = stockpot.merge(
        *arguments(rule, [tuned(1), tuned(2)], state(0)), trim=trim, options=Options(threads=threads), **parameters
    )
    assert isinstance(result, dict)
    return result


def test_every_rule_is_tried_here() -> None:
    assert set(EVERY) | {"fisher"} == set(RULES)


@pytest.mark.parametrize(
    ("rule", "trim"),
    [
        *((rule, "model") for rule in EVERY),
        *(
            # Only rules with cuts look at `trim`: for all others this is the same merge again.
            pytest.param(rule, "tensor", marks=() if RULES[rule].cuts else pytest.mark.thorough)
            for rule in EVERY
        ),
    ],
)
def test_pieces_and_threads_change_nothing(rule: str, trim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory(rule, trim=trim, **EVERY[rule])
    for module in (plan, engine, cuts):
        monkeypatch.setattr(module, "PIECE", 16)
    pieces = memory(rule, 1, trim, **EVERY[rule])
    assert_same(memory(rule, 3, trim, **EVERY[rule]), pieces)
    for name, tensor in whole.items():
        if RULES[rule].gram is None:
            assert torch.equal(pieces[name], tensor), name
        else:  # inner products are added piece by piece
            torch.testing.assert_close(pieces[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", EVERY)
def test_folders_and_state_dicts_give_the_same(rule: str, tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a", tuned(1), shards=2), saved(tmp_path / "b", tuned(2))
    base = saved(tmp_path / "base", state(0))
    given = arguments(rule, [a, b], base)
    stockpot.merge(*given, tmp_path / "one", **EVERY[rule])
    assert_same(loaded(tmp_path / "one"), memory(rule, **EVERY[rule]))
    options = Options(max_shard_size="700B", threads=2)
    stockpot.merge(*given, tmp_path / "many", options=options, **EVERY[rule])
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 4
    assert_same(loaded(tmp_path / "many"), loaded(tmp_path / "one"))


def test_nothing_that_is_given_is_changed() -> None:
    for rule, parameters in EVERY.items():
        models, base = [tuned(1), tuned(2)], state(0)
        stockpot.merge(*arguments(rule, models, base), **parameters)
        for result, expected in zip((*models, base), (tuned(1), tuned(2), state(0)), strict=True):
            assert_same(result, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_arithmetic_is_in_fp32_or_wider_and_rounded_once(dtype: torch.dtype) -> None:
    a, b = ({name: t.to(dtype) for name, t in tuned(seed).items()} for seed in (1, 2))
    result = stockpot.merge("linear", [a, b], weight=[0.3, 0.7])
    assert isinstance(result, dict)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for name, tensor in result.items():
        exact = (a[name].to(wide) * 0.3).add(b[name].to(wide), alpha=0.7).div(0.3 + 0.7)
        assert tensor.dtype == dtype
        torch.testing.assert_close(tensor, exact.to(dtype), rtol=0, atol=0)


def test_the_output_has_the_first_models_types_or_the_one_that_was_asked_for() -> None:
    mixed = tuned(1, torch.bfloat16) | {"model.scale": torch.tensor(1.5)}
    result = stockpot.merge("linear", [mixed, tuned(2, torch.float16)])
    assert isinstance(result, dict)
    assert {tensor.dtype for tensor in result.values()} == {torch.bfloat16, torch.float32}
    assert result["model.scale"].dtype == torch.float32
    requested = stockpot.merge("linear", [mixed, tuned(2)], dtype="float16")
    assert isinstance(requested, dict)
    assert {tensor.dtype for tensor in requested.values()} == {torch.float16}
    with pytest.raises(StockpotError, match="Did you mean 'bfloat16'"):
        stockpot.merge("linear", [mixed], dtype="bfloat61")


def test_eight_bit_floats_are_weights_like_others() -> None:
    kind = torch.float8_e4m3fn
    a, b = {"w": torch.tensor([1.0, 2.0, -3.5]).to(kind)}, {"w": torch.tensor([2.0, 2.0, -0.5]).to(kind)}
    result = stockpot.merge("linear", [a, b])
    assert isinstance(result, dict)
    assert result["w"].dtype == kind
    assert result["w"].float().tolist() == [1.5, 2.0, -2.0]


def test_integers_come_from_the_base_or_are_the_same_in_all() -> None:
    def with_ids(tensors: dict[str, Tensor], ids: list[int]) -> dict[str, Tensor]:
        return tensors | {"ids": torch.tensor(ids)}

    result = stockpot.merge(
        "linear", [with_ids(tuned(1), [1, 2]), with_ids(tuned(2), [3, 4])], with_ids(state(0), [5, 6])
    )
    assert isinstance(result, dict)
    assert result["ids"].tolist() == [5, 6]
    same = stockpot.merge("linear", [with_ids(tuned(1), [1, 2]), with_ids(tuned(2), [1, 2])])
    assert isinstance(same, dict)
    assert same["ids"].dtype == torch.int64
    assert same["ids"].tolist() == [1, 2]
    with pytest.raises(StockpotError, match=r"'ids' holds I64 integers.*models\[0\] and models\[1\]"):
        stockpot.merge("linear", [with_ids(tuned(1), [1, 2]), with_ids(tuned(2), [1, 3])])


def test_missing_and_misshapen_tensors_do_what_was_asked() -> None:
    base, a, b = state(0), tuned(1), tuned(2)
    del b["lm_head.weight"]
    b["model.embed_tokens.weight"] = torch.zeros(14, 8)
    with pytest.raises(StockpotError, match=r"vocabularies differ, 14 and 13 entries"):
        stockpot.merge("task_arithmetic", [a, b], base)
    shown = stockpot.merge("task_arithmetic", [a, b], base, on_missing="base")
    assert isinstance(shown, dict)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        torch.testing.assert_close(shown[name], a[name])
    average = stockpot.merge("linear", [a, b], base, on_missing="base")
    assert isinstance(average, dict)
    torch.testing.assert_close(average["lm_head.weight"], (a["lm_head.weight"] + base["lm_head.weight"]) / 2)
    skipped = stockpot.merge("linear", [a, b], on_missing="skip")
    assert isinstance(skipped, dict)
    assert torch.equal(skipped["lm_head.weight"], a["lm_head.weight"])
    torch.testing.assert_close(skipped["model.scale"], (a["model.scale"] + b["model.scale"]) / 2)
    extra = stockpot.merge("linear", [b, a], on_missing="skip")
    assert isinstance(extra, dict)
    assert "lm_head.weight" not in extra
    with pytest.raises(StockpotError, match=r"lm_head.weight' \(tied to the embeddings"):
        stockpot.merge("linear", [a, {name: tensor for name, tensor in tuned(2).items() if "lm_head" not in name}])
    with pytest.raises(StockpotError, match="needs a base that has"):
        stockpot.merge("linear", [a, b], on_missing="base")


def test_weights_that_skip_leaves_sum_to_zero_are_named() -> None:
    b = {name: tensor for name, tensor in tuned(2).items() if name != "lm_head.weight"}
    with pytest.raises(StockpotError, match=r"tensor 'lm_head.weight': the weights \[0.0\] sum to zero"):
        stockpot.merge("linear", [tuned(1), b], weight=[0.0, 1.0], on_missing="skip")


def test_fishers_weigh_element_by_element(tmp_path: Path) -> None:
    paths = []
    for number, seed in enumerate((5, 6)):
        information = {name: tensor**2 for name, tensor in state(seed).items()}
        del information["model.scale"]
        folder = tmp_path / f"f{number}"
        saved(folder, information)
        (folder / "model.safetensors").rename(tmp_path / f"f{number}.safetensors")
        (tmp_path / f"f{number}.json").write_text('{"variant": "exact", "samples": 100}')
        paths.append(str(tmp_path / f"f{number}.safetensors"))
    a, b = tuned(1), tuned(2)
    result = stockpot.merge("fisher", [a, b], fisher=paths, weight=[2.0, 1.0])
    assert isinstance(result, dict)
    for name, tensor in result.items():
        f, g = (state(seed)[name].double() ** 2 if name != "model.scale" else torch.tensor(0.0) for seed in (5, 6))
        f, g = f + 1e-12, g + 1e-12
        expected = (2 * f * a[name] + g * b[name]) / (2 * f + g)
        torch.testing.assert_close(tensor.double(), expected.double(), rtol=1e-6, atol=1e-7)
    (tmp_path / "f1.json").write_text('{"variant": "empirical", "samples": 100}')
    with pytest.raises(StockpotError, match=r"estimated in different ways .variant: 'exact' and 'empirical'"):
        stockpot.merge("fisher", [a, b], fisher=paths)
    (tmp_path / "f1.json").unlink()
    with pytest.raises(StockpotError, match=r"says how .* was estimated"):
        stockpot.merge("fisher", [a, b], fisher=paths)
    with pytest.raises(StockpotError, match="needs fisher for every model"):
        stockpot.merge("fisher", [a, b])
    other = {"elsewhere": torch.ones(2)}
    with pytest.raises(StockpotError, match="the Fisher of another model"):
        stockpot.merge("fisher", [other, other], fisher=[paths[0]] * 2)


def test_values_over_depth_and_by_name() -> None:
    from stockpot.merging.execute import merge_state
    from stockpot.merging.spec.merge_spec import Filtered, MergeModel, MergeSpec

    ones = {name: torch.ones_like(tensor) for name, tensor in state(0).items()}
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state(0).items()}
    t = (Filtered((0.0, 1.0, 0.5), "mlp"), Filtered(0.25, "norm"), Filtered(0.75))
    spec = MergeSpec("slerp", (MergeModel("zeros"), MergeModel("ones")), parameters={"t": t})
    result = merge_state(spec, Options(), {"ones": ones, "zeros": zeros})
    import math

    # The angle to a zero tensor counts as a right angle: the other tensor is multiplied by sin(t·π/2).
    shares = {f"model.layers.{layer}.mlp.weight": share for layer, share in enumerate((0.0, 1.0, 0.5))}
    for name, tensor in result.items():
        share = shares.get(name, 0.25 if "norm" in name else 0.75)
        torch.testing.assert_close(tensor, torch.full_like(tensor, math.sin(share * math.pi / 2)))
