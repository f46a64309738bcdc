"""Sums over examples of a power of each example's gradient, for every trainable parameter, without a loop over them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel

from stockpot.batches.examples import Batch, Examples
from stockpot.batches.losses import learnt_mask
from stockpot.batches.outputs import evaluation_mode, rows_in
from stockpot.errors import StockpotError
from stockpot.importance.layers import Use, powered, uses

Logits = Callable[[nn.Module, Batch], Tensor]  # → (B, rows); of a causal language model (B·L, rows)
Directions = Callable[[Tensor, Batch], Tensor]  # logits, batch → (K, …), … the shape of the logits
Call = tuple[nn.Module, Tensor, GradientEdge]
ParameterSums = dict[str, Tensor]

_BOUND = 64 << 20  # bytes of per-example gradients that are held at once
_LOGITS = 64 << 20  # numbers in the logits of a batch: long sequences of many tokens come in smaller ones


def per_example_sums(
    model: nn.Module,
    examples: Examples,
    logits: Logits,
    directions: Directions,
    power: int,
    indices: Sequence[int],
    batch_size: int,
    on_progress: Callable[[int], None] | None,
) -> ParameterSums:
    """Σ_b Σ_k |J_bᵀ v_bk|^power by parameter name, in at least fp32; eval mode, and the model is not changed.

    J_b is the Jacobian of example b's logits, v_bk the given directions: the gradient of a loss of the logits, say.
    To a causal language model an example is a sequence, and its logits are those of all its positions.
    All uses of a parameter are summed for each example before the power is taken. How a parameter is treated is
    found on three of the examples, against their gradients one at a time: from the inputs and output gradients of
    known layers; else by `torch.func.vmap`; else one example at a time. In every batch the uses that the layers
    reported are counted against those in the autograd graph; a parameter with others goes one example at a time.
    Raises StockpotError where the logits are not (B, rows), or (B·L, rows) for labels (B, L).
    """
    with evaluation_mode(model), torch.enable_grad():
        walk = _Walk(model, logits, power)
        walk.choose(examples.__getitems__(sorted({indices[0], indices[len(indices) // 2], indices[-1]})))
        at_once = min(batch_size, max(1, _LOGITS // max(1, walk.size)))
        for batch in batches(examples, indices, at_once, on_progress):
            walk.add(batch, directions)
    return walk.total


def batches(
    examples: Examples, indices: Sequence[int], batch_size: int, on_progress: Callable[[int], None] | None
) -> Iterator[Batch]:
    """The chosen examples in batches; `on_progress` is called with the number done when the next batch is requested."""
    for start in range(0, len(indices), batch_size):
        batch = examples.__getitems__(indices[start : start + batch_size])
        yield batch
        if on_progress is not None:
            on_progress(start + len(batch["labels"]))


def zeros(parameters: Mapping[str, Tensor]) -> ParameterSums:
    """Zeros to sum into, in at least fp32."""
    return {
        name: torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32), requires_grad=False)
        for name, tensor in parameters.items()
    }


class _Walk:
    """The sums so far, and how each parameter is treated."""

    def __init__(self, model: nn.Module, logits: Logits, power: int) -> None:
        self.model, self.logits, self.power = model, logits, power
        self.parameters = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
        self.names = {id(tensor): name for name, tensor in self.parameters.items()}
        self.total = zeros(self.parameters)
        self.layered: set[str] = set()
        self.mapped: set[str] = set()
        self.repeat = True  # what is looked up once for all examples
        self.size = 0  # logits of an example

    def choose(self, batch: Batch) -> None:
        """Compares each way with the gradients of single examples, along a random direction of the logits."""
        try:
            z, calls = self._forward(batch)
        except Exception:  # whatever a model raises that needs its positions looked up once, and not for each example
            self.repeat = False
            z, calls = self._forward(batch)
        self.size = z.numel() // len(batch["labels"])
        draws = torch.Generator().manual_seed(0)
        v = torch.randn(1, *z.shape, generator=draws).to(z)
        v = v * learnt_mask(z, batch).to(v)  # logits at padding may depend on the other examples
        counts = self._counts(z)
        truth = self._singly(batch, v, set(counts))
        self.layered = self._agreeing(self._from_layers(z, calls, counts, v, set(counts), len(batch["labels"])), truth)
        with contextlib.suppress(Exception):  # vmap or the model may raise anything; the last way always works
            self.mapped = self._agreeing(self._by_vmap(batch, v, set(counts) - self.layered), truth)

    def add(self, batch: Batch, directions: Directions) -> None:
        """Adds a batch to the sums."""
        z, calls = self._forward(batch)
        v = directions(z.detach(), batch)
        v = v[v.flatten(1).any(1)]
        counts = self._counts(z)
        sums_of = self._from_layers(z, calls, counts, v, self.layered, len(batch["labels"]))
        del z, calls
        with contextlib.suppress(Exception):  # as above
            sums_of |= self._by_vmap(batch, v, counts.keys() & self.mapped)
        sums_of |= self._singly(batch, v, counts.keys() - sums_of.keys())
        for name, sums in sums_of.items():
            self.total[name] += sums

    def _forward(self, batch: Batch) -> tuple[Tensor, list[Call]]:
        calls: list[Call] = []
        many = len(batch["labels"])

        def keep(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
            x = next((value for value in (*inputs, *named.values()) if isinstance(value, Tensor)), None)
            if x is not None and isinstance(output, Tensor) and output.requires_grad:
                if self.repeat and isinstance(module, nn.Embedding) and x.ndim == 2 and len(x) == 1 < many:
                    # Positions, looked up once for all examples: once for each, their gradients stay apart.
                    x, output = x.expand(many, -1), output.repeat(many, 1, 1)
                # A graph edge stays valid if the output is changed in place later, as by ReLU(inplace=True).
                calls.append((module, x.detach(), get_gradient_edge(output)))
            return output

        with contextlib.ExitStack() as stack:
            for module in self.model.modules():
                if any(id(tensor) in self.names for tensor in module.parameters(recurse=False)):
                    # Before the module's other hooks, which may replace the output.
                    handle = module.register_forward_hook(keep, prepend=True, with_kwargs=True)
                    stack.callback(handle.remove)
            z = self.logits(self.model, batch)
        if z.ndim != 2 or len(z) != rows_in(batch):
            each = rows_in(batch) // many
            wanted = "(B, rows)" if each == 1 else f"(B·{each}, rows)"
            raise StockpotError(f"the logits of {len(batch['labels'])} examples are {list(z.shape)}, not {wanted}.")
        return z, calls

    def _counts(self, z: Tensor) -> Counter[str]:
        """How often the autograd graph of the logits uses each parameter it uses at all."""
        counts: Counter[str] = Counter()
        waiting: list[Any] = [z.grad_fn]
        visited = set(waiting)  # keeps the nodes' Python objects, and so their identity, alive
        while waiting:
            node = waiting.pop()
            for child, _ in node.next_functions if node is not None else ():
                name = self.names.get(id(getattr(child, "variable", None)))
                if name is not None:
                    counts[name] += 1
                elif child not in visited:
                    visited.add(child)
                    waiting.append(child)
        return counts

    def _from_layers(
        self, z: Tensor, calls: list[Call], counts: Counter[str], v: Tensor, wanted: set[str], many: int
    ) -> ParameterSums:
        """The sums of those parameters all of whose uses are calls of known layers."""
        total = self._zeros(name for name in wanted if name in counts)
        for k in range(len(v) if total and calls else 0):
            edges = [edge for _, _, edge in calls]
            grads = torch.autograd.grad(z, edges, v[k], retain_graph=k + 1 < len(v), allow_unused=True)
            uses_of: dict[str, list[Use]] = {name: [] for name in total}
            for (module, x, _), g in zip(calls, grads, strict=True):
                for key, use in uses(module, x, g, many).items() if g is not None else ():
                    name = self.names.get(id(module._parameters.get(key)), "")
                    if name in uses_of:
                        uses_of[name].append(use)
            for name, every in uses_of.items():
                if len(every) == counts[name]:
                    total[name] += self._summed(every, many).view_as(total[name])
                else:
                    del total[name]
        return total if calls else {}

    def _summed(self, every: list[Use], examples: int) -> Tensor:
        if len(every) == 1 and every[0].sums is not None:
            return every[0].sums(self.power)
        chunk = _room(sum(use.elements for use in every), torch.float64)
        parts = []
        for first in range(0, examples, chunk):
            each = [use.gradients(first, min(first + chunk, examples)).flatten(1) for use in every]
            parts.append(powered(sum(each[1:], each[0]), self.power).sum(0))
        return torch.stack(parts).sum(0)

    def _by_vmap(self, batch: Batch, v: Tensor, names: set[str]) -> ParameterSums:
        total = self._zeros(names)
        if not names:
            return total
        whole = _Call(self.model, self.logits)
        weights = {f"model.{name}": self.parameters[name].detach() for name in names}

        def gradients(example: Batch, rows: Tensor) -> ParameterSums:
            batch_of_one = {key: value[None] for key, value in example.items()}
            with_pull: Any = torch.func.vjp(
                lambda values: torch.func.functional_call(whole, values, (batch_of_one,)), weights
            )
            pulled: ParameterSums = torch.func.vmap(lambda row: with_pull[1](row)[0])(rows)
            return pulled

        many = len(batch["labels"])
        v = v.unflatten(1, (many, -1))
        room = min(_room(sum(tensor.numel() for tensor in weights.values()), v.dtype), many)
        at_once = min(len(v), room)
        for examples in torch.arange(many).split(max(1, room // max(1, at_once))):
            part = {key: value[examples] for key, value in batch.items()}
            for rows in v[:, examples].split(max(1, at_once)):
                # MATH is the only attention kernel that vmap supports; no_grad builds no graph of the other weights.
                with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
                    every = torch.func.vmap(gradients, in_dims=(0, 1))(part, rows)
                for name, slopes in every.items():
                    into = total[name.removeprefix("model.")]
                    into += powered(slopes.to(into.dtype), self.power).sum((0, 1))
        return total

    def _singly(self, batch: Batch, v: Tensor, names: set[str]) -> ParameterSums:
        total = self._zeros(names)
        weights = [self.parameters[name] for name in total]
        each = v.shape[1] // len(batch["labels"])  # logits of an example
        for example in range(len(batch["labels"]) if weights else 0):
            z = self.logits(self.model, {key: value[example : example + 1] for key, value in batch.items()})
            for row in v[:, example * each : (example + 1) * each]:
                slopes = torch.autograd.grad(z, weights, row, retain_graph=True, allow_unused=True)
                for into, gradient in zip(total.values(), slopes, strict=True):
                    if gradient is not None:
                        into.add_(powered(gradient.to_dense().to(into.dtype), self.power))
        return total

    def _agreeing(self, candidate: ParameterSums, truth: ParameterSums) -> set[str]:
        """Names whose sums are right up to rounding, relative to the largest gradient of all."""
        roots = {name: tensor.pow(1 / self.power) for name, tensor in truth.items()}
        largest = max((float(tensor.max()) for tensor in roots.values() if tensor.numel()), default=0.0)
        names = set()
        for name, tensor in candidate.items():
            step = torch.finfo(self.parameters[name].dtype).eps
            floor = 100 * step * largest * tensor.numel() ** 0.5
            if (tensor.pow(1 / self.power) - roots[name]).norm() <= step**0.4 * roots[name].norm() + floor:
                names.add(name)
        return names

    def _zeros(self, names: Iterable[str]) -> ParameterSums:
        return zeros({name: self.parameters[name] for name in names})


class _Call(nn.Module):
    """`logits(model, batch)` as a module, which is what functional_call takes."""

    def __init__(self, model: nn.Module, logits: Logits) -> None:
        super().__init__()
        self.model, self.logits = model, logits

    def forward(self, batch: Batch) -> Tensor:
        return self.logits(self.model, batch)


def _room(elements: int, dtype: torch.dtype) -> int:
    return max(1, _BOUND // max(1, elements * dtype.itemsize))
