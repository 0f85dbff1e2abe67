"""The export with all layers: its time compared with tf2onnx's conversion of the model with its
single output, and its memory compared with the model's weights."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import models
from .timing import Row, alternate

ROUNDS = 3


LARGEST = ("NASNetMobile", "InceptionResNetV2")
"""The models of `keras.applications` with the most layers for their size: 770 and 781."""


def measure() -> list[Row]:
    """Time from the Keras model in memory to the file on disk; ours without the verification."""
    import keras
    import numpy as np

    from layertap_models import chest_xray

    rows = [_row("the chest model", chest_xray.build(), models.batch())]
    for name in LARGEST:
        keras.utils.set_random_seed(0)
        model = getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3))
        batch = np.random.default_rng(0).random((1, 224, 224, 3), np.float32)
        rows.append(_row(name, model, batch))
    return [*rows, *_memory()]


def _row(name: str, model: Any, batch: Any) -> Row:
    import numpy as np
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "plain.onnx")
        cases = {
            "ours": lambda: _ours(model, Path(folder, "ours.onnx")),
            "tf2onnx": lambda: _tf2onnx(model, plain),
        }
        seconds = alternate(cases, ROUNDS, warm_up=1)
        session = onnxruntime.InferenceSession(plain, providers=["CPUExecutionProvider"])
        theirs = session.run(None, {session.get_inputs()[0].name: batch})[0]
    ours = np.asarray(model(batch, training=False))
    models.check_equal("tf2onnx's conversion", ours, theirs)
    return Row(
        what=f"export of all {len(model.layers)} layers of {name}, without verification",
        peer="tf2onnx, the output alone",
        unit="s",
        ours=seconds["ours"],
        theirs=seconds["tf2onnx"],
        most=1.3,
    )


def _memory() -> list[Row]:
    """The peak memory for VGG16, where most of the memory is weights."""
    command = [sys.executable, "-m", "benchmarks.programs.with_export"]
    measured = []
    for _ in range(ROUNDS):
        done = subprocess.run(
            command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
        )
        measured.append(tuple(map(float, done.stdout.split())))
    written, whole, weights = zip(*measured, strict=True)
    return [
        Row(
            what=f"peak memory of an export of VGG16 {how} verification, beyond the imports",
            peer="its weights",
            unit="MB",
            ours=peaks,
            theirs=weights,
            most=4,
        )
        for how, peaks in (("without", written), ("with", whole))
    ]


class _Written(Exception):  # noqa: N818 - not an error
    """Stops the export after the file is written and before it is verified."""


def _ours(model: Any, path: Path) -> float:
    import layertap_export

    def stop(stage: str) -> None:
        if stage.startswith("verifying"):
            raise _Written

    started = time.perf_counter()
    with contextlib.suppress(_Written):
        layertap_export.export(model, path, progress=stop)
        raise RuntimeError("the export ended without reporting a verification.")
    return time.perf_counter() - started


def _tf2onnx(model: Any, path: Path) -> float:
    import tensorflow as tf
    import tf2onnx

    started = time.perf_counter()
    signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in model.inputs]
    function = tf.function(lambda images: model(images, training=False), signature)
    tf2onnx.convert.from_function(function, signature, opset=18, output_path=str(path))
    return time.perf_counter() - started
