"""Debug messages to the logger `layertap`."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import layertap
from generators import tiny
from shell import Done
from shell import layertap as shell

LOGGER = logging.getLogger("layertap")


def test_each_step_of_a_request_is_a_message(
    tiny_file: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    file = tiny_file("image_classifier")
    with caplog.at_level(logging.DEBUG, logger="layertap"):
        model = layertap.open(file)
        model.activations(tiny.images(2), "relu")
        model.activations(tiny.images(3), "relu")
    opened, cut, loading, *running = caplog.messages
    size = file.stat().st_size
    assert opened == f"opened '{file}': {size} bytes, 10 nodes, 7 layers, on cpu"
    assert re.fullmatch(rf"cut '{file}': 3 of 10 nodes, \d+ bytes, for 1 tensor", cut)
    assert re.fullmatch(rf"loading '{file}': \d+\.\d ms", loading)
    times = [r"running '.*' on image \(2, 8, 6, 3\) float32: \d+\.\d ms"]
    times.append(times[0].replace("2", "3", 1))
    assert len(running) == len(times)
    assert all(re.fullmatch(*pair) for pair in zip(times, running, strict=True))
    assert {(record.name, record.levelname) for record in caplog.records} == {("layertap", "DEBUG")}


def test_nothing_is_logged_unless_it_is_asked_for(
    tiny_file: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="layertap"):
        layertap.open(tiny_file("image_classifier")).predict(tiny.images(1))
    assert caplog.messages == []


def test_what_a_file_says_is_escaped(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    made = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[n] x) => (float[n] y) { y = Relu(x) }'
    )
    made.graph.input[0].name = made.graph.node[0].input[0] = "\x1b[31m\nred"
    with caplog.at_level(logging.DEBUG, logger="layertap"):
        layertap.open(made.SerializeToString()).predict(np.zeros(2, np.float32))
    assert any(r"\x1b[31m\nred" in message for message in caplog.messages)
    assert all(message.isprintable() for message in caplog.messages)


def test_a_run_does_not_import_logging(tiny_file: Callable[[str], Path]) -> None:
    program = (
        "import sys, numpy, layertap\n"
        f"model = layertap.open({str(tiny_file('image_classifier'))!r})\n"
        "model.predict(numpy.zeros((1, 8, 6, 3), 'float32'))\n"
        "print('logging' in sys.modules)\n"
        "import logging\n"
        "logging.basicConfig(level=10, stream=sys.stdout)\n"
        "model.predict(numpy.zeros((1, 8, 6, 3), 'float32'))\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "False"
    assert second.startswith("DEBUG:layertap:running ")


@pytest.mark.parametrize("option", ["-v", "--verbose"])
@pytest.mark.parametrize("first", [True, False])
def test_verbose_prints_to_stderr(
    option: str, first: bool, tiny_file: Callable[[str], Path], tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", tiny.images(2))
    command = ["run", str(tiny_file("image_classifier")), str(tmp_path / "x.npy")]
    given = [option, *command] if first else [*command[:2], option, *command[2:]]
    silent, done = shell(*command), shell(*given)
    assert (silent.code, silent.err) == (0, "")
    assert done[:2] == silent[:2]
    line = r"layertap: \[ *\d+\.\d{3} s\] (opened|cut|loading|running) .*"
    lines = done.err.splitlines()
    assert [re.fullmatch(line, one)[1] for one in lines] == [  # type: ignore[index]
        "opened", "cut", "loading", "running",
    ]  # fmt: skip
    assert LOGGER.level == logging.NOTSET
    assert shell(*command) == silent


def test_verbose_alone_is_no_command() -> None:
    done = shell("-v")
    assert done.code == 2
    assert "usage: layertap" in done.err
    assert isinstance(done, Done)
