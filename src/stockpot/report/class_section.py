"""The part of a run's page that says which classes were lost, and what they were taken for."""

from __future__ import annotations

from typing import Any, NamedTuple

from stockpot.report.class_figures import (
    CONFUSION_CAPTION,
    classes_caption,
    classes_over_time,
    tasks_taken_for_others,
)
from stockpot.report.html import Gallery
from stockpot.report.lost_classes import confusion_grid, lost_grids
from stockpot.report.tables import Grid
from stockpot.results import Results


class ClassSection(NamedTuple):
    """Figures and tables, as the page shows them."""

    figures: list[dict[str, Any]]
    worst: Grid  # the classes that lost most
    others: list[Grid]  # folded away
    confusion: Grid | None


def class_section(results: Results, gallery: Gallery, stem: str) -> ClassSection | None:
    """None for a run without classes, or of one task: nothing can be lost yet."""
    grids = lost_grids(results)
    if not grids or len(results.tasks) < 2:
        return None
    over_time = "The accuracy on each class over the stream as a heat map; its ends are in the table below."
    figures = [gallery.add(classes_over_time(results), f"{stem}classes-over-time", over_time, classes_caption(results))]
    if (chart := tasks_taken_for_others(results)) is not None:
        table = "; the numbers are in the table below." if confusion_grid(results) else "."
        alt = f"Which tasks were taken for which, as a heat map{table}"
        figures.append(gallery.add(chart, f"{stem}tasks-confused", alt, CONFUSION_CAPTION))
    return ClassSection(figures, grids[0], grids[1:], confusion_grid(results))
