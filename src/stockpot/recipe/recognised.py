"""What a recipe leaves open about its data, told from the data: the scenario, and the columns of texts with classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from stockpot.errors import StockpotError
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe, Split
from stockpot.streams.hub import open_hub
from stockpot.streams.layouts import text_folder
from stockpot.streams.passed_data import holds_pairs
from stockpot.streams.recognition import class_reading, language_reading, may_be_classified, says_language
from stockpot.streams.spec import DataSpec, MixSpec, TaskSpec, inherit

_OF_CLASSES = ("image", "label", "classes", "rotate", "permute")  # keys of data that have classes
_OF_TOKENS = ("format", "prompt", "completion", "input", "messages")  # keys of data that are continued
_Data = TypeVar("_Data", bound=DataSpec)


@dataclass
class Recognition:
    """Fills in what the data say, of a recipe or of a task, and keeps each guess with its reason, in a line.

    What readers tell from the columns by themselves (which column is a chat, or holds pictures) is only said, so that
    a recipe without these keys stays as it is.
    """

    source: str = "the recipe"
    guesses: list[str] = field(default_factory=list)
    _opened: dict[str, Any] = field(default_factory=dict)

    def of_recipe(self, recipe: Recipe) -> Recipe:
        """The recipe with its scenario, and the keys of `data` that say that texts are classified.

        Raises StockpotError where data cannot be opened, or allow several readings.
        """
        scenario = self._scenario(recipe)
        changes: dict[str, Any] = {} if scenario == recipe.scenario else {"scenario": scenario}
        shared = recipe.data
        if (user := _first_user(recipe)) is not None:
            shared = self._filled(recipe.data, recipe.data, scenario, user)
        if shared != recipe.data:
            changes["data"] = shared
        if (mix := self._mix(recipe.mix, scenario, "mix")) != recipe.mix:
            changes["mix"] = mix
        for key in ("tasks", "controls"):
            tasks = getattr(recipe, key)
            filled = [self.of_task(task, shared, scenario) for task in tasks] if isinstance(tasks, list) else tasks
            if filled != tasks:
                changes[key] = filled
        if not changes:
            return recipe
        values = recipe.model_copy(update=changes).model_dump(mode="json", exclude_unset=True)
        return validate(Recipe, values, self.source)

    def of_task(self, task: TaskSpec, shared: DataSpec, scenario: str) -> TaskSpec:
        """The task with keys of its data, where it names data of its own. Raises as `of_recipe` does."""
        where = f"task {task.name!r}"
        mix, data = self._mix(task.mix, scenario, f"{where}: mix"), task.data
        if "path" in data.model_fields_set:
            data = self._filled(data, inherit(shared, data), scenario, where)
        changes = {key: value for key, value in (("data", data), ("mix", mix)) if value != getattr(task, key)}
        return task.model_copy(update=changes) if changes else task

    def _mix(self, mix: MixSpec | None, scenario: str, where: str) -> MixSpec | None:
        return mix if mix is None or not mix.fraction else self._filled(mix, mix, scenario, where)

    def _scenario(self, recipe: Recipe) -> str:
        """The recipe's scenario; where it names none, language for chats, prompts and texts without classes."""
        if "scenario" in recipe.model_fields_set or isinstance(recipe.tasks, Split) or recipe.model.build is not None:
            return recipe.scenario
        task = recipe.tasks[0]
        data = inherit(recipe.data, task.data)
        if data.path in (None, "digits") or holds_pairs(data.path) or any(getattr(data, key) for key in _OF_CLASSES):
            return recipe.scenario
        if keys := [key for key in _OF_TOKENS if getattr(data, key) is not None]:
            reason = f"data.{keys[0]} says what is learnt"
        else:
            where = f"task {task.name!r}"
            split = self._split(data.model_copy(update=_text_files(data)), where)
            if may_be_classified(data, split, where):
                return recipe.scenario
            reason = "the data have no classes"
        self._note(f"{data.path}: scenario: language, since {reason}")
        return "language"

    def _filled(self, written: _Data, data: DataSpec, scenario: str, where: str) -> _Data:
        """`written` with what is missing in `data`, which is `written` with what it inherits."""
        if data.path in (None, "digits") or holds_pairs(data.path):
            return written
        keys = _text_files(data)
        if keys:
            self._note(f"{data.path}: read as one text a file: a folder of .txt files (each: line reads lines)")
            data = data.model_copy(update=keys)
        if scenario == "language":
            if not says_language(data):
                self._note(language_reading(data, self._split(data, where), where).sentence(data.path))
        elif not (data.text or data.image) or not data.label:
            reading = class_reading(data, self._split(data, where), where)
            self._note(reading.sentence(data.path))
            if "text" in reading.keys:
                keys = {**keys, **reading.keys}
        return written.model_copy(update=keys) if keys else written

    def _split(self, data: DataSpec, where: str) -> Any:
        """The training split, opened once."""
        key = data.model_dump_json(include={"path", "name", "revision", "train_split", "each"})
        if key not in self._opened:
            split = open_hub(data, where)[data.train_split]
            if not len(split):
                raise StockpotError(f"{where}: the split {data.train_split!r} of {data.path!r} is empty.")
            self._opened[key] = split
        return self._opened[key]

    def _note(self, guess: str) -> None:
        if guess not in self.guesses:
            self.guesses.append(guess)


def _first_user(recipe: Recipe) -> str | None:
    """Who reads the recipe's own `data`, for messages; None if every task and control names others."""
    if isinstance(recipe.tasks, Split):
        return "tasks.split"
    users = (task for task in (*recipe.tasks, *recipe.controls) if "path" not in task.data.model_fields_set)
    return next((f"task {task.name!r}" for task in users), None)


def _text_files(data: DataSpec) -> dict[str, str]:
    """The key that makes each file of a folder of .txt files one text; nothing where the recipe says what a text is."""
    folder = Path(str(data.path)).expanduser()
    if data.each is not None or not folder.is_dir() or text_folder(folder) is None:
        return {}
    return {"each": "file"}
