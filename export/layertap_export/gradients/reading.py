"""Reading a file that gradients are to be added to."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
from onnx import inliner, numpy_helper

import layertap
from layertap._engine.program import program_of
from layertap.errors import ModelFileError
from layertap.format.card import Card, Source
from layertap_export.graph.graph import opset_of, prune

OLDEST_OPSET = 13
"""The oldest that the rules read and write."""


def read(source: Path, opened: layertap.Model) -> onnx.ModelProto:
    """The model, in a form that the rules can read."""
    model = onnx.load(source)
    version = opset_of(model)
    if version < OLDEST_OPSET:
        raise ModelFileError(
            f"{os.fspath(source)!r} has opset {version}; gradients are added to files of opset "
            f"{OLDEST_OPSET} and newer. `onnx.version_converter` makes one of it."
        )
    for item in model.graph.sparse_initializer:
        model.graph.initializer.append(_dense(item))
    del model.graph.sparse_initializer[:]
    if model.functions:
        model = inliner.inline_local_functions(model)
    if model.ir_version < 4:  # which lists weights as inputs, and knows no optional inputs
        graph = program_of(opened).graph
        entries = [x for x in model.graph.input if x.name in graph.inputs]
        del model.graph.input[:]
        model.graph.input.extend(entries)
        model.ir_version = 4
    return model


def _dense(item: onnx.SparseTensorProto) -> onnx.TensorProto:
    values, places = numpy_helper.to_array(item.values), numpy_helper.to_array(item.indices)
    full = np.zeros(tuple(item.dims), values.dtype)
    if places.ndim == 1:
        full.ravel()[places] = values
    else:
        full[tuple(places.T)] = values
    return numpy_helper.from_array(full, item.values.name)


def card_of(opened: layertap.Model, model: onnx.ModelProto) -> Card:
    """The file's card, or one for a file that has none."""
    if opened.card is not None:
        return opened.card
    digest = hashlib.sha256()
    for item in model.graph.initializer:
        digest.update(numpy_helper.to_array(item).tobytes())
    return Card(
        source=Source(
            framework="onnx",
            version=model.producer_version,
            model=model.graph.name,
            type=model.producer_name,
            weights_sha256=digest.hexdigest(),
        ),
        inputs=opened.inputs,
        outputs=opened.outputs,
        layers=opened.layers,
    )


def strip(model: onnx.ModelProto, card: Card) -> None:
    """Take out the gradients that a file has."""
    if card.gradients is None:
        return
    gone = {*card.gradients.tensors.values(), card.gradients.weights}
    for values in (model.graph.output, model.graph.input):
        kept = [value for value in values if value.name not in gone]
        del values[:]
        values.extend(kept)
    prune(model, [value.name for value in model.graph.output])
