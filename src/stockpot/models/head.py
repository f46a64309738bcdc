"""The output layer: finding it, and giving it more rows without touching those that it has."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stockpot.errors import StockpotError, did_you_mean


def find_head(model: nn.Module, rows: int, name: str | None = None) -> str:
    """The name of the output layer: the last nn.Linear with `rows` outputs, or the one that the user names."""
    linear = {key: module for key, module in model.named_modules() if isinstance(module, nn.Linear)}
    if name is not None:
        if name not in linear:
            hint = did_you_mean(name, linear)
            raise StockpotError(f"model.head: {name!r} is not a linear layer of the model.{hint}")
        if linear[name].out_features != rows:
            raise StockpotError(f"model.head: {name!r} has {linear[name].out_features} rows, the stream needs {rows}.")
        return str(name)
    found = [key for key, module in linear.items() if module.out_features == rows]
    if not found:
        raise StockpotError(
            f"model.head: no linear layer of the model has {rows} outputs, one for each class; name the layer, "
            "and let the builder use `num_labels`."
        )
    return str(found[-1])


def head_tensors(model: nn.Module, name: str) -> list[str]:
    """The names of the output layer's tensors."""
    prefix = f"{name}." if name else ""
    return [prefix + key for key, _ in model.get_submodule(name).named_parameters()]


@torch.no_grad()
def grow_head(model: nn.Module, name: str, rows: int, generator: torch.Generator) -> None:
    """Gives the output layer `rows` rows: old rows keep their values, new ones are drawn as the model draws its own.

    Raises StockpotError where the layer has more rows already.
    """
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear), "find_head returns linear layers only"
    missing = rows - layer.out_features
    if missing < 0:
        raise StockpotError(f"the output layer {name!r} has {layer.out_features} rows already, more than {rows}.")
    if missing == 0:
        return
    config = getattr(model, "config", None)
    spread = getattr(config, "initializer_range", None)
    bound = layer.in_features**-0.5

    def draw(shape: tuple[int, ...], like: Tensor, zero: bool) -> Tensor:
        if spread is not None:  # Transformers' habit: normal weights, zero biases
            drawn = torch.zeros(shape) if zero else torch.randn(shape, generator=generator) * float(spread)
        else:  # nn.Linear's habit
            drawn = (torch.rand(shape, generator=generator) * 2 - 1) * bound
        return drawn.to(like)

    weight = torch.cat([layer.weight, draw((missing, layer.in_features), layer.weight, zero=False)])
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    if layer.bias is not None:
        bias = torch.cat([layer.bias, draw((missing,), layer.bias, zero=True)])
        layer.bias = nn.Parameter(bias, requires_grad=layer.bias.requires_grad)
    layer.out_features = rows


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
