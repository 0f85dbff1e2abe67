"""A model from a SavedModel folder: with its layers if Keras 2 wrote it, else a signature."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from layertap.errors import LayertapWarning, suggest
from layertap.format.wire import WireError, fields, find_text
from layertap_export.errors import ModelLoadError

from . import configs
from .files import import_tf_keras, reason_of

SERVING = "serving_default"
"""The signature that is meant where none is named."""

GRAPHS = ("saved_model.pb", "saved_model.pbtxt")
KERAS = "keras_metadata.pb"
"""What Keras 2 writes beside the graph: the configurations of all layers."""

REVIVED = "tf_keras.src.saving.legacy.saved_model.load"
"""The module of the classes that stand in for those of a model's own."""


def is_saved_model(path: Path) -> bool:
    """Whether it is a folder with a SavedModel."""
    return any((path / name).is_file() for name in GRAPHS)


def find(path: Path, signature: str | None, unsafe: bool) -> Callable[[Mapping[str, Any]], Any]:
    """What loads the model in a SavedModel folder, or one of its signatures.

    Raises:
        ModelLoadError: it is damaged.
        UnsafeModelError: it holds Python code that would run, and `unsafe` is false.
    """
    for name in GRAPHS:
        if (path / name).is_file() and not (path / name).stat().st_size:
            raise ModelLoadError(f"{str(path / name)!r} is empty. Copy or save it again.")
    if signature is not None:
        why = "Layers are left out, because a signature was asked for."
        return lambda _: _signature(path, signature, why)
    if (path / KERAS).is_file():
        metadata = list(_metadata(path / KERAS))
        if not unsafe:
            configs.check_code(metadata, path)
        return lambda custom_objects: _with_layers(path, custom_objects, unsafe)
    why = (
        "There are no layers, because this SavedModel was not written by Keras 2's `save`: all "
        "that TensorFlow keeps of other models is what their signatures compute. For layers, "
        "export the .keras file, or the code that builds the model."
    )
    return lambda _: _signature(path, SERVING, why)


def _metadata(path: Path) -> Iterator[Any]:
    """What Keras says of each object: nodes are field 1, their JSON is field 5."""
    try:
        data = path.read_bytes()
        for number, _, _, start, end in fields(data, 0, len(data)):
            if number == 1:
                yield json.loads(find_text(data, start, end, 5) or "{}")
    except (OSError, ValueError, WireError) as exc:
        raise ModelLoadError(f"{str(path)!r} is damaged: {exc}. Copy or save it again.") from exc


def _with_layers(path: Path, custom_objects: Mapping[str, Any], unsafe: bool) -> Any:
    tf_keras = import_tf_keras(
        f"{str(path)!r} was saved by Keras 2, whose layers Keras 3 cannot load from a SavedModel; "
        f"--signature {SERVING} (signature= in Python) exports the outputs alone"
    )
    from tf_keras.src.saving.serialization_lib import SafeModeScope

    try:
        with warnings.catch_warnings(), SafeModeScope(not unsafe):
            warnings.simplefilter("ignore")
            model = tf_keras.models.load_model(
                str(path), custom_objects=dict(custom_objects), compile=False
            )
    except Exception as exc:
        raise ModelLoadError(
            f"tf_keras {tf_keras.__version__} cannot load {str(path)!r}: {reason_of(exc)}"
        ) from exc
    if not isinstance(model, tf_keras.Model):
        raise ModelLoadError(
            f"{str(path)!r} holds a single layer of Keras 2, not a model. --signature {SERVING} "
            "(signature= in Python) exports what it computes."
        )
    if type(model).__module__ == REVIVED:
        name = type(model).__name__
        raise ModelLoadError(
            f"{str(path)!r} holds a model of the class {name!r}, and a SavedModel does not hold "
            f"the code of its call. Say where it is: --custom-objects package.module:{name} "
            f"(custom_objects= in Python). Without, --signature {SERVING} (signature=) exports "
            "the outputs alone."
        )
    for layer in model._flatten_layers():
        if type(layer).__module__ == REVIVED:
            name = type(layer).__name__
            warnings.warn(
                f"the layers inside {layer.name!r} are left out, because a SavedModel does not "
                f"hold the code of its class {name!r}. With --custom-objects "
                f"package.module:{name} (custom_objects= in Python) they are there.",
                LayertapWarning,
                stacklevel=2,
            )
    return model


def _signature(path: Path, key: str, why: str) -> Any:
    import tensorflow as tf

    from layertap_export.keras_model.signatures import Signature

    try:
        root = tf.saved_model.load(str(path))
    except Exception as exc:
        raise ModelLoadError(
            f"TensorFlow {tf.__version__} cannot load {str(path)!r}: {reason_of(exc)}"
        ) from exc
    known = list(getattr(root, "signatures", {}))
    if key not in known:
        listed = f"It has {', '.join(map(repr, known))}." if known else "It has none."
        raise ModelLoadError(
            f"{str(path)!r} has no signature {key!r}. {listed}{suggest(key, known)}"
        )
    return Signature(root, key, path.resolve().name, why)
