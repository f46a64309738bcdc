"""`stockpot.merge`: merges checkpoints on disk or state dicts in memory."""

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
    """Merges models by a rule: `merge("ties", [a, b], base=c, output="merged", density=0.2)`.

    Args:
        rule: The name of a merge rule (`stockpot rules` lists them with their equations), or `greedy_soup`.
        models: What to merge: folders, files, names on the hub (`OWNER/NAME`, `OWNER/NAME@REVISION`), LoRA adapters
            (alone, or `BASE+ADAPTER` for the model that one makes), or state dicts. Tensors of one name must have one
            shape; the arithmetic is in fp32, or in fp64 if any input is.
        base: The model that the others were fine-tuned from, for rules that need one. Adapters of one base have it by
            default.
        output: A new or empty folder to write the merged model to.
        dtype: Type of the output, such as `bfloat16`; default: each tensor keeps the first model's type.
        trim: Whether rules that keep the largest elements count them over the whole `model` or in each `tensor`.
        on_missing: For a tensor that a model lacks or has in another shape: `error`, `base` (use the base's instead)
            or `skip` (leave that model out of that tensor).
        seed: Seed of the random masks of DARE and DELLA.
        options: How to carry it out: threads, shard size, checks, or writing an adapter.
        **parameters: The rule's parameters. One that each model has (`weight`, `density`) takes one value for all
            models or a list with one for each; λ is `lambda_`. `fisher` takes files or, by the models' tensor names,
            the Fishers themselves; then the caller must see to it that all were estimated in the same way.
            `greedy_soup` takes `score`, a function of a state dict, or with `output` of a folder; higher is better.

    Returns:
        The path of `output` if it was given, else the merged state dict, on the CPU.

    Raises:
        StockpotError: Before any tensor is read, for every mistake that names, shapes and types can show; and if the
            result would hold NaN or infinity, unless `Options(allow_nonfinite=True)`.
    """
    states: dict[str, StateDict] = {}

    def named(model: str | os.PathLike[str] | StateDict, label: str) -> str:
        if not isinstance(model, Mapping):
            return os.fspath(model)
        states[label] = model
        return label

    if isinstance(fishers := parameters.get("fisher"), list | tuple):
        parameters["fisher"] = [
            named(fisher, f"fisher[{number}]") if isinstance(fisher, Mapping) else fisher
            for number, fisher in enumerate(fishers)
        ]
    paths = [named(model, f"models[{number}]") for number, model in enumerate(models)]
    base_path = None if base is None else named(base, "base")
    each, shared = divide_parameters(rule, {key.rstrip("_"): value for key, value in parameters.items()}, len(paths))
    spec = MergeSpec(
        rule,
        tuple(MergeModel(path, values) for path, values in zip(paths, each, strict=True)),
        base_path,
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
        raise StockpotError("greedy_soup needs score=, a function of a state dict, or of a folder if output is given.")
    if output is None:
        return soup_state(spec, score, options, states)
    soup_into(spec, score, Path(output), options, states)
    return Path(output)
