"""Examples are indexed by batches; several sets behave as one."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stockpot.batches.examples import ConcatExamples, Examples, LazyExamples, TensorExamples, TrainingData, concat


def part(size: int, start: int, lazy: bool) -> Examples:
    """`size` inputs (1, 2) that hold their own number, from `start` on; the label is the number modulo 7."""
    numbers = torch.arange(start, start + size)
    values = numbers.float().reshape(-1, 1, 1).expand(-1, 1, 2).contiguous()
    if not lazy:
        return TensorExamples(values, numbers % 7)

    def process(rows: list[int]) -> Tensor:
        return torch.tensor(rows).float().reshape(-1, 1, 1).expand(-1, 1, 2).contiguous()

    class Rows:
        def __getitem__(self, positions: list[int]) -> list[int]:
            return [start + position for position in positions]

    return LazyExamples(Rows(), process, numbers % 7, bytes_each=8)


@given(st.data(), st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=5))
def test_a_concatenation_gives_what_its_parts_give_in_any_order(data: st.DataObject, sizes: list) -> None:
    parts, start = [], 0
    for size, lazy in sizes:
        parts.append(part(size, start, lazy))
        start += size
    whole = concat(parts)
    assert len(whole) == start
    if start == 0:
        return
    assert whole.labels.tolist() == [number % 7 for number in range(start)]
    assert whole.nbytes == sum(each.nbytes for each in parts)
    indices = data.draw(st.lists(st.integers(0, start - 1), min_size=1, max_size=12))
    batch = whole.__getitems__(indices)
    assert batch["pixel_values"][:, 0, 0].tolist() == indices
    assert batch["labels"].tolist() == [index % 7 for index in indices]


def test_tensors_become_one_tensor_and_anything_else_stays_apart() -> None:
    assert isinstance(concat([part(2, 0, False), part(3, 2, False)]), TensorExamples)
    assert isinstance(concat([part(2, 0, False), part(3, 2, True)]), ConcatExamples)
    alone = part(2, 0, True)
    assert concat([alone]) is alone
    assert concat([part(0, 0, False), alone]) is alone


def test_plain_training_data_is_all_new() -> None:
    data = TrainingData.of(part(5, 0, False))
    assert (data.new, data.rehearsed_per_batch, len(data.examples)) == (5, 0, 5)
