"""Data sets of text: formats, templates, splits, files, and what is expected of bad rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config

from stockpot.errors import StockpotError
from stockpot.models.tokenizer import train_tokenizer
from stockpot.streams.spec import DataSpec, TaskSpec
from stockpot.streams.text.labelled_texts import open_labelled_texts
from stockpot.streams.text.language import LanguageSources, LanguageStream
from stockpot.streams.text.rows import Chat, PromptPair
from stockpot.streams.text.templates import open_template
from stockpot.streams.text.text_source import open_text

WHERE = "task 'law'"


def jsonl(path: Path, rows: list[dict[str, Any]], name: str = "data.jsonl") -> str:
    (path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path / name)


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"text": f"text {number}"} for number in range(count)]


def test_a_template_is_filled_and_a_double_brace_is_a_brace() -> None:
    template = open_template("{{{title}}}: {text}", ["title", "text"], "data.text")
    assert template({"title": "A", "text": 7}) == "{A}: 7"
    assert template.columns == ["title", "text"]
    assert open_template("a.b", ["a.b"], "data.text")({"a.b": "x"}) == "x"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("titel", "Did you mean 'title'?"),
        ("{titel}", "no column 'titel'. Did you mean 'title'?"),
        ("{title.upper}", "plain name"),
        ("{title[0]}", "plain name"),
        ("{title!r}", "plain name"),
        ("{title:>9}", "plain name"),
        ("{}", "plain name"),
        ("{title", "to put a brace into the text, write it twice"),
        ("{{title}}", "neither a column nor a template"),
    ],
)
def test_a_template_takes_plain_columns_only(wanted: str, expected: str) -> None:
    with pytest.raises(StockpotError) as caught:
        open_template(wanted, ["title", "text"], "data.text")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_format_is_told_from_the_keys_or_the_columns(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = jsonl(tmp_path, [{"prompt": "p", "completion": "c", "q": "x"}] * 3, "pairs.jsonl")
    assert open_text(DataSpec(path=path), WHERE).train.items == [PromptPair("p", "c")] * 2
    assert open_text(DataSpec(path=path, prompt="Q: {q}\n"), WHERE).test.items == [PromptPair("Q: x\n", "c")]
    assert open_text(DataSpec(path=path, text="{q}{q}"), WHERE).train.items == ["xx"] * 2
    chats = jsonl(tmp_path, [{"messages": talk}] * 2, "chats.jsonl")
    assert open_text(DataSpec(path=chats), WHERE).train.items == [Chat(talk)]
    talks = jsonl(tmp_path, [{"prompt": talk[:1], "completion": talk[1:]}] * 2, "talks.jsonl")
    assert open_text(DataSpec(path=talks), WHERE).train.items == [Chat(talk, prompt_length=1)]
    with pytest.raises(StockpotError, match=r"choose data\.format: text or prompt-completion"):
        open_text(DataSpec(path=path, text="q", prompt="q"), WHERE)
    two = jsonl(tmp_path, [{"a": "x", "b": "y"}] * 2, "two.jsonl")
    with pytest.raises(StockpotError, match=r"task 'law': .*give data\.text, or .*Columns: \['a', 'b'\]"):
        open_text(DataSpec(path=two), WHERE)


def test_the_same_tenth_is_held_out_every_time_and_a_fifth_to_tune_on(tmp_path: Path) -> None:
    path = jsonl(tmp_path, numbered(50))
    first, again = (open_text(DataSpec(path=path), WHERE) for _ in range(2))
    assert (len(first.train.items), len(first.test.items)) == (45, 5)
    assert sorted([*first.train.numbers, *first.test.numbers]) == list(range(50))
    assert first.test.numbers == again.test.numbers
    assert [f"text {number}" for number in first.test.numbers] == first.test.items
    assert first.test.rows[0]["text"] == first.test.items[0]
    tuned = open_text(DataSpec(path=path), WHERE, tuning=True)
    assert (len(tuned.train.items), len(tuned.test.items)) == (36, 9)
    assert {*tuned.train.items, *tuned.test.items} == {*first.train.items}
    few = open_text(DataSpec(path=path, limit=10), WHERE)
    assert few.train.items == first.train.items[:10]
    assert len(open_text(DataSpec(path=path, limit=10), WHERE, tuning=True).test.items) == 2


def test_named_splits_are_taken_as_they_are(hub_folder: Callable[..., Path]) -> None:
    path = str(hub_folder({"train": {"text": ["a", "b"]}, "validation": {"text": ["c"]}, "test": {"text": ["d"]}}))
    assert open_text(DataSpec(path=path), WHERE).test.items == ["d"]
    assert open_text(DataSpec(path=path, test_split="validation"), WHERE).test.items == ["c"]
    assert open_text(DataSpec(path=path, train_split="test", test_split="test"), WHERE).train.items == ["d"]
    with pytest.raises(StockpotError, match=r"no split 'validaton'\. Did you mean 'validation'\?"):
        open_text(DataSpec(path=path, test_split="validaton"), WHERE)


def test_empty_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"text": ""}, *numbered(3), {"text": " \n"}]
    source = open_text(DataSpec(path=jsonl(tmp_path, rows), train_split="train", test_split="train"), WHERE)
    assert source.train.numbers == [1, 2, 3]
    assert source.facts["skipped"] == 4
    with pytest.raises(StockpotError, match="all of its 2 rows are empty"):
        open_text(DataSpec(path=jsonl(tmp_path, [{"text": " "}] * 2, "e.jsonl"), test_split="train"), WHERE)


def test_the_fingerprint_is_of_every_string(tmp_path: Path) -> None:
    rows = numbered(20)
    prints = set()
    for number, change in enumerate([("text 3", "text 3"), ("text 3", "text x"), ("text 19", "text y")]):
        changed = [{"text": row["text"].replace(*change)} for row in rows]
        source = open_text(DataSpec(path=jsonl(tmp_path, changed, f"{number}.jsonl")), WHERE)
        prints.add(source.facts["fingerprint"])
    assert len(prints) == 3


BAD: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([{"text": "a"}, {"text": None}], {"text": "T {text}"}, "row 1: column 'text' holds nothing (null)"),
    ([{"text": "a", "n": ["x"]}] * 2, {"text": "{text}{n}"}, "row 0: column 'n' holds a list, not text"),
    ([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}], {}, "row 1: the completion is empty"),
    (
        [{"messages": [{"role": "user", "content": "b"}]}] * 2,
        {},
        "row 0: the assistant says nothing in column 'messages'",
    ),
    (
        [{"messages": [{"role": "user", "text": "b"}]}] * 2,
        {},
        "row 0: message 0 of column 'messages' has no text as content",
    ),
    ([{"messages": "hi"}] * 2, {}, "row 0: column 'messages' should hold a list of messages"),
    ([{"text": "a"}] * 2, {"messages": "mesages"}, "no column 'mesages'"),
    ([{"text": "a"}] * 2, {"rotate": 3.0}, "data.rotate is for images"),
    ([{"text": "a"}] * 2, {"classes": [0]}, "data.classes is for classes"),
    ([{"text": "a"}], {}, "name data.test_split"),
    ([{"a": "x"}] * 2, {"completion": "a"}, "data.prompt: name the column, or give a template. Columns: ['a']"),
    ([{"a": "x"}] * 2, {"prompt": "a", "completion": "b"}, "data.completion: 'b' is neither a column nor a template"),
]


@pytest.mark.parametrize(("rows", "keys", "expected"), BAD)
def test_a_bad_row_is_named_in_one_line(
    tmp_path: Path, rows: list[dict[str, Any]], keys: dict[str, Any], expected: str
) -> None:
    path = jsonl(tmp_path, rows)
    keys = {"test_split": "train", **keys} if len(rows) > 1 else keys
    with pytest.raises(StockpotError) as caught:
        open_text(DataSpec(path=path, **keys), WHERE)
    assert expected in str(caught.value)
    assert str(caught.value).startswith("task 'law': ")
    assert "\n" not in str(caught.value)
    if "row" in expected:
        assert f"{path}, split 'train', row " in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"x\ncaf\xe9\n", "/a.txt, line 2: it is not UTF-8 text; convert it to UTF-8, .*iconv"),
        ("a.csv", b"text\nx\ncaf\xe9\n", "/a.csv, line 3: it is not UTF-8 text; .*iconv"),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"text": "caf\xe9"}\n',
            "/a.jsonl, split 'train', row 1: it is not UTF-8 text; .*",
        ),
        ("folder/train.txt", b"x\ncaf\xe9\n", "/folder/train.txt, line 2: it is not UTF-8 text; .*iconv"),
        ("b.jsonl", b'{"text": "x"}\n{"text":\n', "/b.jsonl, row 1 could not be read as jsonl: .*; fix the row"),
        ("c.jsonl", b"", "/c.jsonl is empty"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_place(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / name).write_bytes(content)
    path = tmp_path / name if name[:6] != "folder" else tmp_path / "folder"
    with pytest.raises(StockpotError, match=rf"^task 'law': {tmp_path}{expected}") as caught:
        open_text(DataSpec(path=str(path), test_split="train"), WHERE)
    assert "\n" not in str(caught.value)


def test_files_and_folders_of_them_are_opened(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "table.csv").write_text("text,n\none,1\ntwo,2\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    jsonl(folder, numbered(3), "train.jsonl")
    jsonl(folder, numbered(1), "test.jsonl")
    assert open_text(DataSpec(path=str(tmp_path / "lines.txt")), WHERE).facts["train"] == 2
    assert open_text(DataSpec(path=str(tmp_path / "table.csv")), WHERE).facts["test"] == 1
    assert open_text(DataSpec(path=str(folder)), WHERE).test.items == ["text 0"]


@pytest.mark.parametrize("path", [None, "./nowhere.jsonl", "./nowhere", "nobody/nothing-at-all"])
def test_data_that_cannot_be_reached_are_said_in_one_line(path: str | None) -> None:
    with pytest.raises(StockpotError, match=r"^task 'law': ") as caught:
        open_text(DataSpec(path=path), WHERE)
    assert "\n" not in str(caught.value)


def test_classes_come_from_names_numbers_or_strings(hub_folder: Callable[..., Path], tmp_path: Path) -> None:
    named = hub_folder({part: {"text": ["a", "b"], "label": [1, 0]} for part in ("train", "test")}, label=["no", "yes"])
    source = open_labelled_texts(DataSpec(path=str(named)), WHERE)
    assert (source.classes, source.train.labels.tolist(), source.train.pick([1, 0])) == (
        ["no", "yes"],
        [1, 0],
        ["b", "a"],
    )
    strings = jsonl(tmp_path, [{"text": "a", "kind": "x"}, {"text": "b", "kind": "w"}])
    source = open_labelled_texts(DataSpec(path=strings, label="kind", test_split="train"), WHERE)
    assert (source.classes, source.test.labels.tolist()) == (["w", "x"], [1, 0])
    numbers = jsonl(tmp_path, [{"text": "a", "label": 2}, {"text": "b", "label": 0}], "n.jsonl")
    source = open_labelled_texts(DataSpec(path=numbers, test_split="train"), WHERE)
    assert (source.classes, source.train.labels.tolist()) == (["0", "1", "2"], [2, 0])
    unlabelled = jsonl(tmp_path, [{"text": "a", "label": 2}, {"text": "b", "label": -1}], "u.jsonl")
    with pytest.raises(StockpotError, match="row 1: it has no label"):
        open_labelled_texts(DataSpec(path=unlabelled, test_split="train"), WHERE)


def test_a_reader_is_told_which_texts_were_cut_or_left_out(tmp_path: Path) -> None:
    pairs = [{"prompt": "ab", "completion": "c" * length} for length in (3, 9, 3, 9, 9)]
    texts = [{"text": "abc"}, {"text": " "}, {"text": "de" * 40}]
    paths = jsonl(tmp_path, pairs, "pairs.jsonl"), jsonl(tmp_path, texts, "texts.jsonl")
    tasks = [TaskSpec(name=name, data=DataSpec(path=path)) for name, path in zip("ab", paths, strict=True)]
    default = DataSpec(test_split="train", max_length=8)
    tokenizer = train_tokenizer([], 300)
    stream = LanguageStream.open(LanguageSources.open(default, tasks, []), tokenizer, GPT2Config(n_positions=8))
    expected = "3 of 5 training texts lost their end, over 8 tokens; 3 of 5 test texts lost their end, over 8 tokens"
    assert stream.notes(0) == [f"task 'a': {expected}"]
    assert stream.notes(1) == ["task 'b': 2 empty texts were left out"]  # long texts are cut in pieces, and all learnt
