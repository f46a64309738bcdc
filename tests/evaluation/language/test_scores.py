"""A score is one file: the registry is what the folder holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from scoring import measured
from torch import nn

from stockpot.batches.token_examples import TokenExamples
from stockpot.evaluation import scores
from stockpot.evaluation.scores import SCORES
from stockpot.evaluation.scores.base import Score
from stockpot.streams.text.part import TextPart

FOLDER = Path(scores.__file__).parent
NEW = '''
"""A score that a test adds."""
from typing import ClassVar, Literal
from stockpot.evaluation.scores.base import Score, Subject

class PartBytes(Score):
    """The bytes of the part."""
    unit: ClassVar[str] = "bytes"
    name: Literal["part_bytes"] = "part_bytes"

    def measure(self, subject: Subject) -> float:
        return subject.text.bytes
'''


def test_every_file_is_one_score_that_says_how_it_is_measured() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "base", "brought"}
    assert {score.__module__.rpartition(".")[2] for score in SCORES.values()} == files
    assert len(SCORES) == len(files)
    for score in SCORES.values():
        assert score.__doc__ and score.measure is not Score.measure


def test_a_new_score_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "part_bytes.py").write_text(NEW, encoding="utf-8")
    monkeypatch.setattr(scores, "__path__", [str(FOLDER), str(tmp_path)])
    monkeypatch.delitem(sys.modules, "stockpot.evaluation.scores.part_bytes", raising=False)
    registry = scores._scores_of_this_folder()
    assert set(registry) == {*SCORES, "part_bytes"}
    nothing = TokenExamples(torch.tensor([0]).int(), torch.tensor([1]), torch.tensor([1]).int())
    part = TextPart("law", nothing, bytes=7)
    assert measured([registry["part_bytes"](name="part_bytes")], nn.Linear(1, 1), None, part, 1) == {"part_bytes": 7}
    assert registry["part_bytes"](name="part_bytes").unit == "bytes"
    del sys.modules["stockpot.evaluation.scores.part_bytes"]
