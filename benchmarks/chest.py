"""The model that is measured: the chest X-ray DenseNet121, as a Keras file and exported.

Both files are made once, in a process of their own, and kept under `.cache/` until something that
makes them changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LATE = "conv5_block16_concat"
"""The layer that the first user reads, the last but four."""
EARLY = "conv1_relu"
"""The layer after the first convolution."""
TOLERANCE = 1e-4
"""Largest difference that is taken for equal, over the largest value."""

REPOSITORY = Path(__file__).resolve().parents[1]
CACHE = REPOSITORY / ".cache" / "benchmarks"


class Files(NamedTuple):
    """The model, twice, and a batch for it."""

    onnx: Path
    """With all layers."""
    keras: Path
    batch: Path
    """One image, seeded, `(1, 320, 320, 3)` float32, as `.npy`."""


def files() -> Files:
    """The files; made now if there are none, or if they were made by other code.

    Once they are found, this process and its children stay with them.
    """
    folder = Path(os.environ.setdefault(_FOLDER, str(CACHE / f"model-{_state()}")))
    made = Files(folder / "chest.onnx", folder / "chest.keras", folder / "batch.npy")
    if not all(file.is_file() for file in made):
        print("making the chest model, once ...", file=sys.stderr)
        for stale in CACHE.glob("model-*"):
            shutil.rmtree(stale)
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "benchmarks.chest", *map(str, made)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"the chest model could not be made:\n{done.stderr}")
    return made


_FOLDER = "LAYERTAP_BENCHMARK_MODEL"


def _state() -> str:
    """A name for all that the files are made from."""
    digest = hashlib.sha256()
    for name in ("keras", "onnx", "tensorflow", "tensorflow-cpu", "tf2onnx"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            digest.update(f"{name} {metadata.version(name)}\n".encode())
    sources = [Path(__file__), REPOSITORY / "runtime/layertap/card.py"]
    for package in ("export/layertap_export", "models/layertap_models"):
        sources += sorted((REPOSITORY / package).rglob("*.py"))
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _make(made: Files) -> None:
    import numpy as np

    import layertap_export
    from layertap_models import chest_xray

    model = chest_xray.build()
    batch = np.random.default_rng(0).normal(size=(1, 320, 320, 3)).astype(np.float32)
    np.save(made.batch, batch)
    partial = made.keras.with_name("partial.keras")
    model.save(partial)
    layertap_export.export(model, made.onnx)
    os.replace(partial, made.keras)


def batch() -> npt.NDArray[np.float32]:
    """One image for the model, `(1, 320, 320, 3)`."""
    import numpy as np

    loaded: npt.NDArray[np.float32] = np.load(files().batch)
    return loaded


def keras_model() -> Any:
    """The Keras model."""
    import keras

    return keras.saving.load_model(files().keras, compile=False)


def compiled(model: Any) -> Any:
    """A `tf.function` over a Keras model in inference mode."""
    import tensorflow as tf

    def call(images: Any) -> Any:
        return model(images, training=False)

    return tf.function(call)


def plain_session() -> Any:
    """The exported file in onnxruntime as anybody would use it, on the same cores."""
    import onnxruntime  # type: ignore[import-untyped]

    from .machine import cores

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    return onnxruntime.InferenceSession(files().onnx, options, providers=["CPUExecutionProvider"])


def check_equal(what: str, ours: Any, theirs: Any) -> None:
    """Make sure that both computed the same.

    Raises:
        ValueError: they did not.
    """
    import numpy as np

    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        raise ValueError(f"{what}: our shape is {ours.shape}, the peer's {theirs.shape}.")
    scale = float(np.abs(theirs).max())
    difference = float(np.abs(ours - theirs).max())
    # Not `difference > ...`: NaN must not pass.
    if not difference <= TOLERANCE * scale:
        raise ValueError(
            f"{what}: our values differ from the peer's by {difference:.3g}, which is more than "
            f"{TOLERANCE:g} of the largest, {scale:.3g}."
        )


if __name__ == "__main__":
    _make(Files(*map(Path, sys.argv[1:])))
