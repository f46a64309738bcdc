"""Models: built from a recipe, saved to a folder, loaded from one."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from stockpot.errors import StockpotError, did_you_mean
from stockpot.models.head import find_head, grow_head
from stockpot.models.spec import NETWORKS, ModelKind, ModelSpec
from stockpot.seeds import derive, generator, seed_everything

WEIGHTS_FILE = "model.safetensors"
BUILT = "stockpot_model.json"  # beside the weights of a `build:` model: the dotted path and its arguments
# For each kind of model: Transformers' class, its table of families, and what messages call it.
AUTO = {
    "image": ("AutoModelForImageClassification", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", "image classifier"),
    "text": ("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", "text classifier"),
    "language": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING", "causal language model"),
}


def _import(path: str) -> Callable[..., nn.Module]:
    module_name, _, function_name = path.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise StockpotError(f"model.build: {path}: {error}.") from error
    finally:
        if added:
            sys.path.remove(here)
    function = getattr(module, function_name, None)
    if not callable(function):
        hint = did_you_mean(function_name, [key for key in vars(module) if not key.startswith("_")])
        raise StockpotError(f"model.build: {module_name} has no function {function_name!r}.{hint}")
    return function  # type: ignore[no-any-return]


def _build(path: str, args: dict[str, Any], rows: int) -> nn.Module:
    function = _import(path)
    try:
        model = function(num_labels=rows, **args)
    except TypeError as error:
        raise StockpotError(f"model.build: {path}(num_labels={rows}, …): {error}.") from error
    if not isinstance(model, nn.Module):
        raise StockpotError(f"model.build: {path} returned {type(model).__name__}, not a torch.nn.Module.")
    return model


class StartModel(NamedTuple):
    """A start model, and the names of its tensors that the checkpoint it comes from lacks: drawn anew."""

    model: nn.Module
    drawn: list[str]


def start_model(spec: ModelSpec, rows: int, seed: int, kind: ModelKind = "image", tokenizer: Any = None) -> nn.Module:
    """The model of `build_start_model`."""
    return build_start_model(spec, rows, seed, kind, tokenizer).model


def build_start_model(
    spec: ModelSpec, rows: int, seed: int, kind: ModelKind = "image", tokenizer: Any = None
) -> StartModel:
    """The model that the stream starts from, with `rows` outputs; drawn weights depend on `seed` only.

    A model of text learns from its tokenizer which token is padding; one that is built from a configuration has as many
    embeddings as the tokenizer has tokens, unless the configuration says more.
    Raises StockpotError where the model cannot be opened, or has no recognisable output layer.
    """
    seed_everything(derive(seed, "model"))
    labels = {} if kind == "language" else {"num_labels": rows}
    drawn: list[str] = []
    if spec.build is not None:
        model = _build(spec.build, spec.args, rows)
    elif spec.config is not None:
        _check_family(_config(spec.config), kind, "model.config.model_type: ")
        model = _from_config(_with_tokens(spec.config, tokenizer, kind), kind, **labels)
    else:
        mismatched = {} if kind == "language" else {"ignore_mismatched_sizes": True}
        model, drawn = _from_pretrained(str(spec.name), spec, kind, spec.dtype, **labels, **mismatched)
    if kind != "language":
        find_head(model, rows, spec.head)
    if tokenizer is not None:
        _fit_tokenizer(model, tokenizer, kind)
    return StartModel(model.to(getattr(torch, spec.dtype)) if spec.dtype != "float32" else model, drawn)


def _with_tokens(values: dict[str, Any], tokenizer: Any, kind: ModelKind) -> dict[str, Any]:
    """The configuration with what it does not say itself: as many tokens as the tokenizer has, and its special ones."""
    if tokenizer is None:
        return values
    if values.get("vocab_size", len(tokenizer)) < len(tokenizer):
        raise StockpotError(
            f"model.config.vocab_size: {values['vocab_size']} is less than the tokenizer's {len(tokenizer)} tokens; "
            "drop the key to have as many."
        )
    known = _config(values)
    more = {"vocab_size": len(tokenizer), **_special(tokenizer, kind)}
    return {key: value for key, value in more.items() if hasattr(known, key)} | values


def _special(tokenizer: Any, kind: ModelKind = "image") -> dict[str, int | None]:
    """The tokens that begin, end and fill a text.

    A language model is not told of a filling one that means something too: Transformers would not train its embedding.
    """
    begins, ends, fills = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    fills = None if kind == "language" and fills in (begins, ends) else fills
    return {"bos_token_id": begins, "eos_token_id": ends, "pad_token_id": fills}


def _fit_tokenizer(model: nn.Module, tokenizer: Any, kind: ModelKind) -> None:
    """Tells the configurations which tokens begin, end and fill a text; raises StockpotError where tokens have no row.

    What they say stays, but for tokens that do not exist; what ends a text in training is where the model stops too.
    """
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    if len(tokenizer) > embeddings.num_embeddings:
        raise StockpotError(
            f"model.tokenizer: it has {len(tokenizer)} tokens, the model embeddings for {embeddings.num_embeddings}; "
            "take the tokenizer that the model was trained with."
        )
    generation = getattr(model, "generation_config", None)
    for config, special in ((model.config, _special(tokenizer, kind)), (generation, _special(tokenizer))):
        for key, own in special.items() if config is not None else ():
            told = getattr(config, key, None)
            told = told if isinstance(told, list) else [told]
            if not all(token is not None and 0 <= token < len(tokenizer) for token in told):
                setattr(config, key, own)
            elif key == "eos_token_id" and own is not None and own not in told:
                setattr(config, key, [own, *told])


def model_config(spec: ModelSpec) -> Any:
    """The Transformers configuration of the start model; None for a `build:` model."""
    from transformers import AutoConfig

    if spec.build is not None:
        return None
    if spec.config is not None:
        return _config(spec.config)
    _check_folder(str(spec.name))
    try:
        return AutoConfig.from_pretrained(
            spec.name, revision=spec.revision or "main", trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise StockpotError(f"model.name: {spec.name} could not be opened: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])


def _check_folder(path: str) -> Path:
    """The folder at `path`, if there is one; raises StockpotError where it could not be loaded safely."""
    folder = Path(path).expanduser()
    if path.startswith((".", "/", "~")) and not folder.is_dir():
        raise StockpotError(f"model.name: {path}: there is no such folder.")
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        found = "pickled weights (.bin)" if list(folder.glob("*.bin")) else "no weights"
        raise StockpotError(
            f"model.name: {path} holds {found}, not safetensors; pickles are never loaded: "
            "convert the model with `save_pretrained` where you trust it."
        )
    return folder


def _config(values: dict[str, Any], **more: Any) -> Any:
    from transformers import AutoConfig

    settings = {key: value for key, value in values.items() if key != "model_type"}
    try:
        default = AutoConfig.for_model(values["model_type"])
    except ValueError as error:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        hint = did_you_mean(str(values["model_type"]), CONFIG_MAPPING_NAMES)
        raise StockpotError(f"model.config.model_type: unknown: {values['model_type']!r}.{hint}") from error
    unknown = [key for key in settings if not hasattr(default, key)]
    if unknown:
        hint = did_you_mean(unknown[0], default.to_dict())
        raise StockpotError(f"model.config.{unknown[0]}: {values['model_type']} has no such setting.{hint}")
    try:
        return AutoConfig.for_model(values["model_type"], **settings, **more)
    except Exception as error:
        raise StockpotError(f"model.config: {_reason(error)[:300]}") from error


def _check_family(config: Any, kind: ModelKind, place: str) -> None:
    import transformers

    _, families, called = AUTO[kind]
    if type(config) not in getattr(transformers, families):
        raise StockpotError(f"{place}Transformers has no {called} {config.model_type!r}.")


def _from_config(values: dict[str, Any], kind: ModelKind, **labels: Any) -> nn.Module:
    import transformers

    config = _config(values, **labels)
    if config.architectures is None:  # some families have several classifiers: [] lets Transformers take the first
        config.architectures = []
    try:
        model: nn.Module = getattr(transformers, AUTO[kind][0]).from_config(config)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise StockpotError(f"model.config: {_reason(error)[:300]}") from error
    return model


def _from_pretrained(
    path: str, spec: ModelSpec | None, kind: ModelKind = "image", dtype: str = "float32", **options: Any
) -> StartModel:
    import transformers

    folder = _check_folder(path)
    source = str(folder) if folder.is_dir() else path
    if spec is not None:
        options |= {"revision": spec.revision or "main", "trust_remote_code": spec.trust_remote_code}
        config = model_config(spec)
        if (quantised := getattr(config, "quantization_config", None)) is not None:
            method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
            raise StockpotError(
                f"model.name: {path} is quantised ({method}), and a run works on plain weights: take the model "
                "that it was made of, with dtype: bfloat16 and lora.output: adapter where memory is short."
            )
        if not spec.trust_remote_code:  # which may bring families of its own
            _check_family(config, kind, f"model.name: {path}: ")
    model: nn.Module
    try:
        model, found = getattr(transformers, AUTO[kind][0]).from_pretrained(
            source, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError) as error:
        raise StockpotError(f"model.name: {path} could not be loaded: {_reason(error)}") from error
    if kind == "language" and found["missing_keys"]:  # a classifier's output layer may be new
        raise StockpotError(
            f"model.name: {path} is no {AUTO[kind][2]}: it has no weights for '{min(found['missing_keys'])}'; "
            "name a model that was saved as one."
        )
    other_shapes = [entry if isinstance(entry, str) else entry[0] for entry in found["mismatched_keys"]]
    return StartModel(model, sorted({*found["missing_keys"], *other_shapes}))


def save_model(model: nn.Module, folder: Path, spec: ModelSpec, rows: int) -> None:
    """Writes weights as safetensors, with what is needed to load them again: `from_pretrained`'s files, or BUILT."""
    from safetensors.torch import save_model as save_weights

    save_pretrained: Any = getattr(model, "save_pretrained", None)
    if save_pretrained is not None:
        save_pretrained(folder)
        return
    save_weights(model, str(folder / WEIGHTS_FILE), metadata={"format": "pt"})
    built = {"build": spec.build, "args": spec.args, "num_labels": rows}
    (folder / BUILT).write_text(json.dumps(built, indent=2) + "\n", encoding="utf-8")


def is_own(path: str) -> bool:
    """Whether a dotted path names a builder of Stockpot's own: importing it needs nobody's leave."""
    return path.startswith(NETWORKS)


def needs_code(folder: Path) -> str | None:
    """The dotted path that loading this model would import, where it is not part of Stockpot itself."""
    if not (folder / BUILT).is_file():
        return None
    path = str(json.loads((folder / BUILT).read_text(encoding="utf-8"))["build"])
    return None if is_own(path) else path


def load_model(folder: Path, allow_code: bool, spec: ModelSpec | None = None, kind: ModelKind = "image") -> nn.Module:
    """Loads what `save_model` wrote for this `model` block.

    Raises StockpotError where that needs code that the user has not allowed.

    Code that came with a hub model runs only where the recipe trusts it, and the user allows code now.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model as load_weights

    if not (folder / BUILT).is_file():
        trusted = allow_code and spec is not None and spec.trust_remote_code
        dtype = "float32" if spec is None else spec.dtype
        return _from_pretrained(str(folder), None, kind, dtype, trust_remote_code=trusted).model
    path = needs_code(folder)
    if path is not None and not allow_code:
        raise StockpotError(
            f"{folder}: this model is built by the code at {path!r}; read it, and add --allow-code to import it."
        )
    built = json.loads((folder / BUILT).read_text(encoding="utf-8"))
    model = _build(built["build"], built["args"], built["num_labels"])
    try:
        load_weights(model, str(folder / WEIGHTS_FILE))
    except (RuntimeError, SafetensorError) as error:
        raise StockpotError(
            f"{folder / WEIGHTS_FILE} does not fit {built['build']}: {str(error).splitlines()[0]}"
        ) from error
    return model


def fit_head(model: nn.Module, spec: ModelSpec, before: int, rows: int, seed: int) -> None:
    """Grows the output layer from `before` to `rows` rows, drawn from the seed."""
    if rows > before:
        grow_head(model, find_head(model, before, spec.head), rows, generator(seed, "head", before, rows))
