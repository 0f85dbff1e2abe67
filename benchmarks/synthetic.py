"""Large collections of made-up rows, and a model that takes next to no time."""

from __future__ import annotations

import os
from array import array
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from PIL import Image

from layertap.extract.columns import Column
from layertap.extract.identity import identity_of
from layertap.extract.items import ItemTable
from layertap.extract.workers import Finished
from layertap.extract.writer import Writer

WIDTH = 8
"""Values in a row."""
CHUNK = 100_000
"""Rows that are written together."""


def finished_collection(folder: Path, rows: int) -> None:
    """Write a finished collection with one column, `bn`."""
    column = Column("bn", "bn", {"layer": "bn"}, "float16", (WIDTH,), ("channel",))
    ids = [f"images/{row:08d}.png" for row in range(rows)]
    items = ItemTable(ids, array("q", [400_000]) * rows, array("q", [10**18]) * rows)
    identity = identity_of(items, [column], model="synthetic", chunk=CHUNK, batch=1)
    values = np.ones((CHUNK, WIDTH), np.float16)
    with Writer.open(folder, identity, items, [column]) as writer:
        for chunk in writer.todo():
            block = values[: chunk.count]
            writer.write(Finished(chunk, {"bn": block}, ("",) * chunk.count, {}, {}))
        writer.finish()


def quick_model(file: Path, shape: tuple[int, ...]) -> None:
    """Write a model that takes the negative part out of a batch `(n, *shape)`."""
    kinds = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *shape])
        for name in ("image", "relu")
    ]
    node = helper.make_node("Relu", ["image"], ["relu"], name="relu")
    graph = helper.make_graph([node], "quick", kinds[:1], kinds[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, file)


def tiny_pictures(folder: Path, count: int) -> None:
    """Write many files of one picture of 4 x 4, 10,000 in a folder."""
    for start in range(0, count, 10_000):
        inner = folder / f"{start // 10_000:04d}"
        inner.mkdir(parents=True)
        first = inner / f"{start:08d}.png"
        Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(first)
        for number in range(start + 1, min(start + 10_000, count)):
            os.link(first, inner / f"{number:08d}.png")
