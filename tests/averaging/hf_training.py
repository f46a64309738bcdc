"""A Trainer of a tiny regression, and callbacks that watch it or stop it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

ROWS, BATCH, ACCUMULATE, EPOCHS = 48, 4, 2, 2
TOTAL = ROWS // (BATCH * ACCUMULATE) * EPOCHS


class Regression(nn.Module):
    """Returns the loss as Transformers' models do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.layers(x)[:, 0] - labels).pow(2).mean()}


def rows() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 4, generator=generator)
    return [{"x": row, "labels": row.sum().sin()} for row in x]


def trainer(folder: Path, *callbacks: TrainerCallback, model: Any = None, data: Any = None, **settings: Any) -> Trainer:
    """A Trainer of the regression, or of another model on its rows."""
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": ACCUMULATE,
        "num_train_epochs": EPOCHS,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "save_strategy": "steps",
        "save_steps": 5,
        "disable_tqdm": True,
        "use_cpu": True,
        "report_to": "none",
        "logging_strategy": "no",
        **settings,
    }
    data = rows() if data is None else data
    return Trainer(
        Regression() if model is None else model,
        TrainingArguments(**arguments),
        train_dataset=data,
        eval_dataset=data,
        callbacks=list(callbacks),
    )


def weights(model: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in model.parameters()])


def train(folder: Path, *callbacks: TrainerCallback, **settings: Any) -> Tensor:
    training = trainer(folder, *callbacks, **settings)
    training.train()
    return weights(training.model)


class Spy(TrainerCallback):
    """Records the weights after each update, before or after SFA's turn, and the norm of its gradient."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.norms: list[float] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.seen.append(weights(model).clone())
        gradients = [tensor.grad.flatten() for tensor in model.parameters() if tensor.grad is not None]
        self.norms.append(torch.cat(gradients).norm().item() if gradients else 0.0)


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step
