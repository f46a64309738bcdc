"""The frame of the pages: figures saved and put into them, templates rendered with every value escaped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from stockpot.files import write_text
from stockpot.report import rendering
from stockpot.report.charts import Chart
from stockpot.report.formatting import sort_value

_TEMPLATES = Path(__file__).parent / "templates"


class Gallery:
    """Saves figures to a folder and returns them for the page, with ids that do not collide."""

    def __init__(self, folder: Path, pdf: bool = False) -> None:
        self.folder = folder
        self.endings = ("png", "svg", *(("pdf",) if pdf else ()))
        self.count = 0
        self.live = False  # whether a figure of the page needs a script

    def add(self, chart: Chart, name: str, alt: str, caption: str) -> dict[str, Any]:
        """The figure for `parts.gallery` of the templates; `alt` is read by screen readers."""
        svg = rendering.svg_of(chart)
        rendering.save_figure(chart, *(self.folder / f"{name}.{ending}" for ending in self.endings), svg=svg)
        if "pdf" not in self.endings:
            (self.folder / f"{name}.pdf").unlink(missing_ok=True)  # an older one would show other numbers
        self.count += 1
        self.live |= not chart.still
        key = f"fig{self.count}"
        return {
            "id": key,
            "svg": rendering.inline(svg, key, alt),
            "live": None if chart.still else rendering.live(chart),
            "caption": caption,
            "alt": alt,
            "wide": chart.wide,
            "fluid": chart.fluid,
        }


def unbroken(text: str) -> str:
    """The text with no-break spaces between numbers and their units."""
    units = r"(?<=\d) (?=%|seed|order|points|[kMGT]?B\b)"
    return re.sub(rf"{units}| (?=[×±])|(?<=[×±]) (?=\d)", "\u00a0", text)


def _tone(value: str) -> str:
    """The CSS classes of a cell that ends with a verdict, or is too long for one line."""
    verdict = next((f" {verdict}" for verdict in ("better", "worse") if value.endswith(verdict)), "")
    return verdict + " long" * (len(value) > 28)


def _breaks(text: str) -> str:
    """The CSS class of a heading with a word so long that a printed page may have to break it."""
    return " breaks" if any(len(word) > 14 for word in re.split(r"[\s-]", text)) else ""


def write_page(template: str, folder: Path, gallery: Gallery, **values: Any) -> Path:
    """Renders `folder/report.html` with every value escaped; the file appears whole or not at all. Returns its path.

    The page loads nothing: the style, the scripts and the figures of the `gallery` are in it.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bound": unbroken, "tone": _tone, "breaks": _breaks, "sort_value": sort_value}
    style, script = (Markup((_TEMPLATES / name).read_text(encoding="utf-8")) for name in ("style.css", "page.js"))
    vega = rendering.vega_script() if gallery.live else ""
    page = environment.get_template(template).render(style=style, script=script, vega=vega, **values)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    write_text(path, page)
    return path
