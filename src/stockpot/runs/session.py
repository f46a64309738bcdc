"""What one process needs to work on a run: the stream, the device, and the models of earlier tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stockpot.errors import StockpotError
from stockpot.evaluation.consent import has_consent
from stockpot.methods.base import Method, StartsFrom
from stockpot.models import lora
from stockpot.models.dotted_path import users_builder
from stockpot.models.encoder_decoder import decoder_start, is_encoder_decoder
from stockpot.models.head import find_head, fit_head, head_tensors, name_rows
from stockpot.models.pretrained import check_kind, model_config
from stockpot.models.processor import open_processor
from stockpot.models.spec import ModelSpec
from stockpot.models.store import load_model
from stockpot.recipe.schema import Recipe
from stockpot.runs.brought_code import open_code, search_recorded
from stockpot.runs.folder import RunFolder
from stockpot.runs.progress import Progress
from stockpot.spelling import option
from stockpot.streams.classes import class_texts
from stockpot.streams.classified import ClassifiedStream
from stockpot.streams.readers import ImageReader, Reader, TextReader
from stockpot.streams.stream import Stream
from stockpot.streams.text.language import LanguageSources, LanguageStream
from stockpot.training.job import Stop, training_arguments
from stockpot.training.method_state import read_state
from stockpot.weights.adapter_config import is_adapter

OPTIMIZER = "optimizer.safetensors"


@dataclass
class Session:
    """A locked run folder and everything that its loop reads."""

    run: RunFolder
    recipe: Recipe
    stream: Stream
    device: torch.device
    allow_code: bool = False
    stop: Stop = field(default_factory=Stop)
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def open(
        cls,
        run: RunFolder,
        recipe: Recipe | None = None,
        *,
        allow_code: bool = False,
        stop: Stop | None = None,
        progress: Progress | None = None,
        opened: Stream | None = None,
    ) -> Session:
        """Opens the stream of the run, or of a recipe that goes beyond it.

        Raises StockpotError where the data changed since the run was created.
        """
        open_code(run, allow_code)
        recipe = recipe or run.recipe
        check_code(run, recipe.model, allow_code)
        check_consent(recipe)
        stream = opened or open_stream(recipe, run.model(-1))
        for task, facts in stream.facts().items():
            recorded = run.facts.get(task, facts)
            for now, before in ((facts, recorded), (facts.get("mix"), recorded.get("mix"))):
                if now and before and before["fingerprint"] != now["fingerprint"]:
                    raise StockpotError(
                        f"task {task!r}: the data at {now['path']} changed since the run was created "
                        f"(fingerprint {now['fingerprint']}, recorded {before['fingerprint']})."
                    )
        device = training_arguments(recipe.train, run.path, run.seed).device
        return cls(run, recipe, stream, device, allow_code, stop or Stop(), progress or Progress())

    def rows(self, index: int) -> int:
        """Output rows of the model that learnt task `index` (from 0); −1: of the start model."""
        start = int(self.run.created["start_rows"])
        return start if index < 0 else max(start, self.stream.rows.count(index + 1))

    def starting_model(self, starts_from: StartsFrom, index: int) -> tuple[nn.Module, list[str]]:
        """The model that task `index` starts from, its head grown to the task's rows; and the tensors that have grown.

        Raises StockpotError where the saved model is damaged, or needs code that was not allowed.
        """
        source = -1 if starts_from == "pretrained" else index - 1
        self.run.verify_model(source)
        spec, rows = self.recipe.model, self.rows(index)
        model = self.load(source)
        for task in range(source + 1, index + 1):  # task by task, so that every method draws the same rows
            fit_head(model, spec, self.rows(task - 1), self.rows(task), self.run.seed)
        name_rows(model, list(self.stream.rows.names[:rows]))
        # Not only what grew for this task: an older anchor lacks the rows of all the tasks since.
        grown = head_tensors(model, find_head(model, rows, spec.head)) if rows > self.rows(-1) else []
        return model.to(self.device), grown

    def load(self, index: int) -> nn.Module:
        """The model after task `index`; −1: the start model. With `lora.output: adapter`, its base plus the adapter."""
        return load_learnt(self.run, index, self.allow_code)

    def checkpoint(self, source: str, index: int) -> Path:
        """The folder of "previous", "pretrained" or a path; verified where it is the run's own."""
        models = {"previous": index - 1, "pretrained": -1}
        if source not in models:
            return Path(source)
        self.run.verify_model(models[source])
        return self.run.model(models[source])

    def load_method(self, method: Method[Any], index: int) -> dict[str, Tensor]:
        """Gives the method its state after the previous task; returns the optimizer's state, if that was kept."""
        if index == 0:
            return {}
        self.run.verify_state(index - 1)
        folder = self.run.state(index - 1)
        read_state(method, folder)
        return load_file(str(folder / OPTIMIZER)) if (folder / OPTIMIZER).is_file() else {}


def load_learnt(run: RunFolder, index: int, allow_code: bool) -> nn.Module:
    """The model after task `index`; −1: the start model. With `lora.output: adapter`, its base plus the adapter."""
    recipe, folder = run.recipe, run.model(index)
    if not (recipe.model.adapts and is_adapter(folder)):
        return load_model(folder, allow_code, recipe.model, recipe.kind)
    run.verify_model(-1)
    return lora.load_adapter(load_model(run.base, allow_code, recipe.model, recipe.kind), folder)


def check_code(run: RunFolder, spec: ModelSpec, allowed: bool) -> None:
    """Raises StockpotError where the model needs code that the user did not allow: the run may come from others."""
    code = users_builder(spec.build) or (spec.name if spec.trust_remote_code else None)
    if code is not None and not allowed:
        raise StockpotError(
            f"{run.path}: this model is built by the code at {code!r}; read it, and add "
            f"{option('allow_code')} to import it."
        )
    if code is not None:
        search_recorded(run)


def check_consent(recipe: Recipe) -> None:
    """Raises StockpotError where a score runs programs that the model writes, and the user did not agree to that."""
    for score in recipe.measured:
        score.require_consent(has_consent())


def open_stream(recipe: Recipe, start: Path | None = None) -> Stream:
    """The stream of a resolved recipe, its examples ready for the model.

    `start` is the folder of the run's start model: where it exists, the tokenizer is read from it, not trained again.
    """
    assert isinstance(recipe.tasks, list), "a resolved recipe lists its tasks"
    config = model_config(recipe.model)
    check_kind(recipe.model, config, recipe.kind)
    tuning, most = recipe.evaluation.on == "tuning", recipe.evaluation.limit
    if recipe.kind == "language":
        sources = LanguageSources.open(recipe.data, recipe.tasks, recipe.controls, tuning, most)
        tokenizer = _tokenizer(recipe.model, start, sources.texts)
        first = decoder_start(recipe.model, config, tokenizer) if is_encoder_decoder(config) else None
        return LanguageStream.open(sources, tokenizer, config, first)
    reader: Reader
    if recipe.kind == "text":
        tasks = recipe.tasks
        reader = TextReader(_tokenizer(recipe.model, start, lambda: class_texts(recipe.data, tasks)), config)
    else:
        reader = ImageReader(open_processor(recipe.model, config))
    return ClassifiedStream.open(recipe.scenario, recipe.data, recipe.tasks, recipe.controls, reader, tuning, most)


def _tokenizer(spec: ModelSpec, start: Path | None, texts: Callable[[], Iterable[str]]) -> Any:
    from stockpot.models.tokenizer import open_tokenizer

    if start is not None and (start / "tokenizer.json").is_file():
        spec = ModelSpec(name=str(start))
    return open_tokenizer(spec, texts)
