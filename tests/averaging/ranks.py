"""Two gloo processes on this machine, forked so that nothing is imported again."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed


def on_ranks(work: Callable[[int], Any], folder: Path, many: int = 2) -> list[Any]:
    """`work(rank)` in each of `many` processes of one gloo group; what each returned, by rank."""
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()

    def rank(number: int) -> None:
        try:
            store = f"file://{folder / 'rendezvous'}"
            torch.distributed.init_process_group("gloo", init_method=store, rank=number, world_size=many)
            answers.put((number, work(number), None))
            torch.distributed.barrier()
        except BaseException:
            answers.put((number, None, traceback.format_exc()))

    processes = [context.Process(target=rank, args=(number,), daemon=True) for number in range(many)]
    for process in processes:
        process.start()
    try:
        answered = [answers.get(timeout=60) for _ in processes]
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
    for number, _, failure in answered:
        assert failure is None, f"rank {number}: {failure}"
    return [answer for _, answer, _ in sorted(answered, key=lambda answer: answer[0])]
