"""MagMax: of every element the largest change since the start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from merging_by_hand import chain, run
from toy import LOOPS, copied, network


@pytest.mark.parametrize("loop", LOOPS)
def test_magmax_takes_the_largest_change_since_the_start(loop: str, tmp_path: Path) -> None:
    learnt, start = run("magmax", tmp_path, loop, scale=0.7), copied(network())
    for name, tensor in learnt.weights[3].items():
        changes = torch.stack([model[name] - start[name] for model in chain()])
        largest = changes.gather(0, changes.abs().argmax(0, keepdim=True))[0]
        torch.testing.assert_close(tensor, start[name] + 0.7 * largest, rtol=1e-12, atol=1e-12)
        assert len(set(changes.abs().argmax(0).flatten().tolist())) > 1 or tensor.numel() < 6
