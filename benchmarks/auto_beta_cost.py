"""What beta="auto" costs: a training step with and without observing, and one average against `torch.add`.

    OMP_NUM_THREADS=2 python benchmarks/auto_beta_cost.py

A step is that of AdamW on a transformer of more than 10 M parameters, alternating with the same step followed by
`sfa.observe()`; an average of 102.5 M fp32 parameters reads weights, anchor, squares and Ω, and writes the weights
(five streams of memory), besides one pass over the squares. `torch.add(a, b, out=c)` over the same tensors has three
streams. Ratios and their spread, from one process; nothing is compared over runs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from average_bandwidth import transformer
from sfa_overhead import BATCH, TOKENS, WIDTH, Classifier
from torch import nn

from stockpot import SFA
from stockpot.averaging.past_importance import PastImportance, past_importance


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def quartiles(values: Sequence[float]) -> str:
    """Median, and the middle half."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.4f} (middle half {low:.4f} to {high:.4f})"


def observing(rounds: int) -> None:
    """The share of a step that observing takes."""
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x, y = torch.randn(BATCH, TOKENS, WIDTH), torch.randint(10, (BATCH,))
    sfa = SFA(model, beta="auto", every=10**9)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    def observe() -> None:
        sfa.observe()
        sfa.step()

    shares = []
    for number in range(rounds + 3):
        plain, ours = seconds(step), seconds(observe)
        if number >= 3:  # the first rounds touch memory for the first time
            shares.append(ours / plain)
    count = sum(tensor.numel() for tensor in model.parameters())
    print(f"observing a step, {count / 1e6:.1f} M parameters, {BATCH * TOKENS} positions a batch: {quartiles(shares)}")


def averaging(rounds: int) -> None:
    """The bandwidth of an average over that of an addition."""
    torch.manual_seed(0)
    model = transformer()
    tensors = [tensor.detach() for tensor in model.parameters()]
    others, outputs = [torch.randn_like(tensor) for tensor in tensors], [torch.empty_like(tensor) for tensor in tensors]
    size = sum(tensor.nbytes for tensor in tensors)

    def add() -> None:
        for a, b, c in zip(tensors, others, outputs, strict=True):
            torch.add(a, b, out=c)

    with tempfile.TemporaryDirectory() as folder:
        past = {name: torch.rand_like(tensor) for name, tensor in model.named_parameters()}
        PastImportance(past, 1).save(folder)
        del past
        on_disk = past_importance(Path(folder))
        anchor = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
        sfa = SFA(model, beta="auto", every=10**9, importance=on_disk, anchor=anchor, keep="cpu")
        for tensor in model.parameters():
            tensor.grad = torch.full_like(tensor, 1e-3)
        sfa.step()
        for tensor in model.parameters():
            tensor.grad = None
        squares = sum(tensor.nbytes for tensor in sfa.observed()["squared_gradients"].values())
        print(f"memory of the squares: {squares / 1e6:.0f} MB, as the weights: {size / 1e6:.0f} MB; Ω stays on disk")
        ratios, times = [], []
        for number in range(rounds + 2):
            base = (seconds(add) + seconds(add)) / 2
            ours = seconds(sfa.average)
            if number >= 2:
                ratios.append((6 * size / ours) / (3 * size / base))
                times.append(ours / base)
        print(f"bytes a second of an average (six streams) over those of torch.add (three): {quartiles(ratios)}")
        print(f"time of an average over that of torch.add: {quartiles(times)}")


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    print(f"{torch.get_num_threads()} thread(s)")
    observing(rounds)
    averaging(rounds)


if __name__ == "__main__":
    main()
