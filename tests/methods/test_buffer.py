"""What the buffer of rehearsal holds: how many of every class, which of them, and what it refuses."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chi2
from torch import Tensor, nn

from stockpot.batches.examples import TensorExamples
from stockpot.errors import StockpotError
from stockpot.methods.base import Task
from stockpot.methods.replay import ReplayConfig
from stockpot.methods.shared.buffer import Buffer, Reservoir, equal_shares, features_over, herding
from stockpot.seeds import derive, generator

BY_CLASS = ["balanced", "herding"]


class Net(nn.Module):
    """Two inputs, three features, as many rows as are asked for."""

    def __init__(self, rows: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.Tanh(), nn.Dropout(0.5))
        self.head = nn.Linear(3, rows)
        self.double()

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.body(pixel_values))  # type: ignore[no-any-return]


def config(**keys: Any) -> ReplayConfig:
    return ReplayConfig(name="replay", **keys)


def task(index: int = 0, model: nn.Module | None = None) -> Task:
    return Task(index, f"task{index}", derive(0, "task", index), model=model or Net())


def cloud(sizes: dict[int, int], seed: int = 0) -> TensorExamples:
    """So many examples of each row, in a mixed order."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.tensor([row for row, many in sizes.items() for _ in range(many)])
    labels = labels[torch.randperm(len(labels), generator=draws)]
    return TensorExamples(torch.randn(len(labels), 1, 1, 2, generator=draws, dtype=torch.float64), labels)


def counts(buffer: Buffer) -> Counter[int]:
    return Counter(buffer.tensors["labels"].tolist() if buffer.tensors else [])


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(0, 60))
def test_shares_are_equal_as_far_as_there_are_examples_and_use_the_whole_memory(
    available: list[int], total: int
) -> None:
    shares = equal_shares(available, total)
    assert sum(shares) == min(total, sum(available))
    assert all(share <= many for share, many in zip(shares, available, strict=True))
    unmet = [share for share, many in zip(shares, available, strict=True) if share < many]
    if unmet:
        assert max(shares) <= min(unmet) + 1
        assert unmet == sorted(unmet, reverse=True)  # the first get the larger ones


def test_shares_of_a_worked_example() -> None:
    assert equal_shares([9, 9, 9, 9], 10) == [3, 3, 2, 2]
    assert equal_shares([9, 1, 9], 10) == [5, 1, 4]
    assert equal_shares([2, 2], 10) == [2, 2]
    assert equal_shares([], 3) == []


@pytest.mark.parametrize("select", BY_CLASS)
@pytest.mark.parametrize("keys", [{"fraction": 0.3}, {"count": 7}, {"budget": "total", "count": 11}], ids=str)
def test_every_class_has_as_many_examples_up_to_one_and_the_budget_is_kept(select: str, keys: dict[str, Any]) -> None:
    buffer = Buffer(config(select=select, **keys))
    sizes = [{0: 9, 1: 14}, {2: 30, 3: 10, 4: 11}, {5: 12, 6: 12}]
    for index, own in enumerate(sizes):
        buffer.check(task(index), cloud(own, index))
        buffer.fill(task(index), cloud(own, index))
        held = counts(buffer)
        groups = (
            [list(held.values())] if "budget" in keys else [[held[row] for row in rows] for rows in sizes[: index + 1]]
        )
        for group in groups:
            assert max(group) - min(group) <= 1
        each = [keys.get("count", int(0.3 * sum(rows.values()) + 0.5)) for rows in sizes[: index + 1]]
        assert len(buffer) == (11 if "budget" in keys else sum(each))
        assert set(held) == {row for rows in sizes[: index + 1] for row in rows}


@pytest.mark.parametrize("select", BY_CLASS)
def test_a_memory_of_all_classes_keeps_the_first_of_each_when_classes_come(select: str) -> None:
    buffer = Buffer(config(select=select, budget="total", count=12))
    whole = Buffer(config(select=select, count=12))
    buffer.fill(task(0), cloud({0: 20, 1: 20}))
    whole.fill(task(0), cloud({0: 20, 1: 20}))
    before = buffer.examples
    assert torch.equal(before.pixel_values, whole.examples.pixel_values)
    buffer.fill(task(1), cloud({2: 20, 3: 20, 4: 20}, 1))
    assert buffer.shares == [3, 3, 2, 2, 2]
    after = buffer.examples
    for row in (0, 1):
        assert torch.equal(after.pixel_values[after.labels == row], before.pixel_values[before.labels == row][:3])
    assert after.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 2 + [3] * 2 + [4] * 2


@pytest.mark.parametrize("select", BY_CLASS)
def test_a_smaller_buffer_is_the_beginning_of_a_larger_one(select: str) -> None:
    own = cloud({0: 15})
    held = []
    for count in (4, 9):
        buffer = Buffer(config(select=select, count=count))
        buffer.fill(task(), own)
        held.append(buffer.examples.pixel_values)
    assert torch.equal(held[0], held[1][:4])


def test_every_example_of_a_class_is_equally_likely_to_be_in_a_balanced_buffer() -> None:
    own, kept, trials = cloud({0: 10, 1: 30}), Counter[float](), 400
    for seed in range(trials):
        buffer = Buffer(config(select="balanced", count=6))
        buffer.fill(Task(0, "task0", seed, model=nn.Linear(1, 1)), own)
        kept.update(buffer.examples.pixel_values[:, 0, 0, 0].tolist())
    for row, many in ((0, 10), (1, 30)):
        share, values = 3 / many, own.pixel_values[own.labels == row, 0, 0, 0].tolist()
        statistic = sum((kept[value] - trials * share) ** 2 for value in values) / (trials * share * (1 - share))
        assert 0.001 < chi2.sf(statistic, many - 1) < 0.999


def test_a_class_that_comes_again_keeps_a_share_for_each_of_its_domains() -> None:
    buffer = Buffer(config(select="balanced", budget="total", count=8))
    for index in range(2):
        buffer.fill(task(index), cloud({0: 10, 1: 10}, index))
    assert buffer.shares == [2, 2, 2, 2]
    first = {tuple(value) for value in cloud({0: 10, 1: 10}, 0).pixel_values.flatten(1).tolist()}
    assert sum(tuple(value) in first for value in buffer.examples.pixel_values.flatten(1).tolist()) == 4


def test_herding_of_a_worked_example() -> None:
    """Unit vectors at 0°, 10°, 50° and 90°: their mean is (0.6569, 0.4849).

    After 50°, the nearest: with 10° the mean is (0.8138, 0.4698), 0.16 away, with 0° 0.19, with 90° 0.52.
    Then 90° leaves it at (0.5425, 0.6465), 0.20 away, and 0° at 0.28.
    """
    angles = torch.deg2rad(torch.tensor([0.0, 10.0, 50.0, 90.0], dtype=torch.float64))
    lengths = torch.tensor([[3.0], [0.1], [7.0], [1.0]], dtype=torch.float64)  # of no account
    features = torch.stack([angles.cos(), angles.sin()], 1)
    assert herding(features * lengths, 4) == [2, 1, 3, 0]
    assert herding(features, 9) == [2, 1, 3, 0]


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 10_000))
def test_herding_is_greedy_and_begins_with_the_example_nearest_to_the_mean(many: int, width: int, seed: int) -> None:
    features = torch.randn(many, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    order = herding(features, many)
    assert sorted(order) == list(range(many))
    unit = features / features.norm(dim=1, keepdim=True)
    mean = unit.mean(0)
    assert float((unit[order[0]] - mean).norm()) <= float((unit - mean).norm(dim=1).min()) + 1e-12
    for k in range(1, many + 1):

        def objective(picked: list[int]) -> float:
            return float((mean - unit[picked].mean(0)).norm())

        best = min(objective([*order[: k - 1], other]) for other in order[k - 1 :])
        assert objective(order[:k]) <= best + 1e-9


def test_herding_looks_at_the_input_of_the_output_layer_in_eval_mode() -> None:
    model, own = Net().train(), cloud({0: 9, 1: 300})
    everything = torch.arange(309)
    hidden = torch.tanh(own.pixel_values.flatten(1) @ model.body[1].weight.T + model.body[1].bias)
    features = features_over(model, own, everything)
    torch.testing.assert_close(features, hidden.detach(), rtol=0, atol=1e-14)
    assert model.training
    assert model.body[3].training
    assert not model.head._forward_pre_hooks
    buffer = Buffer(config(select="herding", count=6))
    buffer.fill(task(model=model), own)
    members = (own.labels == 1).nonzero().flatten()
    expected = own.pixel_values[members[torch.tensor(herding(hidden[members].detach(), 3))]]
    assert torch.equal(buffer.examples.pixel_values[3:], expected)


def test_a_model_without_an_output_layer_is_herded_by_its_logits() -> None:
    layers = [nn.Flatten(), nn.Linear(2, 3), nn.Unflatten(1, (3, 1)), nn.Conv1d(3, 2, 1), nn.Flatten()]
    model, own = nn.Sequential(*layers).double(), cloud({0: 5})
    logits = model(own.pixel_values).detach()
    torch.testing.assert_close(features_over(model, own, torch.arange(5)), logits)


def test_the_reservoir_of_a_buffer_is_algorithm_r_item_by_item() -> None:
    buffer, held, seen = Buffer(config(budget="reservoir", count=5)), list[float](), 0
    for index, many in enumerate((3, 9, 4)):
        own = cloud({0: many}, index)
        buffer.fill(task(index), own)
        draws = generator(task(index).seed, "replay")
        order = torch.randperm(many, generator=draws)
        reservoir = Reservoir(5, seen)
        for slot, item in reservoir.offer(many, draws).items():
            held[slot : slot + 1] = [float(own.pixel_values[order[item], 0, 0, 0])]
        seen = reservoir.offered
        assert buffer.examples.pixel_values[:, 0, 0, 0].tolist() == held


@pytest.mark.parametrize(
    "keys",
    [{"count": 5}, {"budget": "reservoir", "count": 5}, {"select": "balanced", "count": 5},
     {"select": "herding", "budget": "total", "count": 9}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("logits", [False, True])
def test_the_state_survives_a_round_trip_and_goes_on_alike(keys: dict[str, Any], logits: bool) -> None:
    one, other = (Buffer(config(**keys), logits) for _ in range(2))
    for index in range(2):
        one.fill(task(index, Net(2 * index + 2)), cloud({2 * index: 8, 2 * index + 1: 8}, index))
    other.load_state(*one.state())
    for index in range(2, 4):
        for buffer in (one, other):
            buffer.fill(task(index, Net(8)), cloud({2 * index: 8, 2 * index + 1: 8}, index))
    assert one.state()[1] == other.state()[1]
    assert one.tensors.keys() == other.tensors.keys() >= ({"logits", "known"} if logits else {"labels"})
    for key, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[key])


@pytest.mark.parametrize(
    "keys", [{"count": 4}, {"budget": "reservoir", "count": 12}, {"select": "herding", "count": 4}]
)
def test_stored_logits_are_those_of_the_model_at_the_end_of_the_task_whose_rows_there_were(
    keys: dict[str, Any],
) -> None:
    buffer, models = Buffer(config(**keys), keep_logits=True), [Net(2), Net(4)]
    for index, model in enumerate(models):
        buffer.fill(task(index, model.train()), cloud({2 * index: 9, 2 * index + 1: 9}, index))
    held = buffer.tensors
    assert held["logits"].shape == (len(buffer), 4)
    assert set(held["known"].tolist()) == {2, 4}
    for image, label, logits, known in zip(
        held["pixel_values"], held["labels"], held["logits"], held["known"], strict=True
    ):
        model = models[int(label) // 2].eval()
        assert known == 2 * (int(label) // 2) + 2
        torch.testing.assert_close(logits[:known], model(image[None])[0].detach(), rtol=0, atol=1e-14)
        assert not logits[known:].any()


@pytest.mark.parametrize("select", BY_CLASS)
def test_a_memory_smaller_than_the_number_of_classes_is_an_error_with_both_numbers(select: str) -> None:
    own = cloud({0: 9, 1: 9, 2: 9})
    with pytest.raises(
        StockpotError, match=r"replay: task 'task0': a memory of 2 examples .* the 3 classes .*count\.$"
    ):
        Buffer(config(select=select, count=2)).check(task(), own)
    with pytest.raises(StockpotError, match=r"a memory of 1 examples .* the 3 classes .*raise fraction\.$"):
        Buffer(config(select=select, fraction=0.05)).check(task(), own)
    buffer = Buffer(config(select=select, budget="total", count=5))
    buffer.check(task(), own)
    buffer.fill(task(), own)
    with pytest.raises(StockpotError, match=r"task 'task1': a memory of 5 examples is smaller than the 6 classes"):
        buffer.check(task(1), cloud({3: 9, 4: 9, 5: 9}))
    Buffer(config(select=select, count=0)).check(task(), own)  # nothing is kept: plain fine-tuning


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"budget": "reservoir", "count": 5, "select": "herding"}, "for select: herding set budget: total"),
        ({"budget": "total", "count": 5}, "set select: balanced or herding"),
        ({"budget": "total", "select": "balanced"}, "give count"),
        ({"budget": "reservoir"}, "give count"),
        ({"count": 1, "fraction": 0.5}, "not both"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**keys)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ({"labels": slice(0, 3)}, "pixel_values: 5, labels: 3, logits: 5, known: 5"),
        ({"pixel_values": None}, "pixel_values: missing, labels: 5"),
        ({"logits": None}, "logits: missing"),
        ({"logits": slice(0, 2)}, "logits: 2"),
        (dict.fromkeys(["pixel_values", "labels", "logits", "known"], slice(0, 0)), "pixel_values: 0, labels: 0"),
        (dict.fromkeys(["pixel_values", "labels", "logits", "known"]), "pixel_values: missing, labels: missing"),
    ],
    ids=str,
)
def test_a_damaged_buffer_is_one_clear_line(damage: dict[str, slice | None], found: str) -> None:
    buffer = Buffer(config(count=5), keep_logits=True)
    buffer.fill(task(), cloud({0: 9}))
    tensors, values = buffer.state()
    broken = {
        key: tensor[damage.get(key, slice(None))] for key, tensor in tensors.items() if damage.get(key, 0) is not None
    }
    with pytest.raises(
        StockpotError, match=f"the saved buffer is damaged: 5 examples were kept, it holds .*{found}"
    ) as e:
        Buffer(config(count=5), keep_logits=True).load_state(broken, values)
    assert "\n" not in str(e.value)


def test_shares_that_do_not_add_up_are_damage_and_an_older_state_is_not() -> None:
    buffer = Buffer(config(count=6, select="balanced"))
    buffer.fill(task(), cloud({0: 9, 1: 9}))
    tensors, values = buffer.state()
    with pytest.raises(StockpotError, match="damaged"):
        Buffer(buffer.config).load_state(tensors, {**values, "shares": [3, 2]})
    older = Buffer(config(budget="reservoir", count=6))
    older.load_state(tensors, {"seen": 18})  # as replay wrote it before it had other budgets
    assert (len(older), older.offered) == (6, 18)
    with pytest.raises(StockpotError, match="damaged"):
        older.load_state({"pixel_values": torch.zeros(0, 1), "labels": torch.zeros(0)}, {"seen": 0})


def test_a_draw_has_no_repeats_and_no_more_than_there_is() -> None:
    buffer = Buffer(config(count=6))
    buffer.fill(task(), cloud({0: 9}))
    drawn = buffer.draw(4, generator(0, "here"))
    assert len(drawn["pixel_values"].unique(dim=0)) == len(drawn["labels"]) == 4
    assert len(buffer.draw(99, generator(0, "here"))["labels"]) == 6
