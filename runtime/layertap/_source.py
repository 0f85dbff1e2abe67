"""Where a model comes from: a file, or bytes; and where the weights are that it keeps elsewhere."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from ._graph import External
from ._wire import Buffer
from .errors import ModelFileError, suggest


class Identity(NamedTuple):
    """What changes when a file is written anew."""

    size: int
    mtime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Identity:
        """The identity of the file that was asked for its `stat`."""
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev)


class BytesSource:
    """A model in memory."""

    path: Path | None = None
    name = "the model"
    size = 0
    """Bytes of the file, of which there is none."""

    def __init__(self, data: bytes) -> None:
        if not data:
            raise ModelFileError("the model's bytes are empty.")
        self._data = data

    @contextmanager
    def read(self, sparsely: bool = False) -> Iterator[Buffer]:
        """The bytes."""
        yield self._data

    def place(self, locations: tuple[str, ...]) -> Weights:
        """Refuses other files: bytes have no folder."""
        if locations:
            raise ModelFileError(
                f"the model's weights are in another file, {locations[0]!r}, which cannot be found "
                "from bytes. Open the model by its path."
            )
        return Weights(Path(), {})


class FileSource:
    """A model file. It is open only while it is being read, and must stay what it was."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        self.name = repr(str(path))
        self._identity: Identity | None = None

    @property
    def size(self) -> int:
        """Bytes of the file; 0 before it was first read."""
        return self._identity.size if self._identity else 0

    @contextmanager
    def read(self, sparsely: bool = False) -> Iterator[Buffer]:
        """The file's bytes, mapped and not read.

        Args:
            sparsely: what is looked at are specks here and there. Around each the system would
                read some megabytes ahead: half of a large file that is not in memory yet.

        Raises:
            ModelFileError: it cannot be opened, or is not the file any more that it was.
        """
        try:
            with open(self.path, "rb") as file:
                identity = Identity.of(os.fstat(file.fileno()))
                if self._identity is None:
                    if not identity.size:
                        raise ModelFileError(f"{self.name} is empty. Copy or export it again.")
                    self._identity = identity
                elif identity != self._identity:
                    raise ModelFileError(
                        f"{self.name} was changed since it was opened. Open it again with "
                        "layertap.open."
                    )
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as exc:
            raise ModelFileError(self._trouble(exc)) from exc
        if sparsely and hasattr(mmap, "MADV_RANDOM"):  # not on Windows
            mapped.madvise(mmap.MADV_RANDOM)
        try:
            yield mapped
        finally:
            with suppress(BufferError):  # an error on its way out may still hold a view
                mapped.close()

    def _trouble(self, exc: OSError | ValueError) -> str:
        if isinstance(exc, FileNotFoundError):
            return f"there is no file {self.name}.{suggest(self.path.name, self._neighbours())}"
        if self.path.is_dir():
            inside = sorted(item.name for item in self.path.glob("*.onnx"))
            hint = f": {', '.join(map(repr, inside[:3]))}" if inside else ""
            return f"{self.name} is a folder. Give the .onnx file in it{hint}."
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        return f"{self.name} cannot be read: {reason}."

    def _neighbours(self) -> list[str]:
        try:
            return sorted(item.name for item in self.path.parent.glob("*.onnx"))
        except OSError:
            return []

    def place(self, locations: tuple[str, ...]) -> Weights:
        """Find the files in which the model keeps its weights.

        Raises:
            ModelFileError: one is missing, or is not in the model's folder.
        """
        folder = Path(os.path.realpath(self.path.parent))
        # A model that is itself a link (as in download caches) may have its weights linked too.
        own = Path(os.path.realpath(self.path))
        files = {}
        for location in locations:
            files[location] = _inside(self.name, location, folder, own.parent)
        needed = list(files.values()) or [own]
        whole = all(file.is_relative_to(folder) for file in needed)
        return Weights(folder if whole else own.parent, files, own)


class Weights:
    """The files that hold a model's weights: those beside it, and itself.

    A file that is referred to is mapped by onnxruntime for as long as a session lives.
    """

    def __init__(self, folder: Path, files: dict[str, Path], own: Path | None = None) -> None:
        self.folder = folder
        """The folder in which onnxruntime is to look for them."""
        self._files = files
        self._own = own
        self._mapped: dict[Path, Identity] = {}

    @property
    def mapped(self) -> bool:
        """Whether any file has been referred to."""
        return bool(self._mapped)

    def refer(self, external: External) -> External | bytes:
        """The weights as a reference from `folder`; their bytes where they are not in it."""
        file = self._files[external.location]
        location = self._location(file)
        return self.load(external) if location is None else external._replace(location=location)

    def stay(self, start: int, end: int) -> External | None:
        """A reference from `folder` to bytes of the model file; `None` if it is not in it."""
        location = self._location(self._own) if self._own else None
        return None if location is None else External(location, start, end - start)

    def _location(self, file: Path) -> str | None:
        if not file.is_relative_to(self.folder):
            return None
        location = file.relative_to(self.folder).as_posix()
        try:
            f"{self.folder}/{location}".encode()
        except UnicodeEncodeError:  # onnxruntime takes names in UTF-8 alone
            return None
        if file not in self._mapped:
            self._mapped[file] = self._identity(file)
        return location

    def _identity(self, file: Path) -> Identity:
        try:
            return Identity.of(os.stat(file))
        except OSError as exc:
            raise ModelFileError(f"the weights in {str(file)!r} cannot be read: {exc}.") from exc

    def check(self) -> None:
        """Return if what was referred to is as it was, or is mapped under no name any more.

        Raises:
            ModelFileError: a file was written to in place: what is mapped has changed.
        """
        for file, was in self._mapped.items():
            try:
                now = Identity.of(os.stat(file))
            except OSError:  # removed: what is mapped lives on
                continue
            if (now.inode, now.device) == (was.inode, was.device) and now != was:
                raise ModelFileError(
                    f"{str(file)!r} was overwritten while weights in it were in use. Open the "
                    "model again with layertap.open, and replace such files by renaming, or open "
                    "them with copy_weights=True."
                )

    def size(self, external: External) -> int:
        """Bytes of the weights."""
        if external.length is not None:
            return external.length
        return max(0, self._identity(self._files[external.location]).size - external.offset)

    def load(self, external: External) -> bytes:
        """The weights themselves."""
        file = self._files[external.location]
        try:
            with open(file, "rb") as stream:
                stream.seek(external.offset)
                length = -1 if external.length is None else external.length
                data = stream.read(length)
        except (OSError, ValueError) as exc:
            raise ModelFileError(f"the weights in {str(file)!r} cannot be read: {exc}.") from exc
        if external.length is not None and len(data) != external.length:
            raise ModelFileError(
                f"{str(file)!r} is cut off: it ends at byte {external.offset + len(data)}, within "
                "the model's weights. Copy it again."
            )
        return data


Place = Callable[[External], "External | bytes"]


def _inside(name: str, location: str, folder: Path, home: Path) -> Path:
    """The real path of a file of weights, if the model may read it."""
    windows = PureWindowsPath(location)
    parts = PurePosixPath(location).parts + windows.parts
    if not location or location.startswith("/") or windows.anchor or ".." in parts:
        raise ModelFileError(
            f"{name} keeps weights in {location!r}, outside its own folder. That is refused; put "
            "them beside the model."
        )
    missing = ModelFileError(
        f"{name} keeps weights in {location!r}, which is not there. Copy it into the model's "
        "folder."
    )
    if "\0" in location:  # which no name of a file has, and some functions do not take
        raise missing
    file = Path(os.path.realpath(folder / location))
    if not file.is_relative_to(folder) and not file.is_relative_to(home):
        raise ModelFileError(
            f"{name} keeps weights in {location!r}, a link to {str(file)!r} outside its own "
            "folder. That is refused; put them beside the model."
        )
    if not os.path.isfile(file):
        raise missing
    return file


def describe(start: bytes) -> str:
    """What a file that is no ONNX model looks like, from its first bytes; empty if like nothing."""
    text = start.lstrip().lower()
    for mark, what in _LOOKS:
        if text.startswith(mark) or start.startswith(mark):
            return what
    if start[4:8] == b"ORTM":
        return "a model in onnxruntime's own format; give the .onnx file that it was made from"
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite model; export the Keras model with `layertap export`"
    if text and all(byte in _PRINTABLE for byte in start):
        return "a text file"
    return ""


_PRINTABLE = frozenset({9, 10, 12, 13, *range(32, 127)})
_HTML = "an HTML page: perhaps an error or login page came instead of the file"
_KERAS = "export it with `layertap export`"
_LOOKS = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the model itself with `git lfs pull`"),
    (b"<!doctype html", _HTML),
    (b"<html", _HTML),
    (b"<", "an XML file"),
    (b"{", "a JSON file"),
    (b"\x89HDF", f"an HDF5 file, perhaps a Keras model; {_KERAS}"),
    (b"PK\x03\x04", f"a zip archive, perhaps a Keras model; {_KERAS}"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
)
