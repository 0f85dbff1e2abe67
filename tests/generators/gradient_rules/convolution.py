"""Convolutions: ranks, strides, paddings, dilations, groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from generators.gradient_rules.operators import Case
from generators.gradient_rules.values import numbers

ALL = (13, 18, 22)


def _tf() -> Any:
    import tensorflow as tf

    return tf


def _by_tensorflow(weights: Any, group: int, **options: Any) -> Any:
    """A convolution of images channels last, group by group."""
    tf = _tf()

    def call(x: Any) -> Any:
        images = tf.split(tf.transpose(x, [0, 2, 3, 1]), group, axis=-1)
        kernels = tf.split(tf.constant(weights.transpose(2, 3, 1, 0)), group, axis=-1)
        found = [
            tf.nn.conv2d(image, kernel, **options)
            for image, kernel in zip(images, kernels, strict=True)
        ]
        return tf.transpose(tf.concat(found, -1), [0, 3, 1, 2])

    return call


def _conv(
    channels: tuple[int, int] = (2, 3),
    kernel: tuple[int, int] = (3, 3),
    size: tuple[int, int] = (5, 6),
    strides: Sequence[int] = (1, 1),
    dilations: Sequence[int] = (1, 1),
    pads: Sequence[int] | str = (0, 0, 0, 0),
    group: int = 1,
    opsets: tuple[int, ...] = (18,),
) -> Case:
    weights = numbers(channels[1], channels[0] // group, *kernel, seed=2)
    attributes: dict[str, Any] = {"group": group}
    if any(stride > 1 for stride in strides):
        attributes["strides"] = strides
    if any(dilation > 1 for dilation in dilations):
        attributes["dilations"] = dilations
    padding: Any = "VALID"
    if isinstance(pads, str):
        attributes["auto_pad"] = pads
        padding = "SAME" if pads.startswith("SAME") else "VALID"
    elif any(pads):
        attributes["pads"] = pads
        padding = [[0, 0], [pads[0], pads[2]], [pads[1], pads[3]], [0, 0]]
    known = pads != "SAME_LOWER" and max(dilations) == 1  # TensorFlow has others on GPUs alone

    def function(x: Any) -> Any:
        return _by_tensorflow(
            weights, group, strides=strides, dilations=dilations, padding=padding
        )(x)

    inputs = {"x": numbers(2, channels[0], *size), "w_": weights, "b_": numbers(channels[1])}
    return Case(
        "Conv", inputs, attributes, None if not known else _added(function, inputs), opsets=opsets
    )


def _added(function: Any, inputs: Mapping[str, Any]) -> Any:
    return lambda x: function(x) + inputs["b_"][:, None, None]


def _transposed(
    kernel: Sequence[int] = (3, 3), size: Sequence[int] = (3, 4), group: int = 1, **more: Any
) -> Case:
    return Case(
        "ConvTranspose",
        {
            "x": numbers(2, 2 * group, *size),
            "w_": numbers(2 * group, 3, *kernel, seed=2),
        },
        {"group": group, **more},
    )


CASES: Mapping[str, Case] = {
    "Conv": _conv(opsets=ALL),
    "Conv padded": _conv(pads=(1, 1, 1, 1)),
    "Conv padded unevenly": _conv(pads=(0, 2, 1, 1)),
    "Conv padded wide": _conv(pads=(3, 4, 3, 2)),
    "Conv SAME": _conv(pads="SAME_UPPER", opsets=ALL),
    "Conv SAME of even kernels": _conv(kernel=(2, 4), pads="SAME_UPPER"),
    "Conv SAME_LOWER": _conv(kernel=(2, 4), pads="SAME_LOWER"),
    "Conv VALID": _conv(pads="VALID"),
    "Conv 1 x 1": _conv(kernel=(1, 1)),
    "Conv 1 x 3": _conv(kernel=(1, 3), pads=(0, 1, 0, 1)),
    "Conv strides": _conv(strides=(2, 2)),
    "Conv strides that leave a rest": _conv(size=(6, 8), strides=(2, 3)),
    "Conv strides beyond the kernel": _conv(kernel=(1, 2), size=(7, 8), strides=(3, 3)),
    "Conv strides padded": _conv(strides=(2, 2), pads=(1, 1, 1, 1)),
    "Conv strides padded unevenly": _conv(size=(6, 7), strides=(2, 3), pads=(0, 1, 2, 0)),
    "Conv strides SAME": _conv(size=(6, 7), strides=(2, 2), pads="SAME_UPPER"),
    "Conv strides SAME_LOWER": _conv(size=(6, 7), strides=(2, 3), pads="SAME_LOWER"),
    "Conv dilated": _conv(size=(7, 6), dilations=(2, 2)),
    "Conv dilated padded": _conv(dilations=(2, 1), pads=(2, 1, 2, 1)),
    "Conv dilated with strides": _conv(size=(9, 8), dilations=(2, 2), strides=(2, 1)),
    "Conv groups": _conv(channels=(4, 6), group=2, pads=(1, 1, 1, 1)),
    "Conv groups with strides": _conv(channels=(4, 6), group=2, strides=(2, 2)),
    "Conv depthwise": _conv(channels=(3, 3), group=3, pads=(1, 1, 1, 1)),
    "Conv depthwise with strides": _conv(channels=(3, 3), group=3, strides=(2, 2)),
    "Conv depthwise multiplied": _conv(channels=(3, 6), group=3, pads=(1, 0, 1, 0)),
    "Conv of a sequence": Case(
        "Conv", {"x": numbers(2, 2, 7), "w_": numbers(3, 2, 3, seed=2)}, {"pads": [2, 0]}
    ),
    "Conv of a sequence with strides": Case(
        "Conv", {"x": numbers(2, 2, 8), "w_": numbers(3, 2, 3, seed=2)}, {"strides": [2]}
    ),
    "Conv of a volume": Case(
        "Conv",
        {"x": numbers(2, 2, 3, 4, 3), "w_": numbers(2, 2, 2, 3, 2, seed=2)},
        {"pads": [0, 1, 1, 1, 1, 0]},
    ),
    "Conv of a volume with strides": Case(
        "Conv",
        {"x": numbers(2, 2, 4, 4, 3), "w_": numbers(2, 2, 2, 3, 2, seed=2)},
        {"strides": [2, 1, 2]},
    ),
    "ConvTranspose": _transposed(),
    "ConvTranspose strides": _transposed(strides=[2, 3]),
    "ConvTranspose padded": _transposed(strides=[2, 2], pads=[1, 0, 0, 1]),
    "ConvTranspose larger": _transposed(strides=[2, 3], output_padding=[1, 2]),
    "ConvTranspose dilated": _transposed(dilations=[2, 1], strides=[1, 2]),
    "ConvTranspose SAME": _transposed(strides=[2, 2], auto_pad="SAME_UPPER"),
    "ConvTranspose SAME_LOWER": _transposed(strides=[2, 2], auto_pad="SAME_LOWER"),
    "ConvTranspose to a shape": _transposed(strides=[2, 2], output_shape=[6, 8]),
    "ConvTranspose groups": _transposed(group=2, strides=[2, 1]),
    "ConvTranspose of a sequence": _transposed((3,), (4,), strides=[2]),
}
