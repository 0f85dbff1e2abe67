"""`layertap.extract.merge`: shards that are joined are the whole, byte for byte."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import layertap
from generators.collection import COLUMNS, contents, expected, extract, finished, identity, items_of
from layertap.errors import CollectionError, CollectionMismatchError, LayertapWarning, UsageError
from layertap.extract.layout import Grid
from layertap.extract.merge import merge
from layertap.extract.writer import Writer

ROWS, CHUNK, SHARDS = 23, 3, 4


@given(rows=st.integers(0, 60), chunk=st.integers(1, 70), shards=st.integers(1, 70))
def test_each_row_is_in_one_chunk_of_one_shard(rows: int, chunk: int, shards: int) -> None:
    grid = Grid(rows, chunk, shards)
    found = []
    for shard in range(shards):
        inner = [
            row
            for one in map(grid.at, grid.of_shard(shard))
            for row in range(one.first, one.first + one.count)
        ]
        assert inner == list(grid.rows_of(shard))
        assert grid.count(grid.of_shard(shard)) == len(inner)
        found += inner
    assert found == list(range(rows))
    sizes = [len(grid.of_shard(shard)) for shard in range(shards)]
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 25),
    chunk=st.integers(1, 9),
    shards=st.integers(1, 6),
    together=st.booleans(),
    order=st.randoms(use_true_random=False),
)
def test_shards_joined_are_the_whole(
    rows: int, chunk: int, shards: int, together: bool, order: object
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        extract(folder / "whole", rows, chunk)
        at = list(range(shards))
        order.shuffle(at)  # type: ignore[attr-defined]
        parts = [folder / ("all" if together else str(shard)) for shard in at]
        for shard, part in zip(at, parts, strict=True):
            extract(part, rows, chunk, (shard, shards))
        merge(parts, folder / "merged")
        assert contents(folder / "merged") == contents(folder / "whole")


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / str(shard) for shard in range(SHARDS)]
    for shard, folder in enumerate(folders):
        extract(folder, ROWS, CHUNK, (shard, SHARDS))
    return folders


def test_a_shard_is_read_by_itself(shards: list[Path]) -> None:
    f = layertap.features(shards[2])
    rows = Grid(ROWS, CHUNK, SHARDS).rows_of(2)
    assert (f.complete, f.done_rows, len(f)) == (False, len(rows), ROWS)
    assert np.flatnonzero(f.ok).tolist() == [row for row in rows if row % 7 != 6]
    right = expected(COLUMNS[0], ROWS)
    np.testing.assert_array_equal(f["bn"][f.ok], right[f.ok])
    assert np.isnan(f["bn"][0]).all()
    assert f["top"][0] == 0
    assert f.verify().ok


def test_shards_in_one_folder_need_no_merge(tmp_path: Path) -> None:
    for shard in (1, 0, 3, 2):
        assert not (tmp_path / "out" / "summary.json").exists()
        extract(tmp_path / "out", ROWS, CHUNK, (shard, SHARDS))
    f = layertap.features(tmp_path / "out")
    assert f.complete
    assert f.verify() == (ROWS, 0, (), ())
    for column in COLUMNS:
        np.testing.assert_array_equal(np.asarray(f[column.key]), expected(column, ROWS))
    assert f["bn"].shape == (ROWS, 5)
    assert len((tmp_path / "out" / "manifest.csv").read_text().splitlines()) == ROWS + 1


def test_shards_in_one_folder_are_written_at_once(tmp_path: Path) -> None:
    asked = identity(ROWS, CHUNK, SHARDS)
    writers = [
        Writer.open(tmp_path / "out", asked, items_of(ROWS), COLUMNS, shard=(shard, SHARDS))
        for shard in range(SHARDS)
    ]
    work = [list(writer.todo()) for writer in writers]
    while any(work):
        for writer, todo in zip(writers, work, strict=True):
            if todo:
                writer.write(finished(todo.pop()))
    for writer in writers:
        writer.finish()
        writer.close()
    assert layertap.features(tmp_path / "out").verify() == (ROWS, 0, (), ())


@pytest.mark.parametrize("into", ["merged", "merged.zarr"])
def test_zarr_stores_are_merged(into: str, tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="needs the zarr extra")
    folders = [tmp_path / name for name in ("0.zarr", "1", "2.zarr", "3")]
    for shard, folder in enumerate(folders):
        extract(folder, ROWS, CHUNK, (shard, SHARDS))
    merge(folders, tmp_path / into)
    extract(tmp_path / f"whole {into}", ROWS, CHUNK)
    assert contents(tmp_path / into) == contents(tmp_path / f"whole {into}")


def test_a_merge_that_was_interrupted_goes_on(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layertap.extract.merge.ROUND", 1)
    with monkeypatch.context() as patch:
        plain, left = Writer.write, [3]

        def write(self: Writer, *given: object) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            plain(self, *given)  # type: ignore[arg-type]

        patch.setattr(Writer, "write", write)
        with pytest.raises(KeyboardInterrupt):
            merge(shards, tmp_path / "merged")
    assert layertap.features(tmp_path / "merged").done_rows == 3 * CHUNK
    merge(shards, tmp_path / "merged")
    extract(tmp_path / "whole", ROWS, CHUNK)
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")


def test_what_does_not_belong_together_is_refused(shards: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "merged"

    def refused(kind: type[Exception], words: str, *folders: Path) -> None:
        with pytest.raises(kind, match=re.escape(words)):
            merge(folders, output)
        assert not output.exists()

    rest = shards[:2] + shards[3:]
    refused(CollectionError, "shard 3 of 4 (rows 12 to 17) is in none of the folders.", *rest)
    twice = tmp_path / "twice"
    shutil.copytree(shards[1], twice)
    words = f"shard 2 of 4 (rows 6 to 11) is in both {str(shards[1])!r} and {str(twice)!r}. Give"
    refused(CollectionError, words, *shards, twice)

    asked, begun = identity(ROWS, CHUNK, SHARDS), tmp_path / "begun"
    with Writer.open(begun, asked, items_of(ROWS), COLUMNS, shard=(2, SHARDS)) as writer:
        writer.write(finished(next(writer.todo())))
    words = f"shard 3 of 4 is not finished in {str(begun)!r}: 3 rows of 6 are missing. Continue"
    refused(CollectionError, words, *rest, begun)

    other = tmp_path / "other"
    asked = identity(ROWS, CHUNK, SHARDS, model="1" * 64)
    Writer.open(other, asked, items_of(ROWS), COLUMNS, shard=(2, SHARDS)).close()
    words = "do not belong together: the first was begun with another model."
    refused(CollectionMismatchError, words, *rest, other)

    refused(UsageError, "there is nothing to merge")
    refused(CollectionError, f"there is no folder {str(tmp_path / 'gone')!r}", tmp_path / "gone")
    with pytest.raises(UsageError, match="is merged and cannot be the output, too"):
        merge(shards, shards[0])

    part = shards[2] / "maps" / "00002.npy"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(CollectionError, match=r"the rows 15 to 17 of 'maps' in .* are damaged"):
        merge(shards, output)


def test_shards_of_different_versions_warn(shards: list[Path], tmp_path: Path) -> None:
    shutil.rmtree(shards[3])
    made = identity(ROWS, CHUNK, SHARDS, made_with={"numpy": "2.0.0"})
    with Writer.open(shards[3], made, items_of(ROWS), COLUMNS, shard=(3, SHARDS)) as writer:
        for chunk in writer.todo():
            writer.write(finished(chunk))
    with pytest.warns(LayertapWarning, match=r"numpy None, now 2\.0\.0"):
        merge(shards, tmp_path / "merged")
    with pytest.raises(CollectionMismatchError, match="numpy"):
        merge(shards, tmp_path / "strict", strict=True)
