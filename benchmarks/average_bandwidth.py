"""How close one SFA average of 100 M fp32 parameters comes to the speed of the memory.

Against `torch.add(a, b, out=c)` over the same tensors (three streams of memory, as an average reads two and writes
one), in the same process, in turn. 1.0 is the speed of that addition; the anchor is once in memory, once a
memory-mapped file whose pages are cached.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from stockpot import SFA
from stockpot.weights.checkpoint import save_checkpoint

# A transformer's tensors: embedding, and in each block attention and feed-forward weights, biases, norms.
WIDTH, VOCABULARY, BLOCKS = 768, 32_000, 11


def transformer() -> nn.Module:
    """Tensors of the usual sizes, 102.5 M parameters."""
    model = nn.Module()
    model.embed = nn.Embedding(VOCABULARY, WIDTH)
    model.blocks = nn.ModuleList(
        nn.TransformerEncoderLayer(WIDTH, 12, 4 * WIDTH, batch_first=True) for _ in range(BLOCKS)
    )
    return model


def anonymous_mb() -> float:
    """Anonymous resident memory of this process, MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1e3
    return float("nan")


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    model = transformer()
    tensors = [tensor.detach() for tensor in model.parameters()]
    count = sum(tensor.numel() for tensor in tensors)
    others, outputs = [torch.randn_like(tensor) for tensor in tensors], [torch.empty_like(tensor) for tensor in tensors]

    def add() -> None:
        for a, b, c in zip(tensors, others, outputs, strict=True):
            torch.add(a, b, out=c)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "anchor.safetensors"
        save_checkpoint(dict(model.named_parameters()), file)
        add()  # touches what is allocated lazily, before memory is read
        in_memory = SFA(model, beta=0.01, every=1)
        before = anonymous_mb()
        mapped = SFA(model, beta=0.01, every=1, anchor=file)
        ratios: dict[str, list[float]] = {"anchor in memory": [], "anchor memory-mapped": []}
        bandwidths = []
        for number in range(rounds + 2):
            for name, sfa in zip(ratios, (in_memory, mapped), strict=True):
                base = (seconds(add) + seconds(add)) / 2
                ours = seconds(sfa.step)
                if number >= 2:  # the first rounds touch memory for the first time
                    ratios[name].append(base / ours)
                    bandwidths.append(3 * 4 * count / base / 1e9)
        grown = anonymous_mb() - before
    print(f"{count / 1e6:.1f} M fp32 parameters in {len(tensors)} tensors, {torch.get_num_threads()} thread(s)")
    print(f"torch.add                {statistics.median(bandwidths):6.1f} GB/s")
    for name, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(
            f"{name:22}   {middle:6.2f} of torch.add (median of {rounds}; quartiles {low:.2f} to {high:.2f}, "
            f"range {min(values):.2f} to {max(values):.2f})"
        )
    print(f"anonymous memory for the memory-mapped anchor: {grown:.1f} MB of {4 * count / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
