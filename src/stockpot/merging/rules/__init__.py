"""The merge rules, one file for a rule or for a rule and its variant; a new rule adds a line here."""

from __future__ import annotations

from stockpot.merging.rule import Rule
from stockpot.merging.rules.breadcrumbs import BREADCRUMBS, BREADCRUMBS_TIES
from stockpot.merging.rules.dare import DARE_LINEAR, DARE_TIES
from stockpot.merging.rules.della import DELLA, DELLA_LINEAR
from stockpot.merging.rules.fisher import FISHER
from stockpot.merging.rules.linear import LINEAR, WISE_FT
from stockpot.merging.rules.magmax import MAGMAX
from stockpot.merging.rules.model_stock import MODEL_STOCK
from stockpot.merging.rules.passthrough import PASSTHROUGH
from stockpot.merging.rules.slerp import NUSLERP, SLERP
from stockpot.merging.rules.task_arithmetic import TASK_ARITHMETIC
from stockpot.merging.rules.ties import TIES

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        LINEAR, WISE_FT, SLERP, NUSLERP, TASK_ARITHMETIC, TIES, DARE_LINEAR, DARE_TIES, BREADCRUMBS, BREADCRUMBS_TIES,
        DELLA, DELLA_LINEAR, MAGMAX, MODEL_STOCK, FISHER, PASSTHROUGH,
    )
}  # fmt: skip
