"""Number types that the file lacks, and the types used instead.

numpy and onnxruntime on the CPU do not support bfloat16. Where Keras computes in bfloat16, the file
computes in float32, with the weights as they are stored (under `mixed_bfloat16` in float32).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from onnx import TensorProto, helper

from layertap_export.keras_model.tracing import Trace

WIDENED = {"bfloat16": "float32"}
"""The type in the file, for Keras's."""


def file_dtype(dtype: str) -> str:
    """The dtype in the file of what has this dtype in Keras."""
    return WIDENED.get(dtype, dtype)


def element_type(dtype: str) -> int:
    """ONNX's number for a dtype of the file."""
    if dtype == "string":
        return TensorProto.STRING
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def as_in_file(value: Any) -> NDArray[Any]:
    """A value of Keras's, as an array of the dtype that the file uses for it."""
    array = np.asarray(value)
    if array.dtype.kind in "SO":  # TensorFlow's strings are bytes
        words = [x.decode() if isinstance(x, bytes) else x for x in array.ravel()]
        return np.array(words, object).reshape(array.shape)
    return array.astype(file_dtype(array.dtype.name), copy=False)


def in_file(traced: Trace) -> tuple[Trace, tuple[str, ...]]:
    """The trace with the types that the file will have, and notes on those that differ."""
    seen = {row.layer.dtype for row in traced.rows}
    seen.update(info.dtype for info in [*traced.inputs, *traced.outputs])
    widened = seen & WIDENED.keys()
    if not widened:
        return traced, ()
    rows = [replace(row.layer, dtype=file_dtype(row.layer.dtype)) for row in traced.rows]
    notes = tuple(
        f"the model computes in {dtype}, which onnxruntime does not on the CPU; the file computes "
        f"in {WIDENED[dtype]}."
        for dtype in sorted(widened)
    )
    return (
        replace(
            traced,
            inputs=tuple(replace(x, dtype=file_dtype(x.dtype)) for x in traced.inputs),
            outputs=tuple(replace(x, dtype=file_dtype(x.dtype)) for x in traced.outputs),
            rows=tuple(
                replace(row, layer=layer) for row, layer in zip(traced.rows, rows, strict=True)
            ),
        ),
        notes,
    )


def narrowing_notes(operators: Collection[str]) -> tuple[str, ...]:
    """Notes on operators that compute in float32 where the model computes in float64."""
    if not operators:
        return ()
    return (
        f"onnxruntime has no float64 kernels on the CPU for {', '.join(sorted(operators))}; these "
        "compute in float32.",
    )


def widen(graph_def: Any) -> None:
    """Replace bfloat16 by float32 in a GraphDef, in place."""
    narrow, wide = tf.bfloat16.as_datatype_enum, tf.float32.as_datatype_enum
    for node in nodes_of(graph_def):
        for attribute in node.attr.values():
            if attribute.type == narrow:
                attribute.type = wide
            for index, number in enumerate(attribute.list.type):
                if number == narrow:
                    attribute.list.type[index] = wide
            if attribute.tensor.dtype == narrow:
                value = tf.make_ndarray(attribute.tensor).astype(np.float32)
                attribute.tensor.CopyFrom(tf.make_tensor_proto(value, wide, value.shape))
    for function in graph_def.library.function:
        for argument in [*function.signature.input_arg, *function.signature.output_arg]:
            if argument.type == narrow:
                argument.type = wide


def nodes_of(graph_def: Any) -> Iterator[Any]:
    """The nodes of a GraphDef and of the functions in it."""
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def
