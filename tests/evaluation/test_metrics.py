"""Every metric against a matrix worked by hand, and the identities that hold for all matrices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.evaluation import metrics
from stockpot.results import Scores

R = [[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.5, 0.4, 0.7]]
INITIAL = [0.1, 0.15, 0.1]

score = st.floats(0, 1, allow_nan=False, width=32)


@st.composite
def matrices(draw: st.DrawFn, least: int = 2) -> list[list[float]]:
    K = draw(st.integers(least, 6))
    return [[draw(score) for _ in range(K)] for _ in range(K)]


def test_closed_forms() -> None:
    assert metrics.average_accuracy(R) == pytest.approx((0.5 + 0.4 + 0.7) / 3)
    assert metrics.average_over_time(R) == pytest.approx((0.9 + (0.6 + 0.8) / 2 + (0.5 + 0.4 + 0.7) / 3) / 3)
    assert metrics.forgetting(R) == pytest.approx(((0.9 - 0.5) + (0.8 - 0.4)) / 2)
    assert metrics.backward_transfer(R) == pytest.approx(((0.5 - 0.9) + (0.4 - 0.8)) / 2)
    assert metrics.forward_transfer(R, INITIAL) == pytest.approx(((0.1 - 0.15) + (0.3 - 0.1)) / 2)
    assert metrics.plasticity(R) == pytest.approx((0.9 + 0.8 + 0.7) / 3)
    assert metrics.newest_accuracy(R) == 0.7
    assert metrics.past_accuracy(R) == pytest.approx(sum(R[-1][:-1]) / (len(R) - 1))
    assert metrics.past_accuracy(R[:1]) is None
    assert metrics.kept_fraction(0.1, 0.4) == pytest.approx(0.75)


def test_forgetting_is_counted_from_the_best_score_not_the_first() -> None:
    improved = [[0.7, 0, 0], [0.9, 0.8, 0], [0.5, 0.4, 0.7]]
    assert metrics.forgetting(improved) == pytest.approx(((0.9 - 0.5) + (0.8 - 0.4)) / 2)
    assert metrics.backward_transfer(improved) == pytest.approx(((0.5 - 0.7) + (0.4 - 0.8)) / 2)


def test_the_last_row_does_not_count_as_a_best_score() -> None:
    """max runs over i < K, so a task that ends at its best is forgotten by a negative amount."""
    assert metrics.forgetting([[0.5, 0.0], [0.6, 0.9]]) == pytest.approx(-0.1)


def test_losses_turn_the_sign_of_changes_and_not_of_levels() -> None:
    losses = [[0.2, 3.0], [1.2, 0.4]]  # nats: the first task got worse by one
    assert metrics.forgetting(losses, higher_is_better=False) == pytest.approx(1.0)
    assert metrics.backward_transfer(losses, higher_is_better=False) == pytest.approx(-1.0)
    assert metrics.forward_transfer(losses, [2.0, 3.5], higher_is_better=False) == pytest.approx(0.5)
    assert metrics.average_accuracy(losses) == pytest.approx(0.8)


@pytest.mark.parametrize("kept", [(None, 0.5), (0.5, None), (0.5, 0.0), (0.5, -0.1)])
def test_kept_is_undefined_where_nothing_was_lost(kept: tuple[float | None, float | None]) -> None:
    assert metrics.kept_fraction(*kept) is None


def test_one_task_has_nothing_to_forget() -> None:
    summary = metrics.stream_metrics(Scores(matrix=[[0.8]], initial=[0.1], higher_is_better=True, unit="fraction"))
    assert summary.forgetting is summary.backward_transfer is summary.forward_transfer is None
    assert summary.average_accuracy == summary.average_over_time == summary.plasticity == summary.newest_accuracy == 0.8


def test_no_task_at_all_has_no_metric() -> None:
    summary = metrics.stream_metrics(Scores(matrix=[], initial=[], higher_is_better=True, unit="fraction"))
    assert set(summary.model_dump().values()) == {None}


def test_an_unmeasured_cell_undoes_only_the_metrics_that_need_it() -> None:
    upper = [[0.9, None, None], [0.6, 0.8, None], [0.5, 0.4, 0.7]]
    assert metrics.forward_transfer(upper, INITIAL) is None
    assert metrics.forgetting(upper) == metrics.forgetting(R)
    assert metrics.average_over_time(upper) == metrics.average_over_time(R)
    middle = [[0.9, 0.1, 0.2], [None, 0.8, 0.3], [0.5, 0.4, 0.7]]
    assert metrics.forgetting(middle) is None
    assert metrics.average_over_time(middle) is None
    assert metrics.backward_transfer(middle) == metrics.backward_transfer(R)


def test_tasks_still_to_come_do_not_count() -> None:
    """Two of three tasks learnt: the metrics are those of the two."""
    begun = R[:2]
    assert metrics.average_accuracy(begun) == pytest.approx((0.6 + 0.8) / 2)
    assert metrics.forgetting(begun) == pytest.approx(0.3)
    assert metrics.newest_accuracy(begun) == 0.8


def test_stages_that_start_anew_forget_nothing() -> None:
    scores = Scores(matrix=R, initial=INITIAL, higher_is_better=True, unit="fraction")
    joint, chain = metrics.stream_metrics(scores, chained=False), metrics.stream_metrics(scores)
    assert joint.forgetting is joint.backward_transfer is None
    assert joint.model_copy(update={"forgetting": 0, "backward_transfer": 0}) == chain.model_copy(
        update={"forgetting": 0, "backward_transfer": 0}
    )


@given(st.integers(1, 7), score)
def test_a_constant_matrix_forgets_nothing(K: int, value: float) -> None:
    constant = [[value] * K for _ in range(K)]
    assert metrics.average_accuracy(constant) == pytest.approx(value)
    assert metrics.plasticity(constant) == pytest.approx(value)
    if K > 1:
        assert metrics.forgetting(constant) == metrics.backward_transfer(constant) == 0


@given(matrices())
def test_forgetting_is_minus_backward_transfer_where_each_task_is_best_when_learnt(matrix: list[list[float]]) -> None:
    K = len(matrix)
    for j in range(K):
        matrix[j][j] = max(matrix[i][j] for i in range(j, K))
    forgetting, backward = metrics.forgetting(matrix), metrics.backward_transfer(matrix)
    assert forgetting is not None and backward is not None
    assert forgetting == pytest.approx(-backward) and forgetting >= 0


@given(matrices())
def test_forgetting_is_at_least_minus_backward_transfer(matrix: list[list[float]]) -> None:
    forgetting, backward = metrics.forgetting(matrix), metrics.backward_transfer(matrix)
    assert forgetting is not None and backward is not None and forgetting >= -backward - 1e-12


@given(matrices(), st.randoms(use_true_random=False))
def test_average_does_not_depend_on_the_order_of_the_tasks(matrix: list[list[float]], random: object) -> None:
    order = list(range(len(matrix)))
    random.shuffle(order)  # type: ignore[attr-defined]
    permuted = [[row[j] for j in order] for row in matrix]
    assert metrics.average_accuracy(permuted) == pytest.approx(metrics.average_accuracy(matrix))


@given(matrices(), st.randoms(use_true_random=False))
def test_plasticity_does_not_depend_on_rows_and_columns_permuted_together(
    matrix: list[list[float]], random: object
) -> None:
    order = list(range(len(matrix)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert metrics.plasticity([[matrix[i][j] for j in order] for i in order]) == pytest.approx(
        metrics.plasticity(matrix)
    )


@given(matrices(), st.floats(-5, 5))
def test_changes_do_not_depend_on_the_zero_of_the_score(matrix: list[list[float]], shift: float) -> None:
    moved = [[value + shift for value in row] for row in matrix]
    initial, moved_initial = matrix[0], moved[0]
    for change in (metrics.forgetting, metrics.backward_transfer):
        assert change(moved) == pytest.approx(change(matrix), abs=1e-9)
    assert metrics.forward_transfer(moved, moved_initial) == pytest.approx(
        metrics.forward_transfer(matrix, initial), abs=1e-9
    )


@given(matrices())
def test_a_loss_is_a_score_with_its_sign_turned(matrix: list[list[float]]) -> None:
    turned = [[-value for value in row] for row in matrix]
    assert metrics.forgetting(turned, higher_is_better=False) == pytest.approx(metrics.forgetting(matrix))
    assert metrics.backward_transfer(turned, higher_is_better=False) == pytest.approx(metrics.backward_transfer(matrix))
    assert metrics.forward_transfer(turned, turned[-1], higher_is_better=False) == pytest.approx(
        metrics.forward_transfer(matrix, matrix[-1])
    )
