"""A run folder: where its files are, and whether they are still what the journal recorded."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, cast

from stockpot import files
from stockpot.errors import StockpotError
from stockpot.recipe.read import validate
from stockpot.recipe.resolve import to_values, to_yaml
from stockpot.recipe.schema import Recipe
from stockpot.runs.events import Created, RunFacts, Started, TaskDone, TrainingCheckpoint
from stockpot.runs.journal import Journal
from stockpot.spelling import option
from stockpot.streams.spec import TaskSpec

SCHEMA = 1
START = "tasks/00-start"
BASE = "base"  # inside the start model's folder, where that is an adapter
CHECKPOINT = "checkpoint-"  # followed by the step, as the Trainer names it


class RunFolder:
    """One run. Paths in the journal are relative to the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path / "journal.jsonl")
        self._recipe: tuple[int, Recipe] | None = None  # and the number of `added` events that it includes
        self._imports_code = False

    @classmethod
    def create(cls, path: Path, recipe: Recipe, label: str, facts: RunFacts) -> RunFolder:
        """A new run folder, locked; raises StockpotError where `path` is taken."""
        cls.check_free(path)
        with files.explaining_disk_errors(path):
            files.make_folder(path)
        run = cls(path)
        run.journal.lock()
        try:
            cls.check_free(path)  # again: the lock is ours only now
            values = to_values(recipe)
            run.journal.append({"event": "created", "schema": SCHEMA, "label": label, "recipe": values, **facts})
            run.write_recipe()
        except BaseException:
            run.journal.close()
            raise
        return run

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Raises StockpotError where `path` holds a run, or anything else."""
        with files.explaining_disk_errors(path):
            others = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
        if "journal.jsonl" in others:
            if cls(path).journal.events:
                raise StockpotError(
                    f"{path}: there is already a run here; continue it with `stockpot resume {path}`, "
                    f"or choose another folder with {option('output')}."
                )
            others.remove("journal.jsonl")  # left by a run that was stopped before its first line
        if others:
            raise StockpotError(
                f"{path}: the folder is not empty (it holds {others[0]}); choose another with {option('output')}."
            )

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder, for reading; raises StockpotError where it is not one, or its journal was edited."""
        if not path.is_dir():
            raise StockpotError(f"{path}: there is no such folder.")
        if not (path / "journal.jsonl").is_file():
            raise StockpotError(f"{path}: not a run folder: it has no journal.jsonl.")
        run = cls(path)
        if not run.journal.events:
            raise StockpotError(f"{path}: the run was stopped before it started; start it again with `stockpot run`.")
        first = run.created
        if first.get("event") != "created" or first.get("schema") != SCHEMA:
            raise StockpotError(
                f"{path}: its journal has schema {first.get('schema')!r}, this version of Stockpot reads {SCHEMA}."
            )
        return run

    def lock(self) -> RunFolder:
        """Claims the run for this process, and removes what an interrupted write or deletion left behind."""
        files.refuse_links(self.path)
        self.journal.lock()
        try:
            files.remove_temporaries(self.path)
            self.check_recipe()
            self.prune()
        except BaseException:
            self.journal.close()
            raise
        return self

    # What the journal says

    @property
    def created(self) -> Created:
        """The first event."""
        return cast(Created, self.journal.events[0])

    @property
    def started(self) -> Started:
        """The event of the start model."""
        return self.journal.of("started")[0]

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe, with the tasks that were added since; validated once, and again when a task is added.

        Code that it names is not imported before `import_code`.
        """
        added = self.journal.of("added")
        if self._recipe is None or self._recipe[0] != len(added):
            values = {**self.created["recipe"]}
            values["tasks"] = [*values["tasks"], *(event["task"] for event in added)]
            recipe = validate(Recipe, values, str(self.journal.path), reading=not self._imports_code)
            self._recipe = len(added), recipe
        return self._recipe[1]

    def import_code(self) -> None:
        """Lets the recipe import the code that it names; the caller has asked the user."""
        self._imports_code, self._recipe = True, None

    @property
    def tasks(self) -> list[TaskSpec]:
        """All tasks of the stream."""
        tasks = self.recipe.tasks
        assert isinstance(tasks, list), "a resolved recipe lists its tasks"
        return tasks

    @property
    def begun_tasks(self) -> int:
        """How many tasks the stream had when the run was created, without those added since."""
        return len(self.created["recipe"]["tasks"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.recipe.seeds[0]

    @property
    def facts(self) -> dict[str, dict[str, Any]]:
        """Name of a task or control → what its data was."""
        facts: dict[str, dict[str, Any]] = {**self.created["data"]}
        for event in self.journal.of("added"):
            facts |= event["data"]
        return facts

    @property
    def finished(self) -> list[TaskDone]:
        """The `task` events, one for each task learnt."""
        return self.journal.of("task")

    @property
    def is_finished(self) -> bool:
        """Whether every task has been learnt."""
        return bool(self.journal.of("started")) and len(self.finished) == len(self.tasks)

    def drawn(self, index: int) -> list[str]:
        """The tensors that the start model's checkpoint lacked, for the first task; later the run has saved them."""
        return self.started.get("drawn", []) if index == 0 else []

    # Where things are

    def place(self, index: int) -> str:
        """NN-NAME of task `index` (from 0)."""
        return f"{index + 1:02d}-{self.tasks[index].name}"

    def model(self, index: int) -> Path:
        """The model folder after task `index`; −1 is the start model."""
        place = START if index < 0 else f"tasks/{self.place(index)}"
        return self.path / place / "model"

    @property
    def base(self) -> Path:
        """What the run's adapters sit on: the start model, or what that sits on where it is an adapter itself."""
        beneath = self.model(-1) / BASE
        return beneath if beneath.is_dir() else self.model(-1)

    def state(self, index: int) -> Path:
        """What the method keeps after task `index`."""
        return self.path / "state" / self.place(index)

    def checkpoints(self, index: int) -> Path:
        """The folder of the checkpoints inside task `index`."""
        return self.path / "checkpoints" / self.place(index)

    def logs(self, index: int) -> Path:
        """The logs that trackers such as TensorBoard write while task `index` is learnt; they are kept."""
        return self.path / "logs" / self.place(index)

    def checkpoint_folder(self, event: TrainingCheckpoint) -> Path:
        """The folder of a `checkpoint` event."""
        return self.checkpoints(int(event["task"])) / f"{CHECKPOINT}{int(event['step'])}"

    # Checks and writes

    def check_recipe(self) -> None:
        """Raises StockpotError where recipe.yaml was edited; writes it again from the journal where it is missing."""
        path = self.path / "recipe.yaml"
        if not path.is_file():
            self.write_recipe()
            return
        with files.explaining_disk_errors(path):
            text = path.read_text(encoding="utf-8", errors="replace")
        if text == self._recipe_text():
            return
        # A crash between the journal's line and this file leaves the file one `add` behind.
        count = len(self.journal.of("added"))
        if any(text == self._recipe_text(added) for added in range(count)):
            self.write_recipe()
            return
        raise StockpotError(
            f"{path}: edited since the run was created; the journal holds the recipe that was used. "
            "Start another run with the edited recipe, or delete the file to restore the recorded one."
        )

    def _recipe_text(self, added: int | None = None) -> str:
        values = {**self.created["recipe"]}
        values["tasks"] = [*values["tasks"], *(event["task"] for event in self.journal.of("added")[:added])]
        return to_yaml(values)

    def write_recipe(self) -> None:
        """Writes recipe.yaml from the journal."""
        files.write_text(self.path / "recipe.yaml", self._recipe_text())

    def verify_model(self, index: int) -> None:
        """Raises StockpotError where the model after task `index` (−1: the start) is not what was recorded."""
        event = self.started if index < 0 else self.finished[index]
        files.verify_fingerprint(self.model(index), event["files"])

    def verify_state(self, index: int) -> None:
        """Raises StockpotError where what the method kept after task `index` is not what was recorded."""
        files.verify_fingerprint(self.state(index), self.finished[index]["state_files"])

    def checkpoint(self, index: int) -> TrainingCheckpoint | None:
        """The newest checkpoint inside task `index`, verified; None where there is none."""
        events = [event for event in self.journal.of("checkpoint") if event["task"] == index]
        if not events or not self.checkpoint_folder(events[-1]).exists():
            return None  # the task can always be learnt again from its start, with the same result
        folder = self.checkpoint_folder(events[-1])
        try:
            files.verify_fingerprint(folder, events[-1]["files"])
        except StockpotError as error:
            raise StockpotError(f"{error} Or delete {folder}, and the task is learnt again from its start.") from error
        return events[-1]

    def drop_older_checkpoints(self, newest: Path) -> None:
        """Deletes the checkpoints beside the newest one, once that is journalled."""
        for folder in newest.parent.glob(f"{CHECKPOINT}*"):
            if folder != newest:
                files.remove_folder(folder)

    def prune(self) -> None:
        """Deletes what is not needed any more: old states and checkpoints, and with `keep: needed` old models."""
        newest = len(self.finished) - 1
        keep_all = self.recipe.keep == "all"
        for index in range(newest):
            files.remove_folder(self.state(index))
            if not keep_all:
                files.remove_folder(self.model(index).parent)
        for index in range(newest + 1):
            self._keep_logs(index)
            files.remove_folder(self.checkpoints(index))
        with contextlib.suppress(OSError):  # missing, or not empty
            (self.path / "checkpoints").rmdir()

    def _keep_logs(self, index: int) -> None:
        """Moves what trackers wrote beside the checkpoints of task `index`, their only choice, to its logs."""
        if not self.checkpoints(index).is_dir():
            return
        for entry in sorted(self.checkpoints(index).iterdir()):
            if not entry.name.startswith((CHECKPOINT, files.TEMPORARY)):
                target = self.logs(index) / entry.name
                files.make_folder(target.parent)
                if target.exists():  # from an earlier start of the same task
                    target = target.with_name(f"{entry.name}.{len(list(target.parent.iterdir()))}")
                entry.rename(target)
