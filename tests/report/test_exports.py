"""Exports: the numbers are those of the results, every name is escaped, and bold is what verdicts support."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from stockpot.errors import StockpotError
from stockpot.evaluation.statistics import COST_NAMES, METRIC_NAMES
from stockpot.report.export import FORMATS, export_comparison, export_runs
from stockpot.report.export_tables import BOLD_MEANS, shown_best
from stockpot.report.latex import escape_latex, latex_number
from stockpot.results import Comparison, Results, Scores

Factory = Callable[..., Any]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def number(cell: str) -> float | None:
    return float(cell) if cell else None


def test_a_run_as_csv_has_every_number_of_its_results(run_of: Factory) -> None:
    run = run_of(tasks=["a, b", 'c "d"', "e"])
    second = Scores(matrix=[[None] * 3] * 3, initial=[0.25, None, 1e-17], higher_is_better=False, unit="nats")
    run = run.model_copy(update={"scores": {**run.scores, "loss": second}})
    rows = rows_of(export_runs([("first", run), ("second", run)], "csv"))
    assert [row["run"] for row in rows] == ["first"] * (len(rows) // 2) + ["second"] * (len(rows) // 2)
    found = {
        (row["score"], int(row["learnt"]), row["kind"], row["on"]): number(row["value"])
        for row in rows
        if row["run"] == "first"
    }
    for title, scores in run.scores.items():
        for learnt, values in enumerate([scores.initial, *scores.matrix]):
            assert [found.pop((title, learnt, "task", task)) for task in run.tasks] == values
            for name, control in scores.controls.items():
                assert found.pop((title, learnt, "control", name)) == control[learnt]
    assert not found
    assert {(row["score"], row["unit"], row["higher_is_better"]) for row in rows} == {
        ("accuracy", "fraction", "true"), ("loss", "nats", "false"),
    }  # fmt: skip
    assert [row["after"] for row in rows[:12:4]] == ["start", *run.tasks[:2]]


def test_a_comparison_as_csv_has_a_row_for_each_method(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3)
    rows = {row["method"]: row for row in rows_of(export_comparison(comparison, "csv"))}
    assert list(rows) == list(comparison.methods)
    for label, summary in comparison.methods.items():
        row = rows[label]
        for name in (*METRIC_NAMES, "kept", *COST_NAMES):
            estimate = getattr(summary, name)
            for end in ("mean", "low", "high", "n"):
                assert number(row[f"{name}_{end}"]) == getattr(estimate, end), (label, name)
        for control, by_control in summary.controls.items():
            assert number(row[f"{control}_change_low"]) == by_control.change.low
            assert number(row[f"{control}_worst_mean"]) == by_control.worst.mean
        difference = summary.versus_sequential.get("forgetting")
        assert row["forgetting_difference_verdict"] == (difference.verdict if difference else "")
        if difference is not None:
            assert number(row["forgetting_difference_p_holm"]) == difference.p_holm
            assert number(row["forgetting_difference_high"]) == difference.high
    assert (rows["joint"]["role"], rows["sfa"]["role"], rows["sfa"]["runs"]) == ("ceiling", "rival", "3")


def test_json_is_the_document_itself(run_of: Factory, comparison_of: Factory) -> None:
    run, (comparison, _) = run_of(), comparison_of(2)
    assert Results.model_validate_json(export_runs([("run", run)], "json")) == run
    assert Comparison.model_validate_json(export_comparison(comparison, "json")) == comparison
    several = json.loads(export_runs([("a", run), ("b", run)], "json"))
    assert several == [run.model_dump(mode="json")] * 2


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("50% of $x_1 & #2", r"50\% of \$x\_1 \& \#2"),
        (r"^~ {\a}", r"\textasciicircum{}\textasciitilde{} \{\textbackslash{}a\}"),
        ("<b>|", r"\textless{}b\textgreater{}\textbar{}"),
        ("[10pt]*", "{[}10pt{]}{*}"),  # after \\ these would be its options
        ("a--b---c-d", "a-{}-b-{}-{}-c-d"),
        ('"a`', r"\symbol{34}a{`}"),
        ("SFA, β = 0.5 ± θ → ∞", r"SFA, $\beta$ = 0.5 $\pm$ $\theta$ $\to$ $\infty$"),
        ("two\n\nlines\t\x1b\\end", r"two lines \textbackslash{}end"),
        ("größe 日本", "größe 日本"),
    ],
)  # fmt: skip
def test_latex_prints_names_as_they_are(text: str, written: str) -> None:
    assert escape_latex(text) == written


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("0.912 ± 0.013", r"$0.912 \pm 0.013$"), ("−0.310", "$-0.310$"), ("+0.031", "$+0.031$"), ("—", "---"),
        ("12,345", "$12{,}345$"), ("1.2e−05", r"$1.2\times 10^{-5}$"), ("1.5e+07", r"$1.5\times 10^{7}$"),
        ("26 ms", "26 ms"), ("better", "better"), ("", ""), ("100 %", r"100 \%"),
    ],
)  # fmt: skip
def test_latex_sets_numbers_as_mathematics(cell: str, written: str) -> None:
    assert latex_number(cell) == written


def test_a_latex_table_is_whole_whatever_its_names(run_of: Factory, comparison_of: Factory, hostile: str) -> None:
    run = run_of(tasks=["[2cm]", r"\input{/etc/passwd}", "a & b \\\\ % c"], label=hostile)
    comparison, _ = comparison_of(2, {"sequential": {}, hostile: {"name": "sfa", "keep": 0.9}, "joint": {"keep": 0.99}})
    runs = export_runs([("run_1", run)], "latex")
    for text in (runs, export_comparison(comparison, "latex")):
        bare = re.sub(r"\\[\\{}$&#%_]", lambda m: m[0] if m[0] == r"\\" else "", text)  # without what is escaped
        assert bare.count("{") == bare.count("}")
        assert not bare.count("$") % 2
        assert r"\input" not in text and "script>" not in text
        for table in bare.split(r"\begin{tabular}")[1:]:
            columns = re.match(r"\{(l r*|lr*)\}", table)
            assert columns is not None
            rows = [line for line in table.split(r"\end{tabular}")[0].splitlines() if line.endswith(r" \\")]
            assert {row.count("&") + 1 for row in rows} == {len(columns[1])}
            assert not any(row.strip().startswith(("[", "*")) for row in rows)
    scores = run.scores["accuracy"]
    for values in scores.matrix:
        assert " & ".join(f"${value:.3f}$" for value in values) in runs
    assert len(set(re.findall(r"\\label\{(.+)\}", runs))) == 2


def test_bold_needs_the_verdicts(comparison_of: Factory) -> None:
    """Over four seeds replay is shown to be best; of two equal methods, and over a single seed, none is."""
    comparison, _ = comparison_of(4)
    assert shown_best(comparison, "average_accuracy") == "replay"
    assert shown_best(comparison, "forgetting") == "sfa"
    assert shown_best(comparison, "newest_accuracy") is None
    latex, markdown = (export_comparison(comparison, form) for form in ("latex", "md"))
    mean = comparison.methods["replay"].average_accuracy.mean
    assert rf"replay & $\mathbf{{{mean:.3f} \pm" in latex
    assert f"| replay | **{mean:.3f} ± " in markdown
    assert latex.count(r"\mathbf") == 2 and markdown.count("**") == 4
    assert BOLD_MEANS[2:] in latex
    twin = {"sequential": {}, "sfa": {"keep": 0.9}, "l2": {"keep": 0.9}, "joint": {"keep": 0.99}}
    for same in (comparison_of(2, twin)[0], comparison_of(1)[0]):
        text = export_comparison(same, "latex")
        assert r"\mathbf" not in text and "bold" not in text


def test_markdown_escapes_names(run_of: Factory, hostile: str) -> None:
    text = export_runs([("run", run_of(tasks=["a|b", "*c*", hostile]))], "md")
    assert "<script>" not in text
    assert r"| after | a\|b | \*c\* | &lt;script&gt;" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows[:5]} == {6}


def test_a_form_that_does_not_exist_is_refused(run_of: Factory) -> None:
    for form in FORMATS:
        assert export_runs([("run", run_of())], form).endswith("\n")
    with pytest.raises(
        StockpotError, match=r"form: 'latx' is not one of csv, latex, json, md\. Did you mean 'latex'\?"
    ):
        export_runs([("run", run_of())], "latx")
