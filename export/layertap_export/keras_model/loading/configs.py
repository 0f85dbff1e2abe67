"""The configuration inside a Keras file, read without running anything."""

from __future__ import annotations

import importlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layertap.errors import DependencyError
from layertap.format.source import describe
from layertap_export.errors import ModelLoadError, UnsafeModelError

HDF5 = b"\x89HDF\r\n\x1a\n"
"""How HDF5 files begin, and so Keras's `.h5` files, and `.keras` files from before 2023."""

ZIP = b"PK"
"""How zip archives begin."""


@dataclass(frozen=True)
class Stored:
    """What a file says about the model in it."""

    config: Any
    """As `model.get_config()` gave it, with its class around it."""
    version: str
    """The Keras that wrote it; empty if it does not say."""
    backend: str
    """The backend of that Keras; empty if it does not say."""
    suffix: str
    """The name's ending by which Keras knows such files; empty for an unpacked archive."""

    @property
    def by_keras_2(self) -> bool:
        """Whether a Keras before 3 wrote it; the first ones did not say which they were."""
        return int(self.version.partition(".")[0] or 1) < 3


def read(path: Path) -> Stored:
    """Read what is in a file, or in the folder that a `.keras` archive was unpacked to.

    Raises:
        ModelLoadError: it is no file of a Keras model, or not a whole one.
    """
    if path.is_dir():
        return _unpacked(path)
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as exc:
        raise ModelLoadError(f"{str(path)!r} cannot be read: {exc.strerror}.") from exc
    if not start:
        raise ModelLoadError(f"{str(path)!r} is empty. Copy or save it again.")
    try:
        if start.startswith(HDF5):
            return _hdf5(path)
        if start.startswith(ZIP):
            return _archive(path)
    except (ModelLoadError, DependencyError):
        raise
    except Exception as exc:  # a damaged file makes h5py and zipfile raise all sorts of things
        reason = exc.args[0] if isinstance(exc, KeyError) else exc
        raise ModelLoadError(
            f"{str(path)!r} is not a Keras model file, or it is damaged: {reason}"
        ) from exc
    if path.name in ("saved_model.pb", "saved_model.pbtxt"):
        raise ModelLoadError(
            f"{str(path)!r} is a part of a SavedModel. Give the folder: {str(path.parent)!r}."
        )
    looks = "an ONNX model already" if path.suffix == ".onnx" else describe(start)
    raise ModelLoadError(
        f"{str(path)!r} is not a Keras model file, as whose names end in .keras or .h5."
        + (f" It looks like {looks}." if looks else "")
    )


_PARTS: tuple[str, ...] = ("config.json", "metadata.json")
"""What a `.keras` archive says of the model."""


def _unpacked(path: Path) -> Stored:
    if not (path / "config.json").is_file():
        inside = sorted(x.name for x in path.iterdir() if x.suffix in (".keras", ".h5", ".hdf5"))
        hint = f" Give the file in it: {', '.join(map(repr, inside[:3]))}." if inside else ""
        raise ModelLoadError(f"{str(path)!r} is a folder, but not of a SavedModel.{hint}")
    if not (path / "model.weights.h5").is_file():
        raise ModelLoadError(f"{str(path)!r} has the model's config.json, but no model.weights.h5.")
    try:
        present = [name for name in _PARTS if (path / name).is_file()]
        return _of_archive({name: (path / name).read_bytes() for name in present}, suffix="")
    except (OSError, ValueError) as exc:
        raise ModelLoadError(f"the config.json in {str(path)!r} is damaged: {exc}") from exc


def _archive(path: Path) -> Stored:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if "config.json" not in names:
            raise ModelLoadError(
                f"{str(path)!r} is a zip archive without the config.json of a Keras model."
            )
        contents = {name: archive.read(name) for name in _PARTS if name in names}
    return _of_archive(contents, suffix=".keras")


def _of_archive(contents: Mapping[str, bytes], suffix: str) -> Stored:
    metadata = json.loads(contents.get("metadata.json", b"{}"))
    config = json.loads(contents["config.json"])
    # The format came with Keras 2.12, whose archives had a metadata.json from the beginning.
    return Stored(config, str(metadata.get("keras_version") or "3"), "", suffix)


def _hdf5(path: Path) -> Stored:
    with h5py_for("read .h5 files").File(path, "r") as file:
        config = file.attrs.get("model_config")
        weights = file.get("model_weights", file)
        said = {
            key: text(weights.attrs.get(key, file.attrs.get(key, "")))
            for key in ("keras_version", "backend")
        }
        if config is not None and "model_weights" not in file:
            raise KeyError("it has a model, but no weights")
    if config is None:
        raise ModelLoadError(
            f"{str(path)!r} holds weights only, not the model. Give the function that builds the "
            "model, and this file with --weights (weights= in Python): package.module:function."
        )
    return Stored(json.loads(text(config)), said["keras_version"], said["backend"], ".h5")


def text(value: Any) -> str:
    """A string of an HDF5 file, which may be bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def h5py_for(purpose: str) -> Any:
    """The package h5py.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        return importlib.import_module("h5py")
    except ImportError as exc:
        raise DependencyError(
            f"h5py is needed to {purpose}, and importing it failed: {exc}. It comes with the "
            'export: pip install "layertap[export,cpu]"'
        ) from exc


def check_code(config: Any, path: Path) -> None:
    """Return if no Python code stands in a configuration.

    Raises:
        UnsafeModelError: there is some.
    """
    for item in _objects(config):
        inner = item.get("config")
        name = inner.get("name") if isinstance(inner, dict) else None
        if item["class_name"] == "Lambda":
            what = f"a Lambda layer ({name or 'lambda'!r})"
        elif item["class_name"] == "__lambda__":
            what = "a lambda function"
        else:
            continue
        raise UnsafeModelError(
            f"{str(path)!r} has {what}, whose Python code would run while it is loaded. If you "
            "trust the file, export it with --unsafe (unsafe=True in Python)."
        )


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Everything in a configuration that has a class, at any depth."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        for item in config.values():
            yield from _objects(item)
    elif isinstance(config, list):
        for item in config:
            yield from _objects(item)
