"""β through the depth of a model: every task, tensor and layer is where it belongs, for few tensors and for 300."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockpot.report import beta_figures, comparison_page, run_page
from stockpot.report.beta_layers import beta_note
from stockpot.report.figures import FIGURE_WIDTH, PALETTE
from stockpot.results import Results, TaskBetas, TensorBetas

Factory = Callable[..., Any]


def betas(level: float, layers: int = 2, each: int = 2) -> TaskBetas:
    """`each` tensors in every numbered layer, of 30 and 10, 10, … weights with β at `level`, and a head at 1."""
    counts = [0] * 10
    counts[int(10 * level)] = 1

    def tensor(name: str, weights: int, mean: float, place: int) -> TensorBetas:
        return TensorBetas(tensor=name, weights=weights, mean=mean, counts=[weights * (k == place) for k in range(10)])

    inner = [
        tensor(f"h.{layer}.t{k}", 10 if k else 30, level + 0.04 * k, min(9, int(10 * level)))
        for layer in range(layers)
        for k in range(each)
    ]
    return TaskBetas(kept=1 - level, tensors=[*inner, tensor("head.weight", 5, 1.0, 9)])


def with_betas(run: Results, *chosen: TaskBetas | None) -> Results:
    return run.model_copy(update={"betas": list(chosen)})


def test_lines_are_the_layers_of_each_task_and_dots_their_tensors(run_of: Factory) -> None:
    figure = beta_figures.betas_by_depth([with_betas(run_of("sfa"), None, betas(0.2), betas(0.5))])
    profile = figure.axes[0]
    lines = {str(line.get_label()): line for line in profile.lines if not str(line.get_label()).startswith("_")}
    assert list(lines) == ["task1", "task2"]  # the first was not averaged
    assert [line.get_color() for line in lines.values()] == list(PALETTE[1:3])  # as in the trajectories
    assert lines["task1"].get_xdata().tolist() == [0.5, 1.5, 2.5]
    assert lines["task1"].get_ydata().tolist() == pytest.approx([0.21, 0.21, 1.0])
    dots = [line for line in profile.lines if line.get_marker() == "."]
    assert [line.get_color() for line in dots] == list(PALETTE[1:3])
    assert list(dots[1].get_xdata()) == [0.25, 0.75, 1.25, 1.75, 2.5]
    assert list(dots[1].get_ydata()) == pytest.approx([0.5, 0.54, 0.5, 0.54, 1.0])
    assert not profile.collections  # a single run has no band
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["task1", "task2"]


def test_the_columns_are_the_shares_of_the_last_task(run_of: Factory) -> None:
    axes = beta_figures.betas_by_depth([with_betas(run_of("sfa"), betas(0.2), betas(0.5), None)]).axes[1]
    cells = axes.images[0].get_array()
    assert cells.shape == (10, 3) and axes.images[0].origin == "lower"
    assert cells.sum(0).tolist() == [1, 1, 1]
    assert [np.flatnonzero(column).tolist() for column in cells.T] == [[5], [5], [9]]
    assert axes.get_ylabel() == "β after task1"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["h.0", "h.1", "head"]


def test_several_runs_are_a_mean_and_a_band(run_of: Factory) -> None:
    runs = [with_betas(run_of("sfa", seed=k), None, betas(level)) for k, level in enumerate((0.2, 0.3, 0.7))]
    profile = beta_figures.betas_by_depth(runs, "auto (n = 3)").axes[0]
    assert profile.get_title(loc="left") == "auto (n = 3)"
    assert profile.lines[0].get_ydata().tolist() == pytest.approx([0.41, 0.41, 1.0])
    (band,) = profile.collections
    corners = band.get_paths()[0].vertices
    at_first = sorted({round(y, 6) for x, y in corners if x == 0.5})
    assert at_first == [0.21, 0.71]
    caption = beta_figures.beta_caption(runs, ", in the first order")
    assert "means over n = 3 runs, in the first order; band" in caption and "after task1" in caption


@pytest.mark.parametrize(("layers", "wide"), [(6, False), (7, True), (33, True), (98, True)])
def test_names_of_layers_do_not_overlap(run_of: Factory, layers: int, wide: bool) -> None:
    run = with_betas(run_of("sfa"), None, *[betas(0.2, layers, 3)] * 2)
    figure = beta_figures.betas_by_depth([run])
    figure.canvas.draw()
    axes = figure.axes[1]
    labels = [label for label in axes.get_xticklabels() if label.get_text()]
    names = [label.get_text() for label in labels]
    assert names[0] == "h.0" and names[-1] == "head" and len(names) <= 13
    assert (figure.get_figwidth() > FIGURE_WIDTH + 0.5) == wide
    apart = np.diff([axes.transData.transform((label.get_position()[0], 0))[0] for label in labels])
    slanted = labels[0].get_rotation() > 0
    height = labels[0].get_window_extent().height if not slanted else 8 / 72 * figure.dpi
    widths = [label.get_window_extent().width for label in labels]
    needed = height / np.sin(np.radians(35)) if slanted else max(widths)
    assert apart.min() >= needed


def test_300_tensors_are_dots_of_the_last_task_alone(run_of: Factory) -> None:
    run = with_betas(run_of("sfa"), None, betas(0.2, 33, 9), betas(0.5, 33, 9))
    profile = beta_figures.betas_by_depth([run]).axes[0]
    (dots,) = [line for line in profile.lines if line.get_marker() == "."]
    assert len(dots.get_xdata()) == 33 * 9 + 1
    assert dots.get_color() == PALETTE[2]
    assert {int(x) for x in dots.get_xdata()} == set(range(34))


@pytest.mark.parametrize("count", [7, 16, 17, 40])
def test_many_tasks_are_shades_or_a_range(run_of: Factory, count: int) -> None:
    levels = [0.1 + 0.8 * k / count for k in range(1, count)]
    run = with_betas(run_of("sfa", K=count), None, *map(betas, levels))
    figure = beta_figures.betas_by_depth([run])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    last = f"task{count - 1}"
    if count <= 16:
        assert legend[-1] == last and "task1" in legend
        assert len({str(line.get_color()) for line in figure.axes[0].lines}) == count - 1
        return
    assert legend == ["lowest to highest task", last]
    (band,) = figure.axes[0].collections
    heights = [round(y, 6) for x, y in band.get_paths()[0].vertices if x == 0.5]
    assert (min(heights), max(heights)) == pytest.approx((levels[0] + 0.01, levels[-1] + 0.01), abs=1e-6)


def test_a_layer_that_only_later_tasks_have_comes_last(run_of: Factory) -> None:
    later = betas(0.5, layers=3)
    axes = beta_figures.betas_by_depth([with_betas(run_of("sfa"), None, betas(0.2), later)]).axes
    assert [label.get_text() for label in axes[1].get_xticklabels()] == ["h.0", "h.1", "head", "h.2"]
    earlier = axes[0].lines[0].get_ydata()
    assert np.isnan(earlier[3]) and earlier[:3].tolist() == pytest.approx([0.21, 0.21, 1.0])


def test_the_page_of_a_run_shows_beta_only_where_it_was_chosen(run_of: Factory, tmp_path: Path) -> None:
    run = with_betas(run_of("sfa"), None, betas(0.25), betas(0.5))
    text = run_page.write_run_report([("auto", run), ("fixed", run_of("sfa"))], tmp_path).read_text(encoding="utf-8")
    assert text.count("The β of each weight</h3>") == 1
    assert text.count("β is the weight of the anchor") == text.count("Distance kept: how far") == 1
    assert '<th scope="row">task1</th><td class="n">0.30</td><td class="n">75 %</td>' in text
    assert [path.stem for path in (tmp_path / "figures").glob("*betas*.svg")] == ["01-auto-betas"]


def test_the_page_of_a_comparison_shows_the_methods_that_chose_beta(comparison_of: Factory, tmp_path: Path) -> None:
    comparison, cells = comparison_of(
        2, {"sequential": {}, "sfa": {}, "auto": {"name": "sfa"}, "more": {"name": "sfa"}}
    )
    for label in ("auto", "more"):
        cells[label] = [with_betas(run, None, betas(0.2), betas(0.5)) for run in cells[label]]
        for run in cells[label]:
            run.notes.append(str(beta_note(run.tasks, run.betas)))
    cells["sfa"] = [with_betas(run, None, None, None) for run in cells["sfa"]]
    path = comparison_page.write_comparison_report(comparison, cells, tmp_path)
    text = path.read_text(encoding="utf-8")
    assert text.count("The β of each weight</h2>") == 1
    assert {path.stem for path in (tmp_path / "figures").glob("betas*.svg")} == {"betas-1", "betas-2"}
    for heading in ("auto mean β", "auto distance kept", "more mean β", "more distance kept"):
        assert f">{heading}</th>" in text
    assert "sfa mean β" not in text
    assert "not averaged: nothing had been learnt" in text and "beta: auto gave" not in text
