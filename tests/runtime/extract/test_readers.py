"""A user's own function that reads images, in processes of its own."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import layertap
from generators import tiny
from layertap.errors import ImageError, UsageError
from layertap.extract.readers import Reader, ReaderItems
from layertap.extract.sources import find_items
from layertap.images.preprocessing import Preprocessing

HERE = Path(__file__).parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(layertap.__file__).parents[1]), str(HERE)]),
}
NAME = "reader_functions:from_text"
RECIPE = Preprocessing(size=(4, 6))

TEXTS = {
    "0.dcm": "7",
    "1.dcm": "raise",
    "2.dcm": "8",
    "3.dcm": "none",
    "4.dcm": "die",
    "5.dcm": "exit",
    "6.dcm": "nonsense",
    "7.dcm": "floats",
    "8.dcm": "9",
}

REASONS = {
    1: r"^the reader reader_functions:from_text raised KeyError: 'no\\nsuch tag'\.$",
    3: r"returned a NoneType, and it must return a PIL image or an array\.$",
    4: r"^the process of the reader reader_functions:from_text ended while it read this",
    5: r"raised SystemExit: 3",
    6: r"its shape is \(2, 3, 4, 5\)",
    7: r"its dtype is float64",
}


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Iterator[None]:
    sys.path.insert(0, str(HERE))
    yield
    sys.path.remove(str(HERE))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_reader_that_fails_fails_for_that_item_only(folder: Path) -> None:
    items = find_items(folder, reader=NAME, recipe=RECIPE)
    try:
        assert [item.id for item in items.items] == list(TEXTS)
        for row, text in enumerate(TEXTS.values()):
            if row in REASONS:
                with pytest.raises(ImageError, match=REASONS[row]):
                    RECIPE(items.read(row).content)
            else:
                data = items.read(row)
                np.testing.assert_array_equal(RECIPE(data.content), np.full((4, 6, 3), int(text)))
                assert data.sha256 == hashlib.sha256(text.encode()).hexdigest()
    finally:
        items.close()
    assert not multiprocessing.active_children()


def test_a_stream_of_a_reader(folder: Path) -> None:
    model = layertap.open(tiny.image_classifier().SerializeToString())
    batches = list(model.stream(folder, "pool", reader=NAME, workers=2, batch_size=3))
    errors = [error for batch in batches for error in batch.errors]
    assert [row for row, error in enumerate(errors) if error] == list(REASONS)
    grey: Any = [np.full((4, 6, 3), value, np.uint8) for value in (7, 8, 9)]
    rows = np.concatenate([batch["pool"][batch.ok] for batch in batches])
    np.testing.assert_array_equal(rows, model.activations(grey, "pool"))
    assert not multiprocessing.active_children()


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
print("runs", flush=True)
import layertap
model = layertap.open(sys.argv[2])
source = [sys.argv[3] + "/0.dcm", sys.argv[3] + "/2.dcm"]
f = model.extract(source, ["pool"], sys.argv[3] + "/out", reader="reader_functions:from_text")
print(f.failed_rows, f.done_rows)
"""


def test_a_script_that_uses_a_reader_runs_once(folder: Path) -> None:
    """Also without `if __name__ == "__main__":`."""
    (folder / "script.py").write_text(SCRIPT)
    tiny.save(tiny.image_classifier(), folder / "m.onnx")
    command = [sys.executable, *map(str, (folder / "script.py", HERE, folder / "m.onnx", folder))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "runs\n0 2\n", "")


def test_members_of_archives_are_given_as_bytes_and_results_may_be_ready(folder: Path) -> None:
    with tarfile.open(folder.parent / "a.tar", "w") as archive:
        archive.add(folder / "0.dcm", "0.dcm")
    items = find_items(folder.parent / "a.tar", reader=NAME, recipe=RECIPE)
    assert RECIPE(items.read(0).content)[0, 0, 0] == 7
    items.close()
    items = find_items([folder / "0.dcm"], reader="reader_functions:ready")
    assert items.ready
    np.testing.assert_array_equal(items.read(0).content, np.full((8, 6, 3), 7, np.float32))
    items.close()


def test_threads_of_later_pools_use_the_same_processes(folder: Path) -> None:
    """A worker of Ray makes new threads for each batch."""
    reader = Reader(NAME)
    for _ in range(3):
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(reader, [folder / "0.dcm", folder / "2.dcm", folder / "8.dcm"]))
    assert len(multiprocessing.active_children()) <= 2
    with pytest.raises(ImageError, match="ended while it read this"):
        reader(folder / "4.dcm")
    assert np.asarray(reader(folder / "2.dcm"))[0, 0, 0] == 8
    reader.close()
    assert not multiprocessing.active_children()


def test_the_processes_of_a_reader_end_with_a_process_that_is_killed(folder: Path) -> None:
    code = (
        "import multiprocessing, os, sys\n"
        "from layertap.extract.readers import Reader\n"
        "if __name__ == '__main__':\n"
        "    Reader(sys.argv[1])(sys.argv[2])\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    path = folder / "script.py"
    path.write_text(code)
    with open(folder / "printed", "wb") as printed:  # a pipe would be read to the end of all
        done = subprocess.run(
            [sys.executable, path, NAME, folder / "0.dcm"], stdout=printed, env=ENVIRONMENT
        )
    assert done.returncode == -9
    process = int((folder / "printed").read_text())
    for _ in range(100):
        if not psutil.pid_exists(process) or psutil.Process(process).status() == "zombie":
            return
        time.sleep(0.1)
    pytest.fail(f"the process {process} is still there")


def test_the_identity_of_a_reader_is_its_name_and_its_file() -> None:
    for given in (NAME, import_module("reader_functions").from_text):
        reader = Reader(given)
        assert reader.name == NAME
        source = HERE / "reader_functions.py"
        assert reader.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()


def test_what_is_no_reader_is_refused_before_any_work() -> None:
    def inner(path: str) -> Any:
        return path

    for given, message in (
        ("nocolon", "MODULE:FUNCTION"),
        ("gone_module:f", "cannot be imported.*gone_module"),
        ("reader_functions:gone", "cannot be imported.*gone"),
        ("os:sep", "got a str"),
        (lambda path: path, "top level of a module"),
        (inner, "top level of a module"),
        (5, "got an int"),
    ):
        with pytest.raises(UsageError, match=message):
            Reader(given)  # type: ignore[arg-type]


def test_the_reader_is_known_to_whoever_writes_the_identity(folder: Path) -> None:
    items = find_items(folder, reader=NAME, recipe=RECIPE)
    assert isinstance(items, ReaderItems)
    assert items.reader.name == NAME
    items.close()
