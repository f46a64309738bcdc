"""LoRA: if ΔW = s·B·A starts at zero, the base is the anchor, and an average is B ← (1−β)·B."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stockpot.errors import StockpotError
from stockpot.weights.checkpoint import open_checkpoint
from stockpot.weights.tensor_memory import is_sharded, local_shard
from stockpot.weights.tensor_names import clean_name

BESIDE = {"beside": "lora"}  # metadata of an anchor file that holds only what is trained beside LoRA factors

_ZERO_STARTS = (True, "gaussian", "eva")
# PEFT's methods whose parameters enter the weights (or the input) one by one, so that their mean is a mean of weights.
_LINEAR = frozenset({
    "lora", "ia3", "ln_tuning", "trainable_tokens", "shira", "fourierft", "prompt_tuning", "prefix_tuning", "p_tuning",
})  # fmt: skip


@dataclass(frozen=True)
class Factor:
    """One adapter of one LoRA layer: ΔW = s·B·A, linear in each factor while the other stays."""

    layer: Any
    adapter: str

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """A and B, as PEFT shapes them: A is `(r, in, …)`, B is `(out, r, …)`."""
        if self.embedding:
            return self.layer.lora_embedding_A[self.adapter], self.layer.lora_embedding_B[self.adapter]
        return self.layer.lora_A[self.adapter].weight, self.layer.lora_B[self.adapter].weight

    @property
    def embedding(self) -> bool:
        return self.adapter in self.layer.lora_embedding_A

    @property
    def merged(self) -> bool:
        return self.adapter in self.layer.merged_adapters

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """ΔW = s·left·right: left `(rows, r)` of the factor that starts at zero, right `(r, …)` of the other.

        A row is an output of the layer, of an embedding a token.
        """
        a, b = (tensor.detach().flatten(1) for tensor in self.tensors)
        return (a.T, b.T) if self.embedding else (b, a)

    @property
    def scaling(self) -> float:
        """s."""
        return float(self.layer.scaling[self.adapter])

    @property
    def change(self) -> Tensor:
        """ΔW in the shape of the layer's weight, with a graph back to A and B."""
        change: Tensor = self.layer.get_delta_weight(self.adapter)
        return change


def lora_factors(model: nn.Module) -> dict[int, Factor | None]:
    """Each trainable LoRA factor of PEFT by `id`: the Factor if an average scales it, None if it leaves it alone.

    The factor that starts at zero (B; of embeddings A) is scaled, unless it is frozen. Raises StockpotError, naming the
    tensor, for DoRA and other variants of LoRA, and for methods of PEFT whose parameters are multiplied with each
    other (AdaLoRA, VeRA, LoHa, …).
    """
    factors: dict[int, Factor | None] = {}
    for prefix, module in model.named_modules():
        method = _method(module)
        if method is None:
            continue
        trained = [name for name, tensor in _own(module) if tensor.requires_grad]
        if not trained:
            continue
        name = clean_name(f"{prefix}.{trained[0]}" if prefix else trained[0])
        if method not in _LINEAR:
            label = "AdaLoRA" if method == "adalora" else f"PEFT's {method}"
            raise StockpotError(
                f"'{name}' belongs to {label}, whose weights are not a sum of its parameters, so their mean is not "
                "a mean of weights: train plain LoRA, rsLoRA or IA3."
            )
        if method == "lora":
            factors |= _of_layer(module, name)
    return factors


def doubt(model: nn.Module, factors: Mapping[str, Factor]) -> str | None:
    """Why averages of these factors, given by name, would not be averages with the base: ΔW is not zero.

    Raises StockpotError if the adapter's initialisation is known to be the reason.
    """
    for name, factor in factors.items():
        if all(bool(local_shard(tensor.detach()).any()) for tensor in factor.tensors):
            start = _initialisation(model, factor.adapter)
            if start not in _ZERO_STARTS:
                raise StockpotError(
                    f"'{name}' does not start at ΔW = 0 (init_lora_weights={start!r}), so the base is not its anchor: "
                    "use init_lora_weights=True."
                )
            return (
                f"'{name}' has ΔW = s·B·A ≠ 0, so the base is not where the task starts: fold what was learnt into the "
                "base and start a new adapter; a resumed run calls load_state_dict with the state of its SFA."
            )
    return None


def check_anchor(source: object, name: str) -> None:
    """Raises StockpotError unless `source` is "start", or a file of what the callback trained beside such factors."""
    holds_base = isinstance(source, Mapping)
    if isinstance(source, str | os.PathLike) and source != "start":
        holds_base = not BESIDE.items() <= open_checkpoint(source).metadata.items()
    if holds_base:
        raise StockpotError(
            f"'{name}' is a LoRA factor, whose anchor can only be the base that the adapter sits on: say "
            "anchor='start', and load the weights you want as the anchor into the base."
        )


def check_rows(factors: Mapping[str, Factor]) -> None:
    """Raises StockpotError, naming the tensor, for factors whose gradient does not say how much rows of ΔW matter."""
    for name, factor in factors.items():
        a, b = factor.tensors
        if not (a if factor.embedding else b).requires_grad:
            raise StockpotError(f"'{name}': beta='auto' needs the gradient of the factor that starts at zero.")
        if hasattr(factor.layer, "num_experts"):
            raise StockpotError(f"'{name}' adapts experts together, whose rows beta='auto' does not tell apart.")
        if is_sharded(a) or is_sharded(b):
            raise StockpotError(f"'{name}' is sharded over processes, where beta='auto' works without LoRA only.")


def refuse_merged(factors: Mapping[str, Factor]) -> None:
    """Raises StockpotError for a merged adapter: scaling its factors would leave ΔW in the base."""
    for name, factor in factors.items():
        if factor.merged:
            raise StockpotError(f"'{name}': adapter '{factor.adapter}' is merged; call unmerge_adapter() to train on.")


@torch.no_grad()
def squared_norms(factors: Iterable[Factor]) -> Iterator[float]:
    """‖Σ s·B·A‖²_F of each layer over its adapters: tr((BᵀB)(AAᵀ)), in float64, without a dense ΔW for plain layers."""
    by_layer: dict[int, list[Factor]] = {}
    for factor in factors:
        by_layer.setdefault(id(factor.layer), []).append(factor)
    for same in by_layer.values():
        layer = same[0].layer
        pairs = [factor.tensors for factor in same]
        if any(is_sharded(tensor) for pair in pairs for tensor in pair):
            raise StockpotError("distance() does not work with LoRA factors sharded over processes; gather them.")
        if all(a.dim() == b.dim() == 2 for a, b in pairs) and not hasattr(layer, "num_experts"):
            a = torch.cat([tensors[0].detach().cpu().double() for tensors in pairs])
            scales = [layer.scaling[factor.adapter] for factor in same]
            b = torch.cat([b.detach().cpu().double() * s for (_, b), s in zip(pairs, scales, strict=True)], dim=1)
            yield max(0.0, float(((b.T @ b) * (a @ a.T)).sum()))
        else:
            delta = sum(layer.get_delta_weight(factor.adapter).cpu().double() for factor in same)
            yield float(torch.as_tensor(delta).square().sum())


def _of_layer(layer: Any, name: str) -> dict[int, Factor | None]:
    factors: dict[int, Factor | None] = {}
    for adapter in (*layer.lora_A, *layer.lora_embedding_A):
        factor = Factor(layer, adapter)
        a, b = factor.tensors
        if not (a.requires_grad or b.requires_grad):
            continue
        if adapter in layer.lora_variant or adapter in layer.lora_magnitude_vector:
            dora = adapter in layer.lora_magnitude_vector
            variant = "DoRA" if dora else type(layer.lora_variant[adapter]).__name__
            why = "its magnitude makes ΔW non-linear in B" if dora else "its ΔW may not be B·A"
            raise StockpotError(f"'{name}' belongs to {variant}: {why}; train plain LoRA or rsLoRA.")
        zero, other = (a, b) if factor.embedding else (b, a)
        scaled = zero if zero.requires_grad else other
        factors |= {id(a): None, id(b): None, id(scaled): factor}
    return factors


def _method(module: nn.Module) -> str | None:
    """The package of PEFT that the module's class comes from, `lora` for example; None for models that wrap others."""
    kinds = type(module).__mro__
    if any(kind.__name__ == "BaseTuner" for kind in kinds):
        return None
    for kind in kinds:
        parts = kind.__module__.split(".")
        if parts[:2] == ["peft", "tuners"] and len(parts) > 3:
            return parts[2]
    return None


def _own(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, tensor) for name, tensor in module.named_parameters() if not name.startswith("base_layer."))


def _initialisation(model: nn.Module, adapter: str) -> object:
    for module in model.modules():
        configs = getattr(module, "peft_config", None)
        if isinstance(configs, dict) and adapter in configs:
            return getattr(configs[adapter], "init_lora_weights", True)
    return True
