"""Cutting the file with all layers down to one, and making a session of the cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layertap import _cut
from layertap._graph import Graph, read_graph
from layertap._session import Engine, Settings
from layertap._source import FileSource

from . import models
from .timing import Row, alternate, timed

ROUNDS = 15
LAYERS = (models.EARLY, "conv4_block12_concat", models.LATE)


def measure() -> list[Row]:
    """From the file on disk to the bytes of the cut, and from there to a session."""
    import onnx

    file, batch = models.files().onnx, models.batch()
    (name,) = _index(file).inputs
    engine = Engine(Settings())
    rows = []
    for layer in LAYERS:
        cases: dict[str, Callable[[], Any]] = {
            "ours": lambda layer=layer: cut(file, layer),
            "onnx": lambda layer=layer: (
                onnx.utils.Extractor(onnx.load(file))
                .extract_model([name], [layer])
                .SerializeToString()
            ),
        }
        seconds = alternate({key: timed(call) for key, call in cases.items()}, ROUNDS, 1)
        rows.append(
            Row(
                what=f"the cut for {layer}, from the file on",
                peer="the onnx package's Extractor",
                unit="s",
                ours=seconds["ours"],
                theirs=seconds["onnx"],
                most_ours=0.015,
            )
        )
        parts = {key: call() for key, call in cases.items()}
        starting: dict[str, Callable[[], Any]] = {
            "ours": lambda parts=parts: engine.start(parts["ours"], "the cut", None),
            "onnx": lambda parts=parts: models.plain_session(parts["onnx"]),
        }
        seconds = alternate({key: timed(call, 0.05) for key, call in starting.items()}, ROUNDS, 1)
        rows.append(
            Row(
                what=f"a session of it, {layer}",
                peer="onnxruntime's, on that of the onnx package",
                unit="s",
                ours=seconds["ours"],
                theirs=seconds["onnx"],
                most=1.1,
            )
        )
        leaf = _cut.plan(_index(file), [layer]).leaves[layer]
        ours = starting["ours"]().run([leaf.source], {name: batch})[0].transpose(leaf.perms[0])
        models.check_equal(layer, ours, starting["onnx"]().run(None, {name: batch})[0])
    return rows


def cut(file: Any, layer: str) -> bytes:
    """The bytes of the smaller model, as `Model.tap` makes them."""
    source = FileSource(file)
    with source.read(sparsely=True) as buffer:
        graph = read_graph(buffer)
    plan = _cut.plan(graph, [layer])
    with source.read() as buffer:
        return _cut.write(buffer, graph, plan)


def _index(file: Any) -> Graph:
    with FileSource(file).read(sparsely=True) as buffer:
        return read_graph(buffer)
