"""A disk that loses its power: which files are left, if only what was synchronised is certain.

`Recorder` stands for the module `os` and records what changes a disk. `Drive` plays a part of that
back, and says what may be there afterwards: data and names that were not synchronised may be there
or not, each for itself.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from generators.collection import System

Operation = tuple[Any, ...]


class Recorder(System):
    """`os`, with a record of all operations below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: list[Operation] = []
        self._paths: dict[int, str] = {}

    def name(self, path: Any) -> str:
        return os.path.relpath(path, self.root)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        there = os.path.exists(path)
        descriptor = os.open(path, flags, mode)
        self._paths[descriptor] = self.name(path)
        if flags & os.O_CREAT and not there:
            self.log.append(("create", self.name(path)))
        if flags & os.O_TRUNC and there:
            self.log.append(("truncate", self.name(path), 0))
        return descriptor

    def pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        written = os.pwrite(descriptor, data, offset)
        self.log.append(("write", self._paths[descriptor], offset, bytes(data[:written])))
        return written

    def ftruncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)
        self.log.append(("truncate", self._paths[descriptor], size))

    def fsync(self, descriptor: int) -> None:
        self.log.append(("synchronize", self._paths[descriptor]))

    fdatasync = fsync

    def mkdir(self, path: Any) -> None:
        os.mkdir(path)
        self.log.append(("mkdir", self.name(path)))

    def replace(self, source: Any, target: Any) -> None:
        os.replace(source, target)
        for descriptor, path in self._paths.items():
            if path == self.name(source):
                self._paths[descriptor] = self.name(target)
        self.log.append(("rename", self.name(source), self.name(target)))

    rename = replace

    def unlink(self, path: Any) -> None:
        os.unlink(path)
        self.log.append(("remove", self.name(path)))

    def rmdir(self, path: Any) -> None:
        os.rmdir(path)
        self.log.append(("remove", self.name(path)))


class File:
    """A file: its data now, and as they are on the disk for certain."""

    def __init__(self) -> None:
        self.now = self.certain = b""
        self.pending: list[Operation] = []

    def change(self, data: bytes, operation: Operation) -> bytes:
        if operation[0] == "truncate":
            return data[: operation[2]].ljust(operation[2], b"\0")
        _, _, offset, written = operation
        data = data.ljust(offset, b"\0")
        return data[:offset] + written + data[offset + len(written) :]

    def do(self, operation: Operation) -> None:
        self.now = self.change(self.now, operation)
        self.pending.append(operation)

    def synchronize(self) -> None:
        self.certain, self.pending = self.now, []

    def left(self, chance: random.Random | None) -> bytes:
        data = self.certain
        for operation in self.pending if chance else ():
            assert chance
            if chance.random() < 0.5:
                if operation[0] == "write" and chance.random() < 0.5:  # torn
                    part = operation[3][: chance.randrange(len(operation[3]) + 1)]
                    operation = (*operation[:3], part)
                data = self.change(data, operation)
        return data


class Folder:
    """A folder: its names now, and those on the disk for certain."""

    def __init__(self) -> None:
        self.now: dict[str, File | Folder] = {}
        self.certain: dict[str, File | Folder] = {}
        self.pending: list[dict[str, File | Folder | None]] = []

    def do(self, change: dict[str, File | Folder | None]) -> None:
        _apply(self.now, change)
        self.pending.append(change)

    def synchronize(self) -> None:
        self.certain, self.pending = dict(self.now), []

    def left(self, chance: random.Random | None) -> dict[str, File | Folder]:
        names = dict(self.certain)
        for change in self.pending if chance else ():
            assert chance
            if chance.random() < 0.5:
                _apply(names, change)
        return names


def _apply(names: dict[str, File | Folder], change: dict[str, File | Folder | None]) -> None:
    for name, value in change.items():
        if value is None:
            names.pop(name, None)
        else:
            names[name] = value


class Drive:
    """A disk on which recorded operations are played back."""

    def __init__(self) -> None:
        self.root = Folder()

    def _at(self, path: str) -> tuple[Folder, str]:
        *above, name = path.split(os.sep)
        folder = self.root
        for one in above:
            inner = folder.now[one]
            assert isinstance(inner, Folder)
            folder = inner
        return folder, name

    def play(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            kind, path = operation[:2]
            if kind == "certain":  # what the program was told
                continue
            if path == ".":
                assert kind == "synchronize"
                self.root.synchronize()
                continue
            folder, name = self._at(path)
            if kind in ("create", "mkdir"):
                folder.do({name: File() if kind == "create" else Folder()})
            elif kind == "remove":
                folder.do({name: None})
            elif kind == "rename":
                above, target = self._at(operation[2])
                assert above is folder
                folder.do({name: None, target: folder.now[name]})
            else:
                found = folder.now[name]
                if kind == "synchronize":
                    found.synchronize()
                else:
                    assert isinstance(found, File)
                    found.do(operation)

    def write(self, target: Path, seed: int | None) -> None:
        """What is left after a power failure.

        Args:
            target: the folder to write it to.
            seed: of what was not synchronised, some is there, drawn with this seed; `None`: none.
        """
        chance = None if seed is None else random.Random(seed)

        def put(folder: Folder, path: Path) -> None:
            path.mkdir()
            for name, one in folder.left(chance).items():
                if isinstance(one, Folder):
                    put(one, path / name)
                else:
                    (path / name).write_bytes(one.left(chance))

        put(self.root, target)
