"""The models that are measured, each as a Keras file and exported with all its layers.

The files are made once, each model in a process of its own, and kept under `.cache/` until
something that makes them changes.
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

CHEST = "chest"
"""The chest X-ray DenseNet121, 320 x 320: what is measured where nothing else is said."""
APPLICATIONS = {"resnet50": "ResNet50", "mobilenetv3": "MobileNetV3Large", "vgg16": "VGG16"}
"""Of `keras.applications`, 224 x 224, by the names that they have here."""
NAMES = (CHEST, *APPLICATIONS)

LATE = "conv5_block16_concat"
"""The layer that the first user reads, the last but four of the chest model."""
EARLY = "conv1_relu"
"""The layer after its first convolution."""
TOLERANCE = 1e-4
"""Largest difference that is taken for equal, over the largest value."""

REPOSITORY = Path(__file__).resolve().parents[1]
CACHE = REPOSITORY / ".cache" / "benchmarks"


class Files(NamedTuple):
    """A model, twice, and a batch for it."""

    onnx: Path
    """With all layers."""
    keras: Path
    batch: Path
    """One image, seeded, `(1, h, w, 3)` float32, as `.npy`."""


def files(name: str = CHEST) -> Files:
    """The files of a model; made now if there are none, or if they were made by other code.

    Once they are found, this process and its children stay with them.
    """
    folder = Path(os.environ.setdefault(_FOLDER, str(CACHE / f"models-{_state()}")))
    made = Files(folder / f"{name}.onnx", folder / f"{name}.keras", folder / f"{name}.npy")
    if not all(file.is_file() for file in made):
        print(f"making the {name} model, once ...", file=sys.stderr)
        for stale in CACHE.glob("model*-*"):
            if stale != folder:
                shutil.rmtree(stale)
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.models", name, *map(str, made)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"the {name} model could not be made:\n{done.stderr}")
    return made


_FOLDER = "LAYERTAP_BENCHMARK_MODELS"


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


def _make(name: str, made: Files) -> None:
    import keras
    import numpy as np

    import layertap_export
    from layertap_models import chest_xray

    if name == CHEST:
        model, size = chest_xray.build(), 320
    else:
        keras.utils.set_random_seed(0)
        model, size = getattr(keras.applications, APPLICATIONS[name])(weights=None), 224
    batch = np.random.default_rng(0).normal(size=(1, size, size, 3)).astype(np.float32)
    np.save(made.batch, batch)
    partial = made.keras.with_name(f"partial-{name}.keras")
    model.save(partial)
    layertap_export.export(model, made.onnx)
    os.replace(partial, made.keras)


def batch(name: str = CHEST) -> npt.NDArray[np.float32]:
    """One image for the model, `(1, h, w, 3)`."""
    import numpy as np

    loaded: npt.NDArray[np.float32] = np.load(files(name).batch)
    return loaded


def keras_model(name: str = CHEST) -> Any:
    """The Keras model."""
    import keras

    return keras.saving.load_model(files(name).keras, compile=False)


def compiled(model: Any) -> Any:
    """A `tf.function` over a Keras model in inference mode."""
    import tensorflow as tf

    def call(images: Any) -> Any:
        return model(images, training=False)

    return tf.function(call)


def plain_session(model: Path | bytes | None = None) -> Any:
    """A model in onnxruntime as anybody would use it, on the same cores; by default the exported
    chest model."""
    import onnxruntime  # type: ignore[import-untyped]

    from .machine import cores

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    model = files().onnx if model is None else model
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


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
    _make(sys.argv[1], Files(*map(Path, sys.argv[2:])))
