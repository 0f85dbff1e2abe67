"""`layertap extract` and `layertap features`."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap as lt
from layertap.cli import extract as command
from layertap.extract import progress
from layertap.extract.progress import CLEAR, Bar, Line, Log, Meter, on_stream
from shell import Done, layertap

TinyFile = Callable[[str], Path]
MEANS = ["--layers", "relu=mean", "pool"]


@pytest.fixture
def model(tiny_file: TinyFile, pictures: Path) -> Path:
    """A file with a recipe; the folder `pictures` is in the current folder."""
    return tiny_file("image_classifier")


def extract(model: Path, *more: str, source: str = "pictures", out: str = "out") -> Done:
    layers = [] if "--layers" in more else MEANS
    return layertap("extract", model, source, *layers, "-o", out, *more)


def test_the_bill_comes_first_and_the_same_command_has_nothing_to_do(model: Path) -> None:
    done = extract(model)
    assert done.code == 0
    assert done.out == ""
    first, last = done.err.splitlines()
    assert first.startswith("5 images -> relu=mean (")
    assert "; free " in first
    assert last == "wrote out: 5 rows, 0 failed"
    assert extract(model) == (0, "", "out: nothing to do.\n")
    assert lt.features("out").complete


def test_a_dry_run_writes_nothing(model: Path) -> None:
    done = extract(model, "--dry-run")
    assert done.code == 0
    assert "(5 images tried)" in done.err
    assert not Path("out").exists()


def test_failed_images_are_named(model: Path) -> None:
    Path("pictures/broken.png").write_bytes(b"nothing")
    done = extract(model, "--quiet")
    assert done.code == 1
    assert done.err == (
        "layertap: broken.png (row 2): this is not an image in a format that Pillow reads.\n"
    )
    done = extract(model, "--max-failures", "0", out="other")
    assert done.code == 2
    assert "1 image failed, and at most 0 may" in done.err
    Path("pictures/broken.png").write_bytes(Path("pictures/a.png").read_bytes())
    done = extract(model, "--retry-failed")
    assert done.code == 0
    assert done.err.endswith("wrote out: 6 rows, 0 failed\n")
    rows = lt.features("out")["relu"]
    np.testing.assert_array_equal(rows[0], rows[2])


def test_json_lines(model: Path) -> None:
    Path("pictures/broken.png").write_bytes(b"nothing")
    done = extract(model, "--json", "--chunk", "2", "--batch-size", "1")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["event"] for line in lines] == ["bill", *["progress"] * 4, "end"]
    assert lines[0]["rows"] == 6
    assert [line["done"] for line in lines[1:-1]] == [0, 2, 4, 6]
    assert lines[-1] == {
        "event": "end", "rows": 6, "done": 6, "failed": 1, "complete": True, "nonfinite": {},
    }  # fmt: skip


def test_float16_that_overflows_is_reported(model: Path) -> None:
    recipe = {"size": [8, 6], "scaling": {"mode": "rescale", "scale": 1e9}}
    Path("recipe.json").write_text(json.dumps(recipe))
    done = extract(model, "--dtype", "float16", "--preprocess", "recipe.json", "--layers", "relu")
    assert done.code == 0
    count = lt.features("out").nonfinite["relu"]
    assert count == np.count_nonzero(~np.isfinite(np.asarray(lt.features("out")["relu"])))
    assert f"warning: relu: {count} values not finite" in done.err


def test_float32_that_is_not_finite_is_not_said_to_be_float16(model: Path) -> None:
    np.save("rows.npy", np.full((2, 8, 6, 3), np.nan, np.float32))
    done = layertap("extract", model, "rows.npy", "--layers", "relu", "-o", "out")
    assert "relu: 384 values not finite.\n" in done.err
    assert "float16" not in done.err


@pytest.mark.parametrize(
    "words",
    [
        "FILE a.png b.png --layers pool -o OUT",
        "FILE -o OUT a.png b.png --layers pool",
        "FILE a.png -o OUT b.png --layers pool",
        "FILE --layers pool -o OUT a.png b.png",
        "-o OUT --layers=pool FILE a.png b.png",
        "-o OUT FILE --layers=pool a.png b.png",
        "FILE --items list.txt b.png -o OUT --layers pool",
    ],
)
def test_options_and_sources_stand_in_any_order(words: str, model: Path) -> None:
    Path("list.txt").write_text("a.png\n")
    for name in ("a.png", "b.png"):
        Path(name).write_bytes(Path("pictures", name).read_bytes())
    given = [str(model) if word == "FILE" else word for word in words.split()]
    assert layertap("extract", *given)[:2] == (0, "")
    assert sorted(lt.features("OUT").ids) == ["a.png", "b.png"]


def test_an_option_that_does_not_exist_is_still_an_error(model: Path) -> None:
    done = extract(model, "--chnk", "3")
    assert done.code == 2
    assert "--chnk" in done.err
    assert not Path("out").exists()


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
@pytest.mark.parametrize(
    "command",
    [
        "cat list.txt | {} --items -",
        "cat list.txt | {} --items /dev/stdin",
        "{} --items - < list.txt",
    ],
)
def test_a_list_comes_through_a_pipe(command: str, model: Path) -> None:
    """Its paths are relative to the current folder."""
    Path("list.txt").write_text("pictures/b.png\npictures/a.png\n")
    words = [
        sys.executable,
        "-m",
        "layertap",
        "extract",
        str(model),
        "--layers",
        "pool",
        "-o",
        "out",
    ]
    for said in ("wrote out: 2 rows, 0 failed\n", "out: nothing to do.\n"):
        done = subprocess.run(
            command.format(shlex.join(words)),
            shell=True,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.endswith(said)
    assert list(lt.features("out").ids) == ["pictures/b.png", "pictures/a.png"]


def test_nothing_to_do_is_not_said_of_images_that_changed(model: Path) -> None:
    extract(model)
    data = Path("pictures/a.png").read_bytes()
    Path("pictures/a.png").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime("pictures/a.png", (1, 1))
    done = extract(model)
    assert done.code == 2
    assert done.err.startswith("layertap: 'a.png' has changed since its row 0 was computed")


def test_a_single_row_is_one_row(model: Path) -> None:
    done = extract(model, source="pictures/a.png")
    assert done.err.startswith("1 image -> ")
    assert done.err.endswith("wrote out: 1 row, 0 failed\n")


def test_lists_and_shards(model: Path) -> None:
    Path("list.csv").write_text("name,file\nA,pictures/a.png\nC,pictures/c.png\nB,pictures/b.png\n")
    for shard in ("1/2", "2/2"):
        done = layertap(
            "extract", model, "--items", "list.csv", "--column", "file", *MEANS, "-o", shard[0],
            "--shard", shard,
        )  # fmt: skip
        assert done.code == 0
    assert layertap("features", "merge", "1", "2", "-o", "both").code == 0
    found = lt.features("both")
    assert list(found.ids) == ["pictures/a.png", "pictures/c.png", "pictures/b.png"]
    extract(model, out="whole")
    np.testing.assert_array_equal(found["pool"], lt.features("whole")["pool"][[0, 2, 1]])


BAD: dict[str, tuple[list[str], str]] = {
    "no source": (["extract", "m", *MEANS, "-o", "out"], "there is nothing to extract from"),
    "source behind": (["extract", "m", "--layers", "pool", "pictures", "-o", "out"], "was read as"),
    "list": (["extract", "m", "list.txt", *MEANS, "-o", "out"], "as --items"),
    "one place": (["features", "done", "--csv", "t", "--parquet", "./t"], "two tables"),
    "own file": (["features", "done", "--csv", "done/extract.json"], "files of its own there"),
    "cam layer": (
        ["extract", "m", "pictures", *MEANS, "-o", "out", "--cam-layer", "relu"],
        "no heat map",
    ),
    "no image": (["extract", "m", "empty", *MEANS, "-o", "out"], "there is no image here"),
    "missing": (["extract", "m", "gone", *MEANS, "-o", "out"], "there is no such file or folder"),
    "output": (["extract", "m", "pictures", *MEANS, "-o", "pictures"], "is not a collection"),
    "shard": (
        ["extract", "m", "pictures", *MEANS, "-o", "out", "--shard", "9/8"],
        "no shard 9 of 8",
    ),
    "layer": (["extract", "m", "pictures", "--layers", "rel", "-o", "out"], "Did you mean 'relu'"),
    "reduction": (["extract", "m", "pictures", "--layers", "relu=men", "-o", "out"], "'mean'"),
    "reader": (["extract", "m", "pictures", *MEANS, "-o", "out", "--reader", "x"], "MODULE:FUNC"),
    "limit": (["extract", "m", "pictures", *MEANS, "-o", "out", "--max-failures", "x"], "'1%'"),
    "missing in list": (
        ["extract", "m", "--items", "list.txt", *MEANS, "-o", "out"],
        "2 of the 3 files",
    ),
    "twice": (["extract", "m", "--items", "twice.txt", *MEANS, "-o", "out"], "have one id"),
    "collection": (["features", "pictures"], "is not a collection"),
    "merge": (["features", "merge", "a", "b"], "needs the name of the result"),
    "column": (["features", "done", "--layers", "x", "--csv", "t.csv"], "no column is called 'x'"),
    "option": (["features", "done", "-o", "x"], "belongs to `layertap features merge`"),
    "mixed": (["features", "done", "--json", "--check"], "--json prints the description only"),
    "several": (["features", "done", "done"], "`merge` joins several"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(case: str, model: Path) -> None:
    Path("empty").mkdir()
    Path("list.txt").write_text("pictures/a.png\npictures/x.png\npictures/y.png\n")
    Path("twice.txt").write_text("pictures/a.png\npictures/a.png\n")
    extract(model, out="done")
    before = sorted(Path().rglob("*"))
    arguments, words = BAD[case]
    done = layertap(*(str(model) if word == "m" else word for word in arguments))
    assert done.code == 2
    assert done.out == ""
    assert words in done.err
    assert done.err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


SLOW = """
import signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
from layertap.cli import main
from layertap.extract import workers
real, seen = workers._Run.__call__, []
def slowly(run, chunk):
    found = real(run, chunk)
    seen.append(chunk)
    if len(seen) == 2:
        print("begun", flush=True)
    time.sleep(0.2)
    return found
workers._Run.__call__ = slowly
sys.exit(main())
"""


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_the_same_command_continues(number: int, model: Path) -> None:
    options = ["extract", str(model), "pictures", *MEANS, "-o", "out", "--chunk", "1"]
    options += ["--batch-size", "1", "--workers", "1"]
    run = subprocess.Popen(
        [sys.executable, "-c", SLOW, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "begun\n"
    run.send_signal(number)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 128 + number
    assert "same command continues" in err
    begun = lt.features("out")
    assert begun.done_rows < 5
    if number == signal.SIGTERM:
        assert "finishing the images in hand" in err
        assert begun.done_rows >= 2
    assert layertap(*options).code == 0
    extract(model, "--chunk", "1", "--batch-size", "1", out="whole")
    for key in ("relu", "pool"):
        np.testing.assert_array_equal(lt.features("out")[key], lt.features("whole")[key])


def test_a_collection_is_described_and_written_as_tables(model: Path) -> None:
    Path("pictures/broken.png").write_bytes(b"nothing")
    extract(model)
    shown = layertap("features", "out").out
    assert "6 rows, 1 failed" in shown
    assert layertap("features", "out", "--failed").out.startswith("broken.png (row 2): this is not")
    described = json.loads(layertap("features", "out", "--json").out)
    assert described["rows"] == 6
    assert described["columns"]["pool"]["dims"] == ["channel"]
    done = layertap("features", "out", "--csv", "t.csv", "--tsv", "projector", "--layers", "pool")
    assert done == (0, "", "wrote t.csv: 6 rows\nwrote projector: 6 rows\n")
    assert Path("t.csv").read_text().startswith("row,id,ok,sha256,error,pool.0,")
    assert len(Path("projector/vectors.tsv").read_text().splitlines()) == 5
    assert layertap("features", "out", "--check") == (0, "6 rows as written\n", "")
    part = next(Path("out/pool").iterdir())
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    done = layertap("features", "out", "--check")
    assert done.code == 1
    assert "pool: rows" in done.out


# --- Progress -----------------------------------------------------------------------------------


class Terminal:
    """Collects what is written."""

    def __init__(self, terminal: bool) -> None:
        self.text, self._terminal = "", terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def metered(reporter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred rows, one each second, of which two fail."""
    now = [100.0]
    monkeypatch.setattr("layertap.extract.progress.time.monotonic", lambda: now[0])
    meter = Meter(reporter, total=120, done=20, failed=0)
    for done in range(21, 121):
        now[0] += 1
        meter.update(done, 2 if done > 50 else 0)
    meter.close()


def test_a_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    terminal = Terminal(True)
    reporter = on_stream(terminal)  # type: ignore[arg-type]
    assert isinstance(reporter, Line)
    metered(reporter, monkeypatch)
    drawn = terminal.text.split(CLEAR)
    assert drawn[1] == "20/120 images"
    assert drawn[31] == "50/120 images, 1/s, 70 s left"
    assert drawn[-2] == "120/120 images, 1/s, 2 failed"
    assert drawn[-1] == ""


def test_a_bar_where_tqdm_is_installed() -> None:
    pytest.importorskip("tqdm")
    terminal = Terminal(True)
    reporter = on_stream(terminal)  # type: ignore[arg-type]
    assert isinstance(reporter, Bar)
    meter = Meter(reporter, total=10, done=4, failed=0)
    meter.update(10, 1)
    meter.close()
    assert "10/10" in terminal.text
    assert "1 failed" in terminal.text


def test_a_log_has_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Terminal(False)
    reporter = on_stream(log)  # type: ignore[arg-type]
    assert isinstance(reporter, Log)
    metered(reporter, monkeypatch)
    assert log.text.splitlines() == [
        "50/120 images, 1/s, 70 s left",
        "80/120 images, 1/s, 40 s left, 2 failed",
        "110/120 images, 1/s, 10 s left, 2 failed",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (89, "89 s"), (600, "10 min"), (2 * 3600, "2.0 h"), (172_800, "2.0 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_the_command_is_patient_with_a_slow_signal() -> None:
    """The handlers of the caller are put back."""
    before = signal.getsignal(signal.SIGTERM)
    with command._finishing() as ending:
        assert signal.getsignal(signal.SIGTERM) is not before
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert ending.number == signal.SIGTERM
        assert ending.stop.is_set()
        assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGTERM) is before
