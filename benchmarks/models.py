"""The models of the benchmarks, each as a Keras file and as an export with all layers.

The files are created once, each model in its own process. They stay in `.cache/` until the code or
the packages that create them change.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layertap_models.registry import find

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CHEST = "chest"
"""The chest X-ray DenseNet121, 320 x 320, which is the default model of the benchmarks."""
APPLICATIONS = {"resnet50": "ResNet50", "mobilenetv3": "MobileNetV3Large", "vgg16": "VGG16"}
"""Models of `keras.applications`, 224 x 224, by their names in the benchmarks."""
NAMES = (CHEST, *APPLICATIONS)

LATE = "conv5_block16_concat"
"""A late layer of the chest model, the fifth from the end."""
RECIPE = find("chest_xray").preprocessing
"""How pictures become inputs of the chest model."""
EARLY = "conv1_relu"
"""An early layer of the chest model, after the first convolution."""
TOLERANCE = 1e-4
"""Largest allowed difference, relative to the largest value."""

REPOSITORY = Path(__file__).resolve().parents[1]
CACHE = REPOSITORY / ".cache" / "benchmarks"


class Files(NamedTuple):
    """The two files of a model, and a batch for it."""

    onnx: Path
    """The export with all layers."""
    keras: Path
    batch: Path
    """One image, seeded, `(1, h, w, 3)` float32, as `.npy`."""


def files(name: str = CHEST) -> Files:
    """The files of a model. They are created if they do not exist or are out of date.

    This process and its children then use the same files, even if the code changes meanwhile.
    """
    folder = Path(os.environ.setdefault(_FOLDER, str(CACHE / f"models-{state(Path(__file__))}")))
    made = Files(folder / f"{name}.onnx", folder / f"{name}.keras", folder / f"{name}.npy")
    create(f"the {name} model", made, ["benchmarks.models", name])
    return made


_FOLDER = "LAYERTAP_BENCHMARK_MODELS"


def create(what: str, made: Sequence[Path], program: Sequence[str]) -> None:
    """Create files by a program, unless they exist. Older folders of their kind are removed.

    Args:
        what: what they hold, for messages.
        made: the files, in a folder of the cache, `KIND-STATE`.
        program: the module, and its arguments before the files.
    """
    if all(file.is_file() for file in made):
        return
    print(f"creating {what}, once ...", file=sys.stderr)
    folder = made[0].parent
    kind, _, _ = folder.name.partition("-")
    for stale in CACHE.glob(f"{kind}-*"):
        if stale != folder:
            shutil.rmtree(stale)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", *program, *map(str, made)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what} could not be created:\n{done.stderr}")


def state(source: Path, exported: bool = True) -> str:
    """A hash of the packages and the code that create files.

    Args:
        source: the module that creates them.
        exported: whether layertap's exporter creates them too.
    """
    digest = hashlib.sha256()
    for name in ("keras", "onnx", "tensorflow", "tensorflow-cpu", "tf2onnx"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            digest.update(f"{name} {metadata.version(name)}\n".encode())
    sources = [source]
    if exported:
        sources.append(REPOSITORY / "runtime/layertap/format/card.py")
        for package in ("export/layertap_export", "models/layertap_models"):
            sources += sorted((REPOSITORY / package).rglob("*.py"))
    for file in sources:
        digest.update(file.read_bytes())
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
    """An onnxruntime session with default options, on the same cores.

    The default is the exported chest model.
    """
    import onnxruntime

    from .machine import cores

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    model = files().onnx if model is None else model
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def check_equal(what: str, ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> None:
    """Check that our result and the peer's result agree.

    Args:
        what: what they are, for the message.
        ours: our result.
        theirs: the peer's.
        tolerance: the largest difference, relative to the peer's largest value.

    Raises:
        ValueError: they do not.
    """
    import numpy as np

    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        raise ValueError(f"{what}: our shape is {ours.shape}, the peer's {theirs.shape}.")
    scale = float(np.abs(theirs).max())
    difference = float(np.abs(ours - theirs).max())
    # Not `difference > ...`, because NaN must raise.
    if not difference <= tolerance * scale:
        raise ValueError(
            f"{what}: our values differ from the peer's by {difference:.3g}, which is more than "
            f"{tolerance:g} times the largest value, {scale:.3g}."
        )


if __name__ == "__main__":
    _make(sys.argv[1], Files(*map(Path, sys.argv[2:])))
