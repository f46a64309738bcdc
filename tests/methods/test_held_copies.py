"""What a method says that it holds in memory, and trains on, before it runs: it is what a run then counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy import config, examples, learn, network

from stockpot.methods import registry

OF_DATA = {"joint", "replay", "agem"}  # they hold examples, not copies of the weights
TASKS = 3


@pytest.mark.parametrize("name", registry())
def test_a_method_holds_as_many_copies_and_trains_on_as_many_examples_as_it_says(name: str, tmp_path: Path) -> None:
    chosen = config(name, **registry()[name].typical)
    tasks = [examples(0), examples(1, 30), examples(2, 26)]
    learnt = learn(chosen, "plain", tmp_path, tasks=tasks)
    weights = sum(tensor.nbytes for tensor in network().state_dict().values())
    for number in range(1, TASKS + 1):
        costs = learnt.methods[number - 1].costs
        if name not in OF_DATA:
            assert costs.extra_memory_bytes == chosen.held_copies(number) * weights
        sizes = [len(task) for task in tasks[:number]]
        assert learnt.data[number - 1].epoch == chosen.epoch_examples(sizes)
