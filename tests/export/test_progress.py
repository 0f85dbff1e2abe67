"""The line on the terminal that shows the current stage."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from layertap_export.progress import CLEAR, ProgressLine, timed

posix = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_is_rewritten_and_removed() -> None:
    stream = Terminal()
    with ProgressLine(stream, interval=60) as progress:
        progress("tracing")
        progress("converting")
    assert stream.getvalue() == f"{CLEAR}tracing ... 0 s{CLEAR}converting ... 0 s{CLEAR}"


def test_stages_are_logged_and_the_line_is_not_shown_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stages: list[str] = []
    caplog.set_level(logging.DEBUG, logger="layertap")
    timed(stages.append)("tracing")
    assert stages == caplog.messages == ["tracing"]
    stream = Terminal()
    with ProgressLine(stream, interval=60) as progress:
        progress("tracing")
    assert stream.getvalue() == ""


def test_the_seconds_go_on_by_themselves() -> None:
    stream = Terminal()
    with ProgressLine(stream, interval=0.1) as progress:
        progress("converting")
        time.sleep(1.3)
    shown = stream.getvalue().split(CLEAR)
    assert shown[1] == "converting ... 0 s"
    assert "converting ... 1 s" in shown
    assert shown[-1] == ""
    length = len(stream.getvalue())
    time.sleep(0.3)
    assert len(stream.getvalue()) == length


def test_where_there_is_no_terminal_there_is_nothing() -> None:
    stream = io.StringIO()
    with ProgressLine(stream) as progress:
        progress("tracing")
    assert stream.getvalue() == ""


def test_an_error_finds_the_line_removed() -> None:
    stream = Terminal()

    def fail(progress: ProgressLine) -> None:
        progress("tracing")
        raise RuntimeError

    with pytest.raises(RuntimeError), ProgressLine(stream) as progress:
        fail(progress)
    assert stream.getvalue().endswith(CLEAR)


def test_a_warning_gets_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()

    def show(message: Any, *rest: Any) -> None:
        stream.write(f"warning: {message}\n")

    monkeypatch.setattr(warnings, "showwarning", show)
    with ProgressLine(stream, interval=60) as progress, warnings.catch_warnings():
        warnings.simplefilter("always")
        progress("tracing")
        warnings.warn("odd", stacklevel=1)
    assert stream.getvalue() == f"{CLEAR}tracing ... 0 s{CLEAR}warning: odd\n{CLEAR}"
    assert warnings.showwarning is show


@posix
def test_it_has_the_terminal_to_itself() -> None:
    """While TensorFlow is imported, stderr is led elsewhere."""
    ours, theirs = os.openpty()
    with open(theirs, "w") as stream, ProgressLine(stream, interval=60) as progress:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        progress("importing TensorFlow")
        assert os.read(ours, 1 << 16).decode() == f"{CLEAR}importing TensorFlow ... 0 s"
    os.close(ours)


@posix
@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.slow
def test_on_a_terminal(small: Any, tmp_path: Path) -> None:
    """Also while TensorFlow is imported, when stderr is led elsewhere."""
    small.save(tmp_path / "small.keras")
    ours, theirs = os.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "layertap", "export", "small.keras", "-o", "small.onnx"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=True,
        text=True,
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode().split(CLEAR)
    os.close(ours)
    stages = list(dict.fromkeys(line.partition(" ...")[0] for line in shown))
    assert stages == [
        "",
        "importing TensorFlow",
        "loading the model",
        "tracing",
        "converting",
        "writing",
        "verifying against Keras",
    ]
    assert shown[-1] == ""
    assert done.stdout.startswith("wrote small.onnx (")
