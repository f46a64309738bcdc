"""Split MNIST in the three scenarios, every method: five tasks of two digits, the field's MLP of two layers of 400.

    OMP_NUM_THREADS=1 python benchmarks/split_mnist.py ../shared/data/vision/mnist10k

First every method with a strength is tried at four values of it, on a seed of its own, and the best average accuracy
chooses: the same budget for all, on a stream that is not reported. Then all methods run with three other seeds, plain
fine-tuning and joint training beside them. Everything is done by `stockpot compare`, two scenarios at a time; what is
finished is not run again. `--page FILE` writes the tables, and what the papers lead one to expect, as Markdown.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stockpot.evaluation.statistics import correct, paired
from stockpot.results import Comparison, MethodSummary, read_comparison

SCENARIOS = ("class-incremental", "domain-incremental", "task-incremental")
TUNING_SEED = 100


@dataclass(frozen=True)
class Contender:
    """A method, and the values of the one key that is tuned; none where it has no strength."""

    keys: dict[str, Any]
    tuned: str = ""
    values: tuple[float, ...] = ()

    def at(self, label: str, value: float | None = None) -> dict[str, Any]:
        """The entry of a recipe's `compare`."""
        return {"label": label, **self.keys, **({} if value is None else {self.tuned: value})}


CONTENDERS = {
    "sfa": Contender({"name": "sfa", "p": 0.25}, "beta", (0.1, 0.25, 0.5, 0.7)),
    "wise_ft": Contender({"name": "wise_ft"}, "alpha", (0.2, 0.35, 0.5, 0.7)),
    "l2": Contender({"name": "l2"}, "strength", (1e-3, 1e-2, 1e-1, 1.0)),
    "ewc": Contender({"name": "ewc"}, "strength", (100.0, 1e3, 1e4, 1e5)),
    "ewc-online": Contender({"name": "ewc", "mode": "online"}, "strength", (100.0, 1e3, 1e4, 1e5)),
    "si": Contender({"name": "si"}, "strength", (1.0, 10.0, 100.0, 1e3)),
    "mas": Contender({"name": "mas"}, "strength", (0.01, 0.1, 1.0, 10.0)),
    "lwf": Contender({"name": "lwf"}, "strength", (0.3, 1.0, 3.0, 10.0)),
    "replay-1%": Contender({"name": "replay", "fraction": 0.01}),
    "replay-10%": Contender({"name": "replay", "fraction": 0.1}),
    "replay-200-balanced": Contender({"name": "replay", "budget": "total", "count": 200, "select": "balanced"}),
    "replay-200-herding": Contender({"name": "replay", "budget": "total", "count": 200, "select": "herding"}),
    "der++-10%": Contender({"name": "replay", "loss": "der++", "fraction": 0.1}, "logits_weight", (0.1, 0.3, 1.0, 3.0)),
    "agem-10%": Contender({"name": "agem", "fraction": 0.1}),
    "task_arithmetic": Contender({"name": "task_arithmetic"}, "scale", (0.1, 0.2, 0.4, 0.7)),
    "ties": Contender({"name": "ties"}, "scale", (0.25, 0.5, 1.0, 1.5)),
    "dare": Contender({"name": "dare"}, "scale", (0.1, 0.2, 0.4, 0.7)),
    "soup": Contender({"name": "soup"}),
    "magmax": Contender({"name": "magmax"}, "scale", (0.2, 0.35, 0.6, 1.0)),
    "fisher_average": Contender({"name": "fisher_average"}),
}

Claim = Callable[[dict[str, MethodSummary]], str]


def accuracy(of: MethodSummary) -> float:
    """The mean average accuracy."""
    assert of.average_accuracy.mean is not None
    return of.average_accuracy.mean


def better(label: str, metric: str = "average_accuracy") -> Claim:
    """Whether a method is better than plain fine-tuning: the corrected verdict, and at how many seeds it is so."""

    def told(methods: dict[str, MethodSummary]) -> str:
        shown = methods[label].versus_sequential[metric].verdict
        return _told_of(shown, methods[label], methods["sequential"], metric)

    return told


def above(one: str, other: str) -> Claim:
    """Whether one method is more accurate than another: a paired t test of this one question, and the seeds."""

    def told(methods: dict[str, MethodSummary]) -> str:
        values = [methods[label].average_accuracy.values for label in (one, other)]
        shown = correct({"it": paired(*values)}, lower_is_better=False)["it"].verdict
        return _told_of(shown, methods[one], methods[other], "average_accuracy")

    return told


def _told_of(shown: str, one: MethodSummary, other: MethodSummary, metric: str) -> str:
    sign = -1 if metric == "forgetting" else 1
    pairs = zip(getattr(one, metric).values, getattr(other, metric).values, strict=True)
    gains = [sign * (a - b) for a, b in pairs]
    counted = f"at {sum(gain > 0 for gain in gains)} of {len(gains)} seeds"
    words = {"better": f"shown, {counted}", "worse": f"**the opposite is shown**, {counted}"}
    return f"{words.get(shown, f'not shown; {counted}')}, by {sum(gains) / len(gains):+.3f}"


# What the methods' papers, and the field's comparisons of them, lead one to expect here.
CLAIMS: list[tuple[str, str, Claim]] = [
    *(
        ("task-incremental", f"{label} forgets less than plain fine-tuning", better(label, "forgetting"))
        for label in ("sfa", "wise_ft", "l2", "ewc", "ewc-online", "si", "mas", "lwf", "replay-1%", "agem-10%")
    ),
    *(
        ("class-incremental", f"{label} is ahead of plain fine-tuning", better(label))
        for label in ("sfa", "wise_ft", "lwf", "replay-1%", "replay-10%", "der++-10%", "agem-10%")
    ),
    *(
        ("class-incremental", f"1 % rehearsal is ahead of {label}, which keeps no data", above("replay-1%", label))
        for label in ("l2", "ewc", "si", "mas", "lwf")
    ),
    ("class-incremental", "more rehearsal keeps more", above("replay-10%", "replay-1%")),
    ("class-incremental", "DER++ is ahead of rehearsal with as large a buffer", above("der++-10%", "replay-10%")),
    ("class-incremental", "rehearsal is ahead of A-GEM with as large a buffer", above("replay-10%", "agem-10%")),
    ("class-incremental", "SFA is ahead of WiSE-FT", above("sfa", "wise_ft")),
    *(
        ("domain-incremental", f"{label} is ahead of plain fine-tuning", better(label))
        for label in ("sfa", "wise_ft", "l2", "ewc", "si", "mas", "lwf", "replay-1%", "agem-10%")
    ),
    *(
        (scenario, f"{label} keeps more than plain fine-tuning", better(label, "forgetting"))
        for scenario in ("task-incremental", "domain-incremental")
        for label in ("task_arithmetic", "ties", "dare", "soup", "magmax", "fisher_average")
    ),
    *(
        (scenario, "joint training is the ceiling", above("joint", best))
        for scenario in SCENARIOS
        for best in ("replay-10%",)
    ),
]


def recipe(data: str, scenario: str, compare: list[dict[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """The recipe of one comparison."""
    return {
        "name": f"split-mnist-{scenario}",
        "model": {"build": "stockpot.models.networks:mlp", "args": {"inputs": 784, "hidden": [400, 400]}},
        "scenario": scenario,
        "data": {"path": data},
        "tasks": {"split": 2},
        "method": {"name": "sequential"},
        "compare": compare,
        "train": {
            "num_train_epochs": 4, "per_device_train_batch_size": 128, "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
        },
        "keep": "needed",
        "loop": "plain",
        "seeds": list(seeds),
    }  # fmt: skip


def compared(values: dict[str, Any], folder: Path) -> Comparison:
    """Runs `stockpot compare`, or goes on with it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "stockpot", "compare", str(file), "-o", str(folder)]
    with folder.with_suffix(".log").open("w", encoding="utf-8") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    return read_comparison(folder / "comparison.json")


def run(scenario: str, data: str, out: Path, seeds: int) -> tuple[Comparison, dict[str, float]]:
    """Tunes, then compares; returns the comparison and the strengths that were chosen."""
    tried = [one.at(f"{label}={value:g}", value) for label, one in CONTENDERS.items() for value in one.values]
    tuned = compared(recipe(data, scenario, tried, [TUNING_SEED]), out / f"{scenario}-tuning").methods
    chosen = {
        label: max(one.values, key=lambda value: accuracy(tuned[f"{label}={value:g}"]))
        for label, one in CONTENDERS.items()
        if one.values
    }
    final = [one.at(label, chosen.get(label)) for label, one in CONTENDERS.items()]
    return compared(recipe(data, scenario, final, range(seeds)), out / scenario), chosen


def page(found: dict[str, tuple[Comparison, dict[str, float]]], command: str) -> str:
    """The tables and the claims, as Markdown."""
    lines = ["# Split MNIST, all methods", "", f"Made by `{command}`: {__doc__.splitlines()[0] if __doc__ else ''}", ""]
    for scenario, (comparison, chosen) in found.items():
        lines += [
            f"## {scenario}", "",
            f"{len(comparison.seeds)} seeds, mean ± half the 95 % interval; strengths chosen on seed {TUNING_SEED}.",
            "",
            "| method | strength | average accuracy | forgetting | newest task | against plain fine-tuning |",
            "|---|---|---|---|---|---|",
        ]  # fmt: skip
        for label, one in sorted(comparison.methods.items(), key=lambda item: -accuracy(item[1])):
            verdict = one.versus_sequential["average_accuracy"].verdict if one.versus_sequential else ""
            strength = f"{CONTENDERS[label].tuned} {chosen[label]:g}" if label in chosen else ""
            cells = (_told(one.average_accuracy), _told(one.forgetting), _told(one.newest_accuracy), verdict)
            lines.append(f"| {label} | {strength} | {' | '.join(cells)} |")
        lines.append("")
    lines += [
        "## What the papers lead one to expect", "",
        "Shown: the interval excludes zero; of questions about plain fine-tuning, after Holm's correction over all",
        "methods of the table, which three seeds rarely survive. So the seeds at which it is so, and by how much, stand",
        "beside.",
        "", "| scenario | claim | here |", "|---|---|---|",
    ]  # fmt: skip
    for scenario, claim, told in CLAIMS:
        if scenario in found:
            lines.append(f"| {scenario} | {claim} | {told(dict(found[scenario][0].methods))} |")
    return "\n".join(lines) + "\n"


def _told(estimate: Any) -> str:
    if estimate.mean is None:
        return "—"
    return f"{estimate.mean:.3f}" + (f" ± {estimate.high - estimate.mean:.3f}" if estimate.high is not None else "")


def main() -> None:
    """Runs the scenarios, two at a time, and prints the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", help="MNIST, or a part of it: a folder or a name that datasets.load_dataset takes")
    parser.add_argument("--out", type=Path, default=Path("runs/split-mnist"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="scenarios at a time")
    parser.add_argument("--scenarios", nargs="*", default=list(SCENARIOS), choices=SCENARIOS)
    parser.add_argument("--page", type=Path, help="write the page there, too")
    chosen = parser.parse_args()
    with ThreadPoolExecutor(chosen.jobs) as pool:
        runs = pool.map(lambda scenario: run(scenario, chosen.data, chosen.out, chosen.seeds), chosen.scenarios)
        found = dict(zip(chosen.scenarios, runs, strict=True))
    text = page(found, f"python benchmarks/split_mnist.py {chosen.data} --seeds {chosen.seeds}")
    print(text)
    if chosen.page:
        chosen.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
