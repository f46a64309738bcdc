"""Small networks for demonstrations and benchmarks, named in a recipe's `model.build`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(num_labels: int, inputs: int = 784, hidden: Sequence[int] = (400, 400)) -> nn.Module:
    """A multi-layer perceptron with ReLU: images (B, C, H, W) with C·H·W = inputs → logits (B, num_labels)."""
    widths = [inputs, *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_labels))


def cnn(num_labels: int, channels: int = 1, width: int = 32) -> nn.Module:
    """Three convolutions with BatchNorm and a linear head: images (B, channels, H, W) → logits (B, num_labels)."""
    layers: list[nn.Module] = []
    for before, after in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_labels))
