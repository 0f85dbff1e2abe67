"""Lookup tables of strings and integers, as LabelEncoder nodes of ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from tf2onnx.onnx_opset.logical import Equal

from .expressions import Handler, UnsupportedUseError, Value, attribute, replace_node

DOMAIN, VERSION = "ai.onnx.ml", 2
"""The operator set of LabelEncoder; every build of onnxruntime contains it."""

Table = tuple[NDArray[Any], NDArray[Any]]
"""Keys and values, in the same order; integers, or `bytes` for strings."""


def lookup(tables: Mapping[str, Table]) -> Handler:
    """A handler for lookups: the value of a key in a table, or a default.

    Args:
        tables: the tables, by the name of their TensorFlow node.
    """

    def handler(graph: Any, node: Any, name: str, args: Any) -> None:
        keys, values = tables[node.input[0].partition(":")[0]]
        order = np.argsort(keys)  # tables have no order; every export must write the same bytes
        dtype = Value(graph, node.output[0]).dtype if values.dtype.kind in "iu" else None

        def build(table: Value, key: Value, default: Value) -> Value:
            if default.constant is None:
                raise UnsupportedUseError("the default of the lookup is not a constant")
            (constant,) = default.constant.reshape(-1).tolist()
            found = _encoded(key, keys[order].tolist(), values[order].tolist(), constant)
            return found if dtype is None else found.cast(dtype)

        replace_node(graph, node, build)

    return handler


def equal(graph: Any, node: Any, name: str, args: Any) -> None:
    """Whether elements are equal, or different. Strings are looked up in a table with one key.

    (ONNX can compare strings since opset 19.)
    """
    if graph.get_dtype(node.input[0]) != TensorProto.STRING:
        Equal.version_11(graph, node)
        return
    negated = node.type == "NotEqual"

    def build(x: Value, y: Value) -> Value:
        constant, strings = (x, y) if y.constant is None else (y, x)
        if constant.constant is None or constant.constant.size != 1:
            raise UnsupportedUseError(
                "in ONNX, strings can be compared with one constant string only"
            )
        key = constant.constant.reshape(-1).tolist()
        return _encoded(strings, key, [int(not negated)], int(negated)).cast(np.bool_)

    replace_node(graph, node, build)


def _encoded(key: Value, keys: list[Any], values: list[Any], default: Any) -> Value:
    """For each element of `key`, the value with the index of that key in `keys`, or the default."""
    strings = not isinstance(values[0], int)
    if isinstance(keys[0], int):
        key = key.cast(np.int64)
    attributes = {
        f"keys_{_element_type(keys[0])}s": keys,
        f"values_{_element_type(values[0])}s": values,
        f"default_{_element_type(default)}": default,
    }
    (found,) = key.ops("LabelEncoder", outputs=1, domain=DOMAIN, **attributes)
    # tf2onnx infers no dtypes and shapes for other domains.
    key.graph.set_dtype(found.name, TensorProto.STRING if strings else TensorProto.INT64)
    key.graph.copy_shape(key.name, found.name)
    return found


def _element_type(value: Any) -> str:
    return "int64" if isinstance(value, int) else "string"


def as_string(graph: Any, node: Any, name: str, args: Any) -> None:
    """Integers and truth values as text."""
    plain = {"precision": -1, "scientific": 0, "shortest": 0, "width": -1, "fill": ""}
    formatted = [key for key, value in plain.items() if attribute(node, key) != value]

    def build(x: Value) -> Value:
        if formatted:
            raise UnsupportedUseError(f"ONNX cannot write numbers with {' and '.join(formatted)}")
        if x.dtype.kind == "b":
            return x.where(x.const("true", object), x.const("false", object))
        if x.dtype.kind not in "iu":
            raise UnsupportedUseError("ONNX writes other digits of floating-point numbers")
        return x.op("Cast", to=TensorProto.STRING)

    replace_node(graph, node, build)
