"""How much each weight matters to what a model has learnt: Fishers and sensitivities, from per-example gradients."""

from stockpot.importance.fisher import fisher, load_fisher, save_fisher
from stockpot.importance.sensitivity import sensitivity

__all__ = ["fisher", "load_fisher", "save_fisher", "sensitivity"]
