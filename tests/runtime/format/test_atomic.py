"""Atomic writes: a file is written completely, or the folder is unchanged."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from layertap.errors import LayertapError, OutputError, UsageError
from layertap.format.atomic import _swept, check_target, replacing, sweep

posix = pytest.mark.skipif(os.name != "posix", reason="requires POSIX modes and links")


def contents(folder: Path) -> dict[str, bytes | None]:
    """The contents of every file below `folder`, including hidden files; `None` for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_what_cannot_be_the_name_of_a_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a file"):
        check_target(tmp_path / name)


@pytest.mark.parametrize("before", [None, b"the old"])
def test_target_appears_when_the_block_ends(tmp_path: Path, before: bytes | None) -> None:
    target = tmp_path / "out.npz"
    if before is not None:
        target.write_bytes(before)
    with replacing(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".npz"  # some writers depend on the suffix
        temporary.write_bytes(b"the ")
        with temporary.open("ab") as file:
            file.write(b"new")
        assert (target.read_bytes() if target.exists() else None) == before
    assert contents(tmp_path) == {"out.npz": b"the new"}


def test_target_can_be_a_string_or_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for target in ("a.txt", Path("b"), "größe.txt", "." + "x" * 200, "ü" * 100 + ".txt"):
        with replacing(target) as temporary:
            temporary.write_text("x")
    assert len(contents(tmp_path)) == 5


def test_the_writer_may_replace_the_temporary_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as temporary:
        other = tmp_path / "other"
        other.write_bytes(b"x")
        os.replace(other, temporary)
    assert contents(tmp_path) == {"a": b"x"}


def write_half(target: Path, error: BaseException) -> None:
    with replacing(target) as temporary:
        temporary.write_bytes(b"half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, LayertapError])
@pytest.mark.parametrize("before", [None, b"the old"])
def test_failure_leaves_the_folder_unchanged(
    tmp_path: Path, error: type[BaseException], before: bytes | None
) -> None:
    """The writer's own exception is raised."""
    target = tmp_path / "out.npz"
    if before is not None:
        target.write_bytes(before)
    listing = contents(tmp_path)
    raised = error("of the writer")
    with pytest.raises(error) as caught:
        write_half(target, raised)
    assert caught.value is raised
    assert contents(tmp_path) == listing


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EIO, "Input/output error", "some/file"), "Input/output error"),
        (OSError("a message alone"), "a message alone"),
    ],
)
def test_os_error_while_writing_is_an_output_error(
    tmp_path: Path, error: OSError, reason: str
) -> None:
    target = tmp_path / "out.npz"
    target.write_bytes(b"the old")
    with pytest.raises(OutputError) as caught:
        write_half(target, error)
    assert str(caught.value) == f"cannot write '{target}': {reason}. Nothing was written."
    assert caught.value.__cause__ is error
    assert contents(tmp_path) == {"out.npz": b"the old"}


def test_os_error_on_rename_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", fail)
    target = tmp_path / "out.npz"
    with pytest.raises(OutputError) as caught, replacing(target) as temporary:
        temporary.write_bytes(b"x")
    assert str(caught.value) == f"cannot write '{target}': Permission denied. Nothing was written."
    assert contents(tmp_path) == {}


def refusal(target: Path) -> str:
    """The error that `check_target`, and `replacing` before the block, raise for a target."""
    with pytest.raises(OutputError) as checked:
        check_target(target)
    with pytest.raises(OutputError) as caught, replacing(target):
        pytest.fail("the block was entered")
    assert str(checked.value) == str(caught.value)
    return str(caught.value)


def test_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    target = tmp_path / "no" / "such" / "out.npz"
    assert refusal(target) == (
        f"cannot write '{target}': the folder '{target.parent}' does not exist. Nothing was "
        "written."
    )
    (tmp_path / "file").write_bytes(b"x")
    target = tmp_path / "file" / "out.npz"
    assert refusal(target) == (
        f"cannot write '{target}': the folder '{target.parent}' does not exist. Nothing was "
        "written."
    )
    assert contents(tmp_path) == {"file": b"x"}


def test_folder_as_target_is_an_output_error(tmp_path: Path) -> None:
    for folder in (tmp_path, Path(), Path(tmp_path.anchor)):
        assert refusal(folder) == f"cannot write '{folder}': it is a folder. Give a file name."
    assert contents(tmp_path) == {}


def test_read_only_folder_is_an_output_error(tmp_path: Path) -> None:
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o555)
    try:
        target = tmp_path / "out.npz"
        message = f"cannot write '{target}': Permission denied. Nothing was written."
        assert refusal(target) == message
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("reason", ["Permission denied", "Read-only file system"])
def test_file_system_without_files_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(errno.EROFS, reason)

    monkeypatch.setattr(os, "open", fail)
    target = tmp_path / "out.npz"
    assert refusal(target) == f"cannot write '{target}': {reason}. Nothing was written."


@posix
def test_too_long_name_is_an_output_error(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 300)
    assert refusal(target) == f"cannot write '{target}': File name too long. Nothing was written."


@posix
def test_device_files_are_not_replaced(tmp_path: Path) -> None:
    """Replacing /dev/null by a file would break the machine."""
    assert refusal(Path(os.devnull)) == "cannot write '/dev/null': it is not a regular file."
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert refusal(pipe) == f"cannot write '{pipe}': it is not a regular file."
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_new_file_has_the_default_mode(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        (tmp_path / "plain").write_bytes(b"")
        with replacing(tmp_path / "ours") as temporary:
            temporary.write_bytes(b"x")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")]
    assert modes == [0o666 & ~umask] * 2


@posix
def test_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real.npz").write_bytes(b"the old")
    for name, target in {"link.npz": "there/real.npz", "new.npz": "there/new.npz"}.items():
        link = tmp_path / name
        link.symlink_to(target)
        with replacing(link) as temporary:
            assert temporary.parent == tmp_path / "there"
            temporary.write_bytes(b"the new")
        assert link.is_symlink()
    assert contents(tmp_path / "there") == {"real.npz": b"the new", "new.npz": b"the new"}
    dangling = tmp_path / "dangling"
    dangling.symlink_to("nowhere/out")
    assert refusal(dangling) == (
        f"cannot write '{dangling}': the folder '{tmp_path / 'nowhere'}' does not exist. Nothing "
        "was written."
    )


def test_check_target_does_not_change_a_writable_target(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"the old")
    check_target(tmp_path / "old")
    check_target(str(tmp_path / "new"))
    assert contents(tmp_path) == {"old": b"the old"}


# --- Inputs and suffixes ------------------------------------------------------------------------


def links(folder: Path) -> dict[str, Path]:
    """Other names of the file `m.onnx` in a new folder."""
    folder.mkdir()
    file = folder / "m.onnx"
    file.write_bytes(b"model")
    found = {"itself": file, "another spelling": folder / "x" / ".." / "m.onnx"}
    (folder / "x").mkdir()
    for name in ("symbolic", "chain", "hard", "of the folder"):
        found[name] = folder / f"{name}.onnx"
    found["symbolic"].symlink_to("m.onnx")
    found["chain"].symlink_to(found["symbolic"])
    os.link(file, found["hard"])
    (folder / "linked").symlink_to(folder, target_is_directory=True)
    found["of the folder"] = folder / "linked" / "m.onnx"
    return found


NAMES = ["itself", "another spelling", "symbolic", "chain", "hard", "of the folder"]


@posix
@pytest.mark.parametrize("output", NAMES)
@pytest.mark.parametrize("given", NAMES)
def test_an_input_is_never_an_output(
    given: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = links(tmp_path / "models")
    monkeypatch.chdir(tmp_path / "models")
    for target in (names[output], os.path.relpath(names[output])):
        with pytest.raises(OutputError, match="is an input, and writing the output would destroy"):
            check_target(target, ".onnx", ["gone.onnx", "", names[given]])
    assert names["itself"].read_bytes() == b"model"
    check_target(tmp_path / "models" / "new.onnx", ".onnx", [names[given]])


@pytest.mark.parametrize("name", ["out.txt", "out", "out.onnx.bak", ".onnx", "out.onn", "onnx"])
def test_the_suffix_is_that_of_the_format(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check_target(tmp_path / name, ".onnx")
    assert str(caught.value) == (
        f"the name of the output must end in .onnx, got {str(tmp_path / name)!r}."
    )
    check_target(tmp_path / "OUT.ONNX", ".onnx")


# --- Files of killed processes ------------------------------------------------------------------

KILLED = """
import os, signal, sys
from layertap.format.atomic import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    print(temporary.name, flush=True)
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def writer(target: Path, then: str) -> subprocess.Popen[str]:
    """A process that has written half of a file, and then is killed or waits for its stdin."""
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(target), then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@posix
def test_the_next_write_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    target = tmp_path / "out.npz"
    target.write_bytes(b"the old")
    for _ in range(2):  # the second removes what the first left
        with writer(target, "kill") as process:
            assert process.wait() != 0
        assert len(contents(tmp_path)) == 2
    check_target(target)
    assert contents(tmp_path) == {"out.npz": b"the old"}


@posix
def test_what_another_process_is_writing_is_not_touched(tmp_path: Path) -> None:
    target = tmp_path / "out.npz"
    with writer(target, "wait") as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        for _ in range(3):
            with replacing(target) as temporary:
                temporary.write_bytes(b"ours")
            sweep(tmp_path)
            assert contents(tmp_path) == {name: b"half", "out.npz": b"ours"}
        process.communicate("")
    assert process.returncode == 0
    assert contents(tmp_path) == {"out.npz": b"half"}


@posix
def test_files_of_another_machine_stay_for_a_day(tmp_path: Path) -> None:
    """Its locks may not be seen here."""
    for name in (".a.layertap-0123456789abcdef.npz", ".a.layertap-fedcba9876543210.npz"):
        (tmp_path / name).write_bytes(b"half")
    os.utime(tmp_path / name, (0, 0))
    check_target(tmp_path / "out.npz")
    assert list(contents(tmp_path)) == [".a.layertap-0123456789abcdef.npz"]


@posix
def test_other_hidden_files_links_and_folders_stay(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.npz") as temporary:
        name = temporary.name
    kept = {
        ".layertap-" + "0" * 16 + ".npz": b"x",
        ".a.layertap-" + "0" * 15 + ".npz": b"x",
        "a.layertap-" + "0" * 16 + ".npz": b"x",
        ".a.npz": b"x",
        "a.npz": b"x",
    }
    for other, data in kept.items():
        (tmp_path / other).write_bytes(data)
        os.utime(tmp_path / other, (0, 0))
    machine = name.partition(".layertap-")[2][:8]
    (tmp_path / f".f.layertap-{machine}00000000.d").mkdir()
    (tmp_path / f".l.layertap-{machine}00000000.d").symlink_to(tmp_path / "a.npz")
    os.mkfifo(tmp_path / f".p.layertap-{machine}00000000.d")
    before = sorted(path.name for path in tmp_path.iterdir())
    _swept.clear()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_folder_is_not_listed_for_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that thousands of files take linear time."""
    listings = []

    def slow(folder: Path) -> list[str]:
        listings.append(folder)
        time.sleep(0.01)
        return []

    monkeypatch.setattr(os, "listdir", slow)
    for number in range(50):
        with replacing(tmp_path / f"{number}.txt") as temporary:
            temporary.write_text("x")
    assert len(listings) < 10


def test_contents_are_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, a power failure could leave an empty file under the name of the old one."""
    done: list[str] = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def spy(*arguments: Any, name: str = name, original: Any = original) -> Any:
            done.append(name)
            return original(*arguments)

        monkeypatch.setattr(os, name, spy)
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
    assert done == ["fsync", "replace", "fsync"]
