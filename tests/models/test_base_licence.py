"""The licence of a base, as its card says it, and nothing that a card should not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from stockpot.models.base_licence import licence_of


def card(folder: Path, front: str) -> str:
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n")
    return str(folder)


def test_a_folders_card_says_it(tmp_path: Path) -> None:
    assert licence_of(card(tmp_path / "a", "license: apache-2.0\ntags: [x]\nlicense_link: z")) == {
        "license": "apache-2.0"
    }
    other = "license: other\nlicense_name: acme-community\nlicense_link: https://acme.ai/licence"
    assert licence_of(card(tmp_path / "b", other)) == {
        "license": "other", "license_name": "acme-community", "license_link": "https://acme.ai/licence",
    }  # fmt: skip


@pytest.mark.parametrize(
    "front",
    ["tags: [x]", "license: [mit, apache-2.0]", "license: 'a b'", "license: {a: b}", "- license", "{[", "!!python/x 1"],
)
def test_a_card_that_does_not_say_it_says_nothing(front: str, tmp_path: Path) -> None:
    assert licence_of(card(tmp_path / "a", front)) == {}


def test_without_a_card_nothing_is_known(tmp_path: Path) -> None:
    assert licence_of(str(tmp_path)) == {}
    assert licence_of("nobody/nothing-at-all") == {}
