"""An overlay on a radiograph of 3000 x 2500 pixels and 16 bits, in its own resolution."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from layertap.view.overlays import overlay

from .timing import PAUSE, Row, alternate, timed

ROUNDS = 7
WIDTH, HEIGHT = 3000, 2500
MOST = 0.5
"""Seconds."""


def measure() -> list[Row]:
    """From the bytes of the PNG file to the picture, beside reading the file with Pillow."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 60_000, (25, 30)).astype(np.float32)
    smooth = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    noise = generator.integers(0, 2_000, (HEIGHT, WIDTH))
    buffer = io.BytesIO()
    pixels = (np.asarray(smooth) + noise).clip(0, 65535).astype(np.uint16)
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    map_ = Image.fromarray(generator.random((10, 10), np.float32))
    smooth_heat = map_.resize((320, 320), Image.Resampling.BILINEAR)
    data, heat = buffer.getvalue(), generator.random((320, 320), np.float32)

    def read() -> object:
        return Image.open(io.BytesIO(data)).load()

    ways = {
        "": lambda: overlay(data, heat),
        ", opacity by heat": lambda: overlay(data, heat, opacity="heat"),
        ", of an array": lambda: overlay(pixels, heat),
        ", 5 contour lines": lambda: overlay(data, np.asarray(smooth_heat), contours=5),
    }
    cases = {"read": timed(read, PAUSE), **{name: timed(way, PAUSE) for name, way in ways.items()}}
    seconds = alternate(cases, ROUNDS, 1)
    return [
        Row(
            what=f"overlay on {WIDTH} x {HEIGHT} pixels of 16 bits{name}",
            peer="reading the PNG with Pillow",
            unit="s",
            ours=seconds[name],
            theirs=seconds["read"],
            most_ours=MOST,
        )
        for name in ways
    ]
