"""`layertap.extract.tables`: other libraries read the rows of a collection as they are."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
from generators.collection import COLUMNS, contents, expected, finished, identity, items_of
from layertap.errors import DependencyError, OutputError, UsageError
from layertap.extract import tables
from layertap.extract.columns import Column
from layertap.extract.writer import Writer

ROWS, CHUNK = 22, 4
VECTORS = (
    COLUMNS[0],
    Column("id", "id", {"layer": "id"}, "int32", (2,), ("channel",)),
    Column("on", "on", {"layer": "on"}, "bool", (3,), ("channel",)),
    Column("score", "score", {"layer": "score"}, "float64", (), ()),
)
IDS = ["a,b.png", 'q"uote.png', "two\nlines.png", "tab\t.png", "back\\slash.png", "\udc80.png"]


def make(
    folder: Path, columns: tuple[Column, ...] = VECTORS, chunks: int = 99
) -> layertap.Features:
    items = [*items_of(ROWS)[: -len(IDS)], *(items_of(1)[0]._replace(id=name) for name in IDS)]
    asked = identity(ROWS, CHUNK, columns=columns, items=items)
    with Writer.open(folder, asked, items, columns) as writer:
        for chunk in list(writer.todo())[:chunks]:
            writer.write(finished(chunk, columns))
        writer.finish()
    return layertap.features(folder)


@pytest.fixture
def f(tmp_path: Path) -> layertap.Features:
    return make(tmp_path / "out")


def check(read: Any, f: layertap.Features) -> None:
    """Columns by name, as lists, or as arrays for layers."""
    assert list(read["row"]) == list(range(ROWS))
    assert list(read["id"]) == [*f.ids[: ROWS - 1], "\\udc80.png"]
    assert list(read["ok"]) == f.ok.tolist()
    assert list(read["sha256"]) == list(f.hashes())
    assert list(read["error"]) == [f.errors.get(row, "") for row in range(ROWS)]
    for column, name in zip(VECTORS, ["bn", "id_", "on", "score"], strict=True):
        rows = np.stack([np.asarray(row) for row in read[name]])
        np.testing.assert_array_equal(rows.astype(column.dtype), expected(column, ROWS))


@pytest.mark.parametrize("rows", [5, 1 << 16])
def test_parquet(
    f: layertap.Features, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs the tables extra")
    import pyarrow.parquet

    monkeypatch.setattr(tables, "PIECE_ROWS", rows)
    f.to_parquet(tmp_path / "t.parquet")
    read = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    assert read.schema.field("bn").type == arrow.list_(arrow.float16(), 5)
    assert read.schema.field("score").type == arrow.float64()
    assert read.schema.metadata[b"layertap.identity"].decode() == f.identity.sha256
    assert sum(read[name].null_count for name in read.column_names) == 0
    check({name: read[name].to_pylist() for name in read.column_names}, f)
    f.to_parquet(tmp_path / "one.parquet", "score")
    names = pyarrow.parquet.read_table(tmp_path / "one.parquet").column_names
    assert names == ["row", "id", "ok", "sha256", "error", "score"]


def test_pandas(f: layertap.Features, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    table = f.table()
    check(table, f)
    assert table["score"].dtype == np.float64
    assert table["bn"][0].dtype == np.float16
    assert table["ok"].dtype == np.bool_
    f.to_csv(tmp_path / "t.csv")
    read = pandas.read_csv(tmp_path / "t.csv", keep_default_na=False, na_values={"bn.0": ["nan"]})
    assert list(read["id"]) == list(table["id"])
    np.testing.assert_array_equal(read["bn.0"].astype("f2"), expected(VECTORS[0], ROWS)[:, 0])


def test_arrow_takes_the_place_of_pandas(
    f: layertap.Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow", reason="needs the tables extra")
    monkeypatch.setitem(sys.modules, "pandas", None)
    table = f.table()
    check({name: table[name].to_pylist() for name in table.column_names}, f)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DependencyError, match=r"table\(\) needs pandas or pyarrow: .*\[tables\]"):
        f.table()


def test_csv(f: layertap.Features, tmp_path: Path) -> None:
    f.to_csv(tmp_path / "t.csv")
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        head, *lines = csv.reader(file)
    assert head[:8] == ["row", "id", "ok", "sha256", "error", "bn.0", "bn.1", "bn.2"]
    assert head[9:] == ["bn.4", "id_.0", "id_.1", "on.0", "on.1", "on.2", "score"]
    read: dict[str, Any] = {name: [line[at] for line in lines] for at, name in enumerate(head)}
    for name in ("bn", "id_", "on"):
        columns = [at for at, one in enumerate(head) if one.rpartition(".")[0] == name]
        read[name] = [[float(line[at]) for at in columns] for line in lines]
    read["score"] = [float(one) for one in read["score"]]
    read["row"] = [int(one) for one in read["row"]]
    read["ok"] = [one == "1" for one in read["ok"]]
    check(read, f)


def test_tsv_for_the_embedding_projector(f: layertap.Features, tmp_path: Path) -> None:
    f.to_tsv(tmp_path / "new", "bn")
    vectors = np.loadtxt(tmp_path / "new" / "vectors.tsv", delimiter="\t", dtype=np.float16)
    np.testing.assert_array_equal(vectors, f["bn"][f.ok])
    head, *lines = (tmp_path / "new" / "metadata.tsv").read_text("utf-8").splitlines()
    assert head == "row\tid"
    assert [int(line.split("\t")[0]) for line in lines] == np.flatnonzero(f.ok).tolist()
    assert [line.split("\t")[1] for line in lines[-2:]] == ["tab\\t.png", "\\\\udc80.png"]
    with pytest.raises(UsageError, match="holds one column; choose one of 'bn', 'id', 'on'"):
        f.to_tsv(tmp_path)


def test_rows_that_are_not_computed(tmp_path: Path) -> None:
    f = make(tmp_path / "out", chunks=2)
    f.to_csv(tmp_path / "t.csv", ["bn", "id"])
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[8][4:] != lines[9][4:] == ["not computed yet", *["nan"] * 5, "0", "0"]
    assert len(lines) == ROWS + 1


@pytest.mark.parametrize("name", ["table", "to_parquet", "to_csv", "to_tsv"])
def test_maps_are_refused(name: str, tmp_path: Path) -> None:
    f = make(tmp_path / "out", COLUMNS)
    with pytest.raises(UsageError) as caught:
        getattr(f, name)(*[tmp_path / "t"] * (name != "table"))
    assert str(caught.value) == (
        "'maps' cannot be part of a table: a row of it is (2, 3). Tables hold vectors, as those of "
        "a reduction (maps=mean); read maps with features['maps']. Vectors are 'bn', 'top'."
    )
    assert not (tmp_path / "t").exists()


def test_a_file_that_cannot_be_written(f: layertap.Features, tmp_path: Path) -> None:
    for write in (f.to_csv, f.to_parquet):
        with pytest.raises(OutputError, match="does not exist"):
            write(tmp_path / "gone" / "t")


def test_xarray_reads_a_zarr_store(tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="needs the zarr extra")
    xarray = pytest.importorskip("xarray", reason="needs xarray")
    f = make(tmp_path / "out.zarr", COLUMNS, chunks=3)
    read = xarray.open_zarr(tmp_path / "out.zarr", consolidated=False)
    assert read["maps"].dims == ("item", "height", "width")
    assert read["bn"].attrs["layertap"] == {"layer": "bn", "reduction": "mean"}
    for column in COLUMNS:
        right = expected(column, ROWS)
        right[12:] = np.nan if right.dtype.kind == "f" else 0
        np.testing.assert_array_equal(read[column.key].values, right)
        np.testing.assert_array_equal(np.asarray(f[column.key]), right)


@pytest.mark.parametrize("name", ["extract.json", "ok.npy", "bn/00000.npy", "bn/t.csv", "journal"])
@pytest.mark.parametrize("write", ["to_csv", "to_tsv", "to_parquet"])
def test_a_table_never_takes_the_place_of_the_collection(
    name: str, write: str, f: layertap.Features, tmp_path: Path
) -> None:
    before = contents(tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for target in (tmp_path / "out" / name, tmp_path / "link" / name):
        with pytest.raises(OutputError, match="the collection has files of its own there"):
            getattr(f, write)(target)
    assert contents(tmp_path / "out") == before
    f.to_csv(tmp_path / "out" / "table.csv")
    assert f.verify().ok
