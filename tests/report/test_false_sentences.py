"""Each kind of sentence, in a case in which it would be false: there it is not said, or says the opposite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stockpot.evaluation.metrics import control_change, control_worst, stream_metrics
from stockpot.report import formatting, orders
from stockpot.report.answers import BEST_MEAN, against_the_best, answer_questions
from stockpot.report.findings import findings, run_summary
from stockpot.report.run_page import _overview, write_run_report
from stockpot.report.tables import metric_rows
from stockpot.report.terminal import comparison_table, methods_tables
from stockpot.results import Comparison, Scores

Factory = Callable[..., Any]
LOSS = {"higher_is_better": False, "unit": "nats"}
PLAIN = {"sequential": {}}


def column(comparison: Comparison, question: int, heading: str) -> dict[str, str]:
    """Row → cell of one of the four tables."""
    table = answer_questions(comparison)[question].table
    return {name: values[table.headings.index(heading)] for name, values in table.rows}


@pytest.mark.parametrize(
    ("scores", "higher", "change", "worst"),
    [
        ([4.08, 4.60, 4.39], False, -0.31, -0.52),
        ([4.08, 4.00, 3.90], False, 0.18, 0.08),
        ([0.50, 0.30, 0.60], True, 0.10, -0.20),
        ([0.50], True, None, None),
        ([0.50, None, 0.60], True, 0.10, None),
    ],
)
def test_what_became_of_a_control(scores: Any, higher: bool, change: float | None, worst: float | None) -> None:
    assert control_change(scores, higher) == (None if change is None else pytest.approx(change))
    assert control_worst(scores, higher) == (None if worst is None else pytest.approx(worst))


def harmed(run: Any) -> Any:
    """A run whose earlier tasks got better, and whose control got worse, as losses."""
    scores = Scores(matrix=[[3.0, 4.0], [2.9, 2.0]], initial=[4.0, 4.0], controls={"general": [4.08, 4.6, 4.39]},
                    **LOSS)  # fmt: skip
    return run.model_copy(
        update={"scores": {"loss": scores}, "primary": "loss", "metrics": stream_metrics(scores), "tasks": ["a", "b"]}
    )


def test_a_headline_does_not_hide_a_control_that_got_worse(run_of: Factory) -> None:
    [headline] = run_summary(harmed(run_of("sfa", K=2)))
    assert "forgetting −0.100 nats; " in headline
    assert "general (never trained on) −0.310 nats since the start (at its worst −0.520 nats)" in headline
    rows = {name: value for name, value, _ in metric_rows(harmed(run_of("sfa", K=2)))}
    assert rows["general since the start"] == "−0.310" and rows["general at its worst"] == "−0.520"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.5, 0.5], "0.0 points since the start"),
        ([0.5, 0.6], "+10.0 points since the start"),
        ([0.5, 0.4, 0.6], "+10.0 points since the start (at its worst −10.0 points)"),
        ([0.5, 0.3, 0.3], "−20.0 points since the start"),
    ],
)
def test_a_control_is_told_by_its_sign(values: list[float], words: str, run_of: Factory) -> None:
    run = run_of("sfa", K=len(values) - 1)
    run.scores["accuracy"].controls = {"noise": values}
    assert f"noise (never trained on) {words}" in run_summary(run)[0]
    assert run_summary(run)[0].endswith(f"{words} (1 seed, so no interval).")


def test_a_run_that_lost_nothing_is_not_said_to_have_lost(run_of: Factory) -> None:
    run = run_of("sfa", K=2)
    still = run.metrics.model_copy(update={"forgetting": 0.0})
    assert "forgetting 0.0 points" in run_summary(run.model_copy(update={"metrics": still}))[0]


def test_an_unfinished_run_is_not_said_to_be_whole(run_of: Factory) -> None:
    run = run_of("sfa", K=1)
    run.recipe["tasks"] = [{"name": name} for name in "abc"]
    assert run_summary(run)[0].startswith("SFA after 1 of 3 tasks: accuracy ")
    run.recipe["tasks"] = [{"name": "a"}]
    assert run_summary(run)[0].startswith("SFA after 1 task: accuracy ")
    assert "average" not in run_summary(run)[0]


def test_a_single_contestant_has_no_best_mean(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, PLAIN | {"sfa": {"keep": 0.9}, "joint": {}})
    assert set(column(comparison, 0, "against the best mean").values()) == {formatting.MISSING}


def test_what_is_not_told_apart_is_not_called_worse(comparison_of: Factory) -> None:
    alike = {"a": {"name": "sfa", "keep": 0.90}, "b": {"name": "sfa", "keep": 0.895}}
    comparison, _ = comparison_of(5, PLAIN | alike)
    assert set(against_the_best(comparison, "average_accuracy").values()) == {BEST_MEAN, "no difference shown"}
    different = {"a": {"name": "sfa", "keep": 0.9}, "b": {"name": "sfa", "keep": 0.2}}
    apart, _ = comparison_of(5, PLAIN | different)
    assert against_the_best(apart, "average_accuracy") == {"a": BEST_MEAN, "b": "worse"}
    one_seed, _ = comparison_of(1, PLAIN | different)
    assert against_the_best(one_seed, "average_accuracy") == {"a": BEST_MEAN}  # one seed allows no verdict


@pytest.mark.parametrize("lower", [False, True])
def test_the_best_of_the_methods_stands_below_plain_fine_tuning_that_beats_it(
    lower: bool, comparison_of: Factory
) -> None:
    """SFA (6.91) stood above plain 6.80, lower being better."""
    keeps = (0.9, 0.2) if not lower else (0.5, 0.9)
    methods = {"sequential": {"keep": 1.0 if not lower else 0.0}, "a": {"name": "sfa", "keep": keeps[0]},
               "b": {"name": "sfa", "keep": keeps[1]}}  # fmt: skip
    comparison, _ = comparison_of(5, methods)
    if lower:
        comparison = comparison.model_copy(update=LOSS)
    assert list(column(comparison, 0, "forgetting")) == ["sequential (floor)", "a", "b"]
    ahead, _ = comparison_of(5, PLAIN | {"a": {"name": "sfa", "keep": 0.9}, "b": {"name": "sfa", "keep": 0.2}})
    assert list(column(ahead, 0, "forgetting")) == ["a", "b", "sequential (floor)"]


def test_no_order_is_won_behind_plain_fine_tuning_without_saying_so(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(2, PLAIN | {"a": {"name": "sfa", "keep": 0.3}, "b": {"name": "sfa", "keep": 0.2}},
                                  orders=2)  # fmt: skip
    assert "behind" not in " ".join(orders.order_facts(comparison))
    worse, _ = comparison_of(2, {"sequential": {"keep": 1.0}, "a": {"name": "sfa", "keep": 0.3},
                                 "b": {"name": "sfa", "keep": 0.2}}, orders=2)  # fmt: skip
    [best] = orders.order_facts(worse)
    assert "1 a, behind sequential fine-tuning; 2 a, behind sequential fine-tuning (described, not tested" in best


def test_stored_models_and_statistics_are_not_nothing(comparison_of: Factory) -> None:
    kinds = {"ties": {"stored_bytes": 13_700_000, "stored_model_bytes": 13_700_000},
             "ewc": {"stored_bytes": 2_000_000, "stored_statistics_bytes": 2_000_000},
             "sfa": {"keep": 0.9}, "old": {"name": "ties", "stored_bytes": 5_000}}  # fmt: skip
    comparison, _ = comparison_of(3, PLAIN | kinds)
    rows = column(comparison, 2, "stored between tasks")
    assert (rows["ties"], rows["ewc"], rows["sfa"]) == ("13.7 MB models", "2 MB statistics", "none")
    assert rows["old"] == "5 kB"  # of which an older version did not say what they are
    assert not any("nothing stored" in line for line in findings(comparison) if line.startswith("TIES"))


def test_a_page_has_one_training_time_for_a_method(comparison_of: Factory) -> None:
    """Seconds between runs are noisy: 0.6 % more by the averages' clock, 0.76 × by the runs'."""
    sfa = {"keep": 0.9, "averages": 8, "averaging_seconds": 0.06, "training_seconds": 10.06}
    comparison, cells = comparison_of(3, PLAIN | {"sfa": sfa})
    slow = [run.model_copy(update={"costs": run.costs.model_copy(update={"training_seconds": seconds})})
            for run, seconds in zip(cells["sequential"], (9.0, 13.0, 18.0), strict=True)]  # fmt: skip
    from stockpot.evaluation.method_summaries import compare_methods

    runs = {"sequential": slow, "sfa": cells["sfa"]}
    methods = compare_methods({label: [(run.seed, "", run) for run in some] for label, some in runs.items()})
    noisy = comparison.model_copy(update={"methods": methods})
    assert methods["sfa"].training_seconds.mean < 0.8 * methods["sequential"].training_seconds.mean
    assert column(noisy, 2, "relative")["sfa"] == "1.01 ×"
    assert any("0.6 % more training time" in line for line in findings(noisy))


def test_single_runs_are_not_said_to_have_intervals(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(1)
    assert methods_tables(comparison)[0].caption == "single runs, so no intervals (1 seed × 1 order)"
    several, _ = comparison_of(3)
    assert methods_tables(several)[0].caption == "means ± half the 95 % interval over 3 seeds × 1 order"


def test_controls_of_a_comparison_are_told_where_an_interval_shows_them(comparison_of: Factory) -> None:
    comparison, cells = comparison_of(3, PLAIN | {"sfa": {"keep": 0.9}})
    for label, drop in (("sequential", 0.2), ("sfa", 0.0)):
        for run in cells[label]:
            shift = 0.01 * (run.seed - 1)
            run.scores["accuracy"].controls = {"general": [0.5, 0.5 - drop + shift, 0.5 - drop, 0.5 - drop + shift]}
    from stockpot.evaluation.method_summaries import compare_methods

    methods = compare_methods({label: [(run.seed, "", run) for run in some] for label, some in cells.items()})
    found = comparison.model_copy(update={"methods": methods})
    change = methods["sequential"].controls["general"].change
    assert change.mean == pytest.approx(-0.2) and change.low is not None and change.high is not None and change.high < 0
    versus = methods["sfa"].controls["general"].versus_sequential["change"]
    assert versus.mean == pytest.approx(0.2)
    [line] = [line for line in findings(found) if line.startswith("general (never trained on), since the start")]
    assert "worse after sequential fine-tuning (−20.0 points); no change shown after SFA" in line
    assert column(found, 0, "general since the start") == {"sequential (floor)": "−0.200", "sfa": "+0.000"}


def test_a_tie_is_not_said_to_be_won(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(5, PLAIN | {"a": {"name": "sfa", "keep": 0.9}, "c": {"name": "sfa", "keep": 0.2}})
    tied = comparison.model_copy(update={"methods": {**comparison.methods, "b": comparison.methods["a"]}})
    assert against_the_best(tied, "average_accuracy") == {"a": BEST_MEAN, "b": BEST_MEAN, "c": "worse"}


def test_several_runs_side_by_side_have_a_column_for_each_control(run_of: Factory, tmp_path: Path) -> None:
    runs = [("one", run_of("sfa", K=2)), ("other", run_of("sequential", K=2))]
    runs[0][1].scores["accuracy"].controls = {"general": [0.5, 0.4, 0.2]}
    found = _overview(runs)
    assert found is not None and _overview(runs[:1]) is None
    assert found.headings[5:7] == ["general since the start", "noise since the start"]
    assert [values[5:7] for _, values in found.rows] == [["−0.300", "—"], ["—", "−0.100"]]
    page = write_run_report(runs, tmp_path).read_text(encoding="utf-8")
    assert "general since the start</th>" in page and "−0.300</td>" in page


def test_names_are_whole_and_lines_short_where_much_is_stored(comparison_of: Factory) -> None:
    kinds = {"stored_bytes": 1_378_000, "stored_data_bytes": 38_000, "stored_model_bytes": 1_340_000}
    comparison, _ = comparison_of(3, PLAIN | {"joint": kinds, "sfa": {"keep": 0.9}})
    comparison = comparison.model_copy(update=LOSS)
    console = Console(width=200)
    with console.capture() as capture:
        console.print(comparison_table(comparison))
    lines = capture.get().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert any("sequential" in line for line in lines) and any("joint" in line for line in lines)
    assert any("38 kB data," in line for line in lines) and any("1.34 MB models" in line for line in lines)


def test_a_reference_that_stores_something_is_not_said_to_store_nothing(comparison_of: Factory) -> None:
    joint = {"stored_bytes": 38_000, "stored_data_bytes": 38_000, "extra_memory_bytes": 20_500}
    comparison, _ = comparison_of(2, PLAIN | {"sfa": {"keep": 0.9}, "joint": joint})
    stored, memory = column(comparison, 2, "stored between tasks"), column(comparison, 2, "extra memory")
    assert (stored["joint (ceiling)"], memory["joint (ceiling)"]) == ("38 kB data", "20.5 kB")
    assert (stored["sfa"], memory["sfa"]) == ("none", "none")
