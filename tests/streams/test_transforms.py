"""Rotation and pixel permutation are exactly what they say."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stockpot.streams.transforms import permute, rotate


@given(st.integers(0, 1000), st.integers(1, 3), st.integers(2, 6), st.integers(2, 6))
def test_a_permutation_is_a_bijection_shared_by_images_and_channels(
    seed: int, channels: int, height: int, width: int
) -> None:
    pixels = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)
    images = pixels.expand(4, channels, height, width) + 1000 * torch.arange(4.0).reshape(4, 1, 1, 1)
    shuffled = permute(images, seed)
    assert shuffled.shape == images.shape
    order = shuffled[0, 0].flatten()
    assert sorted(order.tolist()) == list(range(height * width))
    expected = order.reshape(1, 1, height, width) + 1000 * torch.arange(4.0).reshape(4, 1, 1, 1)
    assert torch.equal(shuffled, expected.expand_as(shuffled))


def test_a_permutation_depends_on_its_seed_only() -> None:
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    torch.manual_seed(1)
    first = permute(image, 3)
    torch.manual_seed(2)
    assert torch.equal(permute(image, 3), first)
    assert not torch.equal(permute(image, 4), first)
    assert not torch.equal(first, image)


def marked() -> Image.Image:
    pixels = np.zeros((5, 5), dtype=np.uint8)
    pixels[0, 4] = 200  # top right
    pixels[1, 4] = 90
    return Image.fromarray(pixels)


def test_a_quarter_turn_is_exact_and_counter_clockwise() -> None:
    turned = np.asarray(rotate(marked(), 90))
    assert np.array_equal(turned, np.rot90(np.asarray(marked())))
    assert (turned[0, 0], turned[0, 1]) == (200, 90)  # top right went to top left


def test_a_whole_turn_changes_nothing_and_two_halves_neither() -> None:
    image = np.asarray(marked())
    assert np.array_equal(np.asarray(rotate(marked(), 360)), image)
    assert np.array_equal(np.asarray(rotate(rotate(marked(), 180), 180)), image)
    assert not np.array_equal(np.asarray(rotate(marked(), 20)), image)


def test_corners_that_turn_in_are_black() -> None:
    white = Image.new("L", (9, 9), 255)
    turned = np.asarray(rotate(white, 45))
    assert turned[4, 4] == 255
    assert turned[0, 0] == turned[-1, -1] == 0
