"""Collections that are interrupted at any point: after they are continued, every byte is the same.

Killed by signals, stopped after each file operation, on a disk that is full or has lost its power,
with a journal that is cut off or changed at each byte.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
from generators.collection import (
    COLUMNS as ALL,
)
from generators.collection import (
    System,
    contents,
    expected,
    finished,
    identity,
    items_of,
)
from generators.power import Drive, Recorder
from layertap.errors import OutputError
from layertap.extract import disk
from layertap.extract.writer import Writer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals and locks")

COLUMNS = (ALL[0], ALL[2])
ROWS, CHUNK = 7, 3
NAMES = ["out", "out.zarr"]


def work(
    folder: Path, again: bool = False, written: Callable[[int], object] = lambda rows: None
) -> None:
    """Compute everything that is missing, in the order in which several workers may be ready.

    Args:
        folder: the collection.
        again: whether chunks with failed rows are then computed again.
        written: called with the number of rows that are certain.
    """
    asked = identity(ROWS, CHUNK, columns=COLUMNS)
    with Writer.open(folder, asked, items_of(ROWS), COLUMNS) as writer:
        todo = list(writer.todo())
        for chunk in [*todo[1::2], *todo[::2]]:
            writer.write(finished(chunk, COLUMNS))
            written(writer.done_rows)
        writer.finish()
        for chunk in list(writer.todo(retry_failed=True)) if again else ():
            writer.write(finished(chunk, COLUMNS))
        writer.finish()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """The files of a collection that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")

    def files(name: str) -> dict[str, bytes]:
        if name.endswith("zarr"):
            pytest.importorskip("zarr", reason="needs the zarr extra")
        if not (folder / name).exists():
            work(folder / name)
        return contents(folder / name)

    return files


def check_readable(folder: Path) -> None:
    """What says that it is finished is right, though the collection was interrupted."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    f = layertap.features(folder)
    for column in COLUMNS:
        values, right = np.asarray(f[column.key]), expected(column, ROWS)
        np.testing.assert_array_equal(values[f.ok], right[f.ok])
    assert f.verify().ok


class Dead(BaseException):
    """The process has ended."""


class Stopping(System):
    """`os`, which ends the process, or fails once, at the n-th operation that changes the disk."""

    CHANGES = frozenset(
        "pwrite ftruncate fsync fdatasync mkdir replace rename unlink rmdir".split()
    )

    def __init__(self, at: int, number: int | None = None) -> None:
        self.left, self.number = at, number

    def __getattribute__(self, name: str) -> Any:
        if name not in Stopping.CHANGES:
            return super().__getattribute__(name)
        plain = super().__getattribute__(name) if name in vars(System) else getattr(os, name)

        def change(*args: Any) -> Any:
            self.left -= 1
            if self.number is None and self.left < 0:
                raise Dead
            if self.left == -1:
                assert self.number
                raise OSError(self.number, os.strerror(self.number))
            return plain(*args)

        return change


@pytest.mark.parametrize(
    ("name", "again", "mounted"),
    [("out", True, False), ("out.zarr", True, False), ("out", False, True)],
)
def test_it_ends_at_any_operation(
    name: str,
    again: bool,
    mounted: bool,
    whole: Callable[[str], dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right, at = whole(name), 0
    while True:
        folder = tmp_path / str(at)
        system = Stopping(at)
        if mounted:
            monkeypatch.setattr(System, "mounted", True)
            (folder / name).mkdir(parents=True)
        monkeypatch.setattr(disk, "os", system)
        with contextlib.suppress(Dead):
            work(folder / name, again)
        monkeypatch.setattr(disk, "os", System())
        if system.left >= 0:
            break
        if not (folder / name / disk.UNFINISHED).exists():
            check_readable(folder / name)
        work(folder / name)
        assert contents(folder) == {f"{name}/{path}": data for path, data in right.items()}, at
        shutil.rmtree(folder)
        at += 3 if "zarr" in name else 1
    assert at > 40


def fails(folder: Path) -> str:
    """The message with which the work ends; empty if it does not fail."""
    try:
        work(folder)
    except OutputError as exc:
        return str(exc)
    return ""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_the_disk_fails_at_any_operation(
    name: str,
    number: int,
    whole: Callable[[str], dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = 5 if "zarr" in name else 1 if number == errno.ENOSPC else 3
    right, at, said = whole(name), 0, set()
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()
        system = Stopping(at, number)
        monkeypatch.setattr(disk, "os", system)
        error = fails(folder / name)
        if error:
            said.add(error.partition(": ")[2])
        monkeypatch.setattr(disk, "os", System())
        if system.left >= 0:
            break
        check_readable(folder / name)
        work(folder / name)
        assert contents(folder) == {f"{name}/{path}": data for path, data in right.items()}, at
        shutil.rmtree(folder)
        at += step
    assert at > 40
    assert f"{os.strerror(number)}." in said
    kept = "3 of 7 rows are complete and kept. Run the same command again to continue."
    assert f"{os.strerror(number)}. {kept}" in said


def power_failures(
    name: str,
    right: dict[str, bytes],
    folder: Path,
    patch: pytest.MonkeyPatch,
    seeds: range,
    step: int = 1,
    again: bool = False,
) -> None:
    (folder / "recorded").mkdir()
    recorder = Recorder(folder / "recorded")
    patch.setattr(disk, "os", recorder)
    work(folder / "recorded" / name, again, lambda rows: recorder.log.append(("certain", rows)))
    patch.setattr(disk, "os", System())
    assert contents(folder / "recorded" / name) == right
    drive = Drive()
    drive.play(recorder.log)
    drive.write(folder / "played", None)
    assert contents(folder / "played" / name) == right  # and nothing at the end is uncertain
    for end in range(0, len(recorder.log), step):
        for seed in (None, *seeds):
            drive = Drive()
            drive.play(recorder.log[:end])
            left = folder / f"{end} {seed}"
            drive.write(left, None if seed is None else 1000 * end + seed)
            check_readable(left / name)
            if not again:
                certain = max(
                    (one[1] for one in recorder.log[:end] if one[0] == "certain"), default=0
                )
                assert not certain or layertap.features(left / name).done_rows >= certain
            work(left / name)
            assert contents(left / name) == right, (end, seed)
            shutil.rmtree(left)
    assert len(recorder.log) > 40


@pytest.mark.parametrize("name", NAMES)
def test_the_power_fails(
    name: str,
    whole: Callable[[str], dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = 7 if "zarr" in name else 1
    power_failures(name, whole(name), tmp_path, monkeypatch, range(1), step)


def test_the_power_fails_while_failed_rows_are_computed_again(
    whole: Callable[[str], dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    power_failures("out", whole("out"), tmp_path, monkeypatch, range(1), step=3, again=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_power_fails_often(
    name: str,
    whole: Callable[[str], dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    power_failures(name, whole(name), tmp_path, monkeypatch, range(30))


def changes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The data cut off, and with one byte changed, at each byte."""
    for at in range(len(data)):
        yield at, data[:at]
        yield at, data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]


def test_a_journal_is_damaged_at_any_byte(tmp_path: Path) -> None:
    """Rows whose line is gone are noise, so that it would be seen if they counted as finished."""
    column, rows = COLUMNS[0], 4
    folder = tmp_path / "out"
    asked, items = identity(rows, 2, columns=COLUMNS[:1]), items_of(rows)

    def compute() -> None:
        with Writer.open(folder, asked, items, COLUMNS[:1]) as writer:
            for chunk in writer.todo():
                writer.write(finished(chunk, COLUMNS[:1])._replace(sha256=("", "")))
            writer.finish()

    compute()
    right = contents(folder)
    journal, part = folder / "journal" / "00000.jsonl", folder / "bn" / "00000.npy"
    whole, values = journal.read_bytes(), part.read_bytes()
    for at, damaged in changes(whole):
        first = whole[:at].count(b"\n") * 2
        noise = os.urandom((rows - first) * 10)
        journal.write_bytes(damaged)
        part.write_bytes(values[: 4096 + first * 10] + noise)
        for name in ("manifest.csv", "ok.npy", "summary.json"):
            (folder / name).unlink()
        f = layertap.features(folder)
        assert f.done_rows == first
        np.testing.assert_array_equal(f["bn"][:first], expected(column, rows)[:first])
        compute()
        assert contents(folder) == right, at


class Piecewise(System):
    """`os` on a system that never writes more than three bytes at once."""

    def pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        return os.pwrite(descriptor, data[:3], offset)


def test_short_writes(
    whole: Callable[[str], dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "os", Piecewise())
    work(tmp_path / "out")
    assert contents(tmp_path / "out") == whole("out")


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from generators.collection import System, contents
from layertap.extract import disk
from runtime.extract.test_crashes import work

folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
disk.os = System()
started = time.perf_counter()
work(folder / "whole")
seconds = time.perf_counter() - started
right = contents(folder / "whole")
chance, killed, at = random.Random(seed), 0, 0
while killed < kills:
    out, at = folder / str(at), at + 1
    while True:
        child = os.fork()
        if not child:
            work(out)
            os._exit(0)
        time.sleep(chance.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == 0:
            break
        killed += 1
    assert contents(out) == right, at
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert left == [], left
print(killed, at)
"""


def kill(folder: Path, kills: int, seed: int) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(kills), str(seed)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed, collections = map(int, done.stdout.split())
    assert killed >= kills
    assert collections > 1


def test_twenty_kills(tmp_path: Path) -> None:
    kill(tmp_path, 20, seed=0)


@pytest.mark.slow
def test_five_hundred_kills(tmp_path: Path) -> None:
    kill(tmp_path, 500, seed=1)
