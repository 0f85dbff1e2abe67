"""Ten layers in each of four networks: a tap compared with Keras and plain onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import layertap

from . import models
from .timing import PAUSE, Row, Samples, alternate, timed

ROUNDS = 15
DEPTHS = 10


def measure() -> list[Row]:
    """Time repeated calls, with all models, functions and sessions prepared."""
    details = [row for name in models.NAMES for row in _network(name)]
    by_peer = {peer: [row for row in details if row.peer == peer] for peer in (FUNCTION, PLAIN)}
    summary = []
    for peer, most in ((FUNCTION, 0.85), (PLAIN, 1.02)):
        for name in models.NAMES:
            rows = [row for row in by_peer[peer] if row.what.startswith(f"{name}, ")]
            worst = max(rows, key=lambda row: row.ratio)
            what = f"the slowest of {DEPTHS} depths: {worst.what}"
            summary.append(worst.changed(what=what, most=most, detail=False))
    ratios = tuple(row.ratio for row in by_peer[FUNCTION])
    summary.append(
        Row(
            what=f"median of all {len(ratios)} layers' ratios",
            peer=FUNCTION,
            unit="x",
            ours=ratios,
            theirs=(1.0,) * len(ratios),
            most=0.72,
        )
    )
    return [*summary, *details]


FUNCTION = "tf.function over the Keras sub-model"
PLAIN = "onnxruntime, the file cut to that output by the onnx package"


def _network(name: str) -> list[Row]:
    import keras
    import onnx
    import tensorflow as tf

    files, batch = models.files(name), models.batch(name)
    opened = layertap.open(files.onnx)
    model = models.keras_model(name)
    tensor = tf.constant(batch)
    extractor = onnx.utils.Extractor(onnx.load(files.onnx))
    rows = []
    for layer in spread(opened, [layer.name for layer in model.layers]):
        tap = opened.tap(layer)
        function = models.compiled(keras.Model(model.input, model.get_layer(layer).output))
        part = extractor.extract_model([opened.inputs[0].name], [layer])
        session = models.plain_session(part.SerializeToString())
        feed = {opened.inputs[0].name: batch}
        del part

        def ours(tap: Any = tap) -> Any:
            return tap(batch)

        def compiled(function: Any = function) -> Any:
            return function(tensor).numpy()

        def plain(session: Any = session, feed: Any = feed) -> Any:
            return session.run(None, feed)[0]

        cases: dict[str, Callable[[], Any]] = {"ours": ours, FUNCTION: compiled, PLAIN: plain}
        seconds = alternate({key: timed(call, PAUSE) for key, call in cases.items()}, ROUNDS, 3)
        values = {key: call() for key, call in cases.items()}
        for peer in (FUNCTION, PLAIN):
            models.check_equal(f"{name}, {layer}, {peer}", values["ours"], values[peer])
            rows.append(_row(f"{name}, {layer}", peer, seconds["ours"], seconds[peer]))
    return rows


def spread(opened: layertap.Model, known: Sequence[str]) -> list[str]:
    """Ten evenly spaced layers of the network, including the last one.

    Args:
        opened: the exported model.
        known: names of the layers of the Keras model; other entries (operations) are skipped.
    """
    names = [
        layer.name
        for layer in opened.layers
        if layer.type != "InputLayer" and layer.name in set(known)
    ]
    return [names[round(step * len(names) / DEPTHS) - 1] for step in range(1, DEPTHS + 1)]


def _row(what: str, peer: str, ours: Samples, theirs: Samples) -> Row:
    return Row(what=what, peer=peer, unit="s", ours=ours, theirs=theirs, detail=True)
