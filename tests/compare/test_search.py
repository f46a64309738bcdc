"""Three ways to search: the same budget for every method, the same trials when asked again."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest
from toy import config

from stockpot.comparisons.search import Search, SearchKind, grid_points, open_search, with_keys
from stockpot.errors import StockpotError
from stockpot.methods import registry
from stockpot.methods.base import BaseConfig
from stockpot.methods.declare.space import Choices, Range, Space

KINDS: list[SearchKind] = ["grid", "random", "optuna"]
DARK = {"loss": "der++"}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in registry()),
    ("sfa", {"every": 2}),
    ("ewc", {"mode": "online"}),
    ("replay", {"mix": "batch"}),
    ("replay", {"budget": "reservoir", "count": 5, **DARK}),
    ("dare", {"elect": True}),
    ("agem", {"budget": "total", "count": 20, "select": "herding"}),
]


@pytest.fixture(autouse=True)
def _optuna_where_asked(request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params.get("kind") if hasattr(request.node, "callspec") else None
    if kind == "optuna" or "optuna" in request.node.name:
        pytest.importorskip("optuna", reason='needs pip install "stockpot[tune]"')


def asked(search: Search) -> list[dict[str, Any]]:
    return [search.ask(number) for number in range(search.trials)]


@pytest.mark.parametrize(("name", "keys"), VARIANTS)
@pytest.mark.parametrize("kind", ["grid", "random"])
def test_every_method_takes_every_value_of_its_space(kind: SearchKind, name: str, keys: dict[str, Any]) -> None:
    method = config(name, **keys)
    for seed in range(12):
        search = open_search(kind, method, seed + 1, seed, Path("unused"))
        for point in asked(search):
            tried = with_keys(method, point)  # validates
            assert {key: getattr(tried, key) for key in {**keys, **point}} == {**keys, **point}
            assert set(point) == set(method.searched())
            assert not tried.searched()


@pytest.mark.parametrize(("name", "keys"), VARIANTS)
def test_every_method_takes_what_optuna_tries(name: str, keys: dict[str, Any], tmp_path: Path) -> None:
    search = open_search("optuna", config(name, **keys), 3, 0, tmp_path)
    for number in range(search.trials):
        assert set(search.ask(number)) == set(config(name, **keys).searched())
        search.tell(number, float(number))


class Wrong(BaseConfig):
    """A method whose space is wider than what it takes."""

    space: ClassVar[Space] = {"name": Choices(("wrong", "right"))}

    name: Literal["wrong"] = "wrong"


@pytest.mark.parametrize("kind", KINDS)
def test_a_space_wider_than_what_the_method_takes_is_found_out(kind: SearchKind, tmp_path: Path) -> None:
    with pytest.raises(StockpotError, match="method 'wrong': name"):
        asked(open_search(kind, Wrong(), 30, 0, tmp_path))


def test_added_keys_are_validated_like_written_ones() -> None:
    method = config("sfa", label="mine", every=3)
    tried = with_keys(method, {"beta": 0.5})
    assert (tried.beta, tried.every, tried.label) == (0.5, 3, "mine")
    assert tried.model_fields_set == {"name", "label", "every", "beta"}
    for keys in ({"beta": 1.5}, {"betta": 0.5}, {"p": 0.5}):
        with pytest.raises(StockpotError, match="method 'mine'"):
            with_keys(method, keys)


def test_a_grid_has_as_many_points_for_one_two_and_three_keys() -> None:
    methods = [config("l2"), config("sfa"), config("replay", **DARK)]
    assert [len(method.searched()) for method in methods] == [1, 2, 3]
    for trials in range(1, 41):
        for method in methods:
            points = asked(open_search("grid", method, trials, 0, Path("unused")))
            assert len(points) == len({tuple(point.items()) for point in points}) == trials


def test_a_grid_is_finest_in_the_strength() -> None:
    space = {"p": Range(0.05, 1, log=True), "beta": Range(0, 1)}
    points = grid_points(space, 12, "beta")
    assert {point["beta"] for point in points} == set(space["beta"].grid(4))
    assert {point["p"] for point in points} == set(space["p"].grid(3))
    assert {len({point[key] for point in grid_points(space, 10, "p")}) for key in ["p"]} == {4}
    assert grid_points(space, 1, "beta") == [{"beta": 0.5, "p": pytest.approx(math.sqrt(0.05))}]


def test_a_grid_of_choices_has_no_more_points_than_there_are() -> None:
    space = {"a": Choices((1, 2, 3)), "b": Choices((True, False))}
    points = grid_points(space, 50, "a")
    assert sorted((point["a"], point["b"]) for point in points) == [(a, b) for a in (1, 2, 3) for b in (False, True)]
    mixed = grid_points({**space, "c": Range(0, 1)}, 50, "a")
    assert len(mixed) == 50
    assert len({point["c"] for point in mixed}) == 9  # of 3·2·9 = 54


@given(st.integers(8, 64))
def test_the_first_half_of_a_grid_spans_the_strength(trials: int) -> None:
    first = [point["x"] for point in grid_points({"x": Range(0, 1)}, trials, "x")[: trials // 2]]
    assert min(first) <= 0.15
    assert max(first) >= 0.75
    gaps = [after - before for before, after in itertools.pairwise(sorted(first))]
    assert max(gaps) <= 4.01 / (trials - 1)


def test_a_grid_without_its_strength_is_one_of_the_other_keys() -> None:
    points = asked(open_search("grid", config("sfa", beta=0.3), 5, 0, Path("unused")))
    assert sorted(point["p"] for point in points) == Range(0.05, 1, log=True).grid(5)
    assert all(set(point) == {"p"} for point in points)


@pytest.mark.parametrize("name", ["sequential", "joint", "soup", "fisher_average", "replay"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_method_that_leaves_nothing_open_has_no_trials(kind: SearchKind, name: str, tmp_path: Path) -> None:
    search = open_search(kind, config(name), 5, 0, tmp_path)
    assert search.trials == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_trial_is_given_when_it_is_asked_for_again(kind: SearchKind, tmp_path: Path) -> None:
    method = config("replay", **DARK)
    first = asked(open_search(kind, method, 7, 3, tmp_path))
    again = open_search(kind, method, 7, 3, tmp_path)
    assert [again.ask(number) for number in reversed(range(7))] == first[::-1]
    assert len({tuple(point.items()) for point in first}) == 7
    assert all(isinstance(point["per_batch"], int) for point in first)


@pytest.mark.parametrize("kind", KINDS)
def test_trials_are_numbered(kind: SearchKind, tmp_path: Path) -> None:
    search = open_search(kind, config("l2"), 3, 0, tmp_path)
    for number in (-1, 3):
        with pytest.raises(ValueError, match="no trial"):
            search.ask(number)
        with pytest.raises(ValueError, match="no trial"):
            search.tell(number, 1.0)


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StockpotError, match=r"^search 'gird': .*grid, random, optuna\. Did you mean 'grid'\?$"):
        open_search("gird", config("l2"), 3, 0, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(StockpotError, match="at least one"):
        open_search("grid", config("l2"), 0, 0, tmp_path)


def test_random_trials_depend_on_seed_label_and_number_alone() -> None:
    def drawn(seed: int, trials: int, **keys: Any) -> list[dict[str, Any]]:
        return asked(open_search("random", config("sfa", **keys), trials, seed, Path("unused")))

    assert drawn(0, 20)[:5] == drawn(0, 5)
    assert [point["p"] for point in drawn(0, 5)] == [point["p"] for point in drawn(0, 5, beta=0.3)]
    others = [drawn(0, 5), drawn(1, 5), drawn(0, 5, label="other")]
    assert len({point["beta"] for points in others for point in points}) == 15


def test_random_trials_are_uniform_in_the_scale_of_their_range() -> None:
    points = asked(open_search("random", config("sfa"), 2000, 0, Path("unused")))
    shares = {
        "beta": [(point["beta"] - 0.05) / 0.9 for point in points],
        "p": [math.log(point["p"] / 0.05) / math.log(20) for point in points],
    }
    for values in shares.values():  # 1 % of fair draws lie beyond
        assert kstest(values, "uniform").statistic < 1.63 / math.sqrt(len(points))
    assert kstest(shares["beta"], [point["p"] for point in points]).statistic > 0.1  # the bound can be missed
    mean = [sum(values) / len(values) for values in shares.values()]
    product = sum(one * other for one, other in zip(*shares.values(), strict=True)) / len(points)
    assert abs(product - mean[0] * mean[1]) * 12 < 3 / math.sqrt(len(points))  # the keys are not drawn together


def quadratic(point: dict[str, Any]) -> float:
    """Highest, 0, at β = 0.4 and p = 0.2."""
    return -((point["beta"] - 0.4) ** 2) - math.log(point["p"] / 0.2) ** 2


def run(search: Search, start: int = 0, stop: int | None = None) -> list[dict[str, Any]]:
    points = []
    for number in range(start, search.trials if stop is None else stop):
        points.append(search.ask(number))
        search.tell(number, quadratic(points[-1]))
    return points


def test_optuna_improves_on_its_first_random_trials(tmp_path: Path) -> None:
    first, last = 0.0, 0.0
    for seed in range(3):
        points = run(open_search("optuna", config("sfa"), 36, seed, tmp_path / str(seed)))
        scores = [quadratic(point) for point in points]
        assert max(scores[10:]) > max(scores[:10])
        first, last = first + sum(scores[:10]), last + sum(scores[-10:])
    assert last > 0.5 * first  # both below zero: half as far from the best value


def test_optuna_goes_on_from_its_journal_as_if_never_stopped(tmp_path: Path) -> None:
    whole = run(open_search("optuna", config("sfa"), 14, 5, tmp_path / "whole"))
    parts = []
    for number in range(14):
        before = open_search("optuna", config("sfa"), 14, 5, tmp_path / "parts").ask(number)  # killed before its score
        search = open_search("optuna", config("sfa"), 14, 5, tmp_path / "parts")
        parts += run(search, number, number + 1)
        assert parts[-1] == before
    assert parts == whole
    assert len({point["beta"] for point in whole}) == 14  # a sampler that began anew would repeat its first draw


def test_optuna_draws_in_the_scale_of_a_range(tmp_path: Path) -> None:
    points = [
        point
        for seed in range(4)
        for point in asked(open_search("optuna", config("l2"), 9, seed, tmp_path / str(seed)))
    ]
    low = sum(point["strength"] < 0.1 for point in points)
    assert 0.25 < low / len(points) < 0.75  # half, in the logarithm; 1 % of even draws


def test_optuna_learns_from_scores(tmp_path: Path) -> None:
    one = open_search("optuna", config("l2"), 9, 0, tmp_path / "one")
    other = open_search("optuna", config("l2"), 9, 0, tmp_path / "other")
    for number in range(9):
        points = one.ask(number), other.ask(number)
        if number < 6:  # later both may look where neither has been
            assert (points[0] == points[1]) == (number < 3)  # a third is random
        one.tell(number, points[0]["strength"])
        other.tell(number, -points[1]["strength"])


@pytest.mark.parametrize("diverged", [None, math.nan, -math.inf])
def test_optuna_keeps_away_from_where_training_diverged(diverged: float | None, tmp_path: Path) -> None:
    later = 0
    for seed in range(3):
        search = open_search("optuna", config("wise_ft"), 30, seed, tmp_path / str(seed))
        for number in range(30):
            alpha = search.ask(number)["alpha"]
            search.tell(number, diverged if alpha > 0.5 else 0.5)
            later += number >= 10 and alpha > 0.5
    assert later < 0.35 * 60  # half of random draws


def test_optuna_takes_a_score_once(tmp_path: Path) -> None:
    def third(told: list[float | None], folder: str) -> dict[str, Any]:
        search = open_search("optuna", config("l2"), 9, 0, tmp_path / folder)
        for number in range(6):
            search.tell(number, search.ask(number)["strength"])
        search.ask(6)
        for score in told:
            search = open_search("optuna", config("l2"), 9, 0, tmp_path / folder)
            search.tell(6, score)
        return search.ask(7)

    assert third([1e3], "once") == third([1e3, -1e3, None], "again")
    assert third([None], "none") == third([None, 1e3], "none again") != third([1e3], "once")


def test_optuna_goes_on_behind_a_torn_last_line(tmp_path: Path) -> None:
    points = run(open_search("optuna", config("sfa"), 6, 0, tmp_path), 0, 3)
    journal = tmp_path / "sfa.optuna.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:-5])
    torn = open_search("optuna", config("sfa"), 6, 0, tmp_path)
    points += run(torn, 3, 5)
    again = open_search("optuna", config("sfa"), 6, 0, tmp_path)
    assert [again.ask(number) for number in range(5)] == points
    journal.write_bytes(whole[:40] + b"\n" + whole[40:])
    with pytest.raises(StockpotError, match=r"sfa\.optuna\.jsonl: the journal is damaged"):
        open_search("optuna", config("sfa"), 6, 0, tmp_path)


def test_optuna_refuses_the_journal_of_another_search(tmp_path: Path) -> None:
    open_search("optuna", config("sfa"), 6, 0, tmp_path).ask(0)
    open_search("optuna", config("sfa"), 8, 0, tmp_path).ask(1)  # more trials are the same search
    for method, seed in [(config("sfa"), 1), (config("sfa", beta=0.3), 0), (config("sfa", anchor="pretrained"), 0)]:
        with pytest.raises(StockpotError, match=r"started with another seed, method or search space"):
            open_search("optuna", method, 6, seed, tmp_path)


def test_optuna_is_asked_in_order(tmp_path: Path) -> None:
    search = open_search("optuna", config("sfa"), 6, 0, tmp_path)
    with pytest.raises(StockpotError, match="trial 1 was asked for before trial 0"):
        search.ask(1)
    with pytest.raises(ValueError, match="trial 0 was not asked for"):
        search.tell(0, 1.0)


def test_optuna_is_quiet(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from stockpot.methods.lwf import LwFConfig; "
        "from stockpot.comparisons.search import open_search; "
        "search = open_search('optuna', LwFConfig(name='lwf'), 8, 0, Path(sys.argv[1])); "
        "[search.tell(number, None if search.ask(number)['strength'] > 1 else 0.5) for number in range(8)]"
    )
    command = [sys.executable, "-W", "error::UserWarning", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (tmp_path / "lwf.optuna.jsonl").stat().st_size


def test_without_its_extra_the_search_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in ("sfa", "sequential"):
        with pytest.raises(StockpotError, match=r'^[^\n]*pip install "stockpot\[tune\]"[^\n]*$'):
            open_search("optuna", config(name), 3, 0, tmp_path)
    assert asked(open_search("random", config("sfa"), 3, 0, tmp_path))
