"""Seeded tensors for the cases."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def numbers(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> Array:
    """Uniform numbers, none of them within 1e-3 of a whole or half one: no kinks are near."""
    values = np.random.default_rng(seed).uniform(low, high, shape)
    near = np.abs(values * 2 - np.round(values * 2)) < 2e-3
    return np.asarray(values + np.where(near, 0.01, 0), np.float32)


def positive(*shape: int, seed: int = 0) -> Array:
    return numbers(*shape, low=0.3, high=2.5, seed=seed)


def apart(*shape: int, seed: int = 0) -> Array:
    """Numbers of which no two are near one another, in random order."""
    count = int(np.prod(shape))
    values = np.random.default_rng(seed).permutation(count) - count / 2 + 0.3
    return (values * (4 / count)).reshape(shape).astype(np.float32)


def steps(*shape: int, low: int = -2, high: int = 3, seed: int = 0) -> Array:
    """Integers as float32, many of them equal: ties, zeros and limits."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.float32)


def whole(*values: int) -> Array:
    """An int64 vector."""
    return np.array(values, np.int64)


def scalar(value: float) -> Array:
    return np.array(value, np.float32)
