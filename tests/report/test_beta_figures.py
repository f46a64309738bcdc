"""β through the depth of a model: every task, tensor and layer is where it belongs, for few tensors and for 300."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stockpot.report import beta_figures, comparison_page, run_page
from stockpot.report.beta_layers import beta_note
from stockpot.report.charts import PALETTE, Chart, task_colors
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


def lines_of(chart: Chart) -> dict[str, list[dict[str, Any]]]:
    """Task → its points in the upper panel, from layer to layer."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in chart.spec["vconcat"][0]["data"]["values"]:
        lines.setdefault(row["task"], []).append(row)
    return lines


def dots_of(chart: Chart) -> list[dict[str, Any]]:
    dots: list[dict[str, Any]] = chart.spec["vconcat"][0]["layer"][-1]["data"]["values"]
    return dots


def colours_of(chart: Chart) -> dict[str, str]:
    scale = chart.spec["vconcat"][0]["layer"][-1]["encoding"]["color"]["scale"]
    return dict(zip(scale["domain"], scale["range"], strict=True))


def axis_of(chart: Chart) -> dict[str, Any]:
    axis: dict[str, Any] = chart.spec["vconcat"][1]["layer"][0]["encoding"]["x"]["axis"]
    return axis


def test_lines_are_the_layers_of_each_task_and_dots_their_tensors(run_of: Factory) -> None:
    chart = beta_figures.betas_by_depth([with_betas(run_of("sfa"), None, betas(0.2), betas(0.5))])
    lines = lines_of(chart)
    assert list(lines) == ["task1", "task2"]  # the first was not averaged
    assert colours_of(chart) == dict(zip(lines, PALETTE[1:3], strict=True))  # as in the trajectories
    assert [row["depth"] for row in lines["task1"]] == [0.5, 1.5, 2.5]
    assert [row["beta"] for row in lines["task1"]] == pytest.approx([0.21, 0.21, 1.0])
    second = [row for row in dots_of(chart) if row["task"] == "task2"]
    assert [row["depth"] for row in second] == [0.25, 0.75, 1.25, 1.75, 2.5]
    assert [row["beta"] for row in second] == pytest.approx([0.5, 0.54, 0.5, 0.54, 1.0])
    assert second[0]["layer"] == "h.0.t0"
    assert "low" not in lines["task1"][0]  # a single run has no band


def test_the_columns_are_the_shares_of_the_last_task(run_of: Factory) -> None:
    chart = beta_figures.betas_by_depth([with_betas(run_of("sfa"), betas(0.2), betas(0.5), None)])
    below = chart.spec["vconcat"][1]
    cells = [(row["layer"], row["low"], row["share"]) for row in below["data"]["values"]]
    assert cells == [("h.0", 0.5, 1), ("h.1", 0.5, 1), ("head", 0.9, 1)]
    assert below["layer"][0]["encoding"]["y"]["title"] == "β after task1"
    assert axis_of(chart)["labelExpr"] == "['h.0', 'h.1', 'head'][floor(datum.value)]"


def test_several_runs_are_a_mean_and_a_band(run_of: Factory) -> None:
    runs = [with_betas(run_of("sfa", seed=k), None, betas(level)) for k, level in enumerate((0.2, 0.3, 0.7))]
    chart = beta_figures.betas_by_depth(runs, "auto (n = 3)")
    assert chart.spec["title"] == "auto (n = 3)"
    first, second, head = lines_of(chart)["task1"]
    assert [row["beta"] for row in (first, second, head)] == pytest.approx([0.41, 0.41, 1.0])
    assert (first["low"], first["high"]) == pytest.approx((0.21, 0.71))
    caption = beta_figures.beta_caption(runs, ", in the first order")
    assert "means over n = 3 runs, in the first order; band" in caption and "after task1" in caption


@pytest.mark.parametrize(("layers", "wide"), [(6, False), (7, True), (33, True), (98, True)])
def test_names_of_layers_are_few_and_evenly_apart(run_of: Factory, layers: int, wide: bool) -> None:
    run = with_betas(run_of("sfa"), None, *[betas(0.2, layers, 3)] * 2)
    chart = beta_figures.betas_by_depth([run])
    places = axis_of(chart)["values"]
    assert places[0] == 0.5 and places[-1] == layers + 0.5 and len(places) <= 13
    assert chart.wide == wide
    apart = [after - before for before, after in itertools.pairwise(places)]
    width = chart.spec["vconcat"][0]["width"]
    assert min(apart) * width / (layers + 1) >= 18  # a line of text at 35 degrees
    assert len(set(apart[:-1])) <= 1


def test_a_name_cannot_end_the_expression_it_stands_in(run_of: Factory) -> None:
    evil = TaskBetas(kept=0.5, tensors=[TensorBetas(tensor="a'],alert('é').w", weights=1, mean=0.5, counts=[1] * 10)])
    expression = axis_of(beta_figures.betas_by_depth([with_betas(run_of("sfa"), None, evil)]))["labelExpr"]
    assert expression == r"['a\u0027\u005d\u002calert\u0028\u0027\u00e9\u0027\u0029'][floor(datum.value)]"


def test_300_tensors_are_dots_of_the_last_task_alone(run_of: Factory) -> None:
    run = with_betas(run_of("sfa"), None, betas(0.2, 33, 9), betas(0.5, 33, 9))
    dots = dots_of(beta_figures.betas_by_depth([run]))
    assert len(dots) == 33 * 9 + 1
    assert {row["task"] for row in dots} == {"task2"}
    assert {int(row["depth"]) for row in dots} == set(range(34))


@pytest.mark.parametrize("count", [7, 16, 17, 40])
def test_many_tasks_are_shades_or_a_range(run_of: Factory, count: int) -> None:
    levels = [0.1 + 0.8 * k / count for k in range(1, count)]
    run = with_betas(run_of("sfa", K=count), None, *map(betas, levels))
    chart = beta_figures.betas_by_depth([run])
    lines, last = lines_of(chart), f"task{count - 1}"
    if count <= 16:
        assert next(iter(lines)) == "task1" and list(lines)[-1] == last
        assert list(colours_of(chart).values()) == task_colors(count)[1:]
        return
    assert list(lines) == [last]
    row = lines[last][0]
    assert (row["low"], row["high"]) == pytest.approx((levels[0] + 0.01, levels[-1] + 0.01))


def test_a_layer_that_only_later_tasks_have_comes_last(run_of: Factory) -> None:
    later = betas(0.5, layers=3)
    chart = beta_figures.betas_by_depth([with_betas(run_of("sfa"), None, betas(0.2), later)])
    assert axis_of(chart)["labelExpr"] == "['h.0', 'h.1', 'head', 'h.2'][floor(datum.value)]"
    assert [row["beta"] for row in lines_of(chart)["task1"]] == pytest.approx([0.21, 0.21, 1.0])


def test_the_page_of_a_run_shows_beta_only_where_it_was_chosen(run_of: Factory, tmp_path: Path) -> None:
    run = with_betas(run_of("sfa"), None, betas(0.25), betas(0.5))
    text = run_page.write_run_report([("auto", run), ("fixed", run_of("sfa"))], tmp_path).read_text(encoding="utf-8")
    assert text.count("The β of each weight</h3>") == 1
    assert text.count("β is the weight of the anchor") == text.count("Distance kept: how far") == 1
    assert (
        '<th scope="row">task1</th><td class="n" data-value="0.3">0.30</td><td class="n" data-value="75.0">75 %</td>'
        in text
    )
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
