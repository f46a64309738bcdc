"""Each order's averages are those of its own runs."""

from collections.abc import Callable
from typing import Any

import pytest

from stockpot.report import orders

Factory = Callable[..., Any]


def test_seeds_are_averaged_within_each_order(comparison_of: Factory) -> None:
    comparison, cells = comparison_of(3, orders=2)
    found = orders.per_order(comparison)
    assert list(found) == ["joint", "replay", "sfa", "wise_ft", "sequential"]
    for label, row in found.items():
        for k, value in enumerate(row):
            runs = [run for run in cells[label] if run.tasks == comparison.orders[k]]
            assert len(runs) == 3
            assert value == pytest.approx(sum(run.metrics.average_accuracy for run in runs) / 3)


def test_the_table_says_how_far_and_the_fact_who_is_best(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(2, orders=2)
    rows = {label: [0.9, 0.9] for label in comparison.methods}
    rows |= {"sfa": [0.8, 0.7], "replay": [0.7, 0.95], "wise_ft": [0.1, 0.1]}
    for label, (first, second) in rows.items():
        summary = comparison.methods[label]
        values = summary.average_accuracy.model_copy(update={"values": [first, first, second, second]})
        comparison.methods[label] = summary.model_copy(update={"average_accuracy": values})
    grid = orders.order_grid(comparison)
    assert grid.headings == ["order 1", "order 2", "moves by"] and "2 seeds × 2 orders" in grid.caption
    assert dict(grid.rows)["replay"] == ["0.700", "0.950", "25.0 points"]
    assert dict(grid.rows)["wise_ft"][-1] == "0.0 points"
    assert orders.order_facts(comparison) == [
        "Best mean in each order: 1 SFA, behind sequential fine-tuning; 2 rehearsal (described, not tested; "
        "2 seeds × 2 orders)."
    ]


def test_a_method_without_one_of_the_orders_is_not_ranked(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(1, orders=2)
    summary = comparison.methods["sfa"]
    hole = summary.average_accuracy.model_copy(update={"values": [0.999, None]})
    comparison.methods["sfa"] = summary.model_copy(update={"average_accuracy": hole})
    assert orders.per_order(comparison)["sfa"] == [0.999, None]
    assert not any("SFA" in fact for fact in orders.order_facts(comparison))
    assert dict(orders.order_grid(comparison).rows)["sfa"] == ["0.999", "—", "—"]
