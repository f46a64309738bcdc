"""The front draws the comparison's numbers, in order of strength, and marks what nothing beats."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.collections import PathCollection

from stockpot.compare.front import point_of
from stockpot.report import front_captions, front_facts, front_figures
from stockpot.results import Cell

Factory = Callable[..., Any]


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
    lines = front_figures.front_figure(comparison).axes[0].lines
    drawn = [[(float(x), float(y)) for x, y in line.get_xydata()] for line in lines]
    assert drawn[:3] == list(places(comparison).values())


def test_marks_stand_at_the_numbers_filled_on_the_front_with_time_and_memory_as_areas(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    found = [m for m in front_figures.front_figure(comparison).axes[0].collections if isinstance(m, PathCollection)]
    discs, marks = found[::2], found[1::2]
    best = front_facts.undominated(comparison)
    assert 0 < len(best) < len(comparison.front)
    plain = comparison.methods["sequential"].training_seconds.mean
    bytes_of = {id(p): p.extra_memory_bytes.mean + p.stored_bytes.mean for p in comparison.front}
    for line, disc, mark in zip(front_facts.curves(comparison).values(), discs, marks, strict=True):
        own = [(p.newest_accuracy.mean, p.past_accuracy.mean) for p in line]
        assert [tuple(xy) for xy in mark.get_offsets()] == [tuple(xy) for xy in disc.get_offsets()] == own
        assert [face[3] > 0 for face in mark.get_facecolor()] == [any(p is b for b in best) for p in line]
        assert mark.get_sizes() == pytest.approx([30 * p.training_seconds.mean / plain for p in line])
        assert disc.get_sizes() == pytest.approx([500 * bytes_of[id(p)] / max(bytes_of.values()) for p in line])


def test_of_many_methods_those_on_the_front_are_named_and_each_has_a_panel(
    comparison_of: Factory, many_methods: dict[str, Any]
) -> None:
    comparison, _ = comparison_of(2, dict(list(many_methods.items())[:12]), front=True)
    lines = front_facts.curves(comparison)
    assert len(lines) > front_figures.FEW_LINES
    on_front = {point.method for point in front_facts.undominated(comparison)}
    named = {text.get_text().rpartition(" ")[0] for text in front_figures.front_figure(comparison).axes[0].texts}
    assert named - {""} == on_front
    panels = front_figures.front_panels(comparison).axes
    assert [axes.get_title(loc="left") for axes in panels if axes.get_visible()] == [f"{one} (beta)" for one in lines]
    assert [text.get_text() for text in panels[0].texts] == ["0.1", "0.5"]


def test_up_and_right_is_better_where_lower_scores_are(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    flipped = comparison.model_copy(update={"higher_is_better": False})
    for axes in (front_figures.front_figure(flipped).axes[0], front_figures.front_panels(flipped).axes[0]):
        assert axes.xaxis_inverted() and axes.yaxis_inverted()


def test_floor_and_ceiling_are_reference_marks(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    axes = front_figures.front_figure(comparison).axes[0]
    drawn = [tuple(line.get_xydata()[0]) for line in axes.lines if len(line.get_xydata()) == 1]
    wanted = [comparison.methods[label] for label in ("sequential", "joint")]
    assert drawn == [(s.newest_accuracy.mean, s.past_accuracy.mean) for s in wanted]
    labels = {text.get_text() for text in axes.texts}
    assert {"sequential", "joint", "sfa beta 0.1", "0.5"} <= labels and "0.25" not in labels


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
    text, _ = front_facts.front_sentences(comparison)
    assert text.startswith("None of the 3 points is on the Pareto front")


def test_the_sentence_counts_and_names_the_front(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True, orders=2)
    text, _ = front_facts.front_sentences(comparison)
    found = front_facts.undominated(comparison)
    assert text.startswith(f"{len(found)} of the 9 points ") and "3 seeds × 2 orders" in text
    assert "rehearsal (beta = " in text and "WiSE-FT" not in text


def test_the_bytes_beside_it(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    panel = front_figures.front_figure(comparison).axes[1]
    drawn = [sorted(float(x) for x, _ in m.get_offsets()) for m in panel.collections]
    line = front_facts.curves(comparison)["sfa"]
    wanted = [sorted({getattr(p, key).mean for p in line}) for key in ("extra_memory_bytes", "stored_bytes")]
    assert drawn[0] == wanted[0] and drawn[1] == pytest.approx([wanted[1][0], wanted[1][-1]])


def test_points_that_were_not_measured_are_left_out(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    hole = comparison.front[0].past_accuracy.model_copy(update={"mean": None})
    comparison.front[0] = comparison.front[0].model_copy(update={"past_accuracy": hole})
    assert [p.value for p in front_facts.curves(comparison)["sfa"]] == [0.1, 0.25]


def test_what_is_stored_stands_beside_it_by_its_name(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    texts = {text.get_text() for text in front_figures.front_figure(comparison).axes[1].texts}
    assert texts == {"models", "data, models"}  # at the stronger values, each point stores models
    nothing, _ = comparison_of(2, {"sequential": {}, "sfa": {"keep": 0.9}}, front=True)
    bare = nothing.front[0].stored_model_bytes
    nothing.front[:] = [point.model_copy(update={"stored_model_bytes": bare.model_copy(update={"mean": 0.0}),
                                                 "stored_bytes": bare.model_copy(update={"mean": 0.0})})
                        for point in nothing.front]  # fmt: skip
    assert not list(front_figures.front_figure(nothing).axes[1].texts)


def test_a_control_has_a_panel_and_a_sentence(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    for step, point in enumerate(comparison.front):
        point.controls["noise"] = point.controls["noise"].model_copy(update={"mean": -0.1 * step})
    panel = front_figures.front_figure(comparison).axes[2]
    marks = [m for m in panel.collections if isinstance(m, PathCollection)]
    best = {id(point) for point in front_facts.undominated(comparison)}
    for line, mark in zip(front_facts.curves(comparison).values(), marks, strict=True):
        drawn = {x: face[3] > 0 for (x, _), face in zip(mark.get_offsets(), mark.get_facecolor(), strict=True)}
        assert drawn == {point.controls["noise"].mean: id(point) in best for point in line}
    plain = comparison.methods["sequential"].controls["noise"].change.mean
    assert {line.get_xdata()[0] for line in panel.lines if len(set(line.get_xdata())) == 1} >= {0, plain}
    _, text = front_facts.front_sentences(comparison)
    assert text.startswith("On the Pareto front, noise, never trained on, changed since the start by ")
    assert "−0.150 after sequential fine-tuning; below zero is worse (3 seeds × 1 order)." in text
    for point in comparison.front:
        point.controls.clear()
    assert len(front_figures.front_figure(comparison).axes) == 2 and len(front_facts.front_sentences(comparison)) == 1
    assert "never trained on" not in front_captions.of_all(comparison)


def test_a_control_of_losses_is_worse_where_it_grows(run_of: Factory) -> None:
    run = run_of("sfa", K=2)
    losses = run.scores["accuracy"].model_copy(
        update={"higher_is_better": False, "unit": "nats", "controls": {"general": [4.0, 4.2, 4.5]}}
    )
    harmed = run.model_copy(update={"scores": {"accuracy": losses}})
    point = point_of("sfa", "beta", 0.5, [Cell(seed=0, order=0, run="here")], {(0, 0): harmed})
    assert point.controls["general"].mean == pytest.approx(-0.5)


def test_captions_say_only_what_the_figure_shows(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    whole = front_captions.of_all(comparison)
    assert "relative to plain fine-tuning's" in whole and "at most 3.6 MB" in whole and "tied by dashes" in whole
    assert "; dashed: plain fine-tuning" in whole

    alone, _ = comparison_of(3, {"sfa": {"keep": 0.9}, "ewc": {"keep": 0.5}}, front=True)
    for caption in (front_captions.of_all(alone), front_captions.of_each(alone)):
        assert "plain fine-tuning" not in caption
    zero = comparison.front[0].extra_memory_bytes.model_copy(update={"mean": 0.0})
    light = [p.model_copy(update={"extra_memory_bytes": zero, "stored_bytes": zero}) for p in comparison.front]
    nothing = front_captions.of_all(comparison.model_copy(update={"front": light}))
    assert "at most" not in nothing and "disc" not in nothing

    high = dict.fromkeys(("past_accuracy", "newest_accuracy"), comparison.methods["joint"].past_accuracy)
    comparison.methods["sequential"] = comparison.methods["sequential"].model_copy(update=high)
    assert front_facts.undominated(comparison) == [] and "tied by dashes" not in front_captions.of_all(comparison)


def test_the_sentence_names_the_rivals_that_were_there(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    assert "no other point, nor plain fine-tuning, has means as good" in front_facts.front_sentences(comparison)[0]
    alone, _ = comparison_of(3, {"sfa": {"keep": 0.9}, "ewc": {"keep": 0.5}}, front=True)
    assert (
        "plain fine-tuning" not in front_facts.front_sentences(alone)[0]
        and "no other point has" in front_facts.front_sentences(alone)[0]
    )
    assert all("sequential" not in sentence for sentence in front_facts.front_sentences(alone))
    single = alone.model_copy(update={"front": alone.front[:1]})
    assert front_facts.front_sentences(single)[0].startswith("The one point is on the Pareto front")


def test_the_runs_behind_the_sentence_are_those_of_all_points(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    fewer = comparison.front[-1].model_copy(update={"cells": comparison.front[-1].cells[:2]})
    comparison.front[-1] = fewer
    assert "(2 to 3 seeds × 1 order)" in front_facts.front_sentences(comparison)[0]
