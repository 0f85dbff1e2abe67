"""Weights in a second file, and images that are no PNG files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from PIL import Image

import layertap
import layertap_export
from generators import tiny
from javascript_runtime import Runtime, assert_close

OUTSIDE = """
const model = await layertap.open(ort, await json("where.json"))
keep("a", await model.activations(await given("x"), "a"))
keep("c", await model.predict(await given("x")))
"""


def outside(location: str = "weights.data", **more: int) -> tuple[bytes, bytes]:
    """`tiny.linear_chain` with its weights in another file, and that file."""
    made = tiny.linear_chain()
    data = b""
    for at, item in enumerate(made.graph.initializer):
        raw = numpy_helper.to_array(item).tobytes()
        item.ClearField("raw_data")
        item.data_location = TensorProto.EXTERNAL
        data += b"\xff" * (at * 7)
        entries = {"location": location, "offset": len(data), "length": len(raw), **more}
        for key, value in entries.items():
            item.external_data.add(key=key, value=str(value))
        data += raw
    return made.SerializeToString(), data


def where(runtime: Runtime, name: str) -> bytes:
    """The address of a file of the next program."""
    place = runtime.place()
    return f'"{place}/{name}"'.encode()


def test_weights_in_a_second_file_are_read(runtime: Runtime) -> None:
    x = np.ones((2, 4), np.float32)
    model, data = outside()
    files = {"model.onnx": model, "weights.data": data, "where.json": where(runtime, "model.onnx")}
    found = runtime.run(OUTSIDE, {"x": x}, files).arrays
    whole = layertap.open(tiny.linear_chain().SerializeToString())
    assert_close(found["a"], whole.activations(x, "a"))
    assert_close(found["c"], whole.predict(x))


@pytest.mark.parametrize(
    ("location", "more", "message"),
    [
        ("../weights.data", {}, "is not a file in the model's folder"),
        ("/etc/passwd", {}, "is not a file in the model's folder"),
        ("http://example.com/x", {}, "is not a file in the model's folder"),
        ("missing.data", {}, "cannot be read"),
        ("weights.data", {"offset": 10**6}, "cannot be read"),
    ],
)
def test_weights_that_cannot_be_read_are_one_error(
    location: str, more: dict[str, int], message: str, runtime: Runtime
) -> None:
    model, data = outside(location, **more)
    files = {"model.onnx": model, "weights.data": data, "where.json": where(runtime, "model.onnx")}
    code = """
    const model = await layertap.open(ort, await json("where.json"))
    return refused(() => model.predict(new Float32Array(4)))
    """
    error = runtime.run(code, files=files).value
    assert error["name"] == "ModelFileError"
    assert message in error["message"]


@pytest.mark.parametrize("place", ["attribute", "subgraph", "sparse"])
def test_a_reference_anywhere_else_is_refused(place: str, node: Runtime) -> None:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "t")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    made = tiny.residual()
    if place == "attribute":
        made.graph.node.append(onnx.helper.make_node("Constant", [], ["t"], value=tensor))
    elif place == "subgraph":
        made = tiny.branching()
        found = next(item for item in made.graph.node if item.op_type == "If")
        found.attribute[0].g.initializer.append(tensor)
    else:
        made = tiny.sparse()
        made.graph.sparse_initializer[0].values.CopyFrom(tensor)
    code = 'return refused(async () => layertap.open(ort, await read("model.onnx")))'
    error = node.run(code, files={"model.onnx": made.SerializeToString()}).value
    assert error["name"] == "ModelFileError"
    assert "it refers to data in another file" in error["message"]


def test_a_finished_file_takes_pixels(runtime: Runtime, tmp_path: Path) -> None:
    """As a canvas gives them, RGBA, for a class and for the best one."""
    source, target = tiny.save(tiny.differentiable(), tmp_path / "a.onnx"), tmp_path / "app.onnx"
    layertap_export.finish(source, target, heat_map=True, top=2)
    pixels = np.random.default_rng(0).integers(0, 256, (21, 34, 4), dtype=np.uint8)
    code = """
    const app = await layertap.open(ort, await read("app.onnx"))
    const { data, dims } = await given("pixels")
    for (const target of [-1, 2]) {
      const image = { data: new Uint8ClampedArray(data), dims }
      const found = await app.predict({ image, target: [target] })
      for (const [name, value] of Object.entries(found)) keep(`${target}/${name}`, value)
    }
    return (await app.check()).passed
    """
    done = runtime.run(code, {"pixels": pixels}, {"app.onnx": target.read_bytes()})
    assert done.value
    model = layertap.open(target)
    for number in (-1, 2):
        expected = model.predict({"image": pixels, "target": np.array([number])})
        assert {"probs", "top_classes", "heat_map"} <= expected.keys()
        for name, value in expected.items():
            assert_close(done.arrays[f"{number}/{name}"], value, name, 1e-5)


def photo() -> Image.Image:
    """A smooth image, which lossy formats keep well, that shows how it is turned."""
    y, x = np.mgrid[:40, :60]
    return Image.fromarray(np.stack([x * 4, y * 6, (x + y) * 2], axis=-1).astype(np.uint8))


def saved(kind: str, image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    return exif


def test_a_browser_reads_other_formats_as_they_are_stored(chromium: Runtime) -> None:
    images = {
        "bmp": saved("BMP", photo()),
        "gif": saved("GIF", photo().quantize(64)),
        "webp": saved("WEBP", photo(), lossless=True),
        "jpeg": saved("JPEG", photo(), quality=95, subsampling=0),
        "grey": saved("JPEG", photo().convert("L"), quality=95),
        "turned": saved("JPEG", photo(), quality=95, subsampling=0, exif=turned()),
        "turned_webp": saved("WEBP", photo(), lossless=True, exif=turned()),
    }
    code = """
    for (const name of await json("names.json"))
      keep(name, await layertap.prepare({}, await read(name)).then((one) =>
        ({ data: one.data, dims: [one.height, one.width, one.channels] })))
    """
    listed = json.dumps([*images]).encode()
    found = chromium.run(code, files={**images, "names.json": listed}).arrays
    for name, data in images.items():
        expected = layertap.Preprocessing()(data)
        assert found[name].shape == expected.shape, name
        apart = np.abs(found[name] - expected)
        assert apart.max() <= (2 if name in ("jpeg", "grey", "turned") else 0), name


def test_node_says_that_it_reads_png_only(node: Runtime) -> None:
    code = 'return refused(async () => layertap.prepare({}, await read("image.jpg")))'
    error = node.run(code, files={"image.jpg": saved("JPEG", photo())}).value
    assert error["name"] == "ImageError"
    assert "not a PNG file" in error["message"]


def test_files_are_opened_by_path(node: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "a model.onnx"
    path.write_bytes(tiny.linear_chain().SerializeToString())
    code = f"""
    const path = {str(path)!r}
    const {{ pathToFileURL }} = await import("node:url")
    for (const source of [path, pathToFileURL(path)])
      await layertap.open(ort, source)
    return refused(() => layertap.open(ort, path + ".missing"))
    """
    error = node.run(code).value
    assert error["name"] == "ModelFileError"
    assert "cannot be read" in error["message"]
