"""What is said of checkpoints: facts in closed form."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stockpot import StockpotError
from stockpot.inspect.differences import (
    CheckpointComparison,
    TensorDifference,
    compare_checkpoints,
    match_tensors,
)
from stockpot.inspect.facts import CheckpointFacts, open_with_facts
from stockpot.inspect.name_patterns import fold_names
from stockpot.inspect.tied_tensors import TiedTensors, find_tied_tensors
from stockpot.merging.read.sources import MemorySource


def differences(a: dict[str, Tensor], b: dict[str, Tensor], threads: int = 1) -> CheckpointComparison:
    (comparison,) = compare_checkpoints(MemorySource(a, "a"), MemorySource(b, "b"), threads=threads)
    return comparison


def difference(a: Tensor, b: Tensor) -> TensorDifference:
    return differences({"x": a}, {"x": b}).differences["x"]


def facts_of(place: Path) -> CheckpointFacts:
    _, facts = open_with_facts(str(place))
    return facts


def ties(state: dict[str, Tensor]) -> TiedTensors:
    return find_tied_tensors(MemorySource(state, "a"))


def test_a_scaled_tensor_is_as_far_as_its_scale_and_points_the_same_way() -> None:
    a = torch.randn(300, 1000, dtype=torch.float64)
    one = difference(a, a * (1 + 1e-3))
    assert one.distance == pytest.approx(1e-3, rel=1e-9)
    assert one.cosine == pytest.approx(1.0, abs=1e-12)
    assert not one.equal


def test_orthogonal_and_opposite_tensors() -> None:
    a, b = torch.tensor([3.0, 4.0, 0.0]), torch.tensor([-4.0, 3.0, 0.0])
    assert difference(a, b).cosine == 0.0
    assert difference(a, b).distance == pytest.approx(math.sqrt(2))
    assert difference(a, -a).cosine == -1.0
    assert difference(a, -a).distance == pytest.approx(2.0)


def test_distance_is_taken_from_the_first() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0])
    assert difference(a, b).distance == 2.0
    assert difference(b, a).distance == pytest.approx(2 / 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float32])
def test_sums_are_those_of_float64_in_every_type(dtype: torch.dtype) -> None:
    a, b = torch.randn(1000).to(dtype), torch.randn(1000).to(dtype)
    x, y = a.double(), b.double()
    one = difference(a, b)
    assert one.distance == pytest.approx(float((x - y).norm() / x.norm()), rel=1e-12)
    assert one.cosine == pytest.approx(float(x @ y / (x.norm() * y.norm())), rel=1e-9)


def test_a_small_change_of_many_large_elements_is_not_lost() -> None:
    # In fp32 the sum of a million squares would have three digits left for this one.
    a = torch.full((1 << 20,), 1000.0)
    b = a.clone()
    b[7] += 0.0625
    one = difference(a, b)
    assert one.distance == pytest.approx(0.0625 / (1000 * math.sqrt(1 << 20)), rel=1e-12)


def test_any_number_of_threads_gives_the_same_numbers() -> None:
    torch.manual_seed(1)
    a = {"large": torch.randn(1_000_003), "small": torch.randn(5)}
    b = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in a.items()}
    assert differences(a, b, 1) == differences(a, b, 2) == differences(a, b, 5)


def test_the_whole_model_is_one_vector() -> None:
    a = {"x": torch.randn(50, dtype=torch.float64), "y": torch.randn(7, dtype=torch.float64)}
    b = {name: tensor + 1 for name, tensor in a.items()}
    whole, x, y = differences(a, b).whole, torch.cat(list(a.values())), torch.cat(list(b.values()))
    assert whole.distance == pytest.approx(float((x - y).norm() / x.norm()), rel=1e-12)
    assert whole.cosine == pytest.approx(float(x @ y / (x.norm() * y.norm())), rel=1e-12)


def test_equal_tensors_are_at_zero_exactly() -> None:
    a = torch.randn(999)
    one = difference(a, a.clone())
    assert (one.equal, one.distance, one.cosine) == (True, 0.0, 1.0)
    assert differences({"x": a}, {"x": a}).identical == 1


def test_zero_has_no_direction() -> None:
    zero, a = torch.zeros(3), torch.ones(3)
    assert (difference(zero, zero).distance, difference(zero, zero).cosine) == (0.0, None)
    assert (difference(zero, a).distance, difference(zero, a).cosine) == (None, None)
    assert (difference(a, zero).distance, difference(a, zero).cosine) == (1.0, None)


def test_nan_and_infinity_are_counted_and_left_out_of_the_whole() -> None:
    a = {"x": torch.tensor([1.0, math.nan, 2.0]), "y": torch.tensor([1.0, 0.0])}
    b = {"x": torch.tensor([math.inf, -math.inf, 2.0]), "y": torch.tensor([1.5, 0.0])}
    found = differences(a, b)
    x, y = found.differences.values()
    assert (x.nonfinite, x.distance, x.cosine, x.equal) == ((1, 2), None, None, False)
    assert y.nonfinite == (0, 0)
    assert found.measured == {"y": y}
    assert found.whole.distance == 0.5


def test_nan_at_the_same_places_is_equal_and_still_named() -> None:
    a = torch.tensor([1.0, math.nan])
    one = difference(a, a.clone())
    assert (one.equal, one.nonfinite, one.distance) == (True, (1, 1), None)


def test_empty_and_zero_dimensional_tensors() -> None:
    empty, scalar = torch.zeros(0, 4), torch.tensor(2.0)
    assert (difference(empty, empty).equal, difference(empty, empty).distance) == (True, 0.0)
    assert difference(empty, empty).cosine is None
    assert (difference(scalar, torch.tensor(3.0)).distance, difference(scalar, torch.tensor(3.0)).cosine) == (0.5, 1.0)


def test_integers_are_equal_or_not() -> None:
    near = 2**53  # the next integer is the same number in float64
    found = differences(
        {"i": torch.tensor([near]), "b": torch.tensor([True, False])},
        {"i": torch.tensor([near + 1]), "b": torch.tensor([True, False])},
    )
    assert [(name, one.equal, one.distance, one.cosine) for name, one in found.differences.items()] == [
        ("i", False, None, None),
        ("b", True, None, None),
    ]
    assert (found.whole.distance, found.whole.cosine) == (None, None)


def test_sums_beyond_float64_say_nothing_rather_than_nan() -> None:
    a = torch.full((2,), 1e200, dtype=torch.float64)
    one = difference(a, -a)
    assert (one.nonfinite, one.distance, one.cosine) == ((0, 0), None, None)


def test_what_does_not_match_is_listed_with_its_reason() -> None:
    a = {"same": torch.ones(2), "gone": torch.ones(1), "shape": torch.ones(2, 3), "narrow": torch.ones(4)}
    b = {"same": torch.ones(2), "new": torch.ones(1), "shape": torch.ones(3, 2), "narrow": torch.ones(4).bfloat16()}
    a["kind"], b["kind"] = torch.ones(1), torch.ones(1, dtype=torch.int32)
    found = differences(a, b)
    assert (found.only_first, found.only_second) == (["gone"], ["new"])
    assert found.shapes == {"shape": ((2, 3), (3, 2))}
    assert found.dtypes == {"narrow": ("F32", "BF16"), "kind": ("F32", "I32")}
    assert list(found.differences) == ["same", "narrow"]
    assert found.identical == 2  # in value


def test_models_without_a_common_name_are_refused() -> None:
    with pytest.raises(StockpotError, match=r"a and b have no tensor name in common \(they start with 'x' and 'y'\)"):
        differences({"x": torch.ones(1)}, {"y": torch.ones(1)})


def test_names_fold_by_their_numbers() -> None:
    names = [f"model.layers.{i}.{part}.weight" for i in range(12) for part in ("up", "down")]
    assert fold_names(["embed.weight", *names]) == [
        ("embed.weight", ["embed.weight"]),
        ("model.layers.{0…11}.up.weight", names[0::2]),
        ("model.layers.{0…11}.down.weight", names[1::2]),
    ]


def test_experts_fold_in_both_numbers_and_gaps_stay_visible() -> None:
    experts = [f"h.{i}.experts.{k}.w1" for i in (0, 1, 2, 5) for k in range(8)]
    assert [pattern for pattern, _ in fold_names(experts)] == ["h.{0…2,5}.experts.{0…7}.w1"]
    assert fold_names([f"h.{i}" for i in range(0, 20, 2)])[0][0] == "h.{0,2,…,18}"


def test_names_that_differ_in_the_key_do_not_fold() -> None:
    shapes = {"h.0.w": 3, "h.1.w": 4, "h.2.w": 3}
    assert [pattern for pattern, _ in fold_names(shapes, shapes.__getitem__)] == ["h.{0,2}.w", "h.1.w"]


def test_digits_within_a_word_are_part_of_the_name() -> None:
    assert [pattern for pattern, _ in fold_names(["conv1.weight", "conv2.weight"])] == ["conv1.weight", "conv2.weight"]


def test_a_number_of_hundreds_of_digits_is_no_layer(tmp_path: Path) -> None:
    name = f"h.{'9' * 500}.w"
    save_file({name: torch.ones(1)}, tmp_path / "x.safetensors")
    assert fold_names([name]) == [(name, [name])]
    assert facts_of(tmp_path / "x.safetensors").layers == {}


def test_tensors_of_equal_bytes_are_tied() -> None:
    embedding = torch.randn(70, 5000)  # more than one piece
    nearly = embedding.clone()
    nearly[-1, -1] += 1
    state = {"embed": embedding, "head": embedding.clone(), "nearly": nearly, "flat": embedding.clone().view(-1)}
    state["bits"] = embedding.view(torch.int32)
    assert ties(state) == TiedTensors([["embed", "head"]], [])


def test_tensors_of_one_value_are_equal_but_not_tied() -> None:
    state = {"norm.0": torch.ones(64), "norm.1": torch.ones(64), "alone": torch.zeros(3), "none.0": torch.zeros(0)}
    state["none.1"] = torch.zeros(0)
    assert ties(state) == TiedTensors([], ["norm.0", "norm.1"])


def test_ties_are_found_by_bytes_so_that_nan_equals_itself() -> None:
    odd = torch.tensor([math.nan, 1.0])
    assert ties({"x": odd, "y": odd.clone()}).ties == [["x", "y"]]
    assert ties({"x": torch.tensor([0.0, 1.0]), "y": torch.tensor([-0.0, 1.0])}).ties == []


def sharded(folder: Path) -> Path:
    folder.mkdir()
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    save_file({"model.layers.0.w": torch.ones(2, 3), "n": torch.arange(4)}, folder / first, {"format": "pt"})
    save_file({"model.layers.1.w": torch.ones(2, 3).bfloat16()}, folder / second, {"format": "pt", "made": "here"})
    weights = {"model.layers.0.w": first, "n": first, "model.layers.1.w": second}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    return folder


def test_the_facts_of_a_sharded_checkpoint(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "text_config": {"tie_word_embeddings": True}}))
    facts = facts_of(folder)
    assert (facts.kind, facts.parameters, facts.bytes, len(facts.files)) == ("model", 16, 4 * 6 + 8 * 4 + 2 * 6, 2)
    assert {dtype: row["bytes"] for dtype, row in facts.types.items()} == {
        "F32": 24, "I64": 32, "BF16": 12,
    }  # fmt: skip
    assert facts.layers == {"model.layers": 2}
    assert facts.config == {"model_type": "x", "tie_word_embeddings": True}
    assert facts.metadata == {"format": ["pt"], "made": ["here"]}


def test_an_adapter_is_its_own_tensors_its_rank_and_its_base(tmp_path: Path) -> None:
    name = "base_model.model.model.layers.0.q_proj.lora_A.weight"
    save_file({name: torch.ones(4, 16)}, tmp_path / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "some/base", "bias": "none"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    facts = facts_of(tmp_path)
    assert (facts.kind, list(facts.tensors), facts.parameters) == ("adapter", [name], 64)
    assert facts.config == {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "some/base"}


@pytest.mark.parametrize("text", ["[1]", "{", "\xff"])
def test_a_configuration_that_is_none_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    folder = sharded(tmp_path / "m")
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StockpotError, match=r"m/config\.json(:| is| should) "):
        facts_of(folder)


def test_facts_and_matching_do_not_import_torch(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    code = (
        "import sys; from stockpot.inspect.differences import *; from stockpot.inspect.facts import *; "
        f"source, facts = open_with_facts({str(folder)!r}); matched = match_tensors(source, source).differences; "
        "print(facts.parameters, len(matched), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["16", "3", "False"]


def test_matching_reads_headers_alone(tmp_path: Path) -> None:
    source, _ = open_with_facts(str(sharded(tmp_path / "m")))
    assert match_tensors(source, MemorySource({"n": torch.arange(4)}, "b")).differences.keys() == {"n"}
