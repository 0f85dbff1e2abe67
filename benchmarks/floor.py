"""A lower bound for the time of a tap: its multiply-adds at the speed of a matrix product."""

from __future__ import annotations

import math

import layertap

from . import models
from .timing import Row, alternate, timed

ROUNDS = 25
REST = 0.5
"""Seconds between calls. After a call, the threads of numpy's matrix product keep a core busy for
longer than those of onnxruntime."""
SIZE = 2048
"""Number of rows and columns of the matrices that are multiplied."""

MATRIX = f"its multiply-adds at the rate of a {SIZE} x {SIZE} float32 product in numpy"
MOST = {models.CHEST: 1.15}
"""Targets, by network."""


def measure() -> list[Row]:
    """Time repeated calls for the late layer of the chest model, and the other models' outputs."""
    import numpy as np

    generator = np.random.default_rng(0)
    left, right = (generator.normal(size=(SIZE, SIZE)).astype(np.float32) for _ in range(2))
    rows = []
    for name in models.NAMES:
        opened, batch = layertap.open(models.files(name).onnx), models.batch(name)
        layer = models.LATE if name == models.CHEST else opened.layer(-1).name
        tap = opened.tap(layer)
        cases = {"ours": lambda tap=tap, batch=batch: tap(batch), "product": lambda: left @ right}
        seconds = alternate({key: timed(call, REST) for key, call in cases.items()}, ROUNDS, 3)
        count = multiply_adds(name, layer)
        rows.append(
            Row(
                what=f"the floor: {name}, {layer}, {count / 1e9:.2f} billion multiply-adds",
                peer=MATRIX,
                unit="s",
                ours=seconds["ours"],
                theirs=tuple(taken * count / SIZE**3 for taken in seconds["product"]),
                most=MOST.get(name),
            )
        )
    return rows


def multiply_adds(name: str, layer: str) -> int:
    """The number of multiply-adds in the convolutions and matrix products up to a layer.

    For one image. The graph is cut and its shapes are inferred by the `onnx` package. Other
    operators, such as pooling and normalization, are not counted.
    """
    import onnx

    model = onnx.load(models.files(name).onnx)
    (source,) = model.graph.input
    for axis, size in zip(source.type.tensor_type.shape.dim, models.batch(name).shape, strict=True):
        axis.dim_value = size
    part = onnx.utils.Extractor(model).extract_model([source.name], [layer])
    graph = onnx.shape_inference.infer_shapes(part, data_prop=True).graph
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output, *graph.value_info]
    }
    shapes |= {item.name: list(item.dims) for item in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("MatMul", "Gemm"):
            total += math.prod(shapes[node.input[0]]) * shapes[node.output[0]][-1]
    return total
