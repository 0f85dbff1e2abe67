"""Records: what one machine computed, compared on another."""

from __future__ import annotations

import contextlib
import json
import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import layertap
from generators import tiny
from layertap.comparing import golden, record_file, sizes
from layertap.comparing.against_record import _row
from layertap.comparing.matching import tensors_of
from layertap.comparing.record import Recorded
from layertap.comparing.sketch import Sketching, compared, positions
from layertap.errors import ImageError, InputError, UsageError

Array = np.ndarray[Any, Any]


def opened(made: onnx.ModelProto, **options: Any) -> layertap.Model:
    return layertap.open(made.SerializeToString(), **options)


def recorded(path: Path, made: onnx.ModelProto, **options: Any) -> Path:
    opened(made).record(tiny.images(5), path, **options)
    return path


def test_a_record_agrees_with_its_own_file(tmp_path: Path) -> None:
    made = tiny.image_classifier()
    path = recorded(tmp_path / "here.npz", made)
    for a, b in ((path, opened(made)), (opened(made), path), (path, path)):
        found = layertap.compare(a, b)
        assert found
        assert found.estimated
        assert found.samples == 5
        assert [row.name for row in found.layers] == [
            "image",
            "conv",
            "relu",
            "drop",
            "pool",
            "probs",
        ]
        assert max(row.scaled for row in found.layers) < 1e-6
        assert found.layers[-1].top_class == 1.0
        assert "A and B have the same graph and weights." in found.notes


@pytest.mark.parametrize("stage_bytes", [1, 1 << 20])
def test_a_changed_layer_is_found_from_a_record(
    stage_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "STAGE_BYTES", stage_bytes)
    made = tiny.image_classifier()
    bad = tiny.changed(made, "kernel", lambda w: w[[1, 0, 2, 3]])  # two channels swapped
    path = recorded(tmp_path / "here.npz", made)
    found = layertap.compare(path, opened(bad))
    assert found.first is not None
    assert found.first.name == "conv"
    assert found.first.channels == 0.5
    assert found.born_in is None
    exact = layertap.compare(opened(made), opened(bad), tiny.images(5))
    for row, other in zip(found.layers, exact.layers, strict=True):
        assert row.scaled <= other.scaled * (1 + 1e-5)
        assert row.scaled == 0 or row.scaled > other.scaled / 4
    assert "A and B differ in weights." in found.notes


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.sampled_from([(7,), (3, 5), (2, 3, 4)]))
def test_the_error_of_sketches_is_never_more_than_that_of_all_values(
    seed: int, batches: int, shape: tuple[int, ...]
) -> None:
    generator = np.random.default_rng(seed)
    one, other = Sketching(3, 4), Sketching(3, 4)
    gaps, scale = [], 0.0
    for _ in range(batches):
        a = generator.normal(size=(2, *shape))
        b = a + generator.normal(size=a.shape) * (generator.random(a.shape) < 0.1)
        one.add(a, 1)
        other.add(b, 1)
        gaps.append(np.abs(a - b).max())
        scale = max(scale, np.abs(a).max())
    found = compared(other.sketch, one.sketch, 1e-4)
    assert found.values.scaled <= max(gaps) / scale * (1 + 1e-9)
    assert (found.values.scaled > 0) == (max(gaps) > 0)  # every element has a part


def test_positions_are_the_same_on_all_machines() -> None:
    assert positions(3, 8, 0).tolist() == [0, 1, 2]
    by_definition = np.floor(golden.uniform((4,), 0.0, 1.0, 507) * 1000)
    assert (positions(1000, 4, 7) == by_definition).all()
    drawn = positions(10**9, 64, 5)
    assert (drawn == positions(10**9, 64, 5)).all()
    assert (drawn != positions(10**9, 64, 6)).any()
    assert 0 <= drawn.min() <= drawn.max() < 10**9


def test_a_nan_on_one_machine_is_found() -> None:
    one, other = Sketching(0, 2), Sketching(0, 2)
    values = np.ones((1, 1000), np.float32)
    one.add(values, None)
    values = values.copy()
    values[0, 517] = np.nan
    other.add(values, None)
    found = compared(other.sketch, one.sketch, 1e-4)
    assert (found.values.scaled, found.values.problem) == (np.inf, "NaN or infinite")
    same = compared(other.sketch, other.sketch, 1e-4)
    assert same.values.scaled == 0


def test_without_inputs_the_same_images_are_needed(tmp_path: Path) -> None:
    made = tiny.image_classifier()
    path = recorded(tmp_path / "here.npz", made, keep_inputs=False)
    with pytest.raises(InputError, match=r"made without its inputs\. Give the same images"):
        layertap.compare(path, opened(made))
    assert layertap.compare(path, opened(made), tiny.images(5))
    with pytest.raises(InputError, match="the record has 5 samples, got 3"):
        layertap.compare(path, opened(made), tiny.images(3))
    with pytest.raises(InputError, match="the record has 5 samples, got others"):
        layertap.compare(path, opened(made), tiny.images(8))
    other = layertap.compare(path, opened(made), tiny.images(5, seed=1))
    assert other.first is not None
    assert other.first.name == "image"
    recorded(tmp_path / "few.npz", made)
    opened(made).record(tiny.images(2), tmp_path / "few.npz")
    with pytest.raises(InputError, match="of other samples: 5 samples and 2 samples"):
        layertap.compare(path, tmp_path / "few.npz")


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    made = tiny.image_classifier()
    with pytest.raises(InputError, match="there is no record"):
        layertap.compare(tmp_path / "gone.npz", opened(made))
    np.savez(tmp_path / "batch.npz", image=tiny.images())
    with pytest.raises(InputError, match="holds arrays, but is no record"):
        layertap.compare(tmp_path / "batch.npz", opened(made))
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match="is damaged, or its recording was interrupted"):
        layertap.compare(tmp_path / "text.npz", opened(made))
    about = json.dumps({"version": record_file.VERSION + 1}).encode()
    arrays = {record_file.KEY: np.frombuffer(about, np.uint8)}
    np.savez(tmp_path / "new.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="recorded by a newer layertap"):
        layertap.compare(tmp_path / "new.npz", opened(made))
    other = tmp_path / "other.npz"
    opened(tiny.linear_chain()).record(tiny.feeds(tiny.linear_chain())["x"], other)
    with pytest.raises(UsageError, match="share no layer"):
        layertap.compare(other, opened(made))


def test_a_damaged_record_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = recorded(tmp_path / "whole.npz", tiny.image_classifier()).read_bytes()
    path = tmp_path / "cut.npz"
    generator = np.random.default_rng(0)
    for end in generator.integers(0, len(whole), 30):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match="Record it again"):
            record_file.read(path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_is_an_error_in_words(data: st.DataObject) -> None:
    """Keys of the JSON text removed, or replaced by other values."""
    about, arrays = damaged_parts()
    where = data.draw(st.sampled_from(sorted(about)))
    value = data.draw(st.sampled_from([None, -1, "x", [], {}, [1], {"a": 1}, 10**30, 1.5]))
    target = about
    if where == "layers" and data.draw(st.booleans()):
        target = about["layers"][data.draw(st.integers(0, len(about["layers"]) - 1))]
        where = data.draw(st.sampled_from(sorted(target)))
    if data.draw(st.booleans()):
        del target[where]
    else:
        target[where] = value
    arrays[record_file.KEY] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    path = SCRATCH / "damaged.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with contextlib.suppress(layertap.LayertapError):
        assert layertap.compare(path, opened(tiny.image_classifier())).samples > 0


SCRATCH = Path()


def damaged_parts() -> tuple[dict[str, Any], dict[str, Array]]:
    with np.load(SCRATCH / "whole.npz") as loaded:
        arrays = dict(loaded)
    return json.loads(arrays[record_file.KEY].tobytes()), arrays


@pytest.fixture(scope="module", autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> None:
    global SCRATCH
    SCRATCH = tmp_path_factory.mktemp("records")
    recorded(SCRATCH / "whole.npz", tiny.image_classifier())


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("tolerance", math.nan),
        ("tolerance", -1),
        ("kept", 0),
        ("version", True),
        ("layers/allowed", math.nan),
        ("layers/allowed", math.inf),
        ("layers/largest", math.nan),
        ("layers/largest", -1.0),
        ("layers/nonfinite", -1),
        ("layers/shapes", [[-1, -1]]),
        ("layers/shape", [-1]),
        ("layers/name", "image"),
        ("layers/classes", [7, -2]),
    ],
)
def test_numbers_that_no_record_has(where: str, value: Any) -> None:
    about, arrays = damaged_parts()
    target = about
    if "/" in where:
        target, where = about["layers"][-1], where.partition("/")[2]
    target[where] = value
    refused(about, arrays)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("means", np.nan),
        ("means", np.inf),
        ("squares", -1.0),
        ("squares", np.nan),
    ],
)
def test_means_that_no_record_has(key: str, value: float) -> None:
    about, arrays = damaged_parts()
    arrays[key] = np.full_like(arrays[key], value)
    refused(about, arrays)


@pytest.mark.parametrize("change", [lambda x: x.astype(str), lambda x: x[None], lambda x: x + 1j])
def test_arrays_that_no_record_has(change: Callable[[Array], Array]) -> None:
    about, arrays = damaged_parts()
    arrays["values"] = change(arrays["values"])
    refused(about, arrays)


def test_an_input_that_is_missing() -> None:
    about, arrays = damaged_parts()
    del arrays["input/2/0"]
    refused(about, arrays)


def refused(about: dict[str, Any], arrays: dict[str, Array]) -> None:
    arrays[record_file.KEY] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    path = SCRATCH / "refused.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is damaged, or its recording was interrupted"):
        record_file.read(path)


def test_an_archive_of_zeros_is_not_unpacked(tmp_path: Path) -> None:
    """Some kilobytes that say that they are gigabytes: refused before anything is read."""
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("values.npy", bytes(1 << 20))
    entry = path.read_bytes()
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # the size in both headers
        place = entry.index(mark) + at
        entry = entry[:place] + struct.pack("<I", 4_000_000_000) + entry[place + 4 :]
    path.write_bytes(entry)
    with pytest.raises(InputError, match=r"says that it holds 4\.0 GB, more than any record has"):
        record_file.read(path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InputError, match=r"the record .* cannot be read: Is a directory"):
        record_file.read(tmp_path / "folder.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        record_file.read(tmp_path / "empty.npz")
    assert "pickle" not in str(caught.value)


def test_nothing_that_a_record_says_reaches_a_terminal(tmp_path: Path) -> None:
    about, arrays = damaged_parts()
    evil = "\x1b[2J\n\u202e"
    about["name"] = evil
    about["made_with"]["device"] = about["made_with"]["processor"] = evil
    about["hidden"] = {evil: evil}
    about["layers"][1]["problem"] = evil
    about["layers"][2]["type"] = evil
    arrays[record_file.KEY] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(tmp_path / "evil.npz", **arrays)  # type: ignore[arg-type]
    found = layertap.compare(tmp_path / "evil.npz", opened(tiny.image_classifier()))
    assert str(found).count("\\x1b[2J") >= 4
    assert all(line.isprintable() for line in str(found).splitlines())


def test_values_whose_squares_float32_has_not(tmp_path: Path) -> None:
    """A difference that only the means show."""
    made = tiny.linear_chain()
    large = tiny.changed(made, "a/w", lambda w: w * 1e25)
    other = tiny.changed(large, "a/w", lambda w: w * 1.01)
    path = tmp_path / "large.npz"
    x = tiny.feeds(made, n=300)["x"]
    opened(large).record(x, path)
    assert layertap.compare(path, opened(large))
    found = layertap.compare(path, opened(other))
    assert found.first is not None
    assert found.first.name == "a"
    one, two = Sketching(0, 1), Sketching(0, 1)
    values = np.full((1, 1000), 1e25, np.float32)
    one.add(values, None)
    values[0, 500:] = 2e25
    two.add(values, None)
    one.round()
    two.round()
    assert compared(two.sketch, one.sketch, 1e-4).values.scaled > 0.1


def test_squares_beyond_all_numbers_say_nothing() -> None:
    one = Sketching(0, 1)
    one.add(np.full((1, 100), 1e200), None)
    one.round()
    assert compared(one.sketch, one.sketch, 1e-4).values.scaled == 0


def test_the_best_classes_of_samples_count_the_same(tmp_path: Path) -> None:
    """However they are divided into batches: here 3 and 1 samples."""
    sketch = Sketching(0, 4)
    parts = []
    for agree in ([True, True, False], [False]):
        sketch.add(np.zeros((len(agree), 2), np.float32), None, np.zeros(len(agree)))
        parts.append(np.where(agree, 0, 1))
    sketch.round()
    about = tensors_of(opened(tiny.linear_chain())._program, scores=True)[0][0]
    ours = Recorded(tensor=about, allowed=1e-4, sketch=sketch.sketch)
    theirs = Recorded(tensor=about, allowed=1e-4, sketch=replace(sketch.sketch, classes=parts))
    assert _row(ours, theirs, None).top_class == 0.5


def test_more_values_than_a_record_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layertap.comparing.record.MOST_BYTES", 1000)
    with pytest.raises(UsageError, match=r"6 layers of \d+ samples? take more than .*--layers"):
        recorded(tmp_path / "here.npz", tiny.image_classifier())
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_record_leaves_nothing(tmp_path: Path) -> None:
    made = tiny.image_classifier()
    path = tmp_path / "here.npz"

    def images() -> Iterator[Array]:
        yield (tiny.images(1)[0] * 255).astype(np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(made).record(images(), path)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"the old one")
    with pytest.raises(ImageError):
        opened(made).record([tmp_path / "gone.png"], path)
    assert path.read_bytes() == b"the old one"


def test_a_record_is_small_and_the_same_each_time(tmp_path: Path) -> None:
    """Some hundred values of each layer, however many images there are."""
    made = tiny.image_classifier(64, 64)
    model = opened(made, reproducible=True)
    x = np.random.default_rng(0).random((200, 64, 64, 3), np.float32)
    model.record(x, tmp_path / "a.npz", keep_inputs=False)
    model.record(x, tmp_path / "b.npz", keep_inputs=False)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (tmp_path / "a.npz").stat().st_size < 40_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layertap.comparing.record.MOST_INPUT_BYTES", 1 << 20)
        with pytest.raises(UsageError, match=r"take more than 1 MiB.*--no-inputs"):
            model.record(x, tmp_path / "large.npz")
