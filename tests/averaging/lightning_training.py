"""A tiny regression in Lightning's Trainer, and callbacks that watch it or stop it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

if importlib.util.find_spec("lightning") is None:
    pytest.skip("Lightning is not installed", allow_module_level=True)

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

BATCHES, ACCUMULATE, EPOCHS = 7, 2, 3  # the last batch of an epoch is a step of its own
TOTAL = -(-BATCHES // ACCUMULATE) * EPOCHS


class Regression(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def loss(self, x: Tensor) -> Tensor:
        return (self.layers(x)[:, 0] - x.sum(1).sin()).pow(2).mean()

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Batches:
    """Batches in a fixed order that continue where they were: Lightning resumes within an epoch only with these."""

    def __init__(self) -> None:
        x = torch.randn(BATCHES * 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        self.batches, self.next = x.split(3), 0

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[Tensor]:
        for index in range(self.next % BATCHES, BATCHES):
            self.next = index + 1
            yield self.batches[index]

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


def weights(module: nn.Module) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in module.parameters()])


def fit(
    folder: Path,
    *callbacks: Callback,
    module: LightningModule | None = None,
    resume: Path | None = None,
    **settings: Any,
) -> Tensor:
    module = module or Regression()
    arguments = {"max_epochs": EPOCHS, "accumulate_grad_batches": ACCUMULATE, "accelerator": "cpu", **settings}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = Trainer(
        default_root_dir=folder, callbacks=list(callbacks), enable_checkpointing=saves, **{**quiet, **arguments}
    )
    trainer.fit(module, Batches(), ckpt_path=resume)
    return weights(module)


class Spy(Callback):
    """Writes down step and weights at the end of each batch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.seen.append((trainer.global_step, weights(pl_module).clone()))


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step
