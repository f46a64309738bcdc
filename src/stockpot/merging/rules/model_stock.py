"""Model Stock: between base and average, as far as the angle between the models suggests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.merging.rule import Block, Parameter, Rule

if TYPE_CHECKING:
    from torch import Tensor


def model_stock(block: Block) -> Tensor:
    """Model Stock: `θ = t·mean θᵢ + (1−t)·θ_base`, `t = N cos ω/(1 + (N−1) cos ω)` (arXiv 2403.19522, section 4).

    cos ω is the mean cosine between the task vectors of two models, over the tensor or, with `filter_wise=true`, over
    each row (a tensor of one dimension is one row). Products are summed in fp64. If 1 + (N−1) cos ω vanishes there is
    no estimate, and the base is kept. Agrees with mergekit's model_stock, whose products are in fp32.
    """
    import torch

    gram, count = block.gram, len(block.models)
    assert gram is not None
    norms = torch.stack([gram[i, i].sqrt() for i in range(count)])
    pairs = [(gram[i, j] / (norms[i] * norms[j]).clamp(min=1e-6)).clamp(-1, 1) for i in range(count) for j in range(i)]
    cosine = torch.stack(pairs).mean(dim=0)
    below = 1 + (count - 1) * cosine
    t = (count * cosine / below).masked_fill(below.abs() < 1e-6, 0)
    total, *rest = block.models
    for model in rest:
        total.add_(model)
    share = (t / count).to(total.dtype)
    if share.dim() == 0:
        return total.mul_(float(share)).add_(block.origin)
    total.view(block.rows, block.columns).mul_(share[:, None])
    return total.add_(block.origin)


MODEL_STOCK = Rule(
    "model_stock",
    model_stock,
    (Parameter("filter_wise", False, "a separate angle for each row"),),
    least=2,
    gram=lambda shared: "rows" if shared["filter_wise"] else "tensor",
)
