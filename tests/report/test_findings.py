"""A finding stands only where the corrected interval supports it; losses are said as plainly as wins."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from stockpot.evaluation.method_summaries import compare_methods
from stockpot.evaluation.metrics import stream_metrics
from stockpot.report.findings import findings, run_summary

Factory = Callable[..., Any]

SEQUENTIAL = {"sequential": {}}
SFA = {"keep": 0.95, "averaging_seconds": 0.04, "averages": 8, "training_seconds": 10.04}


def about(sentences: list[str], name: str) -> str:
    [found] = [sentence for sentence in sentences if sentence.startswith(name)]
    return found


def test_the_sentence_that_a_person_wants(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, SEQUENTIAL | {"sfa": {**SFA, "peak": 0.9}})
    sentence = about(findings(comparison), "SFA")
    assert "; kept 9" in sentence and " % (" in sentence and "of what sequential fine-tuning forgot" in sentence
    assert "; 0.4 % more training time; nothing stored (3 seeds × 1 order)." in sentence
    assert "better in average accuracy (+" in sentence and "worse in accuracy on the newest task (−" in sentence


def test_stored_data_is_said(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, SEQUENTIAL | {"replay": {"keep": 0.9, "stored_data_bytes": 1_260_000}})
    assert "1.26 MB data stored" in about(findings(comparison), "Rehearsal")


def test_no_difference_is_not_called_equal(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, SEQUENTIAL | {"sfa": {"keep": 0.0}})
    assert "SFA against sequential fine-tuning: no difference shown (3 seeds × 1 order)." in findings(comparison)
    assert not any("kept" in sentence for sentence in findings(comparison))


def test_a_method_that_is_worse_is_said_to_be_worse(comparison_of: Factory) -> None:
    base = {"sequential": {"keep": 0.5}}
    comparison, _ = comparison_of(4, base | {"sfa": {"keep": 0.1, "peak": 0.95, "averages": 0}})
    sentence = about(findings(comparison), "SFA")
    assert re.search(
        r"worse in average accuracy \(−[\d.]+ points\)(,| and) forgetting \(\+3[456]\.\d points\)", sentence
    )
    assert "better" not in sentence and "kept" not in sentence


def test_less_forgetting_by_learning_nothing_does_not_read_as_a_win(comparison_of: Factory) -> None:
    """What was not learnt is in the same line as the share kept."""
    comparison, _ = comparison_of(3, SEQUENTIAL | {"sfa": {"keep": 1.0, "peak": 0.12}}, K=2)
    sentence = about(findings(comparison), "SFA")
    assert "kept" in sentence and "worse in average accuracy (−" in sentence
    assert "accuracy on the newest task (−" in sentence


def test_one_seed_claims_nothing_and_says_why(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(1)
    [only] = findings(comparison)
    assert only.startswith("No claim about ") and "at least two seeds" in only and "one seed shows no spread" in only


def test_a_method_with_one_seed_among_others_with_three(comparison_of: Factory) -> None:
    comparison, cells = comparison_of(3, SEQUENTIAL | {"sfa": SFA, "wise_ft": {"keep": 0.5}})
    runs = {label: [(r.seed, "", r) for r in found] for label, found in cells.items()}
    runs["wise_ft"] = runs["wise_ft"][:1]
    sentences = findings(comparison.model_copy(update={"methods": compare_methods(runs)}))
    assert "kept" in about(sentences, "SFA")
    assert about(sentences, "No claim").startswith("No claim about WiSE-FT:")


def test_without_sequential_there_is_no_comparison(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, {"sfa": SFA, "joint": {}})
    [only] = findings(comparison)
    assert "nothing to compare them with" in only


def test_kept_is_not_claimed_where_sequential_did_not_forget(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, {"sequential": {"keep": 1.0}, "sfa": {"keep": 1.0, "peak": 0.8}})
    sentences = findings(comparison)
    assert not any("kept 1" in s or "kept 9" in s for s in sentences)
    assert "Sequential fine-tuning was not shown to forget" in sentences[-1]


def test_a_share_whose_interval_reaches_zero_is_not_named(comparison_of: Factory) -> None:
    """The difference in points is shown; how large a share it is of what was lost is not."""
    comparison, _ = comparison_of(3, SEQUENTIAL | {"sfa": SFA})
    vague = comparison.methods["sfa"].kept.model_copy(update={"low": -0.1})
    comparison.methods["sfa"] = comparison.methods["sfa"].model_copy(update={"kept": vague})
    sentence = about(findings(comparison), "SFA")
    assert "kept" not in sentence and "forgetting (−" in sentence


def test_what_sequential_lost_is_said_with_its_interval(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3)
    last = findings(comparison)[-1]
    assert last.startswith("Sequential fine-tuning itself: forgetting 89.9 points (95 % interval ")


def test_time_within_noise_is_not_claimed(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, SEQUENTIAL | {"l2": {"keep": 0.5}})
    sentence = about(findings(comparison), "L2")
    assert "no difference in training time shown" in sentence and "% more" not in sentence


def test_time_beyond_noise_is_claimed_as_a_ratio(comparison_of: Factory) -> None:
    comparison, cells = comparison_of(3, SEQUENTIAL | {"replay": {"keep": 0.9, "training_seconds": 15.0, "steps": 600}})
    plain = sum(run.costs.training_seconds for run in cells["sequential"]) / 3
    assert f"{100 * (15 / plain - 1):.0f} % more training time" in about(findings(comparison), "Rehearsal")


def test_the_averages_share_does_not_hide_a_method_that_is_slower_as_a_whole(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, SEQUENTIAL | {"sfa": {**SFA, "training_seconds": 20.0}})
    sentence = about(findings(comparison), "SFA")
    assert "0.2 % more" not in sentence and "% more training time" in sentence


def test_losses_are_better_or_worse_not_higher_or_lower(comparison_of: Factory) -> None:
    comparison, cells = comparison_of(3, SEQUENTIAL | {"sfa": {**SFA, "keep": 0.5}})
    for runs in cells.values():
        for index, run in enumerate(runs):
            scores = run.scores["accuracy"].model_copy(update={"higher_is_better": False, "unit": "nats"})
            runs[index] = run.model_copy(update={"scores": {"accuracy": scores}, "metrics": stream_metrics(scores)})
    methods = compare_methods({label: [(run.seed, "", run) for run in runs] for label, runs in cells.items()})
    losses = comparison.model_copy(update={"methods": methods, "higher_is_better": False, "unit": "nats"})
    assert re.search(r"worse in average accuracy \(\+0\.\d+ nats\)", about(findings(losses), "SFA"))


def test_labels_of_users_are_left_as_they_are(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, SEQUENTIAL | {"sfa-p1": {"name": "sfa", **SFA}})
    assert about(findings(comparison), "sfa-p1 against")


def test_joint_comes_after_the_methods(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3)
    sentences = findings(comparison)
    assert sentences[-3].startswith("Joint training against sequential fine-tuning: ")


@pytest.mark.parametrize(("K", "words"), [(1, "SFA after 1 task: accuracy"), (3, "SFA after 3 tasks: average")])
def test_one_run_is_summarised_without_a_claim(run_of: Factory, K: int, words: str) -> None:
    [only] = run_summary(run_of("sfa", K=K, keep=0.9))
    assert only.startswith(words) and "1 seed, so no interval" in only
    assert ("forgetting" in only) == (K > 1)


def test_a_run_that_has_learnt_nothing_yet(run_of: Factory) -> None:
    run = run_of(K=2)
    run.scores["accuracy"].matrix = []
    assert run_summary(run) == ["No task has been learnt and measured yet."]
