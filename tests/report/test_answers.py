"""The four questions are answered in order; ranks are means, and nothing inside the noise is called better."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from stockpot.report import formatting
from stockpot.report.answers import answer_questions
from stockpot.report.findings import FEW, NAMED, NONE_SHOWN, TESTED, findings
from stockpot.report.pairwise import pairwise_differences
from stockpot.results import Cell

Factory = Callable[..., Any]


def test_the_questions_in_their_order(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3)
    questions = [answer.question for answer in answer_questions(comparison)]
    assert questions == ["Who keeps most?", "Who learns best?", "What does each cost?", "Is the difference real?"]
    assert all(answer.sentences for answer in answer_questions(comparison))
    assert answer_questions(comparison)[3].sentences == findings(comparison)


@pytest.mark.parametrize(("orders", "design"), [(1, "3 seeds × 1 order"), (2, "3 seeds × 2 orders")])
@pytest.mark.parametrize("many", [False, True])
def test_seeds_and_orders_stand_beside_every_number(
    comparison_of: Factory, many_methods: Any, orders: int, design: str, many: bool
) -> None:
    comparison, _ = comparison_of(3, many_methods if many else None, orders=orders)
    for answer in answer_questions(comparison):
        for sentence in answer.sentences:
            assert design in sentence, sentence


def test_the_first_by_its_mean_is_named_and_what_it_cannot_be_told_apart_from(comparison_of: Factory) -> None:
    methods = {"sequential": {}, "a": {"name": "sfa", "keep": 0.90}, "b": {"name": "sfa", "keep": 0.895}, "c": {"name": "sfa", "keep": 0.2}}  # fmt: skip  # noqa: E501
    comparison, _ = comparison_of(5, methods)
    means = {label: comparison.methods[label].average_accuracy.mean for label in "abc"}
    first, second = sorted("ab", key=lambda label: -means[label])
    pairs = pairwise_differences(comparison, "average_accuracy")
    assert pairs["a", "b"].verdict == NONE_SHOWN and pairs["a", "c"].verdict == pairs["b", "c"].verdict == "better"
    text = answer_questions(comparison)[0].sentences[0]
    assert text.startswith(f"By mean average accuracy, {first} ({means[first]:.3f} ± ")
    assert text.endswith(f"It cannot be told apart from {second}.")
    assert "By mean average accuracy, c" not in text and "better" not in text


def test_methods_inside_the_noise_are_never_called_better(comparison_of: Factory) -> None:
    methods = {"sequential": {}, **{f"like-{k}": {"name": "sfa", "keep": 0.0} for k in range(9)}}
    comparison, _ = comparison_of(3, methods)
    verdicts = [
        s.versus_sequential[m].verdict for s in comparison.methods.values() if s.versus_sequential for m in TESTED
    ]
    assert set(verdicts) == {NONE_SHOWN}
    sentences = [sentence for answer in answer_questions(comparison) for sentence in answer.sentences]
    for claim in (
        r"\d better",
        r"\d worse",
        "points higher",
        "points lower",
        " kept ",
        "can be told apart from every",
        "Shown to",
    ):
        assert not any(re.search(claim, sentence) for sentence in sentences), claim
    assert sum("It cannot be told apart from any other method." in sentence for sentence in sentences) == 4
    assert any(sentence.startswith("36 of the 36 pairs of methods cannot be told apart") for sentence in sentences)


def test_with_many_methods_the_best_few_are_named_and_the_rest_counted(
    comparison_of: Factory, many_methods: dict[str, Any]
) -> None:
    comparison, _ = comparison_of(3, many_methods)
    found = findings(comparison)
    assert len(found) == NAMED + len(TESTED) + 1 + 2 and max(map(len, found)) < 300
    for metric in TESTED:
        verdicts = [s.versus_sequential[metric].verdict for s in comparison.methods.values() if s.versus_sequential]
        name = formatting.capitalized(formatting.METRIC_TITLES[metric][0])
        [text] = [sentence for sentence in found if sentence.startswith(f"{name} against")]
        assert "of 21 methods" in text
        for verdict in ("better", "worse"):
            count = verdicts.count(verdict)
            assert f"{count or 'none'} {verdict}" in text
        assert f"no difference shown for {verdicts.count(NONE_SHOWN)} (" in text
    pairs = pairwise_differences(comparison, "average_accuracy")
    alike = sum(difference.verdict == NONE_SHOWN for difference in pairs.values())
    assert any(sentence.startswith(f"{alike} of the {len(pairs)} pairs") for sentence in found)


def test_up_to_five_methods_have_a_sentence_each(comparison_of: Factory) -> None:
    methods = {"sequential": {}, **{f"m{k}": {"name": "sfa", "keep": 0.2 * k} for k in range(FEW)}}
    comparison, _ = comparison_of(3, methods)
    assert all(any(f"m{k} " in sentence for sentence in findings(comparison)) for k in range(FEW))
    assert not any(sentence.startswith("Average accuracy against") for sentence in findings(comparison))


def test_keeping_by_not_learning_is_said(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, {"sequential": {}, "sfa": {"keep": 1.0, "peak": 0.3}})
    keeps, learns, *_ = answer_questions(comparison)
    assert any("learnt less than sequential fine-tuning, too: SFA." in sentence for sentence in keeps.sentences)
    assert any(sentence.startswith("Shown to learn less") and "SFA" in sentence for sentence in learns.sentences)


def test_costs_are_ratios_and_counts(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3)
    time, memory, stored, data = answer_questions(comparison)[2].sentences
    plain = comparison.methods["sequential"].training_seconds.mean
    ratio = comparison.methods["replay"].training_seconds.mean / plain
    assert f"{ratio:.2f} × (rehearsal)" in time and "a longer time is shown for 1 of 3" in time
    assert "none for rehearsal" in memory and "3.4 MB" in memory
    assert "nothing by SFA and WiSE-FT; 1.26 MB data by rehearsal" in stored
    assert data.startswith("Examples of past tasks must be kept by rehearsal (1.26 MB); the other 2 keep none")


def test_no_method_keeping_examples_is_said(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, {"sequential": {}, "sfa": {"keep": 0.9}, "joint": {"stored_data_bytes": 10**6}})
    words = "No method but joint training keeps examples of past tasks (3 seeds × 1 order)."
    assert words in answer_questions(comparison)[2].sentences


def test_losses_rank_the_lowest_first(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3)
    flipped = comparison.model_copy(update={"higher_is_better": False, "unit": "nats"})
    assert answer_questions(flipped)[0].sentences[0].startswith("By mean average accuracy, WiSE-FT")


def test_only_floor_and_ceiling_is_still_a_comparison(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, {"sequential": {}, "joint": {"keep": 0.99}})
    assert answer_questions(comparison)[0].sentences[0].startswith("Sequential fine-tuning, the floor, has ")


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        ([(0, 0)], "1 seed × 1 order"),
        ([(0, 0), (0, 1), (1, 0), (1, 1)], "2 seeds × 2 orders"),
        ([(0, 0), (0, 1), (1, 0)], "1 to 2 seeds × 2 orders"),
    ],
)
def test_what_numbers_are_over(cells: list[tuple[int, int]], text: str) -> None:
    assert formatting.run_design(Cell(order=order, seed=seed, run="") for order, seed in cells) == text


@pytest.mark.parametrize(
    ("names", "text"),
    [([], "none"), (["a"], "a"), (["a", "b"], "a and b"), (list("abcd"), "a, b, c and d"),
     (list("abcde"), "a, b, c and 2 more")],
)  # fmt: skip
def test_listing(names: list[str], text: str) -> None:
    assert formatting.listing(names) == text
