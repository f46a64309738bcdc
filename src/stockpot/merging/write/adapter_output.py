"""A merge of adapters written as one adapter: their factors side by side, or truncated to a lower rank."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.errors import StockpotError
from stockpot.files import publishing, write_json, write_text
from stockpot.merging.compute.engine import first_nonfinite
from stockpot.merging.options import Options
from stockpot.merging.plan.merge_plan import Plan
from stockpot.merging.plan.planned_merge import planned_merge
from stockpot.merging.read.adapter_source import PEFT_PREFIX, AdapterSource, Factors
from stockpot.merging.read.sources import StateDict, read_pieces, torch_dtype
from stockpot.merging.rule import Rule, Settings
from stockpot.merging.spec.merge_spec import MergeSpec, spec_to_mapping
from stockpot.merging.threads import one_thread_each
from stockpot.merging.write.model_folder import refuse_output
from stockpot.merging.write.shard_file import ShardFile, Slot, verify_shard
from stockpot.weights.adapter_config import ADAPTER_CONFIG
from stockpot.weights.layout import ITEM_SIZE
from stockpot.yaml_text import dump_yaml

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHTS = "adapter_model.safetensors"
_RULES = ("linear", "task_arithmetic")


@dataclass(frozen=True, slots=True)
class Share:
    """What one adapter contributes to one tensor: `coefficient · ΔW`."""

    source: AdapterSource
    factors: Factors
    coefficient: float


@dataclass(frozen=True, slots=True)
class Module:
    """One module of the output: its tensor's name in the base, the shares that are summed, the rank that is kept."""

    name: str
    shares: Sequence[Share]
    rank: int

    @property
    def like(self) -> Factors:
        """The first adapter's factors, which give the module's factors their names and layout."""
        return self.shares[0].factors

    @property
    def full(self) -> int:
        """The rank of all factors side by side."""
        return sum(share.factors.rank for share in self.shares)


def write_adapter(
    spec: MergeSpec,
    output: Path,
    rank: int | None = None,
    options: Options | None = None,
    states: Mapping[str, StateDict] | None = None,
) -> float:
    """Writes a `linear` or `task_arithmetic` merge of adapters as an adapter that PEFT loads.

    The merged ΔW is `Σᵢ cᵢsᵢBᵢAᵢ = [c₁s₁B₁ … cₙsₙBₙ]·[A₁; …; Aₙ]`, of rank Σrᵢ.

    Args:
        spec: The merge; all models must be adapters of its base.
        output: A new or empty folder.
        rank: Truncate every module to this rank by its largest singular values, which gives the nearest matrix of that
            rank in the Frobenius norm (Eckart and Young, 1936). Default: all ranks added up, exactly.
        options: How to write it.
        states: State dicts by the names that the spec gives them.

    Returns:
        The relative error `‖ΔW − ΔW_written‖ / ‖ΔW‖` over all modules; 0.0 if nothing was truncated.

    Raises:
        StockpotError: For other rules, for models that are not adapters of the merge's base, and for adapters with
            modules that were trained whole.
    """
    options = options or Options()
    if rank is not None and rank < 1:
        raise StockpotError(f"the rank of an adapter must be 1 or more, not {rank}.")
    if spec.rule not in _RULES:
        raise StockpotError(
            f"a {spec.rule} merge of adapters is not an adapter; only {' and '.join(_RULES)} can be written as one."
        )
    with planned_merge(spec, options, states) as planned, one_thread_each():
        refuse_output(output, planned.paths)
        plan = planned.plan
        modules = merged_modules(plan, rank)
        floats = {share.source.tensors[module.name].dtype for module in modules for share in module.shares}
        dtype = plan.spec.dtype or ("F64" if "F64" in floats else "F32")
        with publishing(output, replace=False) as folder:
            lost = _write(folder / _WEIGHTS, modules, dtype, options)
            base = plan.spec.base if plan.spec.base in planned.folders else None
            write_json(folder / ADAPTER_CONFIG, _config(plan, modules, base))
            recipe = dump_yaml(spec_to_mapping(plan.spec), width=80)
            write_text(folder / "stockpot_merge.yaml", recipe)
            if output.is_dir():
                output.rmdir()  # it is empty: refuse_output refuses any other
    return lost


def merged_modules(plan: Plan, rank: int | None) -> list[Module]:
    """The shares and the rank of every adapted tensor; reads headers, and the weights only of saved embeddings."""
    adapters = _adapters(plan)
    for adapter in adapters.values():
        _refuse_replaced(adapter)
    modules = []
    for target in plan.targets:
        shares = [
            Share(adapters[part.source], adapters[part.source].factors[target.name], coefficient)
            for part, coefficient in zip(target.inputs, _coefficients(plan.rule, target.settings), strict=True)
            if part != target.base and target.name in adapters[part.source].factors
        ]
        if shares:
            full, like = sum(share.factors.rank for share in shares), shares[0].factors
            kept = full if rank is None or rank >= full else min(rank, like.rows, like.columns)
            modules.append(Module(target.name, shares, kept))
    if not modules:
        raise StockpotError("the adapters have no factors: there is nothing to write.")
    return modules


def _adapters(plan: Plan) -> dict[int, AdapterSource]:
    """The adapters by the number of their source; the base itself may be one of the models and adds nothing."""
    adapters: dict[int, AdapterSource] = {}
    base = plan.spec.paths.index(plan.spec.base) if plan.spec.base else None
    for number in dict.fromkeys(part.source for target in plan.targets for part in target.inputs):
        source = plan.sources[number]
        vectors = plan.rule.of == "vectors"  # then a model BASE+ADAPTER also counts as ΔW
        if isinstance(source, AdapterSource) and source.on_merge_base and (source.is_adapter or vectors):
            adapters[number] = source
        elif number != base or not vectors:
            hint = ": name it without its base" if "+" in source.label else ""
            raise StockpotError(
                f"{source.label} is merged as a model; only adapters of the base can be written as an adapter{hint}."
            )
    return adapters


def _refuse_replaced(adapter: AdapterSource) -> None:
    """Refuses tensors saved whole that differ from the base's. PEFT saves equal embeddings next to their factors."""
    import torch

    for name in adapter.replaced:
        stored = read_pieces(adapter.stored, adapter.replaced[name], "F64")
        if not all(map(torch.equal, stored, read_pieces(adapter.base, name, "F64"))):
            raise StockpotError(
                f"{adapter.label} holds '{name}' trained whole (modules_to_save), which factors cannot express: "
                "merge into a model instead."
            )


def _coefficients(rule: Rule, settings: Settings) -> list[float]:
    weights = settings.numbers("weight")
    total = sum(weights) if settings.switch("normalize") else 1.0
    scale = settings.number("lambda") if rule.parameter("lambda") is not None else 1.0
    return [scale * weight / total for weight in weights]


def _write(file: Path, modules: Sequence[Module], dtype: str, options: Options) -> float:
    slots = [slot for module in modules for slot in _slots(module, dtype)]
    shard = ShardFile(file, slots, {"format": "pt"}, options.verify)
    lost = total = 0.0
    try:
        for module in modules:
            left, right = side_by_side(module)
            squared = _squared_norm(left, right)
            truncates = module.rank < module.full
            if not math.isfinite(squared) and (truncates or not options.allow_nonfinite):
                raise _nonfinite(module.name)
            if truncates:
                left, right, left_out = truncated(left, right, module.rank)
                lost += left_out
            total += squared
            for slot, matrix in zip(_slots(module, dtype), _as_named(module.like, left, right), strict=True):
                flat = matrix.to(torch_dtype(dtype)).contiguous().view(-1)
                if not options.allow_nonfinite and first_nonfinite(flat, dtype) is not None:
                    raise _nonfinite(slot.name)
                shard.write(slot.name, 0, flat)
    finally:
        shard.close(options.sync)
    if options.verify:
        verify_shard(file, shard.sums, options.sync)
    return math.sqrt(lost / total) if total else 0.0


def _nonfinite(name: str) -> StockpotError:
    return StockpotError(f"tensor '{name}' would hold NaN or infinity: nothing was written; see --allow-nonfinite.")


def side_by_side(module: Module) -> tuple[Tensor, Tensor]:
    """L (rows × Σrᵢ) and R (Σrᵢ × columns) with `L·R = Σᵢ cᵢΔWᵢ`, in fp64; L includes coefficients and scales."""
    import torch

    lefts, rights = [], []
    for share in module.shares:
        left, right = share.source.matrices(module.name, torch.float64)
        lefts.append(left * (share.coefficient * share.factors.scale))
        rights.append(right)
    return torch.cat(lefts, dim=1), torch.cat(rights, dim=0)


def truncated(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The nearest L·R of that rank, and the squared Frobenius norm of what it leaves out; see `write_adapter`.

    L·R itself is never formed. With `L = Q₁T₁` and `Rᵀ = Q₂T₂`, `L·R = Q₁(T₁T₂ᵀ)Q₂ᵀ`, so the singular values of L·R
    are those of the small matrix T₁T₂ᵀ.
    """
    import torch

    first, upper = torch.linalg.qr(left)
    second, lower = torch.linalg.qr(right.t())
    turned, values, back = torch.linalg.svd(upper @ lower.t(), full_matrices=False)
    root = values[:rank].sqrt()
    lost = float(values[rank:].square().sum())
    return first @ (turned[:, :rank] * root), (root[:, None] * back[:rank]) @ second.t(), lost


def _squared_norm(left: Tensor, right: Tensor) -> float:
    """`‖L·R‖² = tr(LᵀL·RRᵀ)`, without forming the product."""
    return float(((left.t() @ left) * (right @ right.t())).sum())


def _slots(module: Module, dtype: str) -> list[Slot]:
    """A and B with PEFT's names and shapes."""
    like, rank = module.like, module.rank
    if like.kind in ("linear", "convolution"):
        shape_a, shape_b = (rank, *like.shape[1:]), (like.rows, rank, *[1] * (len(like.shape) - 2))
    else:
        shape_a, shape_b = (rank, like.rows), (like.columns, rank)
    ends = ("lora_embedding_A", "lora_embedding_B") if like.kind == "embedding" else ("lora_A.weight", "lora_B.weight")
    return [
        Slot(f"{PEFT_PREFIX}{like.module}.{end}", dtype, shape, math.prod(shape) * ITEM_SIZE[dtype])
        for end, shape in zip(ends, (shape_a, shape_b), strict=True)
    ]


def _as_named(like: Factors, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    return (right, left) if like.kind in ("linear", "convolution") else (left.t(), right.t())


def _config(plan: Plan, modules: Sequence[Module], base: str | None) -> dict[str, Any]:
    first = modules[0].shares[0].source.config
    ranks = {module.like.module: module.rank for module in modules}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    # PEFT matches a pattern at the end of a name; `^` restricts it to this one module.
    others = {f"^{_escaped(name)}": module_rank for name, module_rank in ranks.items() if module_rank != rank}
    return {
        "peft_type": "LORA",
        "task_type": first.task_type,
        "base_model_name_or_path": first.base_model_name_or_path or base,
        "revision": first.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": _targets(plan, list(ranks)),
        "fan_in_fan_out": any(module.like.kind == "transposed" for module in modules),
        "use_rslora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "modules_to_save": None,
    }


def _escaped(name: str) -> str:
    return name.replace(".", r"\.")


def _targets(plan: Plan, modules: Sequence[str]) -> list[str]:
    """The last parts of the modules' names if they match no other module, else the full names."""
    short = {name.rpartition(".")[2] for name in modules}
    matrices = (target.name.removesuffix(".weight") for target in plan.targets if len(target.shape) > 1)
    return sorted(short if {name for name in matrices if name.rpartition(".")[2] in short} == set(modules) else modules)
