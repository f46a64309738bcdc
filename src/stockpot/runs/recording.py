"""Publishes what a task left behind, and journals it: only that line makes the task learnt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from stockpot import files
from stockpot.methods.base import Method
from stockpot.models import lora
from stockpot.models.store import save_model
from stockpot.runs.events import FileFingerprints, LearntTask
from stockpot.runs.results_json import results_of, write_results
from stockpot.runs.session import OPTIMIZER, Session
from stockpot.training.method_state import write_state


def publish_model(session: Session, model: nn.Module, index: int, card: str | None = None) -> None:
    """Writes the model folder after task `index` (−1: the start model), all of it or nothing."""
    folder = session.run.model(index)
    session.run.journal.check_place()
    with files.publishing(folder.parent) as temporary:
        inside = temporary / folder.name
        inside.mkdir()
        if lora.is_stacked(model):
            lora.save_adapter(model, inside, _base(session))
        else:
            save_model(model, inside, session.recipe.model, session.rows(index))
        session.stream.save_preprocessor(inside)
        if card is not None:
            (inside / "README.md").write_text(card, encoding="utf-8")


def _base(session: Session) -> str:
    """The base of an adapter: the hub's model where that is the start model, else the run's own copy."""
    spec = session.recipe.model
    whole = not session.stream.has_classes and spec.revision is None  # a classifier's output layer is random
    return (_hub_name(spec.name) if whole else None) or str(session.run.model(-1).resolve())


def _hub_name(path: str | None) -> str | None:
    """A name on the hub; None for a local folder, whose path is absolute, and for scikit-learn's digits."""
    return None if path is None or path == "digits" or Path(path).is_absolute() else path


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
    from stockpot.report.card import model_card

    run, index = session.run, event["index"]
    spec = session.recipe.model
    datasets = {name for task in session.stream.tasks[: index + 1] if (name := _hub_name(task.data.path))}
    card = model_card(results_of(run, pending=event), _hub_name(spec.name), sorted(datasets), None)
    publish_model(session, model, index, card)
    state_files = _publish_state(session, method, index, optimizer_state)
    run.journal.append({**event, "files": files.fingerprint(run.model(index)), "state_files": state_files})
    run.prune()
    write_results(run)
