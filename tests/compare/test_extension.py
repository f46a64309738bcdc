"""A search that ends at an end goes on beyond it, and every other method gets as many trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toy import config

from stockpot.comparisons.cells import CellPlan, contenders
from stockpot.comparisons.extension import best_keys, further_points, keys_at_ends, round_size
from stockpot.comparisons.running import CellRunner, ShardDone
from stockpot.comparisons.tuning import tune
from stockpot.methods import registry
from stockpot.methods.declare.space import Choices, Range
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe
from stockpot.results import Trial, Tuning
from stockpot.runs.progress import Progress
from stockpot.training.job import Stop

PUBLISHED = [("si", "strength", 3000), ("l2", "strength", 200), ("ewc", "strength", 1e5), ("ewc", "strength", 1e8),
             ("task_arithmetic", "scale", 0.05), ("ties", "scale", 0.1), ("ties", "scale", 1.8), ("mas", "strength", 1),
             ("wise_ft", "alpha", 0.5), ("lwf", "strength", 1), ("replay", "logits_weight", 0.1)]  # fmt: skip
Score = Callable[[Any], float | None]


@pytest.mark.parametrize(("name", "key", "value"), PUBLISHED)
def test_published_strengths_lie_in_the_range_that_is_searched(name: str, key: str, value: float) -> None:
    one = registry()[name].config_type.space[key]
    assert isinstance(one, Range) and one.low <= value <= one.high


def test_beyond_a_range_come_quarters_of_its_width() -> None:
    assert Range(1, 1e8, log=True).beyond(1e8, upwards=True) == pytest.approx(1e10)
    assert Range(1, 1e8, log=True).beyond(1, upwards=False) == pytest.approx(1e-2)
    assert Range(2, 10).beyond(10, upwards=True) == 12
    assert Range(2, 10).beyond(2, upwards=False) == 0


def test_a_mathematical_limit_is_reached_and_never_passed() -> None:
    beta = Range(0.05, 0.95, limits=(0, 1))
    values = [0.95]
    while (value := beta.beyond(values[-1], upwards=True)) is not None:
        values.append(value)
    assert values == pytest.approx([0.95, 0.975, 0.9875, 1.0])
    density = Range(0.05, 0.9, log=True, limits=(0, 1))
    assert density.beyond(0.9, upwards=True) == 1.0 and density.beyond(1.0, upwards=True) is None
    low = density.beyond(0.05, upwards=False)
    assert low is not None and 0 < low < 0.05  # a logarithm has no lower end


def test_what_is_tried_beyond_an_end_differs_from_the_best_in_that_key_alone() -> None:
    space = {"p": Range(0.1, 1, log=True, limits=(0, 1)), "beta": Range(0, 10)}
    tried = [{"p": p, "beta": b} for p in (0.1, 0.5, 1.0) for b in (0.0, 5.0, 10.0)]
    assert further_points(space, "beta", {"p": 0.5, "beta": 10.0}, tried, 2) == [
        {"p": 0.5, "beta": 12.5},
        {"p": 0.5, "beta": 15.0},
    ]
    both = further_points(space, "beta", {"p": 0.1, "beta": 10.0}, tried, 3)  # the strength first, in turns
    assert [(point["beta"], point["p"]) for point in both] == [
        (12.5, 0.1), (10.0, pytest.approx(0.1 * 0.1**0.25)), (15.0, 0.1),
    ]  # fmt: skip


def test_a_method_at_no_end_halves_the_gaps_beside_its_best() -> None:
    space = {"x": Range(1, 1e4, log=True)}
    tried = [{"x": value} for value in (1.0, 1e2, 1e4)]
    points = [math.log10(point["x"]) for point in further_points(space, "x", {"x": 1e2}, tried, 4)]
    assert sorted(points[:2]) == pytest.approx([1, 3]) and sorted(points[2:]) == pytest.approx([1.5, 2.5])
    assert further_points({"x": Choices((1, 2, 3))}, "x", {"x": 3}, [{"x": 1}, {"x": 3}], 3) == []


def test_an_end_is_the_outermost_value_that_was_tried() -> None:
    space = {
        "beta": Range(0.05, 0.95, limits=(0, 1)),
        "p": Range(0.05, 1, log=True, limits=(0, 1)),
        "k": Choices((1, 2)),
    }
    tried = [{"beta": b, "p": 1.0 if b > 0.5 else 0.3, "k": 1} for b in (0.1, 0.4, 0.7)]
    assert keys_at_ends(tried[2], tried, space) == ({"beta": True}, {"p": True})  # no p beyond 1
    assert keys_at_ends(tried[1], tried, space) == ({"p": False}, {})
    assert keys_at_ends(tried[0], tried[:1], space) == ({}, {})  # a single value was not searched


def test_of_equal_scores_the_first_at_no_end_is_the_best() -> None:
    space = {"x": Range(0, 10)}
    trials = [Trial(keys={"x": x}, score=score, run="") for x, score in ((0, 0.5), (10, None), (3, 0.5), (5, 0.5))]
    assert best_keys(trials, space, 1) == {"x": 3}
    assert best_keys(trials[:2], space, 1) == {"x": 0}
    assert best_keys([Trial(keys={"x": 0}, score=2.0, run=""), Trial(keys={"x": 1}, score=1.0, run="")], space, -1) == {
        "x": 1
    }
    assert best_keys(trials[1:2], space, 1) is None


class Scored(CellRunner):
    """A comparison whose cells are not run: a function of the method is their score."""

    score: Score
    cells: list[CellPlan]

    def run(self, cells: Sequence[CellPlan]) -> list[Any]:
        self.cells += cells
        values = [self.score(cell.method) for cell in cells]
        return [
            (cell, None if value is None else SimpleNamespace(metrics=SimpleNamespace(average_accuracy=value)))
            for cell, value in zip(cells, values, strict=True)
        ]


def near(**best: float) -> Score:
    """Highest where each method's strength is that of `best`, by name, in its logarithm."""

    def score(method: Any) -> float:
        return -abs(math.log(getattr(method, method.strength_key) / best[method.name]))

    return score


@pytest.fixture
def tuned(digits_recipe: dict[str, Any], tmp_path: Path) -> Callable[..., tuple[Tuning, Scored]]:
    def run(score: Score, names: Sequence[str], **asked: Any) -> tuple[Tuning, Scored]:
        compare = [{"name": name, **({"p": 0.25} if name == "sfa" else {})} for name in names]
        recipe = validate(Recipe, {**digits_recipe, "compare": compare, "tune": {"trials": 6, **asked}}, "here")
        assert recipe.tune is not None
        work = Scored(recipe, tmp_path, Stop(), Progress())
        work.score, work.cells = score, []
        return tune(work, recipe.tune, contenders(recipe))[1], work

    return run


@pytest.mark.parametrize("search", ["grid", "random", "optuna"])
def test_all_methods_get_as_many_trials_until_the_best_is_inside(search: str, tuned: Any) -> None:
    if search == "optuna":
        pytest.importorskip("optuna", reason='needs pip install "stockpot[tune]"')
    tuning, work = tuned(near(ewc=3e10, si=3000, lwf=1), ["ewc", "si", "lwf"], search=search)
    counts = {label: len(trials) for label, trials in tuning.methods.items() if trials}
    assert set(counts.values()) == {6 + tuning.further_trials}
    assert 1 <= tuning.extensions <= 3 and tuning.further_trials == tuning.extensions * round_size(6)
    assert not tuning.at_end and not tuning.at_limit
    assert tuning.chosen["ewc"]["strength"] == pytest.approx(3e10, rel=10)
    assert abs(math.log10(tuning.chosen["si"]["strength"] / 3000)) <= 0.7
    folders = [(cell.method.name, cell.path.parent.name) for cell in work.cells]
    assert len(folders) == len(set(folders)) == sum(counts.values())
    again, _ = tuned(near(ewc=3e10, si=3000, lwf=1), ["ewc", "si", "lwf"], search=search)
    assert again == tuning  # a comparison that was stopped finds the trials that it ran


def test_a_search_at_no_end_is_not_extended(tuned: Any) -> None:
    tuning, _ = tuned(near(ewc=1e4, si=30), ["ewc", "si"])
    assert (tuning.extensions, tuning.further_trials, tuning.at_end) == (0, 0, {})
    assert {len(trials) for trials in tuning.methods.values() if trials} == {6}


def test_after_the_last_round_an_end_is_said(tuned: Any) -> None:
    tuning, _ = tuned(near(ewc=1e30, si=30), ["ewc", "si"])
    assert (tuning.extensions, tuning.further_trials) == (3, 6)
    assert tuning.chosen["ewc"]["strength"] == pytest.approx(1e20)
    assert tuning.at_end == {"ewc": {"strength": tuning.chosen["ewc"]["strength"]}}
    assert tuning.ranges["ewc"] == {"strength": [1, 1e8]}
    none, _ = tuned(near(ewc=1e30, si=30), ["ewc", "si"], extensions=0)
    assert none.at_end == {"ewc": {"strength": 1e8}} and none.further_trials == 0


def test_a_limit_is_no_end(tuned: Any) -> None:
    tuning, _ = tuned(lambda method: method.beta if method.name == "sfa" else 0.5, ["sfa"])
    assert tuning.chosen["sfa"] == {"beta": 1.0}
    assert (tuning.at_end, tuning.at_limit) == ({}, {"sfa": {"beta": 1.0}})


def test_trials_that_diverge_beyond_the_end_leave_the_best_inside(tuned: Any) -> None:
    tuning, _ = tuned(lambda method: math.log(method.strength) if method.strength <= 1e8 else None, ["ewc"])
    assert tuning.chosen["ewc"] == {"strength": 1e8} and tuning.at_end == {} and tuning.extensions == 1


def test_the_recipe_says_where_a_search_begins(tuned: Any) -> None:
    ranges = {"ewc": {"strength": [10.0, 1000.0]}}
    tuning, work = tuned(near(ewc=100, si=30), ["ewc", "si"], ranges=ranges)
    assert sorted({cell.method.strength for cell in work.cells if cell.method.name == "ewc"}) == pytest.approx(
        Range(10, 1000, log=True).grid(6)
    )
    assert tuning.ranges["ewc"] == {"strength": [10, 1000]}


def test_no_time_is_left_for_rounds_beyond_the_end(tuned: Any) -> None:
    tuning, _ = tuned(near(ewc=1e30), ["ewc"], minutes=1e-9)
    assert (tuning.trials, tuning.extensions) == (1, 0)
    again, _ = tuned(near(ewc=1e30), ["ewc"], minutes=100.0)
    assert (again.trials, again.extensions) == (1, 0)


def test_shards_share_each_round_out(digits_recipe: dict[str, Any], tmp_path: Path) -> None:
    """No shard goes on before the scores of all are there."""
    train = {**digits_recipe["train"], "max_steps": 1}
    values = {**digits_recipe, "train": train, "loop": "plain", "compare": [{"name": "wise_ft"}],
              "tune": {"trials": 2, "extensions": 1}}  # fmt: skip
    recipe = validate(Recipe, values, "here")
    assert recipe.tune is not None

    def shard(number: int) -> Tuning:
        assert recipe.tune is not None
        work = CellRunner(recipe, tmp_path, Stop(), Progress(), shard=(number, 2))
        return tune(work, recipe.tune, contenders(recipe))[1]

    with pytest.raises(ShardDone, match="Shard 1/2 is done: 1 of 2"):
        shard(1)
    with pytest.raises(ShardDone, match="Shard 2/2 is done: 0 of 1"):
        shard(2)  # of the round beyond the end, the one run is the first shard's
    tuning = shard(1)
    assert len(list(tmp_path.glob("tuning/wise_ft/*/*/results.json"))) == len(tuning.methods["wise_ft"])


def test_every_method_takes_what_lies_beyond_its_ranges() -> None:
    for name in registry():
        method = config(name)
        for key, one in method.searched().items():
            for upwards in (False, True) if isinstance(one, Range) else ():
                value: float | None = (one.low, one.high)[upwards]
                for _ in range(6):
                    value = one.beyond(value, upwards) if value is not None else None
                    if value is not None:
                        assert getattr(config(name, **{key: value}), key) == value
