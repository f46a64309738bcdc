"""ResNet-20 for 32×32 images with the weights of Idelbayev (2018), trained on CIFAR-10, and a new output layer.

For recipes: `model: {build: resnet20:pretrained, args: {weights: PATH}, drawn: [linear]}`, `benchmarks` on
PYTHONPATH. Shortcuts are option A of He et al. (2016): strided identity, padded with zero channels. Images come in
[0, 1].
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.added = stride, (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(self.bn2(self.conv2(y)) + functional.pad(shortcut, (0, 0, 0, 0, self.added, self.added)))


class ResNet20(nn.Module):
    """Images (B, 3, 32, 32) in [0, 1] → logits (B, num_labels)."""

    mean: Tensor
    std: Tensor

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, num_labels)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def pretrained(num_labels: int, weights: str) -> nn.Module:
    """The body with its weights, and an output layer drawn at random."""
    model = ResNet20(num_labels)
    file = next(Path(weights).glob("*.th")) if Path(weights).is_dir() else Path(weights)
    saved = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
    body = {name.removeprefix("module."): tensor for name, tensor in saved.items() if ".linear." not in name}
    missing, unexpected = model.load_state_dict(body, strict=False)
    assert set(missing) == {"linear.weight", "linear.bias"}, missing
    assert not unexpected, unexpected
    return model
