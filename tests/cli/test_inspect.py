"""`stockpot inspect`: what it prints, draws and refuses."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

Call = Callable[..., Any]


def weights(layers: int = 4) -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = {"model.embed_tokens.weight": torch.randn(16, 8), "model.norm.weight": torch.ones(8)}
    for number in range(layers):
        state[f"model.layers.{number}.self_attn.q_proj.weight"] = torch.randn(8, 8)
        state[f"model.layers.{number}.self_attn.q_proj.bias"] = torch.randn(8)
        state[f"model.layers.{number}.mlp.up_proj.weight"] = torch.randint(-8, 9, (32, 8)).bfloat16()
    return state


def scaled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every layer further away than the one before, in steps that every type holds exactly."""
    steps = {name: int(found[1]) + 1 for name in state if (found := re.search(r"layers\.(\d+)", name))}
    return {name: tensor * (1 + 0.5 * steps.get(name, 0)) for name, tensor in state.items()}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, state in ((a, weights()), (b, scaled(weights()))):
        folder.mkdir()
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    return a, b


def lines_with(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def lines_of(text: str, name: str) -> list[str]:
    return [line for line in text.splitlines() if line.split()[-1] == name]


def test_one_path_is_folded_by_layer(stockpot: Call, pair: tuple[Path, Path]) -> None:
    done = stockpot("inspect", pair[0])
    assert done.code == 0
    numel = 16 * 8 + 8 + 4 * (64 + 8 + 256)
    assert f"{pair[0]}: 14 tensors, {numel:,} parameters, 3.74 kB in 1 file" in done.out
    (line,) = lines_of(done.out, "model.layers.{0…3}.mlp.up_proj.weight")
    assert line.split()[:-1] == ["4", "BF16", "32", "×", "8", "2.05", "kB"]
    assert "4 in model.layers" in done.out
    assert "format = pt" in done.out


def test_all_lists_every_tensor(stockpot: Call, pair: tuple[Path, Path]) -> None:
    done = stockpot("inspect", pair[0], "--all")
    listed = [line.split()[-1] for line in done.out.splitlines() if line.split()[:1] == ["1"]]
    assert sorted(listed) == sorted(weights())
    assert "{0…3}" not in done.out


def test_the_facts_for_programs(stockpot: Call, pair: tuple[Path, Path]) -> None:
    printed = json.loads(stockpot("inspect", pair[0], "--json").out)
    (facts,) = printed["checkpoints"]
    assert facts["tensors"]["model.layers.2.mlp.up_proj.weight"] == {"dtype": "BF16", "shape": [32, 8], "bytes": 512}
    assert facts["types"]["BF16"] == {"tensors": 4, "parameters": 1024, "bytes": 2048}
    assert facts["bytes"] == sum(tensor.nbytes for tensor in weights().values())
    assert facts["layers"] == {"model.layers": 4}
    assert facts["metadata"] == {"format": ["pt"]}
    assert printed["comparisons"] == []
    assert "ties" not in facts


def test_ties_are_named_and_what_the_configuration_says(stockpot: Call, tmp_path: Path) -> None:
    state = weights() | {"lm_head.weight": weights()["model.embed_tokens.weight"].clone()}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": true}')
    done = stockpot("inspect", tmp_path, "--ties")
    assert set(lines_with(done.out, "Tied: ")[0].removeprefix("Tied: ").split(" = ")) == {
        "lm_head.weight", "model.embed_tokens.weight",
    }  # fmt: skip
    assert "tie_word_embeddings = true" in done.out
    facts = json.loads(stockpot("inspect", tmp_path, "--ties", "--json").out)["checkpoints"][0]
    assert sorted(facts["ties"][0]) == ["lm_head.weight", "model.embed_tokens.weight"]
    assert facts["config"]["tie_word_embeddings"] is True


def test_an_adapter_is_shown_with_its_rank_and_base(stockpot: Call, tmp_path: Path) -> None:
    save_file({"base_model.model.q.lora_A.weight": torch.ones(4, 8)}, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "some/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert re.search(
        r"^adapter: +peft_type = LORA; r = 4; base_model_name_or_path = some/base$",
        stockpot("inspect", tmp_path).out,
        re.M,
    )


def test_a_bin_file_is_read_when_the_user_says_so(stockpot: Call, tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "pytorch_model.bin")
    done = stockpot("inspect", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "--allow-bin" in done.err
    assert "14 tensors" in stockpot("inspect", tmp_path, "--allow-bin").out


def test_two_paths_are_compared_by_kind(stockpot: Call, pair: tuple[Path, Path]) -> None:
    done = stockpot("inspect", *pair)
    assert done.code == 0
    assert "14 tensors compared, 2 identical, 0 not compared" in done.out
    (line,) = lines_of(done.out, "model.layers.{0…3}.self_attn.q_proj.weight")
    assert line.split()[:3] == ["0.5", "1.25", "2"]
    (line,) = lines_of(done.out, "model.embed_tokens.weight")
    assert line.split()[:-1] == ["0", "1"]
    assert "-o difference.png" in done.out


def test_two_paths_one_line_a_tensor(stockpot: Call, pair: tuple[Path, Path]) -> None:
    done = stockpot("inspect", *pair, "--all")
    (line,) = lines_of(done.out, "model.layers.2.mlp.up_proj.weight")
    assert line.split()[0] == "1.5"


def test_what_cannot_be_compared_is_named(stockpot: Call, tmp_path: Path) -> None:
    a = {f"h.{i}.w": torch.ones(2) for i in range(3)} | {"s": torch.ones(2, 3), "t": torch.ones(2), "n": torch.ones(2)}
    b = {"h.0.w": torch.ones(2), "new": torch.ones(1), "s": torch.ones(3, 3), "t": torch.ones(2).half()}
    a["i"], b["i"] = torch.tensor([1, 2]), torch.tensor([1, 3])
    b["n"] = torch.tensor([1.0, math.nan])
    save_file(a, tmp_path / "a.safetensors")
    save_file(b, tmp_path / "b.safetensors")
    out = stockpot("inspect", tmp_path / "a.safetensors", tmp_path / "b.safetensors").out
    for message in (
        "Only in a: h.{1…2}.w (2)\n",
        "Only in b: new\n",
        "Shape 2 × 3 in a, 3 × 3 in b, not compared: s\n",
        "Type F32 in a, F16 in b: t\n",
        "NaN or infinity, left out of the sums: 0 elements in a, 1 in b: n\n",
        "I64, not equal: i\n",
        "4 tensors compared, 2 identical, 4 not compared\n",
    ):
        assert message in out
    printed = json.loads(stockpot("inspect", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--json").out)
    (comparison,) = printed["comparisons"]
    assert comparison["tensors"]["n"] == {"equal": False, "distance": None, "cosine": None, "nonfinite": [0, 1]}
    assert comparison["shapes_differ"] == {"s": [[2, 3], [3, 3]]}
    assert comparison["only_in_second"] == ["new"]


def test_more_paths_are_each_compared_with_the_first(stockpot: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = pair
    save_file({"model.norm.weight": 3 * torch.ones(8)}, tmp_path / "c.safetensors")
    done = stockpot("inspect", a, b, a, tmp_path / "c.safetensors")
    counts = re.findall(r"(\d+) tensors? compared, (\d+) identical, (\d+) not compared", done.out)
    assert counts == [("14", "2", "0"), ("14", "14", "0"), ("1", "0", "13")]
    distances = re.findall(r"distance ‖a−b‖/‖a‖ = (\S+), cosine = (\S+) over", done.out)
    assert distances[1:] == [("0", "1"), ("2", "1")]


def test_a_png_of_sensible_size(stockpot: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = stockpot("inspect", *pair, "-o", tmp_path / "p.png")
    assert f"Picture: {tmp_path / 'p.png'}" in done.out
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.format == "PNG"
        assert 1000 < picture.width < 3000
        assert 600 < picture.height < 3000
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10


def test_the_picture_names_every_kind_of_tensor(stockpot: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = stockpot("inspect", *pair, "-o", tmp_path / "new" / "folder")
    assert done.code == 0
    assert sorted(file.name for file in (tmp_path / "new" / "folder").iterdir()) == ["difference.png", "difference.svg"]
    svg = (tmp_path / "new" / "folder" / "difference.svg").read_text(encoding="utf-8")
    words = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    for word in ("self_attn.q_proj", "self_attn.q_proj.bias", "mlp.up_proj", "model.embed_tokens", "model.norm",
                 "layer", "outside", "cosine of a and b", "distance ‖a − b‖ / ‖a‖"):  # fmt: skip
        assert word in words
    assert "whole model (dashed): " in svg


def test_curves_run_over_the_layers_and_other_tensors_stand_before_them() -> None:
    from stockpot.inspect.differences import compare_checkpoints
    from stockpot.inspect.picture import curves_of
    from stockpot.merging.read.sources import MemorySource

    state = weights()
    (comparison,) = compare_checkpoints(MemorySource(state, "a"), MemorySource(scaled(state), "b"))
    curves = dict(curves_of(comparison.measured))
    assert list(curves)[-2:] == ["model.embed_tokens", "model.norm"]
    for name in ("self_attn.q_proj", "self_attn.q_proj.bias", "mlp.up_proj"):
        points = curves.pop(name)
        distances = {number: point.distance for number, point in points.items()}
        assert distances == pytest.approx({0: 0.5, 1: 1.0, 2: 1.5, 3: 2.0}, rel=1e-6)
        assert [point.cosine for point in points.values()] == pytest.approx([1.0] * 4, rel=1e-6)
    outside = {name: [(at, point.distance, point.cosine) for at, point in curves[name].items()] for name in curves}
    assert outside == {"model.embed_tokens": [(-1, 0.0, 1.0)], "model.norm": [(-1, 0.0, 1.0)]}


def test_the_experts_of_a_layer_are_one_point() -> None:
    from stockpot.inspect.differences import compare_checkpoints
    from stockpot.inspect.picture import curves_of
    from stockpot.merging.read.sources import MemorySource

    state = {f"h.{i}.experts.{k}.w1": torch.tensor([3.0, 4.0]) for i in range(2) for k in range(2)}
    other = state | {"h.1.experts.0.w1": torch.tensor([3.0, 9.0])}
    (comparison,) = compare_checkpoints(MemorySource(state, "a"), MemorySource(other, "b"))
    ((name, points),) = curves_of(comparison.measured)
    assert name == "experts.{0…1}.w1"
    assert [point.distance for point in points.values()] == pytest.approx([0.0, 5 / math.sqrt(50)])


def drawn(stockpot: Call, folder: Path, a: dict[str, Tensor], b: dict[str, Tensor]) -> str:
    save_file(a, folder / "a.safetensors")
    save_file(b, folder / "b.safetensors")
    assert stockpot("inspect", folder / "a.safetensors", folder / "b.safetensors", "-o", folder / "p.svg").code == 0
    return (folder / "p.svg").read_text(encoding="utf-8")


def test_two_stacks_are_told_apart(stockpot: Call, tmp_path: Path) -> None:
    state = {f"{stack}.layers.{i}.w": torch.randn(3) for stack in ("encoder", "decoder") for i in range(2)}
    svg = drawn(stockpot, tmp_path, state, {name: 2 * tensor for name, tensor in state.items()})
    assert "encoder.layers.{0…1}.w" in svg
    assert "decoder.layers.{0…1}.w" in svg


def test_of_many_tensors_those_that_differ_most_are_drawn(stockpot: Call, tmp_path: Path) -> None:
    state = {f"part{i}.weight": torch.ones(3) for i in range(29)}
    svg = drawn(stockpot, tmp_path, state, {f"part{i}.weight": (1 + i) ** 2 * torch.ones(3) for i in range(29)})
    assert "mathdefault" not in svg  # the distances differ a hundredfold: the axis is logarithmic
    assert {int(number) for number in re.findall(r">part(\d+)<", svg)} == set(range(5, 29))
    assert "5 more differ less" in svg


def test_texts_of_files_cannot_steer_the_terminal(stockpot: Call, tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors", {"note": "\x1b[2J", "k\x1b[31m": "red"})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "\x1b[31mred"}))
    for more in ([], ["--all"], ["--json"]):
        done = stockpot("inspect", tmp_path, *more)
        assert done.code == 0
        assert "red" in done.out
        assert "\x1b" not in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], r"nowhere does not exist"),
        (["a", "nowhere"], r"nowhere does not exist"),
        (["cut.safetensors"], r"cut\.safetensors is not a whole safetensors file"),
        (["a", "other.safetensors"], r"have no tensor name in common"),
        (["a", "-o", "p.png"], r"-o draws how two checkpoints differ: name two paths, not 1\."),
        (["a", "b", "a", "-o", "p.png"], r"name two paths, not 3\."),
        (["a", "b", "-o", "p.pdf"], r"p\.pdf is not a folder; name one, or a file that ends in \.png or \.svg\."),
        (["a", "b", "-o", "gone/p.png"], r"gone: there is no such folder\."),
        (["a", "b", "-o", "cut.safetensors"], r"cut\.safetensors is not a folder"),
        (["a", "b", "--ties"], r"--ties looks for equal tensors within one checkpoint: name one path\."),
    ],
)
def test_mistakes(
    stockpot: Call, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(pair[0].parent)
    whole = (pair[0] / "model.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[:-1])
    save_file({"z": torch.ones(1)}, "other.safetensors")
    before = sorted(Path.cwd().rglob("*"))
    done = stockpot("inspect", *arguments)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"Error: [^\n]+\n", done.err)
    assert re.search(message, done.err)
    assert sorted(Path.cwd().rglob("*")) == before
