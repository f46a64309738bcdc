"""A task of lm-evaluation-harness, run on the model in memory. The library is large: install the extra `eval`."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from stockpot.batches.outputs import evaluation_mode
from stockpot.errors import StockpotError, did_you_mean
from stockpot.evaluation.consent import WITHOUT_A_SANDBOX, has_unsandboxed_consent
from stockpot.evaluation.scores.base import Score, Subject
from stockpot.spelling import consenting
from stockpot.strict import FreeBlock
from stockpot.switches import read_switches
from stockpot.yaml_text import read_yaml


class LmEval(Score):
    """A result of a task of lm-evaluation-harness, filled in at the one task or control that `tasks` names."""

    name: Literal["lm_eval"] = "lm_eval"
    tasks: list[str] = Field(description="the one task or control whose cells it fills", min_length=1, max_length=1)
    task: str | FreeBlock = Field(description="name in the harness, its definition, or a YAML file of it")
    metric: str = Field(description="which of its results: `acc`, or with a filter `exact_match,strict-match`")
    better: Literal["higher", "lower"] | None = Field(None, description="default: as the harness declares it")
    limit: int | None = Field(None, ge=1, description="the first so many examples; null: all")
    num_fewshot: int | None = Field(None, ge=0, description="examples shown first; default: as the task says")

    @property
    def unit(self) -> str:  # type: ignore[override]  # of other scores a constant of the class
        """`fraction` for the harness's accuracies and matches; else the metric's name."""
        metric = self.metric.split(",")[0]
        return "fraction" if metric in {"acc", "acc_norm", "acc_bytes", "exact_match", "f1"} else metric

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """As `better` says, or the harness; raises StockpotError where neither does."""
        return declared_direction(self) if self.better is None else self.better == "higher"

    def measure(self, subject: Subject) -> float:
        """The harness reads its own data: of the part, only the task's name counts."""
        return run_harness(self, subject.model, subject.tokenizer, subject.batch_size, has_unsandboxed_consent())


def _definition(score: LmEval) -> str | dict[str, Any]:
    """The task's name in the harness, or its definition; a YAML file is read without running any code of it."""
    if isinstance(score.task, str) and Path(score.task).suffix in (".yaml", ".yml"):
        return dict[str, Any](read_switches(read_yaml(Path(score.task))))
    return score.task


def _name_of(definition: str | Mapping[str, Any], score: LmEval) -> str:
    if isinstance(definition, str):
        return definition
    if "task" not in definition:
        raise StockpotError(f"{score.title}: task: the definition needs a `task:`, the name of its results.")
    return str(definition["task"])


def declared_direction(score: LmEval) -> bool:
    """Whether higher is better, as the definition's `metric_list` or the harness's own metric says.

    Raises StockpotError where neither says.
    """
    wanted = score.metric.split(",")[0]
    definition = _definition(score)
    if not isinstance(definition, str):
        for metric in definition.get("metric_list", ()):
            if metric.get("metric") == wanted and "higher_is_better" in metric:
                return bool(metric["higher_is_better"])
    _require_harness(score)
    from lm_eval.api.registry import HIGHER_IS_BETTER_REGISTRY

    direction = HIGHER_IS_BETTER_REGISTRY.get(wanted, None)
    if direction is None:
        raise StockpotError(
            f"{score.title}: the harness does not say whether higher or lower is better for {wanted!r}; give `better`."
        )
    return bool(direction)


def _require_harness(score: LmEval) -> None:
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise StockpotError(
            f"{score.title}: lm_eval needs lm-evaluation-harness: pip install 'stockpot[eval]'."
        ) from error


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restores random states, the modules' modes and the harness's log level afterwards."""
    device = next(model.parameters()).device
    python, numbers = random.getstate(), np.random.get_state()
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with evaluation_mode(model), torch.random.fork_rng([device.index] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        log.setLevel(level)


def run_harness(score: LmEval, model: nn.Module, tokenizer: Any, batch_size: int, allow_code: bool = False) -> float:
    """One result of one task; random states and the model are left as they were.

    The harness runs programs that the model writes in this process, so only with `allow_code`. Raises StockpotError
    where the harness is missing, does not know the task, fails, or has no such result.
    """
    _require_harness(score)
    definition = _definition(score)
    name = _name_of(definition, score)
    with _restored(model):
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        tasks = TaskManager(include_defaults=isinstance(definition, str))
        if isinstance(definition, str) and definition not in tasks.all_tasks:
            hint = did_you_mean(name, tasks.all_tasks)
            raise StockpotError(f"{score.title}: the harness has no task {name!r}.{hint}")
        try:
            output = simple_evaluate(
                model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
                tasks=[definition],
                task_manager=tasks,
                num_fewshot=score.num_fewshot,
                limit=score.limit,
                bootstrap_iters=0,
                log_samples=False,
                confirm_run_unsafe_code=allow_code,
            )
        except Exception as error:  # a task is someone else's code and data: it may fail in any way
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if "confirm_run_unsafe_code" in reason:
                reason = (
                    "it runs programs that the model writes, and not in the sandbox. If you want that, "
                    f"{consenting('run_code_unsandboxed')}: {WITHOUT_A_SANDBOX}."
                )
            raise StockpotError(f"{score.title}: the harness's task {name!r} failed: {reason}") from error
    return pick_result(score, output["results"].get(name, {}))


def pick_result(score: LmEval, results: Mapping[str, Any]) -> float:
    """The result that `metric` names; raises StockpotError where it names none, or several that differ by filter."""
    known = [key for key, value in results.items() if isinstance(value, int | float) and "_stderr" not in key]
    named = [key for key in known if key == score.metric or key.split(",")[0] == score.metric]
    if len(named) != 1:
        fault = f"has several results {score.metric!r}" if named else f"has no result {score.metric!r}"
        raise StockpotError(f"{score.title}: metric: the task {fault}; give one of {', '.join(named or known)}.")
    return float(results[named[0]])
