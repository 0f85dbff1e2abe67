"""Reading a file that gradients are to be added to."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import helper, inliner, numpy_helper, version_converter

import layertap
from layertap._engine.program import program_of
from layertap.errors import ModelFileError
from layertap.format.card import Card, Source
from layertap.format.external import Weights, find_weights
from layertap.format.graph import External
from layertap.format.index import refusal
from layertap.format.references import without_references
from layertap.format.wire import WireError
from layertap_export.graph.graph import in_order, opset_of, prune, reads
from layertap_export.graph.weights import STUB_BYTES, Initializers

P = TypeVar("P")
T = TypeVar("T")

OLDEST_OPSET = 13
"""The oldest opset that the gradient rules support."""

UPGRADED_OPSET = 17
"""The opset that older files are converted to. From 16 on, several values can be added to one
element; 18 has other attributes for reductions, which not all converters write."""


def read(source: Path, opened: layertap.Model, initializers: Initializers) -> onnx.ModelProto:
    """The model, in a form that the rules can read.

    Args:
        source: the file.
        opened: the same, opened.
        initializers: takes the weights that the file keeps in other files; they are not read, but
            mapped.

    Raises:
        ModelFileError: the file is too old to be converted to a newer opset, a tensor depends on
            itself, or two nodes write it.
    """
    program = program_of(opened)
    model = _loaded(opened, initializers)
    if opset_of(model) < OLDEST_OPSET:
        model = _upgraded(_loaded(opened, None), source)
    nodes = in_order(model.graph.node)
    later: set[str] = set()
    for name in (name for node in nodes for name in node.output if name):
        if name in later:
            raise ModelFileError(
                f"{program.name} is damaged: two nodes write {name!r}. Export it again."
            )
        later.add(name)
    for node in nodes:
        missing = next((name for name in reads(node) if name in later), None)
        if missing is not None:
            raise ModelFileError(
                f"{program.name} is damaged: {missing!r} depends on itself. Export it again."
            )
        later.difference_update(node.output)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for item in model.graph.sparse_initializer:
        model.graph.initializer.append(_checked(_dense, item, item.values.name))
    del model.graph.sparse_initializer[:]
    for item in model.graph.initializer:
        _checked(initializers.value, item, item.name)
    if model.functions:
        model = inliner.inline_local_functions(model)
    if model.ir_version < 4:  # which lists weights as inputs, and knows no optional inputs
        graph = program.graph
        entries = [x for x in model.graph.input if x.name in graph.inputs]
        del model.graph.input[:]
        model.graph.input.extend(entries)
        model.ir_version = 4
    return model


def _upgraded(model: onnx.ModelProto, source: Path) -> onnx.ModelProto:
    """The model in a newer opset."""
    version = opset_of(model)
    try:
        newer: onnx.ModelProto = version_converter.convert_version(model, UPGRADED_OPSET)
    except Exception as exc:  # it raises errors of any class
        raise ModelFileError(
            f"{os.fspath(source)!r} has opset {version}, but gradients need opset {OLDEST_OPSET} "
            f"or newer, and `onnx.version_converter` cannot convert it to {UPGRADED_OPSET}: {exc}. "
            "Export the model again, with a newer opset."
        ) from exc
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(newer, name, getattr(model, name))
    return newer


def _loaded(opened: layertap.Model, initializers: Initializers | None) -> onnx.ModelProto:
    """The model with all data inside, but for large weights, which become stubs of `initializers`.

    The onnx package does not follow any reference: `find_weights` has checked those that are left.
    """
    program = program_of(opened)
    weights = find_weights(program.source, program.graph.locations)
    stated = {item.external for item in program.graph.initializers.values() if item.external}
    with program.source.read() as buffer:
        try:
            data = without_references(bytes(buffer), stated, weights.load)
            model: onnx.ModelProto = onnx.ModelProto.FromString(data)
            _check_texts(model)
        except (WireError, DecodeError, UnicodeDecodeError) as exc:
            raise refusal(program.name, buffer, WireError(str(exc))) from exc
    model.ClearField("training_info")
    for item in model.graph.initializer:
        external = program.graph.initializers[item.name].external
        if item.data_location != onnx.TensorProto.EXTERNAL or external is None:
            continue
        value = _mapped(item, external, weights) if initializers is not None else None
        if initializers is not None and value is not None:
            item.CopyFrom(initializers.make(value, item.name))
        else:
            item.raw_data = weights.load(external)
            item.ClearField("external_data")
            item.ClearField("data_location")
    return model


def _check_texts(message: Message) -> None:
    """Decode every text of a model, except in tensors. Protobuf returns bytes for a bad one.

    Raises:
        UnicodeDecodeError: a text is not UTF-8.
    """
    for field, value in message.ListFields():
        values = (value,) if isinstance(value, (Message, str, bytes)) else value
        if field.type == FieldDescriptor.TYPE_STRING:
            for text in values:
                if isinstance(text, bytes):
                    text.decode()
        elif field.message_type is not None and field.message_type.name != "TensorProto":
            for inner in values:
                _check_texts(inner)


def _mapped(item: onnx.TensorProto, external: External, weights: Weights) -> NDArray[Any] | None:
    """The value of a large weight in another file; `None` for one that has to be read."""
    dtype = helper.tensor_dtype_to_np_dtype(item.data_type)
    count, size = math.prod(item.dims), weights.size(external)
    if size < STUB_BYTES or size != count * dtype.itemsize:  # types of less than a byte are packed
        return None
    found = weights.refer(external)
    if isinstance(found, bytes):
        return np.frombuffer(found, dtype).reshape(tuple(item.dims))
    return np.memmap(weights.folder / found.location, dtype, "r", found.offset, tuple(item.dims))


def _checked(read: Callable[[P], T], item: P, name: str) -> T:
    """The result of a function that reads weights.

    Raises:
        ModelFileError: their data do not fit the type and shape that they state.
    """
    try:
        return read(item)
    except (ValueError, TypeError, LookupError, MemoryError) as exc:
        raise ModelFileError(
            f"the data of the weights {name!r} do not fit their type and shape: {exc}. Copy or "
            "export the file again."
        ) from exc


def _dense(item: onnx.SparseTensorProto) -> onnx.TensorProto:
    values, positions = numpy_helper.to_array(item.values), numpy_helper.to_array(item.indices)
    full = np.zeros(tuple(item.dims), values.dtype)
    if positions.ndim == 1:
        full.ravel()[positions] = values
    else:
        full[tuple(positions.T)] = values
    return numpy_helper.from_array(full, item.values.name)


def card_of(opened: layertap.Model, model: onnx.ModelProto, initializers: Initializers) -> Card:
    """The file's card, or one for a file that has none.

    Raises:
        ModelFileError: the card names an input or output that the graph does not have.
    """
    program = program_of(opened)
    entries, outputs = program.graph.inputs, program.graph.outputs
    for word, infos, known in (("in", opened.inputs, entries), ("out", opened.outputs, outputs)):
        unknown = next((info.name for info in infos if info.name not in known), None)
        if unknown is not None:
            raise ModelFileError(
                f"{program.name} is damaged: its card names the {word}put {unknown!r}, "
                "which the graph does not have. Export it again."
            )
    # The graph decides about dtypes, for example after a conversion to float16.
    inputs = tuple(replace(info, dtype=entries[info.name].dtype) for info in opened.inputs)
    if opened.card is not None:
        return replace(opened.card, inputs=inputs)
    digest = hashlib.sha256()
    for item in model.graph.initializer:
        digest.update(initializers.value(item).tobytes())
    return Card(
        source=Source(
            framework="onnx",
            version=model.producer_version,
            model=model.graph.name,
            type=model.producer_name,
            weights_sha256=digest.hexdigest(),
        ),
        inputs=inputs,
        outputs=opened.outputs,
        layers=opened.layers,
    )


def strip(model: onnx.ModelProto, card: Card) -> None:
    """Take out the gradients that a file has.

    Raises:
        ModelFileError: the graph has an input that is neither the model's nor that of gradients.
    """
    gone: set[str] = set()
    if card.gradients is not None:
        gone = {*card.gradients.added, card.gradients.weights}
    known = gone | {info.name for info in card.inputs}
    known |= {item.name for item in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in known:
            raise ModelFileError(
                f"the graph has the input {value.name!r}, which the file's card does not name. The "
                "file was changed after the export; export it again."
            )
    if not gone:
        return
    for values in (model.graph.output, model.graph.input):
        kept = [value for value in values if value.name not in gone]
        del values[:]
        values.extend(kept)
    prune(model, [value.name for value in model.graph.output])
    # What the gradients alone read has gone with them, whatever name the card gives it.
    left = {info.name for info in card.inputs} | {item.name for item in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name in left]
    del model.graph.input[:]
    model.graph.input.extend(kept)
