"""A matplotlib figure as SVG inside a page: in the page's text colour, without colliding ids."""

from __future__ import annotations

import html
import io
import re
import warnings

from markupsafe import Markup
from matplotlib.figure import Figure

from stockpot.report.figures import INK, house_style


def inline(figure: Figure, prefix: str, alt: str) -> Markup:
    """The figure as one transparent `<svg>` element, with `INK` as `currentColor` and every id under `prefix`.

    `alt` is read by screen readers. The element scales down to 80 % of its natural width, not below.
    """
    buffer = io.StringIO()
    with house_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    # A hundredth of a point is finer than any screen; more digits only make the page larger.
    places = re.compile(r' (?:d|x|y|transform)="[^"]*"')
    svg = places.sub(lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), svg)
    svg = svg.replace(f": {INK}", ": currentColor")
    width = figure.get_figwidth() * 96
    head = (
        f'<svg role="img" aria-labelledby="{prefix}-alt" style="max-width:{width:.0f}px;min-width:{0.8 * width:.0f}px" '
    )
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None
    body = svg[svg.index(">") + 1 :]
    alt_text = f'<title id="{prefix}-alt">{html.escape(alt)}</title>'
    return Markup(f"{head}{view[0]}>{alt_text}{body}")
