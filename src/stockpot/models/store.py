"""Saving a model to a folder, and loading it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from stockpot.errors import StockpotError
from stockpot.models.dotted_path import build_model, is_own
from stockpot.models.pretrained import from_folder
from stockpot.models.spec import ModelKind, ModelSpec
from stockpot.spelling import option

WEIGHTS_FILE = "model.safetensors"
BUILT_FILE = "stockpot_model.json"  # beside the weights of a `build:` model: the dotted path and its arguments


def save_model(model: nn.Module, folder: Path, spec: ModelSpec, rows: int) -> None:
    """Writes the weights as safetensors, and what is needed to load them: `from_pretrained`'s files, or BUILT_FILE."""
    from safetensors.torch import save_model as save_weights

    save_pretrained: Any = getattr(model, "save_pretrained", None)
    if save_pretrained is not None:
        save_pretrained(folder)
        return
    save_weights(model, str(folder / WEIGHTS_FILE), metadata={"format": "pt"})
    built = {"build": spec.build, "args": spec.args, "num_labels": rows}
    (folder / BUILT_FILE).write_text(json.dumps(built, indent=2) + "\n", encoding="utf-8")


def needs_code(folder: Path) -> str | None:
    """The dotted path that loading this model would import; None if it is Stockpot's own, or nothing is imported."""
    if not (folder / BUILT_FILE).is_file():
        return None
    path = str(json.loads((folder / BUILT_FILE).read_text(encoding="utf-8"))["build"])
    return None if is_own(path) else path


def load_model(folder: Path, allow_code: bool, spec: ModelSpec | None = None, kind: ModelKind = "image") -> nn.Module:
    """Loads what `save_model` wrote.

    Args:
        folder: the model's folder.
        allow_code: the user allows code of a `build:` model, or code that came with a hub model, to run now.
        spec: the `model` block of the recipe: its dtype, and whether it trusts a hub model's code.
        kind: what the model does.

    Raises:
        StockpotError: the model needs code that is not allowed, or its files are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model as load_weights

    if not (folder / BUILT_FILE).is_file():
        trusted = allow_code and spec is not None and spec.trust_remote_code
        return from_folder(folder, kind, "float32" if spec is None else spec.dtype, trusted)
    path = needs_code(folder)
    if path is not None and not allow_code:
        raise StockpotError(
            f"{folder}: this model is built by the code at {path!r}; read it, and add "
            f"{option('allow_code')} to import it."
        )
    built = json.loads((folder / BUILT_FILE).read_text(encoding="utf-8"))
    model = build_model(built["build"], built["args"], built["num_labels"])
    try:
        load_weights(model, str(folder / WEIGHTS_FILE))
    except (RuntimeError, SafetensorError) as error:
        raise StockpotError(
            f"{folder / WEIGHTS_FILE} does not fit {built['build']}: {str(error).splitlines()[0]}"
        ) from error
    return model
