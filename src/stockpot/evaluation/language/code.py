"""pass@k: programs that a model writes, run against tests; only with the user's consent, given twice."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from math import comb, fsum
from typing import Any

from torch import nn

from stockpot.errors import StockpotError, did_you_mean
from stockpot.evaluation.language.answer import Unsuited, spaced
from stockpot.evaluation.language.generation import continuations
from stockpot.evaluation.language.sandbox import Limits, confined, passes
from stockpot.evaluation.spec import PassAtK
from stockpot.streams.text.part import TextPart

_FENCED = re.compile(r"```[^\n]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


def require_consent(spec: PassAtK, allow_code: bool) -> None:
    """Raises StockpotError unless the recipe and the command line both allow running what the model writes, and there
    is a sandbox, or consent to do without.
    """
    if not (spec.run_code and allow_code):
        missing = [] if spec.run_code else ["set `run_code: true` in the metric"]
        missing += [] if allow_code else ["add --run-code to the command"]
        raise StockpotError(
            f"{spec.title}: this score runs programs that the model writes, on this machine: {' and '.join(missing)}, "
            "if you want that."
        )
    confined()


def pass_at_k(n: int, c: int, k: int) -> float:
    """`1 − C(n−c, k)/C(n, k)`, the chance that of k drawn from n programs one is among the c that pass.

    Unbiased for the chance of k new ones (Chen et al. 2021, https://arxiv.org/abs/2107.03374, section 2.1).
    """
    return 1 - comb(n - c, k) / comb(n, k)


def program(spec: PassAtK, row: Mapping[str, Any], written: str) -> str:
    """The column `begin`, what the model wrote, and the row's tests, as one program."""
    fenced = _FENCED.search(written)
    body = fenced[1] if fenced else written
    cuts = [place for mark in spec.stop if (place := body.find(mark)) >= 0]
    body = body[: min(cuts)] if cuts else body
    tests = row[spec.tests]
    lines = [tests] if isinstance(tests, str) else [str(test) for test in tests]
    called = [] if spec.entry_point is None else [f"check({row[spec.entry_point]})"]
    begin = "" if spec.begin is None else str(row[spec.begin])
    if begin and fenced:
        begin += "\n"  # a whole program, said again below what it began with
    return "\n".join([begin + body, *lines, *called]) + "\n"


def check_columns(spec: PassAtK, part: TextPart) -> None:
    """Raises Unsuited where the part has no prompts, or no such columns."""
    if not part.prompts:
        raise Unsuited(f"{spec.title} on {part.task!r}: plain text has no prompts to answer.")
    columns = list(part.rows[0]) if part.rows else []
    for key in ("tests", "entry_point", "begin"):
        wanted = getattr(spec, key)
        if wanted is not None and wanted not in columns:
            hint = did_you_mean(wanted, columns)
            raise Unsuited(
                f"{spec.title} on {part.task!r}: {key}: there is no column {wanted!r}.{hint} Columns: {columns}."
            )


def code_score(
    spec: PassAtK, model: nn.Module, tokenizer: Any, part: TextPart, batch_size: int, allow_code: bool
) -> float:
    """The mean over prompts of pass@k; raises StockpotError without consent, Unsuited without columns."""
    require_consent(spec, allow_code)
    check_columns(spec, part)
    chosen = spaced(range(len(part.prompts)), spec.limit)
    written = continuations(
        model,
        tokenizer,
        [part.prompts[index] for index in chosen],
        batch_size=batch_size,
        max_new_tokens=spec.max_new_tokens,
        temperature=spec.heat,
        samples=spec.programs,
    )
    limits = Limits(seconds=spec.seconds, memory=spec.memory_mb * 2**20)
    programs = [
        program(spec, part.rows[index], text) for index, texts in zip(chosen, written, strict=True) for text in texts
    ]
    with ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 2) // 2)) as pool:
        passed = list(pool.map(lambda one: passes(one, limits), programs))
    n = spec.programs
    counts = [sum(passed[start : start + n]) for start in range(0, len(passed), n)]
    return fsum(pass_at_k(n, c, spec.k) for c in counts) / len(counts)
