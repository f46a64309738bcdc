"""`stockpot.merge`: checkpoints on disk, or state dicts in memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from stockpot.errors import StockpotError
from stockpot.merging.compute.engine import Engine, Seen
from stockpot.merging.plan.costs import require_room
from stockpot.merging.plan.merge_plan import Plan, make_plan
from stockpot.merging.plan.shards import bytes_of
from stockpot.merging.read.inputs import Inputs
from stockpot.merging.read.sources import Source, torch_dtype
from stockpot.merging.rule import Value
from stockpot.merging.spec.merge_spec import MergeSpec, ModelSpec, as_yaml
from stockpot.merging.threads import processors
from stockpot.merging.write.model_folder import refuse_output, write_model

if TYPE_CHECKING:
    from torch import Tensor

State = Mapping[str, "Tensor"]
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """How a merge is carried out; nothing here changes a number of it, but for `adapter_rank`.

    `as_adapter` writes a merge of adapters as one adapter, exactly, or with `adapter_rank` truncated to that rank; see
    `write_adapter`.
    """

    max_shard_size: str = "5GB"
    threads: int | None = None
    allow_bin: bool = False
    allow_nonfinite: bool = False
    verify: bool = True
    sync: bool = True
    resume: bool = False
    hash_files: bool = False
    as_adapter: bool = False
    adapter_rank: int | None = None


@dataclass
class Opened:
    """A merge that was planned: its sources are open until it is closed.

    `paths` are all places that it reads from, `folders` those of the models by their names; see `Inputs`.
    """

    plan: Plan
    paths: Sequence[Path]
    fishers: Mapping[str, Source] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)


def dtype_name(name: str) -> str:
    """`bfloat16` → `BF16`; raises StockpotError for what is no type of weights."""
    known = {**_DTYPES, **{short: short for short in _DTYPES.values()}}
    if name not in known:
        from stockpot.errors import did_you_mean

        raise StockpotError(
            f"{name!r} is not a type of weights.{did_you_mean(name, known)} Known: {', '.join(_DTYPES)}."
        )
    return known[name]


@overload
def merge(
    rule: str,
    models: Sequence[str | os.PathLike[str] | State],
    base: str | os.PathLike[str] | State | None = None,
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
    models: Sequence[str | os.PathLike[str] | State],
    base: str | os.PathLike[str] | State | None,
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
    models: Sequence[str | os.PathLike[str] | State],
    base: str | os.PathLike[str] | State | None = None,
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
    models: Sequence[str | os.PathLike[str] | State],
    base: str | os.PathLike[str] | State | None = None,
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
    states: dict[str, State] = {}

    def named(model: str | os.PathLike[str] | State, label: str) -> str:
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
        tuple(ModelSpec(path, own) for path, own in zip(paths, each, strict=True)),
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
    states: Mapping[str, State],
) -> dict[str, Tensor] | Path:
    from stockpot.merging.soup_candidates import soup_into, soup_state

    score = shared.pop("score", None)
    if not callable(score):
        raise StockpotError("greedy_soup needs score=, a function of a state dict, or with `output` of a folder.")
    if output is None:
        return soup_state(spec, score, options, states)
    soup_into(spec, score, Path(output), options, states)
    return Path(output)


def one_of(name: str, value: str, known: Sequence[str]) -> Any:
    """The value, if it is one of those known."""
    if value not in known:
        raise StockpotError(f"{name} is one of {', '.join(known)}, not {value!r}.")
    return value


def divide_parameters(
    rule: str, parameters: Mapping[str, Any], count: int
) -> tuple[list[dict[str, Value]], dict[str, Any]]:
    """Lists with one value for each model, and what counts for all."""
    each: list[dict[str, Value]] = [{} for _ in range(count)]
    shared: dict[str, Any] = {}
    for key, value in parameters.items():
        if not isinstance(value, list | tuple):
            shared[key] = value
            continue
        if len(value) != count:
            raise StockpotError(f"{rule}: {key} has {len(value)} values for {count} models.")
        for own, one in zip(each, value, strict=True):
            own[key] = one
    return each, shared


@contextlib.contextmanager
def opened(spec: MergeSpec, options: Options, states: Mapping[str, State] | None = None) -> Iterator[Opened]:
    """Opens every input and plans the merge; closes them when the block ends."""
    from stockpot.merging.plan.fisher_files import open_fishers

    with contextlib.ExitStack() as closing:
        inputs = Inputs(spec, states or {}, options.allow_bin)
        closing.callback(inputs.close)
        plan = make_plan(inputs.spec, inputs.sources)
        fishers = open_fishers(plan, states or {})
        for source in fishers.values():
            closing.callback(source.close)
        yield Opened(plan, inputs.places, fishers, inputs.folders)


def threads_of(options: Options) -> int:
    """As many as asked for; else one for each processor, up to eight: the disk is no faster than that."""
    return options.threads or min(8, processors())


def engine_of(opened: Opened, options: Options, seen: Seen = lambda nbytes: None) -> Engine:
    """The engine for a plan."""
    if options.threads is not None and options.threads < 1:
        raise StockpotError(f"threads should be 1 or more, not {options.threads}.")
    return Engine(opened.plan, threads_of(options), options.allow_nonfinite, opened.fishers, seen)


def merge_state(spec: MergeSpec, options: Options, states: Mapping[str, State] | None = None) -> dict[str, Tensor]:
    """The merged state dict, in memory."""
    from stockpot.merging.threads import one_thread_each

    with opened(spec, options, states) as work, one_thread_each():
        engine, plan = engine_of(work, options), work.plan
        sink = _Memory(plan)
        cuts = engine.cuts if spec.trim == "model" else engine.own_cuts
        engine.merge(plan.targets, sink, cuts(plan.targets))
        return sink.state


class _Memory:
    """Merged tensors as they are put together."""

    def __init__(self, plan: Plan) -> None:
        import torch

        self.state = {
            target.name: torch.empty(target.shape, dtype=torch_dtype(target.dtype)) for target in plan.targets
        }

    def write(self, name: str, start: int, flat: Tensor) -> None:
        """Takes the elements from `start` on."""
        self.state[name].view(-1)[start : start + flat.numel()] = flat


def merge_into(
    spec: MergeSpec,
    output: Path,
    options: Options,
    seen: Seen = lambda nbytes: None,
    states: Mapping[str, State] | None = None,
) -> Path:
    """Merges into a folder that `from_pretrained` loads."""
    from stockpot.merging.threads import one_thread_each
    from stockpot.merging.write.donor import settle
    from stockpot.merging.write.sidecars import publish

    if options.as_adapter or options.adapter_rank is not None:
        from stockpot.merging.write.adapter_output import write_adapter

        write_adapter(spec, output, options.adapter_rank, options, states)
        return output
    largest = bytes_of(options.max_shard_size)
    with opened(spec, options, states) as work, one_thread_each():
        refuse_output(output, work.paths)
        beside = settle(work.plan, work.folders)
        if not options.resume:
            require_room(work.plan.nbytes + sum(file.stat().st_size for file in beside.copies.values()), output)
        write_model(
            work.plan,
            engine_of(work, options, seen),
            output,
            identity(work, largest),
            largest,
            lambda folder: publish(folder, work.plan, beside, work.folders, work.fishers, options.hash_files),
            options.verify,
            options.sync,
            options.resume,
        )
    return output


def identity(work: Opened, largest: int) -> str:
    """What makes two merges the same one: the spec, and of every input's files header, size and time of change."""
    facts = [
        (str(facts.file), facts.header_sha256, facts.nbytes, facts.file.stat().st_mtime_ns)
        for source in (*work.plan.sources, *work.fishers.values())
        for facts in source.files
    ]
    text = json.dumps([as_yaml(replace(work.plan.spec)), facts, largest], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
