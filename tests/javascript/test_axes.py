"""The axes of tensors in files that do not state them: inferred, as the Python runtime does it."""

from __future__ import annotations

import json
import random
import subprocess
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
from generators import tiny
from generators.tiny import constant, model, node, value, weights
from javascript_runtime import PACKAGE, Runtime, assert_close
from layertap.format import axes as python
from layertap.format.graph import read_graph


@pytest.fixture(scope="module")
def module(node: Runtime, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the module that infers them, which is no part of the public API."""
    folder = tmp_path_factory.mktemp("inference")
    (folder / "entry.ts").write_text(
        f'export {{ inferredAxes }} from "{PACKAGE}/src/inference.ts"\n'
        f'export {{ readGraph }} from "{PACKAGE}/src/graph.ts"\n',
        encoding="utf-8",
    )
    command = ["node_modules/.bin/esbuild", str(folder / "entry.ts"), "--bundle", "--format=esm"]
    command += [f"--outfile={folder / 'entry.mjs'}", "--log-level=warning"]
    subprocess.run(command, check=True, cwd=PACKAGE)
    return (folder / "entry.mjs").as_uri()


INFER = """
const { inferredAxes, readGraph } = await import(await json("module.json"))
const all = await read("all.bin")
let at = 0
return (await json("sizes.json")).map((size, i) => {
  const bytes = all.slice(at, (at += size))
  return [false, true].map((bySize) => Object.fromEntries(inferredAxes(readGraph(bytes), bySize)))
})
"""


def assert_same_axes(made: list[onnx.ModelProto], module: str, runtime: Runtime) -> int:
    """Compare all tensors of some files; returns how many have known axes."""
    data = [one.SerializeToString() for one in made]
    sizes = json.dumps([len(one) for one in data]).encode()
    files = {
        "all.bin": b"".join(data),
        "sizes.json": sizes,
        "module.json": json.dumps(module).encode(),
    }
    known = 0
    for one, both in zip(data, runtime.run(INFER, files=files).value, strict=True):
        for by_size, found in zip((False, True), both, strict=True):
            expected = python.infer_axes(one, read_graph(one), by_size=by_size)
            assert found == expected, onnx.printer.to_text(onnx.load_from_string(one))
            known += len(expected)
    return known


def test_every_tensor_of_the_tiny_models(module: str, node: Runtime) -> None:
    made = [make() for make in tiny.PLAIN]
    made += [tiny.digits(), tiny.channels_first(), tiny.frames(), tiny.two_inputs()]
    made += [tiny.image_classifier(), tiny.differentiable(), tiny.differentiable(final="Softmax")]
    assert assert_same_axes(made, module, node) > 100


KINDS = sorted({*python._RULES, *python._QUANTISED, "Shape", "NonZero", "DynamicSlice"})
"""Every operator that there is a rule for, and a few others."""


def random_graph(draw: random.Random) -> onnx.ModelProto:
    """Random nodes: valid ones rarely, but the rules read each in the same way."""
    names = ["x", "y", "w", "axes", "shape"]
    nodes = []

    def numbers(count: int, low: int = -2, high: int = 4) -> list[int]:
        return [draw.randint(low, high) for _ in range(count)]

    for at in range(draw.randint(1, 14)):
        kind = draw.choice(KINDS)
        reads = draw.choices(
            ["", *names], [1, *[3] * len(names)], k=draw.choice((1, 1, 2, 2, 3, 7))
        )
        writes = [f"t{at}", *(f"t{at}/{i}" for i in range(draw.choice((0, 0, 0, 1, 3))))]
        rank = draw.randint(1, 5)
        choices: dict[str, Any] = {
            "axis": draw.randint(-2, 3),
            "axes": numbers(draw.randint(0, 2)),
            "perm": draw.sample(range(rank), rank) if draw.random() < 0.9 else numbers(rank),
            "keepdims": draw.randint(0, 1),
            "noop_with_empty_axes": draw.randint(0, 1),
            "kernel_shape": [3] * draw.randint(1, 3),
            "layout": draw.randint(0, 1),
            "transA": draw.randint(0, 1),
            "allowzero": draw.randint(0, 1),
            "channels_last": draw.randint(0, 1),
            "equation": draw.choice(["abc,cd->abd", "nhwc,cd->nhwd", "ab,bc->ac", "...a->a", "ab"]),
        }
        attributes = {
            name: chosen for name, chosen in choices.items() if draw.random() < 0.4 and chosen != []
        }
        domain = draw.choice(["", "", "", "", "ai.onnx", "com.microsoft", "else.where"])
        made = onnx.helper.make_node(kind, reads, writes, domain=domain, **attributes)
        if draw.random() < 0.1:
            made = node("Constant", "", f"t{at}", value=constant("", numbers(draw.randint(1, 4))))
            made.input[:] = []
            writes = writes[:1]
        nodes.append(made)
        names += writes
    sizes = ["n", None, 1, 3, 5, 8, 12]

    def shape() -> list[Any] | None:
        return None if draw.random() < 0.2 else draw.choices(sizes, k=draw.randint(1, 5))

    known = [value(name, shape()) for name in draw.choices(names[5:], k=draw.randint(0, 3)) if name]
    made = model(
        nodes,
        [value("x", shape()), value("y", shape())],
        [value(nodes[-1].output[0], shape())],
        [
            weights("w", *draw.choices([1, 3, 5], k=draw.randint(1, 4))),
            constant("axes", numbers(draw.randint(1, 2))),
            constant("shape", numbers(draw.randint(1, 5), -1, 8)),
        ],
    )
    made.graph.value_info.extend(known)
    return made


@pytest.mark.parametrize("seed", range(2))
def test_every_tensor_of_random_graphs(seed: int, module: str, node: Runtime) -> None:
    draw = random.Random(seed)
    assert assert_same_axes([random_graph(draw) for _ in range(250)], module, node) > 600


# --- What depends on them ------------------------------------------------------------------------


def sequences() -> onnx.ModelProto:
    """A 1-D network of a file from elsewhere, with layers in both orders of axes."""
    nodes = [
        node("Transpose", "x", "first", perm=[0, 2, 1]),
        node("Conv", "first k", "conv", pads=[1, 1]),
        node("Relu", "conv", "relu"),
        node("Transpose", "relu", "last", perm=[0, 2, 1]),
        node("GlobalAveragePool", "relu", "gap"),
        node("Flatten", "gap", "flat"),
        node("Gemm", "flat d", "y"),
    ]
    shapes: dict[str, list[Any]] = {
        "first": ["n", 3, 9],
        "conv": ["n", 5, 9],
        "relu": ["n", 5, 9],
        "last": ["n", 9, 5],
    }
    made = model(
        nodes,
        [value("x", ["n", 9, 3])],
        [value("y", ["n", 4])],
        [weights("k", 5, 3, 3), weights("d", 5, 4)],
    )
    made.graph.value_info.extend(value(name, shape) for name, shape in shapes.items())
    return made


def without_axes(made: onnx.ModelProto) -> onnx.ModelProto:
    """A file as layertap wrote it before format 1.3."""
    (prop,) = (item for item in made.metadata_props if item.key == "layertap")
    card = json.loads(prop.value)
    for row in (*card["layers"], *card["inputs"], *card["outputs"]):
        row.pop("axes", None)
    prop.value = json.dumps({**card, "format": "1.2"})
    return made


MEASURE = """
for (const file of names) {
  const model = await layertap.open(ort, await read(`${file}.onnx`))
  const x = await given(file)
  const asked = await json(`${file}.json`)
  for (const [name, value] of Object.entries(await model.activations(x, asked)))
    for (const [part, tensor] of Object.entries(value.channels ? value : { whole: value }))
      keep(`${file}/${name}/${part}`, tensor)
  for (const layer of Object.keys(asked)) {
    const options = { method: "eigencam", resize: false }
    keep(`${file}/map/${layer}`, await model.cam(x, layer, options))
  }
}
"""


def test_files_that_do_not_state_axes(runtime: Runtime) -> None:
    """Reductions and heat maps of layers with the channels first, last, and without a space."""
    first = tiny.differentiable(channels_first=True, states_axes=True)
    made = {
        "sequences": (sequences(), ["conv", "relu", "last", "first"]),
        "channels_first": (without_axes(first), ["conv", "relu"]),
        "keras": (without_axes(tiny.image_classifier()), ["conv", "relu"]),
    }
    arrays, files = {}, {}
    for name, (one, layers) in made.items():
        (fed,) = tiny.feeds(one).values()
        arrays[name] = fed
        files[f"{name}.onnx"] = one.SerializeToString()
        files[f"{name}.json"] = json.dumps(dict.fromkeys(layers, "top2")).encode()
    found = runtime.run(MEASURE, arrays, files).arrays
    for name, (_, layers) in made.items():
        own = layertap.open(files[f"{name}.onnx"])
        tops: dict[str, Any] = own.activations(arrays[name], dict.fromkeys(layers, "top2"))
        for layer, expected in tops.items():
            np.testing.assert_array_equal(found[f"{name}/{layer}/channels"], expected.channels)
            assert_close(found[f"{name}/{layer}/values"], expected.values, layer)
        for layer in layers:
            maps = own.cam(arrays[name], layer, method="eigencam", resize=False)
            assert_close(
                found[f"{name}/map/{layer}"].reshape(maps.shape), maps, f"{name} {layer}", 1e-5
            )
