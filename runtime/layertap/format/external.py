"""The files that contain a model's weights: the model file itself, and external files."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from layertap.errors import ModelFileError

from .graph import External
from .source import BytesSource, FileSource, FileStamp


def find_weights(source: FileSource | BytesSource, locations: tuple[str, ...]) -> Weights:
    """The files in which a model keeps its weights.

    Args:
        source: the model.
        locations: the other files, as the model names them.

    Raises:
        ModelFileError: one is missing, or is not in the model's folder; or the model was opened
            from bytes, which have no folder.
    """
    if isinstance(source, BytesSource):
        if locations:
            raise ModelFileError(
                f"the model's weights are in another file, {locations[0]!r}, which cannot be found "
                "from bytes. Open the model by its path."
            )
        return Weights(Path(), {})
    path = source.path
    folder = Path(os.path.realpath(path.parent))
    # A model that is itself a link (as in download caches) may have its weights linked too.
    own = Path(os.path.realpath(path))
    files = {}
    for location in locations:
        files[location] = _inside(source.name, location, folder, own.parent)
    needed = list(files.values()) or [own]
    whole = all(file.is_relative_to(folder) for file in needed)
    return Weights(folder if whole else own.parent, files, own)


class Weights:
    """The files that contain a model's weights: external files, and the model file itself.

    onnxruntime maps a referenced file as long as a session exists.
    """

    def __init__(self, folder: Path, files: dict[str, Path], own: Path | None = None) -> None:
        self.folder = folder
        """The folder in which onnxruntime looks for them."""
        self._files = files
        self._own = own
        self._mapped: dict[Path, FileStamp] = {}
        self.referred: set[External] = set()
        """The references that `refer` and `stay` gave out."""

    @property
    def paths(self) -> list[Path]:
        """The external files."""
        return [*self._files.values()]

    @property
    def mapped(self) -> bool:
        """Whether any file has been referenced."""
        return bool(self._mapped)

    def refer(self, external: External) -> External | bytes:
        """The weights as a reference from `folder`; their bytes if they are not in it."""
        file = self._find(external)
        location = self._location(file)
        if location is None:
            return self.load(external)
        self._check_extent(external, file)
        return self._given(external._replace(location=location))

    def stay(self, start: int, end: int) -> External | None:
        """A reference from `folder` to bytes of the model file; `None` if it is not in it."""
        location = self._location(self._own) if self._own else None
        return None if location is None else self._given(External(location, start, end - start))

    def _given(self, external: External) -> External:
        self.referred.add(external)
        return external

    def _find(self, external: External) -> Path:
        if external.location not in self._files:
            raise ModelFileError(
                f"the model refers to data in another file, {external.location!r}, in a way that "
                "cannot be followed. Save it with all data inside."
            )
        return self._files[external.location]

    def _check_extent(self, external: External, file: Path) -> None:
        """Raise if the data do not lie within the file, before memory is taken for them."""
        size = self._stamp(file).size
        if external.offset + (external.length or 0) > size:
            raise ModelFileError(
                f"{str(file)!r} is cut off: it ends at byte {size}, within the model's weights. "
                "Copy it again."
            )

    def _location(self, file: Path) -> str | None:
        if not file.is_relative_to(self.folder):
            return None
        location = file.relative_to(self.folder).as_posix()
        try:
            f"{self.folder}/{location}".encode()
        except UnicodeEncodeError:  # onnxruntime accepts names in UTF-8 only
            return None
        if file not in self._mapped:
            self._mapped[file] = self._stamp(file)
        return location

    def _stamp(self, file: Path) -> FileStamp:
        try:
            return FileStamp.of(os.stat(file))
        except OSError as exc:
            raise ModelFileError(f"the weights in {str(file)!r} cannot be read: {exc}.") from exc

    def check(self) -> None:
        """Return if the referenced files are unchanged, or were removed while mapped.

        Raises:
            ModelFileError: a file was written to in place, so that mapped weights changed.
        """
        for file, was in self._mapped.items():
            try:
                now = FileStamp.of(os.stat(file))
            except OSError:  # removed: the mapped data stay valid
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
        return max(0, self._stamp(self._find(external)).size - external.offset)

    def load(self, external: External) -> bytes:
        """The weights themselves."""
        file = self._find(external)
        self._check_extent(external, file)
        try:
            with open(file, "rb") as stream:
                stream.seek(external.offset)
                data = stream.read(-1 if external.length is None else external.length)
        except (OSError, ValueError) as exc:
            raise ModelFileError(f"the weights in {str(file)!r} cannot be read: {exc}.") from exc
        return data


def _inside(name: str, location: str, folder: Path, home: Path) -> Path:
    """The real path of a file of weights, if the model may read it."""
    windows = PureWindowsPath(location)
    parts = PurePosixPath(location).parts + windows.parts
    if location.startswith("*"):  # for onnxruntime, an address in the memory of the process
        raise ModelFileError(
            f"{name} keeps weights in {location!r}, which is not the name of a file. Save it with "
            "all data inside."
        )
    if not location or location.startswith("/") or windows.anchor or ".." in parts:
        raise ModelFileError(
            f"{name} keeps weights in {location!r}, outside its own folder. Put them "
            "in the folder of the model."
        )
    missing = ModelFileError(
        f"{name} keeps weights in {location!r}, which is not there. Copy it into the model's "
        "folder."
    )
    if "\0" in location:  # not valid in file names, and some functions raise for it
        raise missing
    file = Path(os.path.realpath(folder / location))
    if not file.is_relative_to(folder) and not file.is_relative_to(home):
        raise ModelFileError(
            f"{name} keeps weights in {location!r}, a link to {str(file)!r} outside its own "
            "folder. Put them in the folder of the model."
        )
    if not os.path.isfile(file):
        raise missing
    return file
