"""The arrays in any weights file that Keras has written.

Two layouts have been in use, both in HDF5, and neither needs code from the file to be run:

- attributes: `layer_names` lists the layers, each a group whose `weight_names` lists its datasets,
  such as `conv1/conv/kernel:0`. Keras 2 wrote its `.h5` files so, Keras 3 writes whole models to
  `.h5` so, there below a group `model_weights`.
- groups: each layer has a group such as `layers/conv2d_3/vars` with datasets `0`, `1`, ...; the
  group's name is the layer's class and its number among the layers of that class, its attribute
  `name`, which older files lack, the layer's name. `.weights.h5` files are so, and the
  `model.weights.h5` in a `.keras` archive.
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

from layertap.errors import suggest
from layertap_export.errors import WeightsError

from .configs import HDF5, ZIP, h5py_for, text

Arrays = dict[str, NDArray[Any]]
"""One layer's arrays, by the variable's name (`kernel`) or its number in the layer (`0`)."""

_KINDS = "a Keras weights file (.weights.h5, .h5 or .keras)"


@dataclass(frozen=True, eq=False)
class SavedLayer:
    """What a file holds for one layer that has weights of its own."""

    path: tuple[str, ...]
    """Names from below the model down to the layer, as the file has them."""
    arrays: Arrays
    numbered: bool = False
    """Whether its name only says its class and its number among the layers of that class."""

    @property
    def name(self) -> str:
        """The layer's own name."""
        return self.path[-1]


def read_weights(path: str | os.PathLike[str]) -> list[SavedLayer]:
    """The layers in a Keras file that have weights, in the order in which the model has them.

    What optimisers and random numbers keep is left out.

    Raises:
        WeightsError: the file is missing, or is not a Keras weights file.
        DependencyError: h5py, which comes with Keras, is not installed.
    """
    with _opened(path) as root:
        names = _listed(root, "layer_names")
        saved = [*(_of_attributes(root, names) if names else _of_groups(root))]
    if not saved:
        raise WeightsError(
            f"{os.fspath(path)!r} is an HDF5 file, but holds no weights of Keras layers."
        )
    return saved


def listed_layers(path: str | os.PathLike[str]) -> list[str]:
    """The model's layers, those without weights too, as Keras 2 lists them; else none.

    Raises:
        WeightsError: the file is missing, or is not a Keras weights file.
        DependencyError: h5py, which comes with Keras, is not installed.
    """
    with _opened(path) as root:
        return _listed(root, "layer_names")


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The HDF5 group that holds the layers."""
    path = Path(path)
    _check_exists(path)
    h5py = h5py_for("read a weights file")
    try:
        with _hdf5(path) as source, h5py.File(source, "r") as file:
            root = file.get("model_weights", file)
            if text(root.attrs.get("backend", "")) == "theano":
                raise WeightsError(
                    f"{str(path)!r} was written with Theano, whose convolution kernels are turned "
                    "around. Load it in Keras 2 on TensorFlow and save it again."
                )
            yield root
    except WeightsError:
        raise
    except Exception as exc:  # a damaged file makes h5py and zipfile raise all sorts of things
        reason = exc.args[0] if isinstance(exc, KeyError) else exc
        raise WeightsError(
            f"{str(path)!r} cannot be read as {_KINDS}; it may be damaged ({reason})."
        ) from exc


def structural_suffix(path: Path) -> str | None:
    """The ending by which Keras knows a file whose layers are in groups; `None` if they are not."""
    with path.open("rb") as file:
        if file.read(len(ZIP)) == ZIP:
            return ".keras"
    with h5py_for("read a weights file").File(path, "r") as file:
        return ".weights.h5" if "layers" in file else None


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
        start = file.read(len(HDF5))
        file.seek(0)
        if start == HDF5:
            yield file
        elif start.startswith(ZIP):
            with zipfile.ZipFile(file) as archive:
                yield io.BytesIO(archive.read("model.weights.h5"))
        else:
            raise WeightsError(f"{str(path)!r} is not {_KINDS}.")


def _of_attributes(root: Any, names: Sequence[str]) -> Iterator[SavedLayer]:
    for name in names:
        group = root[name]
        scopes: dict[str, Arrays] = {}
        for weight in _listed(group, "weight_names"):
            scope, _, variable = weight.rpartition("/")
            scopes.setdefault(scope, {})[variable.partition(":")[0]] = group[weight][()]
        for scope, arrays in scopes.items():
            # With several scopes the layer is a model, and each scope one of that model's layers.
            inside = re.sub(r"/\w+_cell(_\d+)?$", "", scope.removeprefix(f"{name}/"))
            yield SavedLayer((name,) if len(scopes) == 1 else (name, inside), arrays)


def _of_groups(root: Any) -> Iterator[SavedLayer]:
    found: list[str] = []

    def visit(path: str, group: Any) -> None:
        owner, _, last = path.rpartition("/")
        kept_for_training = {"optimizer", "seed_generator"}.intersection(owner.split("/"))
        if last == "vars" and owner and not kept_for_training and len(group):
            found.append(owner)

    root.visititems(visit)
    for owner in sorted(found, key=_in_order):
        steps = owner.removesuffix("/cell").split("/")  # an RNN's, which goes by its name
        owners = ["/".join(steps[: depth + 1]) for depth in range(len(steps))]
        names = [_name(root, place) for place in owners]
        group = root[f"{owner}/vars"]
        yield SavedLayer(
            tuple(
                name or place.rpartition("/")[2]
                for name, place in zip(names, owners, strict=True)
                if name or not place.endswith("layers")
            ),
            {key: group[key][()] for key in group},
            numbered=names[-1] is None,
        )


def _name(root: Any, owner: str) -> str | None:
    """The layer's name, where the file tells it."""
    group = root.get(f"{owner}/vars")
    name = group.attrs.get("name") if group is not None else None
    return None if name is None else text(name)


def _in_order(path: str) -> list[tuple[str, int]]:
    """`conv2d_2` before `conv2d_10`, step by step."""
    steps = (re.fullmatch(r"(.*?)(?:_(\d+))?", step) for step in path.split("/"))
    return [(step[1], int(step[2] or 0)) for step in steps if step]


def _listed(group: Any, attribute: str) -> list[str]:
    """The strings of an attribute; Keras cuts a long one into `name0`, `name1`, ..."""
    if attribute in group.attrs:
        return [text(value) for value in group.attrs[attribute]]
    pieces = (f"{attribute}{number}" for number in itertools.count())
    present = itertools.takewhile(lambda piece: piece in group.attrs, pieces)
    return [text(value) for piece in present for value in group.attrs[piece]]
