"""Token sequences of different lengths: how they are batched, picked and joined."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from stockpot.batches.examples import IGNORED, concat
from stockpot.batches.token_examples import TokenExamples

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=8)


def sequences(lengths: list[int], kind: str = "targets", packed: bool = False, start: int = 1) -> TokenExamples:
    """Tokens count on from `start`; a target is the token plus 100; every text of a packed sequence has two tokens."""
    total = sum(lengths)
    tokens = torch.arange(start, start + total).int()
    positions = torch.tensor([place % 2 for length in lengths for place in range(length)]).int() if packed else None
    return TokenExamples(
        tokens,
        torch.tensor(lengths).cumsum(0),
        tokens + 100 if kind == "targets" else None,
        torch.arange(len(lengths)) % 3 if kind == "rows" else None,
        positions,
    )


def test_a_batch_of_a_language_model_by_hand() -> None:
    batch = sequences([3, 1, 2]).__getitems__([2, 0])
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    assert batch["input_ids"].tolist() == [[5, 6, 0], [1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[105, 106, IGNORED], [101, 102, 103]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_a_batch_without_padding_needs_no_mask() -> None:
    assert sequences([2, 3, 2]).__getitems__([0, 2]).keys() == {"input_ids", "labels"}


def test_a_batch_of_a_classifier_by_hand() -> None:
    batch = sequences([2, 2, 1], "rows").__getitems__([1, 2])
    assert batch["input_ids"].tolist() == [[3, 4], [5, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["labels"].tolist() == [1, 2]
    assert "attention_mask" in sequences([2, 2], "rows").__getitems__([0, 1])


def test_positions_of_packed_texts_start_anew_and_padding_is_a_text_of_its_own() -> None:
    batch = sequences([4, 2, 5], packed=True).__getitems__([1, 2])
    assert batch.keys() == {"input_ids", "position_ids", "labels"}
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2], [0, 1, 0, 1, 0]]
    assert batch["labels"].tolist() == [[105, 106, *[IGNORED] * 3], [107, 108, 109, 110, 111]]


def test_only_text_to_be_continued_has_one_class() -> None:
    assert sequences([2, 1]).labels.tolist() == [0, 0]
    assert sequences([2, 1], "rows").labels.tolist() == [0, 1]


@given(LENGTHS, st.sampled_from(["targets", "rows"]), st.booleans(), st.data())
def test_every_batch_holds_its_sequences_and_else_padding(
    lengths: list[int], kind: str, packed: bool, data: st.DataObject
) -> None:
    examples = sequences(lengths, kind, packed)
    indices = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    batch = examples.__getitems__(indices)
    longest = max(lengths[index] for index in indices)
    assert batch["input_ids"].shape == (len(indices), longest)
    for row, index in enumerate(indices):
        begin, length = sum(lengths[:index]), lengths[index]
        own = list(range(1 + begin, 1 + begin + length))
        assert batch["input_ids"][row].tolist() == [*own, *[0] * (longest - length)]
        if kind == "targets":
            assert batch["labels"][row].tolist() == [*(100 + one for one in own), *[IGNORED] * (longest - length)]
        else:
            assert int(batch["labels"][row]) == index % 3
        if packed:
            expected = [*(place % 2 for place in range(length)), *range(longest - length)]
            assert batch["position_ids"][row].tolist() == expected
            assert "attention_mask" not in batch
        elif "attention_mask" in batch:
            assert int(batch["attention_mask"][row].sum()) == length
        else:
            assert length == longest


@given(LENGTHS, st.sampled_from(["targets", "rows"]), st.booleans(), st.data())
def test_picked_sequences_are_those_of_a_batch(
    lengths: list[int], kind: str, packed: bool, data: st.DataObject
) -> None:
    examples = sequences(lengths, kind, packed)
    indices = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=6))
    picked = examples.picked(indices)
    assert len(picked) == len(indices)
    assert len(picked.tokens) == sum(lengths[index] for index in indices)  # and nothing else
    if indices:
        assert_same(picked, list(range(len(indices))), examples, indices)
        of_a_token, of_a_sequence = 4 * (1 + (kind == "targets") + packed), 8 * (1 + (kind == "rows"))
        assert picked.nbytes == len(picked.tokens) * of_a_token + len(indices) * of_a_sequence


@given(st.lists(LENGTHS, min_size=1, max_size=4), st.sampled_from(["targets", "rows"]), st.booleans())
def test_joined_sequences_are_those_of_the_parts_in_one_tensor(parts: list[list[int]], kind: str, packed: bool) -> None:
    starts = [1 + sum(map(sum, parts[:number])) for number in range(len(parts))]
    joined = concat([sequences(own, kind, packed, start) for own, start in zip(parts, starts, strict=True)])
    flat = [length for own in parts for length in own]
    whole = sequences(flat, kind, packed)
    assert isinstance(joined, TokenExamples)
    assert torch.equal(joined.tokens, whole.tokens)
    assert torch.equal(joined.ends, whole.ends)
    if kind == "rows":
        assert joined.labels.tolist() == [row for own in parts for row in sequences(own, "rows").labels.tolist()]
    else:
        assert_same(joined, list(range(len(flat))), whole, list(range(len(flat))))


def test_packed_and_single_texts_can_be_joined() -> None:
    joined = concat([sequences([3]), sequences([4], packed=True, start=4), sequences([2], start=8)])
    batch = joined.__getitems__([0, 1, 2])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0], [0, 1, 0, 1], [0, 1, 0, 1]]
    assert batch["input_ids"].tolist() == [[1, 2, 3, 0], [4, 5, 6, 7], [8, 9, 0, 0]]


def assert_same(one: TokenExamples, indices: list[int], other: TokenExamples, other_indices: list[int]) -> None:
    batch, expected = one.__getitems__(indices), other.__getitems__(other_indices)
    assert batch.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(batch[key], tensor), key
