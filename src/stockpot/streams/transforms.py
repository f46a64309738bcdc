"""The classic domain shifts: rotated images and permuted pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stockpot.seeds import generator


def rotate(image: Any, degrees: float) -> Any:
    """A PIL image turned counter-clockwise about its centre; corners are filled with black."""
    from PIL import Image

    return image.rotate(degrees, resample=Image.Resampling.BILINEAR)


def permute(pixel_values: Tensor, seed: int) -> Tensor:
    """Pixels (…, H, W) shuffled by one permutation, the same for every image and channel."""
    height, width = pixel_values.shape[-2:]
    order = torch.randperm(height * width, generator=generator(seed, "permute"))
    return pixel_values.flatten(-2)[..., order].reshape(pixel_values.shape)
