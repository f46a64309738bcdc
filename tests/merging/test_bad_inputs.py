"""Bad input for merges: one clear line each, the inputs untouched, nothing left that looks like a model."""

from __future__ import annotations

import errno
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import FLOATS, model, random_model, refusal
from safetensors.torch import load_file, save_file

from stockpot import StockpotError
from stockpot.merging.api import Options, merge
from stockpot.merging.rules import RULES

WHOLE = [
    torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64,
    torch.int64,
]  # fmt: skip


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
    message = refusal(tmp_path, "linear", [three[0], bad], options=Options(allow_bin=True))
    assert "holds more than tensors, or is damaged" in message


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
    message = refusal(tmp_path, "linear", [one, three])
    assert "'n'" in message
    assert "not averaged" in message
    assert "one and" in message
    assert str(three) in message


@pytest.mark.parametrize("whole", [torch.int64, torch.bool, torch.uint8])
def test_a_float_in_one_model_and_an_integer_in_another_is_refused(
    tmp_path: Path, three: list[Path], whole: torch.dtype
) -> None:
    bad = random_model(tmp_path / "bad", 7, b_weight=torch.ones(5).to(whole))
    for models, base in (([three[0], bad], None), ([bad, three[0]], None), (three[:2], bad), ([bad], three[2])):
        message = refusal(tmp_path, "linear", models, base=base)
        assert "'b.weight'" in message
        assert "has the type" in message


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
    message = refusal(tmp_path, "linear", folders)
    assert "'w'" in message
    assert scale in message
    plain = model(tmp_path / "plain", w=torch.ones(2, 2))
    assert scale in refusal(tmp_path, "task_arithmetic", [plain], base=folders[0], on_missing="skip")


# Missing, extra, misshapen.


@pytest.mark.parametrize("on_missing", ["error", "base", "skip"])
def test_a_tensor_that_a_model_lacks_goes_by_on_missing(tmp_path: Path, three: list[Path], on_missing: str) -> None:
    one, two, base = three
    model(two, a_weight=load_file(two / "model.safetensors")["a.weight"])
    if on_missing == "error":
        message = refusal(tmp_path, "linear", [one, two], base=base)
        assert f"{two} has no tensor 'b.weight'" in message
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
        message = refusal(tmp_path, "linear", [three[0], extra], base=three[2])
        assert "'c.weight'" in message
        assert str(extra) in message
        return
    merged = merge("linear", [three[0], extra], base=three[2], on_missing=on_missing)
    assert isinstance(merged, dict)
    assert set(merged) == {"a.weight", "b.weight"}


@pytest.mark.parametrize("on_missing", ["error", "base", "skip"])
def test_a_tensor_of_another_shape_goes_by_on_missing(tmp_path: Path, three: list[Path], on_missing: str) -> None:
    one, _, base = three
    bad = random_model(tmp_path / "bad", 5, b_weight=torch.ones(7))
    if on_missing == "error":
        message = refusal(tmp_path, "linear", [one, bad], base=base)
        assert "'b.weight' has the shape [7], but elsewhere [5]" in message
        assert str(bad) in message
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
    ("rule", "parameters", "message"),
    [
        ("tise", {}, "Did you mean 'ties'"), ("ties", {"densty": 0.2}, "Did you mean 'density'"),
        ("linear", {"density": 0.2}, "has no parameter 'density'"), ("ties", {"density": 0}, "above 0"),
        ("ties", {"density": 1.5}, "at most 1"), ("ties", {"density": -0.1}, "above 0"),
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
        ("slerp", {"t": 1.01}, "at least 0 and at most 1"), ("slerp", {"t": -1}, "at least 0 and at most 1"),
        ("breadcrumbs", {"gamma": 2}, "at least 0 and at most 1"),
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
    tmp_path: Path, three: list[Path], rule: str, parameters: dict[str, Any], message: str
) -> None:
    assert message in refusal(tmp_path, rule, three[:2], base=three[2], **parameters)


def test_too_few_and_too_many_models_and_a_missing_base_are_refused(tmp_path: Path, three: list[Path]) -> None:
    for name, rule in RULES.items():
        counts = [rule.least - 1, *([rule.most + 1] if rule.most else [])]
        for count in counts:
            message = refusal(tmp_path, name, (three * 2)[:count], base=three[2])
            assert f"{name} merges" in message
            assert f"not {count}" in message
        if rule.base == "required":
            assert f"{name} needs the model" in refusal(tmp_path, name, three[: rule.most or 2])


@pytest.mark.parametrize(
    "state", [{"a\nb": torch.ones(1)}, {"__metadata__": torch.ones(1)}, {"\ud800": torch.ones(1)}, {1: torch.ones(1)},
              {"a": 3}, {"a": torch.ones(1, dtype=torch.complex64)}, {"a": torch.ones(2, 2).to_sparse()}, {}],
)  # fmt: skip
def test_a_state_dict_that_no_file_could_hold_is_refused(tmp_path: Path, state: Any) -> None:
    assert "models[0]" in refusal(tmp_path, "linear", [state])


PEAK = """
import sys, threading
from pathlib import Path
from stockpot.merging.api import Options, merge

def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])

peak, done = 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.01):
        peak = max(peak, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
for home in map(Path, sys.argv[1:]):
    merge("linear", [home / "one", home / "two"], output=home / "out", options=Options(threads=1, sync=False))
    print(max(peak, anonymous()) >> 10)
done.set()
watcher.join()
"""


@pytest.mark.thorough
def test_many_tiny_tensors_take_little_memory_each(tmp_path: Path) -> None:
    """At most 2 KB each, all inputs, the plan and the check of the output together: 100,000 stay below 300 MB."""

    few, many = 10, 10_000
    for count in (few, many):
        for number, name in enumerate(("one", "two")):
            folder = tmp_path / str(count) / name
            folder.mkdir(parents=True)
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
            (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    command = [sys.executable, "-c", PEAK, str(tmp_path / str(few)), str(tmp_path / str(many))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for count in (few, many):
        merged = load_file(tmp_path / str(count) / "out" / "model.safetensors")
        assert len(merged) == count
        assert all(float(tensor) == 0.5 for tensor in merged.values())
    peak_of_few, peak_of_many = map(int, done.stdout.split())
    assert peak_of_many - peak_of_few < 20
