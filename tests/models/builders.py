"""Code of a user's own, which no command may import unless it is allowed to."""

from __future__ import annotations

from torch import nn


def plain(num_labels: int, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.Linear(width, num_labels))


def not_a_model(num_labels: int) -> int:
    return num_labels


def double(num_labels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_labels)).double()
