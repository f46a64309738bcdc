"""The published evidence, written by earlier versions, is still read, and every text of a report is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stockpot.report import front_facts, orders, tuning_section
from stockpot.report.answers import answer_questions
from stockpot.report.findings import findings
from stockpot.report.terminal import methods_tables
from stockpot.results import read_comparison

EVIDENCE = Path(__file__).parents[2] / "benchmarks" / "evidence"
COMPARISONS = sorted(path for path in EVIDENCE.rglob("*.json") if not path.name.startswith(("language", "auto")))


def test_there_is_evidence() -> None:
    assert len(COMPARISONS) >= 5


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_published_comparisons_are_read_and_described(path: Path) -> None:
    comparison = read_comparison(path)
    answers = answer_questions(comparison)
    assert len(answers[0].table.rows) == len(comparison.methods)
    assert all(answer.table.rows for answer in answers)
    assert answers[3].facts == comparison.sentences  # what was written then is shown
    assert findings(comparison)
    assert methods_tables(comparison)[0].row_count == len(comparison.methods)
    if comparison.tuning is not None:
        assert tuning_section.tuning_facts(comparison) and tuning_section.tuning_grid(comparison).rows
    assert bool(front_facts.front_grid(comparison).rows) == bool(comparison.front)
    assert len(orders.order_grid(comparison).rows) == len(comparison.methods)
