"""LoRA over a stream: a new adapter for each task, then folded into the base or stacked beside it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from stockpot.errors import StockpotError, did_you_mean
from stockpot.seeds import derive
from stockpot.strict import StrictModel
from stockpot.weights.checkpoint import save_checkpoint
from stockpot.weights.tensor_memory import group_tied

if TYPE_CHECKING:
    from peft import PeftModel

TASK, PAST = "task", "past"  # the adapter that is trained, and the frozen one of all earlier tasks
# PEFT freezes every weight, and does not say which were frozen before. Under this attribute the PeftModel carries
# `requires_grad` of the plain model's weights, by name: what makes a PeftModel sets it, `fold_adapter` and `stack`
# restore from it.
FLAGS = "_stockpot_requires_grad"


class LoraSpec(StrictModel):
    """The `model.lora` block: each task trains ΔW = s·B·A of rank r, with s = lora_alpha/r (rsLoRA: lora_alpha/√r)."""

    r: int = Field(8, ge=1, description="rank of the adapter of one task")
    lora_alpha: float = Field(16, gt=0, description="ΔW is scaled by lora_alpha/r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before A while training")
    target_modules: Literal["all-linear"] | list[str] = Field(
        "all-linear",
        description="layers that get an adapter: all linear ones (not a language model's head), or ends of their names",
    )
    use_rslora: bool = Field(False, description="scale by lora_alpha/√r instead (rank-stabilised LoRA)")
    modules_to_save: list[str] | None = Field(None, description="layers trained whole beside the adapter")
    bias: Literal["none", "all", "lora_only"] = Field("none", description="biases trained beside the adapter")
    output: Literal["merged", "adapter"] = Field(
        "merged", description="a task leaves merged weights (fp32 base), or one adapter of all tasks beside the base"
    )

    @model_validator(mode="before")
    @classmethod
    def _names_what_it_lacks(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if values.get("use_dora"):
            raise ValueError("use_dora: with DoRA's magnitudes ΔW is not a product B·A; drop the key")
        if "init_lora_weights" in values:
            raise ValueError("init_lora_weights: every adapter starts at ΔW = 0 (B = 0); drop the key")
        targets = values.get("target_modules", "all-linear")
        if not targets or (isinstance(targets, str) and targets != "all-linear"):
            raise ValueError(f"target_modules: give a list of names, [{targets or 'q_proj'}], or all-linear")
        return values

    @model_validator(mode="after")
    def _whole_tensors_need_merging(self) -> LoraSpec:
        if self.output == "adapter" and (self.modules_to_save or self.bias != "none"):
            raise ValueError("output: adapter holds factors only; use output: merged with modules_to_save or bias")
        return self


def attach(model: nn.Module, spec: LoraSpec, seed: int) -> PeftModel:
    """The model with a new adapter "task", the only part that trains: A drawn from the seed, B = 0.

    A frozen adapter "past" (see `stack`) stays active beside it. Raises StockpotError if PEFT is not installed, the
    model lacks a target module, or a target has tied weights, which the adapter would untie.
    """
    peft = installed_peft()
    _check_names(model, spec)
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(derive(seed, "lora"))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*fan_in_fan_out")  # PEFT sets it itself for GPT-2's layers
            config = _config(model, **spec.model_dump(exclude={"output"}))
            if isinstance(model, peft.PeftModel):
                if TASK in model.peft_config:
                    raise StockpotError(f"the model already has an adapter '{TASK}': fold or stack it first.")
                adapted: PeftModel = model
                adapted.add_adapter(TASK, config)
            else:
                flags = trainable_flags(model)
                tied = tied_modules(model)
                adapted = peft.get_peft_model(model, config, adapter_name=TASK)
                setattr(adapted, FLAGS, flags)
                _refuse_tied(adapted, tied)
    except StockpotError:
        raise
    except ValueError as error:  # PEFT's, for target modules and layers that it does not know
        raise StockpotError(f"model.lora: {' '.join(str(error).split())}") from error
    finally:
        torch.set_rng_state(state)
    activate(adapted)
    return adapted


def activate(model: Any) -> None:
    """Activates "past" beside "task", as `attach` does: a `Trainer` that resumes leaves only the first one active."""
    model.set_adapter(TASK)
    if PAST in model.peft_config:
        model.base_model.set_adapter([TASK, PAST])  # in this order: the Trainer saves and resumes the first
        model.base_model.set_requires_grad(PAST, requires_grad=False)


def fold_adapter(model: Any) -> nn.Module:
    """The plain model with W ← W + s·B·A for every active adapter; names and `requires_grad` are as before `attach`.

    Raises StockpotError for weights below fp32, in which most of a small ΔW would round away.
    """
    for name, layer in _layers(model):
        dtype = getattr(layer.get_base_layer(), "weight", torch.empty(0)).dtype
        if dtype not in (torch.float32, torch.float64):
            raise StockpotError(
                f"'{name}' is {str(dtype).removeprefix('torch.')}: ΔW would round away in it; load the model in fp32, "
                "or set output: adapter."
            )
    flags = getattr(model, FLAGS, {})
    plain: nn.Module = model.merge_and_unload()
    _restore(plain, flags)
    return plain


def stack(model: Any) -> PeftModel:
    """The model with one frozen adapter "past" whose ΔW is the sum of all: `[B₁ … s·Bₖ]·[A₁; …; Aₖ]`, rank Σr.

    The base is not touched. Factors are fp32 or better, and s = 1. Raises StockpotError for adapters that hold more
    than factors, and for convolutions with groups.
    """
    config, factors = model.peft_config[TASK], {}
    if config.modules_to_save or config.bias != "none":
        raise StockpotError(
            "only adapters that hold nothing but factors can be stacked: train without modules_to_save and bias."
        )
    targets: set[str] = set()
    for adapter in model.peft_config.values():
        names = adapter.target_modules
        targets |= {names} if isinstance(names, str) else set(names)
    for name, layer in _layers(model):
        parts = [_factors(layer, adapter, name) for adapter in (PAST, TASK) if adapter in layer.scaling]
        factors[name] = torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts], dim=1)
    rank = max(a.shape[0] for a, _ in factors.values())
    flags = getattr(model, FLAGS, {})
    plain = model.unload()
    _restore(plain, flags)
    settings = {"r": rank, "lora_alpha": rank, "target_modules": sorted(targets)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out")
        stacked: PeftModel = installed_peft().get_peft_model(plain, _config(plain, **settings), adapter_name=PAST)
    setattr(stacked, FLAGS, flags)
    for name, layer in _layers(stacked):
        with torch.no_grad():
            for factor, values in zip(_tensors(layer, PAST), factors[name], strict=True):
                factor.zero_()[tuple(slice(size) for size in values.shape)] = values  # zeros fill up a lower rank
    stacked.requires_grad_(False)
    return stacked


def is_stacked(model: nn.Module) -> bool:
    """Whether the model is a base with the one adapter that `stack` left."""
    return list(getattr(model, "peft_config", ())) == [PAST]


def save_adapter(model: Any, folder: Path, base: str | None = None, revision: str | None = None) -> None:
    """Writes the adapter "past" as `adapter_config.json` and `adapter_model.safetensors`, which PEFT reads.

    `base` is the name or folder of the base model, for PEFT to load it from, and `revision` the hub's one of it.
    """
    if PAST not in model.peft_config:
        raise StockpotError(f"the model has no adapter '{PAST}' to save: call stack(model) first.")
    tensors: dict[str, Tensor] = installed_peft().get_peft_model_state_dict(
        model, adapter_name=PAST, save_embedding_layers=False
    )
    save_checkpoint(tensors, folder / "adapter_model.safetensors")
    config = model.peft_config[PAST]
    config.base_model_name_or_path = base or config.base_model_name_or_path
    config.revision = revision
    trains, config.inference_mode = config.inference_mode, True
    config.save_pretrained(str(folder))
    config.inference_mode = trains


def save_base(model: Any, folder: Path) -> None:
    """Takes the adapters off the base, and writes it alone as `save_pretrained` does."""
    model.unload().save_pretrained(folder)


def load_adapter(base: nn.Module, folder: Path, trainable: bool = False) -> PeftModel:
    """The base with the adapter of `folder`, as "past". Raises StockpotError if it is not an adapter in safetensors."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise StockpotError(f"{folder} is not a PEFT adapter: it has no {name}.")
    flags = trainable_flags(base)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out")
        adapted: PeftModel = installed_peft().PeftModel.from_pretrained(
            base, str(folder), adapter_name=PAST, is_trainable=trainable, local_files_only=True
        )
    setattr(adapted, FLAGS, flags)
    return adapted


def installed_peft() -> Any:
    """The package PEFT; raises StockpotError where it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise StockpotError("LoRA needs PEFT: pip install 'stockpot[lora]'") from error
    return peft


def _config(model: nn.Module, **settings: Any) -> Any:
    base: Any = getattr(model, "get_base_model", lambda: model)()
    task = None
    if type(base).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        task = "CAUSAL_LM"
    elif hasattr(base, "generate") and getattr(base.config, "is_encoder_decoder", False):
        task = "SEQ_2_SEQ_LM"
    return installed_peft().LoraConfig(task_type=task, **settings)


def _check_names(model: nn.Module, spec: LoraSpec) -> None:
    """Raises StockpotError for a name that no module has: PEFT ignores it if another name fits."""
    names = [name for name, module in model.named_modules() if not name.endswith(("base_layer", "original_module"))]
    for key in ("target_modules", "modules_to_save"):
        wanted = getattr(spec, key)
        for end in wanted if isinstance(wanted, list) else ():
            if not any(name == end or name.endswith(f".{end}") for name in names):
                hint = did_you_mean(end, {name.rpartition(".")[2] for name in names})
                raise StockpotError(f"model.lora.{key}: the model has no module {end!r}.{hint}")


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """The LoRA layers by the name of the layer in the plain model."""
    from peft.tuners.lora import LoraLayer

    base: Any = model.get_base_model()
    for name, module in base.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _tensors(layer: Any, adapter: str) -> tuple[Tensor, Tensor]:
    if adapter in layer.lora_embedding_A:
        return layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
    return layer.lora_A[adapter].weight, layer.lora_B[adapter].weight


def _factors(layer: Any, adapter: str, name: str) -> tuple[Tensor, Tensor]:
    """A and s·B, in fp32 or better."""
    a, b = (
        tensor.detach() if tensor.dtype.itemsize > 2 else tensor.detach().float() for tensor in _tensors(layer, adapter)
    )
    if b.shape[1] != a.shape[0]:
        raise StockpotError(f"'{name}' is a convolution with groups, whose adapters cannot be stacked: leave it out.")
    return a, b * layer.scaling[adapter]


def trainable_flags(model: nn.Module) -> dict[str, bool]:
    """`requires_grad` of every weight, by name."""
    return {name: tensor.requires_grad for name, tensor in model.named_parameters()}


def _restore(model: nn.Module, flags: dict[str, bool]) -> None:
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point():
            tensor.requires_grad_(flags.get(name, True))


def tied_modules(model: nn.Module) -> set[str]:
    """The modules that share a weight with another, by name."""
    groups = group_tied(model.named_parameters(remove_duplicate=False))
    return {name.rpartition(".")[0] for names, _ in groups if len(names) > 1 for name in names}


def changed_modules(model: Any) -> list[str]:
    """The modules that have an adapter, or are trained whole, by their names in the plain model."""
    base: Any = model.get_base_model()
    return [name for name, module in base.named_modules() if {"lora_A", "modules_to_save"} & module._modules.keys()]


def _refuse_tied(model: PeftModel, tied: set[str]) -> None:
    """Raises StockpotError if an adapter, or a layer that is trained whole, has a tied weight."""
    for name in changed_modules(model):
        if name in tied:
            raise StockpotError(
                f"model.lora: '{name}' shares its weight with another layer, and an adapter would untie them: take it "
                "out of target_modules and modules_to_save, or set tie_word_embeddings to false in the model's config."
            )
