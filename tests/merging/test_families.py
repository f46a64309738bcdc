"""One tiny model of every family: merged, sliced and weighted over depth, Transformers loads it completely."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import FAMILIES
from torch import Tensor
from transformers import PreTrainedModel

from stockpot import StockpotError
from stockpot.merging.api import Options, merge
from stockpot.merging.execute import merge_into
from stockpot.merging.spec.merge_spec import MergeModel, MergeSpec, Slice, SliceSource
from stockpot.weights.checkpoint import open_checkpoint

FAST = Options(sync=False, threads=1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Two models of a family with different weights, each built once."""
    home = tmp_path_factory.mktemp("families")

    def pair(name: str) -> tuple[Path, Path]:
        paths = home / name / "a", home / name / "b"
        if not paths[0].exists():
            model = FAMILIES[name].build()
            for number, path in enumerate(paths):
                with torch.no_grad():
                    for tensor in model.state_dict().values():
                        tensor.fill_(number + 1)
                model.save_pretrained(path)
        return paths

    return pair


Saved = Callable[[str], tuple[Path, Path]]


def opened(name: str, folder: Path) -> PreTrainedModel:
    """Loads the model in a folder, which must hold exactly the tensors that the model expects."""
    kind = getattr(transformers, FAMILIES[name].kind)
    model, loading = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    built: PreTrainedModel = model
    return built


def counted(folder: Path, place: str) -> Any:
    value = json.loads((folder / "config.json").read_text())
    for key in place.split("."):
        value = value[key]
    return value


def layers(names: Any, prefix: str) -> list[int]:
    return sorted({int(name.removeprefix(prefix).split(".")[0]) for name in names if name.startswith(prefix)})


def value_of(tensors: Any, beginning: str) -> float:
    """The single value of all tensors whose names start with the prefix."""
    values = {float(each) for name in tensors if name.startswith(beginning) for each in tensors[name].unique()}
    assert len(values) == 1, (beginning, values)
    return values.pop()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_average_of_a_family_opens_without_missing_or_unexpected_keys(
    name: str, saved: Saved, tmp_path: Path
) -> None:
    a, b = saved(name)
    merge("linear", [a, b], output=tmp_path / "out", weight=[1, 3], options=FAST)
    model = opened(name, tmp_path / "out")
    assert {float(value) for tensor in model.state_dict().values() for value in tensor.unique()} == {1.75}


@pytest.mark.parametrize(("name", "prefix"), [(name, stack) for name in FAMILIES for stack in FAMILIES[name].stacks])
def test_a_sliced_family_opens_without_missing_or_unexpected_keys(
    name: str, prefix: str, saved: Saved, tmp_path: Path
) -> None:
    """The first two layers of a (all ones), all but the first of b (all twos); other stacks stay whole."""
    a, b = saved(name)
    family = FAMILIES[name]
    stack = prefix if len(family.stacks) > 1 else None
    ranges = [(a, 0, 2), (b, 1, 3)]
    slices = tuple(Slice((SliceSource(str(path), *bounds),), stack=stack) for path, *bounds in ranges)
    merge_into(MergeSpec("passthrough", slices=slices), tmp_path / "out", FAST)
    opened(name, tmp_path / "out")
    tensors, before = open_checkpoint(tmp_path / "out"), open_checkpoint(a)
    assert layers(tensors, prefix) == [0, 1, 2, 3]
    assert [value_of(tensors, f"{prefix}{layer}.") for layer in range(4)] == [1, 1, 2, 2]
    assert counted(tmp_path / "out", family.stacks[prefix]) == 4
    for other, place in family.stacks.items():
        if other != prefix:
            assert layers(tensors, other) == [0, 1, 2]
            assert counted(tmp_path / "out", place) == 3
    aside = {key for key in before if key.startswith(("visual.", "vision_tower.", "multi_modal_projector."))}
    assert {key: float(tensors[key].max()) for key in aside} == dict.fromkeys(aside, 1)
    assert (value_of(tensors, family.feed), value_of(tensors, family.head)) == (1, 2)


@pytest.mark.parametrize("name", ["t5", "bart", "whisper"])
def test_encoder_and_decoder_are_sliced_in_one_merge(name: str, saved: Saved, tmp_path: Path) -> None:
    a, b = saved(name)
    ranges = [("decoder", b, 0, 2), ("encoder", a, 0, 3), ("encoder", b, 1, 3), ("decoder", a, 2, 3)]
    slices = tuple(Slice((SliceSource(str(path), *bounds),), stack=stack) for stack, path, *bounds in ranges)
    merge_into(MergeSpec("passthrough", slices=slices), tmp_path / "out", FAST)
    opened(name, tmp_path / "out")
    tensors = open_checkpoint(tmp_path / "out")
    encoder, decoder = FAMILIES[name].stacks
    assert [value_of(tensors, f"{encoder}{layer}.") for layer in layers(tensors, encoder)] == [1, 1, 1, 2, 2]
    assert [value_of(tensors, f"{decoder}{layer}.") for layer in layers(tensors, decoder)] == [2, 2, 1]
    assert [counted(tmp_path / "out", place) for place in FAMILIES[name].stacks.values()] == [5, 3]
    card = (tmp_path / "out" / "README.md").read_text()
    for row in ("decoder 0 to 1 | b: 0 to 1", "encoder 0 to 2 | a: 0 to 2", "encoder 3 to 4", "decoder 2 to 2"):
        assert f"| {row} " in card


@pytest.mark.parametrize("name", ["t5", "bart", "whisper"])
def test_an_encoder_decoder_is_not_sliced_before_it_is_said_which(name: str, saved: Saved, tmp_path: Path) -> None:
    a, _ = saved(name)
    spec = MergeSpec("passthrough", slices=(Slice((SliceSource(str(a), 0, 2),)),))
    with pytest.raises(StockpotError, match=r"slices\.0: .* is an encoder–decoder .* `stack: encoder`"):
        merge_into(spec, tmp_path / "out", FAST)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FAMILIES)
def test_values_over_depth_run_over_the_language_model_alone(name: str, saved: Saved, tmp_path: Path) -> None:
    a, b = saved(name)
    models = (MergeModel(str(a), {"weight": (1.0, 0.0)}), MergeModel(str(b), {"weight": (0.0, 1.0)}))
    merge_into(MergeSpec("linear", models), tmp_path / "out", FAST)
    opened(name, tmp_path / "out")
    tensors = open_checkpoint(tmp_path / "out")
    stacks = FAMILIES[name].stacks
    for prefix in stacks:
        count = len(layers(tensors, prefix))
        expected = [1 + layer / (count - 1) for layer in range(count)]
        assert [value_of(tensors, f"{prefix}{layer}.") for layer in range(count)] == pytest.approx(expected)
    others: dict[str, Tensor] = {key: tensors[key] for key in tensors if not key.startswith(tuple(stacks))}
    assert {float(value) for tensor in others.values() for value in tensor.unique()} == {1.0}
