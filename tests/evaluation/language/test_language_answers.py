"""Exact match, multiple choice and which cells of the matrix are filled."""

from __future__ import annotations

from math import log
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scoring import measured
from torch import Tensor, nn

from stockpot.batches.token_examples import TokenExamples
from stockpot.errors import StockpotError
from stockpot.evaluation.measure import check_scores
from stockpot.evaluation.scores import AnyScore, default_scores, exact_match
from stockpot.evaluation.scores.accuracy import Accuracy
from stockpot.evaluation.scores.base import Subject, thinned
from stockpot.evaluation.scores.bits_per_byte import BitsPerByte
from stockpot.evaluation.scores.exact_match import ExactMatch, extracted, normalised
from stockpot.evaluation.scores.lm_eval import LmEval
from stockpot.evaluation.scores.loss import Loss
from stockpot.evaluation.scores.multiple_choice import MultipleChoice, log_likelihoods, prompt_and_candidate_tokens
from stockpot.evaluation.scores.pass_at_k import PassAtK
from stockpot.evaluation.scores.perplexity import Perplexity
from stockpot.models.tokenizer import train_tokenizer
from stockpot.streams.text.encoding import encode_pairs
from stockpot.streams.text.part import TextPart
from stockpot.streams.text.rows import PromptPair, TextRows

NOTHING = TokenExamples(torch.tensor([0]).int(), torch.tensor([1]), torch.tensor([1]).int())


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["Is it? Yes No Maybe so"], 300)


class Favour(nn.Module):
    """After any token, p ∝ weights of the next one."""

    def __init__(self, size: int, weights: dict[int, float]) -> None:
        super().__init__()
        table = torch.ones(size, dtype=torch.float64)
        for token, weight in weights.items():
            table[token] = weight
        self.logits = nn.Parameter((table / table.sum()).log())

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def questions(*completions: str, **columns: list[Any]) -> TextPart:
    rows = [{key: values[n] for key, values in columns.items()} for n in range(len(completions))]
    return TextPart("law", NOTHING, 1, ["Is it? "] * len(completions), list(completions), rows)


def subject(part: TextPart) -> Subject:
    return Subject(nn.Linear(1, 1), part.task, part, 1)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1,000", "1000"), ("1000.", "1000"), ("1.0", "1"), ("1.50", "1.5"), ("-0", "0"), (".5", ".5"), ("007", "7"),
        ("-3", "-3"), ("12,345.60", "12345.6"), ("+4", "4"), (" yes ", "yes"), ("a, b", "a, b"), ("100", "100"),
    ],
)  # fmt: skip
def test_numbers_have_one_plain_form(text: str, wanted: str) -> None:
    assert normalised(text) == ("0.5" if wanted == ".5" else wanted)


def test_the_answer_is_the_first_match() -> None:
    pattern = ExactMatch().extract
    assert extracted("2+2=4\n#### 1,204.0\nQuestion: #### 7", pattern) == "1204"
    assert extracted("no answer", pattern) is None
    assert extracted("  all of it \n", None) == "all of it"


def test_exact_match_is_the_fraction_of_right_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    written = [["so #### 12.0"], ["#### 5"], ["I do not know"], ["#### 1000."]]
    monkeypatch.setattr(exact_match, "continuations", lambda *_a, **_k: written)
    part = questions("#### 12", "#### 6", "#### 7", "thus #### 1,000")
    assert measured([ExactMatch()], nn.Linear(1, 1), None, part, 4) == {"exact_match": 0.5}


def test_a_completion_without_an_answer_is_named() -> None:
    with pytest.raises(StockpotError, match="test example 1 has no"):
        measured([ExactMatch()], nn.Linear(1, 1), None, questions("#### 1", "none"), 4)


def test_examples_are_evenly_evenly_spaced() -> None:
    assert thinned(range(10), 4) == [0, 2, 5, 7]
    assert thinned([1, 2], 5) == thinned([1, 2], None) == [1, 2]


def test_log_likelihoods_are_sums_over_the_candidates_own_tokens(tokenizer: Any) -> None:
    tokens_of = {text: prompt_and_candidate_tokens(tokenizer, "Is it? ", text)[1] for text in ("Yes", "No", "Maybe so")}
    model = Favour(len(tokenizer), {tokens_of["Yes"][0]: 5.0})
    total = len(tokenizer) - 1 + 5
    likelihoods = log_likelihoods(model, tokenizer, [("Is it? ", text) for text in tokens_of], 2)
    for (likelihood, tokens), ids in zip(likelihoods, tokens_of.values(), strict=True):
        assert tokens == len(ids)
        assert likelihood == pytest.approx(
            sum(log((5 if token == tokens_of["Yes"][0] else 1) / total) for token in ids)
        )


def test_candidates_are_tokenised_as_training_tokenises_completions(tokenizer: Any) -> None:
    cases = [("Is it? ", "Yes"), ("Is it?", " Yes"), ("Is i", "t? No"), ("", "Maybe"), ("Yes", "")]
    rows = TextRows("here", [PromptPair(*case) for case in cases[:-1]], list(range(4)), [])
    for pair, case in zip(encode_pairs(rows, tokenizer, training=False), cases[:-1], strict=True):
        prompt_ids, candidate_ids = prompt_and_candidate_tokens(tokenizer, *case)
        assert (pair.tokens.tolist(), int(pair.learnt.sum())) == (prompt_ids + candidate_ids, len(candidate_ids))


def test_the_likeliest_candidate_wins_and_lengths_can_be_divided_out(tokenizer: Any) -> None:
    # Uniform, and every candidate spelt byte by byte or in longer tokens: fewer tokens are likelier.
    model, V = Favour(len(tokenizer), {}), len(tokenizer)
    texts = ["N", "NzN"]
    counts = {text: len(prompt_and_candidate_tokens(tokenizer, "Is it? ", text)[1]) for text in texts}
    assert counts == {"N": 1, "NzN": 3}
    part = questions("N", "NzN", "N")
    assert measured([MultipleChoice()], model, tokenizer, part, 2) == {"multiple_choice": pytest.approx(2 / 3)}
    tied = {"multiple_choice": 0.0}  # −log V for each byte and each token, of both: a tie is a miss
    for normalise in ("bytes", "tokens"):
        assert measured([MultipleChoice(normalise=normalise)], model, tokenizer, part, 2) == tied, V


def test_candidates_are_the_completions_of_the_same_group() -> None:
    part = questions("Yes", "No", "A", "B", "Yes", kind=["x", "x", "y", "y", "x"])
    candidates = MultipleChoice(group="kind").candidates(subject(part))
    assert candidates == [["Yes", "No"], ["Yes", "No"], ["A", "B"], ["A", "B"], ["Yes", "No"]]
    with pytest.raises(StockpotError, match=r"no column 'kin'\. Did you mean 'kind'"):
        MultipleChoice(group="kin").candidates(subject(part))
    with pytest.raises(StockpotError, match=r"test example 2, 'A', is not in `choices`"):
        MultipleChoice(choices=["Yes", "No"]).candidates(subject(part))


def test_cells_that_cannot_be_measured_are_empty_unless_named() -> None:
    plain = TextPart("wiki", NOTHING, 1)
    model = Favour(4, {})
    values = measured([Loss(), ExactMatch(), MultipleChoice(), Perplexity(tasks=["law"])], model, None, plain, 1)
    assert values == {
        "loss": pytest.approx(log(4)), "exact_match": None, "multiple_choice": None, "perplexity": None
    }  # fmt: skip
    for spec in (ExactMatch(tasks=["wiki"]), MultipleChoice(tasks=["wiki"]), Accuracy(tasks=["wiki"])):
        with pytest.raises(StockpotError, match=f"{spec.name} on 'wiki'"):
            measured([spec], model, None, plain, 1)


def test_numbers_that_are_not_finite_are_no_scores() -> None:
    model = Favour(4, {})
    with torch.no_grad():
        model.logits.fill_(float("nan"))
    assert measured([Loss(), Perplexity()], model, None, TextPart("a", NOTHING, 1), 1) == {
        "loss": None, "perplexity": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([Loss(), Loss()], "two metrics have this name"),
        ([Loss(), ExactMatch(tasks=["lwa"])], "there is no 'lwa'. Did you mean 'law'"),
        ([ExactMatch(tasks=["law"])], "leaves out 'code'"),
        ([Loss(), Accuracy()], "for a classifier"),
    ],
)
def test_metrics_are_checked_before_the_run(specs: list[AnyScore], message: str) -> None:
    with pytest.raises(StockpotError, match=message):
        check_scores(specs, ["law", "code"], ["wiki"])


def test_the_primary_score_is_one_of_those_that_are_measured() -> None:
    with pytest.raises(StockpotError, match=r"no score 'los'\. Did you mean 'loss'"):
        check_scores([Loss()], ["law"], primary="los")


def test_metrics_that_make_sense_pass() -> None:
    check_scores([Loss(), Loss(label="again", tasks=["wiki"])], ["law", "code"], ["wiki"])
    check_scores([ExactMatch(tasks=["law"]), Loss()], ["law", "code"], primary="loss")
    check_scores(default_scores("language"), ["law"])
    check_scores(default_scores("classifier"), ["law"], kind="classifier")


def test_metrics_are_read_from_names_and_blocks() -> None:
    adapter = TypeAdapter(list[AnyScore])
    read = adapter.validate_python(["loss", {"name": "pass@k", "k": 2, "samples": 5}, "bits_per_byte"])
    assert [spec.title for spec in read] == ["loss", "pass@2", "bits_per_byte"]
    assert [(spec.unit, spec.higher_is_better) for spec in read] == [
        ("nats per token", False), ("fraction", True), ("bits per byte", False)
    ]  # fmt: skip
    assert isinstance(read[2], BitsPerByte)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("los", "unknown metric 'los'. Did you mean 'loss'"),
        ({"name": "exact_match", "extract": "a(b)(c)"}, "has 2 groups"),
        ({"name": "exact_match", "extract": "a(b"}, "is not a regular expression"),
        ({"name": "pass@k", "k": 3, "samples": 2}, "at least 3 samples"),
        ({"name": "multiple_choice", "choices": ["a", "b"], "group": "c"}, "not both"),
        ({"limit": 3}, "needs its `name`"),
        ({"name": "loss", "limit": 3}, "Extra inputs"),
    ],
)
def test_mistakes_in_metrics_are_explained(block: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(AnyScore).validate_python(block)


def test_the_direction_of_a_harness_task_is_its_own() -> None:
    task = {"task": "mine", "metric_list": [{"metric": "wer", "higher_is_better": False}]}
    keys: dict[str, Any] = {"name": "lm_eval", "tasks": ["law"], "task": task}
    assert not LmEval(**keys, metric="wer").higher_is_better
    assert LmEval(**keys, metric="wer", better="higher").higher_is_better
    assert (LmEval(**keys, metric="acc,none").unit, LmEval(**keys, metric="wer").unit) == ("fraction", "wer")
    assert PassAtK().unit == "fraction"


def test_candidates_that_a_limit_took_away_are_missed_by_name() -> None:
    part = TextPart("law", NOTHING, 1, ["a", "b"], ["Yes", "No"], [{"kind": "x"}, {"kind": "y"}])
    with pytest.raises(StockpotError, match=r"1 distinct completion where kind is 'x', among .*2 .* evaluation\.limit"):
        MultipleChoice(group="kind").candidates(subject(part))


def test_the_primary_score_is_measured_on_every_task_or_the_run_does_not_begin(tokenizer: Any) -> None:
    text = TextPart("law", NOTHING, 1)
    scores = [ExactMatch()]
    assert measured(scores, nn.Linear(1, 1), tokenizer, text, 1) == {"exact_match": None}
    with pytest.raises(StockpotError, match=r"exact_match on 'law': .* no prompts .* name another in `primary`"):
        measured(scores, nn.Linear(1, 1), tokenizer, text, 1, needed="exact_match")
