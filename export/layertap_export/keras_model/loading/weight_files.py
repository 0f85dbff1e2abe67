"""Read the arrays in a weights file of any version of Keras.

There are two layouts, both in HDF5. Neither requires running code from the file:

- attributes: the attribute `layer_names` lists the layers. Each is a group whose attribute
  `weight_names` lists its datasets, such as `conv1/conv/kernel:0`. Keras 2 wrote this layout to
  `.h5` files; Keras 3 writes it to `.h5` files of whole models, in a group `model_weights`.
- groups: each layer has a group such as `layers/conv2d_3/vars` with datasets `0`, `1`, ... The
  group's name consists of the layer's class and its number among the layers of that class. Its
  attribute `name`, which older files lack, is the layer's name. This is the layout of `.weights.h5`
  files, and of `model.weights.h5` in a `.keras` archive.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from layertap.errors import DependencyError, suggest
from layertap_export.errors import ModelLoadError, WeightsError

from .configs import HDF5, WEIGHTS, ZIP, text
from .hdf5 import check_archive, h5py_for, opened

Arrays = dict[str, NDArray[Any]]
"""The arrays of one layer, by the variable's name (`kernel`) or its index in the layer (`0`)."""

_KINDS = "a Keras weights file (.weights.h5, .h5 or .keras)"


@dataclass(frozen=True, eq=False)
class SavedLayer:
    """The weights in a file of one layer, without those of layers inside it."""

    path: tuple[str, ...]
    """Names of the layers from the model down to this one, as in the file."""
    arrays: Arrays
    numbered: bool = False
    """Whether its name consists only of its class and its number among the layers of that class."""

    @property
    def name(self) -> str:
        """The layer's own name."""
        return self.path[-1]


def read_weights(path: str | os.PathLike[str]) -> list[SavedLayer]:
    """The layers with weights in a Keras file, in the order of the model.

    The state of optimizers and random generators is not included.

    Raises:
        WeightsError: the file is missing, or is not a Keras weights file.
        DependencyError: h5py, which comes with Keras, is not installed.
    """
    with _opened(path) as root:
        names = _listed(root, "layer_names")
        saved = [*(_of_attributes(root, names) if names else _of_groups(root))]
    if not saved:
        raise WeightsError(
            f"{os.fspath(path)!r} is an HDF5 file, but contains no weights of Keras layers."
        )
    return saved


def listed_layers(path: str | os.PathLike[str]) -> list[str]:
    """The names of all layers of the model in a file of Keras 2, also of those without weights.

    Other files do not have this list: the result is empty.

    Raises:
        WeightsError: the file is missing, or is not a Keras weights file.
        DependencyError: h5py, which comes with Keras, is not installed.
    """
    with _opened(path) as root:
        return _listed(root, "layer_names")


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open the HDF5 group that contains the layers."""
    path = Path(path)
    _check_exists(path)
    try:
        with _hdf5(path) as source, opened(source, path, "read a weights file") as file:
            root = file.get("model_weights", file)
            if text(root.attrs.get("backend", "")) == "theano":
                raise WeightsError(
                    f"{str(path)!r} was written with Theano, which stores convolution kernels "
                    "flipped. Load it in Keras 2 on TensorFlow and save it again."
                )
            yield root
    except (ModelLoadError, DependencyError):  # the first includes WeightsError
        raise
    except Exception as exc:  # for damaged files h5py and zipfile raise many types of exceptions
        reason = exc.args[0] if isinstance(exc, KeyError) else exc
        raise WeightsError(
            f"{str(path)!r} cannot be read as {_KINDS}; it may be damaged ({reason})."
        ) from exc


def structural_suffix(path: Path) -> str | None:
    """The suffix by which Keras recognizes a file in the layout of groups; `None` for the other
    layout."""
    with path.open("rb") as file:
        if file.read(len(ZIP)) == ZIP:
            return ".keras"
    with h5py_for("read a weights file").File(path, "r") as file:
        return ".weights.h5" if "layers" in file else None


def _check_exists(path: Path) -> None:
    if path.is_dir():
        raise WeightsError(f"{str(path)!r} is a folder; give {_KINDS}.")
    if not path.exists():
        others = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise WeightsError(f"there is no file {str(path)!r}.{suggest(path.name, others)}")


@contextmanager
def _hdf5(path: Path) -> Iterator[BinaryIO]:
    """The HDF5 data in a file: the file itself, or the weights in a `.keras` archive."""
    with path.open("rb") as file:
        start = file.read(len(HDF5))
        file.seek(0)
        if start == HDF5:
            yield file
        elif start.startswith(ZIP):
            with zipfile.ZipFile(file) as archive:
                check_archive(archive, path)
                yield io.BytesIO(archive.read(WEIGHTS))
        else:
            raise WeightsError(f"{str(path)!r} is not {_KINDS}.")


def _of_attributes(root: Any, names: Sequence[str]) -> Iterator[SavedLayer]:
    """The layers in the layout of attributes."""
    for name in names:
        group = root[name]
        scopes: dict[str, Arrays] = {}
        for weight in _listed(group, "weight_names"):
            scope, _, variable = weight.rpartition("/")
            scopes.setdefault(scope, {})[variable.partition(":")[0]] = group[weight][()]
        for scope, arrays in scopes.items():
            # A layer with several scopes is a model; each scope is one of its layers.
            inside = re.sub(r"/\w+_cell(_\d+)?$", "", scope.removeprefix(f"{name}/"))
            yield SavedLayer((name,) if len(scopes) == 1 else (name, inside), arrays)


def _of_groups(root: Any) -> Iterator[SavedLayer]:
    """The layers in the layout of groups."""
    owners: list[str] = []

    def visit(path: str, group: Any) -> None:
        owner, _, last = path.rpartition("/")
        for_training = {"optimizer", "seed_generator"}.intersection(owner.split("/"))
        if last == "vars" and owner and not for_training and len(group):
            owners.append(owner)

    root.visititems(visit)
    for owner in sorted(owners, key=_natural_order):
        steps = owner.removesuffix("/cell").split("/")  # the cell of an RNN has the RNN's name
        ancestors = ["/".join(steps[: depth + 1]) for depth in range(len(steps))]
        names = [_name(root, ancestor) for ancestor in ancestors]
        group = root[f"{owner}/vars"]
        yield SavedLayer(
            tuple(
                name or ancestor.rpartition("/")[2]
                for name, ancestor in zip(names, ancestors, strict=True)
                if name or not ancestor.endswith("layers")
            ),
            {key: group[key][()] for key in group},
            numbered=names[-1] is None,
        )


def _name(root: Any, owner: str) -> str | None:
    """The name of a layer; `None` if the file does not state it."""
    group = root.get(f"{owner}/vars")
    name = group.attrs.get("name") if group is not None else None
    return None if name is None else text(name)


def _natural_order(path: str) -> list[tuple[str, int]]:
    """Sort key that puts `conv2d_2` before `conv2d_10`, at each level of a path."""
    steps = (re.fullmatch(r"(.*?)(?:_(\d+))?", step) for step in path.split("/"))
    return [(step[1], int(step[2] or 0)) for step in steps if step]


def _listed(group: Any, attribute: str) -> list[str]:
    """The strings in an attribute; Keras splits a long one into `name0`, `name1`, ..."""
    if attribute in group.attrs:
        return [text(value) for value in group.attrs[attribute]]
    parts = (f"{attribute}{number}" for number in itertools.count())
    present = itertools.takewhile(lambda part: part in group.attrs, parts)
    return [text(value) for part in present for value in group.attrs[part]]
