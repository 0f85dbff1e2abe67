"""Records as `.npz` files.

A file has in `layertap.record` a JSON text: the version of the layout, the layers with their
shapes, and what else is no array. `values` are the kept values of all layers and batches, one after
the other, `means` and `squares` those of all channels. `classes/3` are the best classes of layer 3,
and `input/0/1` is the second input of the first batch.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from layertap._engine.program import Program
from layertap._escaping import one_line
from layertap.errors import ImageError, InputError
from layertap.format.atomic import check_target, replacing
from layertap.format.select import Selector
from layertap.format.source import open_regular

from .inputs import Sides, batches
from .matching import Tensor
from .record import (
    MOST_BYTES,
    MOST_INPUT_BYTES,
    Record,
    Recorded,
    make_record,
    recorded_tensors,
)
from .sizes import bytes_of_layers
from .sketch import Sketch

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe

KEY = "layertap.record"
"""The entry with the JSON text."""

VERSION = 1
"""Of the layout of the file."""

VALUES = 512
"""Values that are kept of a layer, in all batches together; at least `FEWEST` of each."""

FEWEST, MOST = 4, 64
"""Least and most values that are kept of a layer and a batch."""

UNKNOWN = 32
"""Values that are kept of a batch if the number of batches is not known before."""


def record_to_file(
    program: Program,
    inputs: Any,
    path: str | os.PathLike[str],
    layers: Selector | Iterable[Selector] | None = None,
    *,
    keep_inputs: bool = True,
    preprocess: Recipe | None = None,
    failed: Callable[[str, ImageError], None] | None = None,
) -> Record:
    """See `Model.record`; also returns the record.

    Args:
        failed: called with each image that cannot be read, and the reason; it is left out then.
    """
    given = [program.source.path] if program.source.path else []
    check_target(path, ".npz", given)
    tensors, hidden = recorded_tensors(program, layers)
    nbytes = bytes_of_layers(program, [one.name for one in tensors], inputs, preprocess)
    needs = program.plan([one.tensor for one in tensors]).needs
    notes: list[str] = []
    samples = batches(Sides(program, program, needs, needs), inputs, 1, preprocess, notes, failed)
    length = _known_length(inputs)
    kept = UNKNOWN if length is None else max(FEWEST, min(MOST, VALUES // max(length, 1)))
    record = make_record(
        program, samples, tensors, hidden, nbytes, kept=kept, keep_inputs=keep_inputs
    )
    with replacing(path) as temporary:
        write(record, temporary)
    return record


def _known_length(inputs: Any) -> int | None:
    """The number of samples, as far as it is known before they are read."""
    if isinstance(inputs, Mapping):
        inputs = next(iter(inputs.values()), None)
    shape = getattr(inputs, "shape", None)
    if isinstance(shape, tuple) and shape:
        return int(shape[0])
    return len(inputs) if isinstance(inputs, (list, tuple)) else None


# --- The file -----------------------------------------------------------------------------------


def write(record: Record, path: Path) -> None:
    """Write a record."""
    arrays: dict[str, NDArray[Any]] = {}
    rows = []
    values: list[NDArray[np.float64]] = []
    for at, layer in enumerate(record.layers):
        tensor, sketch = layer.tensor, layer.sketch
        same = len(set(sketch.shapes)) == 1
        row = {
            "name": tensor.name,
            "type": tensor.type,
            "shape": list(tensor.shape),
            "dtype": tensor.dtype,
            "tensor": tensor.tensor,
            "allowed": layer.allowed,
            "largest": sketch.largest,
            "nonfinite": sketch.nonfinite,
            "problem": sketch.problem,
            "shapes": [list(shape) for shape in sketch.shapes[: 1 if same else None]],
            "channels": len(sketch.means),
        }
        if sketch.classes:
            row["classes"] = [len(some) for some in sketch.classes]
            arrays[f"classes/{at}"] = np.concatenate(sketch.classes)
        rows.append(row)
        values += sketch.values
    arrays["values"] = _narrowed(_joined(values))
    arrays["means"] = _narrowed(_joined([x.sketch.means for x in record.layers]))
    arrays["squares"] = _narrowed(_joined([x.sketch.squares for x in record.layers]))
    for number, feeds in enumerate(record.inputs):
        for at, name in enumerate(record.input_names):
            if name in feeds:
                arrays[f"input/{number}/{at}"] = feeds[name]
    about = {
        "version": VERSION,
        "name": record.name,
        "made_with": record.made_with,
        "digest": record.digest,
        "tolerance": record.tolerance,
        "counts": record.counts,
        "kept": record.kept,
        "inputs": record.input_names,
        "has_inputs": bool(record.inputs),
        "hidden": record.hidden,
        "layers": rows,
    }
    arrays[KEY] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    return np.concatenate(parts) if parts else np.zeros(0)


def _narrowed(values: NDArray[np.float64]) -> NDArray[Any]:
    """The values in float32, if all of them are such numbers."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    return narrow if np.array_equal(narrow, values, equal_nan=True) else values


def is_record(path: Any) -> bool:
    """Whether a path has the suffix of a record."""
    return isinstance(path, (str, os.PathLike)) and Path(os.fsdecode(path)).suffix == ".npz"


def read(path: str | os.PathLike[str]) -> Record:
    """Read a record.

    Raises:
        InputError: there is no such file, or it is no record, damaged, or of a newer layertap.
    """
    name = os.fsdecode(path)
    try:
        file = open_regular(path)
    except FileNotFoundError as exc:
        raise InputError(f"there is no record {name!r}.") from exc
    except OSError as exc:
        raise InputError(f"the record {name!r} cannot be read: {exc.strerror}.") from exc
    with file:
        try:
            return _read(file, name)
        except InputError:
            raise
        except Exception as exc:  # zipfile, zlib, json and numpy raise many different exceptions
            reason = one_line(str(exc) or type(exc).__name__)
            raise InputError(
                f"{name!r} is damaged, or its recording was interrupted ({reason}). Record it "
                "again."
            ) from exc


def _read(file: BinaryIO, name: str) -> Record:
    """A record from an open file. Damage raises whatever Python raises."""
    with zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MOST_BYTES + MOST_INPUT_BYTES:
        raise InputError(
            f"{name!r} says that it holds {size / 1e9:.1f} GB, more than any record has. Record it "
            "again."
        )
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        if KEY not in arrays.files:
            raise InputError(
                f"{name!r} holds arrays, but is no record of `layertap record`. Give a record, or "
                "the .onnx file, and a batch after both files."
            )
        about = json.loads(arrays[KEY].tobytes().decode())
        if _count(about["version"], 1) > VERSION:
            raise InputError(
                f"{name!r} was recorded by a newer layertap. Upgrade layertap to read it."
            )
        return _parsed(about, arrays)


def _parsed(about: Any, arrays: Any) -> Record:
    """A record out of its JSON and arrays. Damage raises whatever Python raises."""
    counts = tuple(_count(count) for count in about["counts"])
    kept = _count(about["kept"], 1)
    flat, means, squares = (_numbers(arrays[key]) for key in ("values", "means", "squares"))
    if not np.isfinite(means).all() or not (squares >= 0).all():
        raise ValueError("its means are not finite, or its mean squares are not positive")
    layers = []
    at_value = at_channel = 0
    for at, row in enumerate(about["layers"]):
        shapes = [tuple(map(_count, shape)) for shape in row["shapes"]]
        if len(shapes) == 1:
            shapes *= len(counts)
        if not row["problem"] and len(shapes) != len(counts):
            raise ValueError(f"layer {at} has {len(shapes)} batches instead of {len(counts)}")
        some = []
        for shape in shapes:
            length = min(math.prod(shape), kept)
            some.append(flat[at_value : at_value + length])
            at_value += length
        channels = _count(row["channels"])
        part = slice(at_channel, at_channel + channels)
        at_channel += channels
        classes: list[NDArray[np.int64]] = []
        if "classes" in row:
            lengths = [_count(count) for count in row["classes"]]
            best = np.asarray(arrays[f"classes/{at}"], np.int64)
            if sum(lengths) != best.size:
                raise ValueError(f"layer {at} has {best.size} classes instead of {sum(lengths)}")
            classes = np.split(best, np.cumsum(lengths)[:-1])
        tensor = Tensor(
            str(row["name"]),
            str(row["type"]),
            tuple(None if size is None else _count(size) for size in row["shape"]),
            str(row["dtype"]),
            str(row["tensor"]),
            at,
        )
        sketch = Sketch(
            shapes,
            some,
            means[part],
            squares[part],
            _size(row["largest"]),
            _count(row["nonfinite"]),
            classes,
            str(row["problem"]),
        )
        layers.append(Recorded(tensor=tensor, allowed=_size(row["allowed"]), sketch=sketch))
    if at_value != len(flat) or at_channel != len(means) or at_channel != len(squares):
        raise ValueError("the number of its values is not that of its layers")
    if len({layer.tensor.name for layer in layers}) < len(layers):
        raise ValueError("two of its layers have one name")
    names = tuple(map(str, about["inputs"]))
    inputs = []
    for number in range(len(counts) if about["has_inputs"] else 0):
        keys = {f"input/{number}/{at}": name for at, name in enumerate(names)}
        inputs.append({name: arrays[key] for key, name in keys.items() if key in arrays.files})
    if any(feeds.keys() != inputs[0].keys() for feeds in inputs):
        raise ValueError("an input is missing")
    return Record(
        name=str(about["name"]),
        made_with=dict(about["made_with"]),
        digest=dict(about["digest"]),
        tolerance=_size(about["tolerance"]),
        counts=counts,
        kept=kept,
        layers=tuple(layers),
        hidden={str(name): str(why) for name, why in about["hidden"].items()},
        inputs=tuple(inputs),
        input_names=names,
    )


def _count(value: Any, least: int = 0) -> int:
    """A whole number of at least `least`."""
    if type(value) is not int or value < least:
        raise ValueError(f"{value!r} is not a whole number of at least {least}")
    return value


def _size(value: Any) -> float:
    """A finite number of at least 0."""
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is not a number of at least 0")
    return float(value)


def _numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    """A row of numbers with a point."""
    if values.ndim != 1 or values.dtype.kind != "f":
        raise ValueError(f"an array is {values.dtype} {values.shape} instead of a row of floats")
    return values.astype(np.float64)
