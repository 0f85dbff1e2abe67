"""Layers that the client for JavaScript reads are those that the Python runtime reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
from generators import tiny
from javascript_runtime import Runtime, assert_close
from layertap.format.table import as_rows

ONE_BY_ONE = """
const tables = {}
for (const [file, { inputs, layers }] of Object.entries(await json("asked.json"))) {
  const model = await layertap.open(ort, await read(file))
  const feeds = {}
  for (const [name, array] of Object.entries(inputs)) feeds[name] = await given(array)
  for (const layer of layers) keep(`${file}/${layer}`, await model.activations(feeds, layer))
  tables[file] = model.layers.map(({ tensor, per_sample, ...row }) => {
    return { ...row, exposed: tensor !== null }
  })
  await model.release()
}
return tables
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


def test_every_layer_cut_one_by_one_is_that_of_the_python_runtime(runtime: Runtime) -> None:
    files: dict[str, bytes] = {}
    arrays: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    opened: dict[str, layertap.Model] = {}
    for name, make in MODELS.items():
        made = make()
        files[name] = made.SerializeToString()
        opened[name] = model = layertap.open(files[name])
        feeds = tiny.feeds(made)
        arrays |= {f"{name}/{key}": value for key, value in feeds.items()}
        # onnxruntime for JavaScript knows no sequences.
        values = {layer.name: model.activations(feeds, layer.name) for layer in model.select()}
        values = {key: value for key, value in values.items() if isinstance(value, np.ndarray)}
        expected |= {f"{name}/{key}": value for key, value in values.items()}
        asked[name] = {"inputs": {key: f"{name}/{key}" for key in feeds}, "layers": [*values]}
    done = runtime.run(ONE_BY_ONE, arrays, {**files, "asked.json": json.dumps(asked).encode()})
    assert done.arrays.keys() == expected.keys()
    assert len(expected) > 80
    for key, value in expected.items():
        assert_close(done.arrays[key], value, key)
    for name, model in opened.items():
        rows = [{k: v for k, v in row.items() if v is not None} for row in done.value[name]]
        assert rows == as_rows(model.layers), name


GROUP = 30
"""Layers that are read in one program: those of the chest model together take 600 MB."""


@pytest.mark.slow
@pytest.mark.tensorflow
def test_every_layer_of_the_chest_model(chest_file: Path, runtime: Runtime) -> None:
    model = layertap.open(chest_file)
    x = np.random.default_rng(0).uniform(-2, 1.5, (1, 320, 320, 3)).astype(np.float32)
    names = [layer.name for layer in model.select()]
    assert len(names) > 400
    for at in range(0, len(names), GROUP):
        group = names[at : at + GROUP]
        asked = {"model": {"inputs": {"input_layer": "x"}, "layers": group}}
        files = {"model": chest_file.read_bytes(), "asked.json": json.dumps(asked).encode()}
        found = runtime.run(ONE_BY_ONE, {"x": x}, files).arrays
        for name in group:
            assert_close(found[f"model/{name}"], model.activations(x, name), name)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_class_gradients_of_the_chest_model_are_bit_identical(
    chest_file: Path, node: Runtime
) -> None:
    model = layertap.open(chest_file)
    x = np.random.default_rng(0).uniform(-2, 1.5, (1, 320, 320, 3)).astype(np.float32)
    code = """
    const model = await layertap.open(ort, await read("model"))
    const x = await given("x")
    for (const target of [0, 3, 13]) {
      const found = await model.gradients(x, undefined, { target })
      for (const [name, gradient] of Object.entries(found)) keep(`${target}/${name}`, gradient)
    }
    """
    found = node.run(code, {"x": x}, {"model": chest_file.read_bytes()}).arrays
    assert found
    for key, value in found.items():
        target, _, name = key.partition("/")
        np.testing.assert_array_equal(value, model.gradients(x, name, int(target)), key)
