"""How parameters were chosen is said whole: search, trials, seeds, split, and what had nothing to tune."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from stockpot.report import tuning_section
from stockpot.report.search_ends import searched_strength
from stockpot.results import Trial

Factory = Callable[..., Any]


def panels(comparison: Any) -> dict[str, dict[str, Any]]:
    """Label → its panel of the picture."""
    return {panel["title"]: panel for panel in tuning_section.tuning_figure(comparison).spec["concat"]}


def test_the_search_is_described(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, tuned=True)
    first, nothing, *_ = tuning_section.tuning_facts(comparison)
    for words in (
        "grid, 4 trials for each method, 2 seeds (100, 101)",
        "by average accuracy",
        "a tenth of each task's",
    ):
        assert words in first
    assert nothing == "No parameters to tune: sequential fine-tuning and joint training."


def test_rows_are_the_choices_and_the_best_trials(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, tuned=True)
    grid = tuning_section.tuning_grid(comparison)
    assert [name for name, _ in grid.rows] == ["replay", "sfa", "wise_ft"]  # best average of the reported runs first
    for label, (chosen, score, trials) in grid.rows:
        best = max(trial.score for trial in comparison.tuning.methods[label])
        assert score == f"{best:.3f}" and trials == "4"
        assert chosen.removesuffix(" (end)") == f"beta {comparison.tuning.chosen[label]['beta']:g}"


def test_a_choice_at_the_end_of_the_range_is_said(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, tuned=True)
    assert comparison.tuning.chosen["sfa"] == {"beta": 0.05} and comparison.tuning.chosen["wise_ft"] == {"beta": 0.1}
    grid = tuning_section.tuning_grid(comparison)
    chosen = {name: values[0] for name, values in grid.rows}
    assert chosen["sfa"] == "beta 0.05 (end)" and chosen["wise_ft"] == "beta 0.1"
    assert "end: the outermost value tried" in grid.caption


def test_diverged_trials_are_counted_and_not_drawn(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, tuned=True)
    trials = comparison.tuning.methods["sfa"]
    trials[3] = trials[3].model_copy(update={"score": None})
    assert dict(tuning_section.tuning_grid(comparison).rows)["sfa"][2] == "4 (1 diverged)"
    assert [row["strength"] for row in panels(comparison)["sfa"]["data"]["values"]] == [0.05, 0.1, 0.25]


def test_the_picture_shows_every_trial_and_the_chosen_one(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, tuned=True)
    for label, panel in panels(comparison).items():
        trials, rows = comparison.tuning.methods[label], panel["data"]["values"]
        assert [(row["strength"], row["score"]) for row in rows] == [(t.keys["beta"], t.score) for t in trials]
        assert [row["strength"] for row in rows if row["chosen"]] == [comparison.tuning.chosen[label]["beta"]]
        assert panel["layer"][-1]["encoding"]["x"]["title"] == "beta"


def test_several_parameters_are_drawn_by_the_number_of_the_trial(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, tuned=True)
    trials = [Trial(keys={"beta": 0.1 * k, "p": 1}, score=0.5 + 0.1 * k, run="") for k in range(3)]
    comparison.tuning.methods["sfa"] = trials
    assert searched_strength(trials) is None
    panel = panels(comparison)["sfa"]
    assert [row["strength"] for row in panel["data"]["values"]] == [1, 2, 3]
    assert panel["layer"][0]["mark"]["type"] == "point"  # trials have no order that a line could run in
    assert panel["layer"][0]["encoding"]["x"]["title"] == "trial"


@pytest.mark.parametrize(("values", "scale"), [([0.1, 1.0, 10.0], "log"), ([0.1, 0.2, 0.5], "linear"), ([0, 1, 100], "linear")])  # fmt: skip  # noqa: E501
def test_strengths_over_decades_are_drawn_by_their_logarithm(
    comparison_of: Factory, values: list[float], scale: str
) -> None:
    comparison, _ = comparison_of(3, {"sequential": {}, "ewc": {"keep": 0.5}}, tuned=True)
    comparison.tuning.methods["ewc"] = [Trial(keys={"strength": v}, score=0.5, run="") for v in values]
    axis = panels(comparison)["ewc"]["layer"][-1]["encoding"]["x"]
    assert axis["scale"].get("type", "linear") == scale


def test_a_search_that_found_its_best_inside_says_nothing_of_ends_extensions_or_divergence(
    comparison_of: Factory,
) -> None:
    comparison, _ = comparison_of(3, tuned=True)
    inside = {label: {"beta": 0.1} for label in comparison.tuning.chosen}
    comparison = comparison.model_copy(update={"tuning": comparison.tuning.model_copy(update={"chosen": inside})})
    text = str((tuning_section.tuning_facts(comparison), tuning_section.tuning_grid(comparison)))
    for words in ("end", "limit", "extended", "diverged", "at most"):
        assert not re.search(rf"\b{words}\b", text)
    everything, _ = comparison_of(3, {"sfa": {"keep": 0.9}, "ewc": {"keep": 0.5}}, tuned=True)
    assert "No parameters to tune" not in " ".join(tuning_section.tuning_facts(everything))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"extensions": 1, "further_trials": 2},
            "the search was extended 1 time: up to 2 further trials for each method",
        ),
        ({"extensions": 3, "further_trials": 6}, "the search was extended 3 times: up to 6 further trials"),
        ({"at_limit": {"sfa": {"beta": 1.0}}}, "limit: a mathematical limit, beyond which nothing lies"),
        ({"trials": 1, "seeds": [7]}, "1 trial for each method, 1 seed (7)"),
        ({"at_end": {}}, ""),
    ],
)
def test_what_became_of_the_search_is_said_as_it_is_recorded(
    changes: dict[str, Any], words: str, comparison_of: Factory
) -> None:
    comparison, _ = comparison_of(3, tuned=True)
    changed = comparison.model_copy(update={"tuning": comparison.tuning.model_copy(update=changes)})
    text = str((tuning_section.tuning_facts(changed), tuning_section.tuning_grid(changed)))
    assert words in text
    if "at_end" in changes:  # recorded: no choice lies at an end, whatever its trials look like
        assert "(end)" not in text


def test_a_grid_of_fewer_points_is_not_said_to_have_as_many_trials(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, tuned=True)
    del comparison.tuning.methods["sfa"][3]
    assert "grid, at most 4 trials for each method" in tuning_section.tuning_facts(comparison)[0]
