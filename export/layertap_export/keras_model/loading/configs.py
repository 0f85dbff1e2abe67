"""Read the configuration in a Keras file, without running any code from it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layertap.errors import DependencyError
from layertap.format.source import describe
from layertap_export.errors import ModelLoadError, UnsafeModelError

from .hdf5 import check_archive, opened

HDF5 = b"\x89HDF\r\n\x1a\n"
"""First bytes of HDF5 files: Keras's `.h5` files, and `.keras` files from before 2023."""

ZIP = b"PK"
"""First bytes of zip archives."""


@dataclass(frozen=True)
class Stored:
    """The configuration of the model in a file, and what wrote it."""

    config: Any
    """The result of `model.get_config()`, with the name of the class: a dict."""
    version: str
    """Version of the Keras that wrote the file; empty if not stated."""
    backend: str
    """Backend of that Keras; empty if not stated."""
    suffix: str
    """File name suffix by which Keras recognizes the format; empty for an unpacked archive."""

    @property
    def by_keras_2(self) -> bool:
        """Whether Keras 2 or 1 wrote it; the first versions of Keras stated no version."""
        return int(self.version.partition(".")[0] or 1) < 3


def read(path: Path) -> Stored:
    """Read the configuration in a file, or in a folder with an unpacked `.keras` archive.

    Raises:
        ModelLoadError: it is not a Keras model file, or it is incomplete.
        DependencyError: the file is an HDF5 file, and h5py is not installed.
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
    except (ModelLoadError, DependencyError):  # the first includes UnsafeModelError
        raise
    except Exception as exc:  # for damaged files h5py and zipfile raise many types of exceptions
        reason = exc.args[0] if isinstance(exc, KeyError) else exc
        raise ModelLoadError(
            f"{str(path)!r} is not a Keras model file, or it is damaged: {reason}"
        ) from exc
    if path.name in ("saved_model.pb", "saved_model.pbtxt"):
        raise ModelLoadError(
            f"{str(path)!r} is part of a SavedModel. Give the folder: {str(path.parent)!r}."
        )
    looks = "an ONNX model" if path.suffix == ".onnx" else describe(start)
    raise ModelLoadError(
        f"{str(path)!r} is not a Keras model file (.keras or .h5)."
        + (f" It looks like {looks}." if looks else "")
    )


_JSON_FILES: tuple[str, ...] = ("config.json", "metadata.json")
"""The members of a `.keras` archive that describe the model."""

WEIGHTS = "model.weights.h5"
"""The member with its weights."""


def _unpacked(path: Path) -> Stored:
    if not (path / "config.json").is_file():
        inside = sorted(x.name for x in path.iterdir() if x.suffix in (".keras", ".h5", ".hdf5"))
        hint = f" Give the file in it: {', '.join(map(repr, inside[:3]))}." if inside else ""
        raise ModelLoadError(f"{str(path)!r} is a folder, but not a SavedModel.{hint}")
    if not (path / WEIGHTS).is_file():
        raise ModelLoadError(f"{str(path)!r} has a config.json, but no model.weights.h5.")
    try:
        present = [name for name in _JSON_FILES if (path / name).is_file()]
        stored = _of_archive({name: (path / name).read_bytes() for name in present}, suffix="")
    except (OSError, ValueError) as exc:
        raise ModelLoadError(f"the config.json in {str(path)!r} is damaged: {exc}") from exc
    try:
        with opened(path / WEIGHTS, path / WEIGHTS, "read .keras files"):
            return stored  # its weights are self-contained
    except OSError as exc:
        raise ModelLoadError(f"{str(path / WEIGHTS)!r} is damaged: {exc}") from exc


def _archive(path: Path) -> Stored:
    with zipfile.ZipFile(path) as archive:
        check_archive(archive, path)
        names = archive.namelist()
        if "config.json" not in names:
            raise ModelLoadError(
                f"{str(path)!r} is a zip archive without the config.json of a Keras model."
            )
        contents = {name: archive.read(name) for name in _JSON_FILES if name in names}
        if WEIGHTS in names:
            with archive.open(WEIGHTS) as weights, opened(weights, path, "read .keras files"):
                pass  # it is self-contained
    return _of_archive(contents, suffix=".keras")


def _of_archive(contents: Mapping[str, bytes], suffix: str) -> Stored:
    metadata = json.loads(contents.get("metadata.json", b"{}"))
    config = json.loads(contents["config.json"])
    # Archives have had a metadata.json since the format was introduced, in Keras 2.12.
    return Stored(config, str(metadata.get("keras_version") or "3"), "", suffix)


def _hdf5(path: Path) -> Stored:
    with opened(path, path, "read .h5 files") as file:
        config = file.attrs.get("model_config")
        weights = file.get("model_weights", file)
        written_by = {
            key: text(weights.attrs.get(key, file.attrs.get(key, "")))
            for key in ("keras_version", "backend")
        }
        if config is not None and "model_weights" not in file:
            raise KeyError("it has a model_config, but no model_weights")
    if config is None:
        raise ModelLoadError(
            f"{str(path)!r} contains only weights, not the model. Give the function that builds "
            "the model, package.module:function, and this file with --weights (weights= in Python)."
        )
    return Stored(
        json.loads(text(config)), written_by["keras_version"], written_by["backend"], ".h5"
    )


def text(value: Any) -> str:
    """A string from an HDF5 file, which may be stored as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def layer_names(path: Path) -> list[str] | None:
    """The names of the layers of the model itself, without those inside them.

    Returns:
        The names; `None` where the file does not state them, as for a subclassed model.

    Raises:
        ModelLoadError, DependencyError: see `read`.
    """
    config = read(path).config
    inner = config.get("config") if isinstance(config, dict) else None
    if isinstance(inner, list):  # a Sequential of the first versions of Keras
        inner = {"layers": inner}
    rows = inner.get("layers") if isinstance(inner, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    names = []
    for row in rows:
        stated = row.get("config")
        name = row.get("name") or (stated.get("name") if isinstance(stated, dict) else None)
        if not isinstance(name, str):
            return None
        names.append(name)
    return names or None


def ensure_no_code(config: Any, path: Path) -> None:
    """Check that a configuration contains no Python code, and reads no other files.

    Raises:
        UnsafeModelError: it has a Lambda layer, a lambda function, a layer that loads a SavedModel,
            or a lookup layer whose vocabulary is a file.
    """
    for item in _objects(config):
        inner = item.get("config")
        inner = inner if isinstance(inner, dict) else {}
        kind, name = str(item["class_name"]).rpartition(">")[2], inner.get("name")
        effect = "loading it would run Python code from the file"
        if kind == "Lambda":
            what = f"a Lambda layer ({name or 'lambda'!r})"
        elif kind == "__lambda__":
            what = "a lambda function"
        elif kind in ("TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"):
            what = f"a {kind} ({name!r})"
            effect = "loading it would read other files, or run code from this one"
        elif isinstance(inner.get("vocabulary"), str) and kind in LOOKUPS:
            what = f"a layer {name!r} whose vocabulary is the file {inner['vocabulary']!r}"
            effect = "loading it would read that file"
        else:
            continue
        raise UnsafeModelError(
            f"{str(path)!r} has {what}: {effect}. If you trust the file, export it with --unsafe "
            "(unsafe=True in Python)."
        )


LOOKUPS = frozenset({"IndexLookup", "IntegerLookup", "StringLookup", "TextVectorization"})
"""Layers that take a vocabulary, or the path of a file with one."""


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """All dicts in a configuration that have a `class_name`, at any depth."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        for item in config.values():
            yield from _objects(item)
    elif isinstance(config, list):
        for item in config:
            yield from _objects(item)
