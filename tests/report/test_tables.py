"""Tables fit the terminal and lose no number; numbers are written in units that people use."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console, RenderableType

from stockpot.report import formatting, terminal
from stockpot.report.answers import answer_questions
from stockpot.report.tables import Grid

Factory = Callable[..., Any]


def printed(table: RenderableType, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return out.getvalue()


def test_the_comparison_fits_80_columns_with_every_number_whole(comparison_of: Factory) -> None:
    label = "sfa-with-a-label-that-is-much-too-long-for-any-terminal"
    comparison, _ = comparison_of(
        3, {"sequential": {}, label: {"name": "sfa", "keep": 0.9, "extra_memory_bytes": 340_000_000}}
    )
    text = printed(terminal.comparison_table(comparison))
    assert max(map(len, text.splitlines())) <= 80
    for summary in comparison.methods.values():
        for metric in ("average_accuracy", "forgetting", "newest_accuracy"):
            assert formatting.score_with_interval(getattr(summary, metric)) in text
        assert formatting.seconds(summary.training_seconds.mean) in text
    assert "noise" in text and "−0.150" in text
    assert "sfa-" in text and "(floor)" in text and "over 3 seeds" in text


def test_seeds_get_a_column_where_they_differ(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3)
    comparison.methods["sfa"].cells.pop()
    text = printed(terminal.comparison_table(comparison))
    assert "runs" in text.split("joint")[0] and "2 to 3 seeds" in text and max(map(len, text.splitlines())) <= 80


def test_methods_stand_best_first_with_floor_and_ceiling_marked(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3)
    table = answer_questions(comparison)[0].table
    assert [name for name, _ in table.rows] == ["joint (ceiling)", "replay", "sfa", "wise_ft", "sequential (floor)"]
    forgetting = table.headings.index("forgetting")
    assert table.rows[0][1][forgetting] == formatting.MISSING != table.rows[1][1][forgetting]
    lines = [line.split()[0] for line in printed(terminal.comparison_table(comparison)).splitlines() if "±" in line]
    assert lines[:4] == ["joint", "replay", "sfa", "wise_ft"]


def test_a_single_seed_shows_no_interval(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(1)
    assert "±" not in printed(terminal.comparison_table(comparison)).partition("means")[0]
    assert not any("±" in value for _, values in answer_questions(comparison)[0].table.rows for value in values)


@pytest.mark.parametrize("K", [1, 3, 8, 12, 16, 20])
def test_a_run_fits_80_columns(run_of: Factory, K: int) -> None:
    run = run_of("sfa", K=K, keep=0.9, tasks=[f"a task of a long name {j}" for j in range(K)])
    text = printed(terminal.run_table(run))
    assert max(map(len, text.splitlines())) <= 80
    assert "average accuracy" in text and "training" in text
    last = run.scores["accuracy"].matrix[-1][-1]
    assert (f"{last:.3f}" if K <= 8 or K > 16 else f"{last:.2f}".removeprefix("0")) in text


@pytest.mark.parametrize("unit", ["fraction", "nats per token"])
@pytest.mark.parametrize("K", [1, 5, 8, 9, 16, 17])
def test_no_score_is_cut_and_no_word_broken_in_80_columns(run_of: Factory, K: int, unit: str) -> None:
    run = run_of("sfa", K=K, keep=0.9)
    controls = {"a long control's name": [0.5] * (K + 1)}
    scores = run.scores["accuracy"].model_copy(update={"unit": unit, "controls": controls})
    run = run.model_copy(update={"scores": {"accuracy": scores, "other": scores}})
    narrow, wide = (printed(terminal.run_table(run), width) for width in (80, 400))
    assert max(map(len, narrow.splitlines())) <= 80
    assert sorted(narrow.split()) == sorted(wide.split())
    assert "…" not in narrow.replace("a lo…name", "").replace("a lo… name", "")


def test_a_grid_that_does_not_fit_goes_on_below() -> None:
    headings = [f"control {k}, worst change" for k in range(12)]
    grid = Grid("Controls", headings, [(f"method {j}", [f"{k}.{j}00 ± 0.001" for k in range(12)]) for j in range(3)])
    text = printed(terminal.grid_table(grid))
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"{k}.{j}00 ± 0.001" in text for k in range(12) for j in range(3))
    assert text.count("method 0") == 3 and text.count("Controls") == 1


def test_markup_in_names_is_text(run_of: Factory) -> None:
    text = printed(terminal.run_table(run_of(K=2, tasks=["[red]a", "[/]b"])))
    assert "[red]a" in text and "[/]b" in text


def test_unmeasured_cells_are_blank(run_of: Factory) -> None:
    run = run_of(K=3)
    run.scores["accuracy"].matrix[0][1:] = [None, None]
    row = next(line for line in printed(terminal.run_table(run)).splitlines() if "1 task0" in line)
    controls = [f"{values[1]:.3f}" for values in run.scores["accuracy"].controls.values()]
    assert controls
    assert row.split() == ["1", "task0", f"{run.scores['accuracy'].matrix[0][0]:.3f}", *controls]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (0.0042, "4.2 ms"),
        (0.5, "0.5 s"),
        (10, "10.0 s"),
        (99.9, "99.9 s"),
        (90 * 60, "90.0 min"),
        (7200, "2.00 h"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert formatting.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "none"), (12, "12 B"), (999.6, "1 kB"), (1_260_000, "1.26 MB"), (3.2e9, "3.2 GB"), (5e12, "5 TB")],
)
def test_sizes(value: float, text: str) -> None:
    assert formatting.bytes_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 %"), (0.0003, "under 0.1 %"), (0.004, "0.4 %"), (0.96, "96 %"), (1.04, "104 %"), (-0.2, "−20 %")],
)
def test_percent(value: float, text: str) -> None:
    assert formatting.percent(value) == text


def test_a_name_is_cut_in_the_middle() -> None:
    assert formatting.fit("sfa", 3) == "sfa"
    assert formatting.fit("abcdefgh", 5) == "ab…gh" and len(formatting.fit("x" * 50, 17)) == 17
