"""The `.data` file for the weights of a model that is too large for one file.

protobuf messages are limited to 2 GB. A larger model keeps weights in a second file in the same
folder, and refers to them by file name, offset and length (ONNX's external data). The file name
ends in a hash of the contents. When the model is written again, the new data file gets another
name, so the old model and its data stay intact until the new model is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from layertap.errors import ModelFileError

from .atomic import Claim, remove_if_abandoned, replacing
from .graph import External, read_graph
from .source import FileSource
from .wire import WireError

ALIGNED = 4096
"""Every offset is a multiple of this number of bytes, so that the weights can be memory-mapped;
the ONNX specification recommends it."""


@contextmanager
def replacing_model(target: str | os.PathLike[str]) -> Iterator[tuple[Path, DataFile]]:
    """Like `layertap.format.atomic.replacing`, for a model that may have a `.data` file.

    The block adds weights to the data file, calls `settle`, and writes the model to the temporary
    path with references to `location`. On any exception, both files are unchanged. On success, the
    data file of the previous model is removed.

    Raises:
        OutputError: the folder is missing or not writable, or the disk is full.
    """
    model = Path(os.path.realpath(target))
    previous = _own_data(model)
    data = DataFile(model)
    with data:
        with replacing(target) as temporary:  # if renaming the model fails, `data` cleans up
            yield temporary, data
        for file in previous - {data.settled}:
            file.unlink(missing_ok=True)
        _remove_unused(model, data.settled)


class DataFile:
    """The data file of a model that is being written. The first `add` creates it."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._size = 0
        self._claim: Claim | None = None
        self._new = False
        self.settled: Path | None = None
        """The final path; `None` before `settle`."""
        self.referred: set[External] = set()
        """The references that `refer` made."""

    @property
    def size(self) -> int:
        """The current size in bytes."""
        return self._size

    @property
    def location(self) -> str:
        """The file name, by which the model refers to it; temporary before `settle`."""
        assert self._claim is not None  # a model refers to weights that were added
        return (self.settled or self._claim.path).name

    def add(self, weights: bytes | memoryview) -> tuple[int, int]:
        """Append the bytes of one weight; return their offset and length."""
        if self._file is None:
            self._claim = Claim(self._model, ".data")
            self._claim.create()
            self._file = self._claim.path.open("wb")
        offset = -(-self._size // ALIGNED) * ALIGNED
        for part in (bytes(offset - self._size), weights):
            self._file.write(part)
            self._hash.update(part)
        self._size = offset + len(weights)
        return offset, len(weights)

    def refer(self, position: tuple[int, int]) -> External:
        """A reference to the offset and length that `add` returned."""
        external = External(self.location, *position)
        self.referred.add(external)
        return external

    def flush(self) -> None:
        """Write buffered bytes to the file, so that other readers see them."""
        if self._file is not None:
            self._file.flush()

    def settle(self) -> None:
        """Close the file and give it its final name."""
        if self._file is None or self._claim is None:
            return
        self._file.close()
        final = self._model.with_name(f"{self._model.stem}-{self._hash.hexdigest()[:8]}.data")
        self._new = not final.exists()
        self._claim.rename(final)
        self.settled = final

    def __enter__(self) -> DataFile:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._claim is not None:
            self._claim.release()
        if error is not None and self.settled is not None and self._new:
            self.settled.unlink(missing_ok=True)


def _own_data(model: Path) -> set[Path]:
    """The data files of the existing model at this path that, by their names, only it uses."""
    own = _own_names(model)
    return {model.with_name(name) for name in _locations(model) or () if own.fullmatch(name)}


def _own_names(model: Path) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(model.stem)}-([0-9a-f]{{8}})\.data")


def _locations(model: Path) -> tuple[str, ...] | None:
    """The files in which a model keeps its weights; `None` if it cannot be read."""
    try:
        with FileSource(model).read(sparsely=True) as buffer:
            return read_graph(buffer).locations
    except (ModelFileError, WireError):
        return None


def _remove_unused(model: Path, settled: Path | None) -> None:
    """Remove data files that a killed process had finished, but not yet the model.

    Only what is surely ours goes: its name is made of this model's and of the hash of its contents,
    no process is writing it, and no model in the folder refers to it.
    """
    own = _own_names(model)
    with contextlib.suppress(OSError):  # files that come and go meanwhile
        names = os.listdir(model.parent)
        found = {name: own.fullmatch(name) for name in names}
        left = {name: match[1] for name, match in found.items() if match}
        if settled:
            left.pop(settled.name, None)
        if not left:
            return
        for name in names:
            if name.endswith(".onnx"):
                used = _locations(model.with_name(name))
                if used is None:
                    return
                for location in used:
                    left.pop(location, None)
        for name, digits in left.items():
            if _sha256(model.with_name(name)).startswith(digits):
                remove_if_abandoned(model.with_name(name))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 24):
            digest.update(part)
    return digest.hexdigest()
