"""An adapter that a recipe names as its model: where its files are, and what it sits on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from torch import Tensor

from stockpot.errors import StockpotError
from stockpot.models.spec import ModelSpec
from stockpot.weights.adapter_config import ADAPTER_CONFIG, AdapterConfig, beyond_factors, parse_adapter_config
from stockpot.weights.checkpoint import open_checkpoint

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every name that PEFT stores
# What an adapter's repository is read for: no pickles, and no code.
_WANTED = (
    ADAPTER_CONFIG, WEIGHTS, "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "*.model", "*.jinja", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
_FOLDED = ("use_dora", "bias", "lora_bias", "trainable_token_indices", "target_parameters")  # PEFT folds these too
_HEADS = ("score", "classifier")  # of Transformers' classifiers, which PEFT trains whole

How = Literal["fold", "stack"]


@dataclass(frozen=True)
class NamedAdapter:
    """An adapter in a local folder, and how the run starts from it. `base` describes the model that it sits on."""

    label: str  # as the recipe names it
    folder: Path
    config: AdapterConfig
    base: ModelSpec
    how: How

    def tensors(self) -> Mapping[str, Tensor]:
        """Stored name → tensor, memory-mapped."""
        return open_checkpoint(self.folder / WEIGHTS)


def named_adapter(spec: ModelSpec) -> NamedAdapter | None:
    """The adapter that `spec.name` names, in a folder or on the hub; None if it names a model.

    Raises:
        StockpotError: it is not LoRA, is stored as a pickle, has no base that can be opened, or holds more than can be
            folded or stacked.
    """
    folder = _folder(spec)
    if folder is None:
        if _is_lost(spec):
            return None  # what opens the model next says so
        if key := next((key for key in ("adapter", "base") if getattr(spec, key) is not None), None):
            raise StockpotError(f"model.{key}: it is for adapters, and {spec.name or 'this model'} is none; drop it.")
        return None
    if not (folder / WEIGHTS).is_file():
        raise StockpotError(
            f"model.name: {spec.name} is an adapter without {WEIGHTS}; pickles (.bin) are never loaded: save it again "
            "with PEFT's save_pretrained if you trust it."
        )
    config = parse_adapter_config(folder)
    how: How = spec.adapter or ("stack" if spec.adapts else "fold")
    if problem := beyond_factors(config, _FOLDED if how == "fold" else ()):
        fold = (
            "" if how == "fold" or beyond_factors(config, _FOLDED) else "; or fold it (adapter: fold) into fp32 weights"
        )
        raise StockpotError(f"model.name: {spec.name}: {problem}{fold}.")
    if how == "fold" and spec.dtype != "float32":
        raise StockpotError(
            "model.adapter: most of what is folded would round away in bfloat16 weights: drop model.dtype and set "
            "train.bf16: true, or keep the adapter beside them with lora: {output: adapter}."
        )
    return NamedAdapter(str(spec.name), folder, config, _base(spec, config), how)


def base_spec(spec: ModelSpec) -> ModelSpec:
    """The block of the model that an adapter sits on; of any other model its own."""
    adapter = named_adapter(spec)
    return spec if adapter is None else adapter.base


def file_home(spec: ModelSpec, *names: str) -> ModelSpec:
    """The block whose `name` has the tokenizer or processor: an adapter's own if it has such files, or its base's.

    `names` are patterns. A model's own block is returned unchanged.
    """
    adapter = named_adapter(spec)
    if adapter is None:
        return spec
    if any(file for name in names for file in adapter.folder.glob(name)):
        return adapter.base.model_copy(update={"name": str(adapter.folder), "revision": None})
    return adapter.base


def is_head(stored: str) -> bool:
    """Whether a stored tensor is a classifier's output layer, or its bias."""
    return stored.removeprefix(PREFIX).split(".")[0] in _HEADS


def _base(spec: ModelSpec, config: AdapterConfig) -> ModelSpec:
    name = spec.base or config.base_model_name_or_path
    if not name:
        raise StockpotError(f"model.name: {spec.name} does not say which model it belongs to: name it as model.base.")
    if spec.base is None:
        if Path(name).is_absolute() and not Path(name).is_dir():
            raise StockpotError(
                f"model.name: {spec.name} belongs to {name}, which is not here: name its base as model.base."
            )
        if spec.trust_remote_code:
            raise StockpotError(
                f"model.trust_remote_code: the code would be that of {name}, which the adapter names: name it yourself "
                "as model.base if you trust it."
            )
    base = spec.model_copy(
        update={
            "name": name,
            "revision": config.revision if spec.base is None else None,
            "adapter": None,
            "base": None,
        }
    )
    if _folder(base) is not None:
        raise StockpotError(f"model.name: {spec.name} belongs to {name}, which is an adapter itself: fold that first.")
    return base


def _is_lost(spec: ModelSpec) -> bool:
    return str(spec.name).startswith((".", "/", "~")) and not Path(str(spec.name)).expanduser().is_dir()


def _folder(spec: ModelSpec) -> Path | None:
    """The local folder of an adapter's files; None for a model."""
    if spec.name is None:
        return None
    local = Path(spec.name).expanduser()
    if local.is_dir():
        return local if (local / ADAPTER_CONFIG).is_file() else None
    return None if _is_lost(spec) else _downloaded(spec.name, spec.revision or "main")


@lru_cache(maxsize=32)
def _downloaded(name: str, revision: str) -> Path | None:
    """The files of an adapter on the hub, in its cache; None if there is no adapter, or the hub cannot say."""
    from huggingface_hub import snapshot_download
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        if find_adapter_config_file(name, revision=revision) is None:
            return None
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_WANTED)))
    except (OSError, ValueError):  # what opens the model next says why
        return None
