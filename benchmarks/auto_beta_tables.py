"""Tables and fronts of `benchmarks/auto_beta.py`: what `beta: auto` gains, and what the newest task pays for it.

    python benchmarks/auto_beta_tables.py runs/auto --json benchmarks/evidence/auto.json
    python benchmarks/auto_beta_tables.py benchmarks/evidence/auto.json --figure benchmarks/evidence/auto-fronts.svg

Reads the folder of the runs, or the JSON that it wrote. Scores are those of the final model on test data. Settings that
are "picked" are picked for each order and seed on validation data: of all tasks (an oracle, which nobody has who keeps
no data), or of the newest task alone. Differences are paired, intervals are over orders of the tasks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean

from auto_beta import AUTO, DECADES, SWEEP

from stockpot.evaluation.statistics import RunKey, correct, estimate_runs, paired_runs

Score = Callable[[Sequence[float]], float]
Cells = dict[str, dict[str, list[float]]]  # "order/seed" → "val" and "test" → the final model's score on each task
SCORES: dict[str, Score] = {"average": fmean, "past": lambda row: fmean(row[:-1]), "newest": lambda row: row[-1]}
RULES = ("auto-s1-p0.5", "auto-s1-p1", "auto-scalar", "auto-end")
GRIDS = {
    "best fixed (β, p), picked on all tasks": [*SWEEP],
    "best WiSE-FT (p = 1), picked on all tasks": [label for label in SWEEP if label.endswith("-p1")],
    **{
        f"best {name.upper()}, picked on all tasks": [f"{name}-1e{power}" for power in powers]
        for name, powers in DECADES.items()
    },
}
FRONTS = {
    "auto, λ, p = 0.5": [label for label in AUTO if label.endswith("p0.5")],
    "auto, λ, p = 1": [label for label in AUTO if label.endswith("p1")],
    **{f"fixed β, p = {p:g}": [label for label in SWEEP if label.endswith(f"-p{p:g}")] for p in (1, 0.5, 0.25)},
    "EWC, λ": GRIDS["best EWC, picked on all tasks"],
}


def collected(folder: Path) -> dict[str, dict[str, Cells]]:
    """Stream → label → cells, of the runs in a folder."""
    streams: dict[str, dict[str, Cells]] = {}
    for file in sorted(folder.glob("*.test.json")):
        name = file.name.removesuffix(".test.json")
        streams[name] = {}
        for label, cells in json.loads(file.read_text(encoding="utf-8")).items():
            for place, test in cells.items():
                order, seed = place.split("/")
                inside = Path(f"order-{order}", f"seed-{seed}") if order != "0" else Path(f"seed-{seed}")
                results = json.loads((folder / name / "cells" / label / inside / "results.json").read_text("utf-8"))
                val = results["scores"][results["primary"]]["matrix"][-1]
                rows = {"val": [round(v, 4) for v in val], "test": [round(v, 4) for v in test]}
                streams[name].setdefault(label, {})[place] = rows
    return streams


def key(place: str) -> RunKey:
    """Order and seed."""
    order, seed = place.split("/")
    return int(order), int(seed)


def picked(methods: Mapping[str, Cells], labels: Sequence[str], by: Score) -> tuple[Cells, list[str]]:
    """For each cell the setting with the best validation score, its rows and its label."""
    chosen: Cells = {}
    names = []
    present = [label for label in labels if label in methods]
    for place in methods[present[0]]:
        best = max((label for label in present if place in methods[label]), key=lambda n: by(methods[n][place]["val"]))
        chosen[place] = methods[best][place]
        names.append(best)
    return chosen, names


def values(cells: Cells, score: Score) -> dict[RunKey, float | None]:
    """A test score by order and seed."""
    return {key(place): score(rows["test"]) for place, rows in cells.items()}


def mean_and_interval(cells: Cells, score: Score) -> str:
    """Mean ± half of the 95 % interval, in points."""
    estimate = estimate_runs(values(cells, score))
    assert estimate.mean is not None
    half = "" if estimate.high is None else f" ± {100 * (estimate.high - estimate.mean):.1f}"
    return f"{100 * estimate.mean:.1f}{half}"


def gap(cells: Cells, other: Cells, score: Score) -> str:
    """The paired difference in points, with its 95 % interval."""
    difference = correct({"": paired_runs(values(cells, score), values(other, score))}, lower_is_better=False)[""]
    if difference.mean is None:
        return "—"
    if difference.low is None or difference.high is None:
        return f"{100 * difference.mean:+.1f}"
    return f"{100 * difference.mean:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def contenders(methods: Mapping[str, Cells]) -> dict[str, tuple[Cells, str]]:
    """What the table compares: cells, and the settings that were picked."""
    rows: dict[str, tuple[Cells, str]] = {}
    for title, labels in GRIDS.items():
        if not any(label in methods for label in labels):
            continue
        cells, names = picked(methods, labels, SCORES["average"])
        ends = (
            sum(name in (labels[0], labels[-1]) for name in names) if title.split()[1] in ("EWC,", "SI,", "MAS,") else 0
        )
        common = max(set(names), key=names.count)
        rows[title] = (
            cells,
            f"{common} most often" + (f"; {ends} of {len(names)} at an end of the range" if ends else ""),
        )
    rows["best fixed (β, p), picked on the newest task"] = picked(methods, [*SWEEP], SCORES["newest"])[0], ""
    fixed = max(
        (label for label in SWEEP if label in methods),
        key=lambda label: fmean(fmean(rows["val"]) for rows in methods[label].values()),
    )
    rows["best single fixed (β, p) of the stream"] = methods[fixed], fixed
    rows["SFA's default (β = 0.25, p = 0.25)"] = methods["sfa-b0.25-p0.25"], ""
    titles = {
        "auto-s1-p0.5": "**beta: auto** (λ = 1, p = 0.5)", "auto-s1-p1": "**beta: auto** (λ = 1, p = 1)",
        "auto-scalar": "control: one β a tensor", "auto-end": "control: Fisher at the average",
        "auto-late": "variant: without a task's first 10 steps", "auto-recent": "variant: a memory of 20 steps",
        "auto-median": "variant: the median of blocks of 5 steps", "auto-unclipped": "variant: before clipping",
        "replay-1%": "rehearsal, 1 %", "replay-5%": "rehearsal, 5 %", "replay-10%": "rehearsal, 10 %",
        "sequential": "plain fine-tuning", "joint": "joint training",
    }  # fmt: skip
    rows |= {title: (methods[label], "") for label, title in titles.items() if label in methods}
    return rows


def table(methods: Mapping[str, Cells]) -> list[str]:
    """One stream: scores of the final model, and what auto is ahead by."""
    rows = contenders(methods)
    lines = [
        "| | average | past | newest | auto (p = 0.5) minus it | auto (p = 1) minus it | picked |",
        "|---" * 7 + "|",
    ]
    for title, (cells, note) in sorted(
        rows.items(), key=lambda item: -fmean(fmean(r["test"]) for r in item[1][0].values())
    ):
        scores = [mean_and_interval(cells, score) for score in SCORES.values()]
        gaps = [gap(methods[rule], cells, fmean) for rule in RULES[:2]]
        lines.append(f"| {' | '.join([title, *scores, *gaps, note])} |")
    return lines


def overall(streams: Mapping[str, Mapping[str, Cells]]) -> list[str]:
    """Each rule against the oracle's pick, stream by stream, and the share of runs within half a point of it."""
    lines = [f"| | {' | '.join(streams)} | mean | runs ≥ −0.5 |", "|---" * (len(streams) + 3) + "|"]
    labels = [*RULES, *(label for label in AUTO if label not in RULES), "sfa-b0.25-p0.25", "sfa-b0.5-p0.5"]
    for label in labels:
        if not all(label in methods for methods in streams.values()):
            continue
        means, within = [], []
        cells = []
        for methods in streams.values():
            oracle = picked(methods, [*SWEEP], fmean)[0]
            gaps = [fmean(methods[label][p]["test"]) - fmean(oracle[p]["test"]) for p in oracle]
            means.append(fmean(gaps))
            within += [each >= -0.005 for each in gaps]
            cells.append(gap(methods[label], oracle, fmean))
        lines.append(f"| {label} | {' | '.join(cells)} | {100 * fmean(means):+.1f} | {sum(within)}/{len(within)} |")
    return lines


def fronts(methods: Mapping[str, Cells]) -> list[str]:
    """Past against newest along each strength."""
    lines = ["| front | past / newest, from weak to strong |", "|---|---|"]
    for title, labels in FRONTS.items():
        points = [
            f"{100 * fmean(SCORES['past'](r['test']) for r in methods[label].values()):.1f} / "
            f"{100 * fmean(SCORES['newest'](r['test']) for r in methods[label].values()):.1f}"
            for label in labels
            if label in methods
        ]
        if points:
            lines.append(f"| {title} | {' · '.join(points)} |")
    return lines


def draw(streams: Mapping[str, Mapping[str, Cells]], file: Path) -> None:
    """The fronts as a picture: past against newest, one panel a stream."""
    from stockpot.report.charts import PALETTE, category, chart, hover, legend, mark, number
    from stockpot.report.rendering import save_figure

    rows = [
        {"stream": name, "method": title, "place": place, "auto": title.startswith("auto"),
         **{what: 100 * fmean(SCORES[what](row["test"]) for row in methods[label].values())
            for what in ("past", "newest")}}
        for name, methods in streams.items()
        for title, labels in FRONTS.items()
        for place, label in enumerate(labels)
        if label in methods
    ]  # fmt: skip
    colors = dict(zip(FRONTS, cycle(PALETTE), strict=False))
    place = {
        "x": number("newest", "newest task (%)"),
        "y": number("past", "earlier tasks (%)"),
        "color": category("method", colors, legend=legend(list(FRONTS), 300 * len(streams))),
        "tooltip": hover(method="method", past="earlier tasks", newest="newest task"),
    }
    dashes = {"condition": {"test": "datum.auto", "value": [1, 0]}, "value": [4, 2]}
    line = {**place, "order": {"field": "place"}, "detail": {"field": "auto"}, "strokeDash": dashes}
    panels = {
        "data": {"values": rows},
        "facet": {"field": "stream", "type": "nominal", "sort": list(streams), "header": {"title": None}},
        "columns": len(streams),
        "resolve": {"scale": {"x": "independent", "y": "independent"}},
        "spec": {"width": 300, "height": 300, "layer": [mark("line", line), mark("point", place, size=30)]},
    }
    save_figure(chart(panels, wide=True), file)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", type=Path, help="the folder of the runs, or the JSON")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    source: Path = arguments.source
    streams = collected(source) if source.is_dir() else json.loads(source.read_text(encoding="utf-8"))
    if arguments.json:
        arguments.json.write_text(json.dumps(streams, separators=(",", ":")) + "\n", encoding="utf-8")
    print("\n".join(["### Against the oracle's pick", "", *overall(streams), ""]))
    for name, methods in streams.items():
        print("\n".join([f"### {name}", "", *table(methods), "", *fronts(methods), ""]))
    if arguments.figure:
        draw(streams, arguments.figure)


if __name__ == "__main__":
    main()
