"""pass@k: programs that a model writes, run against tests; only with the user's consent, given twice."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from math import comb, fsum
from typing import Any, Literal

from pydantic import Field, model_validator

from stockpot.errors import StockpotError, did_you_mean
from stockpot.evaluation.language.generation import continuations
from stockpot.evaluation.language.sandbox import Limits, confined, passes
from stockpot.evaluation.scores.base import Score, Subject, thinned
from stockpot.spelling import consenting

_FENCED = re.compile(r"```[^\n]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


class PassAtK(Score):
    """The chance that one of k programs that the model writes passes its tests: runs what the model writes."""

    name: Literal["pass@k"] = "pass@k"
    run_code: bool = Field(
        False, description="must be true, beside --run-code: the programs are run on this machine, in a sandbox"
    )
    k: int = Field(1, ge=1)
    samples: int | None = Field(None, ge=1, description="programs written for each prompt, at least k; default: k")
    temperature: float | None = Field(None, ge=0, description="default: 0 (greedy) for one sample, else 0.8")
    tests: str = Field("test_list", description="column of a list of asserts (MBPP), or of code that defines check()")
    entry_point: str | None = Field(None, description="column of the function's name that check() gets (HumanEval)")
    begin: str | None = Field(None, description="column of what every program starts with (HumanEval: prompt)")
    stop: list[str] = Field(default_factory=list, description="what is written is cut before the first of these")
    max_new_tokens: int = Field(512, ge=1)
    limit: int | None = Field(200, ge=1, description="examples, evenly spaced over the part; null: all")
    seconds: float = Field(5.0, gt=0, description="of the wall clock, and of the processor, for each program")
    memory_mb: int = Field(512, ge=64, description="address space of each program")

    @property
    def title(self) -> str:
        """The label, or `pass@` with its k."""
        return self.label or f"pass@{self.k}"

    @property
    def programs(self) -> int:
        """n, the programs written for each prompt."""
        return self.samples or self.k

    @property
    def sampling_temperature(self) -> float:
        """The temperature of sampling; 0: greedy."""
        return (0.0 if self.programs == 1 else 0.8) if self.temperature is None else self.temperature

    @model_validator(mode="after")
    def _has_enough_samples(self) -> PassAtK:
        if self.programs < self.k:
            raise ValueError(f"samples: pass@{self.k} needs at least {self.k} samples, not {self.samples}")
        if self.programs > 1 and self.sampling_temperature == 0:
            raise ValueError("temperature: at 0 all samples are the same; one sample is enough, or raise it")
        return self

    def require_consent(self, allow_code: bool) -> None:
        """Raises StockpotError unless the recipe and the command line both allow running what the model writes.

        Also raised where there is no sandbox, and no consent to do without one.
        """
        if not (self.run_code and allow_code):
            missing = [] if self.run_code else ["set `run_code: true` in the metric"]
            missing += [] if allow_code else [consenting("run_code")]
            raise StockpotError(
                f"{self.title}: this score runs programs that the model writes, on this machine. If you want that, "
                f"{' and '.join(missing)}."
            )
        confined()

    def measure(self, subject: Subject) -> float:
        """The mean over prompts of pass@k; raises StockpotError without consent, Unsuited without columns."""
        self.require_consent(subject.allow_code)
        part = self.prompted(subject)
        self._check_columns(subject)
        chosen = thinned(range(len(part.prompts)), self.limit)
        written = continuations(
            subject.model,
            subject.tokenizer,
            [part.prompts[index] for index in chosen],
            batch_size=subject.batch_size,
            max_new_tokens=self.max_new_tokens,
            temperature=self.sampling_temperature,
            samples=self.programs,
        )
        limits = Limits(seconds=self.seconds, memory=self.memory_mb * 2**20)
        programs = [
            program_text(self, part.rows[index], text)
            for index, texts in zip(chosen, written, strict=True)
            for text in texts
        ]
        with ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 2) // 2)) as pool:
            passed = list(pool.map(lambda program: passes(program, limits), programs))
        n = self.programs
        counts = [sum(passed[start : start + n]) for start in range(0, len(passed), n)]
        return fsum(pass_at_k(n, c, self.k) for c in counts) / len(counts)

    def _check_columns(self, subject: Subject) -> None:
        columns = list(subject.text.rows[0]) if subject.text.rows else []
        for key in ("tests", "entry_point", "begin"):
            column = getattr(self, key)
            if column is not None and column not in columns:
                hint = did_you_mean(column, columns)
                raise self.unsuited(subject, f"{key}: there is no column {column!r}.{hint} Columns: {columns}")


def pass_at_k(n: int, c: int, k: int) -> float:
    """`1 − C(n−c, k)/C(n, k)`: the chance that of k programs drawn from n, one is among the c that pass.

    Unbiased for the chance of k new ones (Chen et al. 2021, https://arxiv.org/abs/2107.03374, section 2.1).
    """
    return 1 - comb(n - c, k) / comb(n, k)


def program_text(score: PassAtK, row: Mapping[str, Any], written: str) -> str:
    """The column `begin`, what the model wrote, and the row's tests, as one program."""
    fenced = _FENCED.search(written)
    body = fenced[1] if fenced else written
    cuts = [position for mark in score.stop if (position := body.find(mark)) >= 0]
    body = body[: min(cuts)] if cuts else body
    tests = row[score.tests]
    lines = [tests] if isinstance(tests, str) else [str(test) for test in tests]
    calls = [] if score.entry_point is None else [f"check({row[score.entry_point]})"]
    begin = "" if score.begin is None else str(row[score.begin])
    if begin and fenced:
        begin += "\n"  # a fenced answer is a whole program, which repeats how it starts
    return "\n".join([begin + body, *lines, *calls]) + "\n"
