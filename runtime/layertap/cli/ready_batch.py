"""Ready batches for a command: `.npy` and `.npz` files, which are fed without preprocessing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from layertap.errors import InputError, UsageError
from layertap.format.source import open_regular

SUFFIXES = (".npy", ".npz")

FILES = "layertap.files"
"""The name of the array in an `.npz` file of `layertap run` that contains the path of the image of
each row."""


def ready_batch(inputs: Sequence[str]) -> str | None:
    """The path of the ready batch among a command's inputs; `None` if they are images.

    Raises:
        UsageError: there are several, or a batch and images.
    """
    ready = [name for name in inputs if Path(name).suffix in SUFFIXES]
    if ready and len(inputs) > 1:
        raise UsageError("give images, or one ready batch (.npy or .npz), not several batches.")
    return ready[0] if ready else None


def load_ready(path: str) -> Any:
    """Load a ready batch: an array, or a dict of arrays by input name.

    Raises:
        InputError: the file does not exist, or is no file of arrays.
    """
    try:
        with open_regular(path) as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                # A file written by `layertap run -o` can be fed to the next part of a cut model.
                paths = _paths_key(loaded.files)
                return {name: loaded[name] for name in loaded.files if name != paths}
    except FileNotFoundError as exc:
        raise InputError(f"{path}: there is no such file.") from exc
    except Exception as exc:  # zipfile, zlib and numpy raise many different exceptions
        raise InputError(f"{path}: it cannot be read as arrays ({exc}).") from exc
    return loaded


def ready_or_given(path: str) -> Any:
    """The arrays of a ready batch; another path as it is."""
    ready = ready_batch([path])
    return path if ready is None else load_ready(ready)


def files_key(names: Collection[str]) -> str:
    """The name of the array with the paths, which no array among `names` has."""
    key, number = FILES, 1
    while key in names or f"{key}.npy" in names:  # which numpy reads as the same
        number += 1
        key = f"{FILES}~{number}"
    return key


def _paths_key(names: Sequence[str]) -> str | None:
    """The name that `files_key` gave: `layertap run` writes the array with the paths last."""
    keys = [name for name in names if re.fullmatch(rf"{re.escape(FILES)}(~\d+)?", name)]
    return keys[-1] if keys else None


def row_names(path: str, results: Mapping[str, Any]) -> list[str]:
    """`batch.npy[0]`, ... if all arrays have the same number of rows, and more than one row."""
    rows = {len(value) if np.ndim(value) else 1 for value in results.values()}
    count = rows.pop() if len(rows) == 1 else 1
    return [path] if count == 1 else [f"{path}[{row}]" for row in range(count)]
