"""Runs and comparisons in the forms that other programs and papers read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from stockpot.errors import StockpotError, did_you_mean
from stockpot.files import json_text
from stockpot.markdown import escape_markdown, markdown_table
from stockpot.report.export_tables import ExportTable, table_of_comparison, tables_of_run
from stockpot.report.latex import latex_table
from stockpot.report.records import as_csv, records_of_comparison, records_of_run
from stockpot.results import Comparison, Results

NamedRuns = Sequence[tuple[str, Results]]


def export_runs(runs: NamedRuns, form: str) -> str:
    """Runs by name in one of FORMATS. As JSON a run is its results.json, and several are a list.

    Raises StockpotError for another format.
    """
    check_form(form)
    if form == "csv":
        return as_csv([record for name, results in runs for record in records_of_run(name, results)])
    if form == "json":
        documents = [results.model_dump(mode="json") for _, results in runs]
        return json_text(documents[0] if len(documents) == 1 else documents)
    return _WRITTEN[form]([(name, table) for name, results in runs for table in tables_of_run(name, results)])


def export_comparison(comparison: Comparison, form: str) -> str:
    """A comparison in one of FORMATS. As JSON it is its comparison.json. Raises StockpotError for another format."""
    check_form(form)
    if form == "csv":
        return as_csv(records_of_comparison(comparison))
    if form == "json":
        return json_text(comparison.model_dump(mode="json"))
    return _WRITTEN[form]([(comparison.name, table_of_comparison(comparison))])


def check_form(form: str, spelt: str = "form") -> None:
    """Raises StockpotError for a form that does not exist; `spelt` is how the user writes the key."""
    if form not in FORMATS:
        raise StockpotError(f"{spelt}: {form!r} is not one of {', '.join(FORMATS)}.{did_you_mean(form, FORMATS)}")


def _latex(tables: Sequence[tuple[str, ExportTable]]) -> str:
    labels = [name for name, _ in tables]
    return "\n".join(
        latex_table(table, name if labels.count(name) == 1 else f"{name}-{labels[:number].count(name) + 1}")
        for number, (name, table) in enumerate(tables)
    )


def _markdown(tables: Sequence[tuple[str, ExportTable]]) -> str:
    return "\n".join(f"{_markdown_table(table)}\n" for _, table in tables)


def _markdown_table(table: ExportTable) -> str:
    grid = table.grid
    rows = [
        [name, *(f"{BOLD}{cell}{BOLD}" if (row, column) in table.bold else cell for column, cell in enumerate(cells))]
        for row, (name, cells) in enumerate(grid.rows)
    ]
    text = markdown_table([grid.corner, *grid.headings], rows).replace(BOLD, "**")
    return f"{escape_markdown(grid.caption)}\n\n{text}"


BOLD: Final = "\ue000"  # a private character: no escaping touches it
_WRITTEN: Final[dict[str, Callable[[Sequence[tuple[str, ExportTable]]], str]]] = {"latex": _latex, "md": _markdown}
FORMATS: Final = ("csv", "latex", "json", "md")
