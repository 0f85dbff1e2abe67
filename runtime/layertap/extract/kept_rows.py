"""Rows of many batches as one array: in memory while they are few, then in a temporary file."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from layertap.errors import InputError, OutputError
from layertap.format.text import shape_text

MEMORY = 1 << 26
"""How many bytes of one array are kept in memory."""


class KeptRows:
    """The results of all batches for one name."""

    def __init__(self, name: str, folder: str | None = None) -> None:
        """
        Args:
            name: of the result, for errors.
            folder: where the temporary file is; by default where the system has such files.
        """
        self._name, self._folder = name, folder
        self._parts: list[Any] = []
        self._bytes = self._rows = 0
        self._file: IO[bytes] | None = None
        self._first: NDArray[Any] | None = None
        self._shown = ""

    def add(self, part: Any) -> None:
        """Add the rows of a batch.

        Raises:
            InputError: they do not have the shape of those before.
            OutputError: the temporary file cannot be written.
        """
        self._check(part)
        if not isinstance(part, np.ndarray) or part.dtype.hasobject:
            self._parts.append(part)
            return
        self._rows += len(part)
        self._bytes += part.nbytes
        if self._file is None and self._bytes > MEMORY and self._parts:
            with contextlib.suppress(OSError):  # without room for one, all stays in memory
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
                parts, self._parts = self._parts, []
                for one in parts:
                    self._write(one)
        if self._file is None:
            self._parts.append(part)
        else:
            self._write(part)

    def _check(self, part: Any) -> None:
        array = isinstance(part, np.ndarray) and part.ndim > 0
        if self._first is None and not self._parts:
            self._first = part[:0] if array else None
            self._shown = shape_text(np.shape(part)) if array else "not an array"
        elif self._first is None or not array or part.shape[1:] != self._first.shape[1:]:
            now = shape_text(np.shape(part)) if array else "not an array"
            raise InputError(
                f"the activations of {self._name!r} do not fit in one array: "
                f"{self._shown} for some images, {now} for others. Give a recipe with "
                'a "size" (--preprocess), or run the images one by one.'
            )

    def _write(self, part: NDArray[Any]) -> None:
        assert self._file is not None
        try:
            self._file.write(np.ascontiguousarray(part).data.cast("B"))
        except OSError as exc:
            where = self._folder or tempfile.gettempdir()
            raise OutputError(
                f"the results of {self._name!r} cannot be kept in a temporary file in "
                f"{os.fspath(where)!r} ({exc.strerror}). Nothing was written."
            ) from exc

    def array(self) -> Any:
        """All rows: an array, which may be a memmap; for one batch, what it gave. Called once."""
        if self._file is None or self._first is None:
            return self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)
        shape = (self._rows, *self._first.shape[1:])
        with self._file as file:  # the memmap keeps it open
            file.flush()
            return np.memmap(file, self._first.dtype, "r", shape=shape)
