"""The buffer of rehearsal: which examples of past tasks are kept, and how many of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from stockpot.batches.examples import Batch, Examples, StoredExamples, concat
from stockpot.batches.losses import SINGLE_LABEL
from stockpot.batches.outputs import evaluation_mode, logits_of, moved_to
from stockpot.batches.token_examples import stored_type
from stockpot.errors import StockpotError
from stockpot.methods.base import BaseConfig, Task, TaskFacts, Tensors
from stockpot.methods.declare.space import Range, Space
from stockpot.models.head import find_head
from stockpot.seeds import generator

_FORWARD_BATCH = 256  # examples in a forward pass without gradients


class BufferConfig(BaseConfig):
    """How much of the past is kept, and which examples."""

    space: ClassVar[Space] = {"fraction": Range(0.01, 0.5, log=True, limits=(0, 1))}
    strength_key: ClassVar[str | None] = "fraction"

    fraction: float | None = Field(None, ge=0, le=1, description="kept of EACH past task; default 0.1")
    count: int | None = Field(
        None, ge=0, description="kept of each past task (per_task), or in all (reservoir and total)"
    )
    budget: Literal["per_task", "reservoir", "total"] = Field(
        "per_task", description="a share of each task, one reservoir, or one memory that all classes share equally"
    )
    select: Literal["random", "balanced", "herding"] = Field(
        "random", description="any examples; equally many of every class; or those nearest to the mean of their class"
    )

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.fraction is not None and self.count is not None:
            raise ValueError("give fraction or count, not both")
        if self.budget == "reservoir" and self.count is None:
            raise ValueError("a reservoir has a fixed capacity: give count")
        if self.budget == "reservoir" and self.select != "random":
            raise ValueError(f"a reservoir keeps a random sample: for select: {self.select} set budget: total")
        if self.budget == "total" and self.count is None:
            raise ValueError("budget: total is one memory of a fixed size: give count")
        if self.budget == "total" and self.select == "random":
            raise ValueError(
                "budget: total is shared by the classes: set select: balanced or herding, "
                "or budget: reservoir for a random sample of everything"
            )
        return self

    def searched(self, *without: str) -> Space:
        """Without the fraction: how much past data to keep is the user's choice; a search would take all it can get."""
        return super().searched(*without, "fraction")

    def size(self, available: int) -> int:
        """How many examples a task of `available` examples fills; with budget: total, the whole memory."""
        if self.count is not None:
            return self.count if self.budget == "total" else min(self.count, available)
        fraction = 0.1 if self.fraction is None else self.fraction
        return int(fraction * available + 0.5)

    def kept_of(self, sizes: Sequence[int]) -> int:
        """How many examples the buffer holds after tasks of so many."""
        if self.budget == "per_task":
            return sum(map(self.size, sizes))
        return min(self.count or 0, sum(sizes))

    def problem_in(self, model: nn.Module, tasks: Sequence[TaskFacts]) -> str | None:
        """Refuses a memory with fewer places than classes, and herding of text, which has no classes."""
        before = 0
        for task in tasks:
            if problem := self.unfit(task, before):
                return problem
            before += task.classes
        return None

    def unfit(self, task: TaskFacts, before: int) -> str | None:
        """Why no examples of a task can be kept, or why its classes and the `before` earlier ones do not fit."""
        if task.language and self.select == "herding":
            return (
                f"task {task.name!r} is text to be continued, which has no classes: select: herding keeps the examples "
                "nearest to the mean of their class; use random or balanced."
            )
        if task.problem != SINGLE_LABEL and self.select != "random":
            what = "numbers" if task.problem == "regression" else "several labels"
            return (
                f"task {task.name!r} has examples with {what} instead of one class, and select: {self.select} shares "
                "the memory among classes: use select: random."
            )
        classes = task.classes + (before if self.budget == "total" else 0)
        size = self.size(task.examples)
        if self.select == "random" or 0 in (self.count, self.fraction) or size >= classes:
            return None
        return (
            f"task {task.name!r}: a memory of {size} examples is smaller than the {classes} classes that "
            f"select: {self.select} keeps examples of; raise {'fraction' if self.count is None else 'count'}."
        )


class Reservoir:
    """Keeps a uniform sample of M among all items offered so far (Vitter's algorithm R).

    Item n (from 0) goes to slot n if n < M, else to j ~ U{0…n} if j < M.
    """

    def __init__(self, capacity: int, offered: int = 0) -> None:
        self.capacity = capacity
        self.offered = offered

    def offer(self, many: int, draws: torch.Generator) -> dict[int, int]:
        """Slot → number of the new item that ends up there, for the next `many` items."""
        slots: dict[int, int] = {}
        for item in range(many):
            if self.offered < self.capacity:
                slots[self.offered] = item
            elif self.capacity:
                slot = int(torch.randint(self.offered + 1, (), generator=draws))
                if slot < self.capacity:
                    slots[slot] = item
            self.offered += 1
        return slots


def equal_shares(available: Sequence[int], total: int) -> list[int]:
    """Shares out `total` examples among classes with `available` examples each: what a class lacks goes to the others.

    Shares of classes that have enough differ by at most one; the first classes get the larger ones.
    """
    shares, left = [0] * len(available), total
    while wanting := [number for number, share in enumerate(shares) if share < available[number]]:
        each = max(1, left // len(wanting))
        for number in wanting:
            added = min(each, left, available[number] - shares[number])
            shares[number] += added
            left -= added
        if not left:
            break
    return shares


def herding(features: Tensor, many: int) -> list[int]:
    """Indices of `many` examples, in an order that keeps their mean nearest to the mean of all; features are (N, D).

    Equation: `p_k = argmin_x ‖μ − (φ(x) + Σ_{j<k} φ(p_j)) / k‖`, φ of length 1, each example at most once
    Paper: iCaRL (arXiv 1611.07725), algorithm 4
    """
    features = functional.normalize(features.double())
    squares, mean, picked_sum = features.square().sum(1), features.mean(0), torch.zeros_like(features[0])
    picked: list[int] = []
    for k in range(1, min(many, len(features)) + 1):
        distances = squares - 2 * features @ (k * mean - picked_sum)  # k²‖…‖² without what is the same for all x
        distances[picked] = torch.inf
        picked.append(int(distances.argmin()))
        picked_sum = picked_sum + features[picked[-1]]
    return picked


@torch.no_grad()
def logits_over(model: nn.Module, examples: Examples, picked: Tensor) -> Tensor:
    """The logits (N, rows) of the picked examples in eval mode, on the CPU."""
    with evaluation_mode(model):
        batches = (examples.__getitems__(part.tolist()) for part in picked.split(_FORWARD_BATCH))
        return torch.cat([logits_of(model, moved_to(model, batch)).cpu() for batch in batches])


def features_over(model: nn.Module, examples: Examples, picked: Tensor) -> Tensor:
    """The inputs (N, D) of the output layer in eval mode, on the CPU; the logits where no such layer is found."""
    try:
        layer = model.get_submodule(find_head(model, logits_over(model, examples, picked[:1]).shape[1]))
    except StockpotError:
        return logits_over(model, examples, picked)
    kept: list[Tensor] = []
    watch = layer.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].detach().cpu()))
    try:
        logits = logits_over(model, examples, picked)
    finally:
        watch.remove()
    if examples.lengths is not None:
        last = examples.lengths[picked] - 1
        kept = [_at(features, places) for features, places in zip(kept, last.split(_FORWARD_BATCH), strict=False)]
    if sum(len(features) for features in kept) != len(picked):  # a layer that is not called once for each example
        return logits
    return torch.cat([features.flatten(1) for features in kept])


def _at(features: Tensor, places: Tensor) -> Tensor:
    """The features at the last position of each sequence where they are (B, L, D), else as they are."""
    if features.ndim == 3 and features.shape[1] == 1 + int(places.max()):
        return features[torch.arange(len(features)), places]
    return features


def _known_rows(task: Task, rows: int) -> int:
    """How many of the rows, from the first, were trained by this task or before: not those of classes to come."""
    return rows if task.owners is None else int((task.owners[:rows] >= 0).sum())


class Buffer:
    """Examples of past tasks, chosen as the config says; with `keep_logits`, also the logits that they had then."""

    def __init__(self, config: BufferConfig, keep_logits: bool = False) -> None:
        self.config = config
        self.keep_logits = keep_logits
        self._held: StoredExamples | None = None
        self._beside: Tensors = {}  # logits, and `known`: how many rows they had
        self.offered = 0  # by the reservoir
        self.shares: list[int] = []  # balanced and herding: held of each task's each class, in the order they lie in

    def __len__(self) -> int:
        return 0 if self._held is None else len(self._held)

    @property
    def examples(self) -> StoredExamples:
        """What is held, as examples; there must be some."""
        assert self._held is not None, "the buffer is empty"
        return self._held

    @property
    def tensors(self) -> Tensors:
        """Everything that is held."""
        return {} if self._held is None else {**self._held.to_tensors()[0], **self._beside}

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is held."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def check(self, task: Task, examples: Examples) -> None:
        """Raises StockpotError where a task does not fit: inputs of another kind, more classes than places, and text
        to be continued where its classes, or its logits, would be needed.
        """
        name, config = self.config.name, self.config
        if len(self) and (kept := self.examples.kind) != (new := examples.kind):
            raise StockpotError(f"{name}: the buffer holds {kept}, task {task.name!r} has {new.split('shape ')[-1]}.")
        single = task.problem == SINGLE_LABEL
        classes = len(examples.labels.unique()) if single else examples.labels.shape[1]
        facts = TaskFacts(task.name, classes, len(examples), not examples.has_classes, task.problem)
        if problem := config.unfit(facts, len(self.shares)):
            raise StockpotError(f"{name}: {problem}")

    def draw(self, many: int, draws: torch.Generator) -> Batch:
        """A batch of `many` different examples, or of all where fewer are held."""
        picked = torch.randperm(len(self), generator=draws)[:many]
        return {**self.examples.__getitems__(picked.tolist()), **self._beside_of(picked)}

    def _beside_of(self, picked: Tensor) -> Tensors:
        return {key: tensor[picked] for key, tensor in self._beside.items()}

    def _keep(self, picked: Tensor) -> None:
        """Keeps only these, in their order."""
        self._held, self._beside = self.examples.picked(picked), self._beside_of(picked)

    def fill(self, task: Task, examples: Examples) -> None:
        """Adds examples of a finished task; every method that rehearses adds the same ones."""
        draws = generator(task.seed, "replay")
        if self.config.budget == "reservoir":
            self._fill_reservoir(task, examples, draws)
        elif self.config.select == "random":
            size = self.config.size(len(examples))
            self._append(task, examples, torch.randperm(len(examples), generator=draws)[:size].sort().values)
        else:
            self._fill_by_class(task, examples, draws)

    def _fill_by_class(self, task: Task, examples: Examples, draws: torch.Generator) -> None:
        classes = [(examples.labels == row).nonzero().flatten() for row in examples.labels.unique()]
        sizes, size = [len(members) for members in classes], self.config.size(len(examples))
        if self.config.budget == "total":
            shares = equal_shares(self.shares + sizes, size)
            self._shrink(shares[: len(self.shares)])
        else:
            shares = self.shares + equal_shares(sizes, size)
        fresh = shares[len(self.shares) :]
        for members, share in zip(classes, fresh, strict=True):
            if not share:
                continue
            if self.config.select == "herding":
                order = torch.tensor(herding(features_over(task.model, examples, members), share))
            else:
                order = torch.randperm(len(members), generator=draws)[:share]
            self._append(task, examples, members[order])
        self.shares = shares

    def _shrink(self, shares: list[int]) -> None:
        """Keeps the first `shares` examples of every class."""
        places = torch.arange(len(self)).split(self.shares)
        kept = [place[:share] for place, share in zip(places, shares, strict=True)]
        if kept:
            self._keep(torch.cat(kept))
        self.shares = shares

    def _fill_reservoir(self, task: Task, examples: Examples, draws: torch.Generator) -> None:
        reservoir = Reservoir(self.config.count or 0, self.offered)
        order = torch.randperm(len(examples), generator=draws)
        slots = reservoir.offer(len(examples), draws)
        self.offered, before = reservoir.offered, len(self)
        if slots:
            self._append(task, examples, order[torch.tensor(list(slots.values()))])
            # New items lie behind the old ones: item `before + i` of what was appended moves to its slot.
            places = torch.arange(max(before, 1 + max(slots)))
            places[torch.tensor(list(slots))] = before + torch.arange(len(slots))
            self._keep(places)

    def _append(self, task: Task, examples: Examples, picked: Tensor) -> None:
        if not len(picked):
            return
        fresh = examples.picked(picked)
        self._held = fresh if self._held is None else cast("StoredExamples", concat([self._held, fresh]))
        if self.keep_logits:
            logits = logits_over(task.model, fresh, torch.arange(len(picked)))
            known = torch.full((len(picked),), _known_rows(task, logits.shape[1]))
            if self._beside:
                missing = logits.shape[1] - self._beside["logits"].shape[1]
                logits = torch.cat([functional.pad(self._beside["logits"], (0, missing)), logits])
                known = torch.cat([self._beside["known"], known])
            self._beside = {"logits": logits, "known": known}

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """What is held, and how it was chosen."""
        what = {} if self._held is None else self._held.to_tensors()[1]
        return self.tensors, {"seen": self.offered, "shares": self.shares, "held": len(self), **what}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Restores what `state` returned. Raises StockpotError where the tensors are empty, missing or do not agree."""
        count = int(values.get("held", len(tensors.get("labels", ()))))
        beside = ["logits", "known"] if self.keep_logits else []
        wanted = stored_type(values).expected_lengths(tensors, values, count) | dict.fromkeys(beside, count)
        shares = [int(share) for share in values.get("shares", [])]
        self._held, self._beside = None, {}
        if count or any(key in tensors for key in wanted):
            lengths = ", ".join(f"{key}: {len(tensors[key]) if key in tensors else 'missing'}" for key in wanted)
            wrong = [key for key, size in wanted.items() if not size or len(tensors.get(key, ())) != size]
            if wrong or (shares and sum(shares) != count):
                raise StockpotError(
                    f"{self.config.name}: the saved buffer is damaged: {count} examples were kept, it holds {lengths}; "
                    "use an undamaged copy of the run, or start it again."
                )
            self._held = stored_type(values).from_tensors(tensors, values)
            self._beside = {key: tensors[key] for key in beside}
        self.offered, self.shares = int(values.get("seen", 0)), shares
