"""SFA in a plain PyTorch loop: two lines more than without it.

Digits 0-4, then digits 5-9, one after the other; then the network is tested on all ten.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import stockpot

EPOCHS, BATCH = 10, 32


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, images and labels to test on."""
    bunch = load_digits()
    x = torch.tensor(bunch.data, dtype=torch.float32) / 16
    y = torch.tensor(bunch.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    test, train = order[:360], order[360:]
    return x[train], y[train], x[test], y[test]


def train_task(model: nn.Module, x: Tensor, y: Tensor, beta: float) -> None:
    """Trains one task; the anchor is the model as it comes in."""
    steps = EPOCHS * -(-len(y) // BATCH)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sfa = stockpot.SFA(model, beta=beta, p=0.25, total_steps=steps)  # line one
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(y)), BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            sfa.step()  # line two


def accuracy_on_both(beta: float) -> tuple[float, float]:
    """Test accuracy on each half of the digits, after learning both in turn."""
    torch.manual_seed(0)
    x, y, test_x, test_y = digits()
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    train_task(model, x[y < 5], y[y < 5], beta=0.0)  # nothing is known yet, so nothing to keep
    train_task(model, x[y >= 5], y[y >= 5], beta)
    right = model(test_x).argmax(1) == test_y
    return right[test_y < 5].float().mean().item(), right[test_y >= 5].float().mean().item()


def main() -> None:
    """Trains twice, plainly and with SFA, and prints how much is left of each task."""
    for name, beta in (("plain", 0.0), ("SFA", 0.25)):
        first, second = accuracy_on_both(beta)
        print(f"{name:5}  first task {first:.2f}  second task {second:.2f}  both {(first + second) / 2:.2f}")


if __name__ == "__main__":
    main()
