"""What of a run's model goes up to a hub: files that belong to a model, and nothing private in them."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.errors import StockpotError
from stockpot.runs.cards import hub_name, write_model_card
from stockpot.runs.folder import BASE
from stockpot.runs.results_json import results_of
from stockpot.weights.adapter_config import ADAPTER_CONFIG
from stockpot.weights.layout import PICKLE_SUFFIXES

if TYPE_CHECKING:
    from stockpot.runs.folder import RunFolder

_MODEL = re.compile(
    r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|adapter_model\.safetensors|adapter_config\.json"
    r"|(generation_|preprocessor_|processor_|tokenizer_)?config\.json|stockpot_model\.json|README\.md"
    r"|tokenizer\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|[\w.-]+\.model"
    r"|chat_template\.(jinja|json)|additional_chat_templates/[\w.-]+\.jinja"
)
_CODE = re.compile(r"\w+\.py")  # of hub models that bring their own
_TRAINING = re.compile(r"(optimizer|scheduler|scaler|rng_state|trainer_state|training_args)\b.*")
_DATA = frozenset({".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt"})
_VOCABULARY = ("tokenizer.json", "vocab.", "merges.txt", "added_tokens.json")  # text of others, in pieces
_READ = (".json", ".md", ".jinja", ".py")
_TOKEN = re.compile(r"\b(hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{32,}|gh[pousr]_[A-Za-z0-9]{36,}|AKIA[0-9A-Z]{16})\b")


@dataclass(frozen=True)
class Upload:
    """A folder of what goes up, and the size of each file in bytes; `left_out` are hidden files that do not."""

    folder: Path
    files: Mapping[str, int]
    left_out: tuple[str, ...]


@contextlib.contextmanager
def staged_upload(
    run: RunFolder, index: int, repo_id: str, base: str | None = None, licence: str | None = None
) -> Iterator[Upload]:
    """A temporary folder with the model after task `index` (−1: the start) as it goes up: links, and its own card.

    Args:
        run: the run.
        index: of the task that the model learnt last.
        repo_id: its name on the hub, for the card's example.
        base: the name on the hub of what an adapter sits on, or the model was made from.
        licence: the hub's name of one, where it is not that of the base.

    Yields:
        What goes up.

    Raises:
        StockpotError: a file is not part of a model, differs from the journal, holds a token or a local path, or is an
            adapter whose base only this machine has.
    """
    model = run.model(index)
    names, hidden = _names(model, index < 0, run.recipe.model.trust_remote_code)
    run.verify_model(index)
    with tempfile.TemporaryDirectory(prefix="stockpot-push-") as temporary:
        folder = Path(temporary)
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            _link(model / name, folder / name)
        if (folder / ADAPTER_CONFIG).is_file():
            _name_base(folder / ADAPTER_CONFIG, base)
        stated = None if licence is None else {"license": licence}
        card = folder / "README.md"
        card.unlink(missing_ok=True)
        write_model_card(run, results_of(run, first=index + 1), folder, place=repo_id, base=base, licence=stated)
        card.write_text(card.read_text(encoding="utf-8").replace(f"{Path.home()}/", "~/"), encoding="utf-8")
        _check_contents(folder, (str(run.path.resolve()), f"{Path.home()}/"))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        yield Upload(folder, sizes, hidden)


def _names(model: Path, is_start: bool, code: bool) -> tuple[list[str], tuple[str, ...]]:
    """The files of a model, and hidden ones. Raises StockpotError for any other file."""
    names, hidden = [], []
    for path in sorted(model.rglob("*")):
        name = path.relative_to(model).as_posix()
        if not path.is_file() or (is_start and name.startswith(f"{BASE}/")):
            continue
        if path.name.startswith("."):
            hidden.append(name)
        elif path.is_symlink():
            raise StockpotError(f"{path}: a link, which is not followed; nothing was uploaded.")
        elif _MODEL.fullmatch(name) or (code and _CODE.fullmatch(name)):
            names.append(name)
        else:
            raise StockpotError(f"{path}: {_reason(path)}; move it out of the folder. Nothing was uploaded.")
    return names, tuple(hidden)


def _reason(path: Path) -> str:
    if _TRAINING.fullmatch(path.name):
        return "state of the training, which a model does not need"
    if path.suffix in PICKLE_SUFFIXES:
        return "a pickle, which runs code when it is opened"
    if path.suffix in _DATA:
        return "it may hold rows of your data"
    return "not a part of a model that is known"


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source.resolve())
    except OSError:  # a system that does not let everybody link
        shutil.copyfile(source, target)


def _name_base(file: Path, base: str | None) -> None:
    """Writes where the base of an adapter is. Raises StockpotError for one that only this machine has."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    if base is not None:
        settings |= {"base_model_name_or_path": base, "revision": None}
        file.unlink()
        file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    elif hub_name(settings.get("base_model_name_or_path")) is None:
        raise StockpotError(
            f"the adapter's base, {settings.get('base_model_name_or_path')}, is on this machine only: push it first "
            "(--after start), or name the same model on the hub, with --base."
        )


def _check_contents(folder: Path, private: tuple[str, ...]) -> None:
    """Raises StockpotError for an access token, or a path of this machine, in a file that people read."""
    from huggingface_hub import get_token

    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix not in _READ or path.name.startswith(_VOCABULARY):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if _TOKEN.search(text) or ((token := get_token()) and token in text):
            raise StockpotError(f"{path.name} holds what looks like an access token; nothing was uploaded.")
        for start in private:
            if start in text:
                where = _around(text, start)
                raise StockpotError(f"{path.name} holds a path of this machine, {where}; nothing was uploaded.")


def _around(text: str, start: str) -> str:
    place = text.index(start)
    return re.split(r"[\"'\s]", text[place : place + 120])[0]
