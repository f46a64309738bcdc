"""One run of TensorBoard, W&B, MLflow or Trackio, by Accelerate's trackers: opened, found again, written once."""

from __future__ import annotations

import json
import logging
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot import files
from stockpot.errors import StockpotError

PROJECT = "stockpot"  # where the environment names no other: WANDB_PROJECT, MLFLOW_EXPERIMENT_NAME, TRACKIO_PROJECT
MEMORY = "trackers.json"  # what the folder of logs remembers of each tracker
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_IN_MLFLOW = re.compile(r"[^\w\-. :/]")
_logger = logging.getLogger("stockpot")


@dataclass(frozen=True)
class StreamName:
    """What a stream is called in a tracker."""

    name: str
    group: str  # of the runs of a comparison
    tags: list[str]
    config: dict[str, Any]  # the recipe


@dataclass
class Tracker:
    """A tracker that is writing. One that fails while it writes is left out, with a warning: training goes on."""

    kind: str
    writer: Any  # one of accelerate.tracking
    memory: dict[str, Any]  # `id`, the last `step` and the number of `rows` written so far
    failed: bool = False

    def __post_init__(self) -> None:
        self._known_step = -1 if self.kind == "tensorboard" else int(self.memory["step"])  # it purges what it had

    def has(self, step: int) -> bool:
        """Whether an earlier process wrote the numbers of this step before it was stopped."""
        return step <= self._known_step

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Writes numbers at a step of the stream."""
        if self.failed or not values:
            return
        if self.kind == "mlflow":
            values = {_NOT_IN_MLFLOW.sub("_", name): value for name, value in values.items()}
        try:
            self.writer.log(dict(values), step=step)
            self.memory["step"] = step
        except Exception as error:
            self.failed = True
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            _logger.warning("%s: nothing more is written to it: %s", self.kind, reason)

    def close(self) -> None:
        """Ends the tracker's run; a later resume opens it again."""
        try:
            self.writer.finish()
        except Exception as error:
            _logger.warning("%s: could not be closed: %s", self.kind, error)


def read_memory(folder: Path) -> dict[str, dict[str, Any]]:
    """What the trackers of a run wrote so far, by kind; nothing where the file is missing or not as it was written."""
    try:
        saved = json.loads((folder / MEMORY).read_text(encoding="utf-8"))
        return {
            str(kind): {
                "id": str(memory["id"]) if _ID.fullmatch(str(memory["id"])) else uuid.uuid4().hex,
                "step": int(memory["step"]),
                "rows": int(memory["rows"]),
            }
            for kind, memory in saved.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_memory(folder: Path, trackers: list[Tracker]) -> None:
    """Replaces the file; it is not synced, which would slow training: a crash may cost a repeated line of a log."""
    temporary = folder / f"{files.TEMPORARY}{MEMORY}"
    temporary.write_text(json.dumps({tracker.kind: tracker.memory for tracker in trackers}), encoding="utf-8")
    temporary.replace(folder / MEMORY)


def forget_trackers(run: Path) -> None:
    """Lets a copy of a run begin runs of its own; TensorBoard's files were copied with it."""
    folder = run / "logs"
    if kept := {kind: memory for kind, memory in read_memory(folder).items() if kind == "tensorboard"}:
        files.write_json(folder / MEMORY, kept)
    else:
        (folder / MEMORY).unlink(missing_ok=True)


def open_tracker(kind: str, stream: StreamName, folder: Path, memory: dict[str, Any] | None, restart: int) -> Tracker:
    """Opens a tracker's run: a new one, or that of `memory`.

    Args:
        kind: tensorboard, wandb, mlflow or trackio.
        stream: what it is called.
        folder: for its files, and for MEMORY.
        memory: of an earlier process; None for none.
        restart: the last step of the stream that is not learnt again.

    Raises:
        StockpotError: it cannot be started, for example because it is not logged in.
    """
    try:
        from accelerate import tracking

        known = {"id": uuid.uuid4().hex, "step": -1, "rows": 0} if memory is None else memory
        writer = _writer(kind, tracking, stream, folder, known, resumed=memory is not None, restart=restart)
        if hasattr(writer, "start"):  # older ones start when they are made
            writer.start()
        if kind == "mlflow":
            known["id"] = writer.tracker.info.run_id
        tracker = Tracker(kind, writer, known)
        if memory is None:
            _describe(tracker, stream)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StockpotError(f"train.report_to: {kind} could not be started: {reason}") from error
    return tracker


def _writer(
    kind: str,
    tracking: Any,
    stream: StreamName,
    folder: Path,
    memory: Mapping[str, Any],
    *,
    resumed: bool,
    restart: int,
) -> Any:
    name, number = stream.name, memory["id"]
    if kind == "tensorboard":
        place = os.environ.get("TENSORBOARD_LOGGING_DIR") or str(folder)
        options = {"purge_step": restart + 1} if resumed else {}  # readers skip what was written beyond it
        return tracking.TensorBoardTracker("tensorboard" if place == str(folder) else name, place, **options)
    if kind == "wandb":  # its files go to ./wandb, not into the folder: they hold links, which a run folder refuses
        return tracking.WandBTracker(
            os.environ.get("WANDB_PROJECT") or PROJECT, id=number, resume="allow", name=name, group=stream.group,
            tags=stream.tags, config=stream.config,
        )  # fmt: skip
    if kind == "mlflow":
        tags = {"group": stream.group, **{tag.partition(":")[0]: tag.partition(":")[2] for tag in stream.tags}}
        run_id = number if resumed else None
        return tracking.MLflowTracker(PROJECT, run_id=run_id, run_name=name, tags=tags)
    return tracking.TrackioTracker(
        os.environ.get("TRACKIO_PROJECT") or PROJECT, name=f"{name}-{number[:6]}", group=stream.group,
        config=stream.config, resume="allow", embed=False,
    )  # fmt: skip


def _describe(tracker: Tracker, stream: StreamName) -> None:
    """Leaves the recipe with the run, for those that do not take it when they start."""
    if tracker.kind == "tensorboard":
        lines = "\n".join(f"    {line}" for line in json.dumps(stream.config, indent=2).splitlines())
        tracker.writer.tracker.add_text("recipe", lines)
    elif tracker.kind == "mlflow":
        tracker.writer.store_init_configuration(_flat(stream.config))


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested blocks as `method.beta`; lists as JSON."""
    if not isinstance(values, dict):
        return {prefix: json.dumps(values) if isinstance(values, list) else values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
