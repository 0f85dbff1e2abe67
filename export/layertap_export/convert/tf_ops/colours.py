"""Conversions between RGB and HSV, with the formulas of TensorFlow's kernels.

Source: tensorflow/core/kernels/image/colorspace_op.h; A. R. Smith, Color Gamut Transform Pairs,
SIGGRAPH 1978.
"""

from __future__ import annotations

from .expressions import Value, stack


def rgb_to_hsv(image: Value) -> Value:
    """From red, green and blue along the last axis to hue, saturation and value in [0, 1]."""
    red, green, blue = (image.take(i, -1) for i in range(3))
    value = red.op("Max", green, blue)
    spread = value - red.op("Min", green, blue)
    grey = ~(spread > 0)
    sixth = 1 / (grey.where(1, spread) * 6)
    bright = value > 0
    saturation = bright.where(spread / bright.where(value, 1), 0)
    hue = red.equals(value).where(
        sixth * (green - blue),
        green.equals(value).where(
            sixth * (blue - red) + 2 / 6,
            sixth * (red - green) + 4 / 6,
        ),
    )
    hue = grey.where(0, hue)
    return stack([(hue < 0).where(hue + 1, hue), saturation, value], -1)


def hsv_to_rgb(image: Value) -> Value:
    """From hue in [0, 1], saturation and value along the last axis to red, green and blue."""
    hue, saturation, value = (image.take(i, -1) for i in range(3))
    sixths = hue * 6
    parts = (abs(sixths - 3) - 1, 2 - abs(sixths - 2), 2 - abs(sixths - 4))
    return stack(
        [(1 - saturation + saturation * x.op("Max", 0).op("Min", 1)) * value for x in parts], -1
    )
