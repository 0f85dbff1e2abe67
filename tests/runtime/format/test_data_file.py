"""The `.data` file of a model: both files are written, or neither."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import onnx
import pytest

import layertap
from generators import tiny
from layertap._engine.program import program_of
from layertap.format.data_file import replacing_model

WEIGHTS = (b"a" * 5000, b"b" * 3)


def named(*weights: bytes) -> str:
    """The final name of the data file with these weights, for the model `m.onnx`."""
    first, second = weights
    contents = first + bytes(8192 - len(first)) + second
    return f"m-{hashlib.sha256(contents).hexdigest()[:8]}.data"


def write(target: Path, weights: tuple[bytes, bytes] = WEIGHTS, *, fail: str = "") -> str:
    """Write a model that refers to two weights; return the temporary name of its data file."""
    made = tiny.linear_chain()
    with replacing_model(target) as (temporary, data):
        positions = [data.add(item) for item in weights]
        temporary_name = data.location
        data.flush()
        assert (target.parent / temporary_name).stat().st_size == data.size
        if fail == "early":
            raise KeyboardInterrupt
        data.settle()
        item = made.graph.initializer[0]
        item.data_location = onnx.TensorProto.EXTERNAL
        for key in ("location", "offset", "length"):
            item.external_data.add(key=key, value=str(getattr(data.refer(positions[1]), key)))
        temporary.write_bytes(made.SerializeToString())
        if fail == "late":
            raise KeyboardInterrupt
    return temporary_name


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_weights_are_page_aligned_in_a_file_named_after_its_hash(tmp_path: Path) -> None:
    temporary_name = write(tmp_path / "m.onnx")
    assert listing(tmp_path) == [named(*WEIGHTS), "m.onnx"]
    assert temporary_name.startswith(".m.")
    assert (tmp_path / named(*WEIGHTS)).read_bytes() == b"a" * 5000 + bytes(3192) + b"bbb"
    graph = program_of(layertap.open(tmp_path / "m.onnx")).graph
    (external,) = (item.external for item in graph.initializers.values() if item.external)
    assert (external.location, external.offset, external.length) == (named(*WEIGHTS), 8192, 3)


def test_model_without_data_has_no_data_file(tmp_path: Path) -> None:
    with replacing_model(tmp_path / "m.onnx") as (temporary, data):
        temporary.write_bytes(b"small")
        data.settle()
        assert (data.settled, data.size) == (None, 0)
    assert listing(tmp_path) == ["m.onnx"]


def test_data_file_of_the_previous_model_is_removed(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx")
    others = (b"c" * 5000, b"d")
    write(tmp_path / "m.onnx", others)
    assert listing(tmp_path) == [named(*others), "m.onnx"]
    with replacing_model(tmp_path / "m.onnx") as (temporary, _):
        temporary.write_bytes(b"small")
    assert listing(tmp_path) == ["m.onnx"]


def test_equal_weights_keep_the_same_data_file(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx")
    write(tmp_path / "m.onnx")
    assert listing(tmp_path) == [named(*WEIGHTS), "m.onnx"]


def test_data_file_with_another_name_is_kept(tmp_path: Path) -> None:
    """Another model may use it, because its name does not start with this model's name."""
    write(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").rename(tmp_path / "other.onnx")
    with replacing_model(tmp_path / "other.onnx") as (temporary, _):
        temporary.write_bytes(b"small")
    assert listing(tmp_path) == [named(*WEIGHTS), "other.onnx"]


@pytest.mark.parametrize("fail", ["early", "late"])
@pytest.mark.parametrize("weights", [WEIGHTS, (b"c" * 5000, b"d")])
def test_failure_leaves_model_and_data_unchanged(
    fail: str, weights: tuple[bytes, bytes], tmp_path: Path
) -> None:
    write(tmp_path / "m.onnx")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "m.onnx", weights, fail=fail)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_full_disk_leaves_no_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("layertap.format.data_file.os.replace", full)
    target = tmp_path / "m.onnx"
    with pytest.raises(layertap.OutputError) as caught:
        write(target)
    assert str(caught.value) == (
        f"cannot write {str(target)!r}: No space left on device. Nothing was written."
    )
    assert listing(tmp_path) == []


def test_failed_rename_of_the_model_removes_its_data_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.replace

    def fail(source: Path, target: Path) -> None:
        if str(target).endswith(".onnx"):
            raise PermissionError(13, "Permission denied")
        original(source, target)

    monkeypatch.setattr("layertap.format.atomic.os.replace", fail)
    with pytest.raises(layertap.OutputError, match="Permission denied"):
        write(tmp_path / "m.onnx")
    assert listing(tmp_path) == []
