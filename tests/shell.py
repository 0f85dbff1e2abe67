"""The command line, in this process or in one of its own."""

from __future__ import annotations

import contextlib
import io
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
