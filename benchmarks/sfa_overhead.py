"""What SFA costs: seconds inside averaging over seconds of training, p = 0.05, a model of more than 10 M parameters."""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from stockpot import SFA

WIDTH, BLOCKS, TOKENS, BATCH = 384, 6, 64, 4


class Classifier(nn.Module):
    """A transformer over given features, 10.7 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 6, 4 * WIDTH, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, BLOCKS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(x).mean(1))
        return logits


def overhead(steps: int) -> tuple[float, float, int]:
    """Seconds inside averaging, seconds of the whole loop, number of averages."""
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x, y = torch.randn(BATCH, TOKENS, WIDTH), torch.randint(10, (BATCH,))
    sfa = SFA(model, beta=0.25, p=0.05, total_steps=steps)
    start = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        sfa.step()
    return sfa.seconds, time.perf_counter() - start, sfa.averages


def main() -> None:
    """Prints the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    count = sum(tensor.numel() for tensor in Classifier().parameters())
    print(f"{count / 1e6:.1f} M parameters, {arguments.steps} steps, {torch.get_num_threads()} thread(s)")
    shares = []
    for _ in range(arguments.repetitions):
        inside, whole, averages = overhead(arguments.steps)
        shares.append(100 * inside / whole)
        print(f"{averages} averages took {inside:.3f} s of {whole:.1f} s of training: {shares[-1]:.3f} %")
    print(f"median {statistics.median(shares):.3f} %, range {min(shares):.3f} to {max(shares):.3f} %")


if __name__ == "__main__":
    main()
