"""Files with the results of a run: `.npz`, `.npy` or `.csv`, by the suffix."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.errors import UsageError
from layertap.format.atomic import replacing
from layertap.format.text import shape_text

from .printing import tell
from .ready_batch import files_key

SUFFIXES = (".npz", ".npy", ".csv")

MOST_COLUMNS = 16_384
"""The most columns of a CSV file: what spreadsheets read."""


def check_suffix(path: str) -> None:
    """Check that the suffix names a format.

    Raises:
        UsageError: it does not.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"the name of the output must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got "
            f"{path!r}."
        )


def write_results(path: Path, names: list[str], results: Mapping[str, Any]) -> None:
    """Write results, with a row for each image.

    Args:
        path: an `.npz` file holds every result, and the images; an `.npy` file one result; a
            `.csv` file a column for each value of a row.
        names: the images.
        results: by layer or output.

    Raises:
        UsageError: the results do not fit the format.
        OutputError: the file cannot be written.
    """
    suffix = path.suffix.lower()
    arrays = {name: _storable(name, value, suffix) for name, value in results.items()}
    if suffix == ".npy":
        if len(arrays) != 1:
            raise UsageError(
                f"an .npy file holds one result, got {len(arrays)}. Select one layer, or give an "
                ".npz file."
            )
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.lib.format.write_array(file, next(iter(arrays.values())), allow_pickle=False)
    elif suffix == ".csv":
        _write_csv(path, names, arrays)
    else:
        _write_npz(path, names, arrays)
    shapes = [f"{name} {shape_text(value.shape)}" for name, value in results.items()]
    listed = ", ".join(shapes[:3]) + (f" and {len(shapes) - 3} more" if len(shapes) > 3 else "")
    tell(f"wrote {path}: {listed}")


def _write_csv(path: Path, names: list[str], arrays: dict[str, NDArray[Any]]) -> None:
    """A header, and a row for each image: its path, and all values in the order of the axes."""
    columns = {name: math.prod(value.shape[1:]) for name, value in arrays.items()}
    for name, value in arrays.items():
        if value.ndim == 0 or len(value) != len(names):
            raise UsageError(
                f"a .csv file has a row for each image, but {name!r} has the shape "
                f"{shape_text(value.shape)} for {len(names)}. Give an .npz file."
            )
    if sum(columns.values()) > MOST_COLUMNS:
        name = max(columns, key=lambda one: columns[one])
        raise UsageError(
            f"a .csv file has at most {MOST_COLUMNS:,} columns, but {name!r} alone has "
            f"{columns[name]:,} values for each image. Reduce it, as in --layers {name}=mean, or "
            "give an .npz file."
        )
    head = ["image"]
    for name, count in columns.items():
        whole = arrays[name].ndim == 1
        head += [name] if whole else [f"{name}[{at}]" for at in range(count)]
    # As text, numpy writes the fewest digits that give the value back in its own dtype.
    cells = [value.reshape(len(names), -1).astype(str) for value in arrays.values()]
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for row, image in enumerate(names):
            writer.writerow([image, *(text for part in cells for text in part[row])])


def _write_npz(path: Path, names: list[str], arrays: dict[str, NDArray[Any]]) -> None:
    """As `numpy.savez`, which does not accept every layer name."""
    twin = next((name for name in arrays if f"{name}.npy" in arrays), None)
    if twin is not None:
        raise UsageError(
            f"an .npz file cannot contain both {twin!r} and {twin + '.npy'!r}, which numpy reads "
            "as the same array. Write them to two files."
        )
    arrays = {**arrays, files_key(arrays): np.array(names)}
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, value, allow_pickle=False)


def _storable(name: str, value: Any, suffix: str) -> NDArray[Any]:
    if not isinstance(value, np.ndarray):
        file = f"a {suffix} file" if suffix == ".csv" else f"an {suffix} file"
        raise UsageError(f"{name!r} is a list of tensors, which {file} cannot contain.")
    return value.astype(str) if value.dtype == object else value  # onnxruntime's strings
