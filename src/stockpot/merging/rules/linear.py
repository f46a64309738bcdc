"""Weighted averages of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.merging.rule import Block, Parameter, Rule, Settings

if TYPE_CHECKING:
    from torch import Tensor


def linear(block: Block) -> Tensor:
    """Weighted average, or the uniform soup: `θ = Σ wᵢθᵢ / Σ wᵢ` ("Model soups", arXiv 2203.05482, section 2).

    With `normalize=false` the sum is not divided. Adapters are averaged as what they add, `θ_base + Σ wᵢΔWᵢ / Σ wᵢ`,
    which differs from averaging their factors A and B. Agrees with mergekit's linear.
    """
    weights = block.settings.numbers("weight")
    merged = block.models[0].mul_(weights[0])
    for model, weight in zip(block.models[1:], weights[1:], strict=True):
        merged.add_(model, alpha=weight)
    total = sum(weights)
    return merged.div_(total) if block.settings.switch("normalize") and total != 1 else merged


def wise_ft(block: Block) -> Tensor:
    """Interpolation between the base and one model: `θ = (1−α)θ_base + αθ` (WiSE-FT, arXiv 2109.01903, section 3).

    α=0 is the base and α=1 the model, bit for bit. α weighs the *new* model: SFA with p=1 is α = 1−β.
    """
    alpha = block.settings.number("alpha")
    return block.models[0] if alpha == 1 else block.origin.lerp(block.models[0], alpha)


def normalised_to_nothing(settings: Settings) -> str | None:
    """What is wrong if the weights sum to zero and are to be divided by their sum."""
    if settings.switch("normalize") and abs(sum(settings.numbers("weight"))) < 1e-8:
        return f"the weights {settings.numbers('weight')} sum to zero and cannot be normalised; set normalize=false"
    return None


WEIGHT = Parameter("weight", 1.0, "each model's w; they need not sum to 1", each=True)
NORMALIZE = Parameter("normalize", True, "divide by the sum of the weights")

LINEAR = Rule("linear", linear, (WEIGHT, NORMALIZE), of="weights", base="optional", check=normalised_to_nothing)
WISE_FT = Rule(
    "wise_ft",
    wise_ft,
    (Parameter("alpha", 0.5, "α, the weight of the fine-tuned model", low=0, high=1),),
    of="weights",
    most=1,
)
