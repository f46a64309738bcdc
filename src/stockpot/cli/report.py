"""`stockpot report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.api.launchers import refuse_launchers
from stockpot.cli.console import note, say
from stockpot.cli.json_document import Json, one_document
from stockpot.errors import StockpotError
from stockpot.files import explaining_disk_errors, write_text

if TYPE_CHECKING:
    from stockpot.api.comparison_result import ComparisonResult
    from stockpot.api.run_result import RunResult


def report_command(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders, or the folder of a comparison")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="default: the folder; of --format a file, default: the terminal"
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="csv|latex|json|md", help="the numbers in this form, in place of a page"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write report.html and its figures again, for one run, several runs, or a comparison; or export the numbers."""
    refuse_launchers()
    if form is not None:
        if as_json:
            raise StockpotError("--json prints what --format json does; give one of them.")
        _export(folders, output, form)
        return
    with one_document(as_json) as hand_over:
        shown = _read(folders, say)
        if isinstance(shown, list):
            page = _page_of_runs(shown, output or (folders[0] if len(folders) == 1 else Path("report")))
            doubts = [doubt for run in shown for doubt in run.doubts]
            documents = [run.results.model_dump(mode="json") for run in shown]
            hand_over(documents[0] if len(documents) == 1 else documents)
        else:
            page, doubts = shown.report(output, pdf=True), list(shown.doubts)
            hand_over(shown.results)
        for doubt in doubts:
            say(f"Note: {doubt}")
        say(f"Report: {page}")


def _read(folders: Sequence[Path], tell: Any) -> ComparisonResult | list[RunResult]:
    """A comparison, or runs; `tell` says which of them are unfinished."""
    from stockpot.api.open_folder import read_comparison_again, read_run, unfinished

    if len(folders) == 1 and (folders[0] / "comparison.json").is_file():
        return read_comparison_again(folders[0])
    runs = []
    for folder in folders:
        runs.append(read_run(folder))
        if hint := unfinished(folder):
            tell(hint)
    return runs


def _page_of_runs(runs: Sequence[RunResult], target: Path) -> Path:
    from stockpot.report.run_page import write_run_report

    with explaining_disk_errors(target):
        return write_run_report([run.page_entry for run in runs], target, pdf=True)


def _export(folders: Sequence[Path], file: Path | None, form: str) -> None:
    """Prints or writes the numbers; what a reader must know goes to stderr, since stdout is for the numbers."""
    from stockpot.report.export import check_form, export_runs

    check_form(form, "--format")
    if file is not None and file.is_dir():
        raise StockpotError(f"{file}: is a folder; with --format, -o names a file.")
    shown = _read(folders, note)
    if isinstance(shown, list):
        text = export_runs([(run.path.resolve().name, run.results) for run in shown], form)
        doubts = [doubt for run in shown for doubt in run.doubts]
    else:
        text, doubts = shown.export(form), list(shown.doubts)
    for doubt in doubts:
        note(f"Note: {doubt}")
    if file is None:
        say(text.removesuffix("\n"))
    else:
        write_text(file, text)
        say(f"Wrote {file}")
