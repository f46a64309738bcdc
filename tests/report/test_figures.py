"""Figures are files that show every method, in its own colour, with labels that can be read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from tiers import crossed

from stockpot.report import figures, stream_figures

Factory = Callable[..., Any]


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def contrast(first: str, second: str) -> float:
    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("color", [*figures.PALETTE, figures.FLOOR, figures.CEILING])
def test_colours_stand_out_on_white_and_on_the_dark_page(color: str) -> None:
    assert contrast(color, "#fdfdfc") >= 3 and contrast(color, "#15181c") >= 3


def test_every_method_keeps_one_look(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(2, {"sequential": {}, "joint": {}, **{f"m{k}": {"name": "sfa"} for k in range(9)}})
    given = figures.looks(comparison)
    assert len(set(given.values())) == 11
    assert given["sequential"].color == figures.FLOOR and given["joint"].color == figures.CEILING


def test_files_are_png_svg_and_pdf_and_the_same_twice(run_of: Factory, tmp_path: Path) -> None:
    for name in ("a", "b"):
        files = (tmp_path / f"{name}.{ending}" for ending in ("png", "svg", "pdf"))
        figures.save_figure(stream_figures.matrix(run_of(K=3)), *files)
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF-")
    assert b"/TrueType" in (tmp_path / "a.pdf").read_bytes() or b"/CIDFontType2" in (tmp_path / "a.pdf").read_bytes()
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    ElementTree.parse(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_heat_map_writes_measured_cells_and_leaves_the_others_blank(run_of: Factory) -> None:
    run = run_of(K=2)
    run.scores["accuracy"].matrix = [[0.25, None], [0.5, 0.75]]
    axes = stream_figures.matrix(run).axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["0.25", "0.50", "0.75"]


def test_lines_are_tasks_and_controls_are_dashed(run_of: Factory) -> None:
    axes = stream_figures.over_time(run_of(K=3)).axes[0]
    lines = {line.get_label(): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    assert set(lines) == {"task0", "task1", "task2", "noise (control)"}
    assert lines["noise (control)"].is_dashed() and not lines["task0"].is_dashed()
    assert len(lines["task0"].get_xdata()) == 4  # before the first task, and after each of three


def test_many_tasks_are_drawn_as_what_they_come_to(run_of: Factory) -> None:
    run = run_of(K=30)
    axes = stream_figures.over_time(run).axes[0]
    lines = {str(line.get_label()): line for line in axes.lines}
    assert set(lines) == {"mean of the tasks learnt", "the task just learnt", "noise (control)"}
    matrix = run.scores["accuracy"].matrix
    means = [sum(row[: i + 1]) / (i + 1) for i, row in enumerate(matrix)]
    assert lines["mean of the tasks learnt"].get_ydata().tolist() == pytest.approx(means)
    assert list(lines["the task just learnt"].get_ydata()) == [matrix[i][i] for i in range(30)]
    (band,) = axes.collections
    low, high = min(matrix[-1]), max(matrix[-1])
    edge = sorted(y for x, y in band.get_paths()[0].vertices if x == 30)
    assert (edge[0], edge[-1]) == pytest.approx((low, high))
    heat = stream_figures.matrix(run).axes[0]
    assert heat.images[0].get_array().shape == (30, 30)
    assert not list(heat.texts)
    assert [label.get_text() for label in heat.get_xticklabels()] == ["1", "5", "10", "15", "20", "25", "30"]


def test_the_dot_plot_shows_means_intervals_and_single_seeds(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(4, {"sequential": {}, "sfa": {"keep": 0.9}})
    axes = figures.methods_figure(comparison, "forgetting").axes[0]
    whisker, seeds, mean = axes.lines[:3]
    found = comparison.methods["sfa"].forgetting
    assert list(whisker.get_xdata()) == [found.low, found.high]
    assert list(seeds.get_xdata()) == found.values
    assert list(mean.get_xdata()) == [found.mean]
    assert "sfa  (n = 4)" in texts(axes.figure)


def test_every_method_with_forgetting_has_a_mark_and_a_name(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3)
    figure = figures.stability_plasticity(comparison)
    names = ["sequential", "sfa", "wise_ft", "replay"]  # joint training has no forgetting
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    for name, mark in zip(names, figure.axes[0].lines, strict=True):
        summary = comparison.methods[name]
        assert tuple(mark.get_xydata()[0]) == (summary.plasticity.mean, 1 - summary.forgetting.mean)


def test_panels_share_their_axes_and_show_the_mean(comparison_of: Factory) -> None:
    comparison, cells = comparison_of(3)
    panels = [axes for axes in stream_figures.tasks_over_time(comparison, cells).axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [
        f"{label} (n = 3)" for label in ("joint", "replay", "sfa", "wise_ft", "sequential")
    ]
    assert len({axes.get_ylim() for axes in panels}) == 1
    means = [sum(run.scores["accuracy"].matrix[2][0] for run in cells["joint"]) / 3]
    assert panels[0].lines[0].get_ydata()[-1] == pytest.approx(means[0])


@pytest.mark.parametrize(("K", "unit"), crossed([1, 12, 17], ["fraction", "nats"]))
def test_every_figure_can_be_drawn_for_losses_and_for_one_and_many_tasks(
    comparison_of: Factory, hostile: str, unit: str, K: int, tmp_path: Path
) -> None:
    comparison, cells = comparison_of(2, {"sequential": {}, hostile: {"name": "sfa", "keep": 0.5}}, K=K)
    for runs in cells.values():
        for run in runs:
            run.scores["accuracy"] = run.scores["accuracy"].model_copy(
                update={"unit": unit, "higher_is_better": unit == "fraction"}
            )
    comparison = comparison.model_copy(update={"unit": unit, "higher_is_better": unit == "fraction"})
    run = cells[hostile][0]
    drawn = [
        stream_figures.matrix(run),
        stream_figures.over_time(run),
        figures.methods_figure(comparison),
        figures.stability_plasticity(comparison),
        stream_figures.tasks_over_time(comparison, cells),
        stream_figures.mean_matrices(comparison, cells),
    ]
    for index, figure in enumerate(drawn):
        figures.save_figure(figure, tmp_path / f"{index}.png", tmp_path / f"{index}.svg")
    assert len(list(tmp_path.iterdir())) == 12


def test_names_are_never_read_as_mathematics_or_break_the_svg(run_of: Factory, hostile: str, tmp_path: Path) -> None:
    run = run_of(K=3, tasks=[hostile, "a\x00b\nc", "$\\frac{$"])
    svg = tmp_path / "hostile.svg"
    figures.save_figure(stream_figures.matrix(run), svg)
    ElementTree.parse(svg)
    text = svg.read_text(encoding="utf-8")
    assert "<script" not in text and "$\\frac{$" in text and "a b c" in text
