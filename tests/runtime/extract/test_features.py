"""`layertap.features`: what it says of a collection, and damage that it finds."""

from __future__ import annotations

import json
import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
from generators.collection import COLUMNS, extract, finished, identity
from layertap.errors import CollectionError, LayerNotFoundError
from layertap.extract.columns import Column
from layertap.extract.features import Damage
from layertap.extract.identity import Identity
from layertap.extract.items import Item
from layertap.extract.layout import readable
from layertap.extract.writer import Writer

ROWS, CHUNK = 22, 4


@pytest.fixture
def out(tmp_path: Path) -> Path:
    extract(tmp_path / "out", ROWS, CHUNK)
    return tmp_path / "out"


def test_it_says_what_it_is(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(out.parent)
    f = layertap.features("out")
    assert repr(f) == "<layertap.Features: 'out': 22 rows, 3 failed, 0.0 MB>"
    assert str(f) == (
        "'out': 22 rows, 3 failed, 0.0 MB\n\n"
        "layer  row     dtype     MB  not finite\n"
        "-----  ------  -------  ---  ----------\n"
        "bn     (5,)    float16  0.0           1\n"
        "maps   (2, 3)  float32  0.0           0\n"
        "top    ()      int64    0.0           0"
    )
    assert "<pre" in f._repr_html_()
    assert (len(f), list(f), f.nbytes) == (22, ["bn", "maps", "top"], 22 * (10 + 24 + 8))
    assert "bn" in f
    assert f.columns == COLUMNS
    assert pickle.loads(pickle.dumps(f)).columns == COLUMNS
    assert isinstance(f["bn"], np.memmap)
    assert f["bn"] is f["bn"]
    assert (f.failed_rows, dict(f.nonfinite)) == (3, {"bn": 1})


def test_a_finished_collection_is_opened_without_its_lists(out: Path) -> None:
    """So the number of rows hardly matters."""
    (out / "items.tsv").unlink()
    (out / "journal" / "00000.jsonl").unlink()
    f = layertap.features(out)
    assert (f.complete, f.ok.sum(), f["bn"].shape) == (True, 19, (ROWS, 5))
    assert "3 failed" in str(f)
    with pytest.raises(CollectionError, match=r"cannot read '.*items\.tsv': No such file"):
        f.ids[0]


@pytest.mark.parametrize("key", [0, None, ["bn"], "b"])
def test_a_column_that_is_not_there(key: Any, out: Path) -> None:
    with pytest.raises(LayerNotFoundError, match=r"no column is called .*there are 'bn', 'maps'"):
        layertap.features(out)[key]


@pytest.mark.parametrize("name", ["summary.json", "ok.npy"])
@pytest.mark.parametrize("data", [b"", b"{}", b"\x93NUMPY", None])
def test_derived_files_are_not_needed(name: str, data: bytes | None, out: Path) -> None:
    right = layertap.features(out).ok
    if data is None:
        (out / name).unlink()
    else:
        (out / name).write_bytes(data)
    f = layertap.features(out)
    np.testing.assert_array_equal(f.ok, right)
    assert (f.complete, f.done_rows, f.failed_rows, len(f.errors)) == (True, ROWS, 3, 3)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_damaged_rows_are_found(out: Path) -> None:
    for row in (1, 5, 18):  # in the chunks 0, 1 and 4
        flip(out / "bn" / "00000.npy", 4096 + row * 10)
    found = layertap.features(out).verify()
    assert not found.ok
    assert found.damaged == (Damage("bn", 0, 8), Damage("bn", 16, 4))
    assert str(found) == "bn: rows 0 to 7 are damaged; bn: rows 16 to 19 are damaged"
    one = found._replace(damaged=(Damage("bn", 7, 1),))
    assert str(one) == "bn: row 7 is damaged"


def test_damaged_rows_are_found_in_a_zarr_store(tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="needs the zarr extra")
    extract(tmp_path / "out.zarr", ROWS, CHUNK)
    flip(tmp_path / "out.zarr" / "bn" / "c.1.0", 5)
    path = tmp_path / "out.zarr" / "maps" / "c.2.0.0"
    path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "out.zarr" / "top" / "c.4").unlink()
    found = layertap.features(tmp_path / "out.zarr").verify()
    assert found.damaged == (Damage("bn", 4, 4), Damage("maps", 8, 4), Damage("top", 16, 4))


def test_damage_elsewhere_is_found(out: Path) -> None:
    (out / "items.tsv").write_bytes((out / "items.tsv").read_bytes().replace(b"png", b"jpg"))
    flip(out / "ok.npy", 4097)
    flip(out / "journal" / "00000.jsonl", -20)
    assert layertap.features(out).verify().problems == (
        "items.tsv is not as it was written",
        "the journals lack 2 rows",
        "ok.npy is not what the journals say",
    )
    flip(out / "maps" / "00000.npy", 50)
    with pytest.raises(CollectionError, match=r"its header or size is not that of \(22, 2, 3\)"):
        layertap.features(out).verify()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "there is no folder"),
        (Path.mkdir, "is not a collection: it has no extract.json. A collection is a folder"),
        (Path.touch, "is a file. A collection is a folder."),
    ],
)
def test_what_is_no_collection(make: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises(CollectionError, match=words):
        layertap.features(tmp_path / "x")


def forged(out: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """An extract.json whose identity fits what was changed."""
    content = json.loads((out / "extract.json").read_bytes())
    change(content)
    content["identity"] = Identity(content["asked"]).sha256
    (out / "extract.json").write_bytes(readable(content))


FORGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "'../../home' is not the name of a folder": lambda x: x["asked"]["columns"][0].update(
        folder="../../home"
    ),
    "'.' is not the name": lambda x: x["asked"]["columns"][0].update(folder="."),
    "rows is -1": lambda x: x["asked"].update(rows=-1),
    "rows is '3'": lambda x: x["asked"].update(rows="3"),
    "chunk is 0": lambda x: x["asked"].update(chunk=0),
    "shards is True": lambda x: x["asked"].update(shards=True),
    "the shape of 'bn' is": lambda x: x["asked"]["columns"][0].update(shape=[-1]),
    "the axes of 'bn' are": lambda x: x["asked"]["columns"][0].update(shape=[2, 2]),
    "numbers, not object": lambda x: x["asked"]["columns"][0].update(dtype="object"),
    "two columns have one name": lambda x: x["asked"]["columns"][1].update(key="bn"),
    "'maps' is missing": lambda x: x["dims"].pop("maps"),
    "'made_with' is missing": lambda x: x.pop("made_with"),
    "is damaged": lambda x: x.update(items=None),
    "made_with must be an object": lambda x: x.update(made_with=[1]),
    "and columns a list": lambda x: x["asked"].update(columns={}),
    "rows in 1 shards": lambda x: x["asked"].update(rows=10**30),
    "are too few for 1000000 items": lambda x: x["asked"].update(rows=10**6),
    "22 rows in 1000000000 shards": lambda x: x["asked"].update(shards=10**9),
    "its format is not layertap-extract": lambda x: x.update(format="parquet"),
}


@pytest.mark.parametrize("words", FORGED)
def test_a_forged_identity(words: str, out: Path) -> None:
    forged(out, FORGED[words])
    with pytest.raises(CollectionError) as caught:
        layertap.features(out)
    assert words in str(caught.value)


def in_time(seconds: float, function: Callable[[], Any]) -> Any:
    """What a function returns or raises; a failure if it does not return."""
    found: list[Any] = []

    def call() -> None:
        try:
            found.append(function())
        except CollectionError as exc:
            found.append(exc)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it waits"
    return found[0]


READS: dict[str, Callable[[layertap.Features], Any]] = {
    "extract.json": len,
    "items.tsv": lambda f: f.ids[3],
    "journal/00000.jsonl": lambda f: f.errors,
    "bn/00000.npy": lambda f: f["bn"],
    "summary.json": lambda f: f.complete,
    "ok.npy": lambda f: f.ok.sum(),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", READS)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(name: str, out: Path) -> None:
    """In a folder that others can write to. What can be found otherwise is found."""
    (out / name).unlink()
    os.mkfifo(out / name)
    found = in_time(10, lambda: READS[name](layertap.features(out)))
    if name in ("summary.json", "ok.npy"):
        assert found == (19 if name == "ok.npy" else True)
    else:
        assert isinstance(found, CollectionError)
        if name != "items.tsv":  # whose size is looked at before
            assert "it is a pipe or a device" in str(found)


@pytest.mark.parametrize("name", ["extract.json", "journal/00000.jsonl", "bn/00000.npy"])
def test_a_folder_in_place_of_a_file(name: str, out: Path) -> None:
    (out / name).unlink()
    (out / name).mkdir()
    with pytest.raises(CollectionError, match=r"cannot read .*: Is a directory"):
        READS[name](layertap.features(out))


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'{"format": 1}', b"\xff", b"[" * 100_000])
def test_an_identity_that_is_no_json(data: bytes, out: Path) -> None:
    (out / "extract.json").write_bytes(data)
    with pytest.raises(CollectionError, match="is damaged"):
        layertap.features(out)


def test_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    name = "bn\x1b[31m\n"
    columns = (Column(name, "bn", {"layer": name}, "float32", (1,), ("channel",)),)
    items = [Item(f"{row}\x1b\n\u202e.png", 1, 1) for row in range(3)]
    folder = tmp_path / "x\x1b[0m"
    asked = identity(3, 2, columns=columns, items=items)
    with Writer.open(folder, asked, items, columns) as writer:
        for chunk in writer.todo():
            block = finished(chunk, columns, failing=99)
            writer.write(block._replace(failed={chunk.first: "bad\x1b[1m\nname"}))
        writer.finish()
    f = layertap.features(folder)
    with pytest.raises(KeyError) as caught:
        f["nb"]
    shown = [str(f), repr(f), repr(f.ids), str(caught.value), str(f.verify())]
    assert all(text.replace("\n", "").isprintable() for text in shown)
    assert f.ids[1] == "1\x1b\n\u202e.png"
    assert (
        (folder / "manifest.csv")
        .read_text("utf-8")
        .splitlines()[1]
        .startswith("0,0\\x1b\\n\\u202e.png,0,")
    )


@pytest.mark.slow
def test_many_rows_are_opened_at_once(tmp_path: Path) -> None:
    rows, chunk = 300_000, 1000
    items = [Item(f"images/{row:08}.png", 1, 1) for row in range(rows)]
    asked = identity(rows, chunk, items=items, columns=COLUMNS[2:])
    with Writer.open(tmp_path / "out", asked, items, COLUMNS[2:]) as writer:
        zeros = np.zeros(chunk, np.int64)
        blocks = [
            finished(one._replace(count=0, first=0), ())._replace(
                chunk=one, blocks={"top": zeros}, sha256=("0" * 64,) * chunk
            )
            for one in writer.todo()
        ]
        writer.write(*blocks)
        writer.finish()
    started = time.process_time()
    f = layertap.features(tmp_path / "out")
    assert (f.ok.sum(), f["top"][rows // 2]) == (rows, 0)
    assert time.process_time() - started < 0.1
    started = time.process_time()
    with Writer.open(tmp_path / "out", asked, items, COLUMNS[2:]) as writer:
        assert writer.complete
    assert time.process_time() - started < 0.5
    assert f.ids[rows - 1] == items[-1].id
