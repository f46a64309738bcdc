"""The frame of the pages: figures saved and inlined, templates rendered with every value escaped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from stockpot.files import write_text
from stockpot.report.figures import FIGURE_WIDTH, save_figure
from stockpot.report.svg import inline


class Gallery:
    """Saves figures to a folder and returns them for the page, with ids that do not collide."""

    def __init__(self, folder: Path, pdf: bool = False) -> None:
        self.folder = folder
        self.endings = ("png", "svg", *(("pdf",) if pdf else ()))
        self.count = 0

    def add(self, figure: Figure, name: str, alt: str, caption: str) -> dict[str, Any]:
        save_figure(figure, *(self.folder / f"{name}.{ending}" for ending in self.endings))
        if "pdf" not in self.endings:
            (self.folder / f"{name}.pdf").unlink(missing_ok=True)  # an older one would show other numbers
        self.count += 1
        wide = figure.get_figwidth() > FIGURE_WIDTH + 0.5
        return {"svg": inline(figure, f"fig{self.count}", alt), "caption": caption, "alt": alt, "wide": wide}


def unbroken(text: str) -> str:
    """The text with no-break spaces between numbers and their units."""
    units = r"(?<=\d) (?=%|seed|order|points|[kMGT]?B\b)"
    return re.sub(rf"{units}| (?=[×±])|(?<=[×±]) (?=\d)", "\u00a0", text)


def _tone(value: str) -> str:
    """The CSS class of a cell that ends with a verdict, or is too long for one line."""
    return next(
        (f" {verdict}" for verdict in ("better", "worse") if value.endswith(verdict)), " long" * (len(value) > 32)
    )


def write_page(template: str, folder: Path, **values: Any) -> Path:
    """Renders `folder/report.html` with every value escaped; the file appears whole or not at all. Returns its path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bound": unbroken, "tone": _tone}
    style = Markup((Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8"))
    page = environment.get_template(template).render(style=style, **values)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    write_text(path, page)
    return path
