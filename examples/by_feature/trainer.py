"""SFA in Transformers' Trainer: one callback.

Digits 0-4, then digits 5-9, with a small vision transformer made from a configuration; nothing is downloaded.
"""

from __future__ import annotations

import tempfile

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

import stockpot


class Digits(Dataset[dict[str, Tensor]]):
    """8×8 grey images, labels 0-9."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}

    def where(self, mask: Tensor) -> Digits:
        return Digits(self.images[mask], self.labels[mask])


def splits() -> tuple[Digits, Digits]:
    """Training and test data."""
    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(bunch.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return Digits(x[order[360:]], y[order[360:]]), Digits(x[order[:360]], y[order[:360]])


def train_task(model: ViTForImageClassification, data: Digits, rate: float, *callbacks: TrainerCallback) -> None:
    """Trains one task."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=10,
            per_device_train_batch_size=32,
            learning_rate=rate,
            lr_scheduler_type="constant",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        Trainer(model, arguments, train_dataset=data, callbacks=list(callbacks)).train()


def accuracy_on_both(beta: float) -> tuple[float, float]:
    """Test accuracy on each half of the digits, after learning both in turn."""
    set_seed(0)
    train, test = splits()
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        id2label={label: str(label) for label in range(10)},
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    model = ViTForImageClassification(config)
    train_task(model, train.where(train.labels < 5), 1e-3)
    # The anchor is the model as this training starts: what it has learnt so far.
    train_task(model, train.where(train.labels >= 5), 5e-4, stockpot.SFACallback(beta=beta, p=0.1))
    model.train(False)
    with torch.no_grad():
        right = model(test.images).logits.argmax(1) == test.labels
    return right[test.labels < 5].float().mean().item(), right[test.labels >= 5].float().mean().item()


def main() -> None:
    """Trains twice, plainly and with SFA, and prints how much is left of each task."""
    for name, beta in (("plain", 0.0), ("SFA", 0.25)):
        first, second = accuracy_on_both(beta)
        print(f"{name:5}  first task {first:.2f}  second task {second:.2f}  both {(first + second) / 2:.2f}")


if __name__ == "__main__":
    main()
