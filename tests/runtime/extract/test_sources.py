"""What a collection is made from: folders, archives, lists and Python sequences."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from layertap.errors import ImageError, InputError, LayertapWarning, UsageError
from layertap.extract.items import FileItems, Item, Items
from layertap.extract.sources import find_items
from layertap.images.own_pictures import mark
from layertap.images.preprocessing import Preprocessing

RECIPE = Preprocessing(size=(4, 6))

Save = Callable[..., Path]


def png(value: int = 7) -> bytes:
    """A picture of one grey value, as a file's bytes."""
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (value,) * 3).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(name: str, data: bytes | None = None, value: int = 7) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(value) if data is None else data)
        return path

    return save


def ids(items: Items) -> list[str]:
    return [item.id for item in items.items]


def values(items: Items) -> list[int]:
    """The grey values of the items, as a recipe reads them."""
    return [int(RECIPE(items.read(row).content)[0, 0, 0]) for row in range(len(items.items))]


NAMES = st.text("ab.-~é ", min_size=1, max_size=4).filter(lambda name: name.strip("."))
FILES = st.tuples(st.lists(NAMES, max_size=2), NAMES, st.sampled_from([".png", ".PNG", "png", ""]))


@settings(max_examples=50, deadline=None)
@given(
    files=st.lists(FILES, min_size=1, max_size=8),
    given_as=st.sampled_from(["absolute", "relative", "dotted", "twice"]),
)
def test_files_are_those_that_pathlib_finds(files: list[Any], given_as: str) -> None:
    with tempfile.TemporaryDirectory() as made:
        top = Path(made, "top")
        for folders, stem, suffix in files:
            path = Path(top, *folders, stem + suffix)
            with contextlib.suppress(OSError):  # a file has the name of the folder
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png())
        expected = [
            path
            for path in sorted(top.rglob("*"), key=lambda path: path.as_posix())
            if path.is_file() and path.suffix.lower() == ".png"
            if not any(part.startswith(".") for part in path.relative_to(top).parts)
        ]
        sources = {
            "absolute": [str(top)],
            "relative": [os.path.relpath(top)],
            "dotted": [f"{made}/./top/../top/"],
            "twice": [str(top), os.path.relpath(top)],
        }[given_as]
        if not expected:
            with pytest.raises(ImageError, match="no image"):
                find_items(sources)
            return
        items = find_items(sources)
        found = ids(items)
        assert found == [path.relative_to(top).as_posix() for path in expected]
        assert isinstance(items, FileItems)
        for row, path in enumerate(expected):
            assert os.path.samefile(items.path(row), path)
            assert items.items[row] == Item(
                found[row], path.stat().st_size, path.stat().st_mtime_ns
            )
        assert list(items.items) == [items.items[row] for row in range(len(found))]


def test_a_folder_gives_its_images_in_the_order_of_their_paths(save: Save, tmp_path: Path) -> None:
    for name, value in (("b.png", 2), ("a/z.png", 1), (".hidden/x.png", 9), ("notes.txt", 9)):
        save(name, value=value)
    Image.new("RGB", (6, 4)).save(tmp_path / "map.png", pnginfo=mark("cam"))
    with pytest.warns(LayertapWarning, match="layertap wrote it"):
        items = find_items(tmp_path, recipe=RECIPE)
    assert ids(items) == ["a/z.png", "b.png"]
    assert values(items) == [1, 2]
    status = (tmp_path / "b.png").stat()
    assert items.items[1][1:] == (status.st_size, status.st_mtime_ns)
    assert items.read(1).sha256 == hashlib.sha256(png(2)).hexdigest()
    assert find_items(tmp_path / "a", digest=False).read(0).sha256 == ""


def test_several_paths_are_named_below_the_folder_that_contains_them(save: Save) -> None:
    first, second, third = save("x/b.png", value=1), save("x/c/a.png", value=2), save("y/a.png")
    items = find_items([first.parent, third, second.parent, third], recipe=RECIPE)
    assert ids(items) == ["x/b.png", "x/c/a.png", "y/a.png"]
    assert values(items) == [1, 2, 7]


def test_a_list_of_images_keeps_its_order_and_its_paths(save: Save) -> None:
    paths = [str(save(name, value=value)) for name, value in (("b.png", 2), ("a.png", 1))]
    items = find_items(paths, recipe=RECIPE)
    assert ids(items) == paths
    assert values(items) == [2, 1]
    assert ids(find_items(np.array(paths), recipe=RECIPE)) == paths


def test_a_name_that_is_not_utf8_is_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    (tmp_path / name).write_bytes(png(3))
    items = find_items(tmp_path, recipe=RECIPE)
    assert ids(items) == [name]
    assert values(items) == [3]


def test_a_missing_file_in_a_list_is_refused_before_any_work(save: Save, tmp_path: Path) -> None:
    there = save("a.png")
    paths = [there, tmp_path / "gone.png", tmp_path / "too.png"]
    with pytest.raises(ImageError, match=r"gone\.png and 1 more: .* 2 of the 3 files in the list"):
        find_items(paths, recipe=RECIPE)


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_the_key_of_a_webdataset_is_the_id(tmp_path: Path) -> None:
    members = {"./b/2.jpg.png": png(2), "b/2.cls": b"1", "1.png": png(1), "._1.png": b"mac"}
    items = find_items(tar(tmp_path / "a.tar", members), recipe=RECIPE)
    assert ids(items) == ["b/2", "1"]
    assert values(items) == [2, 1]
    assert items.items[0].size == len(png(2))
    items.close()
    twice = {"1.png": png(1), "1.mask.png": png(2)}
    assert ids(find_items(tar(tmp_path / "b.tar", twice))) == ["1.png", "1.mask.png"]


def test_the_path_of_a_zip_member_is_the_id(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in (("d/b.png", 2), ("a.png", 1)):
            archive.writestr(name, png(value))
        archive.writestr("__MACOSX/a.png", b"")
    items = find_items(tmp_path / "a.zip", recipe=RECIPE)
    assert ids(items) == ["a.png", "d/b.png"]
    assert values(items) == [1, 2]


def test_archives_among_others_are_named(tmp_path: Path, save: Save) -> None:
    first, second = (tar(tmp_path / f"{n}.tar", {"1.png": png(n)}) for n in (1, 2))
    items = find_items([first, second, save("x/y.png", value=3), first], recipe=RECIPE)
    assert ids(items) == ["1.tar/1", "2.tar/1", "x/y.png"]
    assert values(items) == [1, 2, 3]


def test_broken_members_of_archives_fail_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png(1))
        archive.writestr("b.png", png(2))
    data = path.read_bytes()
    at = data.index(png(1))
    path.write_bytes(data[: at + 60] + b"\0\0\0\0" + data[at + 64 :])
    items = find_items(path, recipe=RECIPE)
    with pytest.raises(ImageError, match=r"^it cannot be unpacked \(Bad CRC"):
        items.read(0)
    assert RECIPE(items.read(1).content)[0, 0, 0] == 2
    cut = tar(tmp_path / "a.tar", {"a.png": png(1)})
    items = find_items(cut, recipe=RECIPE)
    os.truncate(cut, 550)
    with pytest.raises(ImageError, match=r"^it is cut off: 38 of \d+ bytes"):
        items.read(0)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_compressed_archives_are_refused_with_advice(tmp_path: Path, suffix: str) -> None:
    for name in (f"a.tar.{suffix}", "b.tar"):
        path = tar(tmp_path / name, {"a.png": png(1)}, f"w:{suffix}")
        with pytest.raises(ImageError, match=r"compressed, .* Unpack it \(`(gun|bun|un)"):
            find_items(path)


@pytest.mark.parametrize("name", ["a.tar", "a.zip", "a.npy", "a.tgz"])
@pytest.mark.parametrize("data", [b"", b"nothing of that kind" * 100])
def test_files_that_are_no_archives_are_refused(save: Save, name: str, data: bytes) -> None:
    with pytest.raises(ImageError, match=re.escape(name)):
        find_items(save(name, data))


def test_rows_of_an_array_are_pixels_or_ready_as_in_predict(tmp_path: Path) -> None:
    whole = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    for array, recipe, ready in (
        (whole, RECIPE, False),
        (whole.astype(np.int64), RECIPE, False),
        (whole[..., 0], RECIPE, False),
        (whole, None, True),
        (whole.astype(np.float32), RECIPE, True),
        (np.asfortranarray(whole.astype(np.float32)), None, True),
    ):
        np.save(tmp_path / "a.npy", array)
        for source in (tmp_path / "a.npy", array):
            items = find_items(source, recipe=recipe)
            assert (ids(items), items.ready) == (["0", "1"], ready)
            found = items.read(1).content
            assert found.dtype == (array.dtype if ready else np.uint8)
            np.testing.assert_array_equal(found, array[1])


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.txt", "give it to `layertap extract` as --items"),
        ("A.CSV", "give it to `layertap extract` as --items"),
        ("a.npz", "Give the array as an .npy file"),
        ("m.onnx", "Give the model first"),
    ],
)
def test_a_file_that_is_given_for_an_image(
    name: str, advice: str, save: Save, tmp_path: Path
) -> None:
    path, image = save(name, b"a.png\n"), save("x/a.png")
    for source in (path, [path], [image.parent, path]):
        with pytest.raises(ImageError, match=f"this is no image. .*{advice}"):
            find_items(source)
    # Among images it is one that fails.
    assert len(find_items([image, path]).items) == 2
    with pytest.raises(ImageError, match=r"gone\.txt: there is no such file"):
        find_items(tmp_path / "gone.txt")
    with pytest.raises(ImageError, match=r"^'': there is no such file"):
        find_items("")


def test_an_archive_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no image in it"):
        find_items(tar(tmp_path / "a.tar", {"a.txt": b"text"}))
    np.save(tmp_path / "a.npy", np.zeros((0, 4, 6, 3)))
    with pytest.raises(ImageError, match="there is no image in it"):
        find_items(tmp_path / "a.npy")
    for array in (np.zeros(3), np.array([["a"]])):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(ImageError, match="must"):
            find_items(tmp_path / "a.npy")


LISTS = {
    "a.txt": "b.png\n\nc/a.png\n",
    "a.csv": "b.png,1\nc/a.png,2\n",
    "b.csv": "\ufefffile,label\nb.png,1\n\nc/a.png,2\n",
    "c.csv": 'file;label\r\n"b.png";1\r\nc/a.png;2',
    "a.tsv": "file\tlabel\nb.png\t1\nc/a.png\t2\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_name_files_relative_to_their_folder(save: Save, name: str) -> None:
    save("b.png", value=2)
    save("c/a.png", value=1)
    items = find_items(listed=save(name, LISTS[name].encode()), recipe=RECIPE)
    assert ids(items) == ["b.png", "c/a.png"]
    assert values(items) == [2, 1]


def test_a_column_of_a_list_is_chosen_by_name(save: Save) -> None:
    save("b.png")
    path = save("a.csv", b"label,path\n1,b.png\n")
    assert ids(find_items(listed=path, column="path")) == ["b.png"]
    with pytest.raises(UsageError, match=r"no column 'pth'; it has 'label', 'path'.*'path'"):
        find_items(listed=path, column="pth")
    with pytest.raises(UsageError, match="without a list"):
        find_items(["b.png"], column="path")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "the list is empty"),
        ("a.csv", "file\n", "the list is empty"),
        ("a.csv", "file,x\nb.png,1\n,2\n", "row 1 of the list has no path"),
        ("a.txt", "b.png\nc.png\nd.png\n", r"c\.png and 1 more: .* 2 of the 3 files .* row 1"),
        ("a.txt", "b.png\nb.png\n", "rows 0 and 1 have one id, 'b.png'"),
        ("a.txt", "b.png\0\n", "no such file"),
    ],
)
def test_bad_lists_are_refused(save: Save, name: str, text: str, message: str) -> None:
    save("b.png")
    with pytest.raises((ImageError, InputError), match=message):
        find_items(listed=save(name, text.encode()))


class Pictures:
    """A data set that is no list, as those of torch and Hugging Face."""

    def __init__(self, *elements: Any) -> None:
        self._elements = elements

    def __len__(self) -> int:
        return len(self._elements)

    def __getitem__(self, row: int) -> Any:
        if isinstance(self._elements[row], Exception):
            raise self._elements[row]
        return self._elements[row]


def picture(value: int) -> Image.Image:
    return Image.new("RGB", (6, 4), (value,) * 3)


@pytest.mark.parametrize(
    ("elements", "names"),
    [
        ([picture(1), picture(2)], "01"),
        ([png(1), memoryview(png(2))], "01"),
        ([np.full((4, 6, 3), n, np.uint8) for n in (1, 2)], "01"),
        ([np.full((4, 6, 3), n, np.int32) for n in (1, 2)], "01"),
        ([io.BytesIO(png(1)), io.BytesIO(png(2))], "01"),
        ([("a", picture(1)), ("b", png(2))], "ab"),
        ([(5, picture(1)), (6, picture(2))], "56"),
        ([(picture(1), 5), (picture(2), 5)], "01"),
        ([{"label": 1, "image": picture(1)}, {"label": 1, "image": picture(2)}], "01"),
        ([{"id": "a", "image": {"bytes": png(n), "path": None}} for n in (1,)], "a"),
        ([{"scan": picture(1), "y": 3}], "0"),
    ],
)
def test_python_sequences_of_images(elements: list[Any], names: str) -> None:
    for sequence in (elements, tuple(elements), Pictures(*elements)):
        items = find_items(sequence, recipe=RECIPE)
        assert ids(items) == list(names)
        assert values(items) == [1, 2][: len(names)]
        assert not items.ready


def test_paths_in_pairs_and_data_sets(save: Save) -> None:
    path = save("a.png", value=1)
    pairs = [(str(path), 3), (str(path), 4)]  # as ImageFolder of torchvision lists them
    assert values(find_items(Pictures(*pairs), recipe=RECIPE)) == [1, 1]
    items = find_items([("x", path)], recipe=RECIPE)
    assert (ids(items), values(items)) == (["x"], [1])


def test_arrays_of_floats_are_ready() -> None:
    rows = [np.full((4, 6, 3), n, np.float32) for n in (1, 2)]
    items = find_items(rows, recipe=RECIPE)
    assert items.ready
    np.testing.assert_array_equal(items.read(1).content, rows[1])
    with pytest.raises(ImageError, match="ready for the model"):
        find_items([rows[0], picture(1)], recipe=RECIPE).read(1)


def test_a_data_set_that_raises_fails_for_that_row_only() -> None:
    items = find_items(Pictures(picture(1), OSError("cannot\nread"), picture(2)), recipe=RECIPE)
    with pytest.raises(ImageError, match=r"^the data set raised OSError: cannot read\.$"):
        items.read(1)
    assert RECIPE(items.read(2).content)[0, 0, 0] == 2


@pytest.mark.parametrize("bad", [OSError("net"), None])
@pytest.mark.parametrize("kind", ["pairs", "ready"])
def test_a_data_set_whose_first_element_is_broken(bad: Any, kind: str) -> None:
    """What the others are is not known by that one."""
    rows = [np.full((4, 6, 3), n, np.float32) for n in (1, 2)]
    good: list[Any] = rows if kind == "ready" else [("a", picture(1)), ("b", picture(2))]
    items = find_items(Pictures(bad, *good), recipe=RECIPE)
    assert ids(items) == (["0", "1", "2"] if kind == "ready" else ["0", "a", "b"])
    assert items.ready == (kind == "ready")
    with pytest.raises(ImageError, match=r"OSError: net|is no image"):
        items.read(0)
    found = items.read(2).content
    np.testing.assert_array_equal(found if items.ready else RECIPE(found), rows[1])


def test_a_data_set_of_which_nothing_can_be_read() -> None:
    items = find_items(Pictures(OSError("a"), OSError("b")), recipe=RECIPE)
    assert ids(items) == ["0", "1"]
    with pytest.raises(ImageError, match="OSError: b"):
        items.read(1)


def test_elements_that_are_no_images_fail_alone() -> None:
    bad = [picture(1), None, 3.5, np.zeros((4, 6, 3)), np.full((4, 6), -1), object()]
    items = find_items(bad, recipe=RECIPE)
    for row in range(1, len(bad)):
        with pytest.raises(ImageError, match=r"is no image|are pixels"):
            items.read(row)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "a sequence with a length"),
        (None, "a sequence with a length"),
        (b"png", r"a sequence with a length, got a bytes\.$"),
        ({"a.png"}, r"a sequence with a length, got a set\.$"),
        (iter([]), "Only `stream`"),
        ({"a": 1}, "got a dict"),
        ([], "the list is empty"),
        ([("a", picture(1)), ("a", picture(2))], "rows 0 and 1 have one id, 'a'"),
        (np.zeros((2, 3), "U1"), "cannot be a collection"),
    ],
)
def test_what_is_no_collection_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_items(given, recipe=RECIPE)


def test_images_and_ready_arrays_are_not_mixed(save: Save, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 6, 3), np.float32))
    with pytest.raises(InputError, match="separate collections"):
        find_items([tmp_path / "a.npy", save("a.png")], recipe=RECIPE)


def test_large_files_are_not_read(tmp_path: Path) -> None:
    """They would take the memory; no image that Pillow reads is as large."""
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(3 << 30)
    items = find_items([tmp_path / "a.png"], recipe=RECIPE)
    with pytest.raises(ImageError, match=r"^it has 3\.2 GB, and files of up to 2\.1 GB"):
        items.read(0)


def test_members_of_one_archive_are_read_in_many_threads(tmp_path: Path) -> None:
    members = {f"{value:03}.png": png(value) for value in range(200)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    for path in (tar(tmp_path / "a.tar", members), tmp_path / "a.zip"):
        items = find_items(path, recipe=RECIPE)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda row, items=items: items.read(row).content, range(200)))
        assert found == list(members.values())
        items.close()
