"""Sequential fine-tuning: the floor of every comparison."""

from __future__ import annotations

from typing import Literal

from stockpot.methods.base import BaseConfig, Method


class SequentialConfig(BaseConfig):
    """No parameters."""

    name: Literal["sequential"]


class Sequential(Method[SequentialConfig]):
    """Plain fine-tuning on task after task: the previous model is the start, nothing else.

    Equation: `θ_k = train(θ_{k−1}, task k)`
    Cost: nothing more
    Kept: nothing
    Use: to see what would be forgotten without any method
    """

    title = "sequential fine-tuning"
    role = "floor"
