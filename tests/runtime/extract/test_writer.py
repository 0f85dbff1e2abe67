"""`layertap.extract.writer`: collections are created, continued and refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
from generators.collection import (
    COLUMNS,
    System,
    contents,
    expected,
    extract,
    finished,
    identity,
    items_of,
)
from layertap.errors import (
    CollectionBusyError,
    CollectionError,
    CollectionMismatchError,
    LayertapWarning,
    OutputError,
    UsageError,
)
from layertap.extract import disk
from layertap.extract.columns import Column
from layertap.extract.writer import Writer

ROWS, CHUNK = 22, 4


def begin(folder: Path, chunks: int = 3, **changed: Any) -> None:
    """A collection with some chunks finished."""
    asked = identity(ROWS, CHUNK, **changed)
    with Writer.open(folder, asked, items_of(ROWS), changed.get("columns", COLUMNS)) as writer:
        for chunk in [*writer.todo()][:chunks]:
            writer.write(finished(chunk))


def opened(folder: Path, **changed: Any) -> Writer:
    items = changed.get("items", items_of(changed.pop("rows", ROWS)))
    columns = changed.get("columns", COLUMNS)
    asked = identity(len(items), changed.pop("chunk", CHUNK), **{**changed, "items": items})
    return Writer.open(folder, asked, items, columns)


@pytest.mark.parametrize("name", ["out", "out.zarr"])
def test_what_is_written_is_read(name: str, tmp_path: Path) -> None:
    if name.endswith("zarr"):
        pytest.importorskip("zarr", reason="needs the zarr extra")
    extract(tmp_path / name, ROWS, CHUNK)
    f = layertap.features(tmp_path / name)
    for column in COLUMNS:
        values = np.asarray(f[column.key])
        assert values.dtype == column.dtype
        np.testing.assert_array_equal(values, expected(column, ROWS))
    assert f.errors == {6: "row 6 is broken", 13: "row 13 is broken", 20: "row 20 is broken"}
    assert np.flatnonzero(~f.ok).tolist() == [6, 13, 20]
    assert list(f.ids) == [item.id for item in items_of(ROWS)]
    assert (f.complete, f.done_rows, f.nonfinite) == (True, ROWS, {"bn": 1})
    assert f.verify() == (ROWS, 0, (), ())


@pytest.mark.parametrize("name", ["out", "out.zarr"])
def test_it_is_continued(name: str, tmp_path: Path) -> None:
    if name.endswith("zarr"):
        pytest.importorskip("zarr", reason="needs the zarr extra")
    begin(tmp_path / name)
    f = layertap.features(tmp_path / name)
    assert (f.complete, f.done_rows, len(f)) == (False, 12, ROWS)
    assert np.flatnonzero(f.ok).tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    np.testing.assert_array_equal(f["bn"][:12], expected(COLUMNS[0], ROWS)[:12])
    assert repr(f).endswith(f"{name}': 12 of 22 rows, 1 failed, 0.0 MB>")
    with opened(tmp_path / name) as writer:
        assert [chunk.number for chunk in writer.todo()] == [3, 4, 5]
        assert [chunk.count for chunk in writer.todo()] == [4, 4, 2]
        assert (writer.done_rows, writer.complete) == (12, False)
        assert writer.failed == {6: "row 6 is broken"}
    extract(tmp_path / name, ROWS, CHUNK)
    extract(tmp_path / "at once.zarr" if "zarr" in name else tmp_path / "at once", ROWS, CHUNK)
    whole = next(tmp_path.glob("at once*"))
    assert contents(tmp_path / name) == contents(whole)


DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
DTYPES += ["float16", "float32", "float64", "complex64", "complex128"]


@pytest.mark.parametrize("name", ["out", "out.zarr"])
def test_every_dtype(name: str, tmp_path: Path) -> None:
    if name.endswith("zarr"):
        pytest.importorskip("zarr", reason="needs the zarr extra")
    columns = tuple(Column(kind, kind, {"layer": kind}, kind, (3,), ("x",)) for kind in DTYPES)
    blocks = {kind: np.arange(15).reshape(5, 3).astype(kind) for kind in DTYPES}
    items = items_of(5)
    asked = identity(5, 5, columns=columns, items=items)
    with Writer.open(tmp_path / name, asked, items, columns) as writer:
        made = finished(next(writer.todo()), columns)
        writer.write(made._replace(blocks=blocks, failed={2: "broken"}))
        writer.finish()
    f = layertap.features(tmp_path / name)
    for kind in DTYPES:
        values = np.asarray(f[kind])
        right = blocks[kind].copy()
        right[2] = np.nan if right.dtype.kind in "fc" else 0
        assert values.dtype == kind
        np.testing.assert_array_equal(values, right)
    assert f.verify().ok


def test_a_finished_one_stays_as_it_is(tmp_path: Path) -> None:
    extract(tmp_path / "out", ROWS, CHUNK)
    before = contents(tmp_path / "out")
    with opened(tmp_path / "out") as writer:
        assert (writer.complete, writer.done_rows, list(writer.todo())) == (True, ROWS, [])
        writer.finish()
    assert contents(tmp_path / "out") == before


def test_failed_rows_are_tried_again(tmp_path: Path) -> None:
    extract(tmp_path / "out", ROWS, CHUNK)
    with opened(tmp_path / "out") as writer:
        chunks = list(writer.todo(retry_failed=True))
        assert [chunk.number for chunk in chunks] == [1, 3, 5]
        writer.write(finished(chunks[0], failing=100))
        assert not (tmp_path / "out" / "summary.json").exists()
        writer.finish()
    f = layertap.features(tmp_path / "out")
    assert list(f.errors) == [13, 20]
    assert np.isfinite(f["bn"][6]).all()
    assert f.verify().ok


def test_the_item_that_differs_is_named(tmp_path: Path) -> None:
    items = [item._replace(size=5) if at == 6 else item for at, item in enumerate(items_of(ROWS))]
    extract(tmp_path / "out", ROWS, CHUNK)
    with pytest.raises(CollectionMismatchError, match=r"'images/6\.png' has 5 bytes, not 1006"):
        opened(tmp_path / "out", items=items)


def test_derived_files_are_made_again(tmp_path: Path) -> None:
    extract(tmp_path / "out", ROWS, CHUNK)
    before = contents(tmp_path / "out")
    for name in ("manifest.csv", "ok.npy", "summary.json"):
        (tmp_path / "out" / name).unlink()
        extract(tmp_path / "out", ROWS, CHUNK)
        assert contents(tmp_path / "out") == before, name


MADE_WITH = {"made_with": {"onnxruntime": "1.20.0"}}

OTHER: dict[str, dict[str, Any]] = {
    "another model": {"model": "1" * 64},
    "another preprocess (mode, size)": {"preprocess": {"size": [9, 9], "mode": "L"}},
    "another preprocess": {"preprocess": None},
    "4 rows in a chunk, not 5": {"chunk": 5},
    "1 row in a batch, not 2": {"batch": 2},
    "22 items, not 23": {"rows": 23},
    "22 items, not 21 (row 0 is 'images/0.png', now 'images/1.png')": {"items": items_of(ROWS)[1:]},
    "another list of items ('images/3.png' has 5 bytes, not 1003)": {
        "items": [
            item._replace(size=5) if at == 3 else item for at, item in enumerate(items_of(ROWS))
        ]
    },
    "another list of items (row 21 is 'images/21.png', now 'b.png')": {
        "items": [*items_of(ROWS - 1), items_of(1)[0]._replace(id="b.png")]
    },
    "other layers (bn maps top, not bn maps)": {"columns": COLUMNS[:2]},
    "other layers (bn: dtype)": {"columns": (COLUMNS[0]._replace(dtype="float32"), *COLUMNS[1:])},
    "other layers (bn: asked)": {
        "columns": (COLUMNS[0]._replace(asked={"layer": "bn", "reduction": "max"}), *COLUMNS[1:])
    },
}


@pytest.mark.parametrize("words", OTHER)
def test_another_request_is_refused_and_named(words: str, tmp_path: Path) -> None:
    begin(tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(CollectionMismatchError) as caught:
        opened(tmp_path / "out", **OTHER[words])
    assert str(caught.value).endswith(
        f"out' was begun with {words}. Give another folder, or overwrite it (--overwrite, "
        "overwrite=True)."
    )
    assert contents(tmp_path / "out") == before


def test_other_versions_warn(tmp_path: Path) -> None:
    begin(tmp_path / "out", made_with={"onnxruntime": "1.19.0", "device": "cpu"})
    now = identity(ROWS, CHUNK, made_with={"onnxruntime": "1.20.0", "device": "cpu"})
    with pytest.warns(LayertapWarning, match=r"onnxruntime 1\.19\.0, now 1\.20\.0\. The last bits"):
        Writer.open(tmp_path / "out", now, items_of(ROWS), COLUMNS).close()
    with pytest.raises(CollectionMismatchError, match=r"now 1\.20\.0\. Leave out strict"):
        Writer.open(tmp_path / "out", now, items_of(ROWS), COLUMNS, strict=True)


def test_two_writers_are_not_let_in(tmp_path: Path) -> None:
    with opened(tmp_path / "out") as writer:
        with pytest.raises(
            CollectionBusyError, match=f"the process {os.getpid()} on '.*' is writing"
        ):
            opened(tmp_path / "out")
        with pytest.raises(CollectionBusyError):
            Writer.open(
                tmp_path / "out", identity(ROWS, CHUNK), items_of(ROWS), COLUMNS, overwrite=True
            )
        writer.write(finished(next(writer.todo())))
    with opened(tmp_path / "out") as writer:
        assert writer.done_rows == CHUNK


@pytest.mark.parametrize("mounted", [False, True])
def test_overwriting(mounted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(System, "mounted", mounted)
    (tmp_path / "out").mkdir()
    begin(tmp_path / "out")
    other = identity(ROWS, 5)
    with Writer.open(tmp_path / "out", other, items_of(ROWS), COLUMNS, overwrite=True) as writer:
        assert writer.done_rows == 0
        assert next(writer.todo()).count == 5
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_collection_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(System):
        def rename(self, source: Path, target: Path) -> None:
            if target == tmp_path / "out" and (source / "journal").exists() and not self.refused:
                self.refused = True
                raise OSError(5, "Input/output error")
            os.rename(source, target)

        refused = False

    begin(tmp_path / "out")
    before = contents(tmp_path)
    monkeypatch.setattr(disk, "os", Refusing())
    asked = identity(ROWS, 5)
    with pytest.raises(OutputError, match="Input/output error"):
        Writer.open(tmp_path / "out", asked, items_of(ROWS), COLUMNS, overwrite=True)
    assert contents(tmp_path) == before


def not_a_collection(folder: Path) -> str:
    folder.mkdir()
    (folder / "thesis.tex").touch()
    return "contains 'thesis.tex' and no extract.json"


def a_file(folder: Path) -> str:
    folder.touch()
    return "is a file"


def a_newer_one(folder: Path) -> str:
    begin(folder)
    path = folder / "extract.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    return "is a collection of version 2; this layertap reads version 1"


def changed_identity(folder: Path) -> str:
    begin(folder)
    path = folder / "extract.json"
    path.write_text(path.read_text().replace('"chunk": 4', '"chunk": 5'))
    return "is damaged: what it says was requested is not what its identity was made from"


def cut_identity(folder: Path) -> str:
    begin(folder)
    path = folder / "extract.json"
    path.write_bytes(path.read_bytes()[:100])
    return "is damaged"


def changed_list(folder: Path) -> str:
    begin(folder)
    path = folder / "items.tsv"
    path.write_text(path.read_text().replace("images/3.png", "images/4.png"))
    return "is damaged: its SHA-256 is not the one in extract.json"


def lost_part(folder: Path) -> str:
    begin(folder)
    (folder / "bn" / "00000.npy").unlink()
    return "is missing, but the journal says that it has rows"


def cut_part(folder: Path) -> str:
    begin(folder)
    path = folder / "bn" / "00000.npy"
    path.write_bytes(path.read_bytes()[:-1])
    return "is damaged: it has 4315 bytes, not 4316"


BAD = [not_a_collection, a_file, a_newer_one, changed_identity, cut_identity, changed_list]


@pytest.mark.parametrize("make", [*BAD, lost_part, cut_part])
def test_bad_folders_are_refused(make: Any, tmp_path: Path) -> None:
    words = make(tmp_path / "out")
    before = contents(tmp_path)
    with pytest.raises(CollectionError, match=re.escape(words)):
        opened(tmp_path / "out")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("make", [not_a_collection, a_file])
def test_what_is_no_collection_is_not_overwritten(make: Any, tmp_path: Path) -> None:
    words = make(tmp_path / "out")
    with pytest.raises(CollectionError, match=re.escape(words)):
        Writer.open(
            tmp_path / "out", identity(ROWS, CHUNK), items_of(ROWS), COLUMNS, overwrite=True
        )


def test_equal_ids_are_refused(tmp_path: Path) -> None:
    items = [*items_of(3), items_of(2)[1]]
    with pytest.raises(UsageError, match=r"the items 1 and 3 have the same id, 'images/1\.png'"):
        opened(tmp_path / "out", items=items)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shard", [(8, 8), (-1, 8), (0, 0)])
def test_a_shard_that_does_not_exist(shard: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"there is no shard {shard[0] + 1} of {shard[1]}"):
        Writer.open(tmp_path / "out", identity(ROWS, 4, 8), items_of(ROWS), COLUMNS, shard=shard)


def test_a_column_without_numbers(tmp_path: Path) -> None:
    text = Column("words", "words", {}, "str", (), ())
    with pytest.raises(UsageError, match="a collection holds numbers, not str"):
        opened(tmp_path / "out", columns=(text,))


def test_a_layer_may_have_the_name_of_a_file(tmp_path: Path) -> None:
    names = ["journal", "Journal_", "extract.json", "ok.npy", "layertap", "zarr.json"]
    columns = tuple(Column(name, name, {"layer": name}, "float32", (2,), ("x",)) for name in names)
    with opened(tmp_path / "out", columns=columns) as writer:
        for chunk in writer.todo():
            writer.write(finished(chunk, columns))
        writer.finish()
    f = layertap.features(tmp_path / "out")
    assert f.keys() == tuple(names)
    for column in columns:
        np.testing.assert_array_equal(f[column.key], expected(column, ROWS))
    assert {"journal__", "Journal_", "ok.npy_"} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_a_folder_that_is_empty_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    begin(tmp_path / "out")
    (tmp_path / "link").symlink_to("out")
    extract(tmp_path / "link", ROWS, CHUNK)
    assert layertap.features(tmp_path / "out").complete


def test_folders_above_are_made(tmp_path: Path) -> None:
    extract(tmp_path / "a" / "b" / "out", ROWS, CHUNK)
    assert layertap.features(tmp_path / "a" / "b" / "out").complete


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        opened(tmp_path / "file" / "out")


def test_a_block_of_another_kind_is_not_written(tmp_path: Path) -> None:
    with opened(tmp_path / "out") as writer:
        chunk = next(writer.todo())
        block = finished(chunk)
        wrong = {**block.blocks, "bn": block.blocks["bn"].astype(np.float32)}
        with pytest.raises(UsageError, match=r"the rows of 'bn' must be \(4, 5\) in float16, got"):
            writer.write(block._replace(blocks=wrong))
        assert writer.done_rows == 0


class Files:
    """Items whose contents have changed where the time says so."""

    digest = True

    def __init__(self, changed: set[int]) -> None:
        self.changed = changed
        self.seen: list[int] = []

    def read(self, row: int) -> Any:
        self.seen.append(row)
        known = finished_hash(row)
        return type("Data", (), {"sha256": "0" * 64 if row in self.changed else known})


def finished_hash(row: int) -> str:
    from layertap.extract.layout import Grid

    chunk = Grid(ROWS, CHUNK, 1).at(row // CHUNK)
    return finished(chunk).sha256[row - chunk.first]


def test_files_that_changed_are_noticed(tmp_path: Path) -> None:
    begin(tmp_path / "out")
    touched = [item._replace(mtime_ns=5) if at in (3, 20) else item
               for at, item in enumerate(items_of(ROWS))]  # fmt: skip
    with opened(tmp_path / "out", items=touched) as writer:
        files = Files(set())
        writer.check_changed(files)
        assert files.seen == [0, 3]  # item 0 has no time
        with pytest.raises(CollectionMismatchError, match=r"'images/3\.png' has changed since its"):
            writer.check_changed(Files({3}))


def test_the_files_are_as_the_page_says(tmp_path: Path) -> None:
    """Read without layertap."""
    extract(tmp_path / "out", ROWS, CHUNK)
    found = np.load(tmp_path / "out" / "bn" / "00000.npy", mmap_mode="r")
    assert found.offset == 4096
    np.testing.assert_array_equal(found, expected(COLUMNS[0], ROWS))
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "ok.npy"), np.arange(ROWS) % 7 != 6)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    asked = json.loads((tmp_path / "out" / "extract.json").read_text())
    assert summary == {
        "identity": asked["identity"], "rows": ROWS, "failed": 3, "nonfinite": {"bn": 1},
    }  # fmt: skip
    lines = (tmp_path / "out" / "manifest.csv").read_text().splitlines()
    assert lines[0] == "row,id,ok,sha256,error"
    assert lines[7] == f"6,images/6.png,0,{finished_hash(6)},row 6 is broken"
