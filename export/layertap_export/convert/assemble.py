"""From the raw conversion to the graph of the file format.

raw graph -> products and normalisations restored -> channels first -> fused -> channels filled up
-> named after the layers -> outputs in order
"""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence

import onnx
from onnx import helper

from layertap._version import __version__
from layertap.format.card import TensorInfo
from layertap.format.layer import Shape
from layertap_export.graph.passes.aligned_channels import aligned_channels
from layertap_export.graph.passes.channels_first import View, channels_first
from layertap_export.graph.passes.einsum import products_of_einsum
from layertap_export.graph.passes.fuse import fuse
from layertap_export.graph.passes.normalisations import normalisations
from layertap_export.graph.passes.rename import rename
from layertap_export.graph.passes.tensordot import restore_products
from layertap_export.graph.shapes.shapes import Shapes
from layertap_export.graph.shapes.sizes import Free
from layertap_export.keras_model.tracing import Trace

from .dtypes import element_type
from .to_onnx import RawGraph

BATCH = "batch"
"""The symbol of the batch size."""

IR_VERSION = 8
"""The newest that onnxruntime 1.14 opens."""

FREE_AXES = {2: ("time",), 3: ("time",), 4: ("height", "width"), 5: ("depth", "height", "width")}
"""Symbols of an input's free axes behind the batch axis, by the input's rank."""


def assemble(raw: RawGraph, trace: Trace, exposed: Collection[str]) -> onnx.ModelProto:
    """The finished graph, without its card.

    Args:
        raw: what tf2onnx made of `trace.function`; it is used up.
        trace: the traced model.
        exposed: names of the rows that become graph outputs, behind the model's own outputs.
    """
    model, own = raw.model, len(trace.outputs)
    raw_outputs = [value.name for value in model.graph.output]
    restore_products(model, raw.shapes)
    products_of_einsum(model, raw.shapes)
    normalisations(model, raw.shapes)
    views, shapes = channels_first(model, raw.shapes, raw.initializers)

    wanted: dict[str, tuple[TensorInfo, View]] = {}
    for info, name in zip(trace.outputs, raw_outputs[:own], strict=True):
        wanted[info.name] = (info, views[name])
    rows = [row for row in trace.rows if row.symbol is not None]
    row_views = {
        row.layer.name: views[name] for row, name in zip(rows, raw_outputs[own:], strict=True)
    }
    for row in rows:
        layer = row.layer
        if layer.name in exposed and layer.tensor and layer.tensor not in wanted:
            info = TensorInfo(name=layer.tensor, shape=layer.shape, dtype=layer.dtype)
            wanted[layer.tensor] = (info, row_views[layer.name])

    shown = {view.source for _, view in wanted.values()}
    fuse(model, shapes, shown)
    aligned_channels(model, raw.initializers, shown)
    present = {name for node in model.graph.node for name in node.output}
    ended = sorted(rows, key=lambda row: row.finished)
    owners = [(row.layer.name, row_views[row.layer.name].source) for row in ended]
    owners = [(name, source) for name, source in owners if source in present]
    owners += [(name, view.source) for name, (_, view) in wanted.items()]
    # A tensor in Keras's own axis order simply bears the layer's name.
    fixed: dict[str, str] = {}
    for name, (_, view) in wanted.items():
        if view.plain and view.source in present:
            fixed.setdefault(view.source, name)
    renamed = rename(model, owners, fixed)

    graph = model.graph
    for name, (info, view) in wanted.items():
        source = renamed[view.source]
        if source != name:
            graph.node.append(_leaf(source, view, name))
        graph.output.append(_value_info(info, ()))
    del graph.input[:]
    several = len(trace.inputs) > 1
    graph.input.extend(_value_info(x, (BATCH, *_axis_names(x, several))) for x in trace.inputs)
    _write_head(model)
    return model


def name_batch(model: onnx.ModelProto, outputs: Container[str]) -> None:
    """Give the first axis of outputs the symbol of the batch, in place.

    Outputs whose first axis is known to have another size are left out. The results of loops have
    an unknown size; it is assumed to be that of the batch, and verification checks this.

    Args:
        model: the finished graph.
        outputs: names of the outputs in question; the others lose the symbol.
    """
    shapes = Shapes(model)
    symbols = {
        size.dim_param for value in model.graph.input for size in value.type.tensor_type.shape.dim
    }
    for value in model.graph.output:
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].HasField("dim_value"):
            continue
        dims[0].ClearField("dim_param")
        size = (shapes.dims(value.name) or (None,))[0]
        known = isinstance(size, int) or (isinstance(size, Free) and size.names <= symbols)
        if value.name in outputs and (size == Free.named(BATCH) or not known):
            dims[0].dim_param = BATCH


def _leaf(source: str, view: View, name: str) -> onnx.NodeProto:
    """The node that makes a graph output out of a tensor in another axis order, or a second one
    out of a tensor that is an output already."""
    if view.plain:
        return helper.make_node("Identity", [source], [name], name=name)
    return helper.make_node("Transpose", [source], [name], name=name, perm=view.perm)


def _axis_names(info: TensorInfo, several: bool) -> tuple[str, ...]:
    """Symbols for the free axes of an input behind the first."""
    names = FREE_AXES.get(len(info.shape), ())
    names += tuple(f"axis_{axis}" for axis in range(len(names) + 1, len(info.shape)))
    return tuple(f"{info.name}_{name}" for name in names) if several else names


def _value_info(info: TensorInfo, names: Sequence[str]) -> onnx.ValueInfoProto:
    """The type of an input or output; `names` are symbols for its axes, if they are free."""
    shape: Shape = info.shape
    symbols = [*names, *[None] * len(shape)]
    dims = [symbol if size is None else size for size, symbol in zip(shape, symbols, strict=False)]
    return helper.make_tensor_value_info(info.name, element_type(info.dtype), dims)


def _write_head(model: onnx.ModelProto) -> None:
    used = {node.domain for node in model.graph.node}
    imports = [(i.domain, i.version) for i in model.opset_import if i.domain in used | {""}]
    del model.opset_import[:], model.metadata_props[:]
    model.opset_import.extend(helper.make_opsetid(*item) for item in sorted(imports))
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "layertap", __version__
    model.ClearField("doc_string")
    model.graph.ClearField("doc_string")
    model.graph.name = "layertap"
