"""Lookup tables of strings and integers, as ONNX's LabelEncoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from tf2onnx.onnx_opset.logical import Equal

from .expressions import Handler, NoWayError, Value, take_over

DOMAIN, VERSION = "ai.onnx.ml", 2
"""The part of ONNX that LabelEncoder belongs to; every onnxruntime has it."""

Table = tuple[NDArray[Any], NDArray[Any]]
"""Keys and values, in the same order; integers, or `bytes` for strings."""


def lookup(tables: Mapping[str, Table]) -> Handler:
    """The value that a table has for a key, or a default.

    Args:
        tables: by the name of the TensorFlow node that stands for the table.
    """

    def handler(graph: Any, node: Any, name: str, args: Any) -> None:
        keys, values = tables[node.input[0].partition(":")[0]]
        order = np.argsort(keys)  # a table has none: the file shall be the same every time
        wanted = Value(graph, node.output[0]).dtype if values.dtype.kind in "iu" else None

        def build(table: Value, key: Value, default: Value) -> Value:
            if default.constant is None:
                raise NoWayError("a lookup with a default that is not constant")
            (otherwise,) = default.constant.reshape(-1).tolist()
            found = _encoded(key, keys[order].tolist(), values[order].tolist(), otherwise)
            return found if wanted is None else found.cast(wanted)

        take_over(graph, node, build)

    return handler


def equal(graph: Any, node: Any, name: str, args: Any) -> None:
    """Whether elements are equal; a string and a constant one as a table with one key.

    (ONNX compares strings from opset 19 on.)
    """
    if graph.get_dtype(node.input[0]) != TensorProto.STRING:
        Equal.version_11(graph, node)
        return
    unlike = node.type == "NotEqual"

    def build(one: Value, other: Value) -> Value:
        known, unknown = (one, other) if other.constant is None else (other, one)
        if known.constant is None or known.constant.size != 1:
            raise NoWayError("ONNX compares strings with one constant string only")
        word = known.constant.reshape(-1).tolist()
        return _encoded(unknown, word, [int(not unlike)], int(unlike)).cast(np.bool_)

    take_over(graph, node, build)


def _encoded(key: Value, keys: list[Any], values: list[Any], default: Any) -> Value:
    """By element the value of the same place as the key, or the default."""
    strings = not isinstance(values[0], int)
    if isinstance(keys[0], int):
        key = key.cast(np.int64)
    attributes = {
        f"keys_{_kind(keys[0])}s": keys,
        f"values_{_kind(values[0])}s": values,
        f"default_{_kind(default)}": default,
    }
    (found,) = key.ops("LabelEncoder", outputs=1, domain=DOMAIN, **attributes)
    # tf2onnx infers nothing for other domains.
    key.graph.set_dtype(found.name, TensorProto.STRING if strings else TensorProto.INT64)
    key.graph.copy_shape(key.name, found.name)
    return found


def _kind(value: Any) -> str:
    return "int64" if isinstance(value, int) else "string"
