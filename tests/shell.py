"""The command line, in this process or in one of its own; and programs in fresh ones."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from layertap.cli import main


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def layertap(*argv: str | Path) -> Done:
    """`layertap ARGV...`, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in argv])
    return Done(code, out.getvalue(), err.getvalue())


def fresh(*argv: str | Path, **options: Any) -> Done:
    """The same in a process of its own; `options` go to `subprocess.run`."""
    command = [sys.executable, "-m", "layertap", *map(str, argv)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    done = subprocess.run(command, **{**streams, **options}, check=False, timeout=60)
    return Done(done.returncode, done.stdout or "", done.stderr or "")


def files_of_two_processes(program: str, folder: Path, *paths: Path) -> list[Path]:
    """Run a program in two processes that hash strings differently, and compare what they write.

    Args:
        program: writes into the folder that its first argument names.
        folder: where there is room.
        paths: folders to import from.

    Returns:
        The files of the first; those of the second have the same names and bytes.
    """
    for seed in ("1", "2"):
        (folder / seed).mkdir()
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(map(str, paths))}
        command = [sys.executable, "-W", "ignore", "-c", program, str(folder / seed)]
        subprocess.run(command, check=True, env={**os.environ, **environment})
    files = sorted((folder / "1").iterdir())
    assert [x.name for x in files] == sorted(x.name for x in (folder / "2").iterdir())
    for file in files:
        assert file.read_bytes() == (folder / "2" / file.name).read_bytes(), file.name
    return files
