"""Figures as files, as part of a page, and alive in it; importing this file loads vl-convert, with a JavaScript engine.

vl-convert turns Vega-Lite into Vega, SVG, PNG and PDF without a browser and without the network.
"""

from __future__ import annotations

import functools
import html
import json
import re
from pathlib import Path
from typing import Any, Final

import vl_convert
from markupsafe import Markup

from stockpot.report.charts import INK, Chart

DOTS_PER_INCH: Final = 200  # of a PNG; a figure's pixels are points


def svg_of(chart: Chart) -> str:
    """The figure as SVG, without ground; the same text for the same figure."""
    svg: str = vl_convert.vegalite_to_svg({**chart.spec, "background": None})
    # Vega numbers gradients and frames through the life of the process; here they begin anew.
    order = {name: f"part{k}" for k, name in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', svg)))}
    return re.sub(r'(\bid="|url\(#)([^")]+)', lambda match: match[1] + order.get(match[2], match[2]), svg)


def save_figure(chart: Chart, *files: Path, svg: str | None = None) -> None:
    """Writes PNG, SVG or PDF, as its name ends, on white; the same bytes for the same figure.

    `svg` is what `svg_of` made of it, if that is known.
    """
    svg = svg_of(chart) if svg is None else svg
    on_white = re.sub(r"(<svg[^>]*>)", r'\1<rect width="100%" height="100%" fill="white"/>', svg, count=1)
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_converted(on_white, file.suffix))


def _converted(svg: str, suffix: str) -> bytes:
    written = svg.encode()
    if suffix == ".png":
        written = vl_convert.svg_to_png(svg, ppi=DOTS_PER_INCH)
    elif suffix == ".pdf":
        written = vl_convert.svg_to_pdf(svg)
    return written


def inline(svg: str, prefix: str, alt: str) -> Markup:
    """An SVG as one element of a page: in the colour of its text, every id under `prefix`, scaled to the width it has.

    `alt` is read by screen readers, which leave the single marks out.
    """
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'url\((["\']?)#', rf"url(\1#{prefix}-", svg)
    svg = re.sub(r'(href=["\'])#', rf"\1#{prefix}-", svg)
    svg = re.sub(r' (?:aria-[a-z]+|role|xmlns(?::\w+)?|version|class)="[^"]*"', "", svg)
    # A hundredth of a point is finer than any screen; more digits only make the page larger.
    svg = re.sub(r' (?:d|x|y|x1|y1|x2|y2|transform)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), svg)
    svg = svg.replace(INK, "currentColor")
    width, view = re.search(r'width="([\d.]+)"', svg), re.search(r'viewBox="[^"]*"', svg)
    assert width is not None and view is not None
    head = f'<svg role="img" aria-labelledby="{prefix}-alt" style="max-width:{float(width[1]):.0f}px" {view[0]}>'
    return Markup(f'{head}<title id="{prefix}-alt">{html.escape(alt)}</title>{svg[svg.index(">") + 1 :]}')


def live(chart: Chart) -> Markup:
    """The specification as JSON that may stand in a page's `<script>`: what the page draws where scripts run."""
    spec = _rounded({**chart.spec, "background": None})
    text = json.dumps(spec, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace(INK, "currentColor").replace("<", "\\u003c"))


def _rounded(value: Any) -> Any:
    """Numbers to six digits: finer than any screen."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


@functools.cache
def vega_script() -> Markup:
    """Vega-Lite and Vega, about 0.9 MB: the same text for every page, which therefore loads nothing."""
    code: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup(re.sub(r"<(?=/script|!--)", r"\\x3c", code, flags=re.IGNORECASE))
