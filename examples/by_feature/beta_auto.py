"""SFA without choosing β: each weight has its own, and one file holds what the next task needs to know.

Five tasks of two digits each, one after the other; then the network is tested on all ten.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import stockpot

EPOCHS, BATCH = 10, 32
TASKS = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, images and labels to test on."""
    bunch = load_digits()
    x = torch.tensor(bunch.data, dtype=torch.float32) / 16
    y = torch.tensor(bunch.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    test, train = order[:360], order[360:]
    return x[train], y[train], x[test], y[test]


def train_task(model: nn.Module, x: Tensor, y: Tensor, number: int, beta: float | str, folder: Path) -> None:
    """Trains one task; the anchor is the model as it comes in."""
    steps = EPOCHS * -(-len(y) // BATCH)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    if beta == "auto":
        # Before the first task the weights are random: there is nothing to keep, and its gradients are only observed.
        past = "none" if number == 0 else folder / f"task{number - 1}"
        sfa = stockpot.SFA(model, beta="auto", total_steps=steps, importance=past)
    else:
        sfa = stockpot.SFA(model, beta=0.0 if number == 0 else float(beta), p=0.5, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(y)), BATCH):
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            sfa.step()  # the gradients are still there
            optimizer.zero_grad()
    if beta == "auto":
        sfa.save_importance(folder / f"task{number}")


def accuracy(beta: float | str, folder: Path) -> tuple[float, float]:
    """Test accuracy on the first four tasks and on the newest, after learning all in turn."""
    torch.manual_seed(0)
    x, y, test_x, test_y = digits()
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    for number, (low, high) in enumerate(TASKS):
        task = (y == low) | (y == high)
        train_task(model, x[task], y[task], number, beta, folder)
    right = model(test_x).argmax(1) == test_y
    return right[test_y < 8].float().mean().item(), right[test_y >= 8].float().mean().item()


def main() -> None:
    """Trains three times, and prints how much is left of the past and learnt of the new."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, beta in (("plain", 0.0), ("SFA, 0.25", 0.25), ("SFA, auto", "auto")):
            past, newest = accuracy(beta, folder)
            print(f"{label:9}  earlier tasks {past:.2f}  newest task {newest:.2f}  all {0.8 * past + 0.2 * newest:.2f}")
        print("kept between tasks:", ", ".join(file.name for file in sorted((folder / "task4").iterdir())))


if __name__ == "__main__":
    main()
