"""`stockpot.merge`: checkpoints on disk, or state dicts in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from stockpot.errors import StockpotError
from stockpot.merging.execute import merge_into, merge_state
from stockpot.merging.options import Options
from stockpot.merging.read.sources import StateDict
from stockpot.merging.soup_candidates import soup_into, soup_state
from stockpot.merging.spec.merge_spec import MergeModel, MergeSpec
from stockpot.merging.spec.spec_values import divide_parameters, dtype_name, one_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Options", "merge"]


@overload
def merge(
    rule: str,
    models: Sequence[str | os.PathLike[str] | StateDict],
    base: str | os.PathLike[str] | StateDict | None = None,
    output: None = None,
    *,
    dtype: str | None = None,
    trim: str = "model",
    on_missing: str = "error",
    seed: int = 0,
    options: Options | None = None,
    **parameters: Any,
) -> dict[str, Tensor]: ...


@overload
def merge(
    rule: str,
    models: Sequence[str | os.PathLike[str] | StateDict],
    base: str | os.PathLike[str] | StateDict | None,
    output: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    trim: str = "model",
    on_missing: str = "error",
    seed: int = 0,
    options: Options | None = None,
    **parameters: Any,
) -> Path: ...


@overload
def merge(
    rule: str,
    models: Sequence[str | os.PathLike[str] | StateDict],
    base: str | os.PathLike[str] | StateDict | None = None,
    *,
    output: str | os.PathLike[str],
    dtype: str | None = None,
    trim: str = "model",
    on_missing: str = "error",
    seed: int = 0,
    options: Options | None = None,
    **parameters: Any,
) -> Path: ...


def merge(
    rule: str,
    models: Sequence[str | os.PathLike[str] | StateDict],
    base: str | os.PathLike[str] | StateDict | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    dtype: str | None = None,
    trim: str = "model",
    on_missing: str = "error",
    seed: int = 0,
    options: Options | None = None,
    **parameters: Any,
) -> dict[str, Tensor] | Path:
    """Merges models by a rule: `merge("ties", [A, B], base=C, output="merged", density=0.2)`.

    Models are folders, files or names of the hub, or state dicts. With `output` the merged model is written there and
    its path returned; without, its state dict is. A parameter that every model has one of (`weight`, `density`) takes
    one value for all or a list with one for each; λ is `lambda_`. Raises StockpotError before any tensor is read for
    everything that can be known from names, shapes and types; for NaN or infinity in the result, unless
    `Options(allow_nonfinite=True)`. `stockpot rules` says what rules there are; `greedy_soup` takes `score=`, a
    function of a state dict, or of a folder where there is an `output`; higher is better. `fisher` takes files, or the
    Fishers themselves by the models' names; that those were estimated in one way is then for the caller to see to.
    """
    states: dict[str, StateDict] = {}

    def named(model: str | os.PathLike[str] | StateDict, label: str) -> str:
        if not isinstance(model, Mapping):
            return os.fspath(model)
        states[label] = model
        return label

    if isinstance(fishers := parameters.get("fisher"), list | tuple):
        parameters["fisher"] = [
            named(one, f"fisher[{number}]") if isinstance(one, Mapping) else one for number, one in enumerate(fishers)
        ]
    paths = [named(model, f"models[{number}]") for number, model in enumerate(models)]
    root = None if base is None else named(base, "base")
    each, shared = divide_parameters(rule, {key.rstrip("_"): value for key, value in parameters.items()}, len(paths))
    spec = MergeSpec(
        rule,
        tuple(MergeModel(path, own) for path, own in zip(paths, each, strict=True)),
        root,
        shared,
        dtype=None if dtype is None else dtype_name(str(dtype).removeprefix("torch.")),
        trim=one_of("trim", trim, ("model", "tensor")),
        on_missing=one_of("on_missing", on_missing, ("error", "base", "skip")),
        seed=seed,
    )
    if rule == "greedy_soup":
        return _soup(spec, shared, output, options or Options(), states)
    if output is not None:
        return merge_into(spec, Path(output), options or Options(), states=states)
    return merge_state(spec, options or Options(), states)


def _soup(
    spec: MergeSpec,
    shared: dict[str, Any],
    output: str | os.PathLike[str] | None,
    options: Options,
    states: Mapping[str, StateDict],
) -> dict[str, Tensor] | Path:
    score = shared.pop("score", None)
    if not callable(score):
        raise StockpotError("greedy_soup needs score=, a function of a state dict, or with `output` of a folder.")
    if output is None:
        return soup_state(spec, score, options, states)
    soup_into(spec, score, Path(output), options, states)
    return Path(output)
