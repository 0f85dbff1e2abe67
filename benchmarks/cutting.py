"""Cutting the file with all layers down to one layer, and creating a session of the cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layertap._cut.plan import plan_cut
from layertap._cut.write import write_cut
from layertap._engine.engine import Engine
from layertap._engine.settings import Settings
from layertap.format.graph import Graph, read_graph
from layertap.format.source import FileSource

from . import models
from .timing import Row, alternate, timed

ROUNDS = 15
LAYERS = (models.EARLY, "conv4_block12_concat", models.LATE)


def measure() -> list[Row]:
    """Time the steps from the file on disk, or from the opened model, to the cut and its session.

    Opening a model creates its index, which all cuts share.
    """
    import onnx

    file, batch = models.files().onnx, models.batch()
    graph = index(file)
    (name,) = graph.inputs
    loaded = onnx.load(file)
    engine = Engine(Settings())
    rows = []
    for layer in LAYERS:
        cases: dict[str, Callable[[], Any]] = {
            "ours": lambda layer=layer: cut(file, graph, layer),
            "onnx": lambda layer=layer: _extract(loaded, name, layer),
            "ours, whole": lambda layer=layer: cut(file, index(file), layer),
            "onnx, whole": lambda layer=layer: _extract(onnx.load(file), name, layer),
        }
        seconds = alternate({key: timed(call) for key, call in cases.items()}, ROUNDS, 1)

        rows += [
            Row(
                what=what,
                peer="the onnx package's Extractor",
                unit="s",
                ours=seconds[ours],
                theirs=seconds[theirs],
                most_ours=target,
            )
            for what, ours, theirs, target in (
                (f"the cut of the opened model for {layer}", "ours", "onnx", 0.015),
                ("... from the file on, with its index", "ours, whole", "onnx, whole", None),
            )
        ]
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
        leaf = plan_cut(graph, [layer]).leaves[layer]
        ours = starting["ours"]().run([leaf.source], {name: batch})[0].transpose(leaf.perms[0])
        models.check_equal(layer, ours, starting["onnx"]().run(None, {name: batch})[0])
    return rows


def cut(file: Any, graph: Graph, layer: str) -> bytes:
    """The bytes of the smaller model, created as in `Model.tap`."""
    plan = plan_cut(graph, [layer])
    with FileSource(file).read() as buffer:
        return write_cut(buffer, graph, plan)


def _extract(model: Any, name: str, layer: str) -> bytes:
    """The same, with the onnx package."""
    import onnx

    extractor = onnx.utils.Extractor(model)
    part: bytes = extractor.extract_model([name], [layer]).SerializeToString()
    return part


def index(file: Any) -> Graph:
    """The index of a file."""
    with FileSource(file).read(sparsely=True) as buffer:
        return read_graph(buffer)
