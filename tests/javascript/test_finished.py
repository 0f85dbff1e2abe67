"""Finished files: pictures in every form, the best classes, and heat maps."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import layertap
import layertap_export
from generators import tiny
from javascript_runtime import Runtime, assert_close
from layertap.cam.heat_maps import heat_maps

RECIPE = {"size": [8, 6], "interpolation": "bilinear", "scaling": {"mode": "tf"}}


def finished(
    folder: Path, recipe: Any = RECIPE, make: Any = tiny.differentiable, **options: Any
) -> bytes:
    made = make()
    (prop,) = (item for item in made.metadata_props if item.key == "layertap")
    prop.value = json.dumps({**json.loads(prop.value), "preprocessing": recipe})
    source, target = tiny.save(made, folder / "a.onnx"), folder / "app.onnx"
    layertap_export.finish(source, target, **options)
    return target.read_bytes()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """For one picture, with a heat map of the chosen class."""
    return finished(tmp_path_factory.mktemp("app"), heat_map=True, top=2)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """For several pictures, with another method."""
    folder = tmp_path_factory.mktemp("several")
    return finished(folder, heat_map="relu", method="kpcacam", batch=True)


def noise(mode: str, size: tuple[int, int] = (13, 9)) -> Image.Image:
    pixels = np.random.default_rng(len(mode)).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def saved(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


FORMS = """
const app = await layertap.open(ort, await read("app.onnx"))
const png = await read("RGB.png")
const { data, dims } = await given("pixels")
const [height, width] = dims
const forms = {
  bytes: png, blob: new Blob([png]), list: [png], named: { image: png },
  raw: { data, width, height },
  tensor: { data, dims }, batch: { data, dims: [1, ...dims] }, both: { image: png, target: [-1] },
  uint8: new ort.Tensor("uint8", data, dims), numbers: { data: [...data], dims },
}
if (globalThis.createImageBitmap) {
  const rgba = new Uint8ClampedArray(width * height * 4)
  rgba.forEach((_, i) => (rgba[i] = i % 4 < 3 ? data[(i >> 2) * 3 + i % 4] : 255))
  forms.imageData = new ImageData(rgba, width, height)
  forms.bitmap = await createImageBitmap(forms.imageData)
  forms.canvas = new OffscreenCanvas(width, height)
  forms.canvas.getContext("2d").putImageData(forms.imageData, 0, 0)
}
for (const [form, value] of Object.entries(forms)) {
  keep(`${form}/probs`, (await app.predict(value)).probs)
  keep(`${form}/relu`, await app.activations(value, "probs"))
  keep(`${form}/map`, await app.cam(value))
}
for (const name of await json("names.json"))
  for (const [output, value] of Object.entries(await app.predict(await read(`${name}.png`))))
    keep(`${name}/${output}`, value)
return [await app.top(png, 2), Object.keys(forms)]
"""


def test_pictures_in_every_form(runtime: Runtime, app: bytes) -> None:
    images = {mode: noise(mode) for mode in ("RGB", "L", "LA", "RGBA", "P", "1")}
    files = {f"{name}.png": saved(image) for name, image in images.items()}
    names = json.dumps([*images]).encode()
    pixels = np.asarray(images["RGB"])
    done = runtime.run(FORMS, {"pixels": pixels}, {**files, "app.onnx": app, "names.json": names})
    model = layertap.open(app)
    expected: Any = model.predict(images["RGB"])
    top, forms = done.value
    assert len(forms) == (10 if runtime.name == "node" else 13)
    for form in forms:
        assert_close(done.arrays[f"{form}/probs"], expected["probs"], form)
        assert_close(done.arrays[f"{form}/map"], expected["heat_map"], form, 1e-5)
    for name, image in images.items():
        own: Any = model.predict(files[f"{name}.png"])
        np.testing.assert_array_equal(own["probs"], model.predict(image)["probs"])
        for output, value in own.items():
            assert_close(done.arrays[f"{name}/{output}"], value, f"{name} {output}", 1e-5)
    order = np.argsort(-expected["probs"][0])[:2]
    assert [one["index"] for one in top] == order.tolist()
    assert [one["label"] for one in top] == [("cat", "dog", "bird")[index] for index in order]


MAPS = """
const about = {}
const [one, two] = [await read("0.png"), await read("1.png")]
for (const [file, x] of [["app", one], ["several", [one, two]]]) {
  const app = await layertap.open(ort, await read(`${file}.onnx`))
  for (const [key, options] of Object.entries(await json(`${file}.json`))) {
    const { data, dims, ...rest } = await app.cam(x, undefined, options)
    keep(`${file}/${key}`, { data, dims })
    about[`${file}/${key}`] = rest
  }
}
return about
"""


def test_heat_maps_are_those_of_the_python_runtime(
    runtime: Runtime, app: bytes, several: bytes
) -> None:
    options: dict[str, dict[str, dict[str, Any]]] = {
        "app": {
            "plain": {},
            "method": {"method": "Grad-CAM"},
            "one": {"target": "dog"},
            "two": {"target": [2, "top"], "resize": [5, 4]},
        },
        "several": {"plain": {}, "method": {"method": "kpcacam", "resize": [3, 3]}},
    }
    images = [noise("RGB"), noise("RGB").rotate(180)]
    files = {f"{i}.png": saved(image) for i, image in enumerate(images)}
    files |= {"app.onnx": app, "several.onnx": several}
    files |= {f"{name}.json": json.dumps(one).encode() for name, one in options.items()}
    done = runtime.run(MAPS, files=files)
    for name, given in options.items():
        model = layertap.open(files[f"{name}.onnx"])
        for key, chosen in given.items():
            where = f"{name}/{key}"
            expected = heat_maps(model, images[:1] if name == "app" else images, **chosen)
            found = done.arrays[where]
            assert (found.ndim == 2) == (where in ("app/plain", "app/method", "app/one"))
            assert_close(found.reshape(expected.maps.shape), expected.maps, where, 1e-5)
            about = done.value[where]
            assert (about["layer"], about["method"]) == (expected.layer, expected.method)
            assert expected.classes is not None
            assert about["classes"] == expected.classes.tolist()
            np.testing.assert_allclose(about["scores"], expected.scores, rtol=1e-5)


REFUSED = {
    "a layer": ("app.cam(png, 'conv')", "LayerNotFoundError", "map of 'last', got layer 'conv'"),
    "a method": ("app.cam(png, null, { method: 'layercam' })", "UsageError", "gradcam, got 'lay"),
    "raw values": ("app.cam(png, null, { normalize: false })", "UsageError", "normalize: false"),
    "the layer's size": ("app.cam(png, null, { resize: false })", "UsageError", "resize: false"),
    "one size": ("app.cam(png, null, { resize: [3] })", "UsageError", "true, false or 2 sizes"),
    "weights": (
        "app.cam(png, null, { target: new Float32Array(3) })", "UsageError", "map of one class",
    ),
    "a class": ("app.cam(png, null, { target: 'cow' })", "UsageError", "no class is called 'cow'"),
    "a recipe": ("app.predict(png, { preprocess: {} })", "UsageError", "takes no preprocessing"),
    "a batch": ("app.prepare(png)", "UsageError", "prepares pictures itself"),
    "two pictures": ("app.predict([png, png])", "InputError", "takes one picture, (height, width"),
    "two as an array": (
        "app.predict({ data: new Uint8Array(54), dims: [2, 3, 3, 3] })", "InputError", "got 2. Giv",
    ),
    "two sizes": ("several.predict([png, other])", "InputError", "must have one size, got (9, 13,"),
    "pixels over 255": (
        "app.predict({ data: [256, 1, 2], dims: [1, 1, 3] })", "InputError", "integers (uint8)",
    ),
    "grey of 16 bits": ("grey.predict(deep)", "InputError", "from 0 to 255, got 65535"),
    "gradients": ("app.gradients(png)", "ModelFileError", "has no gradients"),
    "a map": ("grey.cam(png)", "UsageError", "a finished file without a heat map"),
    "another input": ("app.predict({ img: png })", "InputError", "no input 'img'; it has 'image'"),
    "text": ("app.predict(new TextEncoder().encode('no'))", "ImageError", ""),
}  # fmt: skip


def test_what_a_finished_file_cannot_do_is_one_clear_error(
    runtime: Runtime, app: bytes, several: bytes, tmp_path: Path
) -> None:
    deep = Image.fromarray(np.full((4, 4), 65535, np.uint16))
    files = {"app.onnx": app, "several.onnx": several, "a.png": saved(noise("RGB"))}
    files |= {"b.png": saved(noise("RGB", (3, 4))), "deep.png": saved(deep)}
    recipe = {"size": [8, 8], "color_mode": "grayscale", "depth": "clip"}
    files["grey.onnx"] = finished(tmp_path, recipe, tiny.digits)
    start = "".join(
        f"const {name} = await read('{file}.png')\n"
        for name, file in (("png", "a"), ("other", "b"), ("deep", "deep"))
    )
    start += "".join(
        f"const {name} = await layertap.open(ort, await read('{name}.onnx'))\n"
        for name in ("app", "several", "grey")
    )
    cases = ",".join(f"{json.dumps(key)}: () => {code}" for key, (code, _, _) in REFUSED.items())
    code = f"""{start}
    const found = {{}}
    for (const [name, action] of Object.entries({{ {cases} }}))
      found[name] = await refused(async () => action())
    return found
    """
    found = runtime.run(code.replace("null,", "undefined,"), files=files).value
    for name, (_, kind, text) in REFUSED.items():
        assert found[name], name
        assert (found[name]["name"], found[name]["own"]) == (kind, True), found[name]
        assert text in found[name]["message"], found[name]
