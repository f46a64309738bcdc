"""A stream narrows, splits and reads its data as the recipe says: on the bundled digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from stockpot.errors import StockpotError
from stockpot.models.processor import PlainProcessor
from stockpot.streams.classes import chosen_classes, open_labelled, split_classes
from stockpot.streams.classified import ClassifiedStream
from stockpot.streams.images import open_images
from stockpot.streams.readers import ImageReader
from stockpot.streams.spec import DataSpec, TaskSpec, inherit

DIGITS = DataSpec(path="digits")


def stream(
    *tasks: DataSpec, scenario: str = "class-incremental", controls: tuple[DataSpec, ...] = ()
) -> ClassifiedStream:
    def specs(prefix: str, data: tuple[DataSpec, ...]) -> list[TaskSpec]:
        return [TaskSpec(name=f"{prefix}{number}", data=own) for number, own in enumerate(data)]

    return ClassifiedStream.open(
        scenario, DIGITS, specs("task", tasks), specs("control", controls), ImageReader(PlainProcessor())
    )


@given(st.integers(1, 10), st.one_of(st.none(), st.integers(0, 50)))
def test_a_split_is_a_partition_of_the_classes(size: int, shuffle: int | None) -> None:
    tasks = split_classes(DIGITS, size, shuffle)
    groups = [task.data.classes for task in tasks]
    flat = [label for group in groups for label in group]
    assert sorted(flat) == list(range(10))
    assert [len(group) for group in groups[:-1]] == [size] * (len(groups) - 1)
    assert 1 <= len(groups[-1]) <= size
    if shuffle is None:
        assert flat == list(range(10))
    assert [task.name for task in tasks] == [f"part-{number}" for number in range(1, len(tasks) + 1)]


def test_a_shuffled_split_depends_on_its_seed() -> None:
    first, again, other = (split_classes(DIGITS, 5, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first != split_classes(DIGITS, 5, None)


def test_a_split_of_narrowed_data_cuts_the_narrowed_classes() -> None:
    data = DataSpec(path="digits", classes=[7, "3", 1])
    assert [task.data.classes for task in split_classes(data, 2, None)] == [[7, 3], [1]]


def test_a_split_larger_than_the_classes_is_an_error() -> None:
    with pytest.raises(StockpotError, match=r"tasks\.split: 11 classes in a task, but 'digits' has only 10"):
        split_classes(DIGITS, 11, None)


def test_classes_are_named_by_number_or_by_name_in_the_users_order() -> None:
    source = open_images(DIGITS, "here")
    assert chosen_classes(DataSpec(classes=[3, "1", 0]), source, "here") == [3, 1, 0]
    assert chosen_classes(DIGITS, source, "here") == list(range(10))


@pytest.mark.parametrize("wanted", [10, -1, "ten"])
def test_a_class_that_does_not_exist_is_an_error_with_the_task_and_the_classes(wanted: int | str) -> None:
    with pytest.raises(StockpotError, match=rf"task 'task0': data\.classes: 'digits' has no class {wanted!r}.*0, 1, 2"):
        stream(DataSpec(classes=[wanted]))


def test_a_class_named_twice_by_name_and_number_is_an_error() -> None:
    source = open_images(DIGITS, "here")
    with pytest.raises(StockpotError, match="appears twice"):
        chosen_classes(DataSpec.model_construct(path="digits", classes=[1, "1"]), source, "here")


def test_tasks_of_one_data_set_share_it_and_an_error_names_who_asked() -> None:
    first = open_labelled(DataSpec(path="digits", classes=[1]), "task 'a'")
    assert open_labelled(DataSpec(path="digits", rotate=20.0, limit=3), "task 'b'") is first
    for where in ("task 'a'", "task 'b'"):
        with pytest.raises(StockpotError, match=rf"^{where}: data\.name: the bundled digits"):
            open_labelled(DataSpec(path="digits", name="x"), where)


def test_a_task_inherits_what_it_does_not_say() -> None:
    default = DataSpec(path="digits", limit=3, rotate=10.0)
    assert inherit(default, DataSpec(rotate=0.0, classes=[1])) == DataSpec(
        path="digits", limit=3, rotate=0.0, classes=[1]
    )


def test_a_task_holds_its_classes_only_with_their_rows_as_labels() -> None:
    both = stream(DataSpec(classes=[4, 2]), DataSpec(classes=[2, 9]))
    assert both.rows.names == ("4", "2", "9")
    bundle = load_digits()
    counts = np.bincount(bundle.target)
    for task, (names, rows) in enumerate([((4, 2), (0, 1)), ((2, 9), (1, 2))]):
        labels = torch.cat([both.train(task).labels, both.test(task).labels])
        assert {int(row): int((labels == row).sum()) for row in labels.unique()} == {
            row: counts[name] for name, row in zip(names, rows, strict=True)
        }


def test_pixels_are_the_digits_themselves() -> None:
    one = stream(DataSpec(classes=[6]))
    pixels = torch.cat([one.train(0).__getitems__(range(len(one.train(0))))["pixel_values"],
                        one.test(0).__getitems__(range(len(one.test(0))))["pixel_values"]])  # fmt: skip
    bundle = load_digits()
    expected = np.round(bundle.images[bundle.target == 6] * (255 / 16)) / 255
    assert pixels.shape == (len(expected), 1, 8, 8)
    found = {row.numpy().astype(np.float32).tobytes() for row in pixels}
    assert found == {row.astype(np.float32).tobytes() for row in expected}


def test_limit_keeps_so_many_of_each_class_and_split() -> None:
    limited = stream(DataSpec(classes=[0, 1, 2], limit=4))
    for examples in (limited.train(0), limited.test(0)):
        assert torch.bincount(examples.labels).tolist() == [4, 4, 4]
    generous = stream(DataSpec(classes=[0], limit=10**6))
    assert len(generous.train(0)) + len(generous.test(0)) == int((load_digits().target == 0).sum())


def test_a_fifth_of_every_class_is_held_out_whatever_was_seeded() -> None:
    np.random.seed(1)
    first = open_images(DIGITS, "here")
    np.random.seed(2)
    torch.manual_seed(7)
    second = open_images(DIGITS, "here")
    assert np.array_equal(first.test.labels, second.test.labels)
    assert first.facts == second.facts
    counts = np.bincount(load_digits().target)
    np.testing.assert_allclose(np.bincount(first.test.labels), counts / 5, atol=1)
    assert len(first.train.labels) + len(first.test.labels) == counts.sum()
    train = {image.tobytes() for image in first.train.pick(range(len(first.train.labels)))}
    assert not train & {image.tobytes() for image in first.test.pick(range(len(first.test.labels)))}


@pytest.mark.parametrize("change", [{}, {"rotate": 30.0}, {"permute": 5}, {"rotate": 90.0, "permute": 1}])
def test_examples_read_lazily_are_bit_identical_to_those_in_memory(change: dict) -> None:
    memory, lazy = (
        stream(DataSpec(classes=[1, 8], limit=20, in_memory=choice, **change)).train(0) for choice in (True, False)
    )
    assert type(memory).__name__ == "TensorExamples"
    assert type(lazy).__name__ == "LazyExamples"
    assert lazy.nbytes == memory.pixel_values.nbytes
    for indices in ([0], [39, 0, 17, 17], list(range(40))):
        one, other = memory.__getitems__(indices), lazy.__getitems__(indices)
        assert torch.equal(one["pixel_values"], other["pixel_values"])
        assert torch.equal(one["labels"], other["labels"])


def test_transforms_are_applied_to_training_and_test_images_alike() -> None:
    plain, turned, shuffled = (
        stream(DataSpec(classes=[3], limit=2, **change)) for change in ({}, {"rotate": 90.0}, {"permute": 2})
    )
    for read in (ClassifiedStream.train, ClassifiedStream.test):
        before = read(plain, 0).__getitems__([0, 1])["pixel_values"]
        assert torch.equal(read(turned, 0).__getitems__([0, 1])["pixel_values"], before.rot90(1, (-2, -1)))
        after = read(shuffled, 0).__getitems__([0, 1])["pixel_values"]
        assert not torch.equal(after, before)
        assert torch.equal(after.flatten(1).sort().values, before.flatten(1).sort().values)


def test_controls_have_the_rows_of_the_classes_that_the_stream_knows() -> None:
    controlled = stream(DataSpec(classes=[5, 6]), controls=(DataSpec(classes=[6], rotate=20.0),))
    assert controlled.controls[0].rows == (1,)
    assert set(controlled.control(0).labels.tolist()) == {1}
    with pytest.raises(StockpotError, match=r"control0.*no task of the stream has the class '7'"):
        stream(DataSpec(classes=[5, 6]), controls=(DataSpec(classes=[7]),))
    with pytest.raises(StockpotError, match="task-incremental head has no rows for a control"):
        stream(DataSpec(classes=[5]), scenario="task-incremental", controls=(DataSpec(classes=[5]),))


def test_facts_say_what_the_data_are_and_follow_the_data() -> None:
    facts = stream(DataSpec(classes=[5, 6], limit=3)).facts()
    again = stream(DataSpec(classes=[5, 6], limit=3)).facts()
    assert facts == again
    assert facts["task0"].items() >= {"path": "digits", "train": 6, "test": 6, "classes": ["5", "6"]}.items()


@pytest.mark.parametrize("key", ["name", "revision", "image", "label", "train_split", "test_split"])
def test_a_choice_that_the_digits_do_not_have_is_an_error_and_not_ignored(key: str) -> None:
    with pytest.raises(StockpotError, match=rf"data\.{key}"):
        open_images(DataSpec(path="digits", **{key: "foo"}), "here")


def test_no_data_set_is_an_error() -> None:
    with pytest.raises(StockpotError, match=r"task 'a': no data set is named"):
        ClassifiedStream.open("class-incremental", DataSpec(), [TaskSpec(name="a")], [], ImageReader(PlainProcessor()))
