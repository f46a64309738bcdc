"""Publishes what a task left behind, and journals it: only that line makes the task learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from stockpot import files
from stockpot.methods.base import Method
from stockpot.models import lora
from stockpot.models.named_adapter import named_adapter
from stockpot.models.store import save_model
from stockpot.results import Results
from stockpot.runs.cards import hub_name, write_model_card
from stockpot.runs.events import FileFingerprints, LearntTask
from stockpot.runs.folder import BASE
from stockpot.runs.results_json import results_of, write_results
from stockpot.runs.session import OPTIMIZER, Session
from stockpot.training.method_state import write_state


def publish_model(session: Session, model: nn.Module, index: int, results: Results | None = None) -> None:
    """Writes the model folder after task `index` (−1: the start model), with a card of the results: all or nothing."""
    folder = session.run.model(index)
    session.run.journal.check_place()
    with files.publishing(folder.parent) as temporary:
        inside = temporary / folder.name
        inside.mkdir()
        if lora.is_stacked(model):
            lora.save_adapter(model, inside, *_base(session))
            if index < 0:
                lora.save_base(model, inside / BASE)
        else:
            save_model(model, inside, session.recipe.model, session.rows(index))
        session.stream.save_preprocessor(inside)
        if results is not None:
            write_model_card(session.run, results, inside)


def _base(session: Session) -> tuple[str, str | None]:
    """The base of an adapter, and its revision: the hub's model where it sits on that, else the run's own copy."""
    spec = session.recipe.model
    adapter = named_adapter(spec)
    beneath = spec if adapter is None else adapter.base
    folded = adapter is not None and adapter.how == "fold"  # into the run's copy alone
    whole = not (session.stream.has_classes or folded)  # a classifier's output layer is random
    if whole and (name := hub_name(beneath.name)):
        return name, beneath.revision
    start = session.run.model(-1)
    return str((start if adapter is None or folded else start / BASE).resolve()), None


def _publish_state(
    session: Session, method: Method[Any], index: int, optimizer_state: Mapping[str, Tensor]
) -> FileFingerprints:
    folder = session.run.state(index)
    with files.publishing(folder) as temporary:
        write_state(method, temporary)
        if optimizer_state:
            save_file(dict(optimizer_state), str(temporary / OPTIMIZER))
    return files.fingerprint(folder)


def record_task(
    session: Session,
    model: nn.Module,
    method: Method[Any],
    optimizer_state: Mapping[str, Tensor],
    event: LearntTask,
) -> None:
    """Publishes model, card and state, and journals the task as done; then writes results.json."""
    run, index = session.run, event["index"]
    publish_model(session, model, index, results_of(run, pending=event))
    state_files = _publish_state(session, method, index, optimizer_state)
    run.journal.append({**event, "files": files.fingerprint(run.model(index)), "state_files": state_files})
    run.prune()
    write_results(run)
