"""Bad input for merges: one clear line each, the inputs untouched, nothing left that looks like a model."""

from __future__ import annotations

import errno
import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stockpot import StockpotError
from stockpot.merging.api import Options, merge
from stockpot.merging.rules import RULES

FLOATS = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip
WHOLE = [
    torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64,
    torch.int64,
]  # fmt: skip


def model(folder: Path, **tensors: Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name.replace("_", "."): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def random_model(folder: Path, seed: int, **others: Tensor) -> Path:
    draw = torch.Generator().manual_seed(seed)
    drawn = {"a_weight": torch.randn(6, 4, generator=draw), "b_weight": torch.randn(5, generator=draw)}
    return model(folder, **(drawn | others))


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [random_model(tmp_path / name, seed) for seed, name in enumerate(("one", "two", "base"))]


def state_of(home: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in home.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def refusal(home: Path, rule: str, models: Any, base: Any = None, output: Path | None = None, **more: Any) -> str:
    """The one line of a merge into `output` that is refused; nothing on the disk has changed."""
    before = state_of(home)
    with pytest.raises(StockpotError) as caught:
        merge(rule, models, base, output or home / "out", **more)
    assert str(caught.value).isprintable()
    assert state_of(home) == before
    assert not list(home.glob(".tmp-*"))
    return str(caught.value)


# Files.


def test_a_model_that_is_cut_anywhere_is_refused(tmp_path: Path, three: list[Path]) -> None:
    file = three[1] / "model.safetensors"
    whole = file.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for end in (0, 4, 8, 9, header // 2, header - 1, header, header + 3, len(whole) - 1):
        file.write_bytes(whole[:end])
        assert str(file) in refusal(tmp_path, "linear", three[:2])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_that_is_cut_while_it_is_merged_is_refused(
    tmp_path: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    file, read = three[1] / "model.safetensors", os.preadv

    def cut(*arguments: Any) -> int:
        os.truncate(file, file.stat().st_size - 1)
        return read(*arguments)

    monkeypatch.setattr(os, "preadv", cut)
    with pytest.raises(StockpotError, match=r"model\.safetensors ended at byte [\d,]+ while it was read"):
        merge("linear", three[:2], output=tmp_path / "out", options=Options(threads=threads))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "one", "two"]


def test_a_model_that_vanishes_while_it_is_merged_is_refused(
    tmp_path: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, opened = three[1] / "model.safetensors", os.open

    def gone(path: Any, *arguments: Any, **more: Any) -> int:
        if str(path) == str(file):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(os, "open", gone)
    with pytest.raises(StockpotError, match=r"two/model\.safetensors can no longer be read: No such file"):
        merge("linear", three[:2], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_file_or_leads_out_of_the_model_is_refused_and_not_waited_for(
    tmp_path: Path, three: list[Path]
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    os.mkfifo(bad / "model.safetensors")
    with pytest.raises(StockpotError, match="is not a file"):
        merge("linear", [three[0], bad])
    (bad / "model.safetensors").unlink()
    (bad / "model.safetensors").symlink_to(three[1] / "model.safetensors")
    assert "is a link out of its folder" in refusal(tmp_path, "linear", [three[0], bad])


def test_a_pickle_is_refused(tmp_path: Path, three: list[Path]) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    assert "--allow-bin" in refusal(tmp_path, "linear", [three[0], bad])
    said = refusal(tmp_path, "linear", [three[0], bad], options=Options(allow_bin=True))
    assert "holds more than tensors, or is damaged" in said


@pytest.mark.parametrize("path", ["", "missing", "x" * 300, "~nobody-of-that-name/x", "a\0b", "no/such-model"])
def test_a_path_that_leads_nowhere_is_refused(three: list[Path], path: str) -> None:
    with pytest.raises(StockpotError) as caught:
        merge("linear", [three[0], path])
    assert "\n" not in str(caught.value)


# Types and shapes.


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_float_is_merged_in_its_own_type(tmp_path: Path, dtype: torch.dtype) -> None:
    one = model(tmp_path / "one", w=torch.tensor([1.0, -2.0, 0.5]).to(dtype))
    two = model(tmp_path / "two", w=torch.tensor([3.0, 4.0, 1.5]).to(dtype))
    out = merge("linear", [one, two], output=tmp_path / "out")
    assert isinstance(out, Path)
    merged = load_file(out / "model.safetensors")["w"]
    assert merged.dtype is dtype
    assert merged.float().tolist() == [2.0, 1.0, 1.0]


@pytest.mark.parametrize("dtype", WHOLE)
def test_integers_are_copied_from_the_base_or_have_to_be_equal(tmp_path: Path, dtype: torch.dtype) -> None:
    base, same, other = (torch.tensor(values).to(dtype) for values in ([1, 0], [1, 0], [0, 1]))
    weight = torch.ones(2)
    one, two = model(tmp_path / "one", n=base, w=weight), model(tmp_path / "two", n=same, w=weight)
    three = model(tmp_path / "three", n=other, w=weight)
    for models, root in (([one, two], None), ([three, two], one)):
        merged = merge("linear", models, base=root)
        assert isinstance(merged, dict)
        assert merged["n"].dtype is dtype
        assert merged["n"].tolist() == base.tolist()
    said = refusal(tmp_path, "linear", [one, three])
    assert "'n'" in said
    assert "not averaged" in said
    assert "one and" in said
    assert str(three) in said


@pytest.mark.parametrize("whole", [torch.int64, torch.bool, torch.uint8])
def test_a_float_in_one_model_and_an_integer_in_another_is_refused(
    tmp_path: Path, three: list[Path], whole: torch.dtype
) -> None:
    bad = random_model(tmp_path / "bad", 7, b_weight=torch.ones(5).to(whole))
    for models, base in (([three[0], bad], None), ([bad, three[0]], None), (three[:2], bad), ([bad], three[2])):
        said = refusal(tmp_path, "linear", models, base=base)
        assert "'b.weight'" in said
        assert "has the type" in said


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "fisher"])
def test_empty_and_zero_dimensional_tensors_are_merged_by_every_rule(tmp_path: Path, rule: str) -> None:
    def one(name: str, value: float) -> Path:
        empty = {"a": torch.ones(0), "b": torch.ones(3, 0), "c": torch.ones(0, 3).half(), "n": torch.ones(0).long()}
        return model(tmp_path / name, z=torch.tensor(value), w=torch.full((1, 1), value), **empty)

    models = [one("one", 3.0), one("two", 3.0)][: RULES[rule].most]
    out = merge(rule, models, base=one("base", 3.0), output=tmp_path / "out")
    assert isinstance(out, Path)
    merged = load_file(out / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in merged.items()} == {
        "a": (0,), "b": (3, 0), "c": (0, 3), "n": (0,), "z": (), "w": (1, 1),
    }  # fmt: skip
    assert float(merged["z"]) == float(merged["w"]) == pytest.approx(3.0)


def test_models_of_nothing_but_empty_tensors_are_merged(tmp_path: Path) -> None:
    models = [model(tmp_path / name, e=torch.ones(2, 0)) for name in ("one", "two")]
    for rule in ("linear", "ties", "slerp", "dare_ties", "model_stock", "breadcrumbs"):
        merged = merge(rule, models, base=models[0])
        assert isinstance(merged, dict)
        assert merged["e"].shape == (2, 0)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("scale", ["w_scale_inv", "w_scale", "w.scale"])
def test_8_bit_floats_with_a_scale_are_refused(tmp_path: Path, dtype: torch.dtype, scale: str) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        save_file({"w": torch.ones(2, 2).to(dtype), scale: torch.ones(1)}, folder / "model.safetensors")
    said = refusal(tmp_path, "linear", folders)
    assert "'w'" in said
    assert scale in said
    plain = model(tmp_path / "plain", w=torch.ones(2, 2))
    assert scale in refusal(tmp_path, "task_arithmetic", [plain], base=folders[0], on_missing="skip")


# Missing, extra, misshapen.


@pytest.mark.parametrize("on_missing", ["error", "base", "skip"])
def test_a_tensor_that_a_model_lacks_goes_by_on_missing(tmp_path: Path, three: list[Path], on_missing: str) -> None:
    one, two, base = three
    model(two, a_weight=load_file(two / "model.safetensors")["a.weight"])
    if on_missing == "error":
        said = refusal(tmp_path, "linear", [one, two], base=base)
        assert f"{two} has no tensor 'b.weight'" in said
        return
    merged = merge("linear", [one, two], base=base, on_missing=on_missing)
    assert isinstance(merged, dict)
    first, root = load_file(one / "model.safetensors"), load_file(base / "model.safetensors")
    wanted = first["b.weight"] if on_missing == "skip" else (first["b.weight"] + root["b.weight"]) / 2
    torch.testing.assert_close(merged["b.weight"], wanted)


def test_a_missing_tensor_without_a_base_to_stand_in_is_refused(tmp_path: Path, three: list[Path]) -> None:
    one, two, _ = three
    model(two, a_weight=torch.ones(6, 4))
    assert "'b.weight'" in refusal(tmp_path, "linear", [one, two], on_missing="base")


@pytest.mark.parametrize("on_missing", ["error", "base", "skip"])
def test_a_tensor_that_only_one_model_has_goes_by_on_missing(
    tmp_path: Path, three: list[Path], on_missing: str
) -> None:
    extra = random_model(tmp_path / "extra", 5, c_weight=torch.ones(2))
    if on_missing == "error":
        said = refusal(tmp_path, "linear", [three[0], extra], base=three[2])
        assert "'c.weight'" in said
        assert str(extra) in said
        return
    merged = merge("linear", [three[0], extra], base=three[2], on_missing=on_missing)
    assert isinstance(merged, dict)
    assert set(merged) == {"a.weight", "b.weight"}


@pytest.mark.parametrize("on_missing", ["error", "base", "skip"])
def test_a_tensor_of_another_shape_goes_by_on_missing(tmp_path: Path, three: list[Path], on_missing: str) -> None:
    one, _, base = three
    bad = random_model(tmp_path / "bad", 5, b_weight=torch.ones(7))
    if on_missing == "error":
        said = refusal(tmp_path, "linear", [one, bad], base=base)
        assert "'b.weight' has the shape [7], but elsewhere [5]" in said
        assert str(bad) in said
        return
    merged = merge("linear", [one, bad], base=base, on_missing=on_missing)
    assert isinstance(merged, dict)
    first, root = load_file(one / "model.safetensors"), load_file(base / "model.safetensors")
    wanted = first["b.weight"] if on_missing == "skip" else (first["b.weight"] + root["b.weight"]) / 2
    torch.testing.assert_close(merged["b.weight"], wanted)


def test_as_many_elements_in_another_shape_are_another_shape(tmp_path: Path, three: list[Path]) -> None:
    bad = random_model(tmp_path / "bad", 5, a_weight=torch.ones(4, 6))
    assert "'a.weight' has the shape [4, 6]" in refusal(tmp_path, "linear", [three[0], bad])


def test_vocabularies_that_differ_are_named_with_their_sizes(tmp_path: Path) -> None:
    one, two = (model(tmp_path / f"{n}", embed_weight=torch.ones(n, 2)) for n in (7, 9))
    assert "the vocabularies differ, 9 and 7 entries" in refusal(tmp_path, "linear", [one, two])


# Parameters.


@pytest.mark.parametrize(
    ("rule", "parameters", "said"),
    [
        ("tise", {}, "Did you mean 'ties'"), ("ties", {"densty": 0.2}, "Did you mean 'density'"),
        ("linear", {"density": 0.2}, "has no parameter 'density'"), ("ties", {"density": 0}, "above 0"),
        ("ties", {"density": 1.5}, "to 1"), ("ties", {"density": -0.1}, "above 0"),
        ("ties", {"density": [0.2]}, "1 values"),
        ("ties", {"density": True}, "number"), ("ties", {"density": "0.2"}, "number"),
        ("ties", {"density": None}, "number"),
        ("ties", {"lambda_": math.nan}, "number"), ("ties", {"lambda_": math.inf}, "number"),
        ("ties", {"lambda_": 10**400}, "number"), ("ties", {"lambda_": {"a": 1}}, "number"),
        ("ties", {"normalize": 1}, "true or false"), ("ties", {"normalize": "yes"}, "true or false"),
        ("linear", {"weight": [1.0, -1.0]}, "sum to zero"), ("linear", {"weight": 0}, "sum to zero"),
        ("linear", {"weight": [1e-12, 1e-12]}, "sum to zero"), ("linear", {"weight": [1, 2, 3]}, "3 values"),
        ("task_arithmetic", {"weight": [1, -1], "normalize": True}, "sum to zero"),
        ("dare_linear", {"weight": 0, "normalize": True}, "sum to zero"),
        ("della", {"epsilon": 0.6}, "between 0 and 1"),
        ("slerp", {"t": 1.01}, "0 to 1"), ("slerp", {"t": -1}, "0 to 1"), ("breadcrumbs", {"gamma": 2}, "0 to 1"),
        ("wise_ft", {"alpha": 2}, "merges 1 model"), ("fisher", {}, "needs fisher"),
        ("passthrough", {}, "merges"), ("linear", {"trim": "modle"}, "trim must be one"),
        ("linear", {"on_missing": "ignore"}, "on_missing must be"), ("linear", {"dtype": "float15"}, "Did you mean"),
        ("linear", {"dtype": "int8"}, "not a floating-point"), ("linear", {"options": Options(threads=-1)}, "threads"),
        ("linear", {"options": Options(max_shard_size="big")}, "not a file size"),
        ("linear", {"options": Options(max_shard_size="9" * 400 + "GB")}, "not a file size"),
        ("linear", {"options": Options(max_shard_size="0")}, "not a file size"),
        ("linear", {"options": Options(resume=True)}, "no unfinished merge"),
    ],
)  # fmt: skip
def test_parameters_that_are_unknown_misspelt_or_out_of_range_are_refused(
    tmp_path: Path, three: list[Path], rule: str, parameters: dict[str, Any], said: str
) -> None:
    assert said in refusal(tmp_path, rule, three[:2], base=three[2], **parameters)


def test_too_few_and_too_many_models_and_a_missing_base_are_refused(tmp_path: Path, three: list[Path]) -> None:
    for name, rule in RULES.items():
        counts = [rule.least - 1, *([rule.most + 1] if rule.most else [])]
        for count in counts:
            said = refusal(tmp_path, name, (three * 2)[:count], base=three[2])
            assert f"{name} merges" in said
            assert f"not {count}" in said
        if rule.base == "required":
            assert f"{name} needs the model" in refusal(tmp_path, name, three[: rule.most or 2])


@pytest.mark.parametrize(
    "state", [{"a\nb": torch.ones(1)}, {"__metadata__": torch.ones(1)}, {"\ud800": torch.ones(1)}, {1: torch.ones(1)},
              {"a": 3}, {"a": torch.ones(1, dtype=torch.complex64)}, {"a": torch.ones(2, 2).to_sparse()}, {}],
)  # fmt: skip
def test_a_state_dict_that_no_file_could_hold_is_refused(tmp_path: Path, state: Any) -> None:
    assert "models[0]" in refusal(tmp_path, "linear", [state])


# Numbers that are none.


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "fisher"])
def test_nan_and_infinity_in_any_one_input_are_reported_with_the_tensor_and_the_input(
    tmp_path: Path, three: list[Path], rule: str, value: float, threads: int
) -> None:
    """Only what a rule does not read may hold them: the base, where it but stands in for missing tensors."""
    contract = RULES[rule]
    models = three[: contract.most or 2]
    for bad in (*models, three[2]):
        before = (bad / "model.safetensors").read_bytes()
        state = load_file(bad / "model.safetensors")
        state["a.weight"][4, 1] = value
        save_file(state, bad / "model.safetensors")
        if bad == three[2] and contract.base == "optional" and contract.of == "weights":
            merged = merge(rule, models, base=three[2])
            assert isinstance(merged, dict)
            assert all(bool(tensor.isfinite().all()) for tensor in merged.values())
        else:
            said = refusal(tmp_path, rule, models, base=three[2], options=Options(threads=threads))
            assert "tensor 'a.weight'" in said
            blamed = said.rpartition(" in ")[2]
            assert str(bad) in blamed
            assert not any(str(other) in blamed for other in three if other != bad)
        (bad / "model.safetensors").write_bytes(before)


@pytest.mark.parametrize("rule", ["ties", "dare_ties", "dare_linear", "breadcrumbs", "breadcrumbs_ties", "della"])
@pytest.mark.parametrize("trim", ["model", "tensor"])
@pytest.mark.parametrize("many", [1, 20])
def test_what_drops_elements_never_drops_nan(
    tmp_path: Path, three: list[Path], rule: str, trim: str, many: int
) -> None:
    state = load_file(three[0] / "model.safetensors")
    state["a.weight"].view(-1)[:many] = math.nan
    save_file(state, three[0] / "model.safetensors")
    density: dict[str, Any] = {"density": 0.1} | ({"epsilon": 0.05} if rule == "della" else {})
    with pytest.raises(StockpotError, match=f"'a.weight' would hold nan at element 0: NaN or infinity in {three[0]}"):
        merge(rule, three[:2], base=three[2], trim=trim, **density)
    merged = merge(rule, three[:2], base=three[2], trim=trim, options=Options(allow_nonfinite=True), **density)
    assert isinstance(merged, dict)
    assert bool(merged["a.weight"].view(-1)[:many].isnan().all())


def test_a_model_of_weight_zero_does_not_hide_its_nan(tmp_path: Path, three: list[Path]) -> None:
    bad = random_model(tmp_path / "bad", 5, b_weight=torch.full((5,), math.nan))
    for rule in ("linear", "task_arithmetic", "ties", "dare_ties"):
        assert str(bad) in refusal(tmp_path, rule, [three[0], bad], base=three[2], weight=[1, 0])


def test_a_rule_that_is_told_not_to_use_an_input_may_leave_its_nan_out(tmp_path: Path, three: list[Path]) -> None:
    """λ=0 is the base and α=1 the model, bit for bit: what the other one holds is no part of the result."""
    bad = random_model(tmp_path / "bad", 5, b_weight=torch.full((5,), math.nan))
    merged = merge("ties", [bad], base=three[2], lambda_=0)
    assert isinstance(merged, dict)
    assert torch.equal(merged["b.weight"], load_file(three[2] / "model.safetensors")["b.weight"])
    merged = merge("wise_ft", [three[0]], base=bad, alpha=1)
    assert isinstance(merged, dict)
    assert torch.equal(merged["b.weight"], load_file(three[0] / "model.safetensors")["b.weight"])


def test_nan_in_a_fisher_is_reported_with_the_fisher(tmp_path: Path, three: list[Path]) -> None:
    fishers = []
    for number, value in enumerate((1.0, math.nan)):
        file = tmp_path / f"fisher{number}.safetensors"
        save_file({"b.weight": torch.full((5,), value)}, file)
        file.with_suffix(".json").write_text("{}")
        fishers.append(str(file))
    said = refusal(tmp_path, "fisher", three[:2], fisher=fishers)
    assert "tensor 'b.weight'" in said
    assert "fisher1.safetensors" in said
    assert "fisher0.safetensors" not in said


@pytest.mark.parametrize(
    ("dtype", "large"), [("float16", 70_000.0), ("float8_e5m2", 70_000.0), ("float8_e4m3fn", 500.0), ("float32", 1e39)]
)
def test_a_result_that_the_output_cannot_hold_is_refused_and_never_infinite(
    tmp_path: Path, dtype: str, large: float
) -> None:
    models = [model(tmp_path / name, w=torch.tensor([1.0, large], dtype=torch.float64)) for name in ("one", "two")]
    said = refusal(tmp_path, "linear", models, dtype=dtype)
    assert "tensor 'w' would hold" in said
    assert "at element 1" in said
    assert "cannot hold the result" in said


def test_what_f8_e4m3_cannot_hold_is_refused_and_not_made_its_largest_number(tmp_path: Path) -> None:
    """torch makes 448 of 500 and of infinity alike; 464 rounds to it."""
    most = model(tmp_path / "most", w=torch.tensor([464.0, -464.0]), n=torch.ones(2))
    for rule, base in (("linear", None), ("passthrough", None), ("ties", most)):
        merged = merge(rule, [most], base=base, dtype="float8_e4m3fn")
        assert isinstance(merged, dict)
        assert merged["w"].float().tolist() == [448.0, -448.0]
    for value in (465.0, 1e30, math.inf, -math.inf, math.nan):
        bad = model(tmp_path / f"{value}", w=torch.tensor([1.0, value]), n=torch.ones(2))
        for rule, base in (("linear", None), ("passthrough", None), ("ties", most), ("ties", bad)):
            assert "tensor 'w' would hold nan" in refusal(tmp_path, rule, [bad], base, dtype="float8_e4m3fn")
        # Also where the tensor is only copied.
        without = model(tmp_path / "without", n=torch.ones(2))
        said = refusal(tmp_path, "task_arithmetic", [without], bad, dtype="float8_e4m3fn", on_missing="skip")
        assert "tensor 'w' would hold nan at element 1" in said


PEAK = """
import sys, threading
from pathlib import Path
from stockpot.merging.api import Options, merge

def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])

peak, done = [0], threading.Event()

def watch():
    while not done.wait(0.01):
        peak.append(anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
home = Path(sys.argv[1])
merge("linear", [home / "one", home / "two"], output=home / "out", options=Options(threads=1, sync=False))
done.set()
watcher.join()
print(max(peak) >> 10)
"""


def test_many_tiny_tensors_take_little_memory_each(tmp_path: Path) -> None:
    """At most 2 KB each, all inputs, the plan and the check of the output together: 100,000 stay below 300 MB."""

    def peak(count: int) -> int:
        home = tmp_path / str(count)
        for number, name in enumerate(("one", "two")):
            (home / name).mkdir(parents=True)
            header = {
                f"model.layers.{layer}.scale": {
                    "dtype": "F32",
                    "shape": [1],
                    "data_offsets": [4 * layer, 4 * layer + 4],
                }
                for layer in range(count)
            }
            text = json.dumps(header).encode()
            data = struct.pack("<f", number) * count
            (home / name / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
        done = subprocess.run([sys.executable, "-c", PEAK, str(home)], capture_output=True, text=True, check=True)
        merged = load_file(home / "out" / "model.safetensors")
        assert len(merged) == count
        assert all(float(tensor) == 0.5 for tensor in merged.values())
        return int(done.stdout)

    assert peak(10_000) - peak(10) < 20


# The output.


def test_an_output_that_is_holds_or_lies_in_an_input_is_refused(tmp_path: Path, three: list[Path]) -> None:
    one, two, base = three
    file = one / "model.safetensors"
    (tmp_path / "link").symlink_to(one)
    for place in (one, two, base, one / "deep" / "er", tmp_path, tmp_path / "link", tmp_path / "two" / ".." / "one"):
        said = refusal(tmp_path, "linear", [one, two], base=base, output=place)
        assert "would overwrite the input" in said or "is a link" in said
    for place in (file, one):
        assert "would overwrite the input" in refusal(tmp_path, "linear", [file, two], output=place)


def test_an_output_that_exists_is_left_alone(tmp_path: Path, three: list[Path]) -> None:
    held = tmp_path / "held"
    held.mkdir()
    (held / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("mine")
    for name in ("held", "file"):
        assert "already exists" in refusal(tmp_path, "linear", three[:2], output=tmp_path / name)
    for name in ("link", "loop"):
        assert "is a link" in refusal(tmp_path, "linear", three[:2], output=tmp_path / name)
    assert not (tmp_path / "nowhere").exists()


def test_an_empty_folder_is_taken_as_the_output(tmp_path: Path, three: list[Path]) -> None:
    (tmp_path / "out").mkdir()
    assert merge("linear", three[:2], output=tmp_path / "out") == tmp_path / "out"
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("output", [".", "", "..", "/"])
def test_an_output_that_names_no_new_folder_is_refused(
    tmp_path: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    refusal(tmp_path, "linear", three[:2], output=Path(output))


def test_an_output_that_cannot_be_created_is_refused(tmp_path: Path, three: list[Path]) -> None:
    (tmp_path / "file").write_text("mine")
    assert "File exists" in refusal(tmp_path, "linear", three[:2], output=tmp_path / "file" / "out")
    assert "Not a directory" in refusal(tmp_path, "linear", three[:2], output=tmp_path / "file" / "deep" / "out")
    assert "File name too long" in refusal(tmp_path, "linear", three[:2], output=tmp_path / ("x" * 300))
    assert "File name too long" in refusal(tmp_path, "linear", three[:2], output=tmp_path / ("x" * 250))


def failing(function: str, number: int, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = getattr(os, function)
    calls: Iterator[int] = iter(range(1_000_000))

    def act(*arguments: Any, **more: Any) -> Any:
        if next(calls) >= after:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **more)

    monkeypatch.setattr(os, function, act)


@pytest.mark.parametrize(
    ("function", "number", "after", "said"),
    [
        ("posix_fallocate", errno.ENOSPC, 0, "the disk is full"), ("pwrite", errno.ENOSPC, 0, "the disk is full"),
        ("pwrite", errno.ENOSPC, 2, "the disk is full"), ("pwrite", errno.EDQUOT, 1, "the disk is full"),
        ("pwrite", errno.EIO, 1, "Input/output error"), ("fsync", errno.ENOSPC, 0, "the disk is full"),
        ("mkdir", errno.EROFS, 0, "Read-only file system"), ("mkdir", errno.EACCES, 0, "Permission denied"),
        ("posix_fallocate", errno.EFBIG, 0, "File too large"), ("rename", errno.EACCES, 0, "Permission denied"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("threads", [1, 2])
def test_a_full_or_read_only_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch,
    function: str, number: int, after: int, said: str, threads: int,
) -> None:  # fmt: skip
    failing(function, number, after, monkeypatch)
    assert said in refusal(tmp_path, "linear", three[:2], options=Options(threads=threads))


def test_a_disk_that_fills_up_between_shards_leaves_no_model(
    tmp_path: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Options(max_shard_size="60B", threads=1)
    with monkeypatch.context() as patch:
        failing("posix_fallocate", errno.ENOSPC, 1, patch)
        with pytest.raises(StockpotError, match="the disk is full"):
            merge("linear", three[:2], output=tmp_path / "out", options=small)
    assert not (tmp_path / "out").exists()
    left = next(tmp_path.glob(".tmp-*"))
    with pytest.raises(StockpotError, match="holds neither model"):
        merge("linear", [left])
    out = merge("linear", three[:2], output=tmp_path / "out", options=Options("60B", threads=1, resume=True))
    assert isinstance(out, Path)
    whole = merge("linear", three[:2])
    assert isinstance(whole, dict)
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    for name, file in index.items():
        assert torch.equal(load_file(out / file)[name], whole[name])
