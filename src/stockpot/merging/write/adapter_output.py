"""A merge of adapters written back as one adapter: its factors are theirs side by side, or the best of fewer."""

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
from stockpot.merging.read.adapter_config import ADAPTER_CONFIG
from stockpot.merging.read.adapter_source import PEFT_PREFIX, AdapterSource, Factors
from stockpot.merging.read.sources import StateDict, torch_dtype
from stockpot.merging.rule import Rule, Settings
from stockpot.merging.spec.merge_spec import MergeSpec, spec_to_mapping
from stockpot.merging.threads import PIECE, one_thread_each
from stockpot.merging.write.model_folder import refuse_output
from stockpot.merging.write.shard_file import ShardFile, Slot, verify_shard
from stockpot.weights.layout import ITEM_SIZE
from stockpot.yaml_text import dump_yaml

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHTS = "adapter_model.safetensors"
_RULES = ("linear", "task_arithmetic")


@dataclass(frozen=True, slots=True)
class Share:
    """What one adapter gives to one tensor: `coefficient · ΔW`."""

    source: AdapterSource
    factors: Factors
    coefficient: float


@dataclass(frozen=True, slots=True)
class Module:
    """One module of the output: the tensor's name in the base, what is summed there, the rank that is kept."""

    name: str
    shares: Sequence[Share]
    rank: int

    @property
    def like(self) -> Factors:
        """How the module's factors are named and shaped: as the first adapter's."""
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

    `Σᵢ cᵢsᵢBᵢAᵢ = [c₁s₁B₁ … cₙsₙBₙ]·[A₁; …; Aₙ]` is the merged ΔW, of rank Σrᵢ. With `rank` every module keeps the
    largest singular values of that product only, the nearest matrix of that rank in the Frobenius norm
    (Eckart and Young, 1936). Returns how far that is in all, `‖ΔW − ΔW_written‖ / ‖ΔW‖` over all modules; 0 where
    nothing was left out. Raises StockpotError for other rules, for models that are no adapters over the merge's base,
    and for adapters with modules that were saved whole.
    """
    options = options or Options()
    if rank is not None and rank < 1:
        raise StockpotError(f"an adapter has rank 1 or more, not {rank}.")
    if spec.rule not in _RULES:
        raise StockpotError(
            f"{spec.rule} of adapters is no adapter; only {' and '.join(_RULES)} can be written as one."
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
                output.rmdir()  # empty, or it was refused
    return lost


def merged_modules(plan: Plan, rank: int | None) -> list[Module]:
    """What every adapted tensor of the merge is made of, from headers and, of saved embeddings, their weights."""
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
        raise StockpotError("the adapters hold no factors: there is nothing to write.")
    return modules


def _adapters(plan: Plan) -> dict[int, AdapterSource]:
    """The adapters by the number of their source; the base itself may stand among the models, and adds nothing."""
    found: dict[int, AdapterSource] = {}
    base = plan.spec.paths.index(plan.spec.base) if plan.spec.base else None
    for number in dict.fromkeys(part.source for target in plan.targets for part in target.inputs):
        source = plan.sources[number]
        vectors = plan.rule.of == "vectors"  # of models too
        if isinstance(source, AdapterSource) and source.over and (source.adapter or vectors):
            found[number] = source
        elif number != base or not vectors:
            raise StockpotError(
                f"{source.label} is merged as a model, not as an adapter over the base: only adapters alone are "
                f"written as one{', named without their base' if '+' in source.label else ''}."
            )
    return found


def _refuse_replaced(adapter: AdapterSource) -> None:
    """PEFT saves embeddings beside factors for them as they are in the base; anything else would be lost."""
    import torch

    for name in adapter.replaced:
        info = adapter.tensors[name]
        for start in range(0, info.numel, PIECE):
            count = min(PIECE, info.numel - start)
            ours, theirs = torch.empty(count, dtype=torch.float64), torch.empty(count, dtype=torch.float64)
            adapter.own.read(adapter.replaced[name], start, ours)
            adapter.base.read(name, start, theirs)
            if not torch.equal(ours, theirs):
                raise StockpotError(
                    f"{adapter.label} holds '{name}' trained whole (modules_to_save), which no factors hold: merge "
                    "into a model instead."
                )


def _coefficients(rule: Rule, settings: Settings) -> list[float]:
    weights = settings.numbers("weight")
    total = sum(weights) if settings.switch("normalize") else 1.0
    scale = settings.number("lambda") if rule.parameter("lambda") is not None else 1.0
    return [scale * weight / total for weight in weights]


def _write(file: Path, modules: Sequence[Module], dtype: str, options: Options) -> float:
    slots = [slot for module in modules for slot in _slots(module, dtype)]
    shard = ShardFile(file, slots, {"format": "pt"}, options.verify)
    lost = whole = 0.0
    try:
        for module in modules:
            left, right = side_by_side(module)
            squares = _squared(left, right)
            fewer = module.rank < module.full
            if not math.isfinite(squares) and (fewer or not options.allow_nonfinite):
                raise _nonfinite(module.name)
            if fewer:
                left, right, left_out = truncated(left, right, module.rank)
                lost += left_out
            whole += squares
            for slot, matrix in zip(_slots(module, dtype), _as_named(module.like, left, right), strict=True):
                flat = matrix.to(torch_dtype(dtype)).contiguous().view(-1)
                if not options.allow_nonfinite and first_nonfinite(flat, dtype) is not None:
                    raise _nonfinite(slot.name)
                shard.write(slot.name, 0, flat)
    finally:
        shard.close(options.sync)
    if options.verify:
        verify_shard(file, shard.sums, options.sync)
    return math.sqrt(lost / whole) if whole else 0.0


def _nonfinite(name: str) -> StockpotError:
    return StockpotError(f"tensor '{name}' would hold NaN or infinity: nothing was written; see --allow-nonfinite.")


def side_by_side(module: Module) -> tuple[Tensor, Tensor]:
    """L and R with `L·R = Σᵢ cᵢΔWᵢ`, in fp64; the coefficients and scales are in L."""
    import torch

    lefts, rights = [], []
    for share in module.shares:
        left, right = share.source.matrices(module.name, torch.float64)
        lefts.append(left * (share.coefficient * share.factors.scale))
        rights.append(right)
    return torch.cat(lefts, dim=1), torch.cat(rights, dim=0)


def truncated(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The nearest L·R of that rank, and the squared Frobenius norm of what it leaves out; see `write_adapter`.

    The singular values of L·R are those of a small core: `L = Q₁T₁`, `Rᵀ = Q₂T₂`, `L·R = Q₁(T₁T₂ᵀ)Q₂ᵀ`.
    """
    import torch

    first, upper = torch.linalg.qr(left)
    second, lower = torch.linalg.qr(right.t())
    turned, values, back = torch.linalg.svd(upper @ lower.t(), full_matrices=False)
    root = values[:rank].sqrt()
    lost = float(values[rank:].square().sum())
    return first @ (turned[:, :rank] * root), (root[:, None] * back[:rank]) @ second.t(), lost


def _squared(left: Tensor, right: Tensor) -> float:
    """`‖L·R‖²`, without the product."""
    return float(((left.t() @ left) * (right @ right.t())).sum())


def _slots(module: Module, dtype: str) -> list[Slot]:
    """A and B as PEFT names and shapes them."""
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
    # `^…` and the end that PEFT adds: this module, and none whose name only ends with it.
    others = {f"^{_escaped(name)}": own for name, own in ranks.items() if own != rank}
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
    """The last parts of the modules' names where they fit no other module, else the whole names."""
    short = {name.rpartition(".")[2] for name in modules}
    held = (target.name.removesuffix(".weight") for target in plan.targets if len(target.shape) > 1)
    return sorted(short if {name for name in held if name.rpartition(".")[2] in short} == set(modules) else modules)
