"""The cost of a step of each method, against a step of plain fine-tuning: the same model, batches and optimizer.

    OMP_NUM_THREADS=1 python benchmarks/method_steps.py

The plain loop learns the second of two tasks with each method in turn, round after round in one process. It prints
the ratios of seconds per step to those of plain fine-tuning, median and quartiles over the rounds: of the wall clock,
and of the processor, which other work on the machine disturbs less. What a method does after a task (a Fisher, a merge)
is not part of a step; its time is printed beside, in steps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stockpot import methods
from stockpot.batches.examples import TensorExamples
from stockpot.methods.base import Method, Task
from stockpot.models.networks import mlp
from stockpot.runs.meter import Clock
from stockpot.training.job import Job, planned_steps
from stockpot.training.plain import train_plainly
from stockpot.weights.checkpoint import save_checkpoint

CONTENDERS: dict[str, dict[str, Any]] = {
    "sequential": {"name": "sequential"},
    "sfa": {"name": "sfa", "beta": 0.25, "p": 0.25},
    "l2": {"name": "l2"},
    "l2, decoupled": {"name": "l2", "form": "decoupled"},
    "l2, in the loss": {"name": "l2", "form": "loss"},
    "ewc": {"name": "ewc"},
    "ewc, online": {"name": "ewc", "mode": "online"},
    "si": {"name": "si"},
    "mas": {"name": "mas"},
    "lwf": {"name": "lwf"},
    "agem": {"name": "agem"},
    "replay, der++": {"name": "replay", "loss": "der++"},
}


class Stream:
    """Two tasks of random images, and what each method keeps of the first."""

    def __init__(self, many: int, batch: int, steps: int, folder: Path) -> None:
        self.tasks = [TensorExamples(torch.randn(many, 1, 28, 28), torch.randint(10, (many,))) for _ in range(2)]
        self.settings = {
            "max_steps": steps, "per_device_train_batch_size": batch, "learning_rate": 1e-3, "use_cpu": True,
            "lr_scheduler_type": "constant",
        }  # fmt: skip
        self.folder = folder
        torch.manual_seed(0)
        self.start = mlp(10)
        save_checkpoint(dict(self.start.state_dict()), folder / "model.safetensors")

    def learn(self, method: Method[Any], index: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """(wall, processor) seconds of a task's steps, and of what follows them."""
        model: nn.Module = mlp(10)
        model.load_state_dict(self.start.state_dict())
        task = Task(
            index, f"task-{index}", index, model,
            past=[lambda past=past: past for past in self.tasks[:index]],  # type: ignore[misc]
            checkpoint=lambda source: self.folder, rows=[range(10)] * (index + 1),
        )  # fmt: skip
        clock = Clock()
        data = method.training_data(task, self.tasks[index])
        job = Job(model, method, data, self.settings, seed=index, folder=self.folder, on_begin=clock.start)
        task.total_steps = planned_steps(job)
        method.task_start(task)
        train_plainly(job)
        steps = clock.read()
        clock = Clock()
        method.task_end(task, self.tasks[index])
        return steps, clock.read()


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--examples", type=int, default=2048, help="of each task")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        stream = Stream(arguments.examples, arguments.batch, arguments.steps, Path(name))
        kept = {}
        for label, keys in CONTENDERS.items():
            method = methods.build(methods.registry()[keys["name"]].config_type(**keys))
            after = stream.learn(method, 0)[1]
            kept[label] = (keys, method.state(), after)
        rounds: list[dict[str, tuple[float, float]]] = []
        for number in range(arguments.rounds + 1):
            turn = number % len(kept)
            seconds = {}
            for label in [*list(kept)[turn:], *list(kept)[:turn]]:
                keys, state, _ = kept[label]
                method = methods.build(methods.registry()[keys["name"]].config_type(**keys))
                method.load_state(*state)
                seconds[label] = stream.learn(method, 1)[0]
            rounds.append(seconds)
    del rounds[0]  # the first round warms up
    step = statistics.median(seconds["sequential"][1] for seconds in rounds) / arguments.steps
    size = f"batches of {arguments.batch}, {arguments.rounds} rounds"
    print(f"{torch.get_num_threads()} threads, MLP 784-400-400-10, {size}")
    for label, (_, _, after) in kept.items():
        shown = []
        for kind in (0, 1):
            ratios = [seconds[label][kind] / seconds["sequential"][kind] for seconds in rounds]
            low, median, high = statistics.quantiles(ratios, n=4)
            shown.append(f"{median:5.2f} ({low:.2f} to {high:.2f})")
        print(f"{label:18} wall {shown[0]}   processor {shown[1]}   after the task {after[1] / step:7.1f} steps")


if __name__ == "__main__":
    main()
