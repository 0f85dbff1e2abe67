"""A program: uses damaged files in one way, in a process of its own that may die of them.

    python fuzzing.py WAY SEED COUNT

Prints how many were refused when opened, refused later, and used. Any error that is not layertap's
ends it; `damaged.onnx`, in the current folder, is the file at hand, also after a crash or a hang.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import layertap
from generators import tiny
from layertap import cam
from layertap._cut import write
from layertap._engine import engine
from layertap.comparing.check import check
from layertap.format.card import KEY
from layertap.format.table import as_rows

MODELS = (tiny.image_classifier, tiny.linear_chain, tiny.two_inputs, *tiny.PLAIN)
PATIENCE = 60
"""Seconds for one file."""
MEMORY = 16 << 30
"""Bytes of address space: files that ask for all memory there is get a refusal."""

Feeds = Mapping[str, Any]


# --- Damage -------------------------------------------------------------------------------------


def damaged(model: onnx.ModelProto, generator: random.Random) -> bytes:
    """The file with something wrong in it: in its structure, its card, its bytes, or several."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kind = generator.randrange(6)
    has_card = len(made.metadata_props) > 0
    if kind:
        for _ in range(generator.choice([1, 1, 1, 2, 3])):
            if has_card and generator.random() < 0.75:
                _change_card(made, generator)
            else:
                _restructure(made, generator)
    data = made.SerializeToString()
    return data if kind > 1 else _change_bytes(data, generator)


def _restructure(made: onnx.ModelProto, generator: random.Random) -> None:
    """Change one thing; what comes out is still protobuf."""
    graph = made.graph
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    what = generator.randrange(10)
    if what < 4 and graph.node:
        node = generator.choice(graph.node)
        if what == 0:
            node.op_type = generator.choice(graph.node).op_type
        elif what == 1 and node.input:
            node.input[generator.randrange(len(node.input))] = generator.choice([*names, "gone"])
        elif what == 2 and node.output:
            node.output[generator.randrange(len(node.output))] = generator.choice([*names, "new"])
        elif what == 3:
            graph.node.remove(node)
    elif what < 7 and graph.initializer:
        weights = generator.choice(graph.initializer)
        if what == 4:
            size = generator.choice([-1, 0, 1, 7, 1 << 20, 1 << 40, (1 << 63) - 1])
            weights.dims[:] = generator.choice([[], [size], [*weights.dims, size]])
        elif what == 5:
            weights.raw_data = weights.raw_data[: generator.randrange(len(weights.raw_data) + 1)]
        elif generator.random() < 0.5:
            weights.data_type = generator.randrange(30)
        else:
            weights.data_location = onnx.TensorProto.EXTERNAL
            where = generator.choice(["damaged.onnx", "/etc/passwd", "../x", "gone", ""])
            weights.external_data.add(key="location", value=where)
            weights.external_data.add(key="offset", value=str(generator.randrange(-9, 1 << 14)))
            length = generator.choice(["", "4", "-1", str(1 << 62), "9" * 50])
            if length:
                weights.external_data.add(key="length", value=length)
    elif what == 7:
        value = generator.choice([*graph.input, *graph.output])
        kind = value.type.tensor_type
        kind.elem_type = generator.choice([kind.elem_type, generator.randrange(30)])
        for dim in kind.shape.dim:
            if generator.random() < 0.3:
                dim.dim_value = generator.choice([-1, 0, 1, 5, 1 << 40, (1 << 63) - 1])
    elif what == 8:
        generator.choice(made.opset_import).version = generator.randrange(40)
    elif what == 9 and graph.node:
        node = generator.choice(graph.node)
        if node.output:
            old = node.output[generator.randrange(len(node.output))]
            _rename(made, old, generator.choice(["\x1b[2J", "a\nb", "\0", "\u202e", "n" * 300, ""]))


def _rename(made: onnx.ModelProto, old: str, new: str) -> None:
    for node in made.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for value in made.graph.output:
        value.name = new if value.name == old else value.name


ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 7, 1 << 31, 1 << 62, 1 << 70, 10**30, 10**5000),
    *(-0.5, 1e308, 1e400, float("nan")),
    *("", "x", "\0", "\ud800", "\x1b[31m", "a\nb", "\u202e", "n" * 300),
    *("float32", "float16", "int64", "string", "bool"),
    *([], [None], [0], [2, 3], [1 << 62] * 20, [100_000, 100_000], [1] * 300, ["a"]),
    *({}, {"a": "b"}, {"a": {}}, {"size": [40_000, 40_000]}),
    {"size": [8, 8], "scaling": {"mode": "tf"}},
)
"""Values that a card may have anywhere; some are valid in some places."""


def _change_card(made: onnx.ModelProto, generator: random.Random) -> None:
    """Change the JSON of the card: values, keys, or characters."""
    (entry,) = (item for item in made.metadata_props if item.key == KEY)
    try:
        card = json.loads(entry.value)
    except (ValueError, RecursionError):
        return
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            places.append((value, key))
            if isinstance(inner, (dict, list)):
                collect(inner)

    collect(card)
    holder, key = generator.choice(places)
    what = generator.randrange(6)
    if what < 3:
        alike = [one for one in ODD if type(one) is type(holder[key])]
        holder[key] = generator.choice(alike if generator.random() < 0.8 else ODD)
    elif what == 3:
        del holder[key]
    elif what == 4:
        other, place = generator.choice(places)
        holder[key] = json.loads(json.dumps(other[place]))
    elif isinstance(holder, dict):
        holder[generator.choice(["", "new", "\0", "parent", "tensor"])] = generator.choice(ODD)
    sys.set_int_max_str_digits(0)
    text = json.dumps(card)
    sys.set_int_max_str_digits(4300)
    if generator.random() < 0.1:
        at = generator.randrange(len(text))
        text = text[:at] + generator.choice(["[" * 3000, "{", '"', "9" * 40, ""]) + text[at + 1 :]
    entry.value = text


def _change_bytes(data: bytes, generator: random.Random) -> bytes:
    """The same with bytes changed, cut off, cut out, put in, or doubled."""
    changed = bytearray(data)
    start, end = sorted(generator.randrange(len(data) + 1) for _ in range(2))
    kind = generator.randrange(8)
    if kind == 0:
        del changed[start:]
    elif kind == 1:
        del changed[start : min(end, start + 16)]
    elif kind == 2:
        changed[start:start] = generator.randbytes(generator.randrange(1, 9))
    elif kind == 3:
        changed[start:start] = data[end : end + 40]
    else:
        for _ in range(generator.randrange(1, 4)):
            at = generator.randrange(len(changed))
            flip = 1 << generator.randrange(8)
            changed[at] = generator.choice([changed[at] ^ flip, generator.randrange(256), 255, 0])
    return bytes(changed)


# --- Ways to use a file -------------------------------------------------------------------------


def _some(model: layertap.Model, generator: random.Random, most: int = 3) -> list[layertap.Layer]:
    exposed = [layer for layer in model.layers if layer.exposed]
    return generator.sample(exposed, min(len(exposed), generator.randrange(1, most + 1)))


def _describe(model: layertap.Model, feeds: Feeds, generator: random.Random) -> None:
    model.summary()
    repr(model)
    model.summary(size=(32, 48), batch=3)
    json.dumps(as_rows(model.layers))
    str(model.preprocessing)
    json.dumps(model.card.to_json() if model.card else None)
    model.layer(generator.choice(model.layers).name if model.layers else 0)


def _run(model: layertap.Model, feeds: Feeds, generator: random.Random) -> None:
    model.tap(_some(model, generator))(feeds)


def _reduce(model: layertap.Model, feeds: Feeds, generator: random.Random) -> None:
    ways = ["mean", "max", "mean_l2", "flatten", "top2", None]
    model.activations(feeds, {layer: generator.choice(ways) for layer in _some(model, generator)})
    model.predict(feeds)
    images = [np.zeros((9, 7, 3), np.uint8)]
    model.predict(images[0] if len(model.inputs) == 1 else dict.fromkeys(feeds, images))


def _resume(model: layertap.Model, feeds: Feeds, generator: random.Random) -> None:
    start, end = (_some(model, generator, 2) for _ in range(2))
    values = model.activations(feeds, start)
    model.resume({layer: values[layer.name] for layer in start}, end)
    model.edit(feeds, {start[0]: np.zeros_like}, end)


def _check(model: layertap.Model, feeds: Feeds, generator: random.Random) -> None:
    str(check(model))


def _cut(model: layertap.Model, feeds: Feeds, generator: random.Random) -> None:
    start = _some(model, generator, 2) if generator.random() < 0.5 else None
    end = _some(model, generator, 2) if generator.random() < 0.8 else None
    model.cut("part.onnx", start, end)
    layertap.open("part.onnx").summary()


def _gradients(model: layertap.Model, feeds: Feeds, generator: random.Random) -> None:
    targets: list[Any] = ["top", 0, "b", [0, "top"], [[0], [1]], np.ones(3, np.float32)]
    model.gradients(feeds, target=generator.choice(targets))


METHODS = (
    "gradcam",
    "gradcam++",
    "layercam",
    "eigencam",
    "eigengradcam",
    "scorecam",
    "ablationcam",
)


def _cam(model: layertap.Model, feeds: Feeds, generator: random.Random) -> None:
    (x,) = feeds.values()
    layer = generator.choice([None, *_some(model, generator, 1)])
    target: Any = generator.choice(["top", 0, "b"])
    cam.heat_maps(model, x, layer, target, method=generator.choice(METHODS), channels=2)
    model.attribute(x, target=target)


def _add_gradients(model: layertap.Model, feeds: Feeds, generator: random.Random) -> None:
    from layertap_export import add_gradients

    layers = [layer.name for layer in _some(model, generator, 2)]
    asked = generator.choice(["all", "last-conv", "input", layers])
    add_gradients("damaged.onnx", "part.onnx", asked, seconds=0.01)


Way = Callable[[layertap.Model, Feeds, random.Random], None]

WAYS: Mapping[str, Way] = {
    "summary": _describe,
    "run": _run,
    "reduce": _reduce,
    "resume": _resume,
    "check": _check,
    "cut": _cut,
    "gradients": _gradients,
    "cam": _cam,
    "add_gradients": _add_gradients,
}
"""What is done with a damaged file, by its word on the command line."""

CARDED = ("summary", "reduce", "resume", "check", "cut", "gradients", "cam")
"""The ways that use cards."""


def _carded() -> list[tuple[onnx.ModelProto, Feeds]]:
    """Models with cards that say all that a card can say, also golden samples and gradients."""
    from layertap_export import add_gradients

    found: list[tuple[onnx.ModelProto, Feeds]] = []
    for make, layers in (
        (tiny.image_classifier, ["conv", "relu"]),
        (tiny.linear_chain, "all"),
        (tiny.differentiable, None),
    ):
        made = make()
        feeds = tiny.feeds(made)
        if layers is not None:
            onnx.save(made, "plain.onnx")
            add_gradients("plain.onnx", "whole.onnx", layers, seconds=0.01)
            made = onnx.load("whole.onnx")
        (entry,) = (item for item in made.metadata_props if item.key == KEY)
        card = json.loads(entry.value)
        card["labels"] = [*"abcdefghijkl"[: card["outputs"][0]["shape"][-1]]]
        card["layers"][-1]["parent"] = card["layers"][1]["name"]
        card["notes"] = ["a note"]
        entry.value = json.dumps(card)
        found.append((made, feeds))
    return found


def main(way: str, seed: int, count: int) -> None:
    """Try `count` files; the same seed gives the same files."""
    faulthandler.enable()
    use = WAYS[way]
    whole: list[tuple[onnx.ModelProto, Feeds]]
    whole = [(made, tiny.feeds(made)) for made in (make() for make in MODELS)]
    if way in CARDED:
        whole = _carded()
    if way == "cam":
        whole = [(made, feeds) for made, feeds in whole if next(iter(feeds.values())).ndim == 4]
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", layertap.LayertapWarning)
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    generator = random.Random(seed)
    at_hand, written = Path("damaged.onnx"), Path("written.onnx")
    plain, write.REFERENCE_BYTES = engine.MAPPED_BYTES, 4  # type: ignore[attr-defined]
    refused = failed = ran = 0
    for _ in range(count):
        made, feeds = generator.choice(whole)
        written.write_bytes(damaged(made, generator))
        os.replace(written, at_hand)
        mapped = generator.choice([1, plain])  # in the file, or copied
        engine.MAPPED_BYTES = mapped  # type: ignore[attr-defined]
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            model = layertap.open(at_hand, threads=1, copy_weights=generator.random() < 0.2)
        except layertap.LayertapError as exc:
            str(exc)
            refused += 1
            continue
        if any(layer.type == "Loop" for layer in model.layers):  # it may count to 2 ** 60
            use = _describe
        try:
            use(model, feeds, generator)
            ran += 1
        except layertap.LayertapError as exc:
            failed += 1
            if not str(exc).isprintable():
                raise RuntimeError(ascii(str(exc))) from exc
        use = WAYS[way]
    faulthandler.cancel_dump_traceback_later()
    print(refused, failed, ran)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
