"""Open HDF5 files that contain their data themselves."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layertap.errors import DependencyError, install_hint
from layertap_export.errors import UnsafeModelError

BOMB_BYTES = 1 << 30
"""Data of up to this size may be packed as tightly as they are."""
BOMB_RATIO = 50
"""How many times larger than the file its data may be. Trained weights shrink by a tenth."""


def h5py_for(purpose: str) -> Any:
    """The package h5py.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        return importlib.import_module("h5py")
    except ImportError as exc:
        raise DependencyError(
            f"h5py is needed to {purpose}, and importing it failed: {exc}. It comes with the "
            f"export: {install_hint('export', 'cpu')}."
        ) from exc


@contextmanager
def opened(source: Any, path: Path, purpose: str) -> Iterator[Any]:
    """Open an HDF5 file for reading, and check that it is self-contained.

    Args:
        source: the file: a path, or a binary file object.
        path: its name in messages.
        purpose: what it is needed for, for an error.

    Raises:
        UnsafeModelError: it reads other files, or its data are far larger than itself.
        DependencyError: h5py is not installed.
    """
    h5py = h5py_for(purpose)
    with h5py.File(source, "r") as file:
        ensure_self_contained(h5py, file, path)
        yield file


def ensure_self_contained(h5py: Any, file: Any, path: Path) -> None:
    """Check that an HDF5 file reads no other files, and does not grow beyond all measure.

    Raises:
        UnsafeModelError: it does.
    """
    unpacked = stored = 0
    seen, waiting = set(), [file]
    while waiting:
        group = waiting.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise _reads_others(path, f"{group.name.rstrip('/')}/{name}", link.filename)
            item = group.get(name)
            address = h5py.h5o.get_info(item.id).addr if item is not None else None
            if address is None or address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                if item.external:
                    raise _reads_others(path, item.name, item.external[0][0])
                if item.is_virtual:
                    raise _reads_others(path, item.name, item.virtual_sources()[0].file_name)
                unpacked += item.nbytes
                stored += item.id.get_storage_size()
    check_growth(path, unpacked, stored)


def check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Check that the members of an archive are not far larger than the archive.

    Raises:
        UnsafeModelError: they are.
    """
    members = archive.infolist()
    check_growth(path, sum(x.file_size for x in members), sum(x.compress_size for x in members))


def check_growth(path: Path, unpacked: int, stored: int) -> None:
    """Check that data are not far larger than what is stored of them.

    Args:
        unpacked: bytes of the data.
        stored: bytes of them in the file.

    Raises:
        UnsafeModelError: they are.
    """
    if unpacked > max(BOMB_BYTES, BOMB_RATIO * stored):
        raise UnsafeModelError(
            f"{str(path)!r} would unpack {stored / 1e6:.1f} MB into {unpacked / 1e9:.1f} GB, which "
            "no weights do: the file is damaged, or made to fill the memory."
        )


def _reads_others(path: Path, item: str, other: Any) -> UnsafeModelError:
    return UnsafeModelError(
        f"{str(path)!r} reads {item!r} from another file, {str(other)!r}. A model's weights must "
        "be in its own file: load the model where that file belongs, and save it again."
    )
