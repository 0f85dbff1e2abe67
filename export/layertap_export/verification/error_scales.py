"""What an error in a layer is measured by: the largest absolute value that the layer has.

A sigmoid is measured by no less than `SATURATED`. Far from zero onnxruntime's sigmoid is right to
some 1e-7, as float32 near 1 is, and not to some digits of the 1e-6 that a class may have which a
trained network sees nowhere: measured by that alone, the last layer of a good classifier would be
said to differ on an image of noise.
"""

from __future__ import annotations

import os

from layertap.format.graph import read_graph
from layertap.format.operators import MOVERS, is_one_of
from layertap.format.source import FileSource

SATURATED = 1e-2
"""Least scale of a sigmoid's values, which lie between 0 and 1."""


def least_scales(path: str | os.PathLike[str]) -> dict[str, float]:
    """The tensors of a file that have a least scale, and what it is."""
    with FileSource(path).read(sparsely=True) as buffer:
        nodes = read_graph(buffer).nodes
    found: dict[str, float] = {}
    for node in nodes:
        if is_one_of(node, ["Sigmoid"]) or (is_one_of(node, MOVERS) and node.reads[0] in found):
            found.update(dict.fromkeys(node.writes, SATURATED))
    return found
