"""The model card of a run's model: what the run knows of its origin, beside the results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.models.base_licence import licence_of
from stockpot.models.named_adapter import named_adapter
from stockpot.report.card import model_card
from stockpot.report.card_usage import HERE
from stockpot.streams.passed_data import is_passed
from stockpot.weights.adapter_config import is_adapter

if TYPE_CHECKING:
    from stockpot.models.spec import ModelSpec
    from stockpot.results import Results
    from stockpot.runs.folder import RunFolder


def write_model_card(
    run: RunFolder,
    results: Results,
    folder: Path,
    *,
    place: str = HERE,
    base: str | None = None,
    licence: Mapping[str, str] | None = None,
) -> None:
    """Writes README.md into a model's folder.

    Args:
        run: the run.
        results: up to the task that the model learnt last.
        folder: the model's, complete but for the card.
        place: the model's name on the hub, for the example; default: a placeholder.
        base: the base's name on the hub; default: that of the run's start model, where it has one.
        licence: what the card says of it; default: what the base's card says.
    """
    if licence is None:
        licence = _licence(run.recipe.model, base)
    learnt = run.tasks[: len(results.tasks)]
    paths = {data.path for task in learnt for data in (task.data, task.mix) if data is not None}
    card = model_card(
        results,
        base or origin_on_hub(run.recipe.model),
        sorted({name for path in paths if (name := hub_name(path))}),
        licence,
        place=place,
        adapter=is_adapter(folder),
        chats=has_chat_template(folder),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def hub_name(path: str | None) -> str | None:
    """A name on the hub; None for a local folder, for scikit-learn's digits, and for what was passed in Python."""
    if path is None or path == "digits" or is_passed(path):
        return None
    return None if Path(path).is_absolute() or Path(path).is_dir() else path


def origin_on_hub(spec: ModelSpec) -> str | None:
    """What the run's models derive from on the hub: the start model, or what a stacked adapter sits on."""
    adapter = named_adapter(spec)
    return hub_name(spec.name if adapter is None or adapter.how == "fold" else adapter.base.name)


def _licence(spec: ModelSpec, base: str | None) -> dict[str, str]:
    """What the card of the start model says; of an adapter without a card, that of its base."""
    if base is not None:
        return licence_of(base)
    adapter = named_adapter(spec)
    specs = [spec] if adapter is None else [spec, adapter.base]
    stated = (licence_of(each.name, each.revision) for each in specs if each.name is not None)
    return next(filter(None, stated), {})


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer saved in a model's folder renders chats."""
    settings = folder / "tokenizer_config.json"
    stated = settings.is_file() and '"chat_template"' in settings.read_text(encoding="utf-8", errors="replace")
    return (folder / "chat_template.jinja").is_file() or stated
