"""The page is one file that loads nothing, escapes everything, and can be read without seeing its pictures."""

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from stockpot.report import comparison_page, run_page

Factory = Callable[..., Any]
SIZES = [(3, 1, False), (8, 3, False), (22, 3, True)]  # methods, orders, and whether tuned and with a front
VOID = {"meta", "link", "br", "hr", "img", "input", "path", "use", "rect", "stop"}


class Reader(HTMLParser):
    """Collects ids, headings and references, and checks that every tag is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.open: list[str] = []
        self.svgs: list[dict[str, str | None]] = []
        self.scripts: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attrs)
        if tag == "svg":
            self.svgs.append(given)
        if tag == "script":
            self.scripts.append(given)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href", "xlink:href", "data", "action", "poster", "srcset"}:
                self.references.append(value or "")
            assert not name.startswith("on"), (tag, name)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def check(path: Path) -> tuple[str, Reader]:
    text = path.read_text(encoding="utf-8")
    read = Reader(text)
    assert read.open == []
    assert read.tags["iframe"] == read.tags["img"] == 0
    assert all(set(script) <= {"type", "id"} for script in read.scripts)  # none is loaded
    assert [script.get("type") for script in read.scripts].count(None) == (2 if read.tags["figure"] else 1)
    assert all(reference.startswith(("#", "data:")) for reference in read.references), read.references
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\((.*?)\)", text))
    assert len(read.ids) == len(set(read.ids)), [name for name, n in Counter(read.ids).items() if n > 1]
    inside = [reference[1:] for reference in read.references if reference.startswith("#")]
    assert set(inside) | set(re.findall(r"url\(#(.*?)\)", text)) <= set(read.ids)
    assert read.tags["h1"] == read.tags["title"] - len(read.svgs) == 1
    assert read.tags["caption"] == read.tags["table"]
    assert all(svg["role"] == "img" and svg["aria-labelledby"] in read.ids for svg in read.svgs)
    assert "prefers-color-scheme: dark" in text and "@media print" in text and 'name="viewport"' in text
    assert len(text.encode()) < 1_000_000
    return text, read


def stems(folder: Path, ending: str) -> set[str]:
    return {path.stem for path in (folder / "figures").glob(f"*.{ending}")}


def test_run_page(run_of: Factory, tmp_path: Path) -> None:
    run = run_of("sfa", keep=0.9, averages=8)
    path = run_page.write_run_report([("runs/one", run)], tmp_path)
    text, read = check(path)
    assert path == tmp_path / "report.html"
    assert stems(tmp_path, "svg") == stems(tmp_path, "png") == {"matrix", "tasks-over-time"}
    assert len(read.svgs) == 2
    for expected in (
        "SFA after 3 tasks: average accuracy",
        "forgetting",
        "10.",
        "not averaged",
        "0123abc",
        "torch 2.13.0",
        "class 5",
    ):
        assert expected in text
    recipe = re.search(r"<p>Recipe:</p>\s*<pre>(.*?)</pre>", text, re.DOTALL)
    assert recipe is not None and yaml.safe_load(recipe[1]) == run.recipe
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    first = text.index("<details")  # one picture, one table and a sentence come before what is folded away
    assert (text[:first].count("<figure"), text[:first].count("<table"), text[:first].count("<li>")) == (1, 1, 1)


def test_page_of_several_runs(run_of: Factory, tmp_path: Path) -> None:
    runs = [("runs/x", run_of("sfa", keep=0.9)), ("elsewhere/x", run_of("sequential"))]
    text, read = check(run_page.write_run_report(runs, tmp_path))
    assert len(read.svgs) == len(stems(tmp_path, "png")) == 5  # two of each run, and both over the stream
    assert "single runs allow no claim" in text and {"run-1", "run-2"} <= set(read.ids)


def test_comparison_page(comparison_of: Factory, tmp_path: Path) -> None:
    comparison, cells = comparison_of(3)
    text, read = check(comparison_page.write_comparison_report(comparison, cells, tmp_path))
    expected = {
        "methods-average-accuracy",
        "methods-forgetting",
        "methods-newest-accuracy",
        "stability-plasticity",
        "tasks-over-time",
        "mean-matrices",
    }
    assert stems(tmp_path, "svg") == stems(tmp_path, "png") == expected
    assert len(read.svgs) == len(expected)
    for words in (
        "(floor)",
        "(ceiling)",
        "SFA against sequential",
        "no difference shown",
        "3 seeds",
        "Holm",
        "peak memory",
    ):
        assert words in text
    assert text.count('class="n better') >= 4 and 'class="n worse"' in text
    first = text[: text.index("<details")]
    assert (first.count("<figure"), first.count("<table")) == (1, 1) and 1 <= first.count("<li>") <= 5
    assert first.index("<figure") < first.index("<table") < first.index("<li>")
    assert re.findall(r'<input type="checkbox" checked value="(.*?)" data-row="(.*?)">', first) == [
        (label, label + {"sequential": " (floor)", "joint": " (ceiling)"}.get(label, ""))
        for label in comparison.methods
    ]


@pytest.mark.parametrize(
    ("count", "orders", "whole"),
    [(9, 2, True), *(pytest.param(*size, marks=pytest.mark.thorough) for size in SIZES)],
)
def test_comparison_pages_of_every_size(
    comparison_of: Factory, many_methods: dict[str, Any], tmp_path: Path, count: int, orders: int, whole: bool
) -> None:
    methods = dict(list(many_methods.items())[:count])
    comparison, cells = comparison_of(3, methods, K=2, orders=orders, tuned=whole, front=whole)
    assert len(comparison.methods) == count
    text, read = check(comparison_page.write_comparison_report(comparison, cells, tmp_path))
    several, many = orders > 1, count > 8
    pictures = 6 + (2 + (count > 10)) * whole + many + (count > 12) * 2
    assert len(read.svgs) == len(stems(tmp_path, "png")) == pictures
    assert {"front", "tuning"} <= stems(tmp_path, "png") if whole else not {"front", "tuning"} & stems(tmp_path, "png")
    assert ("moves by</th>" in text) == several
    assert ("mean-matrices-of-the-others" in stems(tmp_path, "svg")) == many
    assert f"3\u00a0seeds\u00a0×\u00a0{orders}\u00a0order" in text
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert (headings[0] == f"All {count} methods") == (count > 12)
    assert [h for h in headings if h.endswith("?")][:4] == headings[count > 12 :][:4]
    assert ("How the parameters were chosen" in headings) == whole
    assert ("In the first order of the tasks only" in text) == several
    assert ("which was the only one run" in text) != several
    small = re.search(r"<tbody>(.*?)</tbody>", text, re.DOTALL)
    assert small is not None and small[1].count("<tr>") == (count if count <= 12 else 10)


def test_only_the_first_order_is_drawn_task_by_task(comparison_of: Factory) -> None:
    comparison, cells = comparison_of(2, orders=3)
    kept = comparison_page._first_order(comparison, cells)
    assert set(kept) == set(cells)
    assert all(len(runs) == 2 and all(run.tasks == comparison.orders[0] for run in runs) for runs in kept.values())


def test_findings_written_into_the_comparison_are_the_ones_shown(comparison_of: Factory, tmp_path: Path) -> None:
    comparison, cells = comparison_of(2, {"sequential": {}, "sfa": {"keep": 0.9}})
    comparison = comparison.model_copy(update={"sentences": ["Exactly this."]})
    text, _ = check(comparison_page.write_comparison_report(comparison, cells, tmp_path))
    assert "<li>Exactly this.</li>" in text and "SFA against" not in text


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_comparison_of_one_seed_or_without_sequential_still_has_a_page(
    comparison_of: Factory, tmp_path: Path, seeds: int
) -> None:
    methods = {"sequential": {}, "sfa": {"keep": 0.9}} if seeds == 1 else {"sfa": {}, "joint": {}}
    comparison, cells = comparison_of(seeds, methods)
    text, _ = check(comparison_page.write_comparison_report(comparison, cells, tmp_path))
    assert ("one seed shows no spread" in text) == (seeds == 1)
    assert ("nothing to compare them with" in text) == (seeds == 2)


def test_everything_from_the_user_is_escaped(
    run_of: Factory, comparison_of: Factory, hostile: str, tmp_path: Path
) -> None:
    run = run_of("sfa", label=hostile, tasks=[hostile, "b", "c"])
    run.notes.append(hostile)
    run.recipe["name"] = hostile
    run.head[hostile] = [hostile]
    run.versions[hostile] = hostile
    text, _ = check(run_page.write_run_report([(hostile, run)], tmp_path / "run"))
    assert "<script>alert" not in text and text.count("&lt;script&gt;") >= 8

    comparison, cells = comparison_of(2, {"sequential": {}, hostile: {"name": "sfa"}}, tasks=[hostile, "b", "c"])
    comparison = comparison.model_copy(update={"name": hostile})
    text, _ = check(comparison_page.write_comparison_report(comparison, cells, tmp_path / "comparison"))
    assert "<script>alert" not in text and text.count("&lt;script&gt;") >= 8


def test_a_long_stream_stays_under_a_megabyte(run_of: Factory, tmp_path: Path) -> None:
    check(run_page.write_run_report([("long", run_of(K=20))], tmp_path))


def test_a_stream_of_200_tasks_is_one_picture_and_a_row_for_each_task(run_of: Factory, tmp_path: Path) -> None:
    run = run_of(K=200)
    text, read = check(run_page.write_run_report([("longer", run)], tmp_path))
    assert len(text) < 500_000  # without Vega
    assert len(read.svgs) == 2
    assert text[: text.index("<details")].count("<tr>") == 1 + run_page.TASKS_SHOWN
    matrix = run.scores["accuracy"].matrix
    column = [row[7] for row in matrix[7:]]
    whole = text[text.index("at four moments") :]
    cells = re.search(rf'<th scope="row">{run.tasks[7]}</th>((?:<td [^<]*</td>){{4}})</tr>', whole)
    assert cells is not None
    shown = re.findall(r">([\d.]+)<", cells[1])
    assert shown == [f"{v:.3f}" for v in (run.scores["accuracy"].initial[7], column[0], min(column), column[-1])]


def test_of_many_tasks_the_first_table_has_those_that_lost_most(run_of: Factory) -> None:
    run = run_of(K=20)
    matrix = run.scores["accuracy"].matrix
    lost = sorted(range(20), key=lambda k: matrix[-1][k] - matrix[k][k])
    grid = run_page._first_table(run)
    assert [name for name, _ in grid.rows] == [f"task{k}" for k in lost[: run_page.TASKS_SHOWN]]
    losses = run.scores["accuracy"].model_copy(update={"higher_is_better": False, "unit": "nats"})
    run = run.model_copy(update={"scores": {"accuracy": losses}})
    assert run_page._first_table(run).rows[0][0] == f"task{lost[-1]}"


def test_a_run_before_its_first_task(run_of: Factory, tmp_path: Path) -> None:
    run = run_of(K=2)
    run.scores["accuracy"].matrix = []
    text, read = check(run_page.write_run_report([("new", run)], tmp_path))
    assert "No task has been learnt" in text and read.svgs == []


def test_a_second_report_replaces_the_first(run_of: Factory, tmp_path: Path) -> None:
    first = run_page.write_run_report([("a", run_of(K=2))], tmp_path).read_bytes()
    assert run_page.write_run_report([("a", run_of(K=2))], tmp_path).read_bytes() == first
