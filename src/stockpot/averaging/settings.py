"""The settings of SFA, whoever trains the model: one declaration for SFA, the Trainer, Lightning and Axolotl."""

from __future__ import annotations

from collections.abc import Mapping

from stockpot.averaging.schedule import is_number
from stockpot.errors import StockpotError

Beta = float | dict[str, float]


def check_beta(beta: float | Mapping[str, float]) -> Beta:
    """β as a number, or as name pattern → number in the order written.

    Raises:
        StockpotError: unless every β lies in [0, 1], and there is at least one.
    """
    if isinstance(beta, Mapping) and not beta:
        raise StockpotError("beta has no patterns; give a number, or at least the pattern '*'.")
    for pattern, value in beta.items() if isinstance(beta, Mapping) else [(None, beta)]:
        if not is_number(value) or not 0 <= value <= 1:
            where = "beta" if pattern is None else f"beta of '{pattern}'"
            raise StockpotError(f"{where} must lie in [0, 1], the weight of the anchor, not {value!r}.")
    return {str(name): float(value) for name, value in beta.items()} if isinstance(beta, Mapping) else float(beta)
