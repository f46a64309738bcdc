"""Data as they lie: what their columns and folders are taken for, with the reason, and what is left to choose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from stockpot.errors import StockpotError
from stockpot.streams.hub import open_hub
from stockpot.streams.images import open_images
from stockpot.streams.layouts import text_folder
from stockpot.streams.recognition import Reading, class_reading, language_reading, may_be_classified
from stockpot.streams.spec import DataSpec
from stockpot.streams.text.labelled_texts import open_labelled_texts
from stockpot.streams.text.rows import Chat, PromptPair
from stockpot.streams.text.text_source import open_text

WHERE = "task 'a'"
TALK = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
SHARED = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
REVIEWS = [f"A film of {number} hours is long." for number in range(20)]
Read = Callable[[DataSpec, Any, str], Reading]


def table(rows: list[dict[str, Any]]) -> datasets.Dataset:
    return datasets.Dataset.from_list(rows)


def jsonl(folder: Path, rows: list[dict[str, Any]], name: str = "data.jsonl") -> DataSpec:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSpec(path=str(folder / name), test_split="train")


def refusal(call: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(StockpotError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(WHERE)
    return message


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"id": 1, "messages": TALK}, "chats: column `messages` holds lists of {role, content}"),
        ({"dialog": TALK, "prompt": "x"}, "chats: column `dialog` holds lists of {role, content}"),
        (
            {"conversations": SHARED},
            "chats: column `conversations` holds lists of {from, value}, as ShareGPT writes them",
        ),
        (
            {"prompt": "a", "completion": "b"},
            "prompts with completions: columns `prompt` and `completion`, of which the second is learnt "
            "(format: chat puts them into the model's chat template)",
        ),
        (
            {"question": "a", "answer": "b", "n": 1.5},
            "prompts with completions: columns `question` and `answer`, of which the second is learnt "
            "(format: chat puts them into the model's chat template)",
        ),
        (
            {"instruction": "a", "input": "", "output": "b"},
            "instructions in Alpaca's template: columns `instruction`, `input`, `output`, of which the last is learnt "
            "(format: chat puts them into the model's chat template)",
        ),
        ({"text": "a", "url": "b"}, "texts: column `text`, all of which is learnt"),
        ({"body": "a", "stars": 3}, "texts: `body` is the only column of text, and all of it is learnt"),
    ],
)
def test_what_is_learnt_is_told_from_the_columns_with_the_reason(row: dict[str, Any], sentence: str) -> None:
    reading = language_reading(DataSpec(path="d.jsonl"), table([row] * 3), WHERE)
    assert reading.sentence("d.jsonl") == f"d.jsonl: read as {sentence}"


@pytest.mark.parametrize(
    ("row", "candidates"),
    [
        ({"chosen": TALK, "rejected": TALK}, "data.messages: chosen, data.messages: rejected"),
        ({"head": "Some words", "tail": "Other words"}, "data.text: head, data.text: tail"),
    ],
)
def test_several_readings_are_an_error_that_lists_them(row: dict[str, Any], candidates: str) -> None:
    message = refusal(language_reading, DataSpec(path="d"), table([row]), WHERE)
    assert f"Candidates: {candidates}." in message
    assert f"Columns: {list(row)}" in message


def test_a_turn_of_sharegpt_is_a_message(tmp_path: Path) -> None:
    opening = {"from": "system", "value": "Be brief."}
    data = jsonl(tmp_path, [{"conversations": [opening, *SHARED]}])
    assert open_text(data, WHERE).train.items == [Chat([{"role": "system", "content": "Be brief."}, *TALK])]
    strange = jsonl(tmp_path, [{"conversations": [{"from": "narrator", "value": "x"}, *SHARED]}], "strange.jsonl")
    message = refusal(open_text, strange, WHERE)
    assert "row 0: message 0 of column 'conversations' is from 'narrator', which is none of human, user, gpt" in message


def test_an_instruction_is_alpacas_prompt_or_a_chat(tmp_path: Path) -> None:
    rows = [
        {"system": "Count.", "instruction": "Add {input}.", "input": "1 2", "output": "3"},
        {"system": None, "instruction": "Greet.", "input": "", "output": "Hi."},
    ]
    data = jsonl(tmp_path, rows)
    with_input, without = open_text(data, WHERE).train.items
    assert isinstance(with_input, PromptPair)
    assert with_input.prompt.endswith("### Instruction:\nAdd {input}.\n\n### Input:\n1 2\n\n### Response:\n")
    assert isinstance(without, PromptPair)
    assert without.prompt.startswith("Below is an instruction that describes a task. Write")
    assert without.prompt.endswith("\n\n### Instruction:\nGreet.\n\n### Response:\n")
    chat = open_text(data.model_copy(update={"format": "chat"}), WHERE).train.items
    system, user, answer = ({"role": role} for role in ("system", "user", "assistant"))
    assert chat == [
        Chat([system | {"content": "Count."}, user | {"content": "Add {input}.\n\n1 2"}, answer | {"content": "3"}]),
        Chat([user | {"content": "Greet."}, answer | {"content": "Hi."}]),
    ]


def test_prompts_and_completions_go_into_a_chat_if_the_recipe_says_so(tmp_path: Path) -> None:
    data = jsonl(tmp_path, [{"question": "Why?", "answer": "So."}])
    assert open_text(data, WHERE).train.items == [PromptPair("Why?", "So.")]
    assert open_text(data.model_copy(update={"format": "chat"}), WHERE).train.items == [Chat(TALK)]


@pytest.mark.parametrize(
    ("columns", "keys"),
    [
        ({"text": REVIEWS, "label": [0, 1] * 10}, {"text": "text", "label": "label"}),
        ({"review": REVIEWS, "stars": [1, 2, 3, 4, 5] * 4}, {"text": "review", "label": "stars"}),
        ({"n": [*range(20)], "said": REVIEWS, "intent": ["buy", "sell"] * 10}, {"text": "said", "label": "intent"}),
        ({"tone": ["warm", "cold"] * 10, "review": REVIEWS}, {"text": "review", "label": "tone"}),
    ],
)  # fmt: skip
def test_classes_are_values_that_come_again(columns: dict[str, list[Any]], keys: dict[str, str]) -> None:
    reading = class_reading(DataSpec(path="d"), datasets.Dataset.from_dict(columns), WHERE)
    assert (reading.rows, reading.keys) == ("texts with classes", keys)
    counted = len(set(columns[keys["label"]]))
    assert f"`{keys['label']}` its classes, {counted} in 20 rows" in reading.why


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"premise": REVIEWS, "hypothesis": REVIEWS, "label": [0, 1] * 10},
         "data.text: several columns hold text: premise, hypothesis; name one, or a template such as "
         "'{premise} {hypothesis}'"),
        ({"review": REVIEWS, "tone": ["warm", "cold"] * 10, "stars": [1, 2] * 10},
         "data.label: there are several such columns, ['tone', 'stars']; name the column"),
        ({"review": REVIEWS}, "data.label: none of the columns ['review'] fits; name the column"),
    ],
)  # fmt: skip
def test_columns_that_leave_a_choice_are_an_error_with_the_key(columns: dict[str, list[Any]], expected: str) -> None:
    assert expected in refusal(class_reading, DataSpec(path="d"), datasets.Dataset.from_dict(columns), WHERE)


def test_texts_are_classified_if_a_column_is_named_after_classes_and_the_choice_is_the_users_if_it_only_may_be() -> (
    None
):
    plain = DataSpec(path="d")
    assert may_be_classified(plain, datasets.Dataset.from_dict({"text": REVIEWS, "label": [0, 1] * 10}), WHERE)
    assert not may_be_classified(plain, datasets.Dataset.from_dict({"text": REVIEWS}), WHERE)
    assert not may_be_classified(plain, table([{"messages": TALK, "source": "x"}] * 4), WHERE)
    assert not may_be_classified(plain, table([{"instruction": "a", "output": "b", "source": "x"}] * 4), WHERE)
    unclear = datasets.Dataset.from_dict({"review": REVIEWS, "stars": [1, 2] * 10})
    message = refusal(may_be_classified, plain, unclear, WHERE)
    assert "set data.label: stars, or scenario: language" in message


def pictures(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2), 10 * number, dtype=np.uint8)).save(folder / name)


def test_a_table_may_name_image_files_and_classes_in_words(tmp_path: Path) -> None:
    names = [f"pictures/{number}.png" for number in range(4)]
    pictures(tmp_path, names)
    rows = "".join(f"{name},{'cat' if number % 2 else 'dog'}\n" for number, name in enumerate(names))
    (tmp_path / "all.csv").write_text(f"file,animal\n{rows}")
    data = DataSpec(path=str(tmp_path / "all.csv"), test_split="train")
    source = open_images(data, WHERE)
    assert (source.classes, source.train.labels.tolist()) == (["cat", "dog"], [1, 0, 1, 0])
    assert [np.asarray(image)[0, 0] for image in source.train.pick([3, 0])] == [30, 0]
    why = class_reading(data, open_hub(data, WHERE)["train"], WHERE).why
    assert why == "column `file` holds names of image files, `animal` their classes"
    (tmp_path / names[2]).unlink()
    assert f"row 2: data.image: column 'file' names '{names[2]}', and there is no file" in refusal(
        open_images, data, WHERE
    )


def test_encoded_pictures_are_pictures(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.png"])
    content = (tmp_path / "a.png").read_bytes()
    plain = {"image": [{"bytes": content, "path": None}] * 10, "label": ["x", "y"] * 5}
    datasets.Dataset.from_dict(plain).to_parquet(tmp_path / "plain.parquet")
    source = open_images(DataSpec(path=str(tmp_path / "plain.parquet")), WHERE)
    assert source.classes == ["x", "y"]
    assert source.train.pick([0])[0].size == (2, 2)


def test_class_folders_of_images_are_read_with_and_without_folders_of_parts(tmp_path: Path) -> None:
    pictures(
        tmp_path / "parts", [f"{part}/{kind}/{n}.png" for part in ("train", "val") for kind in "ab" for n in range(2)]
    )
    pictures(tmp_path / "whole", [f"{kind}/{n}.png" for kind in "ab" for n in range(5)])
    for folder, sizes in (("parts", (4, 4)), ("whole", (8, 2))):
        source = open_images(DataSpec(path=str(tmp_path / folder)), WHERE)
        assert source.classes == ["a", "b"]
        assert (len(source.train.labels), len(source.test.labels)) == sizes


def write(folder: Path, contents: dict[str, str]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_a_folder_of_texts_is_one_text_a_file_and_its_folders_are_classes(tmp_path: Path) -> None:
    files = {
        f"{part}/{kind}/{n}.txt": f"{kind}\n{n}" for part in ("train", "test") for kind in ("neg", "pos") for n in "01"
    }
    source = open_labelled_texts(DataSpec(path=str(write(tmp_path / "imdb", files)), each="file"), WHERE)
    assert (source.classes, source.test.labels.tolist()) == (["neg", "pos"], [0, 0, 1, 1])
    assert source.train.pick([0, 3]) == ["neg\n0", "pos\n1"]
    plain = write(tmp_path / "plain", {"README.txt": "?", "a.txt": "one\ntwo", "b/c.txt": "three\n\nfour\nfive"})
    read = {
        each: list(open_hub(DataSpec(path=str(plain), each=each), WHERE)["train"]["text"])  # type: ignore[arg-type]
        for each in ("file", "paragraph", "line")
    }
    assert read["file"] == ["one\ntwo", "three\n\nfour\nfive"]
    assert read["paragraph"][-1] == "four\nfive"
    assert "two" in read["line"]
    assert text_folder(write(tmp_path / "lines", {"train.txt": "a\nb", "test.txt": "c"})) is None
    assert text_folder(write(tmp_path / "tables", {"a.txt": "a", "b.csv": "text\nb"})) is None


def test_what_datasets_saved_to_disk_is_opened(tmp_path: Path) -> None:
    rows = table([{"text": "a"}] * 3)
    rows.save_to_disk(tmp_path / "alone")
    datasets.DatasetDict(train=rows, test=rows.select([0])).save_to_disk(tmp_path / "parts")
    assert open_text(DataSpec(path=str(tmp_path / "alone"), test_split="train"), WHERE).facts["train"] == 3
    assert open_text(DataSpec(path=str(tmp_path / "parts")), WHERE).facts["test"] == 1
    index = tmp_path / "parts" / "dataset_dict.json"
    index.write_text('{"splits": ["../alone"]}')
    assert "'../alone' is not the name of a split" in refusal(open_text, DataSpec(path=str(tmp_path / "parts")), WHERE)


def test_files_of_several_kinds_in_a_folder_must_be_chosen_from(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", {"a.csv": "text\nx\ny", "b.jsonl": '{"text": "z"}', "notes/README.txt": "about it"})
    message = refusal(open_text, DataSpec(path=str(folder)), WHERE)
    assert "holds 1 .csv file and 1 .json file, so it is not clear which are the data" in message
    assert f"data.path: {folder}/a.csv, data.path: {folder}/b.jsonl" in message
    (folder / "b.jsonl").unlink()
    assert len(open_hub(DataSpec(path=str(folder)), WHERE)["train"]) == 2
