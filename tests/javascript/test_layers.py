"""Layers that the client for JavaScript reads are those that the Python runtime reads."""

from __future__ import annotations

import json

import numpy as np
import pytest

import layertap
from generators import tiny
from javascript_runtime import Runtime, assert_close

ONE_BY_ONE = """
const model = await layertap.open(ort, await read("model.onnx"))
const inputs = {}
for (const name of names) inputs[name] = await given(name)
for (const name of await json("names.json"))
  keep(name, await model.activations(inputs, name))
await model.release()
return model.layers.map(({ index, name, type, shape, dtype, parameters, inbound, tensor }) =>
  ({ index, name, type, shape, dtype, parameters, inbound, exposed: tensor !== null }))
"""


MODELS = {
    **{make.__name__: make for make in tiny.PLAIN},
    "linear_chain": tiny.linear_chain,
    "image_classifier": tiny.image_classifier,
    "free_size": lambda: tiny.image_classifier(None, None),
    "two_inputs": tiny.two_inputs,
    "differentiable": tiny.differentiable,
    "channels_first": tiny.channels_first,
    "frames": tiny.frames,
}


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_cut_one_by_one_is_that_of_the_python_runtime(
    name: str, runtime: Runtime
) -> None:
    made = MODELS[name]()
    feeds = tiny.feeds(made)
    model = layertap.open(made.SerializeToString())
    expected = {layer.name: model.activations(feeds, layer.name) for layer in model.select()}
    # onnxruntime for JavaScript knows no sequences.
    expected = {name: value for name, value in expected.items() if isinstance(value, np.ndarray)}
    files = {"model.onnx": made.SerializeToString(), "names.json": json.dumps([*expected]).encode()}
    done = runtime.run(ONE_BY_ONE, feeds, files)
    assert sorted(done.arrays) == sorted(expected)
    for layer, value in expected.items():
        assert_close(done.arrays[layer], value, layer)
    assert [(row["name"], row["type"], row["exposed"]) for row in done.value] == [
        (layer.name, layer.type, layer.exposed) for layer in model.layers
    ]
    assert [(row["shape"], row["dtype"], row["parameters"]) for row in done.value] == [
        (list(layer.shape), layer.dtype, layer.parameters) for layer in model.layers
    ]
    assert [row["inbound"] for row in done.value] == [list(x.inbound) for x in model.layers]
