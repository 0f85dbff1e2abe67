"""Synthetic pictures that resemble chest X-rays, drawn from ellipses.

They are inputs of realistic size, brightness and texture for demonstrations and tests: body, lungs,
heart, spine, ribs, collarbones and diaphragm, with small random variations. They show no disease,
and are not suitable for judging a model's predictions.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layertap.errors import UsageError

from ._samples import write_pngs
from ._seeding import generator

_SIZE = 1024  # as in the NIH collection

Map = NDArray[np.float32]


def write_samples(folder: str | os.PathLike[str], count: int, seed: int = 0) -> list[Path]:
    """Write `count` pictures as PNG images, 1024 x 1024, 8-bit grey; return their paths.

    Args:
        folder: the output folder; created if necessary.
        count: at least 1.
        seed: the seed of the first picture; the next pictures have the next seeds. The file name
            contains the seed of the picture: `phantom_007.png`.

    Raises:
        UsageError: `count` or `seed` is invalid.
        OutputError: a file cannot be written.
    """
    if count < 1:
        raise UsageError(f"count must be at least 1, got {count}.")
    generator(seed)
    return write_pngs(
        folder, ((f"phantom_{number:03d}", draw(number)) for number in range(seed, seed + count))
    )


def draw(seed: int, size: int = _SIZE) -> NDArray[np.uint8]:
    """Draw one picture, uint8 of shape `(size, size)`.

    Equal seeds give equal pictures; at another `size`, the noise differs. The thicknesses of all
    structures along a ray add up, and the film receives less radiation for a larger sum.

    Raises:
        UsageError: `seed` is invalid.
    """
    rng = generator(seed)

    def about(value: float, spread: float = 0.08) -> float:
        return float(value * rng.uniform(1 - spread, 1 + spread))

    # Coordinates range from -1 to 1: x to the picture's right (the patient's left), y downwards.
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x = axis[np.newaxis, :] - float(rng.normal(0, 0.02))
    y = axis[:, np.newaxis] - float(rng.normal(0, 0.02))
    out = np.abs(x)

    shoulders = _step(y + about(0.78), 0.09)
    half_width = about(0.3) + about(0.62) * shoulders - 0.12 * _step(y + 0.25, 0.25)
    body = _step(half_width - out, 0.03)

    lungs = np.zeros_like(body)
    domes_at = about(0.5)
    for side in (-1, 1):
        # The lungs are narrow at the top: the middle moves outwards from top to bottom.
        middle = side * (about(0.4, 0.04) + 0.1 * y)
        lung = _ellipse(x - middle, y - about(0.02), about(0.33), about(0.8), 0.05)
        top = domes_at + (0.0 if side < 0 else about(0.06))
        dome = _ellipse(x - side * about(0.36, 0.1), y - top - 0.5, about(0.5), 0.5, 0.025)
        lungs += lung * (1 - dome)

    # The heart's tip points downwards and to the patient's left.
    tilted = x - about(0.12, 0.3) - 0.45 * (y - 0.3)
    heart = _ellipse(tilted, y - about(0.24), about(0.26, 0.15), about(0.34, 0.1), 0.05)
    vessels = _ellipse(x - 0.03, y + about(0.25), about(0.13), about(0.55), 0.06)
    spine = _step(about(0.085) - out, 0.03) * (0.85 + 0.15 * np.cos(y * about(38.0)))

    ribs = np.zeros_like(body)
    fall, gap = about(0.55), about(0.165)
    cage = _ellipse(x, y - 0.15, about(0.82, 0.03), 1.15, 0.02)
    for number in range(9):
        # From the spine outwards, a rib first rises slightly and then falls more and more steeply.
        course = -0.85 + gap * number - 0.12 * out + fall * out**2.2
        ribs += _step(0.026 - np.abs(y - course), 0.012) * cage
    collarbones = _step(0.028 - np.abs(y + about(0.68, 0.04) + 0.2 * out), 0.012)
    collarbones *= _step(out - 0.1, 0.03) * _step(0.75 - out, 0.03)

    air = lungs * body
    thickness = (
        0.03
        + 1.05 * body
        - 0.80 * air * (1 - 0.8 * heart)
        + 0.30 * heart
        + 0.40 * vessels * body
        + 0.35 * spine * body
        + 0.45 * _step(y - domes_at, 0.2) * (1 - lungs) * body
        + 0.16 * ribs * body
        + 0.16 * collarbones * body
    ) * about(1.0, 0.15)
    brightness = 255 * (1 - np.exp(-thickness))
    brightness += 3 * rng.standard_normal(brightness.shape, dtype=np.float32)
    pixels: NDArray[np.uint8] = np.clip(np.rint(brightness), 0, 255).astype(np.uint8)
    return pixels


def _ellipse(x: Map, y: Map, width: float, height: float, softness: float) -> Map:
    """An ellipse around 0 with these semi-axes: 1 inside, 0 outside, with a soft edge."""
    radius = np.sqrt((x / width) ** 2 + (y / height) ** 2)
    return _step(1 - radius, softness / min(width, height))


def _step(inside: Map, softness: float) -> Map:
    """A smooth step from 0 to 1 where `inside` becomes positive, about 2 `softness` wide."""
    height: Map = np.tanh(inside / softness) * np.float32(0.5) + np.float32(0.5)
    return height
