"""Transformers models: their configurations, and the models made from one or loaded from the hub or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from stockpot.errors import StockpotError, did_you_mean
from stockpot.models.encoder_decoder import DECODER_START, is_encoder_decoder
from stockpot.models.named_adapter import base_spec
from stockpot.models.other_work import other_work, work_of_type
from stockpot.models.quantised import quantisation
from stockpot.models.spec import ModelKind, ModelSpec


class _Family(NamedTuple):
    auto_class: str  # of Transformers
    mapping: str  # Transformers' table of the configurations that the class knows
    noun: str  # for messages


_ANSWERING = _Family(
    "AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", "language model with an encoder and a decoder"
)
_FAMILIES: dict[ModelKind, _Family] = {
    "image": _Family("AutoModelForImageClassification", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", "image classifier"),
    "text": _Family(
        "AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", "text classifier"
    ),
    "language": _Family("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING", "causal language model"),
}


class StartModel(NamedTuple):
    """A start model, and the names of the tensors that its checkpoint lacks, which are drawn at random."""

    model: nn.Module
    drawn: list[str]


def model_config(spec: ModelSpec) -> Any:
    """The Transformers configuration of the start model, of an adapter that of its base; None for a `build:` model.

    Raises StockpotError if the model cannot be found, or holds pickled weights.
    """
    from transformers import AutoConfig

    if spec.build is not None:
        return None
    if spec.config is not None:
        return make_config(spec.config)
    spec = base_spec(spec)
    _check_folder(str(spec.name))
    try:
        return AutoConfig.from_pretrained(
            spec.name, revision=spec.revision or "main", trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise StockpotError(f"model.name: {spec.name} could not be opened: {_reason(error)}") from error


def make_config(values: dict[str, Any], **more: Any) -> Any:
    """The configuration of these values, `model_type` among them. Raises StockpotError for an unknown setting."""
    from transformers import AutoConfig

    settings = {key: value for key, value in values.items() if key != "model_type"}
    try:
        default = AutoConfig.for_model(values["model_type"])
    except ValueError as error:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        hint = did_you_mean(str(values["model_type"]), CONFIG_MAPPING_NAMES)
        raise StockpotError(f"model.config.model_type: unknown: {values['model_type']!r}.{hint}") from error
    missing = [DECODER_START] if is_encoder_decoder(default) else []  # T5's configuration has no default for it
    unknown = [key for key in settings if not hasattr(default, key) and key not in missing]
    if unknown:
        hint = did_you_mean(unknown[0], default.to_dict())
        raise StockpotError(f"model.config.{unknown[0]}: {values['model_type']} has no such setting.{hint}")
    try:
        return AutoConfig.for_model(values["model_type"], **settings, **more)
    except Exception as error:
        raise StockpotError(f"model.config: {_reason(error)[:300]}") from error


def from_config(values: dict[str, Any], kind: ModelKind, **labels: Any) -> nn.Module:
    """A model of this configuration with random weights. Raises StockpotError if there is no such model."""
    import transformers

    config = make_config(values, **labels)
    check_family(config, kind, "model.config.model_type: ")
    if config.architectures is None:  # some families have several classifiers: [] lets Transformers take the first
        config.architectures = []
    try:
        model: nn.Module = getattr(transformers, _family(config, kind).auto_class).from_config(config)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise StockpotError(f"model.config: {_reason(error)[:300]}") from error
    return model


def from_hub(spec: ModelSpec, kind: ModelKind, **labels: Any) -> StartModel:
    """The model that `spec.name` names, on the hub or in a folder.

    Raises StockpotError if it cannot be loaded, is not a model of this kind, or is quantised and to be trained whole.
    """
    config = model_config(spec)
    check_kind(spec, config, kind)
    options = {"revision": spec.revision or "main", "trust_remote_code": spec.trust_remote_code}
    family = _family(config, kind)
    return _load(str(spec.name), kind, family, spec.dtype, **options, **quantisation(spec, config), **labels)


def from_folder(folder: Path, kind: ModelKind, dtype: str, trust_remote_code: bool) -> nn.Module:
    """A model that `save_pretrained` wrote. Raises StockpotError if it cannot be loaded."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code) if kind == "language" else None
    return _load(str(folder), kind, _family(config, kind), dtype, trust_remote_code=trust_remote_code).model


def _family(config: Any, kind: ModelKind) -> _Family:
    return _ANSWERING if kind == "language" and is_encoder_decoder(config) else _FAMILIES[kind]


def _load(path: str, kind: ModelKind, family: _Family, dtype: str, **options: Any) -> StartModel:
    import transformers

    folder = _check_folder(path)
    model: nn.Module
    try:
        model, info = getattr(transformers, family.auto_class).from_pretrained(
            str(folder) if folder.is_dir() else path,
            dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True, **options,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise StockpotError(f"model.name: {path} could not be loaded: {_reason(error)}") from error
    if kind == "language" and info["missing_keys"]:  # a classifier's output layer may be new
        raise StockpotError(
            f"model.name: {path} is not a {family.noun}: it has no weights for '{min(info['missing_keys'])}'; "
            "name a model that was saved as one."
        )
    other_shapes = [entry if isinstance(entry, str) else entry[0] for entry in info["mismatched_keys"]]
    return StartModel(model, sorted({*info["missing_keys"], *other_shapes}))


def check_kind(spec: ModelSpec, config: Any, kind: ModelKind) -> None:
    """Raises StockpotError where the model's configuration is not of this kind, with what it is for instead."""
    if spec.config is not None:
        check_family(config, kind, "model.config.model_type: ")
    elif spec.name is not None and not spec.trust_remote_code:  # whose code may bring its own families
        check_family(config, kind, f"model.name: {spec.name}: ")


def check_family(config: Any, kind: ModelKind, place: str) -> None:
    """Raises StockpotError, starting with `place`, where a configuration is not of this kind."""
    import transformers

    if reason := other_work(config, kind):
        raise StockpotError(f"{place}{reason}")
    family = _family(config, kind)
    if type(config) not in getattr(transformers, family.mapping):
        reason = work_of_type(config)
        raise StockpotError(f"{place}{reason or f'Transformers has no {family.noun} {config.model_type!r}.'}")


def _check_folder(path: str) -> Path:
    """The path as a folder, whether it exists or not; raises StockpotError if loading from it would be unsafe."""
    folder = Path(path).expanduser()
    if path.startswith((".", "/", "~")) and not folder.is_dir():
        raise StockpotError(f"model.name: {path}: there is no such folder.")
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        content = "pickled weights (.bin)" if list(folder.glob("*.bin")) else "no weights"
        raise StockpotError(
            f"model.name: {path} holds {content}, not safetensors; pickles are never loaded: "
            "convert the model with `save_pretrained` if you trust it."
        )
    return folder


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])
