"""Merging models that were fine-tuned separately from the same start: no training, no data, one line per rule.

A network learns all ten digits a little; then one copy of it is trained on the digits 0-4 and another on 5-9. Each
copy forgets what the other learns. Merged, they know both.
"""

from __future__ import annotations

import copy

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import stockpot

BATCH = 32


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, images and labels to test on."""
    bunch = load_digits()
    x = torch.tensor(bunch.data, dtype=torch.float32) / 16
    y = torch.tensor(bunch.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    test, train = order[:360], order[360:]
    return x[train], y[train], x[test], y[test]


def trained(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """A copy of the model that has learnt these examples."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(y)), BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model


def main() -> None:
    """Trains the start and the two copies, merges them by several rules, and prints what each knows."""
    torch.manual_seed(0)
    x, y, test_x, test_y = digits()
    start = trained(nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)), x, y, epochs=2)
    first = trained(start, x[y < 5], y[y < 5], epochs=10)
    second = trained(start, x[y >= 5], y[y >= 5], epochs=10)

    both = [first.state_dict(), second.state_dict()]
    base = start.state_dict()
    merged = {
        "start": base,
        "first": both[0],
        "second": both[1],
        "linear": stockpot.merge("linear", both),
        "task_arithmetic": stockpot.merge("task_arithmetic", both, base, lambda_=0.5),
        "ties": stockpot.merge("ties", both, base, density=0.5, lambda_=0.5),
        "dare_ties": stockpot.merge("dare_ties", both, base, density=0.5, lambda_=0.5),
        "magmax": stockpot.merge("magmax", both, base, lambda_=0.5),
    }
    model = copy.deepcopy(start)
    for name, state in merged.items():
        model.load_state_dict(state)
        right = model(test_x).argmax(1) == test_y
        halves = right[test_y < 5].float().mean(), right[test_y >= 5].float().mean()
        print(f"{name:16} digits 0-4 {halves[0]:.2f}  digits 5-9 {halves[1]:.2f}  all {right.float().mean():.2f}")


if __name__ == "__main__":
    main()
