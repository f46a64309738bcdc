"""What a merge will do, tensor by tensor, decided from headers alone: no tensor's bytes are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from stockpot.errors import StockpotError, did_you_mean
from stockpot.merging.plan.tensor_origins import OriginPart, TensorOrigin, tensor_origins, unmatched_in_slices
from stockpot.merging.read.sources import TensorInfo, TensorSource
from stockpot.merging.rule import Gram, Rule, Settings
from stockpot.merging.rules import RULES
from stockpot.merging.spec.merge_spec import MergeSpec
from stockpot.merging.spec.tensor_settings import check_parameters, settings_of
from stockpot.merging.threads import PIECE
from stockpot.weights.layout import FLOATS, TensorExtent


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor of a source: the source's number, and its name of the tensor."""

    source: int
    name: str


@dataclass(frozen=True, slots=True)
class Target(TensorExtent):
    """One tensor of the output, and what it is made from. Without `inputs` it is a copy of `base`.

    `same` are tensors that the copy must equal: integers are not averaged, so without a base all models must agree.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    inputs: tuple[SourceTensor, ...]
    base: SourceTensor | None
    settings: Settings
    same: tuple[SourceTensor, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """The elements [start, stop) of a target; `rows` and `columns` are its shape if it consists of whole rows."""

    target: Target
    start: int
    stop: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Plan:
    """A whole merge: every input, and every tensor of the output in the order in which they are written."""

    spec: MergeSpec
    rule: Rule
    sources: Sequence[TensorSource]
    targets: Sequence[Target]
    notes: Sequence[str]  # what --on-missing decided, one line each
    vectors: bool  # whether the rule gets task vectors instead of weights

    @property
    def nbytes(self) -> int:
        """Bytes of the output's tensors."""
        return sum(target.nbytes for target in self.targets)

    @cached_property
    def wide(self) -> bool:
        """Whether the arithmetic is in fp64: if any tensor that is merged has that type."""
        return any(
            self.sources[part.source].tensors[part.name].dtype == "F64"
            for target in self.targets
            for part in target.inputs
        )

    def gram(self, target: Target) -> Gram | None:
        """What the rule needs inner products of this tensor over; None if it needs none."""
        return self.rule.gram(target.settings.shared) if self.rule.gram is not None and target.inputs else None

    def pieces(self, target: Target) -> list[Piece]:
        """The target split into pieces, the same ones for any number of threads."""
        gram = self.gram(target)
        rows, columns = matrix_shape(target.shape, gram)
        whole = self.rule.whole_rows or gram in ("rows", "columns")
        step = max(1, PIECE // max(1, columns)) * columns if columns <= PIECE or whole else PIECE
        if not target.numel:
            return []
        folded = columns if step % columns == 0 else 0
        return [
            Piece(target, start, stop, (stop - start) // folded if folded else 1, folded or stop - start)
            for start in range(0, rows * columns, step)
            for stop in (min(start + step, rows * columns),)
        ]


def matrix_shape(shape: Sequence[int], gram: Gram | None = None) -> tuple[int, int]:
    """Rows and columns of a tensor as a matrix.

    The columns are the last dimension or, for inner products of columns, all dimensions but the first. A tensor of
    fewer than two dimensions is one row or, for inner products of columns, one column.
    """
    total = math.prod(shape)
    if len(shape) < 2:
        return (total, 1) if gram == "columns" else (1, total)
    rows = shape[0] if gram == "columns" else total // max(1, shape[-1])
    return rows, total // max(1, rows)


def make_plan(spec: MergeSpec, sources: Sequence[TensorSource]) -> Plan:
    """Plans a merge from headers; raises StockpotError for every mistake that headers can show.

    `sources` are open, in the order of `spec.paths`.
    """
    rule = check_rule(spec)
    notes: list[str] = []
    targets: list[Target] = []
    used: dict[int, None] = {}  # in the order of the models
    for origin in tensor_origins(spec, sources):
        used |= dict.fromkeys(part.source for part in origin.parts)
        targets.append(_TargetBuilder(spec, rule, sources, origin, notes).target())
    if not targets:
        raise StockpotError(f"{sources[0].label} has no tensors: nothing to merge.")
    if spec.slices:
        for number, extra in unmatched_in_slices(spec, sources):
            _leave_out(spec, sources[number], extra, "first model of the slice", notes)
    else:
        names, first = {target.name for target in targets}, "base" if spec.base else "first model"
        for number in used:
            extra = [name for name in sources[number].tensors if name not in names]
            _leave_out(spec, sources[number], extra, first, notes)
    # Adapters are averaged as what they add to the base.
    deltas = rule.name == "linear" and all(sources[number].is_adapter for number in used)
    return Plan(spec, rule, sources, targets, notes, rule.of == "vectors" or deltas)


def check_rule(spec: MergeSpec) -> Rule:
    """The spec's rule; raises StockpotError if it is unknown, or the spec does not meet its contract."""
    rule = RULES.get(spec.rule)
    if rule is None:
        raise StockpotError(
            f"there is no merge rule {spec.rule!r}.{did_you_mean(spec.rule, RULES)} Known: {', '.join(RULES)}."
        )
    if rule.base == "required" and spec.base is None and not (spec.slices and all(part.base for part in spec.slices)):
        raise StockpotError(f"{rule.name} needs the model that the others were fine-tuned from: give --base MODEL.")
    for count in [len(part.sources) for part in spec.slices] or [len(spec.models)]:
        if count < rule.least or (rule.most is not None and count > rule.most):
            wanted = f"{rule.least}" if rule.most == rule.least else f"{rule.least} or more"
            wanted = f"{rule.least} to {rule.most}" if rule.most not in (None, rule.least) else wanted
            raise StockpotError(f"{rule.name} merges {wanted} model{'s' * (wanted != '1')}, not {count}.")
    check_parameters(spec, rule)
    return rule


class _TargetBuilder:
    """Builds the Target of one tensor of the output."""

    def __init__(
        self, spec: MergeSpec, rule: Rule, sources: Sequence[TensorSource], origin: TensorOrigin, notes: list[str]
    ) -> None:
        self.spec, self.rule, self.sources, self.origin, self.notes = spec, rule, sources, origin, notes

    def target(self) -> Target:
        """The target; raises StockpotError if the models do not fit together."""
        origin = self.origin
        base = None if origin.base is None else SourceTensor(*origin.base)
        base_info = None if base is None else self.sources[base.source].tensors.get(base.name)
        if base is not None and base_info is not None and self.rule.base == "required":
            _refuse_scaled(self.sources[base.source], base.name, base_info)
        candidates = [(SourceTensor(part.source, part.name), self._info(part)) for part in origin.parts]
        reference = base_info or next((info for _, info in candidates if info is not None), None)
        assert reference is not None, origin.name
        chosen: list[tuple[SourceTensor, OriginPart]] = []
        for (tensor, info), part in zip(candidates, origin.parts, strict=True):
            fitting = self._fitting(tensor, info, reference, base if base_info else None)
            if fitting is not None:
                chosen.append((fitting, part))
        if base is not None and base_info is None:
            self._lacking(self.sources[base.source].label, base.name)
            base = None
        dtype = self.spec.dtype or (candidates[0][1] or reference).dtype
        inputs = tuple(tensor for tensor, _ in chosen)
        if reference.dtype not in FLOATS or not inputs or (base is None and self.rule.base == "required"):
            return self._copied(reference, base, inputs, dtype)
        models = [(part.parameters, part.name) for _, part in chosen]
        settings = settings_of(self.rule, self.spec, origin.name, models, origin.scopes, origin.depth)
        if len(inputs) < self.rule.least:  # --on-missing skip left too few
            return self._copied(reference, base, inputs, dtype)
        problem = self.rule.check(settings) if self.rule.check else None
        if problem:
            raise StockpotError(f"{self.rule.name}, tensor '{origin.name}': {problem}.")
        return Target(origin.name, dtype, reference.shape, inputs, base, settings, ())

    def _info(self, part: OriginPart) -> TensorInfo | None:
        return self.sources[part.source].tensors.get(part.name)

    def _fitting(
        self, tensor: SourceTensor, info: TensorInfo | None, reference: TensorInfo, base: SourceTensor | None
    ) -> SourceTensor | None:
        """The tensor itself if it fits; otherwise the base's, or None, as --on-missing says."""
        label = self.sources[tensor.source].label
        if info is not None and info.shape == reference.shape:
            if (info.dtype in FLOATS) != (reference.dtype in FLOATS):
                raise StockpotError(
                    f"{label}: tensor '{tensor.name}' has the type {info.dtype}, but elsewhere {reference.dtype}."
                )
            _refuse_scaled(self.sources[tensor.source], tensor.name, info)
            return tensor
        if info is None:
            self._lacking(label, tensor.name)
        else:
            self._differing(label, tensor.name, info, reference)
        if self.spec.on_missing == "skip":
            return None
        if base is None:
            raise StockpotError(f"--on-missing base needs a base that has '{tensor.name}': give --base MODEL.")
        return base

    def _lacking(self, label: str, name: str) -> None:
        if self.spec.on_missing == "error":
            tied = " (tied to the embeddings in that model?)" if name.endswith("lm_head.weight") else ""
            raise StockpotError(
                f"{label} has no tensor '{name}'{tied}. Say what to do: --on-missing base uses the base's instead, "
                "--on-missing skip leaves that model out of that tensor."
            )
        self._note(f"{label} lacks '{name}'")

    def _differing(self, label: str, name: str, info: TensorInfo, reference: TensorInfo) -> None:
        if self.spec.on_missing == "error":
            why = ""
            if len(info.shape) == 2 and info.shape[1:] == reference.shape[1:] and _of_vocabulary(name):
                why = f": the vocabularies differ, {info.shape[0]:,} and {reference.shape[0]:,} entries"
            raise StockpotError(
                f"{label}: tensor '{name}' has the shape {list(info.shape)}, but elsewhere "
                f"{list(reference.shape)}{why}. Say what to do: --on-missing base or skip."
            )
        self._note(f"{label} has '{name}' as {list(info.shape)}, not {list(reference.shape)}")

    def _note(self, what: str) -> None:
        action = "the base's is used" if self.spec.on_missing == "base" else "left out of that tensor"
        self.notes.append(f"{what}: {action}")

    def _copied(
        self, reference: TensorInfo, base: SourceTensor | None, inputs: tuple[SourceTensor, ...], dtype: str
    ) -> Target:
        copied = base or inputs[0]
        kind = self.sources[copied.source].tensors[copied.name].dtype
        # Without a base, integers are copied if all models have the same ones, which only their bytes can show.
        same = inputs[1:] if base is None and kind not in FLOATS else ()
        no_settings = Settings({}, ())
        return Target(
            self.origin.name, dtype if kind in FLOATS else kind, reference.shape, (), copied, no_settings, same
        )


def _of_vocabulary(name: str) -> bool:
    return any(word in name for word in ("embed", "wte", "lm_head", "shared.weight", "output.weight"))


def _refuse_scaled(source: TensorSource, name: str, info: TensorInfo) -> None:
    """8-bit floats with a separate scale are not the weights themselves: averaging them would be meaningless."""
    if info.dtype.startswith("F8"):
        for ending in ("_scale_inv", "_scale", ".scale"):
            if name + ending in source.tensors:
                raise StockpotError(
                    f"{source.label}: '{name}' is {info.dtype} with a separate scale, '{name + ending}': "
                    "quantised weights cannot be merged, dequantise the model first."
                )


def _leave_out(spec: MergeSpec, model: TensorSource, extra: Sequence[str], reference: str, notes: list[str]) -> None:
    """Notes, or refuses, tensors that the model has and the output's reference lacks."""
    if not extra:
        return
    shown = ", ".join(f"'{name}'" for name in extra[:3]) + (" …" if len(extra) > 3 else "")
    if spec.on_missing == "error":
        raise StockpotError(
            f"{model.label} has {len(extra)} tensor{'s' * (len(extra) > 1)} that the {reference} lacks: {shown}. "
            "Say what to do: --on-missing base or skip leaves them out."
        )
    notes.append(f"only {model.label} has {shown} ({len(extra)}): left out")
