"""The diagonal of the Fisher information, in five conventions, and its form on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from stockpot.batches.examples import IGNORED, Batch, Examples
from stockpot.batches.losses import SINGLE_LABEL, ProblemType, known_values
from stockpot.batches.outputs import evaluation_mode, targets_of
from stockpot.errors import StockpotError, did_you_mean
from stockpot.files import write_json
from stockpot.importance.per_example import Directions, Logits, ParameterSums, batches, per_example_sums, zeros
from stockpot.models.wrappers import refuse_fsdp1
from stockpot.weights.checkpoint import open_checkpoint, save_checkpoint

FisherKind = Literal["exact", "sample", "empirical", "predicted", "batched"]
NOT_EXACT = (
    "fisher: 'exact' of a language model would take a backward pass for every token at every position; "
    "choose sample, which is unbiased, or empirical."
)

NOT_PREDICTED = (
    "fisher: 'predicted' of a regression is 0: the likeliest number is the output itself; choose exact, sample or "
    "empirical."
)


def default_kind(rows: int, language: bool = False) -> FisherKind:
    """`exact` up to 100 output rows of the whole stream, else, and of a causal language model, `sample`.

    The exact Fisher takes one backward pass a class, of a sequence one for every token at every position.
    """
    return "exact" if rows <= 100 and not language else "sample"


def fisher(
    model: nn.Module,
    examples: Examples,
    kind: FisherKind,
    *,
    logits: Logits,
    batch_size: int = 64,
    samples: int | None = None,
    draws: torch.Generator | None = None,
    on_progress: Callable[[int], None] | None = None,
    problem: ProblemType = SINGLE_LABEL,
) -> ParameterSums:
    """F by parameter name, the mean over examples, in eval mode and in the parameters' types; p = softmax(logits).

    `exact`: `mean_b Σ_c p_bc (∂ log p_bc / ∂θ)²`, over the classes that compete (logits above −∞).
    `sample`: `mean_b (∂ log p_by / ∂θ)²` with one `y ~ p_b` from `draws`: unbiased, noisy.
    `empirical`: the same with the true y: not the Fisher, and 0 where the fit is perfect.
    `predicted`: the same with the label that the model gives, `argmax p_b`: not the Fisher either; it needs no labels,
    and is what Hsu et al. (arXiv 1810.12488) weigh EWC by.
    `batched`: `Σ_B |B|/N · (mean_{b∈B} ∂ log p_by / ∂θ)²` with the true y: not a Fisher: it shrinks towards
    1/|B| of `empirical`, and is there to reproduce published results. A smaller last batch counts by its size, so
    |B| = 1 is `empirical`.
    Of a causal language model an example is a sequence, and log p_y the sum over its positions that are to be learnt,
    given the true tokens before each; `sample` draws all of them, independently: unbiased, too.
    With several labels each output is a Bernoulli variable of its own, p = σ(logits); in a regression each is Gaussian
    around the output with variance 1, whatever the spread of the labels: log p_y is the sum over the labels that the
    example has, and `exact` sums over outputs.
    With `samples`, that many examples, chosen by `draws` without replacement; all where there are no more.
    Raises StockpotError for an unknown kind, no examples, missing `draws`, `exact` of sequences, `predicted` of a
    regression, and FSDP1.
    Paper: Kirkpatrick et al. (arXiv 1612.00796), section 2; Kunstner et al. (arXiv 1905.12558) on the empirical one.
    """
    if kind not in get_args(FisherKind):
        kinds = get_args(FisherKind)
        raise StockpotError(f"fisher: {kind!r} is not one of {', '.join(kinds)}.{did_you_mean(kind, kinds)}")
    refuse_fsdp1(model)
    indices = chosen(len(examples), samples, draws, batch_size)
    if kind == "batched":
        total = _batched(model, examples, logits, indices, batch_size, on_progress, problem)
    else:
        rule = _directions(kind, draws, problem)
        total = per_example_sums(model, examples, logits, rule, 2, indices, batch_size, on_progress)
    return averaged(total, model, len(indices))


def chosen(many: int, samples: int | None, draws: torch.Generator | None, batch_size: int) -> Sequence[int]:
    """Indices of `samples` out of `many` examples, without replacement and in order; of all without `samples`."""
    for key, value in (("examples", many), ("samples", samples), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise StockpotError(f"{key}: {value} is too few; at least 1 is needed.")
    if samples is None or samples >= many:
        return range(many)
    if draws is None:
        raise StockpotError("samples: choosing examples needs `draws`, a torch.Generator.")
    picked: list[int] = torch.randperm(many, generator=draws)[:samples].sort().values.tolist()
    return picked


def averaged(total: ParameterSums, model: nn.Module, many: int) -> ParameterSums:
    """Turns sums over `many` examples into means, in the parameters' types."""
    parameters = dict(model.named_parameters())
    return {name: (tensor / many).to(parameters[name].dtype) for name, tensor in total.items()}


def _directions(kind: FisherKind, draws: torch.Generator | None, problem: ProblemType) -> Directions:
    """∂ log p_y / ∂ logits = e_y − p; for `exact` √p_c (e_c − p) for each class c, so that squares weigh p_c."""
    if kind == "sample" and draws is None:
        raise StockpotError("fisher: 'sample' draws labels and needs `draws`, a torch.Generator.")
    if kind == "predicted" and problem == "regression":
        raise StockpotError(NOT_PREDICTED)
    if problem != SINGLE_LABEL:
        return partial(_value_directions, kind, draws, problem)

    def directions(logits: Tensor, batch: Batch) -> Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        if kind == "exact":
            if batch["labels"].dim() == 2:
                raise StockpotError(NOT_EXACT)
            p = logits.to(wide).softmax(1)
            open_rows = p.any(0).nonzero().flatten()  # no backward pass for a class that competes for no example
            one_hot = functional.one_hot(open_rows, p.shape[1]).to(p)
            scaled = p[:, open_rows].sqrt()[..., None] * (one_hot - p[:, None])  # (B, classes, rows)
            return scaled.transpose(0, 1).to(logits.dtype)
        labels = targets_of(batch)
        learnt = labels != IGNORED
        p = logits[learnt].to(wide).softmax(1)
        if kind == "sample":
            y = torch.multinomial(p.cpu(), 1, generator=draws)
        else:
            y = p.argmax(1, keepdim=True) if kind == "predicted" else labels[learnt][:, None]
        slopes = torch.zeros_like(logits)
        slopes[learnt] = p.neg_().scatter_add_(1, y.to(p.device), p.new_ones(len(p), 1)).to(logits.dtype)
        return slopes[None]

    return directions


def _value_directions(
    kind: FisherKind, draws: torch.Generator | None, problem: ProblemType, logits: Tensor, batch: Batch
) -> Tensor:
    """∂ log p_y / ∂ logits = y − mean, the mean σ(z) of a label or z of a number; for `exact` sd·e_c for each output c.

    The outputs of an example are independent given its logits, so no term of two outputs is in the Fisher.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    y, known = known_values(wide, batch["labels"])
    mean = wide if problem == "regression" else wide.sigmoid()
    spread = torch.ones_like(wide) if problem == "regression" else (mean * (1 - mean)).sqrt()
    if kind == "exact":
        outputs = known.any(0).nonzero().flatten()
        one_hot = functional.one_hot(outputs, wide.shape[1]).to(wide)
        return (one_hot[:, None] * (spread * known)).to(logits.dtype)
    if kind == "sample" and problem == "regression":
        slopes = torch.randn(wide.shape, generator=draws, dtype=wide.dtype).to(wide.device)
    elif kind == "sample":
        slopes = (torch.rand(wide.shape, generator=draws, dtype=wide.dtype).to(wide.device) < mean).to(wide) - mean
    else:
        slopes = ((wide > 0).to(wide) if kind == "predicted" else y) - mean
    return (slopes * known).to(logits.dtype)[None]


def _batched(
    model: nn.Module,
    examples: Examples,
    logits: Logits,
    indices: Sequence[int],
    batch_size: int,
    on_progress: Callable[[int], None] | None,
    problem: ProblemType,
) -> ParameterSums:
    """Σ_B |B| (mean gradient)²: each batch is taken for one example."""
    parameters = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    total, rule = zeros(parameters), _directions("empirical", None, problem)
    with evaluation_mode(model), torch.enable_grad():
        for batch in batches(examples, indices, batch_size, on_progress):
            z = logits(model, batch)
            many = len(batch["labels"])
            v = rule(z.detach(), batch)[0] / many
            gradients = torch.autograd.grad(z, list(parameters.values()), v, allow_unused=True)
            for into, gradient in zip(total.values(), gradients, strict=True):
                if gradient is not None:
                    into.add_(gradient.to_dense().to(into.dtype).square(), alpha=many)
    return total


def convention(
    kind: FisherKind, examples: int, batch_size: int, language: bool = False, problem: ProblemType = SINGLE_LABEL
) -> dict[str, Any]:
    """How a Fisher was estimated: a strength has no meaning without it."""
    unit = "sequence" if language else "example"
    likelihoods = {"multi_label_classification": "Bernoulli of each label", "regression": "Gaussian of variance 1"}
    return {
        **({"likelihood": likelihoods[problem]} if problem in likelihoods else {}),
        "variant": kind,
        "examples": examples,
        "reduction": "mean",
        "squares": "per batch" if kind == "batched" else f"per {unit}",
        "batch_size": batch_size if kind == "batched" else None,
        "mode": "eval",
    }


def save_fisher(tensors: Mapping[str, Tensor], convention: Mapping[str, Any], folder: Path) -> None:
    """Writes `fisher.safetensors` and, beside it, `fisher.json`, which says how it was estimated."""
    save_checkpoint(tensors, folder / "fisher.safetensors")
    write_json(folder / "fisher.json", dict(convention))


def load_fisher(path: Path, model: nn.Module | None = None) -> tuple[ParameterSums, dict[str, Any]]:
    """What `save_fisher` wrote to a folder, or a `.safetensors` file with its `.json` beside it.

    Raises StockpotError where a file is missing or damaged, where a value is negative or not finite, and, with
    `model`, where the tensors are not those of its parameters.
    """
    file = path / "fisher.safetensors" if path.is_dir() else path
    tensors = dict(open_checkpoint(file))
    record = file.with_suffix(".json")
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StockpotError(f"{record} does not say how {file.name} was estimated: {error}.") from error
    if not isinstance(values, dict):
        raise StockpotError(f"{record} does not say how {file.name} was estimated: it is not a JSON object.")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool((tensor.isfinite() & (tensor >= 0)).all()):
            raise StockpotError(f"{file}: '{name}' holds values that are not finite numbers ≥ 0: it is not a Fisher.")
    for name, parameter in model.named_parameters() if model is not None else ():
        if parameter.requires_grad and (name not in tensors or tensors[name].shape != parameter.shape):
            stored = f"is {list(tensors[name].shape)}" if name in tensors else "is missing"
            raise StockpotError(
                f"{file}: '{name}' {stored}, and {list(parameter.shape)} in the model: the Fisher is another model's."
            )
    return tensors, values
