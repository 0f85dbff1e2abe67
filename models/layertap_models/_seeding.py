"""Random weights for an untrained network, from one seed.

The weights are for tests, benchmarks and demonstrations. Like trained weights, they must let the
output depend on the image. No batch normalization has the statistics 0 and 1, so an error in
handling them becomes visible.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.errors import UsageError

# Factor on He's standard deviation for dense kernels. Their inputs are averages over an image,
# which differ little between images. The factor makes the outputs differ visibly.
_DENSE_GAIN = 2.0


def seed_weights(model: Any, seed: int) -> None:
    """Set the weights of every layer of `model`, in layer order; they only depend on `seed`.

    Kernels follow He et al. 2015 (arXiv:1502.01852): normal with variance 2 / fan-in. All but the
    first are centred to mean 0 per output channel. Their inputs come from a ReLU and are never
    negative; without the centring, the activations of all images would become more similar with
    each layer.

    Raises:
        UsageError: `seed` is not an integer of at least 0.
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
    """numpy's random generator for `seed`.

    Raises:
        UsageError: `seed` is not an integer of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise UsageError(f"seed must be an integer of at least 0, got {seed!r}.")
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
