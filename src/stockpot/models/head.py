"""The output layer: finding it, and giving it more rows without touching those that it has."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stockpot.errors import StockpotError, did_you_mean
from stockpot.models.spec import ModelSpec
from stockpot.seeds import generator


def find_head(model: nn.Module, rows: int, name: str | None = None) -> str:
    """The name of the output layer: the last nn.Linear with `rows` outputs, or the one that the user names.

    Raises StockpotError if there is no such layer.
    """
    linear = {key: module for key, module in model.named_modules() if isinstance(module, nn.Linear)}
    if name is not None:
        if name not in linear:
            hint = did_you_mean(name, linear)
            raise StockpotError(f"model.head: {name!r} is not a linear layer of the model.{hint}")
        if linear[name].out_features != rows:
            raise StockpotError(f"model.head: {name!r} has {linear[name].out_features} rows, the stream needs {rows}.")
        return str(name)
    candidates = [key for key, module in linear.items() if module.out_features == rows]
    if not candidates:
        raise StockpotError(
            f"model.head: the model has no linear layer with {rows} outputs, one for each class; name the layer, "
            "and let the builder use `num_labels`."
        )
    return str(candidates[-1])


def head_tensors(model: nn.Module, name: str) -> list[str]:
    """The names of the output layer's tensors."""
    prefix = f"{name}." if name else ""
    return [prefix + key for key, _ in model.get_submodule(name).named_parameters()]


@torch.no_grad()
def grow_head(model: nn.Module, name: str, rows: int, generator: torch.Generator) -> None:
    """Grows the output layer to `rows` rows: old rows keep their values, new ones are drawn as the model draws its own.

    Raises StockpotError if the layer already has more rows.
    """
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear), "find_head returns linear layers only"
    missing_rows = rows - layer.out_features
    if missing_rows < 0:
        raise StockpotError(f"the output layer {name!r} already has {layer.out_features} rows, more than {rows}.")
    if missing_rows == 0:
        return
    config = getattr(model, "config", None)
    std = getattr(config, "initializer_range", None)
    bound = layer.in_features**-0.5

    def draw(shape: tuple[int, ...], like: Tensor, zero: bool) -> Tensor:
        if std is not None:  # as Transformers initialises: normal weights, zero biases
            drawn = torch.zeros(shape) if zero else torch.randn(shape, generator=generator) * float(std)
        else:  # as nn.Linear initialises
            drawn = (torch.rand(shape, generator=generator) * 2 - 1) * bound
        return drawn.to(like)

    weight = torch.cat([layer.weight, draw((missing_rows, layer.in_features), layer.weight, zero=False)])
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    if layer.bias is not None:
        bias = torch.cat([layer.bias, draw((missing_rows,), layer.bias, zero=True)])
        layer.bias = nn.Parameter(bias, requires_grad=layer.bias.requires_grad)
    layer.out_features = rows


def fit_head(model: nn.Module, spec: ModelSpec, before: int, rows: int, seed: int) -> None:
    """Grows the output layer from `before` to `rows` rows, drawn from the seed."""
    if rows > before:
        grow_head(model, find_head(model, before, spec.head), rows, generator(seed, "head", before, rows))


def name_rows(model: nn.Module, names: list[str]) -> None:
    """Writes the class of each output row into a Transformers model's configuration; no names change nothing."""
    if not names:
        return
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "id2label"):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: row for row, name in enumerate(names)}
    if hasattr(model, "num_labels"):
        setattr(model, "num_labels", len(names))  # noqa: B010 - a plain attribute of Transformers models
