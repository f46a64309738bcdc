"""What a step of `stockpot run` costs beside a step of the bare Trainer: the same model, data, optimizer and batches.

    OMP_NUM_THREADS=1 python benchmarks/run_step.py

Three loops alternate in one process: Stockpot's (SFA, p = 0.25), the bare Trainer fed as it is usually fed (a data set
that is read sample by sample and collated), and the bare Trainer fed with whole batches of tensors as Stockpot does.
Printed are the ratios of seconds per step, median and quartiles over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from stockpot import methods
from stockpot.methods.base import Task
from stockpot.methods.sfa import Config
from stockpot.models.networks import mlp
from stockpot.streams.examples import TensorExamples, TrainingData
from stockpot.training import hf
from stockpot.training.batches import EpochBatches, loader
from stockpot.training.job import Job, planned_steps
from stockpot.weights.checkpoint import save_checkpoint


class Classifier(nn.Module):
    """A network that computes its own loss, as the bare Trainer wants it."""

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
        self.seconds = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Starts."""
        self.seconds = -time.perf_counter()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Stops."""
        self.seconds += time.perf_counter()


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


def bare(trainer: type[Trainer], network: nn.Module, examples: TensorExamples, steps: int, folder: Path) -> float:
    """Seconds per step of a bare Trainer."""
    watch = Stopwatch()
    arguments = TrainingArguments(
        output_dir=str(folder), save_strategy="no", report_to="none", disable_tqdm=True, **settings(steps)
    )
    run = trainer(Classifier(network), arguments, train_dataset=Samples(examples), callbacks=[watch])
    run.train()
    return watch.seconds / steps


def ours(network: nn.Module, examples: TensorExamples, steps: int, folder: Path) -> float:
    """Seconds per step of what `stockpot run` does with a task: Trainer, hooks, averages with a mapped anchor."""
    save_checkpoint(dict(network.state_dict()), folder / "model.safetensors")
    method = methods.build(Config(name="sfa", beta=0.25, p=0.25, first_task="average"))
    data = TrainingData.of(examples)
    began = [0.0]

    def begin() -> None:
        began[0] = time.perf_counter()

    job = Job(network, method, data, settings(steps), seed=0, folder=folder, on_begin=begin)
    task = Task(0, "task", 0, network, total_steps=planned_steps(job), checkpoint=lambda source: folder)
    method.task_start(task)
    hf.train(job)
    method.task_end(task, examples)
    return (time.perf_counter() - began[0]) / steps


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=300)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    examples = TensorExamples(torch.randn(4096, 1, 28, 28), torch.randint(10, (4096,)))
    ratios: dict[str, list[float]] = {"bare Trainer, sample by sample": [], "bare Trainer, whole batches": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(chosen.rounds + 1):
            seconds = [
                ours(mlp(10), examples, chosen.steps, folder),
                bare(Trainer, mlp(10), examples, chosen.steps, folder),
                bare(BatchFed, mlp(10), examples, chosen.steps, folder),
            ]
            if number:  # the first round warms up
                for key, other in zip(ratios, seconds[1:], strict=True):
                    ratios[key].append(seconds[0] / other)
    for key, values in ratios.items():
        low, median, high = statistics.quantiles(values, n=4)
        print(f"stockpot / {key}: {median:.3f} (quartiles {low:.3f} to {high:.3f}, {len(values)} rounds)")


if __name__ == "__main__":
    main()
