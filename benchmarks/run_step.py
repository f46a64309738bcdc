"""A step of `stockpot run` against a step of the bare Trainer: the same model, data, optimizer and batches.

    OMP_NUM_THREADS=1 python benchmarks/run_step.py

Three loops alternate in one process: Stockpot's (SFA, p = 0.25), the bare Trainer fed as it is usually fed (a data set
that is read sample by sample and collated), and the bare Trainer fed with whole batches of tensors as Stockpot does.
It prints the ratios of seconds per step, median and quartiles over the rounds: of the wall clock, and of the
processor, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from stockpot import methods
from stockpot.batches.examples import TensorExamples, TrainingData
from stockpot.methods.base import Task
from stockpot.methods.sfa import SFAConfig
from stockpot.models.networks import mlp
from stockpot.runs.meter import Clock
from stockpot.training.batches import EpochBatches, loader
from stockpot.training.job import Job, planned_steps
from stockpot.training.trainer import train_with_trainer
from stockpot.weights.checkpoint import save_checkpoint

Seconds = tuple[float, float]


class Classifier(nn.Module):
    """A network that computes its own loss, as the bare Trainer expects."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The mean cross-entropy of a batch."""
        return {"loss": nn.functional.cross_entropy(self.network(pixel_values), labels)}


class Samples(Dataset[dict[str, Tensor]]):
    """The usual data set: one example at a time."""

    def __init__(self, examples: TensorExamples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.examples.pixel_values[index], "labels": self.examples.labels[index]}


class Stopwatch(TrainerCallback):
    """Seconds between the first step and the last."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.seconds = (0.0, 0.0)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self.clock.start()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Stops the clock."""
        self.seconds = self.clock.read()


class BatchFed(Trainer):
    """The bare Trainer on Stockpot's loader."""

    def get_train_dataloader(self) -> Any:
        """Whole batches of tensors."""
        samples: Any = self.train_dataset
        return self.accelerator.prepare(loader(EpochBatches(TrainingData.of(samples.examples), 32, 0)))


def settings(steps: int) -> dict[str, Any]:
    """The same for all loops."""
    return {
        "max_steps": steps,
        "per_device_train_batch_size": 32,
        "learning_rate": 1e-3,
        "use_cpu": not torch.cuda.is_available(),
    }


def bare(trainer: type[Trainer], network: nn.Module, examples: TensorExamples, steps: int, folder: Path) -> Seconds:
    """(wall, processor) seconds of a bare Trainer."""
    watch = Stopwatch()
    training_arguments = TrainingArguments(
        output_dir=str(folder), save_strategy="no", report_to="none", disable_tqdm=True, **settings(steps)
    )
    run = trainer(Classifier(network), training_arguments, train_dataset=Samples(examples), callbacks=[watch])
    run.train()
    return watch.seconds


def ours(network: nn.Module, examples: TensorExamples, steps: int, folder: Path) -> Seconds:
    """(wall, processor) seconds of a task as `stockpot run` trains it: hooks, averages, a memory-mapped anchor."""
    save_checkpoint(dict(network.state_dict()), folder / "model.safetensors")
    method = methods.build(SFAConfig(name="sfa", beta=0.25, p=0.25, first_task="average"))
    data = TrainingData.of(examples)
    clock = Clock()
    job = Job(network, method, data, settings(steps), seed=0, folder=folder, on_begin=clock.start)
    task = Task(0, "task", 0, network, total_steps=planned_steps(job), checkpoint=lambda source: folder)
    method.task_start(task)
    train_with_trainer(job)
    method.task_end(task, examples)
    return clock.read()


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    examples = TensorExamples(torch.randn(4096, 1, 28, 28), torch.randint(10, (4096,)))
    with tempfile.TemporaryDirectory() as name:
        loops: dict[str, Callable[[], Seconds]] = {
            "stockpot": lambda: ours(mlp(10), examples, arguments.steps, Path(name)),
            "bare Trainer, sample by sample": lambda: bare(Trainer, mlp(10), examples, arguments.steps, Path(name)),
            "bare Trainer, whole batches": lambda: bare(BatchFed, mlp(10), examples, arguments.steps, Path(name)),
        }
        rounds: list[dict[str, Seconds]] = []
        for number in range(arguments.rounds + 1):
            order = list(loops)[number % 3 :] + list(loops)[: number % 3]
            rounds.append({key: loops[key]() for key in order})
    del rounds[0]  # the first round warms up
    for peer in list(loops)[1:]:
        for kind, label in enumerate(("wall clock", "processor")):
            ratios = [seconds["stockpot"][kind] / seconds[peer][kind] for seconds in rounds]
            low, median, high = statistics.quantiles(ratios, n=4)
            print(f"stockpot / {peer}, {label}: {median:.3f} (quartiles {low:.3f} to {high:.3f}, {len(ratios)} rounds)")


if __name__ == "__main__":
    main()
