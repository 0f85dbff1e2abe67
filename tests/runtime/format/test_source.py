"""Where models come from, and what is said when they cannot be had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from layertap.errors import ModelFileError
from layertap.format.external import find_weights
from layertap.format.graph import External
from layertap.format.source import BytesSource, FileSource, describe


def message(source: FileSource | BytesSource) -> str:
    with pytest.raises(ModelFileError) as caught, source.read():
        pass
    return str(caught.value)


def test_a_file_is_open_only_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"contents")
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    source = FileSource(path)
    with source.read() as buffer:
        assert buffer[:] == b"contents"
    after = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    assert after == before
    with pytest.raises(ValueError, match="closed"):
        buffer[0]


def test_bytes_are_what_they_are() -> None:
    with BytesSource(b"contents").read() as buffer:
        assert buffer == b"contents"


@pytest.mark.parametrize("change", ["appended", "replaced", "touched"])
def test_a_file_that_changed_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"contents")
    source = FileSource(path)
    with source.read():
        pass
    if change == "appended":
        path.write_bytes(b"contents and more")
    elif change == "touched":
        os.utime(path, ns=(1, 1))
    else:
        stat = path.stat()
        other = tmp_path / "other"
        other.write_bytes(b"CONTENTS")
        os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        os.replace(other, path)
    assert message(source) == (
        f"'{path}' was changed since it was opened. Open it again with layertap.open."
    )


def test_a_missing_file_has_its_neighbours_named(tmp_path: Path) -> None:
    (tmp_path / "chest.onnx").write_bytes(b"x")
    path = tmp_path / "chst.onnx"
    assert message(FileSource(path)) == (f"there is no file '{path}'. Did you mean 'chest.onnx'?")
    path = tmp_path / "nowhere" / "chest.onnx"
    assert message(FileSource(path)) == f"there is no file '{path}'."


def test_a_folder(tmp_path: Path) -> None:
    assert message(FileSource(tmp_path)) == (
        f"'{tmp_path}' is a folder. Give the .onnx file in it."
    )
    (tmp_path / "a.onnx").write_bytes(b"x")
    assert message(FileSource(tmp_path)) == (
        f"'{tmp_path}' is a folder. Give the .onnx file in it: 'a.onnx'."
    )


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.touch()
    assert message(FileSource(path)) == f"'{path}' is empty. Copy or export it again."


def test_empty_bytes() -> None:
    with pytest.raises(ModelFileError, match=r"^the model's bytes are empty\.$"):
        BytesSource(b"")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"contents")
    path.chmod(0)
    assert message(FileSource(path)) == f"'{path}' cannot be read: Permission denied."


def test_other_reasons_are_told_in_the_systems_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    path = tmp_path / "m.onnx"
    assert message(FileSource(path)) == f"'{path}' cannot be read: Permission denied."
    monkeypatch.undo()
    assert message(FileSource("a\0b")) == "'a\\x00b' cannot be read: embedded null byte."


HTML = "an HTML page: perhaps an error or login page came instead of the file"


@pytest.mark.parametrize(
    ("start", "looks"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer; fetch the model "
         "itself with `git lfs pull`"),
        (b"\n <!DOCTYPE HTML><p>", HTML),
        (b"<HTML>", HTML),
        (b"<?xml?>", "an XML file"),
        (b'{"a": 1}', "a JSON file"),
        (b"\x89HDF\r\n", "an HDF5 file, perhaps a Keras model; export it with `layertap export`"),
        (b"PK\x03\x04..", "a zip archive, perhaps a Keras model; export it with "
         "`layertap export`"),
        (b"\x1f\x8b\x08", "a gzip archive; unpack it first"),
        (b"\x89PNG\r\n", "a PNG image"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"\x10\0\0\0ORTM", "a model in onnxruntime's own format; give the .onnx file that it was "
         "made from"),
        (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model; export the Keras model with "
         "`layertap export`"),
        (b"Dear reader,\n", "a text file"),
        (b"\x08\x08\x12\x04", ""),
        (b"", ""),
    ],
)  # fmt: skip
def test_what_other_files_look_like(start: bytes, looks: str) -> None:
    assert describe(start) == looks


# --- Weights in other files ---------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> FileSource:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "m.onnx").write_bytes(b"x")
    (folder / "m.data").write_bytes(b"0123456789")
    (folder / "sub" / "n.data").write_bytes(b"abc")
    (tmp_path / "secret").write_bytes(b"secret")
    return FileSource(folder / "m.onnx")


def test_weights_beside_the_model(model: FileSource, tmp_path: Path) -> None:
    weights = find_weights(model, ("m.data", "sub/n.data"))
    assert weights.folder == (tmp_path / "model").resolve()
    assert weights.refer(External("sub/n.data", 1, 2)) == External("sub/n.data", 1, 2)
    assert weights.load(External("m.data", 2, 3)) == b"234"
    assert weights.load(External("m.data", 2, None)) == b"23456789"


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "sub/../../secret", "C:\\secret", "..\\secret", ""]
)
def test_weights_outside_the_models_folder(model: FileSource, location: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        find_weights(model, (location,))
    assert str(caught.value) == (
        f"{model.name} keeps weights in {location!r}, outside its own folder. Put them "
        "in the folder of the model."
    )


def test_a_link_that_leads_out_of_the_folder(model: FileSource, tmp_path: Path) -> None:
    (tmp_path / "model" / "link").symlink_to("../secret")
    with pytest.raises(ModelFileError) as caught:
        find_weights(model, ("link",))
    assert str(caught.value) == (
        f"{model.name} keeps weights in 'link', a link to '{(tmp_path / 'secret').resolve()}' "
        "outside its own folder. Put them in the folder of the model."
    )


@pytest.mark.parametrize("location", ["gone.data", "sub", "m.data/x", "x" * 5000, "m\0data"])
def test_missing_weights(model: FileSource, location: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        find_weights(model, (location,))
    assert str(caught.value) == (
        f"{model.name} keeps weights in {location!r}, which is not there. Copy it into the model's "
        "folder."
    )


def test_weights_that_are_cut_off(model: FileSource, tmp_path: Path) -> None:
    weights = find_weights(model, ("m.data",))
    with pytest.raises(ModelFileError) as caught:
        weights.load(External("m.data", 8, 4))
    assert str(caught.value) == (
        f"'{(tmp_path / 'model' / 'm.data').resolve()}' is cut off: it ends at byte 10, within the "
        "model's weights. Copy it again."
    )


def test_a_cache_of_links(model: FileSource, tmp_path: Path) -> None:
    """As download caches keep them: the model and its weights are links to files with other names
    in a folder of their own."""
    cache = tmp_path / "snapshot"
    cache.mkdir()
    (cache / "x.onnx").symlink_to("../model/m.onnx")
    (cache / "w.data").symlink_to("../model/m.data")
    weights = find_weights(FileSource(cache / "x.onnx"), ("w.data",))
    assert weights.folder == (tmp_path / "model").resolve()
    assert weights.refer(External("w.data", 1, 2)) == External("m.data", 1, 2)
    (cache / "own.data").write_bytes(b"own")
    both = find_weights(FileSource(cache / "x.onnx"), ("w.data", "own.data"))
    assert both.refer(External("own.data", 1, 2)) == b"wn"


def test_bytes_have_no_folder() -> None:
    with pytest.raises(ModelFileError) as caught:
        find_weights(BytesSource(b"x"), ("m.data",))
    assert str(caught.value) == (
        "the model's weights are in another file, 'm.data', which cannot be found from bytes. Open "
        "the model by its path."
    )
