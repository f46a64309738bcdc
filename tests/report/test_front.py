"""The front draws the comparison's numbers, in order of strength, and marks what nothing beats."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from stockpot.comparisons.front import point_of
from stockpot.report import formatting, front_facts, front_figures
from stockpot.results import Cell

Factory = Callable[..., Any]


def drawn(chart: Any) -> dict[str, list[dict[str, Any]]]:
    """Label → its points as they are drawn."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in chart.spec["data"]["values"]:
        rows.setdefault(row["method"], []).append(row)
    return rows


def places(comparison: Any) -> dict[str, list[tuple[float, float]]]:
    return {
        label: [(p.newest_accuracy.mean, p.past_accuracy.mean) for p in line]
        for label, line in front_facts.curves(comparison).items()
    }


def test_a_line_runs_through_the_strengths_in_order_of_value(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    assert [point.value for point in comparison.front[:3]] == [0.5, 0.25, 0.1]
    assert {label: [p.value for p in line] for label, line in front_facts.curves(comparison).items()} == {
        label: [0.1, 0.25, 0.5] for label in ("sfa", "wise_ft", "replay")
    }
    lines = drawn(front_figures.front_figure(comparison))
    assert {label: [(p["newest"], p["past"]) for p in line] for label, line in lines.items()} == places(comparison)
    assert [point["place"] for point in lines["sfa"]] == [0, 1, 2]  # the order in which the line runs


def test_marks_are_filled_on_the_front_and_dashes_join_them(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    chart = front_figures.front_figure(comparison)
    best = front_facts.undominated(comparison)
    assert 0 < len(best) < len(comparison.front)
    for label, line in front_facts.curves(comparison).items():
        assert [point["front"] for point in drawn(chart)[label]] == [any(p is b for b in best) for p in line]
    filled = {layer["transform"][0]["filter"]: layer["mark"]["filled"] for layer in chart.spec["layer"]
              if "filled" in layer["mark"]}  # fmt: skip
    assert filled == {"datum.front": True, "!datum.front": False}
    (stairs,) = [layer for layer in chart.spec["layer"] if layer["mark"].get("interpolate")]
    at = [(row["newest"], row["past"]) for row in stairs["data"]["values"]]
    assert at == sorted((p.newest_accuracy.mean, p.past_accuracy.mean) for p in best)


def test_the_table_has_every_point_with_its_costs(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    grid = front_facts.front_grid(comparison)
    points = [point for line in front_facts.curves(comparison).values() for point in line]
    best = {id(point) for point in front_facts.undominated(comparison)}
    assert [name for name, _ in grid.rows] == [f"{p.method}, beta {p.value:g}" for p in points]
    for point, (_, values) in zip(points, grid.rows, strict=True):
        row = dict(zip(grid.headings, values, strict=True))
        assert (row["on the front"] == front_facts.ON_FRONT) == (id(point) in best)
        assert row["earlier tasks"] == formatting.score_with_interval(point.past_accuracy)
        assert row["newest task"] == formatting.score_with_interval(point.newest_accuracy)
        assert row["training"] == formatting.seconds(point.training_seconds.mean)
        assert row["extra memory"] == formatting.bytes_text(point.extra_memory_bytes.mean)
        assert row["noise since the start"] == formatting.signed(point.controls["noise"].mean)
    stored = {name: values[grid.headings.index("stored between tasks")] for name, values in grid.rows}
    assert (stored["sfa, beta 0.1"], stored["sfa, beta 0.5"]) == ("none", "200 kB models")
    assert stored["replay, beta 0.5"] == "1.26 MB data, 200 kB models"


def test_many_methods_have_a_panel_each(comparison_of: Factory, many_methods: dict[str, Any]) -> None:
    comparison, _ = comparison_of(2, dict(list(many_methods.items())[:12]), front=True)
    lines = front_facts.curves(comparison)
    assert len(lines) > front_facts.FEW_LINES
    whole, panels = front_figures.front_figure(comparison).spec, front_figures.front_panels(comparison)
    assert not [layer for layer in whole["layer"] if layer["mark"]["type"] == "text"]
    (colour, *_) = [layer["encoding"]["color"] for layer in whole["layer"] if "color" in layer["encoding"]]
    assert colour["scale"]["domain"][: len(lines)] == [f"{label} (beta)" for label in lines]
    assert panels.spec["facet"]["sort"] == [f"{label} (beta)" for label in lines]
    ends = {point["end"]: point["strength"] for point in drawn(panels)["sfa"]}
    assert (ends["low"], ends["high"]) == ("0.1", "0.5")
    grey = panels.spec["spec"]["layer"][0]["data"]["values"]
    assert {row["method"] for row in grey} == set(lines)


def test_up_and_right_is_better_where_lower_scores_are(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    flipped = comparison.model_copy(update={"higher_is_better": False})
    whole, panels = front_figures.front_figure(flipped).spec, front_figures.front_panels(flipped).spec["spec"]
    for layer in (*whole["layer"], *panels["layer"]):
        assert layer["encoding"]["x"]["scale"]["reverse"] and layer["encoding"]["y"]["scale"]["reverse"]


def test_floor_and_ceiling_are_reference_marks(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    layers = front_figures.front_figure(comparison).spec["layer"]
    references = {row["method"]: row for row in layers[-1]["data"]["values"]}
    assert set(references) == {"sequential", "joint"}
    for label, row in references.items():
        summary = comparison.methods[label]
        assert (row["newest"], row["past"]) == (summary.newest_accuracy.mean, summary.past_accuracy.mean)
    labels = [layer["transform"][0]["filter"] for layer in layers if layer["mark"]["type"] == "text"]
    assert labels == ["datum.end == 'low'", "datum.end == 'high'"]


def test_the_pareto_front_is_what_no_other_mean_beats(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    points = [point for line in front_facts.curves(comparison).values() for point in line]
    floor = comparison.methods["sequential"]
    rivals = [(p.newest_accuracy.mean, p.past_accuracy.mean) for p in [*points, floor]]

    def beaten(point: Any) -> bool:
        x, y = point.newest_accuracy.mean, point.past_accuracy.mean
        return any(a >= x and b >= y and (a > x or b > y) for a, b in rivals)

    assert front_facts.undominated(comparison) == [point for point in points if not beaten(point)]
    flipped = comparison.model_copy(update={"higher_is_better": False})
    lower = front_facts.undominated(flipped)
    for one, other in itertools.permutations(lower, 2):
        a, b = (
            (one.newest_accuracy.mean, one.past_accuracy.mean),
            (other.newest_accuracy.mean, other.past_accuracy.mean),
        )
        assert not (a[0] <= b[0] and a[1] <= b[1] and a != b)


def test_joint_training_beats_nothing_off_the_front_and_plain_fine_tuning_does(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(
        3, {"sequential": {}, "sfa": {"keep": 0.9, "peak": 0.9}, "joint": {"keep": 1.0}}, front=True
    )
    assert front_facts.undominated(comparison)
    high = dict.fromkeys(("past_accuracy", "newest_accuracy"), comparison.methods["joint"].past_accuracy)
    comparison.methods["sequential"] = comparison.methods["sequential"].model_copy(update=high)
    assert front_facts.undominated(comparison) == []
    [text] = front_facts.front_facts(comparison)
    assert text.startswith("On the Pareto front: 0 of 3,")
    assert {values[0] for _, values in front_facts.front_grid(comparison).rows} == {formatting.MISSING}


def test_the_fact_counts_the_front_and_names_the_rivals_that_were_there(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True, orders=2)
    [text] = front_facts.front_facts(comparison)
    front = front_facts.undominated(comparison)
    assert text.startswith(f"On the Pareto front: {len(front)} of 9,") and "3 seeds × 2 orders" in text
    assert "no other point, nor plain fine-tuning, has means as good" in text
    alone, _ = comparison_of(3, {"sfa": {"keep": 0.9}, "ewc": {"keep": 0.5}}, front=True)
    [text] = front_facts.front_facts(alone)
    assert "plain fine-tuning" not in text and "no other point has" in text
    nothing = alone.model_copy(update={"front": []})
    assert front_facts.front_facts(nothing) == []


def test_points_that_were_not_measured_are_left_out(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    hole = comparison.front[0].past_accuracy.model_copy(update={"mean": None})
    comparison.front[0] = comparison.front[0].model_copy(update={"past_accuracy": hole})
    assert [p.value for p in front_facts.curves(comparison)["sfa"]] == [0.1, 0.25]


def test_controls_have_columns_only_where_every_point_has_them(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    for step, point in enumerate(comparison.front):
        point.controls["noise"] = point.controls["noise"].model_copy(update={"mean": -0.1 * step})
    grid = front_facts.front_grid(comparison)
    changes = {name: values[-1] for name, values in grid.rows}
    assert [changes[f"sfa, beta {value}"] for value in (0.5, 0.25, 0.1)] == ["+0.000", "−0.100", "−0.200"]
    comparison.front[0].controls.clear()
    assert front_facts.front_grid(comparison).headings[-1] == "stored between tasks"


def test_a_control_of_losses_is_worse_where_it_grows(run_of: Factory) -> None:
    run = run_of("sfa", K=2)
    losses = run.scores["accuracy"].model_copy(
        update={"higher_is_better": False, "unit": "nats", "controls": {"general": [4.0, 4.2, 4.5]}}
    )
    harmed = run.model_copy(update={"scores": {"accuracy": losses}})
    point = point_of("sfa", "beta", 0.5, [Cell(seed=0, order=0, run="here")], {(0, 0): harmed})
    assert point.controls["general"].mean == pytest.approx(-0.5)


def test_captions_say_only_what_the_figure_shows(comparison_of: Factory, many_methods: dict[str, Any]) -> None:
    comparison, _ = comparison_of(3, front=True)
    whole = front_facts.front_caption(comparison)
    assert "joined by dashes" in whole and "its ends labelled" in whole
    many, _ = comparison_of(2, dict(list(many_methods.items())[:12]), front=True)
    assert "labelled" not in front_facts.front_caption(many)
    high = dict.fromkeys(("past_accuracy", "newest_accuracy"), comparison.methods["joint"].past_accuracy)
    comparison.methods["sequential"] = comparison.methods["sequential"].model_copy(update=high)
    assert front_facts.undominated(comparison) == []
    assert "joined by dashes" not in front_facts.front_caption(comparison)


def test_the_runs_behind_the_fact_are_those_of_all_points(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    fewer = comparison.front[-1].model_copy(update={"cells": comparison.front[-1].cells[:2]})
    comparison.front[-1] = fewer
    assert "2 to 3 seeds × 1 order)" in front_facts.front_facts(comparison)[0]
