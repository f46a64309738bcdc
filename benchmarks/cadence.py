"""What does averaging more often do, at the same measured distance from the anchor? SFA's p against β on two tasks.

    OMP_NUM_THREADS=1 python benchmarks/cadence.py ../shared/data/vision/mnist10k

At one β a smaller p is simply more pull, so values of p are compared where the second task ends equally far from the
first: for every p, β is found by bisection such that ‖θ_T − θ_o‖ is a given share of the distance that plain
fine-tuning moves. Printed are, for each share and p, the β that was needed, the accuracy on the first task (past) and
on the second (new), means over seeds, and their paired differences to p = 1 with 95 % intervals.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stockpot import methods
from stockpot.evaluation.accuracy import accuracy
from stockpot.evaluation.statistics import estimate, paired
from stockpot.methods.base import Task
from stockpot.models.networks import mlp
from stockpot.models.processor import PlainProcessor
from stockpot.seeds import seed_everything
from stockpot.streams.spec import DataSpec, Scenario, TaskSpec
from stockpot.streams.stream import Stream
from stockpot.training import plain
from stockpot.training.job import Job, planned_steps
from stockpot.weights.checkpoint import save_checkpoint

CADENCES = (1.0, 0.5, 0.25, 0.1, 0.05)
SHARES = (0.75, 0.5, 0.25)
SETTINGS: dict[str, Any] = {
    "num_train_epochs": 4, "per_device_train_batch_size": 128, "learning_rate": 1e-3, "use_cpu": True,
    "lr_scheduler_type": "constant",
}  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """Where the second task ended."""

    beta: float
    distance: float
    past: float
    new: float


class Pair:
    """Two tasks of five digits, learnt with one seed; the first one once, the second as often as is asked for."""

    def __init__(self, stream: Stream, seed: int, folder: Path) -> None:
        self.stream, self.seed, self.folder = stream, seed, folder
        seed_everything(seed)
        self.first = self.learn(mlp(10), 0, {"name": "sequential"})
        save_checkpoint(dict(self.first.state_dict()), folder / "model.safetensors")
        self.anchor = torch.cat([tensor.detach().flatten() for tensor in self.first.parameters()])

    def learn(self, model: nn.Module, index: int, keys: dict[str, Any]) -> nn.Module:
        """The model after the task."""
        method = methods.build(methods.REGISTRY[keys["name"]].config(**keys))
        owners = self.stream.rows.owners(10)
        task = Task(
            index, f"{index}", self.seed + index, model, checkpoint=lambda source: self.folder,
            rows=self.stream.rows.tasks[: index + 1], owners=owners,
        )  # fmt: skip
        examples = self.stream.train(index)
        data = method.training_data(task, examples)
        job = Job(model, method, data, SETTINGS, seed=self.seed + index, folder=self.folder, owners=owners)
        task.total_steps = planned_steps(job)
        method.task_start(task)
        plain.train(job)
        method.task_end(task, examples)
        return model

    def second(self, p: float, beta: float) -> Ended:
        """The second task with SFA."""
        keys = {"name": "sfa", "beta": beta, "p": p, "first_task": "average"}
        model = self.learn(copy.deepcopy(self.first), 1, keys)
        theta = torch.cat([tensor.detach().flatten() for tensor in model.parameters()])
        scores = [
            accuracy(model, self.stream.test(task), self.stream.rows.evaluated(task, 2, 10), 512) for task in (0, 1)
        ]
        return Ended(beta, float((theta - self.anchor).norm()), *scores)

    def at(self, p: float, distance: float, tries: int) -> Ended:
        """The second task with the β that ends nearest to a distance: it falls as β grows."""
        low, high = 0.0, 1.0
        best = None
        for _ in range(tries):
            ended = self.second(p, (low + high) / 2)
            if best is None or abs(ended.distance - distance) < abs(best.distance - distance):
                best = ended
            low, high = (ended.beta, high) if ended.distance > distance else (low, ended.beta)
        assert best is not None
        return best


def opened(path: str, scenario: Scenario) -> Stream:
    """MNIST as two tasks of five digits."""
    tasks = [
        TaskSpec(name=name, data=DataSpec(classes=list(range(start, start + 5))))
        for name, start in (("low", 0), ("high", 5))
    ]
    return Stream.open(scenario, DataSpec(path=path), tasks, [], PlainProcessor())


def told(values: list[float]) -> str:
    """Mean and half the interval."""
    found = estimate([*values])
    assert found.mean is not None and found.high is not None
    return f"{found.mean:.3f} ± {found.high - found.mean:.3f}"


def gap(values: list[float], reference: list[float]) -> str:
    """The paired difference with its interval, not corrected."""
    found = estimate([a - b for a, b in zip(values, reference, strict=True)])
    assert found.mean is not None and found.low is not None and found.high is not None
    p_value = paired([*values], [*reference]).p_value
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}{'' if p_value is None else f', p {p_value:.3f}'})"


def main() -> None:
    """Prints a table in Markdown for each scenario."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", help="MNIST, or a part of it: a folder or a name that datasets.load_dataset takes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tries", type=int, default=8, help="bisections of β")
    parser.add_argument("--scenarios", nargs="*", default=["class-incremental", "domain-incremental"])
    chosen = parser.parse_args()
    for scenario in chosen.scenarios:
        stream = opened(chosen.data, scenario)
        print(f"\n## {scenario}\n\n| distance | p | β | reached | past | new | past less p = 1 | new less p = 1 |")
        print("|---|---|---|---|---|---|---|---|")
        with tempfile.TemporaryDirectory() as name:
            pairs = []
            for seed in range(chosen.seeds):
                folder = Path(name) / str(seed)
                folder.mkdir()
                pairs.append(Pair(stream, 100 * seed, folder))
            free = [pair.second(1.0, 0.0) for pair in pairs]
            print(f"| 1 (plain) | | 0 | 1.00 | {told([e.past for e in free])} | {told([e.new for e in free])} | | |")
            for share in SHARES:
                reference: list[Ended] = []
                for p in CADENCES:
                    ends = [
                        pair.at(p, share * plain_end.distance, chosen.tries)
                        for pair, plain_end in zip(pairs, free, strict=True)
                    ]
                    reference = reference or ends
                    beta = sum(end.beta for end in ends) / len(ends)
                    reached = sum(end.distance / one.distance for end, one in zip(ends, free, strict=True)) / len(ends)
                    gaps = (
                        ["", ""]
                        if ends is reference
                        else [
                            gap([e.past for e in ends], [e.past for e in reference]),
                            gap([e.new for e in ends], [e.new for e in reference]),
                        ]
                    )
                    cells = [told([e.past for e in ends]), told([e.new for e in ends]), *gaps]
                    print(f"| {share} | {p} | {beta:.3f} | {reached:.3f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
