"""`layertap.extract.item_list`: any name of a file is in the list without loss."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layertap.errors import CollectionError
from layertap.extract.item_list import (
    ItemList,
    Known,
    check_unique,
    digest,
    digest_of_times,
    escaped,
    unescaped,
    written,
)
from layertap.extract.items import Item

ODD = ["", "\\", "\\n", "a\tb", "a\nb", "a\r\nb", "\x1b[31m", "\x85", "\u2028", "\u202e", "\udcff",
       "../../etc/passwd", "\\u2028", "\\x", "e\u0301", "\U0001f600", "\ufeff", " a "]  # fmt: skip
NAMES = st.text(st.characters(codec=None) | st.sampled_from("\\\t\n\r\udc80\u2028xun")) | (
    st.sampled_from(ODD)
)
ITEMS = st.lists(
    st.builds(Item, NAMES, st.integers(-1, 1 << 50), st.integers(0, 1 << 62)), max_size=8
)


@given(NAMES)
def test_a_name_is_one_field_of_one_line(name: str) -> None:
    text = escaped(name)
    assert unescaped(text) == name
    text.encode("utf-8")
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", text)
    assert text.splitlines() in ([text], [])


@given(NAMES, NAMES)
def test_two_names_are_two_texts(one: str, other: str) -> None:
    assert (escaped(one) == escaped(other)) == (one == other)


def test_usual_names_are_written_as_they_are() -> None:
    for name in ("a/b c.png", "Zürich/ü.png", "日本.jpg", "x=1;'\"$.png"):
        assert escaped(name) == name
    assert escaped("a\\b\tc\x1b\udc80") == r"a\\b\tc\x1b\udc80"


@given(ITEMS)
def test_the_list_is_read_as_it_was_written(items: list[Item]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "items.tsv"
        path.write_bytes(b"".join(written(items)))
        found = ItemList(path, len(items))
        assert list(found.items()) == items
        assert list(found) == [item.id for item in items]
        assert found[:] == [item.id for item in items]
        for row, item in enumerate(items):
            assert found[row] == found[row - len(items)] == item.id
        known = Known(found)
        assert all(item.id in known for item in items)
        assert all((text in known) == (text in list(found)) for text in ("a", "\\", "\\x09", ""))
        del found, known


@given(ITEMS)
def test_the_digest_is_as_the_page_says(items: list[Item]) -> None:
    ids = "".join(f"{escaped(item.id)}\n" for item in items)
    sizes = "".join(f"{item.size}\n" for item in items)
    assert digest(items) == hashlib.sha256((ids + sizes).encode()).hexdigest()
    times = "".join(f"{item.mtime_ns}\n" for item in items)
    assert digest_of_times(items) == hashlib.sha256(times.encode()).hexdigest()
    check_unique([item._replace(id=str(row)) for row, item in enumerate(items)])


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "items.tsv").write_bytes(b"".join(written([Item(name, 1, 2)])))
    assert (tmp_path / "items.tsv").read_text("utf-8") == "caf\\udce9.png\t1\t2\n"
    assert os.fsencode(ItemList(tmp_path / "items.tsv", 1)[0]) == b"caf\xe9.png"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a\t1\t2\n", "it has 1 lines, not 2"),
        ("a\t1\t2\nb\t1\n", "line 2 is not an item"),
        ("a\t1\t2\nb\tx\t2\n", "line 2 is not an item"),
        ("a\t1\t2\n\\q\t1\t2\n", "line 2 is not an item"),
        ("a\t1\t2\n\xff\t1\t2\n", "line 2 is not an item"),
    ],
)
def test_a_damaged_list(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "items.tsv").write_bytes(text.encode("latin-1"))
    with pytest.raises(CollectionError, match=f"is damaged: {reason}. Restore it"):
        list(ItemList(tmp_path / "items.tsv", 2))


def test_rows_are_chosen(tmp_path: Path) -> None:
    items = [Item(f"{row}", 0, 0) for row in range(6)]
    (tmp_path / "items.tsv").write_bytes(b"".join(written(items)))
    found = ItemList(tmp_path / "items.tsv", 6)
    assert found[1:5:2] == ["1", "3"]
    assert found[[True, False, False, True, False, False]] == ["0", "3"]
    assert found[[5, 0]] == ["5", "0"]
    assert repr(found) == "<6 ids: '0', '1', '2', ...>"
    with pytest.raises(IndexError):
        found[6]
