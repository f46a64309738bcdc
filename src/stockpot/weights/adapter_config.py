"""PEFT's adapter_config.json: which of its keys change the weights, and which of those are supported."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveInt, ValidationError

from stockpot.errors import StockpotError
from stockpot.weights.layout import indexed_file

_T = TypeVar("_T")
ADAPTER_CONFIG = "adapter_config.json"
_LONGEST_PATTERN = 500
_LONGEST_CONFIG = 8 << 20
# Keys that describe how an adapter was made or trained, and do not change what it adds.
_WITHOUT_EFFECT = frozenset({
    "auto_mapping", "inference_mode", "peft_version", "target_modules", "exclude_modules", "lora_dropout",
    "modules_to_save", "layers_to_transform", "layers_pattern", "megatron_core", "loftq_config", "eva_config",
    "corda_config", "lora_ga_config", "velora_config", "qalora_group_size", "runtime_config",
})  # fmt: skip
# Initialisations that subtract from the base what they put into A and B: the file alone is then not what was learnt.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


# Methods that prepend learnt vectors to the text, or to what attention sees.
_NO_WEIGHTS = frozenset({
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT",
})  # fmt: skip


class _Kind(BaseModel):
    peft_type: str


class AdapterConfig(BaseModel):
    """The part of an adapter_config.json that is used.

    `read_adapter_config` refuses any other key that would change the weights.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    peft_type: str
    base_model_name_or_path: str | None = None
    revision: str | None = None
    task_type: str | None = None
    r: PositiveInt = 8
    lora_alpha: FiniteFloat = 8
    rank_pattern: dict[str, PositiveInt] | None = None
    alpha_pattern: dict[str, FiniteFloat] | None = None
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    init_lora_weights: bool | str | None = True

    def rank(self, module: str) -> int:
        """The rank r of one module."""
        return _by_pattern(self.rank_pattern or {}, module, self.r)

    def scale(self, module: str) -> float:
        """The factor of B·A: `α/r`, or rank-stabilised `α/√r` (arXiv 2312.03732)."""
        alpha, rank = _by_pattern(self.alpha_pattern or {}, module, self.lora_alpha), self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter's configuration and weights."""
    names = ("adapter_model.safetensors", "adapter_model.safetensors.index.json", "adapter_model.bin")
    return (path / ADAPTER_CONFIG).is_file() and any((path / name).is_file() for name in names)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Reads the configuration of a LoRA adapter; raises StockpotError for other methods and unsupported features."""
    config = parse_adapter_config(folder)
    if problem := beyond_factors(config):
        raise StockpotError(f"{folder / ADAPTER_CONFIG}: {problem}.")
    return config


def parse_adapter_config(folder: Path) -> AdapterConfig:
    """Reads the configuration of a LoRA adapter; raises StockpotError for other methods and malformed files."""
    file = indexed_file(folder, folder, ADAPTER_CONFIG)
    if file.stat().st_size > _LONGEST_CONFIG:
        raise StockpotError(f"{file} is longer than {_LONGEST_CONFIG:,} bytes: not an adapter's configuration.")
    try:
        kind = _Kind.model_validate_json(file.read_bytes()).peft_type
        if kind != "LORA":
            raise StockpotError(f"{file}: peft_type {kind} is not supported, only LORA: {_instead(kind)}.")
        config = AdapterConfig.model_validate_json(file.read_bytes())
        for pattern in (*(config.rank_pattern or {}), *(config.alpha_pattern or {})):
            re.compile(rf"(.*\.)?({pattern})$")
            # The file is not trusted: matching a repeated group can take exponential time, and no name needs one.
            if re.search(r"\)[*+{]", pattern) or len(pattern) > _LONGEST_PATTERN:
                raise StockpotError(
                    f"{file}: the pattern {_short(pattern)!r} repeats a group or is too long, and is refused."
                )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise StockpotError(f"{file}: {where}: {first['msg']}.") from error
    except (re.error, RecursionError, OverflowError) as error:
        raise StockpotError(f"{file}: rank_pattern or alpha_pattern is not a regular expression: {error}.") from error
    return config


def _instead(kind: str) -> str:
    if kind in _NO_WEIGHTS:
        return (
            "it is learnt input beside the model, not a change of weights, so it cannot be folded, merged or averaged"
        )
    return "merge it with PEFT (`merge_and_unload`)"


def changes_base(config: AdapterConfig) -> str | None:
    """Why a LoRA adapter's file alone is not what was learnt; None if it is."""
    init = config.init_lora_weights
    if isinstance(init, str) and init.lower().startswith(_CHANGES_BASE):
        return (
            f"init_lora_weights {init!r} also changes the base: save the adapter with "
            "`save_pretrained(…, path_initial_model_for_weight_conversion=…)`, which makes it a plain LoRA"
        )
    return None


def beyond_factors(config: AdapterConfig, allowed: Collection[str] = ()) -> str | None:
    """What makes a LoRA adapter add more to the weights than `scale(module)·B·A`; None if only keys in `allowed` do."""
    if problem := changes_base(config):
        return problem
    if config.bias != "none" and "bias" not in allowed:
        return f"bias {config.bias!r} is not supported: B·A does not hold the trained biases"
    for key, value in (config.model_extra or {}).items():
        if value and key not in _WITHOUT_EFFECT and key not in allowed:
            dora = " (DoRA)" if key == "use_dora" else ""
            return f"{key}={_short(value)}{dora} is not supported: merge it with PEFT (`merge_and_unload`) if possible"
    return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:40] + "…"


def _by_pattern(patterns: Mapping[str, _T], module: str, default: _T) -> _T:
    """The value of the first key that, as a regular expression, matches the end of the module's name after a dot."""
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return patterns.get(module, default)
