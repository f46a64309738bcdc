"""A stream that starts from an adapter: folded into its base, or frozen beside it."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from stockpot.errors import StockpotError
from stockpot.models.lora import (
    FLAGS,
    TASK,
    changed_modules,
    fold_adapter,
    installed_peft,
    stack,
    tied_modules,
    trainable_flags,
)
from stockpot.models.named_adapter import PREFIX, NamedAdapter, is_head
from stockpot.models.pretrained import StartModel


def folded(start: StartModel, adapter: NamedAdapter, classifies: bool) -> StartModel:
    """The base with the adapter's change in its weights, and with the layers that the adapter trained whole.

    Equation: `W ← W + s·B·A` for each adapted layer
    A classifier's output layer stays as it was drawn if the adapter's has other classes. Embeddings get as many rows as
    the adapter has.

    Raises:
        StockpotError: the adapter does not fit the base.
    """
    _fit_embeddings(start.model, adapter)
    plain = fold_adapter(_attached(start.model, adapter, classifies))
    stored, weights = adapter.tensors(), plain.state_dict()
    learnt = {
        name
        for name in start.drawn
        if PREFIX + name in stored and torch.equal(stored[PREFIX + name].to(weights[name]), weights[name])
    }
    return StartModel(plain, [name for name in start.drawn if name not in learnt])


def stacked(model: nn.Module, adapter: NamedAdapter, classifies: bool) -> nn.Module:
    """The base with the adapter frozen beside it: the adapter "past" of `stockpot.models.lora`.

    A classifier's output layer is the base's.

    Raises:
        StockpotError: the adapter does not fit the base, or holds more than factors.
    """
    stored, weights = adapter.tensors(), model.state_dict()
    for name in stored:
        plain = name.removeprefix(PREFIX).replace(".base_layer.", ".")
        if ".lora_" in name or (classifies and is_head(name)):
            continue
        same_shape = plain in weights and stored[name].shape == weights[plain].shape
        if not same_shape or not torch.equal(stored[name].to(weights[plain]), weights[plain]):
            raise StockpotError(  # equal ones PEFT stores with adapted embeddings
                f"model.name: {adapter.label} holds '{plain}' trained whole, and a stack holds factors only: fold it "
                "(adapter: fold) into fp32 weights."
            )
    return stack(_attached(model, adapter, classifies))


def _fit_embeddings(model: Any, adapter: NamedAdapter) -> None:
    """Gives the embeddings as many rows as the adapter stores: it was trained on a resized vocabulary."""
    if not hasattr(model, "get_input_embeddings"):
        return
    try:
        embeddings = model.get_input_embeddings()
    except NotImplementedError:  # of images
        return
    name = next((name for name, module in model.named_modules() if module is embeddings), "")
    stored = adapter.tensors()
    for key in (f"{PREFIX}{name}.weight", f"{PREFIX}{name}.base_layer.weight"):
        if key in stored and len(stored[key]) != embeddings.weight.shape[0]:
            model.resize_token_embeddings(len(stored[key]), mean_resizing=False)
            return


def _attached(model: nn.Module, adapter: NamedAdapter, classifies: bool) -> nn.Module:
    """The base with the adapter active on it; raises StockpotError unless every tensor of it has its place."""
    peft, flags, tied = installed_peft(), trainable_flags(model), tied_modules(model)
    config = peft.PeftConfig.from_pretrained(str(adapter.folder))
    config.task_type = None  # it was trained for another, perhaps: what counts is where its tensors belong
    config.inference_mode = True
    if adapter.how == "stack":
        config.modules_to_save = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out")
        warnings.filterwarnings("ignore", message=".*were not initialized from the model checkpoint")
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings")  # tied layers are refused below
        try:
            adapted = peft.PeftModel(model, config, adapter_name=TASK)
            result = adapted.load_adapter(
                str(adapter.folder),
                TASK,
                ignore_mismatched_sizes=classifies,
                local_files_only=True,
                key_mapping=getattr(model, "_checkpoint_conversion_mapping", {}),
            )
        except (ValueError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise StockpotError(f"model.name: {adapter.label} does not fit {adapter.base.name}: {reason}") from error
    setattr(adapted, FLAGS, flags)
    misfits = [name for name in result.unexpected_keys if not (classifies and is_head(name))]
    if classifies:  # for the sake of the output layer PEFT leaves out every tensor of another shape
        misfits += _of_other_shapes(adapted, adapter)
    if misfits:
        task = f"; it was trained for {adapter.config.task_type}" if adapter.config.task_type else ""
        raise StockpotError(
            f"model.name: {adapter.label} does not fit {adapter.base.name}: it has no place for "
            f"'{min(misfits).removeprefix(PREFIX)}'{task}."
        )
    if result.missing_keys:
        raise StockpotError(
            f"model.name: {adapter.label} lacks '{min(result.missing_keys).removeprefix(PREFIX)}', which its "
            "adapter_config.json announces."
        )
    for name in changed_modules(adapted):
        if name in tied:
            raise StockpotError(
                f"model.name: {adapter.label} changes '{name}', which shares its weight with another layer of "
                f"{adapter.base.name}: save that with tie_word_embeddings: false, and name it as model.base."
            )
    activated: nn.Module = adapted
    return activated


def _of_other_shapes(adapted: nn.Module, adapter: NamedAdapter) -> list[str]:
    """Stored tensors whose place has another shape, without output layers."""
    places = installed_peft().get_peft_model_state_dict(adapted, adapter_name=TASK, save_embedding_layers=False)
    stored = adapter.tensors()
    return [
        name for name in stored if not is_head(name) and name in places and places[name].shape != stored[name].shape
    ]
