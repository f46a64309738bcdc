"""β where a method chose one for each weight, as numbers: by layer, by task, and in one line for a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import fsum

from stockpot.evaluation.statistics import estimate_mean
from stockpot.merging.plan.layer_stacks import layer_of
from stockpot.report.formatting import MISSING, percent, with_interval
from stockpot.report.tables import Grid
from stockpot.results import Results, TaskBetas, TensorBetas

TENTHS = 10  # of [0, 1], in which weights are counted
WHAT_BETA_IS = (
    "β is the weight of the anchor in the average: where it is 1 a weight gets the anchor's value back, where it is 0 "
    "it stays as it was trained. beta: auto chose a β for each weight."
)
HOW_TO_READ = (
    "Mean β: over the weights, at a task's last average. Distance kept: how far from the anchor that average left "
    "them, of how far they were before it."
)


def layer_name(tensor: str) -> str:
    """The layer of a tensor: its name up to the first number, or else up to its last part.

    `model.layers.7.mlp.up_proj.weight` is in `model.layers.7`, and `lm_head.weight` in `lm_head`.
    """
    numbered = layer_of(tensor)
    if numbered:
        stack, number, _ = numbered
        return f"{stack}{number}"
    return tensor.rpartition(".")[0] or tensor


def by_layer(tensors: Iterable[TensorBetas]) -> dict[str, list[TensorBetas]]:
    """Layer → its tensors, both in the order given."""
    layers: dict[str, list[TensorBetas]] = {}
    for tensor in tensors:
        layers.setdefault(layer_name(tensor.tensor), []).append(tensor)
    return layers


def mean_beta(tensors: Sequence[TensorBetas]) -> float:
    """Mean β over the weights of the tensors: large tensors count for more."""
    return fsum(each.mean * each.weights for each in tensors) / (sum(each.weights for each in tensors) or 1)


def share_by_tenth(tensors: Sequence[TensorBetas]) -> list[float]:
    """The share of the tensors' weights with β in each tenth of [0, 1]; they add up to 1."""
    counts = _tenths(tensors)
    return [count / (sum(counts) or 1) for count in counts]


def _tenths(tensors: Sequence[TensorBetas]) -> list[int]:
    return [sum(tenth) for tenth in zip(*(each.counts for each in tensors), strict=True)]


def pooled(runs: Sequence[TaskBetas]) -> TaskBetas:
    """β of one task in several runs of a method, as if they were one run: its means are those over the runs."""
    same: dict[str, list[TensorBetas]] = {}
    for tensor in (tensor for run in runs for tensor in run.tensors):
        same.setdefault(tensor.tensor, []).append(tensor)
    kept = [run.kept for run in runs if run.kept is not None]
    return TaskBetas(
        kept=fsum(kept) / len(kept) if kept else None,
        tensors=[
            TensorBetas(
                tensor=name,
                weights=sum(each.weights for each in tensors),
                mean=mean_beta(tensors),
                counts=_tenths(tensors),
            )
            for name, tensors in same.items()
        ],
    )


def of_task(runs: Sequence[Results], task: int) -> list[TaskBetas]:
    """β of one task in the runs that averaged it."""
    return [chosen for run in runs if task < len(run.betas) and (chosen := run.betas[task]) is not None]


def beta_note(tasks: Sequence[str], betas: Sequence[TaskBetas | None]) -> str | None:
    """One line on β over a run; None for a run that chose none."""
    chosen = [(name, each) for name, each in zip(tasks, betas, strict=False) if each is not None]
    if not chosen:
        return None
    ends = [chosen[0], chosen[-1]][: len(chosen)]
    text = "beta: auto gave mean β " + " and ".join(
        f"{mean_beta(each.tensors):.2f} at task {name!r}" for name, each in ends
    )
    kept = [percent(each.kept) for _, each in ends if each.kept is not None]
    return f"{text}, and kept {' and '.join(kept)} of the distance from the anchor" if len(kept) == len(ends) else text


def run_grid(run: Results) -> Grid | None:
    """Mean β and the distance kept, a row for each task; None for a run that chose no β."""
    return comparison_grid({"": [run]}, run.tasks)


def comparison_grid(methods: Mapping[str, Sequence[Results]], tasks: Sequence[str], over: str = "") -> Grid | None:
    """The same of the methods that chose β, two columns for each; None if there are none.

    Args:
        methods: Label → its runs.
        tasks: The tasks, in the order of the runs.
        over: What the numbers are means over, for the caption.
    """
    methods = {label: runs for label, runs in methods.items() if any(any(run.betas) for run in runs)}
    if not methods:
        return None
    headings = [f"{label} {heading}".strip() for label in methods for heading in ("mean β", "distance kept")]
    rows = [(name, [cell for runs in methods.values() for cell in _cells(runs, k)]) for k, name in enumerate(tasks)]
    missing = f"{MISSING}: not averaged" if any(MISSING in values for _, values in rows) else ""
    return Grid("; ".join(filter(None, ["β of each task", over, missing])), headings, rows, "task")


def _cells(runs: Sequence[Results], task: int) -> tuple[str, str]:
    chosen = of_task(runs, task)

    def written(values: list[float | None], write: Callable[[float], str]) -> str:
        return with_interval(estimate_mean(values), lambda value: MISSING if value is None else write(value))

    return (
        written([mean_beta(betas.tensors) for betas in chosen], lambda value: f"{value:.2f}"),
        written([betas.kept for betas in chosen], percent),
    )
