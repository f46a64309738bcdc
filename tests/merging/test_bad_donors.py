"""Damaged, oversized and hostile files next to a donor's weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from donor_cases import configured, linear, merged, model, refusal, state

from stockpot.merging.api import Options
from stockpot.weights.checkpoint import open_checkpoint


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not JSON"),
        ("[1, 2]", "should hold a JSON object, not a list"),
        ("null", "should hold a JSON object, not a NoneType"),
        ("[" * 200_000, "is not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "is not JSON"),
    ],
)
def test_a_configuration_that_is_none_is_refused_before_the_merge(config: str, message: str, tmp_path: Path) -> None:
    one = model(tmp_path / "one", config)
    result = refusal(linear(one), tmp_path / "out")
    assert message in result
    assert result.startswith(str(one / "config.json"))


def test_a_configuration_in_another_encoding_is_refused(tmp_path: Path) -> None:
    one = model(tmp_path / "one", {})
    (one / "config.json").write_bytes(b'{"a": "\xff"}')
    assert "not a text file in UTF-8" in refusal(linear(one), tmp_path / "out")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_files_without_end_are_refused(name: str, tmp_path: Path) -> None:
    one = model(tmp_path / "one", {})
    with (one / name).open("wb") as file:
        file.truncate(2 << 30)  # takes no room on the disk
    assert "2,147,483,648 bytes" in refusal(linear(one), tmp_path / "out")
    with (one / name).open("wb") as file:
        file.truncate((64 << 20) + 1)
    if name == "config.json":
        assert "more than 67,108,864 are not read" in refusal(linear(one), tmp_path / "out")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_link_out_of_the_donors_folder_is_not_followed(name: str, tmp_path: Path) -> None:
    one = model(tmp_path / "one", {})
    (tmp_path / "secret").write_text('{"a": "secret"}')
    (one / name).unlink(missing_ok=True)
    (one / name).symlink_to(tmp_path / "secret")
    assert "is a link out of its folder" in refusal(linear(one), tmp_path / "out")


def test_a_folder_of_templates_that_lies_elsewhere_is_not_followed(tmp_path: Path) -> None:
    one = model(tmp_path / "one", {})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jinja").write_text("secret")
    (one / "additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    assert "is a link out of its folder" in refusal(linear(one), tmp_path / "out")


def test_a_folder_with_a_files_name_is_passed_over(tmp_path: Path) -> None:
    (model(tmp_path / "one", {}) / "own.model").mkdir()
    assert not (merged(linear(tmp_path / "one"), tmp_path / "out") / "own.model").exists()


def test_a_pipe_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    one = model(tmp_path / "one")
    os.mkfifo(one / "config.json")
    assert "is not a file" in refusal(linear(one), tmp_path / "out")


def test_the_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--name"
    (repository / "blobs").mkdir(parents=True)
    snapshot = model(
        repository / "snapshots" / "0123", {"a": 1}, 2, **{"additional_chat_templates-tool__jinja": "{{ t }}"}
    )
    for number, file in enumerate([path for path in snapshot.rglob("*") if path.is_file()]):
        shutil.move(file, repository / "blobs" / str(number))
        file.symlink_to(repository / "blobs" / str(number))
    out = merged(linear(snapshot), tmp_path / "out", Options())
    assert configured(out)["a"] == 1
    copied = out / "additional_chat_templates" / "tool.jinja"
    assert copied.read_text() == "{{ t }}"
    assert not any(path.is_symlink() for path in out.rglob("*"))


def test_a_merge_that_was_killed_beside_its_templates_can_be_started_anew(tmp_path: Path) -> None:
    one = model(tmp_path / "one", {})
    left = tmp_path / ".tmp-merge-out" / "additional_chat_templates"
    left.mkdir(parents=True)
    (left / "a.jinja").write_text("old")
    out = merged(linear(one), tmp_path / "out")
    assert not (out / "additional_chat_templates").exists()
    assert set(open_checkpoint(out)) == set(state())
