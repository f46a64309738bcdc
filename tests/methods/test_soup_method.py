"""The uniform soup: the mean of what training left."""

from __future__ import annotations

from pathlib import Path

from merging_by_hand import chain, mean, parallel, run
from toy import assert_close


def test_soup_is_the_mean_of_the_raw_models(tmp_path: Path) -> None:
    for models, keys in ((parallel(), {}), (chain(), {"mode": "chain"})):
        learnt = run("soup", tmp_path / keys.get("mode", "parallel"), **keys)
        assert_close(learnt.weights[2], mean(models[:2]))
        assert_close(learnt.weights[3], mean(models))
