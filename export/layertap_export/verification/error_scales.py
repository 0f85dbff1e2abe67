"""The scale by which a layer's error is divided: the largest absolute value of the layer.

The scale of a sigmoid is at least `LEAST_SIGMOID_SCALE`. The absolute error of onnxruntime's
sigmoid is about 1e-7, the resolution of float32 near 1, however small the result. A trained
classifier that sees noise may give every class a probability of 1e-6: with the largest of these as
the scale, its last layer would count as wrong.
"""

from __future__ import annotations

import os

from layertap.format.graph import read_graph
from layertap.format.operators import MOVERS, is_one_of
from layertap.format.source import FileSource

LEAST_SIGMOID_SCALE = 1e-2
"""The least scale of the values of a sigmoid, which are between 0 and 1."""


def least_scales(path: str | os.PathLike[str]) -> dict[str, float]:
    """The least scale of the tensors of a file that have one."""
    with FileSource(path).read(sparsely=True) as buffer:
        nodes = read_graph(buffer).nodes
    found: dict[str, float] = {}
    for node in nodes:
        if is_one_of(node, ["Sigmoid"]) or (is_one_of(node, MOVERS) and node.reads[0] in found):
            found.update(dict.fromkeys(node.writes, LEAST_SIGMOID_SCALE))
    return found
