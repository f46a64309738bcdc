"""SFA in Lightning's Trainer: one callback.

Digits 0-4, then digits 5-9, one after the other; then the network is tested on all ten.
"""

from __future__ import annotations

import logging
import tempfile

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from stockpot.averaging.lightning import SFALightning


class Classifier(LightningModule):
    """A network of one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.layers(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, images and labels to test on."""
    bunch = load_digits()
    x = torch.tensor(bunch.data, dtype=torch.float32) / 16
    y = torch.tensor(bunch.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    test, train = order[:360], order[360:]
    return x[train], y[train], x[test], y[test]


def train_task(module: Classifier, x: Tensor, y: Tensor, *callbacks: Callback) -> None:
    """Trains one task."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            default_root_dir=folder,
            max_epochs=10,
            accelerator="cpu",
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True))


def accuracy_on_both(beta: float) -> tuple[float, float]:
    """Test accuracy on each half of the digits, after learning both in turn."""
    seed_everything(0, verbose=False)
    x, y, test_x, test_y = digits()
    module = Classifier()
    train_task(module, x[y < 5], y[y < 5])
    # The anchor is the module as this training starts: what it has learnt so far.
    train_task(module, x[y >= 5], y[y >= 5], SFALightning(beta=beta, p=0.25))
    right = module.layers(test_x).argmax(1) == test_y
    return right[test_y < 5].float().mean().item(), right[test_y >= 5].float().mean().item()


def main() -> None:
    """Trains twice, plainly and with SFA, and prints how much is left of each task."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for name, beta in (("plain", 0.0), ("SFA", 0.25)):
        first, second = accuracy_on_both(beta)
        print(f"{name:5}  first task {first:.2f}  second task {second:.2f}  both {(first + second) / 2:.2f}")


if __name__ == "__main__":
    main()
