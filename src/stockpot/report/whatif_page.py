"""The page of a sweep over a run's checkpoints: what each method keeps against what it learns, over its strength."""

from __future__ import annotations

from pathlib import Path

from stockpot.report.formatting import METRIC_TITLES, metric_heading, metric_title, opening
from stockpot.report.html import Gallery, write_page
from stockpot.report.run_page import SENTENCES
from stockpot.report.tables import Grid
from stockpot.report.whatif_figures import averages_figure, tradeoff_figure
from stockpot.report.whatif_tables import SYMBOLS, WHATIF_HEADINGS, by_rank, point_rows, whatif_rows
from stockpot.results import WhatIf
from stockpot.yaml_text import dump_yaml


def write_whatif_report(whatif: WhatIf, folder: Path) -> Path:
    """Writes `folder/report.html` and `folder/figures/`; returns the path of the page."""
    gallery = Gallery(folder / "figures")
    last = whatif.tasks[-1]
    pictures = [
        gallery.add(
            tradeoff_figure(whatif),
            "past-against-newest",
            f"{metric_heading('past_accuracy', whatif.primary)} against the newest one, one curve for each method; "
            "the numbers are in the tables.",
            f"After the last task: mean {whatif.primary} on earlier tasks against {whatif.primary} on the newest, "
            f"{last}. Up and right is better. Curves run along the strength; ring: the knee; star: the best average; "
            "dashed: post-hoc, no real run gives these scores.",
        ),
        gallery.add(
            averages_figure(whatif),
            "average-over-strength",
            f"{metric_heading('average_accuracy', whatif.primary)} over the strength, one curve for each method; "
            "the numbers are in the tables.",
            f"Average {whatif.primary} after the last task over the strength. Star: the best value; ring: the knee; "
            "grey: plain fine-tuning; dotted: a method without a strength.",
        ),
    ]
    changes = [f"{control} since the start" for control in whatif.plain.controls]
    rows = [(row.name, [*row.values, *row.controls, row.real]) for row in whatif_rows(whatif)]
    caption = f"After the last task, {last}: {whatif.primary}, 1 seed, best average first"
    headings = ["average", "earlier tasks", "newest task", "forgetting", *changes, "a real run"]
    points = []
    for name, method in by_rank(whatif):
        symbol = SYMBOLS.get(method.key or "", "")
        grid = Grid(f"{opening(name)} after the last task", headings, point_rows(method, whatif), symbol)
        points.append((opening(name), grid, dump_yaml(method.method)))
    return write_page(
        "whatif.html.j2",
        folder,
        gallery,
        title=f"What if: {whatif.run}",
        whatif=whatif,
        notes=whatif.notes[:SENTENCES],
        more_notes=whatif.notes[SENTENCES:],
        lead=pictures[:1],
        pictures=pictures[1:],
        table=Grid(caption, [*WHATIF_HEADINGS, *changes, "a real run"], rows),
        points=points,
        explanations=[
            (metric_title(key, whatif.primary), METRIC_TITLES[key][1])
            for key in ("average_accuracy", "past_accuracy", "newest_accuracy", "forgetting")
        ],
    )
