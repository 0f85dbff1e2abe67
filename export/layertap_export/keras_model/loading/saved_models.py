"""Load a SavedModel folder: a model with layers if Keras 2 wrote it, else a signature."""

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
from .saved_graphs import ensure_harmless

SERVING = "serving_default"
"""The default signature."""

GRAPH_FILES = ("saved_model.pb", "saved_model.pbtxt")
METADATA_FILE = "keras_metadata.pb"
"""The configurations of all layers, which Keras 2 writes next to the graph."""

REVIVED = "tf_keras.src.saving.legacy.saved_model.load"
"""The module of the placeholder classes that Keras 2 creates for unknown custom classes."""


def is_saved_model(path: Path) -> bool:
    """Whether a path is a folder with a SavedModel."""
    return any((path / name).is_file() for name in GRAPH_FILES)


def find_loader(
    path: Path, signature: str | None, unsafe: bool
) -> Callable[[Mapping[str, Any]], Any]:
    """A function that loads the model in a SavedModel folder, or one of its signatures.

    Raises:
        ModelLoadError: it is damaged.
        UnsafeModelError: loading it would run Python code, and `unsafe` is false. The returned
            function raises this if the SavedModel reaches files, the network or Python.
    """
    for name in GRAPH_FILES:
        if (path / name).is_file() and not (path / name).stat().st_size:
            raise ModelLoadError(f"{str(path / name)!r} is empty. Copy or save it again.")
    load = _find_loader(path, signature, unsafe)

    def checked(custom_objects: Mapping[str, Any]) -> Any:
        if not unsafe:
            ensure_harmless(path)
        return load(custom_objects)

    return checked


def _find_loader(
    path: Path, signature: str | None, unsafe: bool
) -> Callable[[Mapping[str, Any]], Any]:
    if signature is not None:
        explanation = "Layers are not included, because a signature was requested."
        return lambda _: _signature(path, signature, explanation)
    if (path / METADATA_FILE).is_file():
        metadata = list(_metadata(path / METADATA_FILE))
        if not unsafe:
            configs.ensure_no_code(metadata, path)
        return lambda custom_objects: _with_layers(path, custom_objects, unsafe)
    explanation = (
        "There are no layers: only SavedModels that Keras 2's `save` wrote contain them, others "
        "contain only functions (signatures). For layers, export the .keras file, or the code that "
        "builds the model."
    )
    return lambda _: _signature(path, SERVING, explanation)


def _metadata(path: Path) -> Iterator[Any]:
    """Keras's metadata of each object: nodes are field 1, their JSON is field 5."""
    try:
        data = path.read_bytes()
        for number, _, _, start, end in fields(data, 0, len(data)):
            if number == 1:
                yield json.loads(find_text(data, start, end, 5) or "{}")
    except (OSError, ValueError, WireError) as exc:
        raise ModelLoadError(f"{str(path)!r} is damaged: {exc}. Copy or save it again.") from exc


def _with_layers(path: Path, custom_objects: Mapping[str, Any], unsafe: bool) -> Any:
    tf_keras = import_tf_keras(
        f"{str(path)!r} was saved by Keras 2, and Keras 3 cannot load layers from a SavedModel; "
        f"--signature {SERVING} (signature= in Python) exports only the outputs"
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
            f"{str(path)!r} contains a single layer of Keras 2, not a model. --signature {SERVING} "
            "(signature= in Python) exports its outputs."
        )
    if type(model).__module__ == REVIVED:
        name = type(model).__name__
        raise ModelLoadError(
            f"{str(path)!r} contains a model of the class {name!r}, but not the code of the class. "
            f"Say where it is: --custom-objects package.module:{name} (custom_objects= in Python). "
            f"Without it, --signature {SERVING} (signature=) exports only the outputs."
        )
    for layer in model._flatten_layers():
        if type(layer).__module__ == REVIVED:
            name = type(layer).__name__
            warnings.warn(
                f"the layers inside {layer.name!r} are not included, because a SavedModel does not "
                f"contain the code of its class {name!r}. To include them, say where it is: "
                f"--custom-objects package.module:{name} (custom_objects= in Python).",
                LayertapWarning,
                stacklevel=2,
            )
    return model


def _signature(path: Path, key: str, explanation: str) -> Any:
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
        listed = f"It has {', '.join(map(repr, known))}." if known else "It has no signatures."
        raise ModelLoadError(
            f"{str(path)!r} has no signature {key!r}. {listed}{suggest(key, known)}"
        )
    return Signature(root, key, path.resolve().name, explanation)
