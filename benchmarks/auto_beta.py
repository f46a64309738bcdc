"""β without a sweep: `beta: auto` against 25 fixed settings of SFA, the penalties and rehearsal, on small streams.

    OMP_NUM_THREADS=1 python benchmarks/auto_beta.py run benchmarks/evidence/auto/split-class.yaml -o runs/auto
    OMP_NUM_THREADS=1 python benchmarks/auto_beta.py test benchmarks/evidence/auto/split-class.yaml -o runs/auto
    python benchmarks/auto_beta_tables.py runs/auto --page benchmarks/evidence/auto.md

`run` is `stockpot compare` with every setting below as a method of its own, on the tuning split: all train on four
fifths of the training examples, and are scored on the last fifth. `test` scores the final models on the test part. So a
setting can be picked on validation data, for each order of the tasks and seed, and reported on test data. Finished runs
are not repeated. `--control` runs one of the variants of the rule that explain it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from stockpot.averaging import auto_beta
from stockpot.averaging.auto_beta import AutoBeta
from stockpot.averaging.match import TensorPair
from stockpot.averaging.model_tensors import ModelTensor
from stockpot.averaging.shares import KeptShares
from stockpot.averaging.squared_gradients import ObservedSquares
from stockpot.comparisons.cells import plan, recipe_of
from stockpot.comparisons.running import CellRunner
from stockpot.importance import fisher
from stockpot.methods.sfa import SequentialFineTuningWithAveraging
from stockpot.recipe.read import read_recipe
from stockpot.recipe.resolve import resolve
from stockpot.runs.evaluating import evaluate_task
from stockpot.runs.folder import RunFolder
from stockpot.runs.progress import terminal_progress
from stockpot.runs.session import Session, open_stream
from stockpot.training.job import Stop

SEEDS, ORDERS = [0, 1, 2, 3, 4], 3
BETAS, PS = (0.1, 0.25, 0.5, 0.75, 0.9), (0.05, 0.1, 0.25, 0.5, 1.0)
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)
DECADES = {"ewc": range(-1, 8), "si": range(-2, 6), "mas": range(-2, 4)}
FRACTIONS = {"replay-1%": 0.01, "replay-5%": 0.05, "replay-10%": 0.1}
SWEEP = {f"sfa-b{beta:g}-p{p:g}": {"name": "sfa", "beta": beta, "p": p} for beta in BETAS for p in PS}
AUTO = {
    f"auto-s{strength:g}-p{p:g}": {"name": "sfa", "beta": "auto", "strength": strength, "p": p}
    for p in (0.5, 1.0)
    for strength in STRENGTHS
}
RIVALS: dict[str, dict[str, Any]] = {
    "sequential": {"name": "sequential"},
    "joint": {"name": "joint"},
    **{
        f"{name}-1e{power}": {"name": name, "strength": 10.0**power}
        for name, powers in DECADES.items()
        for power in powers
    },
    **{label: {"name": "replay", "fraction": fraction} for label, fraction in FRACTIONS.items()},
}
METHODS = {**AUTO, **RIVALS, **SWEEP}


def recipe_for(stream: Path, out: Path, labels: list[str], first_task: str | None) -> Path:
    """The stream's recipe with these settings as its methods, in a file beside the runs."""
    recipe = yaml.safe_load(stream.read_text(encoding="utf-8"))
    methods = []
    for label in labels:
        keys = METHODS.get(label) or AUTO["auto-s1-p0.5"]
        more = {"first_task": first_task} if first_task and keys["name"] == "sfa" else {}
        methods.append({"label": label, **keys, **more})
    recipe |= {
        "compare": methods,
        "seeds": recipe.get("seeds", SEEDS),
        "orders": recipe.get("orders", ORDERS),
        "evaluation": {"on": "tuning"},
        "keep": "needed",
    }
    file = out / f"{stream.stem}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return file


def run_cells(file: Path, out: Path) -> None:
    """Runs what `stockpot compare` would; the report of so many methods would take longer than some streams."""
    recipe = read_recipe(file, [])
    cells = plan(recipe)
    with closing(terminal_progress(len(cells))) as progress:
        CellRunner(recipe, out, Stop(), progress).run(cells)


def with_scalar_shares() -> None:
    """The rule with v averaged to one number a tensor, and Ω with it."""
    weighed = AutoBeta.weighed

    def averaged(share: KeptShares) -> KeptShares:
        past = share.importance.mean().expand_as(share.importance) if isinstance(share.importance, Tensor) else None
        squares = share.squares.mean().expand_as(share.squares)
        return KeptShares(
            squares, share.n, share.importance if past is None else past, share.damping, share.strength, share.tasks
        )

    def weigh(self: AutoBeta, pairs: Any, weights: Any) -> list[TensorPair]:
        weighed_pairs = weighed(self, pairs, weights)
        return [pair if pair.shares is None else replace(pair, shares=averaged(pair.shares)) for pair in weighed_pairs]

    AutoBeta.weighed = weigh  # type: ignore[method-assign]


class EndSquares:
    """The exact Fisher information of the model as it is now, in the place of the squares along the path."""

    def __init__(self) -> None:
        self.measure: Callable[[], dict[str, Tensor]] = dict

    def observe(self, weights: Any) -> None:
        """Nothing."""

    def sums(self, weights: list[ModelTensor]) -> dict[str, tuple[Tensor, float]]:
        """F by name."""
        measured = self.measure()
        return {weight.name: (measured[weight.name], 1.0) for weight in weights}


def with_end_fisher() -> None:
    """The rule with the Fisher information at the average in the place of v."""
    method = SequentialFineTuningWithAveraging
    data, start = method.training_data, method.task_start
    examples_of: dict[str, Any] = {}

    def training_data(self: Any, task: Any, examples: Any) -> Any:
        examples_of["now"] = examples
        return data(self, task, examples)

    def task_start(self: Any, task: Any) -> None:
        start(self, task)
        squares = EndSquares()
        squares.measure = lambda: fisher(task.model, examples_of["now"], "exact", logits=task.logits)
        self._sfa._auto.squares = squares

    method.training_data = training_data  # type: ignore[method-assign]
    method.task_start = task_start  # type: ignore[method-assign]


class LateSquares(ObservedSquares):
    """Squares without those of a task's first steps, where its change makes gradients large."""

    skipped = 10

    def __init__(self) -> None:
        super().__init__()
        self._waiting = self.skipped

    def observe(self, weights: Any) -> None:
        """Observes after the first steps."""
        if self._waiting:
            self._waiting -= 1
        else:
            super().observe(weights)


class RecentSquares(ObservedSquares):
    """A running mean with a memory of about 20 steps, its bias corrected."""

    decay = 0.95

    def observe(self, weights: Any) -> None:
        """Forgets a little, then observes."""
        for total in self._sums.values():
            total.mul_(self.decay)
        super().observe(weights)

    def sums(self, weights: Any) -> dict[str, tuple[Tensor, float]]:
        """The weighted sums, and the sum of the weights."""
        weight = (1 - self.decay**self.steps) / (1 - self.decay)
        return {name: (total, weight) for name, (total, _) in super().sums(weights).items()}


class MedianSquares(ObservedSquares):
    """The median over blocks of five steps of each block's mean, in place of the mean over all steps."""

    block = 5

    def __init__(self) -> None:
        super().__init__()
        self._blocks: list[dict[str, Tensor]] = []

    def observe(self, weights: Any) -> None:
        """Observes, and closes a block."""
        super().observe(weights)
        if self.steps == self.block:
            self._blocks.append({name: total / self.block for name, total in self._sums.items()})
            self._sums, self.steps = {}, 0

    def sums(self, weights: Any) -> dict[str, tuple[Tensor, float]]:
        """The medians."""
        return {name: (torch.stack([b[name] for b in self._blocks]).median(0).values, 1.0) for name in self._blocks[0]}


def with_squares(kind: type[ObservedSquares]) -> Callable[[], None]:
    """The rule with another mean of the squares."""

    def plant() -> None:
        auto_beta.ObservedSquares = kind  # type: ignore[attr-defined]

    return plant


def with_unclipped_gradients() -> None:
    """The rule with gradients as they are before clipping."""
    method = SequentialFineTuningWithAveraging

    def gradients(self: Any, model: nn.Module, step: int) -> None:
        if self._sfa is not None and self.config.automatic:
            self._sfa.observe()

    method.gradients = gradients  # type: ignore[method-assign]


CONTROLS = {
    "auto-scalar": with_scalar_shares,
    "auto-end": with_end_fisher,
    "auto-late": with_squares(LateSquares),
    "auto-recent": with_squares(RecentSquares),
    "auto-median": with_squares(MedianSquares),
    "auto-unclipped": with_unclipped_gradients,
}


def scored(
    stream: Path, out: Path, labels: list[str], first_task: str | None
) -> Iterator[tuple[str, str, list[float]]]:
    """Label, order/seed, and the test scores of the final model on each task in the order learnt."""
    recipe = read_recipe(recipe_for(stream, out, labels, first_task), [])
    on_test = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"on": "test"})})
    streams: dict[int, Any] = {}
    for cell in sorted(plan(recipe), key=lambda cell: cell.order):
        folder = out / stream.stem / cell.path
        run = RunFolder.open(folder)
        if not run.is_finished:
            continue
        resolved = resolve(recipe_of(on_test, cell), cell.method, cell.seed)
        if cell.order not in streams:
            streams = {cell.order: open_stream(resolved, run.model(-1))}
        session = Session(run, resolved, streams[cell.order], torch.device("cpu"), allow_code=True)
        last = len(session.stream.tasks)
        model: nn.Module = session.load(last - 1)
        primary = resolved.primary_score.title
        scores = [evaluate_task(session, model, index, last).scores[primary] for index in range(last)]
        yield cell.method.title, f"{cell.order}/{cell.seed}", [float(score) for score in scores if score is not None]


def main() -> None:
    """Runs the comparison, or scores its models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("run", "test"))
    parser.add_argument("stream", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/auto"))
    parser.add_argument("--control", choices=sorted(CONTROLS))
    parser.add_argument("--only", nargs="*", help="labels of the settings to run")
    parser.add_argument("--first-task", choices=("average", "skip"), help="of SFA, where the start model is pretrained")
    parser.add_argument(
        "--flush-denormal",
        action="store_true",
        help="AdamW on denormal second moments is several times slower on a CPU",
    )
    arguments = parser.parse_args()
    torch.set_flush_denormal(arguments.flush_denormal)
    chosen = arguments.only or ([arguments.control] if arguments.control else [*METHODS])
    labels = list(dict.fromkeys(["sequential", "joint", *chosen]))
    if arguments.what == "run":
        if arguments.control:
            CONTROLS[arguments.control]()
        file = recipe_for(arguments.stream, arguments.output, labels, arguments.first_task)
        run_cells(file, arguments.output / arguments.stream.stem)
        return
    result: dict[str, dict[str, list[float]]] = {}
    labels = [*METHODS, *CONTROLS] if not arguments.only else labels
    present = [label for label in labels if (arguments.output / arguments.stream.stem / "cells" / label).is_dir()]
    for label, place, scores in scored(arguments.stream, arguments.output, present, arguments.first_task):
        result.setdefault(label, {})[place] = scores
    file = arguments.output / f"{arguments.stream.stem}.test.json"
    file.write_text(json.dumps(result), encoding="utf-8")
    print(f"{sum(map(len, result.values()))} final models: {file}")


if __name__ == "__main__":
    main()
