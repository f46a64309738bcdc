"""What a sweep over checkpoints says is what real runs give, bit for bit, wherever it says that it is exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from stockpot.comparisons import whatif
from stockpot.evaluation.pareto import best_index, knee, undominated_indices
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe
from stockpot.results import Results, WhatIf
from stockpot.runs.actions import add_task, continue_run, create_run
from stockpot.streams.spec import TaskSpec

Weights = dict[str, Tensor]
RAW = {"mode": "chain", "continue_from": "raw"}
HALF = {
    "wise_ft": {"name": "wise_ft", "alpha": 0.5},
    "task_arithmetic": {"name": "task_arithmetic", "scale": 0.5, **RAW},
    "ties": {"name": "ties", "scale": 1.0, **RAW},
    "soup": {"name": "soup", **RAW},
    "magmax": {"name": "magmax", "scale": 0.5, **RAW},
}
WISE_FT: dict[str, Any] = {"method": "WiSE-FT", "key": "alpha", "plain": 1.0}
AVERAGED = whatif.AVERAGED.format(last="second", **WISE_FT)
POST_HOC = whatif.POST_HOC.format(next="third", **WISE_FT)
NORMED = {"build": "stockpot.models.networks:cnn", "args": {"width": 4}}  # with running statistics
TASKS = [
    {"name": "first", "data": {"classes": [0, 1, 2]}},
    {"name": "second", "data": {"classes": [3, 4]}},
    {"name": "third", "data": {"classes": [5, 6, 7]}},
]
RECIPE: dict[str, Any] = {
    "model": {"build": "stockpot.models.networks:mlp", "args": {"inputs": 64, "hidden": [16]}},
    "data": {"path": "digits", "limit": 6},
    "tasks": TASKS,
    "controls": [{"name": "slanted", "data": {"classes": [0, 1, 2], "rotate": 20}}],
    "loop": "plain",
    "train": {"max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-2,
              "lr_scheduler_type": "constant", "use_cpu": True},
}  # fmt: skip


def learn(path: Path, method: dict[str, Any], **changes: Any) -> tuple[Results, list[Weights]]:
    """A run: its results, and its weights at the start and after each task."""
    recipe = validate(Recipe, {**RECIPE, "method": method, **changes}, "here")
    create_run(recipe, recipe.method, 0, path)
    return continue_run(path), chain(path)


def chain(path: Path) -> list[Weights]:
    return [load_file(folder / "model" / "model.safetensors") for folder in sorted((path / "tasks").iterdir())]


@dataclass(frozen=True)
class Sweep:
    """A sequential run, what was found of it, and the merged weights: method → point → task that is merged."""

    head: str
    results: Results
    chain: list[Weights]
    found: WhatIf
    merged: dict[str, list[list[Weights]]]


@dataclass(frozen=True)
class Pretrained:
    """A sweep of a run from a saved model, and what its recipe changes."""

    changes: dict[str, Any]
    sweep: Sweep


def swept(path: Path, *names: str, points: int = 3) -> tuple[WhatIf, dict[str, list[list[Weights]]]]:
    seen: list[Weights] = []
    evaluate = whatif.evaluate_model

    def noting(session: Any, model: torch.nn.Module, learnt: int) -> dict[str, Any]:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return evaluate(session, model, learnt)

    with pytest.MonkeyPatch.context() as patch, whatif.reading(path) as session:
        patch.setattr(whatif, "evaluate_model", noting)
        found = whatif.sweep(session, names or list(whatif.swept()), points)
    models = iter(seen)
    later = len(found.tasks) - (0 if whatif.FIRST in found.notes else 1)
    merged = {
        name: [[next(models) for _ in range(later)] for _ in method.points] for name, method in found.methods.items()
    }
    return found, merged


@pytest.fixture(scope="module", params=["all", "seen"])
def sweep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Three tasks of digits and a control, at three values of each strength."""
    path = tmp_path_factory.mktemp(request.param) / "run"
    results, weights = learn(path, {"name": "sequential"}, head=request.param)
    return Sweep(request.param, results, weights, *swept(path))


def lower(matrix: list[list[float | None]]) -> list[list[float | None]]:
    return [row[: index + 1] for index, row in enumerate(matrix)]


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(tensor.equal(other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "soup", "magmax"])
def test_merges_are_bitwise_those_of_a_real_run(name: str, sweep: Sweep, tmp_path: Path) -> None:
    middle = len(sweep.found.methods[name].points) // 2
    point, merged = sweep.found.methods[name].points[middle], sweep.merged[name][middle]
    results, real = learn(tmp_path / "real", HALF[name], head=sweep.head)
    assert same(merged[0], real[2]) and same(merged[1], real[3])
    assert not same(merged[1], sweep.chain[3])
    assert lower(point.scores.matrix) == lower(results.scores["accuracy"].matrix)
    assert point.scores.controls == results.scores["accuracy"].controls
    assert point.exact == [True, True, True]
    for metric in ("average_accuracy", "past_accuracy", "newest_accuracy", "forgetting", "average_over_time"):
        assert getattr(point.metrics, metric) == getattr(results.metrics, metric)


def test_wise_ft_is_a_real_run_up_to_the_second_task_and_only_so_far(sweep: Sweep, tmp_path: Path) -> None:
    method, merged = sweep.found.methods["wise_ft"], sweep.merged["wise_ft"]
    results, real = learn(tmp_path / "real", HALF["wise_ft"], head=sweep.head)
    assert same(merged[1][0], real[2]) and not same(merged[1][1], real[3])
    assert lower(method.points[1].scores.matrix)[:2] == lower(results.scores["accuracy"].matrix)[:2]
    assert [point.exact for point in method.points] == [[True, True, False], [True, True, False], [True, True, True]]
    neutral = method.points[-1]
    assert neutral.value == 1 and same(merged[-1][1], sweep.chain[3])
    assert lower(neutral.scores.matrix) == lower(sweep.results.scores["accuracy"].matrix)


def test_the_weights_are_the_equations(sweep: Sweep) -> None:
    start, _, second, third = ({name: t.double() for name, t in weights.items()} for weights in sweep.chain)
    for name, tensor in sweep.merged["wise_ft"][1][1].items():
        rows = len(second[name])  # of a head that grew, the rows that the second task's model had
        torch.testing.assert_close(tensor[:rows].double(), (third[name][:rows] + second[name]) / 2, rtol=0, atol=1e-6)
        assert tensor[rows:].equal(sweep.chain[3][name][rows:])
    for name, tensor in sweep.merged["task_arithmetic"][1][1].items():
        rows = len(start[name])
        torch.testing.assert_close(tensor[:rows].double(), (start[name] + third[name][:rows]) / 2, rtol=0, atol=1e-6)
    nothing = sweep.merged["magmax"][0][1]  # λ = 0
    assert all(nothing[name][: len(tensor)].equal(tensor) for name, tensor in sweep.chain[0].items())


def test_tasks_to_come_are_not_evaluated_and_the_start_is_scored_as_at_the_end(sweep: Sweep) -> None:
    found = sweep.found
    for method in found.methods.values():
        for point in method.points:
            assert [[score is None for score in row] for row in point.scores.matrix] == [
                [False, True, True], [False, False, True], [False, False, False]
            ]  # fmt: skip
            assert len(point.scores.controls["slanted"]) == 4
    assert found.start == found.methods["task_arithmetic"].points[0].scores.matrix[-1]
    assert found.plain == sweep.results.scores["accuracy"] and found.plain_metrics == sweep.results.metrics
    assert {whatif.OPTIMISTIC, whatif.ONE_SEED, whatif.RAW, AVERAGED, POST_HOC} == set(found.notes)
    assert WhatIf.model_validate_json(found.model_dump_json()) == found


def test_an_added_task_counts_and_two_tasks_leave_nothing_post_hoc(tmp_path: Path) -> None:
    for name, method in (("plain", {"name": "sequential"}), ("real", HALF["ties"])):
        learn(tmp_path / name, method, tasks=TASKS[:2], controls=[], model=NORMED)
    found, _ = swept(tmp_path / "plain", "wise_ft")
    assert all(all(point.exact) for point in found.methods["wise_ft"].points)
    assert found.notes == [whatif.OPTIMISTIC, whatif.ONE_SEED, AVERAGED]
    for name in ("plain", "real"):
        add_task(tmp_path / name, TaskSpec.model_validate(TASKS[2]))
        results = continue_run(tmp_path / name)
    found, merged = swept(tmp_path / "plain", "ties")
    assert same(merged["ties"][1][1], chain(tmp_path / "real")[3])
    assert lower(found.methods["ties"].points[1].scores.matrix) == lower(results.scores["accuracy"].matrix)


def test_the_strengths_are_what_they_are_shown_as() -> None:
    assert whatif.strengths("wise_ft", 11) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert whatif.strengths("ties", 3) == [0.0, 1.0, 2.0]
    assert whatif.strengths("soup", 11) == [None]
    assert all(float(f"{value:g}") == value for value in whatif.strengths("magmax", 8) if value is not None)


@pytest.mark.parametrize(
    ("points", "where"),
    [
        ([(0.0, 1.0), (0.5, 0.9), (1.0, 0.0)], 1),  # a bend outwards
        ([(0.0, 1.0), (0.2, 0.9), (0.9, 0.6), (1.0, 0.0)], 2),  # the farther of two
        ([(1.0, 0.0), (0.5, 0.9), (0.0, 1.0)], 1),  # the other way round
        ([(0.8, 0.2), (0.81, 0.19999), (0.82, 0.1)], 1),  # in a plane of unit width, whatever the units
        ([(0.0, 0.0), (0.2, 0.9), (0.6, 0.8), (1.0, 0.0)], 2),  # a start that is bad at both is no end of a trade-off
        ([(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)], None),  # straight
        ([(0.0, 1.0), (0.3, 0.3), (1.0, 0.0)], None),  # a bend inwards
        ([(0.0, 0.0), (1.0, 1.0)], None),  # no trade-off: one point is best at both
        ([(0.5, 0.5)], None),
        ([(0.5, 0.5), (0.5, 0.5)], None),
    ],
)
def test_the_knee_is_the_farthest_point_beyond_the_chord(points: list[tuple[float, float]], where: int | None) -> None:
    assert knee(points) == where


def test_the_knee_is_the_farthest_by_the_distance_of_a_point_to_a_line() -> None:
    generator = torch.Generator().manual_seed(0)
    found = 0
    for _ in range(50):
        points = [(float(x), float(y)) for x, y in torch.rand(12, 2, generator=generator, dtype=torch.float64)]
        front = undominated_indices(points)
        assert not any(
            x >= points[i][0] and y >= points[i][1] and (x, y) != points[i] for i in front for x, y in points
        )
        ends = sorted(points[i] for i in front)
        (x0, y0), (x1, y1) = ends[0], ends[-1]
        if x0 == x1:
            assert knee(points) is None
            continue
        # Brought to unit width the chord runs from (0, 1) to (1, 0).
        distances = {i: ((points[i][0] - x0) / (x1 - x0) + (points[i][1] - y1) / (y0 - y1) - 1) / 2**0.5 for i in front}
        farthest = max(distances, key=distances.__getitem__)
        assert knee(points) == (farthest if distances[farthest] > 1e-9 else None)
        found += knee(points) is not None
    assert found > 10


def test_of_equal_averages_the_least_strength_is_best() -> None:
    assert best_index([0.1, 0.5, 0.5]) == 1


PRETRAINED = {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 8, "num_hidden_layers": 1,
              "num_attention_heads": 2, "intermediate_size": 8}  # fmt: skip


@pytest.fixture(scope="module")
def from_a_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pretrained]:
    """A sequential run that began from a saved ViT, which has the head of the stream, or one of other classes."""

    @cache
    def make(head: str) -> Pretrained:
        folder = tmp_path_factory.mktemp("pretrained")
        torch.manual_seed(1)
        rows = 8 if head == "whole" else 5
        ViTForImageClassification(ViTConfig(**PRETRAINED, num_labels=rows)).save_pretrained(folder / "base")
        processor = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
        processor.save_pretrained(folder / "base")
        changes = {"model": {"name": str(folder / "base")}}
        results, weights = learn(folder / "run", {"name": "sequential"}, **changes)
        return Pretrained(changes, Sweep("all", results, weights, *swept(folder / "run")))

    return make


BY_DEFAULT = {("magmax", "whole"), ("wise_ft", "new head")}  # those of the default tier


@pytest.mark.parametrize(
    ("name", "head"),
    [  # a pretrained start and a real run for each: of seconds
        pytest.param(name, head, marks=() if (name, head) in BY_DEFAULT else pytest.mark.thorough)
        for head in ("whole", "new head")
        for name in whatif.swept()
    ],
)
def test_what_is_called_exact_of_a_pretrained_start_is_bitwise_a_real_run(
    name: str, head: str, from_a_checkpoint: Callable[[str], Pretrained], tmp_path: Path
) -> None:
    """There first_task is average: real runs average or merge the first task, too."""
    start = from_a_checkpoint(head)
    sweep = start.sweep
    middle = len(sweep.found.methods[name].points) // 2
    point, merged = sweep.found.methods[name].points[middle], sweep.merged[name][middle]
    results, _ = learn(tmp_path / "real", HALF[name], **start.changes)
    assert results.method["first_task"] == "average"
    real = [ViTForImageClassification.from_pretrained(folder / "model").state_dict()  # files have other names
            for folder in sorted((tmp_path / "real" / "tasks").iterdir())[1:]]  # fmt: skip
    alike = [same(made, weights) for made, weights in zip(merged, real, strict=True)]
    assert point.exact == alike == ([True, False, False] if name == "wise_ft" else [True, True, True])
    exact = sum(point.exact)
    recorded = results.scores["accuracy"]
    assert lower(point.scores.matrix)[:exact] == lower(recorded.matrix)[:exact]
    assert point.scores.controls["slanted"][: 1 + exact] == recorded.controls["slanted"][: 1 + exact]
    assert whatif.FIRST in sweep.found.notes and whatif.AVERAGED.format(last="first", **WISE_FT) in sweep.found.notes
