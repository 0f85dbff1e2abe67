"""What the client computes beside plain layers: reductions, gradients, maps, resumed runs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
from generators import tiny, transformers
from javascript_runtime import Done, Runtime, assert_close
from layertap.cam.heat_maps import heat_maps
from layertap_export.api.add_gradients import add_gradients

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


def batch(variant: str) -> Any:
    x = images()
    first = VARIANTS[variant].get("channels_first")
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if first else x


def run_all(runtime: Runtime, code: str) -> tuple[Done, dict[str, layertap.Model]]:
    """Run a program for each variant in turn, with `model`, `x` and `variant`."""
    made = {name: tiny.differentiable(**more) for name, more in VARIANTS.items()}
    data = {f"{name}.onnx": one.SerializeToString() for name, one in made.items()}
    start = """
    const about = {}
    for (const variant of names) {
      const model = await layertap.open(ort, await read(`${variant}.onnx`))
      const x = await given(variant)
    """
    end = "await model.release()\n}\nreturn about"
    arrays = {name: batch(name) for name in VARIANTS}
    models = {name: layertap.open(data[f"{name}.onnx"]) for name in VARIANTS}
    return runtime.run(start + code + end, arrays, data), models


GRADIENTS = """
for (const target of [0, -1, "top", [2, "top"], new Float32Array([0.5, -1, 2])]) {
  const found = await model.gradients(x, undefined, { target })
  const key = ArrayBuffer.isView(target) ? "mix" : target
  for (const [name, gradient] of Object.entries(found)) keep(`${variant}/${key}/${name}`, gradient)
}
keep(`${variant}/one`, await model.gradients(x, "last", { target: 1 }))
"""


def test_gradients_are_those_of_the_python_runtime(runtime: Runtime) -> None:
    done, models = run_all(runtime, GRADIENTS)
    mix = np.array([0.5, -1, 2], np.float32)
    targets: dict[str, Any] = {"0": 0, "-1": -1, "top": "top", "2,top": [2, "top"], "mix": mix}
    for variant, model in models.items():
        x = batch(variant)
        for key, target in targets.items():
            for name, expected in model.gradients(x, target=target).items():
                value = done.arrays[f"{variant}/{key}/{name}"]
                if runtime.name == "node" and key != "2,top":
                    np.testing.assert_array_equal(value, expected, f"{variant} {key} {name}")
                assert_close(value, expected, f"{variant} {key} {name}")
        assert_close(done.arrays[f"{variant}/one"], model.gradients(x, "last", 1), variant)


METHODS = (
    *("gradcam", "Grad-CAM++", "xgradcam", "layercam", "hirescam", "elementwise"),
    *("eigencam", "eigen_gradcam"),
)

MAPS = """
for (const method of METHODS)
  for (const [key, options] of Object.entries({
    plain: {},
    raw: { normalize: false, resize: false },
    two: { target: [1, "top"], resize: [5, 9] },
  })) {
    const layer = method === "eigencam" ? "conv" : undefined
    const { data, dims, ...rest } = await model.cam(x, layer, { method, ...options })
    keep(`${variant}/${method}/${key}`, { data, dims })
    about[`${variant}/${method}/${key}`] = rest
  }
"""


def test_heat_maps_are_those_of_the_python_runtime(runtime: Runtime) -> None:
    done, models = run_all(runtime, MAPS.replace("METHODS", json.dumps(METHODS)))
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "raw": {"normalize": False, "resize": False},
        "two": {"target": [1, "top"], "resize": (5, 9)},
    }
    for variant, method, key in itertools.product(models, METHODS, options):
        layer = "conv" if method == "eigencam" else None
        more = {k: v for k, v in options[key].items() if k != "target" or layer is None}
        expected = heat_maps(models[variant], batch(variant), layer, method=method, **more)
        where = f"{variant}/{method}/{key}"
        found, about = done.arrays[where], done.value[where]
        # The map of EigenCAM is the same for every target.
        assert_close(found[:, : expected.maps.shape[1]], expected.maps, where, 1e-5)
        assert about["layer"] == expected.layer
        assert about["method"] == expected.method
        if layer is None:
            assert expected.classes is not None
            assert about["classes"] == expected.classes.tolist()
            np.testing.assert_allclose(about["scores"], expected.scores, rtol=1e-5)


SCORES = """
const about = {}
for (const name of names) {
  const model = await layertap.open(ort, await read(`${name}.onnx`))
  const x = await given(name)
  const targets = name === "last" ? [2, "top"] : ["top"]
  if (name === "probs1") targets.push("dog")
  for (const target of targets) {
    keep(`${name}/${target}/gradients`, await model.gradients(x, "conv", { target }))
    const { classes, scores, data, dims } = await model.cam(x, "conv", { target })
    keep(`${name}/${target}/cam`, { data, dims })
    about[`${name}/${target}`] = { classes, scores }
  }
  about[name] = await model.gradients(x, "conv", { target: "cat" }).catch(String)
  await model.release()
}
return about
"""


def test_a_layer_or_a_channel_is_the_score(runtime: Runtime, tmp_path: Path) -> None:
    """The names of the model's classes are not those of a layer's channels."""
    source = tmp_path / "source.onnx"
    source.write_bytes(tiny.differentiable().SerializeToString())
    made = {}
    for name, score in (("last", "last"), ("last2", "last:2"), ("probs1", "probs:1")):
        add_gradients(source, tmp_path / f"{name}.onnx", ["conv"], score=score, seconds=0)
        made[f"{name}.onnx"] = (tmp_path / f"{name}.onnx").read_bytes()
    arrays = {name.removesuffix(".onnx"): tiny.images() for name in made}
    done = runtime.run(SCORES, arrays, made)
    for name, data in made.items():
        model, name = layertap.open(data), name.removesuffix(".onnx")
        wanted: dict[str, list[Any]] = {"last": [2, "top"], "probs1": ["top", "dog"]}
        for target in wanted.get(name, ["top"]):
            expected = heat_maps(model, tiny.images(), "conv", [target])
            key = f"{name}/{target}"
            found = done.arrays[f"{key}/gradients"]
            assert_close(found, model.gradients(tiny.images(), "conv", target), key)
            assert_close(done.arrays[f"{key}/cam"], expected.maps, key)
            assert expected.classes is not None
            assert done.value[key]["classes"] == expected.classes.tolist()
            np.testing.assert_allclose(done.value[key]["scores"], expected.scores, rtol=1e-4)
        with pytest.raises(layertap.UsageError) as caught:
            model.gradients(tiny.images(), "conv", "cat")
        assert str(caught.value) in done.value[name]


REDUCTIONS = """
for (const opset of names) {
  const model = await layertap.open(ort, await read(`${opset}.onnx`))
  const x = await given(opset)
  for (const how of ["mean", "max", "mean_l2", "flatten", "top2", null]) {
    const found = await model.activations(x, { "re:conv|relu|drop|pool": how })
    for (const [name, value] of Object.entries(found))
      for (const [part, tensor] of Object.entries(value.channels ? value : { whole: value }))
        keep(`${opset}/${how}/${name}/${part}`, tensor)
  }
}
"""


def test_reductions_are_those_of_the_python_runtime(runtime: Runtime) -> None:
    files, x = {}, tiny.images(2)
    for version in (18, 13, 9):
        made = tiny.image_classifier()
        made.opset_import[0].version = version
        files[f"{version}.onnx"] = made.SerializeToString()
    arrays = {name.removesuffix(".onnx"): x for name in files}
    found = runtime.run(REDUCTIONS, arrays, files).arrays
    for opset in arrays:
        model = layertap.open(files[f"{opset}.onnx"])
        for how in ("mean", "max", "mean_l2", "flatten", "top2", None):
            expected: dict[str, Any] = model.activations(x, {"re:conv|relu|drop|pool": how})
            for name, value in expected.items():
                key = f"{opset}/{'null' if how is None else how}/{name}"
                if how == "top2":
                    np.testing.assert_array_equal(found[f"{key}/channels"], value.channels)
                    assert_close(found[f"{key}/values"], value.values, key)
                else:
                    assert_close(found[f"{key}/whole"], value, key)


RESUME = """
const model = await layertap.open(ort, await read("model.onnx"))
for (const [i, { given: starts, layers }] of (await json("cases.json")).entries()) {
  const values = {}
  for (const name of starts) values[name] = await given(name)
  const found = await model.resume(values, layers ?? undefined)
  const named = layers ? found : { probs: found }
  for (const [name, value] of Object.entries(named)) keep(`${i}/${name}`, value)
}
"""
RESUMED: tuple[tuple[list[str], list[str] | None], ...] = (
    (["relu"], None),
    (["relu"], ["pool", "probs", "relu"]),
    (["conv"], ["relu", "drop", "probs"]),
    (["drop"], ["pool"]),
    (["pool"], ["probs"]),
    (["image"], ["conv", "image"]),
)


def test_a_resumed_run_is_that_of_the_python_runtime(runtime: Runtime) -> None:
    data, x = tiny.image_classifier().SerializeToString(), tiny.images(2)
    model = layertap.open(data)
    names = {name for given, _ in RESUMED for name in given}
    values = {name: np.ascontiguousarray(model.activations(x, name)) / 2 for name in names}
    cases = json.dumps([{"given": given, "layers": layers} for given, layers in RESUMED]).encode()
    found = runtime.run(RESUME, values, {"model.onnx": data, "cases.json": cases}).arrays
    for at, (given, layers) in enumerate(RESUMED):
        expected = model.resume({name: values[name] for name in given}, layers)
        for name, value in (expected if layers else {"probs": expected}).items():
            assert_close(found[f"{at}/{name}"], value, f"{at}/{name}")


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
const plain = { data: pixels.data, dims: [1, h, w, c] }
const clamped = { data: new Uint8ClampedArray(pixels.data), dims: [1, h, w, c] }
const deep = { data: Uint16Array.from(pixels.data, (one) => one * 257), dims: [1, h, w, c] }
const images = { png, raw, url: new Blob([png]), batch, plain, clamped, deep }
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
    for name in ("png", "raw", "url", "batch", "plain", "clamped", "deep"):
        assert_close(done.arrays[f"image/{name}"], expected)
    assert_close(done.arrays["image/two"], np.repeat(expected, 2, axis=0))
    assert model.preprocessing is not None
    np.testing.assert_array_equal(done.arrays["prepared"][0], model.preprocessing(pixels))
    order = np.argsort(-expected[0])
    assert [one["index"] for one in done.value["tops"][1]] == order.tolist()
    assert done.value["top"][0]["label"] == ("cat", "dog")[order[0]]
    assert done.value["labels"] == ["cat", "dog"]
    assert done.value["one"] == [8, 6]


PIXELS = """
const { data, dims } = await given("pixels")
for (const file of names.slice(1)) {
  const model = await layertap.open(ort, await read(`${file}.onnx`))
  const { data, dims } = await given(file)
  const forms = { plain: { data, dims }, tensor: new ort.Tensor("uint8", data, dims) }
  for (const [form, value] of Object.entries(forms))
    keep(`${file}/${form}`, await model.activations(value, "conv"))
}
const model = await layertap.open(ort, await read("last.onnx"))
const wide = { data: Int32Array.from(data), dims }
return refused(() => model.predict(wide))
"""


def test_a_batch_of_integers_is_pixels(runtime: Runtime) -> None:
    """In the order of axes that the file has; without a recipe they are numbers."""
    recipe = {"size": [8, 6], "interpolation": "nearest", "scaling": {"mode": "tf"}}
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3), dtype=np.uint8)
    first = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    arrays, files = {"pixels": pixels}, {}
    for name, given in (("last", pixels), ("first", first), ("without", pixels)):
        turned = name == "first"
        made = tiny.differentiable(channels_first=turned, states_axes=turned)
        (prop,) = (item for item in made.metadata_props if item.key == "layertap")
        own = {"preprocessing": None if name == "without" else recipe}
        prop.value = json.dumps({**json.loads(prop.value), **own})
        files[f"{name}.onnx"] = made.SerializeToString()
        arrays[name] = given
    done = runtime.run(PIXELS, arrays, files)
    for name, given in list(arrays.items())[1:]:
        expected = layertap.open(files[f"{name}.onnx"]).activations(given, "conv")
        for form in ("plain", "tensor"):
            assert_close(done.arrays[f"{name}/{form}"], expected, f"{name} {form}")
    assert done.value["name"] == "ImageError"
    assert "got an Int32Array of 144" in done.value["message"]


TOKENS = (
    OPEN
    + """
const layers = {}
for (const method of ["gradcam", "layercam", "eigencam"])
  for (const layer of ["last-conv", "0/norm1"]) {
    const found = await model.cam(x, layer, { method, target: 1 })
    keep(`${method}/${layer}`, found)
    layers[`${method}/${layer}`] = found.layer
  }
return layers
"""
)


def test_tokens_are_folded_as_in_the_python_runtime(runtime: Runtime, tmp_path: Path) -> None:
    made = transformers.vision_transformer(first=2, after=1)
    file = transformers.with_gradients(made, tmp_path, ["0/norm1", "1/norm1"])
    model = layertap.open(file)
    x = np.random.default_rng(2).random((2, 6, 8, 3)).astype(np.float32)
    done = runtime.run(TOKENS, {"x": x}, {"model.onnx": file.read_bytes()})
    for key, layer in done.value.items():
        method, asked = key.split("/", 1)
        assert layer == ("1/norm1" if asked == "last-conv" else asked)
        target = {} if method == "eigencam" else {"target": 1}
        expected = heat_maps(model, x, layer, method=method, **target).maps  # type: ignore[arg-type]
        assert_close(done.arrays[key], expected, key)
