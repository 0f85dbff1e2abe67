"""Weights for a network that nobody has trained, from one seed.

They are for tests, timings and demonstrations, so they must do what trained weights do to a
network: carry the image all the way to the output. Every batch normalisation is a real one (its
statistics are not 0 and 1), so that a mistake in handling them shows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.errors import UsageError

# How much wider than He's rule a dense kernel is drawn. What it reads are averages over an image,
# which differ little between images; this makes the outputs differ visibly.
_DENSE_GAIN = 2.0


def seed_weights(model: Any, seed: int) -> None:
    """Give every layer of `model` weights drawn from `seed` and nothing else, in layer order.

    Kernels follow He et al. 2015 (arXiv:1502.01852): normal, variance 2 / fan-in. All but the first
    are centred to mean zero per output channel: what they read comes out of a ReLU, is never
    negative, and would otherwise push every image towards the same activations, the more the
    deeper.

    Raises:
        UsageError: `seed` is not a whole number from 0 up.
    """
    rng = generator(seed)
    first = True
    for layer in model.layers:
        values = []
        for variable in layer.weights:
            value = _draw(variable.name, tuple(variable.shape), rng)
            if variable.name.endswith("kernel"):
                if not first:
                    value -= value.mean(axis=_inputs_of(variable.name, value.ndim), keepdims=True)
                if type(layer).__name__ == "Dense":
                    value *= _DENSE_GAIN
                first = False
            values.append(value)
        if values:
            layer.set_weights(values)


def generator(seed: int) -> np.random.Generator:
    """numpy's generator for `seed`.

    Raises:
        UsageError: `seed` is not a whole number from 0 up.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise UsageError(f"seed must be a whole number from 0 up, not {seed!r}.")
    return np.random.default_rng(int(seed))


def _draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    if name.endswith("kernel"):
        fan_in = math.prod(shape[axis] for axis in _inputs_of(name, len(shape)))
        values = rng.normal(0.0, math.sqrt(2 / fan_in), shape)
    elif name in ("gamma", "moving_variance"):
        values = rng.uniform(0.5, 1.5, shape)
    elif name == "moving_mean":
        values = rng.normal(0.0, 0.2, shape)
    else:  # beta, bias
        values = rng.normal(0.0, 0.1, shape)
    return values.astype(np.float32)


def _inputs_of(name: str, rank: int) -> tuple[int, ...]:
    """The axes of a kernel over which one output value sums."""
    return (0, 1) if name == "depthwise_kernel" else tuple(range(rank - 1))
