"""What the client computes beside plain layers: reductions, gradients, maps, resumed runs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import layertap
from generators import tiny
from javascript_runtime import Runtime, assert_close
from layertap.cam.heat_maps import heat_maps

OPEN = """
const model = await layertap.open(ort, await read("model.onnx"))
const x = await given("x")
"""


def images(n: int = 3) -> Any:
    return np.random.default_rng(5).random((n, 8, 6, 3)).astype(np.float32)


VARIANTS: dict[str, dict[str, Any]] = {
    "as_it_is": {},
    "softmax": {"final": "Softmax"},
    "one_row": {"broadcasts": False},
    "of_outputs": {"score": "output"},
    "channels_first": {"channels_first": True, "states_axes": True},
}


def files(**options: Any) -> dict[str, bytes]:
    return {"model.onnx": tiny.differentiable(**options).SerializeToString()}


GRADIENTS = (
    OPEN
    + """
for (const target of [0, -1, "top", [2, "top"], new Float32Array([0.5, -1, 2])]) {
  const found = await model.gradients(x, undefined, { target })
  const key = ArrayBuffer.isView(target) ? "mix" : target
  for (const [name, gradient] of Object.entries(found)) keep(`${key}/${name}`, gradient)
}
keep("one", await model.gradients(x, "last", { target: 1 }))
"""
)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_of_the_python_runtime(variant: str, runtime: Runtime) -> None:
    made, x = files(**VARIANTS[variant]), images()
    if VARIANTS[variant].get("channels_first"):
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    found = runtime.run(GRADIENTS, {"x": x}, made).arrays
    model = layertap.open(made["model.onnx"])
    mix = np.array([0.5, -1, 2], np.float32)
    targets: dict[str, Any] = {"0": 0, "-1": -1, "top": "top", "2,top": [2, "top"], "mix": mix}
    for key, target in targets.items():
        for name, expected in model.gradients(x, target=target).items():
            value = found[f"{key}/{name}"]
            assert value.shape == expected.shape
            if runtime.name == "node" and key != "2,top":
                np.testing.assert_array_equal(value, expected, (key, name))
            assert_close(value, expected, name)
    assert_close(found["one"], model.gradients(x, "last", 1))


MAPS = (
    OPEN
    + """
const about = {}
for (const method of await json("methods.json"))
  for (const [key, options] of Object.entries({
    plain: {},
    raw: { normalize: false, resize: false },
    two: { target: [1, "top"], resize: [5, 9] },
  })) {
    const layer = method === "eigencam" ? "conv" : undefined
    const { data, dims, ...rest } = await model.cam(x, layer, { method, ...options })
    keep(`${method}/${key}`, { data, dims })
    about[`${method}/${key}`] = rest
  }
return about
"""
)
METHODS = (
    *("gradcam", "Grad-CAM++", "xgradcam", "layercam", "hirescam", "elementwise"),
    *("eigencam", "eigen_gradcam"),
)


@pytest.mark.parametrize("variant", VARIANTS)
def test_heat_maps_are_those_of_the_python_runtime(variant: str, runtime: Runtime) -> None:
    made, x = files(**VARIANTS[variant]), images()
    if VARIANTS[variant].get("channels_first"):
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    made["methods.json"] = json.dumps(METHODS).encode()
    done = runtime.run(MAPS, {"x": x}, made)
    model = layertap.open(made["model.onnx"])
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "raw": {"normalize": False, "resize": False},
        "two": {"target": [1, "top"], "resize": (5, 9)},
    }
    for method in METHODS:
        for key, more in options.items():
            layer = "conv" if method == "eigencam" else None
            more = {k: v for k, v in more.items() if k != "target" or method != "eigencam"}
            expected = heat_maps(model, x, layer, method=method, **more)
            found, about = done.arrays[f"{method}/{key}"], done.value[f"{method}/{key}"]
            if method == "eigencam":
                found = found[:, :1]
            assert_close(found, expected.maps, method, 1e-5)
            assert about["layer"] == expected.layer
            assert about["method"] == expected.method
            if method != "eigencam":
                assert expected.classes is not None
                assert about["classes"] == expected.classes.tolist()
                np.testing.assert_allclose(about["scores"], expected.scores, rtol=1e-5)


REDUCTIONS = (
    OPEN
    + """
const hows = ["mean", "max", "mean_l2", "flatten", "top2", null]
for (const how of hows) {
  const found = await model.activations(x, { "re:conv|relu|drop|pool": how })
  for (const [name, value] of Object.entries(found)) {
    if (value.channels) {
      keep(`${how}/${name}/channels`, value.channels)
      keep(`${how}/${name}/values`, value.values)
    } else keep(`${how}/${name}`, value)
  }
}
"""
)


@pytest.mark.parametrize("opset", [18, 13, 9])
def test_reductions_are_those_of_the_python_runtime(opset: int, runtime: Runtime) -> None:
    made = tiny.image_classifier()
    made.opset_import[0].version = opset
    data, x = made.SerializeToString(), tiny.images(2)
    found = runtime.run(REDUCTIONS, {"x": x}, {"model.onnx": data}).arrays
    model = layertap.open(data)
    for how in ("mean", "max", "mean_l2", "flatten", "top2", None):
        reduced: dict[str, Any] = model.activations(x, {"re:conv|relu|drop|pool": how})
        for name, expected in reduced.items():
            if how == "top2":
                np.testing.assert_array_equal(found[f"{how}/{name}/channels"], expected.channels)
                assert_close(found[f"{how}/{name}/values"], expected.values)
            else:
                key = "null" if how is None else how
                assert_close(found[f"{key}/{name}"], expected)


RESUME = (
    OPEN
    + """
const named = {}
for (const name of names) if (name !== "x") named[name] = await given(name)
const layers = await json("layers.json")
const found = await model.resume(named, layers ?? undefined)
if (layers) for (const [name, value] of Object.entries(found)) keep(name, value)
else keep("probs", found)
"""
)


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        (["relu"], None),
        (["relu"], ["pool", "probs", "relu"]),
        (["conv"], ["relu", "drop", "probs"]),
        (["drop"], ["pool"]),
        (["pool"], ["probs"]),
        (["image"], ["conv", "image"]),
    ],
)
def test_a_resumed_run_is_that_of_the_python_runtime(
    given: list[str], layers: list[str] | None, runtime: Runtime
) -> None:
    data, x = tiny.image_classifier().SerializeToString(), tiny.images(2)
    model = layertap.open(data)
    values = {name: np.ascontiguousarray(model.activations(x, name)) / 2 for name in given}
    made = {"model.onnx": data, "layers.json": json.dumps(layers).encode()}
    found = runtime.run(RESUME, {"x": x, **values}, made).arrays
    expected = model.resume(values, layers)
    if layers is None:
        expected = {"probs": expected}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value)


INPUTS = (
    OPEN
    + """
const flat = x.data
const forms = {
  tensor: x,
  flat,
  plain: { data: [...flat], dims: x.dims },
  named: { image: x },
  list: [...flat],
  double: { data: Float64Array.from(flat), dims: x.dims },
}
for (const [name, form] of Object.entries(forms)) keep(name, await model.predict(form))
const png = await read("image.png")
const pixels = await given("pixels")
const [h, w, c] = pixels.dims
const raw = { data: pixels.data, width: w, height: h }
const batch = new ort.Tensor("uint8", pixels.data, [1, h, w, c])
const images = { png, raw, url: new Blob([png]), batch }
for (const [key, image] of Object.entries(images))
  keep(`image/${key}`, await model.predict(image))
keep("image/two", await model.predict([png, raw]))
keep("prepared", await model.prepare(png))
const { dims: one } = await model.cam(png, "conv", { method: "eigencam" })
const [top, tops] = [await model.top(png, 1), await model.top([png, raw], 2)]
return { top, tops, labels: model.labels, one }
"""
)


def test_inputs_in_every_form(runtime: Runtime) -> None:
    import io

    from PIL import Image

    data, x = tiny.image_classifier().SerializeToString(), tiny.images(2)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    made = {"model.onnx": data, "image.png": file.getvalue()}
    done = runtime.run(INPUTS, {"x": x, "pixels": pixels}, made)
    model = layertap.open(data)
    for name in ("tensor", "flat", "plain", "named", "list", "double"):
        assert_close(done.arrays[name], model.predict(x))
    expected = model.predict(pixels)
    for name in ("png", "raw", "url", "batch"):
        assert_close(done.arrays[f"image/{name}"], expected)
    assert_close(done.arrays["image/two"], np.repeat(expected, 2, axis=0))
    assert model.preprocessing is not None
    np.testing.assert_array_equal(done.arrays["prepared"][0], model.preprocessing(pixels))
    order = np.argsort(-expected[0])
    assert [one["index"] for one in done.value["tops"][1]] == order.tolist()
    assert done.value["top"][0]["label"] == ("cat", "dog")[order[0]]
    assert done.value["labels"] == ["cat", "dog"]
    assert done.value["one"] == [8, 6]
