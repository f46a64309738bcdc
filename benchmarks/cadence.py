"""What averaging more often changes, at the same distance from the anchor: SFA's p against β on two tasks.

    OMP_NUM_THREADS=1 python benchmarks/cadence.py ../shared/data/vision/mnist10k
    OMP_NUM_THREADS=1 python benchmarks/cadence.py benchmarks/evidence/split-cifar.yaml --seeds 3

The data are MNIST as two tasks of five digits, or the model, settings and first two tasks of a recipe.
At one β a smaller p is simply more pull, so values of p are compared where the second task ends equally far from the
first: for every p, β is found by bisection such that ‖θ_T − θ_o‖ is a given share of the distance that plain
fine-tuning moves. For each share and p it prints the β that was needed, the accuracy on the first task (past) and on
the second (new), means over seeds, and their paired differences from p = 1 with 95 % intervals.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stockpot import methods
from stockpot.evaluation.predictions import predict
from stockpot.evaluation.statistics import estimate_mean, paired
from stockpot.methods.base import Task
from stockpot.models.networks import mlp
from stockpot.models.processor import PlainProcessor
from stockpot.models.start import start_model
from stockpot.recipe.read import read_recipe
from stockpot.recipe.resolve import resolve
from stockpot.runs.session import open_stream
from stockpot.seeds import seed_everything
from stockpot.streams.classified import ClassifiedStream
from stockpot.streams.readers import ImageReader
from stockpot.streams.spec import DataSpec, Scenario, TaskSpec
from stockpot.training.job import Job, planned_steps
from stockpot.training.plain import train_plainly
from stockpot.weights.checkpoint import save_checkpoint

CADENCES = (1.0, 0.5, 0.25, 0.1, 0.05)
SHARES = (0.75, 0.5, 0.25)
SETTINGS: dict[str, Any] = {
    "num_train_epochs": 4, "per_device_train_batch_size": 128, "learning_rate": 1e-3, "use_cpu": True,
    "lr_scheduler_type": "constant",
}  # fmt: skip


@dataclass(frozen=True)
class Ending:
    """How the second task ended."""

    beta: float
    distance: float
    past: float
    new: float


@dataclass(frozen=True)
class Case:
    """Two tasks, the model that they start from, its output rows, and how it is trained."""

    name: str
    stream: ClassifiedStream
    start: Callable[[int], nn.Module]  # seed → the model
    rows: int
    settings: dict[str, Any]


class TwoTasks:
    """Two tasks, learnt with one seed: the first once, the second as often as needed."""

    def __init__(self, case: Case, seed: int, folder: Path) -> None:
        self.case, self.stream, self.seed, self.folder = case, case.stream, seed, folder
        seed_everything(seed)
        self.first = self.learn(case.start(seed), 0, {"name": "sequential"})
        save_checkpoint(dict(self.first.state_dict()), folder / "model.safetensors")
        self.anchor = torch.cat([tensor.detach().flatten() for tensor in self.first.parameters()])

    def learn(self, model: nn.Module, index: int, keys: dict[str, Any]) -> nn.Module:
        """The model after the task."""
        method = methods.build(methods.registry()[keys["name"]].config_type(**keys))
        owners = self.stream.rows.owners(self.case.rows)
        task = Task(
            index, f"{index}", self.seed + index, model, checkpoint=lambda source: self.folder,
            rows=self.stream.rows.tasks[: index + 1], owners=owners,
        )  # fmt: skip
        examples = self.stream.train(index)
        data = method.training_data(task, examples)
        job = Job(model, method, data, self.case.settings, seed=self.seed + index, folder=self.folder, owners=owners)
        task.total_steps = planned_steps(job)
        method.task_start(task)
        train_plainly(job)
        method.task_end(task, examples)
        return model

    def second(self, p: float, beta: float) -> Ending:
        """The second task with SFA."""
        keys = {"name": "sfa", "beta": beta, "p": p, "first_task": "average"}
        model = self.learn(copy.deepcopy(self.first), 1, keys)
        theta = torch.cat([tensor.detach().flatten() for tensor in model.parameters()])
        scores = [
            predict(model, self.stream.test(task), self.stream.rows.evaluated(task, 2, self.case.rows), 512).accuracy
            for task in (0, 1)
        ]
        return Ending(beta, float((theta - self.anchor).norm()), *scores)

    def at(self, p: float, distance: float, tries: int) -> Ending:
        """The second task with the β whose distance is nearest to the given one; distances fall as β grows."""
        low, high = 0.0, 1.0
        best = None
        for _ in range(tries):
            ended = self.second(p, (low + high) / 2)
            if best is None or abs(ended.distance - distance) < abs(best.distance - distance):
                best = ended
            low, high = (ended.beta, high) if ended.distance > distance else (low, ended.beta)
        assert best is not None
        return best


def cases(source: str, scenarios: list[Scenario]) -> Iterator[Case]:
    """MNIST in each scenario, or the case of a recipe."""
    if not source.endswith(".yaml"):
        for scenario in scenarios:
            yield Case(scenario, _digits(source, scenario), lambda seed: mlp(10), 10, SETTINGS)
        return
    recipe = read_recipe(Path(source))
    recipe = resolve(recipe, recipe.method, 0)
    assert isinstance(recipe.tasks, list), "a resolved recipe lists its tasks"
    stream = open_stream(recipe.model_copy(update={"tasks": recipe.tasks[:2]}))
    assert isinstance(stream, ClassifiedStream), "a stream of classes"
    rows = stream.rows.count(2)
    name = f"{recipe.scenario}: {' → '.join(task.name for task in stream.tasks)}"
    settings = {**recipe.train, "use_cpu": True}
    yield Case(name, stream, lambda seed: start_model(recipe.model, rows, seed), rows, settings)


def _digits(path: str, scenario: Scenario) -> ClassifiedStream:
    """MNIST as two tasks of five digits."""
    tasks = [
        TaskSpec(name=name, data=DataSpec(classes=list(range(start, start + 5))))
        for name, start in (("low", 0), ("high", 5))
    ]
    return ClassifiedStream.open(scenario, DataSpec(path=path), tasks, [], ImageReader(PlainProcessor()))


def mean_and_interval(values: list[float]) -> str:
    """Mean and half the interval."""
    estimate = estimate_mean([*values])
    assert estimate.mean is not None and estimate.high is not None
    return f"{estimate.mean:.3f} ± {estimate.high - estimate.mean:.3f}"


def gap(values: list[float], reference: list[float]) -> str:
    """The paired difference with its interval, not corrected."""
    estimate = estimate_mean([a - b for a, b in zip(values, reference, strict=True)])
    assert estimate.mean is not None and estimate.low is not None and estimate.high is not None
    p_value = paired([*values], [*reference]).p_value
    p_text = "" if p_value is None else f", p {p_value:.3f}"
    return f"{estimate.mean:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f}{p_text})"


def main() -> None:
    """Prints a table in Markdown for each scenario."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", help="MNIST's data, or a part of them, for datasets.load_dataset; or a recipe.yaml")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tries", type=int, default=8, help="bisections of β")
    parser.add_argument("--scenarios", nargs="*", default=["class-incremental", "domain-incremental"])
    parser.add_argument("--cadences", nargs="*", type=float, default=CADENCES)
    parser.add_argument("--shares", nargs="*", type=float, default=SHARES)
    arguments = parser.parse_args()
    for case in cases(arguments.source, arguments.scenarios):
        print(f"\n## {case.name}\n\n| distance | p | β | reached | past | new | past less p = 1 | new less p = 1 |")
        print("|---|---|---|---|---|---|---|---|")
        with tempfile.TemporaryDirectory() as name:
            pairs = []
            for seed in range(arguments.seeds):
                folder = Path(name) / str(seed)
                folder.mkdir()
                pairs.append(TwoTasks(case, 100 * seed, folder))
            compared(pairs, arguments.cadences, arguments.shares, arguments.tries)


def compared(pairs: list[TwoTasks], cadences: list[float], shares: list[float], tries: int) -> None:
    """Prints a line for each share of plain fine-tuning's distance and each p; the first p is the reference."""
    free = [pair.second(1.0, 0.0) for pair in pairs]
    past, new = mean_and_interval([e.past for e in free]), mean_and_interval([e.new for e in free])
    print(f"| 1 (plain) | | 0 | 1.00 | {past} | {new} | | |")
    for share in shares:
        reference: list[Ending] = []
        for p in cadences:
            ends = [pair.at(p, share * plain_end.distance, tries) for pair, plain_end in zip(pairs, free, strict=True)]
            reference = reference or ends
            beta = sum(end.beta for end in ends) / len(ends)
            reached = sum(end.distance / full.distance for end, full in zip(ends, free, strict=True)) / len(ends)
            gaps = ["", ""]
            if ends is not reference:
                gaps = [
                    gap([e.past for e in ends], [e.past for e in reference]),
                    gap([e.new for e in ends], [e.new for e in reference]),
                ]
            cells = [mean_and_interval([e.past for e in ends]), mean_and_interval([e.new for e in ends]), *gaps]
            print(f"| {share} | {p} | {beta:.3f} | {reached:.3f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
