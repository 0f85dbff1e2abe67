"""The arrays in any weights file that Keras has written.

Two layouts have been in use, both in HDF5, and neither needs code from the file to be run:

- attributes: `layer_names` lists the layers, each a group whose `weight_names` lists its datasets,
  such as `conv1/conv/kernel:0`. Keras 2 wrote its `.h5` files so, Keras 3 writes whole models to
  `.h5` so, there below a group `model_weights`.
- groups: each layer has a group such as `layers/conv2d_3/vars` with datasets `0`, `1`, ...; the
  group's name is the layer's class and its number among the layers of that class, its attribute
  `name`, which older files lack, the layer's name. Keras 3's `.weights.h5` files are so, and the
  `model.weights.h5` in a `.keras` archive.
"""

from __future__ import annotations

import io
import itertools
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from layertap.errors import suggest

from ._require import require
from .errors import WeightsError

Arrays = dict[str, NDArray[Any]]
"""One layer's arrays, by the variable's name (`kernel`) or its number in the layer (`0`)."""

_KINDS = "a Keras weights file (.weights.h5, .h5 or .keras)"


def read_weights(path: str | os.PathLike[str]) -> dict[str, Arrays]:
    """The arrays in a Keras file: layer name as the file has it -> the layer's arrays.

    What optimisers keep is left out.

    Raises:
        WeightsError: the file is missing, or is not a Keras weights file.
        DependencyError: h5py, which comes with Keras, is not installed.
    """
    h5py = require("h5py", to="read a weights file", install="layertap[export]")
    path = Path(path)
    _check_exists(path)
    try:
        with _hdf5(path) as source, h5py.File(source, "r") as file:
            root = file.get("model_weights", file)
            if _text(root.attrs.get("backend", "")) == "theano":
                raise WeightsError(
                    f"{str(path)!r} was written with Theano, whose convolution kernels are turned "
                    "around. Load it in Keras 2 on TensorFlow and save it again."
                )
            names = _listed(root, "layer_names")
            saved = _read_attributes(root, names) if names else _read_groups(root)
    except WeightsError:
        raise
    except Exception as exc:  # a damaged file makes h5py and zipfile raise all sorts of things
        reason = exc.args[0] if isinstance(exc, KeyError) else exc
        raise WeightsError(
            f"{str(path)!r} cannot be read as {_KINDS}; it may be damaged ({reason})."
        ) from exc
    if not saved:
        raise WeightsError(f"{str(path)!r} is an HDF5 file, but holds no weights of Keras layers.")
    return saved


def _check_exists(path: Path) -> None:
    if path.is_dir():
        raise WeightsError(f"{str(path)!r} is a folder; give {_KINDS}.")
    if not path.exists():
        there = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise WeightsError(f"there is no file {str(path)!r}.{suggest(path.name, there)}")


@contextmanager
def _hdf5(path: Path) -> Iterator[BinaryIO]:
    """The HDF5 data in a file: the file itself, or the weights in a `.keras` archive."""
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(0)
        if start == b"\x89HDF\r\n\x1a\n":
            yield file
        elif start.startswith(b"PK"):
            with zipfile.ZipFile(file) as archive:
                yield io.BytesIO(archive.read("model.weights.h5"))
        else:
            raise WeightsError(f"{str(path)!r} is not {_KINDS}.")


def _read_attributes(root: Any, names: list[str]) -> dict[str, Arrays]:
    saved: dict[str, Arrays] = {}
    for name in names:
        group = root[name]
        weight_names = _listed(group, "weight_names")
        scopes = {weight.rpartition("/")[0] for weight in weight_names}
        for weight in weight_names:
            scope, _, variable = weight.rpartition("/")
            # With several scopes the layer is a model, and each scope one of that model's layers.
            layer = name if len(scopes) == 1 else scope
            saved.setdefault(layer, {})[variable.partition(":")[0]] = group[weight][()]
    return saved


def _read_groups(root: Any) -> dict[str, Arrays]:
    saved: dict[str, Arrays] = {}

    def visit(path: str, group: Any) -> None:
        owner, _, last = path.rpartition("/")
        name = owner.rpartition("/")[2]
        if last != "vars" or name in ("", "optimizer") or not len(group):
            return
        name = _text(group.attrs.get("name", name))
        # Two layers of one name, in two models inside the model, stay apart.
        saved[owner if name in saved else name] = {key: group[key][()] for key in group}

    root.visititems(visit)
    return saved


def _listed(group: Any, attribute: str) -> list[str]:
    """The strings of an attribute; Keras cuts a long one into `name0`, `name1`, ..."""
    if attribute in group.attrs:
        return [_text(value) for value in group.attrs[attribute]]
    pieces = (f"{attribute}{number}" for number in itertools.count())
    present = itertools.takewhile(lambda piece: piece in group.attrs, pieces)
    return [_text(value) for piece in present for value in group.attrs[piece]]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
