"""`tiny.differentiable` in float64, by numpy alone, with gradients by central differences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from generators import tiny

Array = NDArray[np.float64]

STEP = 1e-6

_WEIGHTS = {
    item.name: numpy_helper.to_array(item).astype(np.float64) for item in tiny.DIFFERENTIABLE
}


def forward(image: Array, given: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """All layers, and the logits, for images (n, 8, 6, 3); `given` takes the place of layers."""
    values: dict[str, Array] = {}
    given = given or {}

    def put(name: str, value: Array) -> Array:
        values[name] = np.asarray(given.get(name, value), np.float64)
        return values[name]

    x = put("image", np.asarray(image, np.float64))
    conv = put("conv", _conv(x, "kernel", "bias", 1))
    relu = put("relu", np.maximum(conv, 0))
    mixed = put("mixed", _conv(relu + conv, "kernel2", "bias2", 2))
    last = put("last", np.maximum(mixed, 0))
    pool = put("pool", last.mean(axis=(1, 2)))
    logits = put("logits", pool @ _WEIGHTS["dense"] + _WEIGHTS["dense_bias"])
    put("probs", 1 / (1 + np.exp(-logits)))
    return values


def gradient(image: Array, layer: str, weights: Array, score: str = "logits") -> Array:
    """Of `sum(weights * scores)` with respect to a layer, for one image (8, 6, 3)."""
    whole = forward(image[None])
    start = whole[layer][0]
    moves = np.eye(start.size).reshape(-1, *start.shape) * STEP
    moved = np.concatenate([start + moves, start - moves])
    if layer == "image":
        found = forward(moved)[score]
    else:
        # The layers before it do not change, also where other layers read them.
        names = list(whole)
        before = {
            name: np.repeat(whole[name], len(moved), axis=0) for name in names[: names.index(layer)]
        }
        found = forward(before["image"], {**before, layer: moved})[score]
    up, down = np.split(found @ np.asarray(weights, np.float64), 2)
    return ((up - down) / (2 * STEP)).reshape(start.shape)


def _conv(x: Array, kernel: str, bias: str, stride: int) -> Array:
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    convolved: Array = np.einsum("nhwcij,ocij->nhwo", windows, _WEIGHTS[kernel])
    return convolved + _WEIGHTS[bias]
