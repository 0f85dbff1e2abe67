"""The command line as a whole: commands, exit codes, streams, and modules it must not import."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import layertap as package
from generators import tiny
from layertap import cli as shell_package
from layertap.cli import Command
from layertap.errors import LayertapWarning, ModelFileError
from shell import Done, fresh, layertap

TinyFile = Callable[[str], Path]
RUNTIME = Path(package.__file__).parents[1]
posix = pytest.mark.skipif(os.name != "posix", reason="requires POSIX pipes and devices")


# --- Commands -----------------------------------------------------------------------------------


def test_version_is_printed() -> None:
    expected = Done(0, f"layertap {package.__version__}\n", "")
    assert layertap("--version") == fresh("--version") == expected


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_every_command(option: str) -> None:
    """Including the commands of the exporter and the models, which the runtime does not import."""
    done = layertap(option)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("usage: layertap [-h] [--version] COMMAND ...\n")
    listed = [line.split()[0] for line in done.out.splitlines() if line.startswith("    ")]
    assert {"export", "verify", "models", "info", "layers", "run", "stats"} <= set(listed)
    own = {item.stem for item in Path(shell_package.__file__).parent.glob("*.py")}
    others = {
        "__init__",
        "completion_scripts",
        "attended_tokens",
        "explained_images",
        "target_options",
        "image_input",
        "image_output",
        "layer_costs",
        "layer_statistics",
        "mask_options",
        "options",
        "picture_options",
        "printed_results",
        "printing",
        "ready_batch",
        "receptive_fields",
        "result_files",
        "sheet_options",
        "signals",
        "verbose",
    }
    assert set(listed) >= own - others, "a module of a command is not listed"
    assert len(listed) == len(set(listed))


def test_each_command_has_help() -> None:
    for name in shell_package.OWN:
        done = layertap(name, "--help")
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith(f"usage: layertap {name} ")


def test_no_command_prints_the_help_to_stderr() -> None:
    done = layertap()
    assert done == Done(2, "", layertap("--help").out)


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("layrs", " Did you mean 'layers'?"),
        ("verfy", " Did you mean 'verify'?"),
        ("chest.onnx", ""),
        ("", ""),
    ],
)
def test_unknown_command_is_an_error(command: str, hint: str) -> None:
    assert layertap(command, "x") == Done(
        2,
        "",
        f"layertap: the command {command!r} is unknown.{hint} `layertap --help` lists the "
        "commands.\n",
    )


def test_unknown_option_is_an_error(tiny_file: TinyFile) -> None:
    done = layertap("layers", tiny_file("residual"), "--colour")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == "layertap: error: unrecognized arguments: --colour"


class Entry:
    """An entry point of the group `layertap.commands`."""

    def __init__(self, name: str, give: Any) -> None:
        self.name, self.value, self._give = name, f"package.cli:{name.upper()}", give

    def load(self) -> Any:
        if isinstance(self._give, Exception):
            raise self._give
        return self._give


def test_other_packages_add_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken command does not affect the others."""
    good = Command("say hello", lambda parser: None, lambda args: print("hello") or 1)
    entries = [Entry("hello", good), Entry("bad", ImportError("no module named 'x'"))]

    def entry_points(*, group: str) -> list[Entry]:
        assert group == "layertap.commands"
        return entries

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    broken = (
        "layertap: warning: the command 'bad' (package.cli:BAD) cannot be loaded: no module named "
        "'x'\n"
    )
    assert layertap("hello") == Done(1, "hello\n", broken)
    done = layertap("--help")
    assert (done.code, done.err) == (0, broken)
    assert "    hello " in done.out
    missing = "layertap: the command 'bad' is unknown. `layertap --help` lists the commands.\n"
    assert layertap("bad") == Done(2, "", broken + missing)
    assert layertap("--version").err == ""  # entry points are not loaded


# --- Exit codes and messages --------------------------------------------------------------------


def replace_info(monkeypatch: pytest.MonkeyPatch, run: Callable[[Any], int]) -> None:
    """Replace the function of `layertap info`."""
    command = Command("", lambda parser: None, run)
    monkeypatch.setattr(shell_package, "_own", lambda name: command)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModelFileError("the file is bad."), "the file is bad."),
        (MemoryError(), "not enough memory."),
        (
            MemoryError("Unable to allocate 7 TiB"),
            "not enough memory (Unable to allocate 7 TiB).",
        ),
        (OSError(5, "Input/output error"), "Input/output error"),
        (OSError(5, "Input/output error", "a.png"), "a.png: Input/output error"),
        (OSError("something"), "something"),
    ],
)
def test_exceptions_are_messages_with_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, message: str
) -> None:
    def fail(_: object) -> int:
        print("so far")
        raise error

    replace_info(monkeypatch, fail)
    assert layertap("info") == Done(2, "so far\n", f"layertap: {message}\n")


def test_ctrl_c_has_the_exit_code_of_shells(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    replace_info(monkeypatch, interrupt)
    message = "layertap: interrupted; no file was left incomplete.\n"
    assert layertap("info") == Done(130, "", message)


INTERRUPTED = """
import os
import time

try:
    os.kill(os.getpid(), {number})
    time.sleep(60)
except BaseException:
    raise ImportError("initialization failed") from None
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize(
    ("number", "message"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "ended by SIGTERM")],
)
@pytest.mark.parametrize("module", ["numpy", "onnxruntime"])
def test_a_signal_during_an_import(
    number: int, message: str, module: str, tiny_file: TinyFile, tmp_path: Path
) -> None:
    """Extension modules turn the exception of the handler into an ImportError of their own."""
    (tmp_path / f"{module}.py").write_text(INTERRUPTED.format(number=int(number)))
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 6, 3), np.float32))
    arguments = ["run", tiny_file("image_classifier"), tmp_path / "x.npy", "-o", tmp_path / "y.npz"]
    done = subprocess.run(
        [sys.executable, "-m", "layertap", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
    )
    expected = f"layertap: {message}; no file was left incomplete.\n"
    assert (done.returncode, done.stderr) == (128 + number, expected)


def test_programming_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise ZeroDivisionError

    replace_info(monkeypatch, fail)
    with pytest.raises(ZeroDivisionError):
        layertap("info")


def test_warnings_are_printed_as_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only layertap's own warnings, each text once."""

    def warn(_: object) -> int:
        for text in ("one", "two", "one"):
            warnings.warn(text, LayertapWarning, stacklevel=1)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.warn("of a library", UserWarning, stacklevel=1)
        print("data")
        return 0

    replace_info(monkeypatch, warn)
    shown = warnings.showwarning
    expected = Done(0, "data\n", "layertap: warning: one\nlayertap: warning: two\n")
    assert layertap("info") == expected
    assert layertap("info") == expected  # once per run, not once per process
    assert warnings.showwarning is shown


def test_module_runs_as_a_process(tiny_file: TinyFile, tmp_path: Path) -> None:
    """Data on stdout, messages on stderr, the exit code to the shell."""
    path = Path(shutil.copy(tiny_file("image_classifier"), tmp_path / "m.onnx"))
    Image.fromarray(np.zeros((8, 6), np.uint8)).save(tmp_path / "a.png")
    assert fresh("layers", path) == layertap("layers", path)
    done = fresh("run", "m.onnx", "a.png", "gone.png", cwd=tmp_path)
    assert done.code == 1
    assert done.out.startswith("a.png: ")
    assert done.err == "layertap: gone.png: there is no such file.\n"
    done = fresh("info", "none.onnx", cwd=tmp_path)
    assert done == Done(
        2, "", "layertap: there is no file 'none.onnx'. Did you mean 'm.onnx'?\n"
    )  # fmt: skip


def test_installed_command_runs_main() -> None:
    (entry,) = (
        entry
        for entry in importlib.metadata.entry_points(group="console_scripts")
        if entry.name == "layertap"
    )
    assert entry.load() is shell_package.main


# --- Streams ------------------------------------------------------------------------------------


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a process whose stdout fails at the end, or at once."""
    return {**os.environ, "PYTHONUNBUFFERED": request.param}


@posix
@pytest.mark.parametrize("arguments", [["layers", "FILE"], ["layers", "FILE", "--json"], ["-h"]])
def test_broken_pipe_ends_silently(
    tiny_file: TinyFile, environment: dict[str, str], arguments: list[str]
) -> None:
    """`layertap layers FILE | head` prints no error."""
    path = str(tiny_file("residual"))
    command = [path if item == "FILE" else item for item in arguments]
    read, write = os.pipe()
    os.close(read)
    try:
        done = fresh(*command, stdout=write, env=environment)
    finally:
        os.close(write)
    assert done == Done(0, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["layers", "FILE"], ["info", "FILE"]])
def test_full_disk_behind_stdout_is_an_error(
    tiny_file: TinyFile, environment: dict[str, str], arguments: list[str]
) -> None:
    path = str(tiny_file("residual"))
    command = [path if item == "FILE" else item for item in arguments]
    with open("/dev/full", "w") as full:
        done = fresh(*command, stdout=full, env=environment)
    assert done == Done(2, "", "layertap: No space left on device\n")


@posix
def test_closed_stdout_is_no_error(tiny_file: TinyFile) -> None:
    command = [sys.executable, "-m", "layertap", "layers", str(tiny_file("residual"))]
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_are_printed_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    made = tiny.model(
        [tiny.node("Neg", "x", "größe大")],
        [tiny.value("x", ["n", 1])],
        [tiny.value("größe大", ["n", 1])],
    )
    path = tiny.save(made, tmp_path / "m.onnx")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = fresh("layers", path, env=environment, encoding=encoding)
    assert (done.code, done.err) == (0, "")
    name = "größe大".encode(encoding, errors="backslashreplace").decode(encoding)
    assert done.out.splitlines()[2].split()[1] == name


@pytest.mark.skipif(sys.platform != "linux", reason="other systems reject such names")
def test_file_names_that_are_not_utf8_are_printed(tiny_file: TinyFile, tmp_path: Path) -> None:
    """A Latin-1 name on a UTF-8 system."""
    Image.fromarray(np.zeros((8, 6), np.uint8)).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xe9.png")
    path = str(tiny_file("image_classifier"))
    for encoding in ("utf-8", "utf-8:strict"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}
        done = fresh("run", path, ".", cwd=tmp_path, env=environment)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("\\udce9.png: ")
    done = fresh("run", path, ".", "-o", "out.npz", "--layers", "pool", cwd=tmp_path)
    assert done.code == 0
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["layertap.files"].tolist() == ["\udce9.png"]


# --- Imports ------------------------------------------------------------------------------------

HEAVY = {"onnxruntime", "tensorflow", "keras", "tf2onnx", "onnx"}
COMPUTING = HEAVY | {"numpy", "PIL"}


@pytest.mark.parametrize(
    ("arguments", "excluded"),
    [
        (["layers", "FILE"], COMPUTING),
        (["layers", "FILE", "--json", "--layers", "conv*", "--size", "9x9"], COMPUTING),
        (["layers", "FILE", "--layers", "nope"], COMPUTING),
        (["layers", "--help"], COMPUTING),
        (["info", "FILE"], COMPUTING),
        (["--version"], COMPUTING),
        (["--help"], COMPUTING),
        ([], COMPUTING),
        (["nonsense"], HEAVY),
        (["run", "FILE", "--help"], HEAVY),
    ],
)
def test_light_commands_do_not_import_heavy_modules(
    tiny_file: TinyFile, arguments: list[str], excluded: set[str]
) -> None:
    path = str(tiny_file("image_classifier"))
    code = (
        "import sys\n"
        "from layertap.cli import main\n"
        "main(sys.argv[1:])\n"
        "sys.stderr.write('\\nloaded: ' + ' '.join({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *[path if item == "FILE" else item for item in arguments]],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stderr.rpartition("loaded: ")[2].split())
    assert "layertap" in loaded
    assert loaded & excluded == set()


SLOW = COMPUTING | {"dataclasses", "difflib", "inspect", "pathlib"}


def test_table_does_not_import_slow_modules(tiny_file: TinyFile) -> None:
    """Run as the installed command. Modules that Python imports at its start are ignored."""
    run = "import sys\nfrom layertap.cli import main\nmain()\n"
    report = "print(*sys.modules, file=sys.stderr)"
    bare = [sys.executable, "-S", "-c", f"import sys\n{report}"]
    started = subprocess.run(bare, capture_output=True, text=True, check=True)
    done = subprocess.run(
        [sys.executable, "-S", "-c", run + report, "layers", str(tiny_file("image_classifier"))],
        env={"PYTHONPATH": str(RUNTIME)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == layertap("layers", tiny_file("image_classifier")).out
    assert set(done.stderr.split()) & SLOW - set(started.stderr.split()) == set()
