"""The pages in a browser: nothing fails, nothing leaves the page, tables sort, methods hide, and all of it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import launched_chromium

from stockpot.report import rendering
from stockpot.report.comparison_page import write_comparison_report
from stockpot.report.run_page import write_run_report

Factory = Callable[..., Any]
A4 = 688  # pixels between the margins of a printed page
SOONER = 15_000  # milliseconds; slow machines run several tests at once


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; where it is missing the tests are skipped, or fail if they must not be."""
    with launched_chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, run_of: Factory, comparison_of: Factory) -> dict[str, Path]:
    """A comparison and a run with many tasks, drawn as users get them, but for the PNG that no page shows."""
    folder = tmp_path_factory.mktemp("pages")
    comparison, cells = comparison_of(2, K=3)
    run = run_of("sfa", K=10, keep=0.9, tasks=[f"a_rather_long_name_of_task_{k}" for k in range(10)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "_converted", lambda svg, suffix: svg.encode())
        return {
            "comparison": write_comparison_report(comparison, cells, folder / "comparison"),
            "run": write_run_report([("run", run)], folder / "run"),
        }


class Opened:
    """A page in the browser, with everything that went wrong or was asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, dark: bool = False) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
        )
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.unfold()

    def unfold(self) -> None:
        """Opens what is folded away, and waits until every figure that can live does."""
        self.page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        self.page.wait_for_function(
            "[...document.querySelectorAll('figure')].every((figure) => "
            "!figure.querySelector('script') || figure.querySelector('.plot[role=img]'))",
            timeout=SOONER,
        )

    def too_wide(self, most: int) -> list[str]:
        """What ends beyond the right edge and cannot be scrolled to."""
        found: list[str] = self.page.evaluate(
            """(most) => [...document.querySelectorAll('body *')].filter((each) => {
                const scrolls = each.closest('.scroll, pre');
                const clipped = scrolls && getComputedStyle(scrolls).overflowX !== 'visible';
                return !clipped && each.getBoundingClientRect().right > most + 1;
            }).map((each) => each.tagName + ' ' + each.className + ' ' + each.textContent.slice(0, 40))""",
            most,
        )
        return found


@pytest.fixture(scope="module")
def comparison(browser: Any, pages: dict[str, Path]) -> Iterator[Opened]:
    opened = Opened(browser, pages["comparison"])
    yield opened
    opened.context.close()


@pytest.mark.parametrize(("name", "dark"), [("run", True)])
def test_a_telephone_shows_it_all_in_the_dark(browser: Any, pages: dict[str, Path], name: str, dark: bool) -> None:
    opened = Opened(browser, pages[name], width=500, dark=dark)
    assert opened.wrong == []
    assert opened.requests == [pages[name].as_uri()]
    assert opened.too_wide(500) == []
    shown = opened.page.evaluate(
        """[...document.querySelectorAll('figure svg text')].map((text) => {
            const matrix = text.getScreenCTM();
            return [parseFloat(getComputedStyle(text).fontSize) * Math.hypot(matrix.a, matrix.b),
                    getComputedStyle(text).fill];
        })"""
    )
    assert len(shown) > 20 and min(size for size, _ in shown) >= 6.5  # pixels
    assert {fill for _, fill in shown} <= {"rgb(223, 227, 231)", "rgb(255, 255, 255)", "rgb(17, 17, 17)"}
    opened.page.emulate_media(media="print", color_scheme="dark")
    opened.page.set_viewport_size({"width": A4, "height": 900})
    assert opened.too_wide(A4) == []
    assert opened.page.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill") == "rgb(0, 0, 0)"
    opened.context.close()


def test_nothing_fails_and_no_request_leaves_the_page(comparison: Opened, pages: dict[str, Path]) -> None:
    assert comparison.wrong == []
    assert [url for url in comparison.requests if not url.startswith("data:")] == [pages["comparison"].as_uri()]


def test_a_table_is_sorted_by_the_column_that_is_clicked(comparison: Opened) -> None:
    page = comparison.page
    table = page.locator("table").first
    heads = table.locator("thead th")

    def column(k: int) -> list[str]:
        return [row.split("\t")[k] for row in table.locator("tbody").inner_text().splitlines()]

    best_first = column(0)
    assert best_first[0] == "joint (ceiling)"
    forgetting = heads.nth(3)
    for state, turned in (("descending", True), ("ascending", False)):
        forgetting.locator("button").click()
        assert forgetting.get_attribute("aria-sort") == state
        values = [float(text.split(" ")[0]) for text in column(3) if text != "—"]
        assert values == sorted(values, reverse=turned) and column(3)[-1] == "—"
    heads.nth(0).locator("button").focus()
    page.keyboard.press("Enter")
    assert column(0) == sorted(best_first)
    assert [heads.nth(k).get_attribute("aria-sort") for k in (0, 3)] == ["ascending", "none"]
    heads.nth(0).locator("button").click()
    heads.nth(0).locator("button").click()
    assert column(0) == best_first


def test_a_method_is_hidden_in_figures_and_tables(comparison: Opened) -> None:
    page = comparison.page
    first = page.locator("figure").first
    assert "replay  (n = 2)" in first.inner_text().replace("\xa0", " ") or "replay" in first.text_content()
    page.locator(".methods input[value=replay]").uncheck()
    page.wait_for_function("!document.querySelector('figure .plot').textContent.includes('replay')", timeout=SOONER)
    rows = page.locator("table").first.locator("tbody tr:visible").all_inner_texts()
    assert len(rows) == 4 and not any(row.startswith("replay") for row in rows)
    page.locator(".methods input[value=replay]").check()
    page.wait_for_function("document.querySelector('figure .plot').textContent.includes('replay')", timeout=SOONER)


def test_a_mark_says_its_values_under_the_pointer(comparison: Opened) -> None:
    page = comparison.page
    page.evaluate("window.scrollTo(0, 0)")
    mark = page.locator("figure").first.locator(".mark-symbol.layer_2_marks path").first
    mark.hover(force=True)
    tip = page.locator(".tip")
    tip.wait_for(state="visible", timeout=SOONER)
    assert "joint" in tip.inner_text() and "±" in tip.inner_text()


def test_a_page_prints_all_that_is_folded_away_on_a4(comparison: Opened) -> None:
    page = comparison.page
    page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = false; })")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": A4, "height": 900})
    assert comparison.too_wide(A4) == []
    assert page.locator("text=Mean score over all tasks learnt").or_(page.locator("dd").first).first.is_visible()
    assert page.locator(".methods").is_hidden()
    heads = page.locator("th button").count()
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == page.locator("th button").count() == 0
    assert page.locator("th").nth(1).inner_text().startswith("average")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("th button").count() == heads > 20
    assert page.locator("details[open]").count() == 0
    page.locator("th button").nth(1).click()
    assert page.locator("th").nth(1).get_attribute("aria-sort") == "descending"
