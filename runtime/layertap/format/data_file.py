"""The `.data` file in which a model keeps weights that its own file cannot hold.

protobuf reads messages of up to 2 GB. Weights beyond that stand in a file beside the model, which
refers to them by the file's name, an offset and a length: ONNX's external data. The name ends in a
hash of the contents. So a model that is written anew brings a file of another name, and the old
pair stays whole until the new one is there.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from layertap.errors import ModelFileError

from .atomic import replacing
from .graph import External, read_graph
from .source import FileSource
from .wire import WireError

ALIGNED = 4096
"""What every offset is a multiple of, so that the file can be mapped in pages; ONNX asks for it."""


@contextmanager
def replacing_model(target: str | os.PathLike[str]) -> Iterator[tuple[Path, DataFile]]:
    """`layertap.format.atomic.replacing` for a model, with a `.data` file if one is written to.

    The block writes weights to the data file, calls its `settle`, and writes the model with the
    name that this gives. On any exception both files are what they were. When all is well, the data
    file that the model had before is removed.

    Raises:
        OutputError: the folder is missing or not writable, or the disk is full.
    """
    home = Path(os.path.realpath(target))
    before = _own_data(home)
    data = DataFile(home)
    with data, replacing(target) as temporary:  # if renaming the model fails, data hears of it
        yield temporary, data
    for file in before - {data.settled}:
        file.unlink(missing_ok=True)


class DataFile:
    """The data file of one model that is being written; there is none until `add` is called."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._size = 0
        self._temporary = model.with_name(f".{model.stem[:32]}.{os.urandom(4).hex()}.data")
        self._new = False
        self.settled: Path | None = None
        """Where it is, once that is so."""

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._size

    @property
    def location(self) -> str:
        """Its name, by which the model refers to it: a temporary one before `settle`."""
        return (self.settled or self._temporary).name

    def add(self, weights: bytes | memoryview) -> tuple[int, int]:
        """Append the bytes of one weight; returns their offset and length."""
        if self._file is None:
            self._file = self._temporary.open("xb")
        offset = -(-self._size // ALIGNED) * ALIGNED
        for part in (bytes(offset - self._size), weights):
            self._file.write(part)
            self._hash.update(part)
        self._size = offset + len(weights)
        return offset, len(weights)

    def refer(self, place: tuple[int, int]) -> External:
        """A reference to what `add` appended."""
        return External(self.location, *place)

    def flush(self) -> None:
        """Let others see what was added."""
        if self._file is not None:
            self._file.flush()

    def settle(self) -> None:
        """Give the finished file the name that it keeps."""
        if self._file is None:
            return
        self._file.close()
        final = self._model.with_name(f"{self._model.stem}-{self._hash.hexdigest()[:8]}.data")
        self._new = not final.exists()
        os.replace(self._temporary, final)
        self.settled = final

    def __enter__(self) -> DataFile:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._file is not None:
            self._file.close()
        self._temporary.unlink(missing_ok=True)
        if error is not None and self.settled is not None and self._new:
            self.settled.unlink(missing_ok=True)


def _own_data(model: Path) -> set[Path]:
    """The data files of the model that stands there now which are its alone, by their names."""
    source = FileSource(model)
    try:
        with source.read(sparsely=True) as buffer:
            locations = read_graph(buffer).locations
    except (ModelFileError, WireError):
        return set()
    own = re.compile(rf"{re.escape(model.stem)}-[0-9a-f]{{8}}\.data")
    return {model.with_name(name) for name in locations if own.fullmatch(name)}
