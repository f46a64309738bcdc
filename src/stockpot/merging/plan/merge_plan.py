"""What a merge will do, tensor by tensor, settled from headers alone: no byte of a tensor is read for it."""

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
from stockpot.weights.layout import FLOATS, ITEM_SIZE


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor of a source."""

    source: int
    name: str


@dataclass(frozen=True, slots=True)
class Target:
    """One tensor of the output, and what it is made of. Without `inputs` it is a copy of `base`.

    `same` are tensors that the copy should equal: integers, where no base says which one counts.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    inputs: tuple[SourceTensor, ...]
    base: SourceTensor | None
    settings: Settings
    same: tuple[SourceTensor, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the output."""
        return self.numel * ITEM_SIZE[self.dtype]


@dataclass(frozen=True, slots=True)
class Piece:
    """The elements [start, stop) of a target; `rows` and `columns` where they are whole rows of its folded matrix."""

    target: Target
    start: int
    stop: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Plan:
    """A whole merge: every input, every tensor of the output in the order in which it is written."""

    spec: MergeSpec
    rule: Rule
    sources: Sequence[TensorSource]
    targets: Sequence[Target]
    notes: Sequence[str]  # what was decided by --on-missing, one line each
    vectors: bool  # whether the rule is given task vectors, not weights

    @property
    def nbytes(self) -> int:
        """Bytes of the output's tensors."""
        return sum(target.nbytes for target in self.targets)

    @cached_property
    def wide(self) -> bool:
        """Whether the arithmetic is in fp64: where a tensor that is merged has that type."""
        return any(
            self.sources[part.source].tensors[part.name].dtype == "F64"
            for target in self.targets
            for part in target.inputs
        )

    def gram(self, target: Target) -> Gram | None:
        """Over what the rule wants inner products of this tensor."""
        return self.rule.gram(target.settings.shared) if self.rule.gram is not None and target.inputs else None

    def pieces(self, target: Target) -> list[Piece]:
        """The target cut into pieces, the same for any number of threads."""
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
    """Rows and columns of a tensor as a matrix: the last dimension, or for inner products of columns all but the first.

    A tensor with less than two dimensions is one row, or one column.
    """
    total = math.prod(shape)
    if len(shape) < 2:
        return (total, 1) if gram == "columns" else (1, total)
    rows = shape[0] if gram == "columns" else total // max(1, shape[-1])
    return rows, total // max(1, rows)


def make_plan(spec: MergeSpec, sources: Sequence[TensorSource]) -> Plan:
    """Settles a merge from headers; raises StockpotError for every mistake that can be known from them.

    `sources` are opened in the order of `spec.paths`.
    """
    rule = check_rule(spec)
    notes: list[str] = []
    targets: list[Target] = []
    used: dict[int, None] = {}  # in the order of the models
    for place in tensor_origins(spec, sources):
        used |= dict.fromkeys(part.source for part in place.parts)
        targets.append(_TargetBuilder(spec, rule, sources, place, notes).target())
    if not targets:
        raise StockpotError(f"{sources[0].label}: nothing to merge: it holds no tensors.")
    if spec.slices:
        for number, extra in unmatched_in_slices(spec, sources):
            _leave_out(spec, sources[number], extra, "first model of the slice", notes)
    else:
        names, first = {target.name for target in targets}, "base" if spec.base else "first model"
        for number in used:
            extra = [name for name in sources[number].tensors if name not in names]
            _leave_out(spec, sources[number], extra, first, notes)
    # The average of adapters is that of what they add.
    deltas = rule.name == "linear" and all(sources[number].adapter for number in used)
    return Plan(spec, rule, sources, targets, notes, rule.of == "vectors" or deltas)


def check_rule(spec: MergeSpec) -> Rule:
    """The spec's rule, if its contract is met: known, enough models, a base where it needs one, known parameters."""
    rule = RULES.get(spec.rule)
    if rule is None:
        raise StockpotError(
            f"there is no merge rule {spec.rule!r}.{did_you_mean(spec.rule, RULES)} Known: {', '.join(RULES)}."
        )
    if rule.base == "required" and spec.base is None and not (spec.slices and all(part.base for part in spec.slices)):
        raise StockpotError(f"{rule.name} needs the model that the others were fine-tuned from: --base MODEL.")
    for count in [len(part.sources) for part in spec.slices] or [len(spec.models)]:
        if count < rule.least or (rule.most is not None and count > rule.most):
            wanted = f"{rule.least}" if rule.most == rule.least else f"{rule.least} or more"
            wanted = f"{rule.least} to {rule.most}" if rule.most not in (None, rule.least) else wanted
            raise StockpotError(f"{rule.name} merges {wanted} model{'s' * (wanted != '1')}, not {count}.")
    check_parameters(spec, rule)
    return rule


class _TargetBuilder:
    """One tensor of the output on its way to a Target."""

    def __init__(
        self, spec: MergeSpec, rule: Rule, sources: Sequence[TensorSource], place: TensorOrigin, notes: list[str]
    ) -> None:
        self.spec, self.rule, self.sources, self.place, self.notes = spec, rule, sources, place, notes

    def target(self) -> Target:
        """The target; raises StockpotError where the models do not fit."""
        place = self.place
        base = None if place.base is None else SourceTensor(*place.base)
        base_info = None if base is None else self.sources[base.source].tensors.get(base.name)
        if base is not None and base_info is not None and self.rule.base == "required":
            _refuse_scaled(self.sources[base.source], base.name, base_info)
        held = [(SourceTensor(part.source, part.name), self._info(part)) for part in place.parts]
        reference = base_info or next((info for _, info in held if info is not None), None)
        assert reference is not None, place.name
        chosen: list[tuple[SourceTensor, OriginPart]] = []
        for (given, info), part in zip(held, place.parts, strict=True):
            stands_in = self._stands_in(given, info, reference, base if base_info else None)
            if stands_in is not None:
                chosen.append((stands_in, part))
        if base is not None and base_info is None:
            self._lacking(self.sources[base.source].label, base.name, "the base")
            base = None
        dtype = self.spec.dtype or (held[0][1] or reference).dtype
        inputs = tuple(given for given, _ in chosen)
        if reference.dtype not in FLOATS or not inputs or (base is None and self.rule.base == "required"):
            return self._copied(reference, base, inputs, dtype)
        own = [(part.parameters, part.name) for _, part in chosen]
        settings = settings_of(self.rule, self.spec, place.name, own, place.scopes, place.depth)
        if len(inputs) < self.rule.least:  # --on-missing skip left too few
            return self._copied(reference, base, inputs, dtype)
        wrong = self.rule.check(settings) if self.rule.check else None
        if wrong:
            raise StockpotError(f"{self.rule.name}, tensor '{place.name}': {wrong}.")
        return Target(place.name, dtype, reference.shape, inputs, base, settings, ())

    def _info(self, part: OriginPart) -> TensorInfo | None:
        return self.sources[part.source].tensors.get(part.name)

    def _stands_in(
        self, given: SourceTensor, info: TensorInfo | None, reference: TensorInfo, base: SourceTensor | None
    ) -> SourceTensor | None:
        label = self.sources[given.source].label
        if info is not None and info.shape == reference.shape:
            if (info.dtype in FLOATS) != (reference.dtype in FLOATS):
                raise StockpotError(
                    f"{label}: tensor '{given.name}' has the type {info.dtype}, elsewhere it is {reference.dtype}."
                )
            _refuse_scaled(self.sources[given.source], given.name, info)
            return given
        if info is None:
            self._lacking(label, given.name, "it")
        else:
            self._differing(label, given.name, info, reference)
        if self.spec.on_missing == "skip":
            return None
        if base is None:
            raise StockpotError(f"--on-missing base needs a base that holds '{given.name}': --base MODEL.")
        return base

    def _lacking(self, label: str, name: str, who: str) -> None:
        if self.spec.on_missing == "error":
            tied = " (tied to the embeddings in that model?)" if name.endswith("lm_head.weight") else ""
            raise StockpotError(
                f"{label} has no tensor '{name}'{tied}. Say what to do: --on-missing base takes the base's in its "
                "place, --on-missing skip leaves that model out of that tensor."
            )
        self._note(f"{label} lacks '{name}'")

    def _differing(self, label: str, name: str, info: TensorInfo, reference: TensorInfo) -> None:
        if self.spec.on_missing == "error":
            why = ""
            if len(info.shape) == 2 and info.shape[1:] == reference.shape[1:] and _of_vocabulary(name):
                why = f": the vocabularies differ, {info.shape[0]:,} and {reference.shape[0]:,} entries"
            raise StockpotError(
                f"{label}: tensor '{name}' has the shape {list(info.shape)}, elsewhere it is "
                f"{list(reference.shape)}{why}. Say what to do: --on-missing base or skip."
            )
        self._note(f"{label} has '{name}' as {list(info.shape)}, not {list(reference.shape)}")

    def _note(self, what: str) -> None:
        done = "the base's stands in" if self.spec.on_missing == "base" else "left out of that tensor"
        self.notes.append(f"{what}: {done}")

    def _copied(
        self, reference: TensorInfo, base: SourceTensor | None, inputs: tuple[SourceTensor, ...], dtype: str
    ) -> Target:
        origin = base or inputs[0]
        kind = self.sources[origin.source].tensors[origin.name].dtype
        # Without a base, integers are copied where all models have the same, which only their bytes can tell.
        same = inputs[1:] if base is None and kind not in FLOATS else ()
        nothing = Settings({}, ())
        return Target(self.place.name, dtype if kind in FLOATS else kind, reference.shape, (), origin, nothing, same)


def _of_vocabulary(name: str) -> bool:
    return any(word in name for word in ("embed", "wte", "lm_head", "shared.weight", "output.weight"))


def _refuse_scaled(source: TensorSource, name: str, info: TensorInfo) -> None:
    """8-bit floats with a scale beside them are not the weights: their average would be nobody's."""
    if info.dtype.startswith("F8"):
        for ending in ("_scale_inv", "_scale", ".scale"):
            if name + ending in source.tensors:
                raise StockpotError(
                    f"{source.label}: '{name}' is {info.dtype} with a scale of its own, '{name + ending}'; "
                    "only weights that stand for themselves are merged: dequantise the model first."
                )


def _leave_out(spec: MergeSpec, model: TensorSource, extra: Sequence[str], whose: str, notes: list[str]) -> None:
    """Notes, or refuses, what a model has and the one lacks after which the output is made."""
    if not extra:
        return
    shown = ", ".join(f"'{name}'" for name in extra[:3]) + (" …" if len(extra) > 3 else "")
    if spec.on_missing == "error":
        raise StockpotError(
            f"{model.label} holds {len(extra)} tensor{'s' * (len(extra) > 1)} that the {whose} lacks: {shown}. "
            "Say what to do: --on-missing base or skip leaves them out."
        )
    notes.append(f"{model.label} alone holds {shown} ({len(extra)}): left out")
