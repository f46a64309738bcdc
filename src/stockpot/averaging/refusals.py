"""Refusals that several ways into SFA share, each worded once."""

from __future__ import annotations

from stockpot.errors import StockpotError


def deepspeed(subject: str = "DeepSpeed") -> StockpotError:
    """DeepSpeed, or what belongs to it, which steps on copies of the weights."""
    return StockpotError(f"{subject} keeps fp32 copies that would overwrite an average; train without DeepSpeed.")


def between_averages(subject: str, step: int, remedy: str) -> StockpotError:
    """A choice of the best weights that could pick plain fine-tuning."""
    return StockpotError(
        f"{subject} step {step}, which lies between two averages, where weights are plain fine-tuning: {remedy}"
    )


def setting_differs(name: str, here: object, there: object, where: object, why: str = "") -> StockpotError:
    """A training that is resumed with another value of a setting."""
    return StockpotError(
        f"{name} is {here!r} here and {there!r} in {where}: {why}resume with the settings of the start."
    )
