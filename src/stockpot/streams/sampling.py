"""Sampling rows of a data set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def evenly_spaced_rows(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of `count` rows, evenly spaced, by number from 0."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
