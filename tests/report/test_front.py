"""The front draws the comparison's numbers, in order of strength, and marks what nothing beats."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.collections import PathCollection

from stockpot.report import front, front_figures

Factory = Callable[..., Any]


def places(comparison: Any) -> dict[str, list[tuple[float, float]]]:
    return {
        label: [(p.newest_accuracy.mean, p.past_accuracy.mean) for p in line]
        for label, line in front.curves(comparison).items()
    }


def test_a_line_runs_through_the_strengths_in_order_of_value(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    assert [point.value for point in comparison.front[:3]] == [0.5, 0.25, 0.1]
    assert {label: [p.value for p in line] for label, line in front.curves(comparison).items()} == {
        label: [0.1, 0.25, 0.5] for label in ("sfa", "wise_ft", "replay")
    }
    lines = front_figures.figure(comparison).axes[0].lines
    drawn = [[(float(x), float(y)) for x, y in line.get_xydata()] for line in lines]
    assert drawn[:3] == list(places(comparison).values())


def test_marks_stand_at_the_numbers_filled_on_the_front_with_time_and_memory_as_areas(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    found = [m for m in front_figures.figure(comparison).axes[0].collections if isinstance(m, PathCollection)]
    discs, marks = found[::2], found[1::2]
    best = front.undominated(comparison)
    assert 0 < len(best) < len(comparison.front)
    plain = comparison.methods["sequential"].training_seconds.mean
    bytes_of = {id(p): p.extra_memory_bytes.mean + p.stored_bytes.mean for p in comparison.front}
    for line, disc, mark in zip(front.curves(comparison).values(), discs, marks, strict=True):
        own = [(p.newest_accuracy.mean, p.past_accuracy.mean) for p in line]
        assert [tuple(xy) for xy in mark.get_offsets()] == [tuple(xy) for xy in disc.get_offsets()] == own
        assert [face[3] > 0 for face in mark.get_facecolor()] == [any(p is b for b in best) for p in line]
        assert mark.get_sizes() == pytest.approx([30 * p.training_seconds.mean / plain for p in line])
        assert disc.get_sizes() == pytest.approx([500 * bytes_of[id(p)] / max(bytes_of.values()) for p in line])


def test_of_many_methods_those_on_the_front_are_named_and_each_has_a_panel(
    comparison_of: Factory, many_methods: dict[str, Any]
) -> None:
    comparison, _ = comparison_of(2, dict(list(many_methods.items())[:12]), front=True)
    lines = front.curves(comparison)
    assert len(lines) > front_figures.FEW
    on_front = {point.method for point in front.undominated(comparison)}
    named = {text.get_text().rpartition(" ")[0] for text in front_figures.figure(comparison).axes[0].texts}
    assert named - {""} == on_front
    panels = front_figures.each(comparison).axes
    assert [axes.get_title(loc="left") for axes in panels if axes.get_visible()] == [f"{one} (beta)" for one in lines]
    assert [text.get_text() for text in panels[0].texts] == ["0.1", "0.5"]


def test_up_and_right_is_better_where_lower_scores_are(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    flipped = comparison.model_copy(update={"higher_is_better": False})
    for axes in (front_figures.figure(flipped).axes[0], front_figures.each(flipped).axes[0]):
        assert axes.xaxis_inverted() and axes.yaxis_inverted()


def test_floor_and_ceiling_are_reference_marks(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    axes = front_figures.figure(comparison).axes[0]
    drawn = [tuple(line.get_xydata()[0]) for line in axes.lines if len(line.get_xydata()) == 1]
    wanted = [comparison.methods[label] for label in ("sequential", "joint")]
    assert drawn == [(s.newest_accuracy.mean, s.past_accuracy.mean) for s in wanted]
    labels = {text.get_text() for text in axes.texts}
    assert {"sequential", "joint", "sfa beta 0.1", "0.5"} <= labels and "0.25" not in labels


def test_the_pareto_front_is_what_no_other_mean_beats(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    points = [point for line in front.curves(comparison).values() for point in line]
    floor = comparison.methods["sequential"]
    rivals = [(p.newest_accuracy.mean, p.past_accuracy.mean) for p in [*points, floor]]

    def beaten(point: Any) -> bool:
        x, y = point.newest_accuracy.mean, point.past_accuracy.mean
        return any(a >= x and b >= y and (a > x or b > y) for a, b in rivals)

    assert front.undominated(comparison) == [point for point in points if not beaten(point)]
    flipped = comparison.model_copy(update={"higher_is_better": False})
    lower = front.undominated(flipped)
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
    assert front.undominated(comparison)
    high = dict.fromkeys(("past_accuracy", "newest_accuracy"), comparison.methods["joint"].past_accuracy)
    comparison.methods["sequential"] = comparison.methods["sequential"].model_copy(update=high)
    assert front.undominated(comparison) == []
    [text] = front.sentences(comparison)
    assert text.startswith("None of the 3 points is on the Pareto front")


def test_the_sentence_counts_and_names_the_front(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True, orders=2)
    [text] = front.sentences(comparison)
    found = front.undominated(comparison)
    assert text.startswith(f"{len(found)} of the 9 points ") and "3 seeds × 2 orders" in text
    assert "rehearsal (beta = " in text and "WiSE-FT" not in text


def test_the_bytes_beside_it(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    panel = front_figures.figure(comparison).axes[1]
    drawn = [sorted(float(x) for x, _ in m.get_offsets()) for m in panel.collections]
    line = front.curves(comparison)["sfa"]
    wanted = [sorted({getattr(p, key).mean for p in line}) for key in ("extra_memory_bytes", "stored_bytes")]
    assert drawn[0] == wanted[0] and drawn[1] == pytest.approx([wanted[1][0], wanted[1][-1]])


def test_points_that_were_not_measured_are_left_out(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, front=True)
    hole = comparison.front[0].past_accuracy.model_copy(update={"mean": None})
    comparison.front[0] = comparison.front[0].model_copy(update={"past_accuracy": hole})
    assert [p.value for p in front.curves(comparison)["sfa"]] == [0.1, 0.25]
