"""Tasks of lm-evaluation-harness, run on the model in memory. It is heavy: the extra `eval`."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stockpot.batches.outputs import evaluation_mode
from stockpot.errors import StockpotError, did_you_mean
from stockpot.evaluation.consent import WITHOUT_A_SANDBOX
from stockpot.evaluation.spec import LmEval
from stockpot.switches import read_switches
from stockpot.yaml_text import read_yaml


def _definition(spec: LmEval) -> str | dict[str, Any]:
    """The task's name in the harness, or its definition; a YAML file is read without running any code of it."""
    if isinstance(spec.task, str) and Path(spec.task).suffix in (".yaml", ".yml"):
        return dict[str, Any](read_switches(read_yaml(Path(spec.task))))
    return spec.task


def _title(definition: str | Mapping[str, Any], spec: LmEval) -> str:
    if isinstance(definition, str):
        return definition
    if "task" not in definition:
        raise StockpotError(f"{spec.title}: task: the definition needs a `task:`, the name of its results.")
    return str(definition["task"])


def declared_direction(spec: LmEval) -> bool:
    """Whether higher is better, as the definition's `metric_list` or the harness's own metric says.

    Raises StockpotError where neither says.
    """
    wanted = spec.metric.split(",")[0]
    definition = _definition(spec)
    if not isinstance(definition, str):
        for metric in definition.get("metric_list", ()):
            if metric.get("metric") == wanted and "higher_is_better" in metric:
                return bool(metric["higher_is_better"])
    _require(spec)
    from lm_eval.api.registry import HIGHER_IS_BETTER_REGISTRY

    found = HIGHER_IS_BETTER_REGISTRY.get(wanted, None)
    if found is None:
        raise StockpotError(f"{spec.title}: the harness does not say which way {wanted!r} runs; give `better`.")
    return bool(found)


def _require(spec: LmEval) -> None:
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise StockpotError(
            f"{spec.title}: lm_eval needs lm-evaluation-harness: pip install 'stockpot[eval]'."
        ) from error


@contextlib.contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Random states, modules' modes, gradients and the harness's log level as they were."""
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


def lm_eval_score(spec: LmEval, model: nn.Module, tokenizer: Any, batch_size: int, allow_code: bool = False) -> float:
    """One result of one task; random states and the model are left as they were.

    Tasks that run the model's code do so in this process, so only with `allow_code`. Raises StockpotError where the
    harness is missing, does not know the task or fails, or has no such result.
    """
    _require(spec)
    definition = _definition(spec)
    title = _title(definition, spec)
    with _undisturbed(model):
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        tasks = TaskManager(include_defaults=isinstance(definition, str))
        if isinstance(definition, str) and definition not in tasks.all_tasks:
            raise StockpotError(
                f"{spec.title}: the harness has no task {title!r}.{did_you_mean(title, tasks.all_tasks)}"
            )
        try:
            found = simple_evaluate(
                model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
                tasks=[definition],
                task_manager=tasks,
                num_fewshot=spec.num_fewshot,
                limit=spec.limit,
                bootstrap_iters=0,
                log_samples=False,
                confirm_run_unsafe_code=allow_code,
            )
        except Exception as error:  # tasks are programs and data of others: they may fail in any way
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if "confirm_run_unsafe_code" in reason:
                reason = (
                    "it runs programs that the model writes, and not in the sandbox. Add --run-code-unsandboxed to the "
                    f"command, if you want that: {WITHOUT_A_SANDBOX}."
                )
            raise StockpotError(f"{spec.title}: the harness's task {title!r} failed: {reason}") from error
    return picked(spec, found["results"].get(title, {}))


def picked(spec: LmEval, results: Mapping[str, Any]) -> float:
    """The result that `metric` names; raises StockpotError where it names none, or several that differ by filter."""
    known = [key for key, value in results.items() if isinstance(value, int | float) and "_stderr" not in key]
    named = [key for key in known if key == spec.metric or key.split(",")[0] == spec.metric]
    if len(named) != 1:
        fault = f"has several results {spec.metric!r}" if named else f"has no result {spec.metric!r}"
        raise StockpotError(f"{spec.title}: metric: the task {fault}; give one of {', '.join(named or known)}.")
    return float(results[named[0]])
