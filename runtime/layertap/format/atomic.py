"""Atomic writes: if writing a file fails, the previous file is unchanged.

A file is written under a temporary name in the same folder, brought to the disk, and renamed. If
the process is killed (SIGKILL, a power failure), the temporary file stays. The next write in that
folder removes it (`sweep`), but only if its writer has ended: a writer holds a lock on its
file, which the system releases when the process ends. Locks are not always seen by other machines
that share a network disk. Therefore the name says on which machine the file was written, and files
of another machine are removed only when they have not been written to for a day.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from layertap.errors import LayertapError, OutputError, UsageError

try:
    import fcntl
except ImportError:  # on Windows, where temporary files are removed after a day
    fcntl = None  # type: ignore[assignment]

ABANDONED_SECONDS = 24 * 60 * 60
"""From which age on a temporary file is removed whose writer may be on another machine."""


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `target`; rename it to `target` on success.

    On any exception, Ctrl-C included, the temporary file is removed and `target` is unchanged. If
    `target` is a symbolic link, the file that it points to is replaced.

    Raises:
        OutputError: the folder is missing or not writable, or the disk is full.
    """
    target = Path(target)
    claim = Claim(Path(os.path.realpath(target)))
    try:
        _create(claim, target)
        try:
            yield claim.path
            claim.rename(Path(os.path.realpath(target)))
        except OSError as exc:
            if isinstance(exc, LayertapError):  # a timeout
                raise
            raise _failure(target, exc.strerror or str(exc)) from exc
    finally:
        claim.release()


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Create a folder and its parents, unless it exists.

    Raises:
        OutputError: the folder cannot be created.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as exc:
        raise OutputError(
            f"cannot create the folder {os.fsdecode(folder)!r}: {exc.strerror}."
        ) from exc


def check_target(
    target: str | os.PathLike[str],
    suffix: str = "",
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> None:
    """Check that `target` can be written. Call this before long work, to fail early.

    Args:
        target: the file to write.
        suffix: the suffix of its format, such as `.onnx`; capitals are accepted. Empty for any.
        inputs: files that are read, and must not be replaced. Some of them may not exist.

    Raises:
        UsageError: it has another suffix, or cannot be the name of a file.
        OutputError: it is one of the inputs, also by another name or a link; or the folder is
            missing or not writable.
    """
    if not isinstance(target, (str, os.PathLike)) or isinstance(os.fspath(target), bytes):
        raise UsageError(f"the path of the output must be text or a Path, got {target!r}.")
    target = Path(target)
    if suffix and target.suffix.lower() != suffix:
        raise UsageError(f"the name of the output must end in {suffix}, got {str(target)!r}.")
    check_apart(target, inputs)
    try:
        claim = Claim(Path(os.path.realpath(target)))
    except ValueError as exc:  # a zero byte, or half of a character
        raise UsageError(f"{str(target)!r} cannot be the name of a file.") from exc
    try:
        _create(claim, target)
    finally:
        claim.release()


def check_apart(target: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Check that a file to be written is none of the files that are read.

    Raises:
        OutputError: it is one of them, also by another name or a link.
    """
    for given in inputs:
        if is_same_file(target, given):
            name = os.fsdecode(target)
            same = "" if name == os.fsdecode(given) else f", the same file as {name!r},"
            raise OutputError(
                f"{os.fsdecode(given)!r}{same} is an input, and writing the output would destroy "
                "it. Give another name for the output."
            )


def is_same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two paths lead to one file that exists: equal names, links, another spelling."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one is missing, or its name cannot be that of a file
        return False


class Claim:
    """A file under a temporary name, locked until it is released.

    It is made in two steps, so that a signal between them leaves no file that nobody removes.
    """

    def __init__(self, target: Path, suffix: str | None = None) -> None:
        """
        Args:
            target: what it is written for; the name of a real file, not of a link.
            suffix: by default that of `target`.
        """
        self._target = target
        self._suffix = target.suffix if suffix is None else suffix
        self._descriptor: int | None = None
        self.path = target
        """The temporary name, once the file is created."""

    def create(self) -> None:
        """Create it, empty, with the mode that a plain `open` would set.

        Raises:
            OSError: it cannot be created.
        """
        target = self._target
        while True:
            self.path = temporary_path(target, self._suffix)
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
            self._descriptor = os.open(self.path, flags, 0o666)
            lock(self._descriptor)
            if fcntl is None:  # Windows renames no file that is open
                os.close(self._descriptor)
                self._descriptor = None
                return
            if is_open_at(self._descriptor, self.path):
                return
            os.close(self._descriptor)  # another process took it for an abandoned one

    def rename(self, target: Path) -> None:
        """Bring the contents to the disk, and give the file its name.

        It stays locked: until it is released, it does not count as abandoned.

        Raises:
            OSError: the disk is full, or the file cannot be renamed.
        """
        _synchronize(self.path, os.O_RDWR)
        os.replace(self.path, target)
        with contextlib.suppress(OSError):  # not every file system can do that
            _synchronize(target.parent, os.O_RDONLY)

    def release(self) -> None:
        """Remove the file, unless it was renamed, and give up the lock."""
        if self.path != self._target:
            self.path.unlink(missing_ok=True)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def temporary_path(target: Path, suffix: str) -> Path:
    """A new name next to `target`, which says on which machine it was chosen."""
    mark = f"{machine()}{os.urandom(4).hex()}"
    return target.with_name(f".{target.stem[:32]}.layertap-{mark}{suffix}")


def sweep(folder: Path) -> None:
    """Remove temporary files of writers that have ended from a folder.

    A folder is listed again only after 20 times as long as the last listing took, so that writing
    thousands of files takes linear time.
    """
    now = time.monotonic()
    if now < _swept.get(folder, now - 1):
        return
    with contextlib.suppress(OSError):  # files that come and go meanwhile, or a missing folder
        for name in os.listdir(folder):
            found = TEMPORARY.fullmatch(name)
            if found:
                remove_if_abandoned(folder / name, here=found[1] == machine())
    done = time.monotonic()
    _swept[folder] = done + 20 * (done - now)


def remove_if_abandoned(path: Path, here: bool = True) -> None:
    """Remove a file that no process has locked.

    Args:
        path: the file.
        here: whether it was written on this machine. Otherwise it must also be a day old.
    """
    with contextlib.suppress(OSError):  # it was renamed or removed meanwhile, or is not ours
        descriptor = os.open(path, os.O_RDWR | _NO_LINK)
        try:
            status = os.fstat(descriptor)
            old = time.time() - status.st_mtime > ABANDONED_SECONDS
            locked = lock(descriptor)  # `None` if the file system has no locks
            free = old if locked is None else locked and (here or old)
            if free and stat.S_ISREG(status.st_mode):
                path.unlink()
        finally:
            os.close(descriptor)


_swept: dict[Path, float] = {}
"""The time from which on a folder is listed again."""

TEMPORARY = re.compile(r"\..{0,32}\.layertap-([0-9a-f]{8})[0-9a-f]{8}(?:\..*)?", re.DOTALL)
"""Names of temporary files; the group says on which machine they were written."""

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@cache
def machine() -> str:
    """What tells this machine from others that write to the same disk, in eight digits.

    On Linux it is the running system, which containers share and which knows about all locks.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            known = file.read()
    except OSError:
        import platform

        known = platform.node().encode(errors="replace")
    return f"{zlib.crc32(known):08x}"


def lock(descriptor: int) -> bool | None:
    """Lock a file or folder until it is closed.

    Returns:
        False if another process has locked it, `None` if that cannot be known.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def wait_for_lock(descriptor: int) -> None:
    """Lock a file until it is closed, after all others have closed it; not on every system."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def is_open_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _synchronize(path: Path, flags: int) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create(claim: Claim, target: Path) -> None:
    """Create a temporary file for `target`."""
    resolved = Path(os.path.realpath(target))
    try:
        _check_replaceable(target)
        if not resolved.parent.is_dir():
            missing = resolved.parent if target.parent.is_dir() else target.parent
            raise _failure(target, f"the folder {str(missing)!r} does not exist")
        sweep(resolved.parent)
        claim.create()
    except OSError as exc:
        raise _failure(target, exc.strerror or str(exc)) from exc


def _check_replaceable(target: Path) -> None:
    try:
        mode = target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(mode):
        raise OutputError(f"cannot write {str(target)!r}: it is a folder. Give a file name.")
    if not stat.S_ISREG(mode):  # for example /dev/null, which must not be replaced
        raise OutputError(f"cannot write {str(target)!r}: it is not a regular file.")


def _failure(target: Path, reason: str) -> OutputError:
    return OutputError(f"cannot write {str(target)!r}: {reason}. Nothing was written.")
