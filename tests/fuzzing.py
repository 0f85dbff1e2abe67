"""A program: opens, cuts and runs damaged files, in a process of its own that may die of them.

    python fuzzing.py SEED COUNT

Prints how many were refused when opened, refused later, and run. Any error that is not layertap's
ends it; `damaged.onnx`, in the current folder, is the file at hand, also after a crash or a hang.
"""

from __future__ import annotations

import faulthandler
import os
import random
import sys
import warnings
from pathlib import Path

import onnx

import layertap
from generators import tiny
from layertap._cut import write
from layertap._engine import engine

MODELS = (tiny.image_classifier, tiny.linear_chain, tiny.two_inputs, *tiny.PLAIN)
PATIENCE = 60
"""Seconds for one file."""
MEMORY = 16 << 30
"""Bytes of address space: files that ask for all memory there is get a refusal."""


def damaged(model: onnx.ModelProto, generator: random.Random) -> bytes:
    """The file with something wrong in it: in its structure, in its bytes, or in both."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kind = generator.randrange(3)
    if kind:
        for _ in range(generator.randrange(1, 4)):
            _restructure(made, generator)
    data = made.SerializeToString()
    return data if kind == 2 else _change_bytes(data, generator)


def _restructure(made: onnx.ModelProto, generator: random.Random) -> None:
    """Change one thing; what comes out is still protobuf."""
    graph = made.graph
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    what = generator.randrange(9)
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
    elif what == 7:
        value = generator.choice([*graph.input, *graph.output])
        kind = value.type.tensor_type
        kind.elem_type = generator.choice([kind.elem_type, generator.randrange(30)])
        for dim in kind.shape.dim:
            if generator.random() < 0.3:
                dim.dim_value = generator.choice([-1, 0, 1, 5, 1 << 40])
    elif what == 8:
        generator.choice(made.opset_import).version = generator.randrange(40)


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


def main(seed: int, count: int) -> None:
    """Try `count` files; the same seed gives the same files."""
    faulthandler.enable()
    warnings.simplefilter("error")
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    generator = random.Random(seed)
    whole = [(made, tiny.feeds(made)) for made in (make() for make in MODELS)]
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
            model = layertap.open(at_hand, threads=1)
            model.summary()
            repr(model)
        except layertap.LayertapError:
            refused += 1
            continue
        try:
            exposed = [layer for layer in model.layers if layer.exposed]
            chosen = generator.sample(exposed, min(len(exposed), generator.randrange(1, 4)))
            tap = model.tap(chosen)
            if not any(layer.type == "Loop" for layer in exposed):  # it may count to 2 ** 60
                tap(feeds)
            ran += 1
        except layertap.LayertapError:
            failed += 1
    faulthandler.cancel_dump_traceback_later()
    print(refused, failed, ran)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
