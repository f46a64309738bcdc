"""Figures are files that show every method, in its own colour, with labels that can be read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from stockpot.report import charts, figures, rendering, stream_figures
from stockpot.report.charts import Chart
from stockpot.report.heat_map import heat_map, heat_panels

Factory = Callable[..., Any]
Rows = list[dict[str, Any]]


def rows_of(chart: Chart) -> Rows:
    rows: Rows = chart.spec["data"]["values"]
    return rows


def contrast(first: str, second: str) -> float:
    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("color", [*charts.PALETTE, charts.FLOOR, charts.CEILING, *charts.task_colors(16)])
def test_colours_stand_out_on_white_and_on_the_dark_page(color: str) -> None:
    assert contrast(color, "#fdfdfc") >= 3 and contrast(color, "#15181c") >= 3


def test_every_method_keeps_one_look(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(2, {"sequential": {}, "joint": {}, **{f"m{k}": {"name": "sfa"} for k in range(9)}})
    given = charts.looks(comparison)
    assert len(set(given.values())) == 11
    assert given["sequential"].color == charts.FLOOR and given["joint"].color == charts.CEILING


def test_files_are_png_svg_and_pdf_and_the_same_twice(run_of: Factory, tmp_path: Path) -> None:
    for name in ("a", "b"):
        files = (tmp_path / f"{name}.{ending}" for ending in ("png", "svg", "pdf"))
        rendering.save_figure(stream_figures.matrix(run_of(K=3)), *files)
    for ending, start in (("png", b"\x89PNG"), ("svg", b"<svg"), ("pdf", b"%PDF-")):
        first = (tmp_path / f"a.{ending}").read_bytes()
        assert first.startswith(start) and first == (tmp_path / f"b.{ending}").read_bytes()
    assert b"/CIDFontType2" in (tmp_path / "a.pdf").read_bytes()  # letters are letters, not paths
    assert 'fill="white"' in (tmp_path / "a.svg").read_text()


def test_the_heat_map_writes_measured_cells_and_leaves_the_others_blank(run_of: Factory) -> None:
    run = run_of(K=2)
    run.scores["accuracy"].matrix = [[0.25, None], [0.5, 0.75]]
    cells = {(row["row"], row["column"]): row["text"] for row in rows_of(stream_figures.matrix(run))}
    assert cells == {("task0", "task0"): "0.25", ("task1", "task0"): "0.50", ("task1", "task1"): "0.75"}


def test_many_cells_are_one_picture_with_a_pixel_for_each() -> None:
    import base64
    import io

    from PIL import Image

    matrix = [[i / 40 if j <= i else None for j in range(41)] for i in range(41)]
    names = [f"t{k}" for k in range(41)]
    chart = heat_map(matrix, names, names, limits=(0, 1), meaning="accuracy", write=str)
    address = next(row["url"] for row in rows_of(chart) if "url" in row)
    image = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA")
    assert image.size == (41, 41) and chart.still
    assert [image.getpixel(place)[3] for place in ((0, 0), (1, 0), (40, 40))] == [255, 0, 255]
    ends = ["#{:02x}{:02x}{:02x}".format(*image.getpixel(place)[:3]) for place in ((0, 0), (0, 40))]
    assert ends == ["#440154", "#fde725"]
    few = heat_map(matrix[:20], names[:20], names, limits=(0, 1), meaning="accuracy", write=str)
    assert len(rows_of(few)) == sum(range(1, 21)) and not few.still


def test_panels_of_many_cells_are_the_means_of_blocks() -> None:
    from stockpot.report.heat_map import _coarser

    matrix = [[1.0, 3.0, None], [5.0, None, None], [7.0, 8.0, 9.0]]
    assert _coarser(matrix, 2) == [[3.0, None], [7.5, 9.0]]
    assert _coarser(matrix, 3) == matrix
    panels = [("a", "a (n = 1)", [[0.5, None], [0.25, 1.0]])]
    chart = heat_panels(panels, tasks=["x", "y"], limits=(0, 1), meaning="accuracy", write=str)
    assert [(r["row"], r["column"], r["value"]) for r in rows_of(chart)] == [
        ("x", "x", 0.5),
        ("y", "x", 0.25),
        ("y", "y", 1.0),
    ]


def test_lines_are_tasks_and_controls_are_dashed(run_of: Factory) -> None:
    run = run_of(K=3)
    chart = stream_figures.over_time(run)
    lines: dict[str, list[float]] = {}
    for row in rows_of(chart):
        lines.setdefault(row["task"], []).append(row["value"])
    scores = run.scores["accuracy"]
    assert set(lines) == {"task0", "task1", "task2", "noise (control)"}
    assert lines["task1"] == [scores.initial[1], *(row[1] for row in scores.matrix)]  # the start, and after each task
    assert [row["learnt"] for row in rows_of(chart) if row["own"]] == [1, 2, 3]
    assert chart.spec["layer"][0]["encoding"]["y"]["scale"]["domain"] == [-0.02, 1.02]
    scores.controls["noise"][-1] = -0.4  # a correlation may be negative
    assert "domain" not in stream_figures.over_time(run).spec["layer"][0]["encoding"]["y"]["scale"]
    (line,) = [layer for layer in chart.spec["layer"] if layer["mark"]["type"] == "line"]
    scale = line["encoding"]["strokeDash"]["scale"]
    dashes = dict(zip(scale["domain"], scale["range"], strict=True))
    assert dashes["task0"] == [1, 0] and dashes["noise (control)"] == [5, 3]


def test_many_tasks_are_drawn_as_what_they_come_to(run_of: Factory) -> None:
    run = run_of(K=30)
    rows = rows_of(stream_figures.over_time(run))
    assert {row["task"] for row in rows} == {"mean of the tasks learnt", "the task just learnt", "noise (control)"}
    matrix = run.scores["accuracy"].matrix
    means = [row for row in rows if row["task"] == "mean of the tasks learnt"]
    assert [row["value"] for row in means] == pytest.approx([sum(r[: i + 1]) / (i + 1) for i, r in enumerate(matrix)])
    assert (means[-1]["low"], means[-1]["high"]) == (min(matrix[-1]), max(matrix[-1]))
    newest = [row["value"] for row in rows if row["task"] == "the task just learnt"]
    assert newest == [matrix[i][i] for i in range(30)]


def test_the_dot_plot_shows_means_intervals_and_single_seeds(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(4, {"sequential": {}, "sfa": {"keep": 0.9}})
    chart = figures.methods_figure(comparison, "forgetting")
    found = comparison.methods["sfa"].forgetting
    (row,) = [row for row in rows_of(chart) if row["method"] == "sfa"]
    assert (row["low"], row["mean"], row["high"]) == (found.low, found.mean, found.high)
    assert row["name"] == "sfa  (n = 4)"
    dots = next(layer["data"]["values"] for layer in chart.spec["layer"] if "data" in layer)
    assert [dot["value"] for dot in dots if dot["method"] == "sfa"] == found.values
    only = figures.methods_figure(comparison, labels=["sfa"])
    assert {row["method"] for row in rows_of(only)} == {"sfa"}


def test_every_method_with_forgetting_has_a_mark_and_a_name(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3)
    chart = figures.stability_plasticity(comparison)
    names = ["sequential", "sfa", "wise_ft", "replay"]  # joint training has no forgetting
    assert chart.spec["encoding"]["color"]["scale"]["domain"] == names
    for name, row in zip(names, rows_of(chart), strict=True):
        summary = comparison.methods[name]
        assert (row["plasticity"], row["stability"]) == (summary.plasticity.mean, 1 - summary.forgetting.mean)


def test_panels_share_their_axes_and_show_the_mean(comparison_of: Factory) -> None:
    comparison, cells = comparison_of(3)
    chart = stream_figures.tasks_over_time(comparison, cells)
    assert chart.spec["facet"]["sort"] == [f"{x} (n = 3)" for x in ("joint", "replay", "sfa", "wise_ft", "sequential")]
    mean = sum(run.scores["accuracy"].matrix[2][0] for run in cells["joint"]) / 3
    last = [r for r in rows_of(chart) if (r["method"], r["task"], r["learnt"]) == ("joint", "task0", 3)]
    assert [row["value"] for row in last] == [pytest.approx(mean)]
    long, cells = comparison_of(1, {"sequential": {}, "sfa": {"keep": 0.9}}, K=130)
    stages = {row["learnt"] for row in rows_of(stream_figures.tasks_over_time(long, cells))}
    assert stages == {*range(3, 130, 3), 130}


@pytest.mark.parametrize(
    ("K", "unit"), [(3, "fraction"), (35, "nats"), pytest.param(1, "nats", marks=pytest.mark.thorough)]
)
def test_every_figure_can_be_drawn_for_losses_and_for_one_and_many_tasks(
    comparison_of: Factory, hostile: str, unit: str, K: int
) -> None:
    comparison, cells = comparison_of(2, {"sequential": {}, hostile: {"name": "sfa", "keep": 0.5}}, K=K)
    for runs in cells.values():
        for run in runs:
            run.scores["accuracy"] = run.scores["accuracy"].model_copy(
                update={"unit": unit, "higher_is_better": unit == "fraction"}
            )
    comparison = comparison.model_copy(update={"unit": unit, "higher_is_better": unit == "fraction"})
    run = cells[hostile][0]
    for chart in (
        stream_figures.matrix(run),
        stream_figures.over_time(run),
        stream_figures.runs_over_time([("a", run), ("b", run)]),
        figures.methods_figure(comparison),
        figures.stability_plasticity(comparison),
        stream_figures.tasks_over_time(comparison, cells),
        stream_figures.mean_matrices(comparison, cells),
    ):
        svg = rendering.svg_of(chart)
        assert svg.count("<path") + svg.count("<image") > 3


def test_names_are_never_read_as_code_or_break_the_svg(run_of: Factory, hostile: str, tmp_path: Path) -> None:
    run = run_of(K=3, tasks=[hostile, "a\x00b\nc", "$\\frac{$"])
    svg = tmp_path / "hostile.svg"
    rendering.save_figure(stream_figures.matrix(run), svg)
    ElementTree.parse(svg)
    text = svg.read_text(encoding="utf-8")
    assert "<script" not in text and "$\\frac{$" in text and "a b c" in text
    live = rendering.live(stream_figures.matrix(run))
    assert "<" not in live and "\\u003cscript" in live


def test_names_that_are_cut_to_the_same_text_keep_their_own_place() -> None:
    long = ["a" * 60 + end for end in ("x", "y")]
    assert charts.distinct(["b", "b", *long], 12) == ["b", "b (2)", "aaaaa…aaaaax", "aaaaa…aaaaay"]
