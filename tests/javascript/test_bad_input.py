"""Every bad input is one clear error, and no bytes of a file make the client fail otherwise."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from generators import tiny
from javascript_runtime import Runtime
from layertap.format.card import KEY, Card

ERRORS = """
const model = await layertap.open(ort, await read("model.onnx"))
const plain = await layertap.open(ort, await read("plain.onnx"))
const vector = await layertap.open(ort, await read("vector.onnx"))
const whole = await layertap.open(ort, await read("whole.onnx"))
const odd = await layertap.open(ort, await read("odd.onnx"))
const words = ["a", "b", "c"]
const png = await read("image.png")
const x = await given("x")
const cases = {
"""

CASES: dict[str, tuple[str, str, str]] = {
    "no onnxruntime": ("layertap.open({}, png)", "UsageError", "must be onnxruntime"),
    "an image as a model": ("layertap.open(ort, png)", "ModelFileError", "looks like an image"),
    "nothing": ("layertap.open(ort, new Uint8Array())", "ModelFileError", "an empty file"),
    "html": (
        "layertap.open(ort, new TextEncoder().encode('<!DOCTYPE html><p>'))",
        "ModelFileError",
        "an HTML page",
    ),
    "a missing file": (
        "layertap.open(ort, 'files/nothing.onnx')",
        "ModelFileError",
        "'files/nothing.onnx' cannot be read",
    ),
    "a file that is too large": (
        "layertap.open(ort, Object.defineProperty(new Blob(['x']), 'size', { value: 3.5e9 }))",
        "ModelFileError",
        "has 3.5 GB (3500000000 bytes)",
    ),
    "a newer card": (
        "layertap.open(ort, cards.newer)",
        "CardVersionError",
        "a layertap card of format 2.0; this layertap reads format 1",
    ),
    "a damaged card": ("layertap.open(ort, cards.damaged)", "ModelFileError", "'shape'"),
    "a card that is none": ("layertap.open(ort, cards.list)", "ModelFileError", "format version"),
    "half of a character": ("layertap.open(ort, cards.half)", "ModelFileError", "half of a"),
    "an unknown layer": (
        "model.activations(x, 'rellu')",
        "LayerNotFoundError",
        "no layer is called 'rellu'; the file exposes 7 layers. Did you mean 'relu'?",
    ),
    "an unknown pattern": ("model.select('rellu*')", "LayerNotFoundError", "mean 'relu'"),
    "a bad pattern": ("model.select('re:(')", "LayerNotFoundError", "not a regular expression"),
    "an unknown class": ("model.select('conv', 'Conv2d')", "LayerNotFoundError", "mean 'Conv2D'"),
    "an index out of range": ("model.layer(7)", "LayerNotFoundError", "7 layers, 0 to 6"),
    "no selector": ("model.layer(1.5)", "UsageError", "cannot select a layer by 1.5"),
    "a layer that is not in the file": (
        "plain.activations(image, 'hidden')",
        "LayerNotFoundError",
        "'hidden' is in the model, but this file does not expose it",
    ),
    "a layer without a gradient": (
        "model.gradients(x, 'pool')",
        "LayerNotFoundError",
        "no gradient for 'pool', only for 'conv', 'image', 'last', 'mixed', 'relu'",
    ),
    "a file without gradients": ("plain.cam(image)", "ModelFileError", "has no gradients"),
    "no layer for a map": (
        "plain.cam(image, undefined, { method: 'eigencam' })",
        "UsageError",
        "The last one with feature maps is 'drop'",
    ),
    "a layer without maps": (
        "model.cam(x, 'pool', { method: 'eigencam' })",
        "UsageError",
        "'pool' has the shape (2, 5)",
    ),
    "an unknown method": (
        "model.cam(x, 'last', { method: 'gradcamm' })",
        "UsageError",
        "unknown method 'gradcamm'; the methods are gradcam, gradcam++",
    ),
    "a method of Python": (
        "model.cam(x, 'last', { method: 'Score-CAM' })",
        "UsageError",
        "not available in JavaScript, only in Python",
    ),
    "a bad size of a map": ("model.cam(x, 'last', { resize: [3] })", "UsageError", "2 sizes"),
    "an unknown label": (
        "model.cam(x, 'last', { target: 'dogg' })",
        "UsageError",
        "no class is called 'dogg'; there are 'cat', 'dog', 'bird'. Did you mean 'dog'?",
    ),
    "a class out of range": ("model.cam(x, 'last', { target: 3 })", "UsageError", "has 3, 0 to 2"),
    "no target": ("model.cam(x, 'last', { target: [] })", "UsageError", "list of targets is empty"),
    "a bad target": ("model.gradients(x, 'last', { target: 0.5 })", "UsageError", "0.5 is not"),
    "weights that do not fit": (
        "model.gradients(x, 'last', { target: new Float32Array(2) })",
        "UsageError",
        "must be 3 numbers",
    ),
    "an unknown reduction": (
        "model.activations(x, { relu: 'meen' })",
        "UsageError",
        "unknown reduction 'meen'. Did you mean 'mean'",
    ),
    "too many channels": ("model.activations(x, { relu: 'top9' })", "UsageError", "than the 4 of"),
    "no reduction": ("model.activations(x, {})", "UsageError", "object of reductions is empty"),
    "another rank": (
        "model.predict({ data: x.data, dims: [2 * 8 * 6, 3] })",
        "InputError",
        "input 'image' has the shape (96, 3), expected (n, 8, 6, 3).",
    ),
    "channels first": (
        "model.predict({ data: x.data, dims: [2, 3, 8, 6] })",
        "InputError",
        "Its channels come first.",
    ),
    "no batch axis": (
        "model.predict({ data: x.data.slice(0, 144), dims: [8, 6, 3] })",
        "InputError",
        "Add the batch axis.",
    ),
    "another number of values": (
        "model.predict(new Float32Array(7))",
        "InputError",
        "has 7 values, expected (n, 8, 6, 3)",
    ),
    "another number of values than the shape": (
        "model.predict({ data: [1, 2, 3], dims: [1, 8, 6, 3] })",
        "InputError",
        "input 'image' has 3 values, but the shape (1, 8, 6, 3)",
    ),
    "another number of pixels than the shape": (
        "model.predict({ data: new Uint8Array(3), dims: [1, 8, 6, 3] })",
        "InputError",
        "input 'image' has 3 values, but the shape (1, 8, 6, 3)",
    ),
    "no sample": (
        "model.predict({ data: new Float32Array(0), dims: [0, 8, 6, 3] })",
        "InputError",
        "has the shape (0, 8, 6, 3), without any value: give at least one sample.",
    ),
    "no source": ("layertap.open(ort)", "ModelFileError", "cannot read undefined: give the bytes"),
    "an object as a source": ("layertap.open(ort, {})", "ModelFileError", "cannot read an Object"),
    "an option of open": (
        "layertap.open(ort, png, { sessions: {} })",
        "UsageError",
        "there is no option 'sessions', only 'session'. Did you mean 'session'?",
    ),
    "an option of cam": (
        "model.cam(x, 'last', { methods: 'layercam' })",
        "UsageError",
        "there is no option 'methods', only 'preprocess', 'target', 'method', 'normalize'",
    ),
    "an option of predict": ("model.predict(x, { target: 1 })", "UsageError", "option 'target'"),
    "an option of top": ("model.top(x, { count: 3 })", "UsageError", "must be at least 1, got an"),
    "options of top": ("model.top(x, 3, 4)", "UsageError", "options must be an object"),
    "no options": ("model.activations(x, 'relu', null)", "UsageError", "an object, as in {prepro"),
    "options of resume": ("model.resume({ relu: x }, 'last', { a: 1 })", "UsageError", "'a'"),
    "an option of gradients": ("model.gradients(x, -1, { targets: 1 })", "UsageError", "'target'?"),
    "an option of prepare": ("plain.prepare(png, { size: [1, 1] })", "UsageError", "'size'"),
    "no class": ("model.top(x, 0)", "UsageError", "number of classes must be at least 1, got 0"),
    "a number as a tolerance": ("model.check(1e-3)", "UsageError", "as in {tolerance: ...}"),
    "a negative tolerance": ("model.check({ tolerance: -1 })", "UsageError", "at least 0, got -1"),
    "a text as a tolerance": ("model.check({ tolerance: '1' })", "UsageError", "must be a number"),
    "no truth value": (
        "model.cam(x, 'last', { normalize: 0 })",
        "UsageError",
        "normalize must be true or false, got 0",
    ),
    "a text as a size": ("model.cam(x, 'last', { resize: 'yes' })", "UsageError", "got 'yes'"),
    "a huge map": (
        "model.cam(x, 'last', { resize: [1e6, 1e6] })",
        "UsageError",
        "maps of 1000000 x 1000000 values are too large",
    ),
    "no input": ("model.predict()", "InputError", "input 'image' is missing"),
    "an unknown input": (
        "model.predict({ imige: x })",
        "InputError",
        "no input 'imige'; it has 'image'. Did you mean 'image'?",
    ),
    "no numbers": ("model.predict(['a', {}])", "InputError", "input 'image'"),
    "a free size": (
        "whole.predict(new Float32Array(300))",
        "InputError",
        "Give a tensor, {data, dims}, with its sizes.",
    ),
    "a half as an index": (
        "odd.activations({ index: [0.5], words }, 'picked')",
        "InputError",
        "input 'index' must contain integers (int64)",
    ),
    "an index that is too large": (
        "odd.activations({ index: [2 ** 70], words }, 'picked')",
        "InputError",
        "must contain integers (int64), got 1.18",
    ),
    "the first index that is too large": (
        "odd.activations({ index: [2 ** 63], words }, 'picked')",
        "InputError",
        "must contain integers (int64), got 92233720368547",
    ),
    "a number as a word": (
        "odd.activations({ index: [1n], words: [1, 2, 3] }, 'twice')",
        "InputError",
        "input 'words' must contain strings",
    ),
    "an image without a recipe": (
        "vector.predict({ image: png, vector: new Float32Array(5) })",
        "InputError",
        "the file has no preprocessing",
    ),
    "different batches": (
        "vector.predict({ image: new Float32Array(48), vector: new Float32Array(10) })",
        "InputError",
        "'image' has 1, 'vector' has 2",
    ),
    "several inputs": ("vector.predict(x)", "InputError", "has 2 inputs ('image', 'vector')"),
    "text as an image": (
        "model.predict(new TextEncoder().encode('no image'))",
        "ImageError",
        "",
    ),
    "a cut image": ("model.predict(png.slice(0, 80))", "ImageError", "PNG file is damaged"),
    "pixels that do not fit": (
        "model.predict({ data: new Uint8Array(10), width: 2, height: 2 })",
        "ImageError",
        "1, 3 or 4 values for each of 2 x 2 pixels",
    ),
    "an image that is too large": (
        "model.predict({ data: new Uint8Array(3), width: 50000, height: 50000 })",
        "ImageError",
        "more than 178956970",
    ),
    "an unknown key of a recipe": (
        "model.predict(png, { preprocess: { sise: [8, 6] } })",
        "PreprocessingError",
        "\"sise\" is not a key of a preprocessing recipe, which has size",
    ),
    "an invalid value in a recipe": (
        "model.predict(png, { preprocess: { interpolation: 'bicubix' } })",
        "PreprocessingError",
        "Did you mean 'bicubic'",
    ),
    "a scaling without its numbers": (
        "model.predict(png, { preprocess: { scaling: { mode: 'standardize', mean: 1 } } })",
        "PreprocessingError",
        "requires \"std\"",
    ),
    "another size": (
        "model.predict(png, { preprocess: { size: [4, 4] } })",
        "InputError",
        "has the shape (1, 4, 4, 3), expected (n, 8, 6, 3)",
    ),
    "a resumed layer of another shape": (
        "model.resume({ last: new Float32Array(7) })",
        "InputError",
        "layer 'last' has 7 values",
    ),
    "a resumed run that needs more": (
        "model.resume({ relu: new Float32Array(192) }, 'probs')",
        "InputError",
        "from 'relu' alone: also give 'conv'",
    ),
    "a resumed run of something else": (
        "model.resume({ last: new Float32Array(60) }, 'conv')",
        "InputError",
        "do not depend on 'last', but on input 'image'",
    ),
    "one tensor given twice": (
        "plain.resume({ relu: new Float32Array(192), drop: new Float32Array(192) })",
        "UsageError",
        "'relu' and 'drop' are the same tensor",
    ),
    "nothing to resume": ("model.resume({})", "UsageError", "give activations by the names"),
    "no golden sample": ("model.check()", "ModelFileError", "no golden sample"),
    "a released model": (
        "whole.release().then(() => whole.predict({ data: [1, 2, 3], dims: [1, 1, 1, 3] }))",
        "UsageError",
        "was released",
    ),
    "weights elsewhere": (
        "layertap.open(ort, cards.external).then((model) => model.predict(new Float32Array(4)))",
        "ModelFileError",
        "which cannot be found from bytes",
    ),
}  # fmt: skip


def with_card(change: Any) -> bytes:
    """A model whose card was changed."""
    made = tiny.linear_chain()
    (prop,) = (item for item in made.metadata_props if item.key == KEY)
    data = json.loads(prop.value)
    prop.value = change(data)
    text: bytes = made.SerializeToString()
    return text


def cards() -> dict[str, bytes]:
    def damaged(data: Any) -> str:
        data["layers"][1]["shape"] = [-3]
        return json.dumps(data)

    external = tiny.linear_chain()
    weights = external.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="weights.data")
    return {
        "newer": with_card(lambda data: json.dumps({**data, "format": "2.0"})),
        "damaged": with_card(damaged),
        "list": with_card(lambda data: "[1]"),
        "half": with_card(lambda data: json.dumps(data).replace('"tiny"', '"\\ud800"')),
        "external": external.SerializeToString(),
    }


def test_every_bad_input_is_one_clear_error(runtime: Runtime) -> None:
    import io

    from PIL import Image

    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    vector = tiny.two_inputs()
    (prop,) = (item for item in vector.metadata_props if item.key == KEY)
    prop.value = json.dumps({**json.loads(prop.value), "preprocessing": None})
    files = {
        "model.onnx": tiny.differentiable().SerializeToString(),
        "plain.onnx": tiny.image_classifier().SerializeToString(),
        "odd.onnx": tiny.odd_types().SerializeToString(),
        "whole.onnx": tiny.image_classifier(None, None).SerializeToString(),
        "vector.onnx": vector.SerializeToString(),
        "image.png": file.getvalue(),
        **{f"card.{name}": data for name, data in cards().items()},
    }
    code = ERRORS + "\n".join(
        f"{json.dumps(name)}: async () => {action}," for name, (action, _, _) in CASES.items()
    )
    code += """
    }
    const found = {}
    for (const [name, action] of Object.entries(cases)) found[name] = await refused(action)
    return found
    """
    start = "const cards = {}\nconst image = await given('image')\n"
    start += "".join(f"cards.{name} = await read('card.{name}')\n" for name in cards())
    arrays = {"x": np.ones((2, 8, 6, 3), np.float32), "image": tiny.images(1)}
    found = runtime.run(start + code, arrays, files).value
    wrong = {}
    for name, (_, kind, text) in CASES.items():
        error = found[name]
        if not error or error["name"] != kind or text not in error["message"] or not error["own"]:
            wrong[name] = error
        elif "\n" in error["message"]:
            wrong[name] = "more than one line"
    assert not wrong, json.dumps(wrong, indent=1)


MANY = """
const found = { opened: 0, refused: 0, other: [] }
const { sizes } = await json("sizes.json")
const all = await read("all.bin")
let at = 0
for (const size of sizes) {
  const bytes = all.slice(at, at + size)
  at += size
  try { await layertap.open(ort, bytes); found.opened++ } catch (error) {
    if (error instanceof layertap.LayertapError) found.refused++
    else found.other.push(String(error.stack))
  }
}
return found
"""


@pytest.mark.parametrize("seed", range(3))
def test_no_bytes_make_it_fail_in_another_way(seed: int, node: Runtime) -> None:
    generator = random.Random(seed)
    models = [make().SerializeToString() for make in tiny.PLAIN]
    models += [tiny.differentiable().SerializeToString(), *cards().values()]
    mutated = []
    for _ in range(700):
        data = bytearray(generator.choice(models))
        for _ in range(generator.choice((1, 1, 2, 5, 40))):
            at = generator.randrange(len(data))
            kind = generator.randrange(4)
            if kind == 0:
                data[at] = generator.randrange(256)
            elif kind == 1:
                del data[at : at + generator.randrange(1, 30)]
            elif kind == 2:
                data[at:at] = bytes(
                    [generator.choice((0x80, 0xFF, 0, 0x7A))]
                ) * generator.randrange(12)
            else:
                data[at:at] = data[generator.randrange(len(data)) :][:50]
            if not data:
                data = bytearray(b"\0")
        mutated.append(bytes(data))
    sizes = json.dumps({"sizes": [len(data) for data in mutated]}).encode()
    found = node.run(MANY, files={"all.bin": b"".join(mutated), "sizes.json": sizes}).value
    assert found["other"] == []
    assert found["opened"] > 20
    assert found["refused"] > 200


def test_a_card_is_data_whatever_names_it_has(node: Runtime) -> None:
    """Names such as `constructor` and `__proto__` are names like others."""
    names = ["constructor", "__proto__", "toString", "hasOwnProperty"]
    made = tiny.linear_chain()
    text = made.SerializeToString()
    model = onnx.load_from_string(text)
    renamed = dict(zip(("a", "b", "c", "x"), names, strict=True))

    def new(name: str) -> str:
        return renamed.get(name, name)

    for node_proto in model.graph.node:
        node_proto.input[:] = [new(name) for name in node_proto.input]
        node_proto.output[:] = [new(name) for name in node_proto.output]
    for info in (*model.graph.input, *model.graph.output):
        info.name = new(info.name)
    (prop,) = (item for item in model.metadata_props if item.key == KEY)
    card = Card.from_json(prop.value)
    data = json.loads(card.to_json())
    for row in (*data["layers"], *data["inputs"], *data["outputs"]):
        row["name"] = new(row["name"])
        row["inbound"] = [new(name) for name in row.get("inbound", [])]
        if row.get("tensor"):
            row["tensor"] = new(row["tensor"])
    prop.value = json.dumps(data)
    code = """
    const model = await layertap.open(ort, await read("model.onnx"))
    const inputs = JSON.parse('{"hasOwnProperty": {"dims": [1, 4], "data": [1, 2, 3, 4]}}')
    const found = await model.activations(inputs, ["constructor", "__proto__", "toString"])
    for (const name of ["constructor", "__proto__", "toString"])
      keep(name, Object.getOwnPropertyDescriptor(found, name).value)
    const gradients = () => model.gradients(inputs, "constructor")
    return [await refused(gradients), await refused(() => model.layer("valueOf"))]
    """
    import layertap

    done = node.run(code, files={"model.onnx": model.SerializeToString()})
    own = layertap.open(text)
    x = np.array([[1, 2, 3, 4]], np.float32)
    for old, name in zip("abc", names, strict=False):
        np.testing.assert_allclose(done.arrays[name], own.activations(x, old), 1e-5)
    assert [error["name"] for error in done.value] == ["ModelFileError", "LayerNotFoundError"]
