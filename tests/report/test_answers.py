"""The four questions are answered in order, by tables; ranks are means, and noise is never called better."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from stockpot.report import formatting, ranking
from stockpot.report.answers import BEST_MEAN, against_the_best, answer_questions
from stockpot.report.findings import FEW, NAMED, NONE_SHOWN, TESTED, findings
from stockpot.report.pairwise import pairwise_differences
from stockpot.results import Cell

Factory = Callable[..., Any]


def cells(answer: Any, heading: str) -> dict[str, str]:
    """Row → its cell in the first column of this heading."""
    column = answer.table.headings.index(heading)
    return {name: values[column] for name, values in answer.table.rows}


def test_the_questions_in_their_order(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3)
    answers = answer_questions(comparison)
    assert [answer.question for answer in answers] == [
        "Who keeps most?", "Who learns best?", "What does each cost?", "Is the difference real?",
    ]  # fmt: skip
    assert [len(answer.table.rows) for answer in answers] == [5, 5, 5, 4]
    assert answers[3].facts == findings(comparison)


@pytest.mark.parametrize(("orders", "design"), [(1, "3 seeds × 1 order"), (2, "3 seeds × 2 orders")])
@pytest.mark.parametrize("many", [False, True])
def test_seeds_and_orders_stand_beside_every_number(
    comparison_of: Factory, many_methods: Any, orders: int, design: str, many: bool
) -> None:
    comparison, _ = comparison_of(3, many_methods if many else None, orders=orders)
    for answer in answer_questions(comparison):
        assert all(design in text for text in (answer.table.caption, *answer.facts)), answer


def test_the_best_mean_is_marked_and_every_other_method_is_tested_against_it(comparison_of: Factory) -> None:
    methods = {"sequential": {}, "a": {"name": "sfa", "keep": 0.90}, "b": {"name": "sfa", "keep": 0.895},
               "c": {"name": "sfa", "keep": 0.2}}  # fmt: skip
    comparison, _ = comparison_of(5, methods)
    means = {label: comparison.methods[label].average_accuracy.mean for label in "abc"}
    first, second = sorted("ab", key=lambda label: -means[label])
    pairs = pairwise_differences(comparison, "average_accuracy")
    assert pairs["a", "b"].verdict == NONE_SHOWN and pairs["a", "c"].verdict == pairs["b", "c"].verdict == "better"
    keeps = answer_questions(comparison)[0]
    verdicts = {first: BEST_MEAN, second: NONE_SHOWN, "c": "worse", "sequential (floor)": formatting.MISSING}
    assert cells(keeps, "against the best mean") == verdicts
    assert [name for name, _ in keeps.table.rows] == [first, second, "c", "sequential (floor)"]
    assert cells(keeps, "average accuracy")[first].startswith(f"{means[first]:.3f} ± ")


def test_methods_inside_the_noise_are_never_called_better(comparison_of: Factory) -> None:
    methods = {"sequential": {}, **{f"like-{k}": {"name": "sfa", "keep": 0.0} for k in range(9)}}
    comparison, _ = comparison_of(3, methods)
    verdicts = [
        s.versus_sequential[m].verdict for s in comparison.methods.values() if s.versus_sequential for m in TESTED
    ]
    assert set(verdicts) == {NONE_SHOWN}
    answers = answer_questions(comparison)
    for metric in ("average_accuracy", "newest_accuracy"):
        assert Counter(against_the_best(comparison, metric).values()) == {BEST_MEAN: 1, NONE_SHOWN: 8}
    texts = [text for answer in answers for text in answer.facts]
    texts += [value for answer in answers for _, values in answer.table.rows for value in values]
    for claim in (r"[1-9]\d* (better|worse)", "(better|worse) in", "kept", "(better|worse)$", "learn less"):
        assert not any(re.search(claim, text) for text in texts), claim
    assert any("cannot be told apart in average accuracy: 36 of 36" in text for text in texts)


def test_with_many_methods_the_best_few_are_named_and_the_rest_counted(
    comparison_of: Factory, many_methods: dict[str, Any]
) -> None:
    comparison, _ = comparison_of(3, many_methods)
    lines = findings(comparison)
    assert len(lines) == NAMED + len(TESTED) + 1 + 2 and max(map(len, lines)) < 350
    for metric in TESTED:
        verdicts = [s.versus_sequential[metric].verdict for s in comparison.methods.values() if s.versus_sequential]
        name = formatting.capitalized(formatting.METRIC_TITLES[metric][0])
        [line] = [line for line in lines if line.startswith(f"{name} against")]
        assert "21 methods: " in line
        for verdict in ("better", "worse", NONE_SHOWN):
            assert f"{verdicts.count(verdict)} {verdict}" in line
    pairs = pairwise_differences(comparison, "average_accuracy")
    alike = sum(difference.verdict == NONE_SHOWN for difference in pairs.values())
    assert any(f"cannot be told apart in average accuracy: {alike} of {len(pairs)} " in line for line in lines)
    assert len(answer_questions(comparison)[3].table.rows) == 21  # the table leaves nobody out


def test_up_to_five_methods_have_a_line_each(comparison_of: Factory) -> None:
    methods = {"sequential": {}, **{f"m{k}": {"name": "sfa", "keep": 0.2 * k} for k in range(FEW)}}
    comparison, _ = comparison_of(3, methods)
    lines = findings(comparison)
    assert all(any(line.startswith(f"m{k} against sequential") for line in lines) for k in range(FEW))
    assert not any(line.startswith("Average accuracy against") for line in lines)


def test_keeping_by_not_learning_is_said(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, {"sequential": {}, "sfa": {"keep": 1.0, "peak": 0.3}})
    keeps, learns, *_ = answer_questions(comparison)
    assert keeps.facts == ["Shown to learn less than sequential fine-tuning: SFA (3 seeds × 1 order)."]
    assert cells(learns, "against plain fine-tuning")["sfa"] == "worse"
    learning, _ = comparison_of(3, {"sequential": {}, "sfa": {"keep": 1.0, "peak": 0.97}})
    assert answer_questions(learning)[0].facts == []


def test_costs_are_ratios_verdicts_and_bytes(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3)
    costs = answer_questions(comparison)[2]
    plain = comparison.methods["sequential"].training_seconds.mean
    ratio = comparison.methods["replay"].training_seconds.mean / plain
    assert cells(costs, "relative")["replay"] == f"{ratio:.2f} ×"
    assert cells(costs, "relative")["sequential (floor)"] == "1.00 ×"
    assert cells(costs, "shown to be") == {
        "sequential (floor)": formatting.MISSING, "sfa": NONE_SHOWN, "wise_ft": NONE_SHOWN, "replay": "longer",
        "joint (ceiling)": "longer",
    }  # fmt: skip
    assert cells(costs, "extra memory")["sfa"] == "3.4 MB" and cells(costs, "extra memory")["replay"] == "none"
    assert cells(costs, "stored between tasks")["replay"] == "1.26 MB data"
    assert cells(costs, "stored between tasks")["sfa"] == "none"


def test_losses_rank_the_lowest_first(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3)
    flipped = comparison.model_copy(update={"higher_is_better": False, "unit": "nats"})
    keeps = answer_questions(flipped)[0]
    assert [name for name, _ in keeps.table.rows][:2] == ["sequential (floor)", "wise_ft"]
    assert cells(keeps, "against the best mean")["wise_ft"] == BEST_MEAN


def test_only_floor_and_ceiling_is_still_a_comparison(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, {"sequential": {}, "joint": {"keep": 0.99}})
    assert [name for name, _ in answer_questions(comparison)[0].table.rows] == ["joint (ceiling)", "sequential (floor)"]
    assert against_the_best(comparison, "average_accuracy") == {}


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        ([(0, 0)], "1 seed × 1 order"),
        ([(0, 0), (0, 1), (1, 0), (1, 1)], "2 seeds × 2 orders"),
        ([(0, 0), (0, 1), (1, 0)], "1 to 2 seeds × 2 orders"),
    ],
)
def test_what_numbers_are_over(cells: list[tuple[int, int]], text: str) -> None:
    assert ranking.run_design(Cell(order=order, seed=seed, run="") for order, seed in cells) == text


@pytest.mark.parametrize(
    ("names", "text"),
    [([], "none"), (["a"], "a"), (["a", "b"], "a and b"), (list("abcd"), "a, b, c and d"),
     (list("abcde"), "a, b, c and 2 more")],
)  # fmt: skip
def test_listing(names: list[str], text: str) -> None:
    assert formatting.listing(names) == text
