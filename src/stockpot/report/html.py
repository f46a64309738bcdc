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
    """Saves figures under a folder and hands them to the page, each under ids of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def add(self, figure: Figure, name: str, alt: str, caption: str) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_figure(figure, self.folder / name)
        self.count += 1
        wide = figure.get_figwidth() > FIGURE_WIDTH + 0.5
        return {"svg": inline(figure, f"fig{self.count}", alt), "caption": caption, "alt": alt, "wide": wide}


def unbroken(text: str) -> str:
    """The same sentence, its numbers never parted from their units at the end of a line."""
    units = r"(?<=\d) (?=%|seed|order|points|[kMGT]?B\b)"
    return re.sub(rf"{units}| (?=[×±])|(?<=[×±]) (?=\d)", "\u00a0", text)


def write_page(template: str, folder: Path, **values: Any) -> Path:
    """Renders with every value escaped, and publishes whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["bound"] = unbroken
    style = Markup((Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8"))
    page = environment.get_template(template).render(style=style, **values)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    write_text(path, page)
    return path
