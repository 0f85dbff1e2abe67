"""`Model.layer_statistics`, against numpy on the activations of all images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

import layertap
from generators import tiny
from layertap.errors import ImageError, InputError, LayerNotFoundError, UsageError
from layertap.measuring import collecting
from layertap.measuring.layer_statistics import LayerStatistics
from layertap.measuring.sums import sums_of

TinyFile = Callable[[str], Path]


def opened(made: Any) -> layertap.Model:
    return layertap.open(made.SerializeToString())


def agrees(row: layertap.LayerValues, values: Any) -> None:
    """The row holds the statistics of an array."""
    whole = values.astype(np.float64)
    assert row.count == whole.size
    assert row.mean == pytest.approx(whole.mean(), rel=1e-5, abs=1e-7)
    assert row.std == pytest.approx(whole.std(), rel=1e-5, abs=1e-7)
    assert (row.min, row.max) == (whole.min(), whole.max())
    assert row.zeros == (whole == 0).mean()
    assert (row.nans, row.infinities) == (0, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(7):
        pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{seed}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    return tmp_path


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_statistics_are_those_of_all_activations(
    tiny_file: TinyFile, folder: Path, batch_size: int, workers: int
) -> None:
    model = layertap.open(tiny_file("image_classifier"))
    found = model.layer_statistics(folder, batch_size=batch_size, workers=workers)
    files = [str(folder / f"{seed}.png") for seed in range(7) if seed != 2]
    arrays = model.activations(files)
    assert found.images == 6
    assert found.failures == {"2.png": "this is not an image in a format that Pillow reads."}
    assert [row.name for row in found.rows] == list(arrays)
    for name, values in arrays.items():
        row = found[name]
        agrees(row, values)
        assert row.channels == values.shape[-1]
        others = tuple(range(values.ndim - 1))
        assert row.dead == tuple(np.flatnonzero(np.all(values == 0, axis=others)))


def test_neither_threads_nor_batches_change_the_result(tiny_file: TinyFile, folder: Path) -> None:
    model = layertap.open(tiny_file("image_classifier"), reproducible=True)
    one = model.layer_statistics(folder, batch_size=1, workers=1)
    assert model.layer_statistics(folder, batch_size=1, workers=4) == one


def test_layers_that_do_not_fit_together_are_computed_in_groups(
    tiny_file: TinyFile, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = layertap.open(tiny_file("image_classifier"))
    whole = model.layer_statistics(folder)
    groups: list[tuple[int, ...]] = []
    grouped = collecting._grouped

    def spied(*args: Any) -> Any:
        groups.extend(grouped(*args))
        return iter(groups)

    monkeypatch.setattr(collecting, "GROUP_BYTES", 800)
    monkeypatch.setattr(collecting, "_grouped", spied)
    found = model.layer_statistics(folder)
    assert len(groups) > 2
    for row in found.rows:
        assert row.mean == pytest.approx(whole[row.name].mean, rel=1e-5, abs=1e-7)
        assert row.count == whole[row.name].count


def constructed(op: str, *, opset: int = 18, **more: Any) -> layertap.Model:
    """x (n, 4) * scale + offset -> the operator -> y; the channels are what tests make of them."""
    initializers = [
        tiny.constant("scale", [0, 0, 0, 1], np.float32),
        tiny.constant("offset", [-50, 50, 0, 0], np.float32),
        tiny.constant("low", more.pop("low", 0.0), np.float32),
        tiny.constant("high", more.pop("high", 6.0), np.float32),
    ]
    reads = "shifted low high" if op == "Clip" and opset > 10 else "shifted"
    nodes = [
        tiny.node("Mul", "x scale", "scaled"),
        tiny.node("Add", "scaled offset", "shifted"),
        tiny.node(op, reads, "y", **more),
    ]
    return opened(
        tiny.model(
            nodes,
            [tiny.value("x", ["n", 4])],
            [tiny.value("y", ["n", 4])],
            initializers,
            opset=opset,
            ir_version=8 if opset > 10 else 5,
        )
    )


X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("op", "more", "dead", "saturated"),
    [
        ("Relu", {}, (0, 2), None),
        ("Clip", {}, (0, 2), (1,)),
        ("Clip", {"opset": 10, "min": 0.0, "max": 6.0}, (0, 2), (1,)),
        ("Clip", {"low": -1.0, "high": 1.0}, (2,), (0, 1)),
        ("HardSigmoid", {}, (0,), (1,)),
        ("Tanh", {}, (2,), (0, 1)),
        ("Softsign", {}, (2,), ()),
        ("Elu", {}, (2,), None),
    ],
)
def test_dead_and_saturated_channels(
    op: str, more: dict[str, Any], dead: tuple[int, ...], saturated: tuple[int, ...] | None
) -> None:
    """Channel 0 is far below 0, channel 1 far above, channel 2 is 0, channel 3 is the input."""
    row = constructed(op, **more).layer_statistics(X, "y")["y"]
    assert (row.dead, row.saturated) == (dead, saturated)


@pytest.mark.parametrize(("least", "saturated"), [(7.0, (3,)), (6.5, ())])
def test_a_sigmoid_is_saturated_within_a_thousandth_of_its_range(
    least: float, saturated: tuple[int, ...]
) -> None:
    """1 / (1 + e^-7) is 0.9991, and 1 / (1 + e^-6.5) is 0.9985."""
    values = np.full((3, 4), least, np.float32)
    row = constructed("Sigmoid").layer_statistics(values, "y")["y"]
    assert tuple(index for index in row.saturated or () if index > 1) == saturated


def test_a_channel_that_moves_between_both_bounds_is_saturated() -> None:
    """tanh(-50) and tanh(50): no value lies between them."""
    model = constructed("Tanh")
    values = np.zeros((4, 4), np.float32)
    values[:, 3] = [-50, 50, 50, -50]
    assert model.layer_statistics(values, "y")["y"].saturated == (0, 1, 3)


def test_one_image_is_enough_to_revive_a_channel() -> None:
    values = -np.ones((30, 4), np.float32)
    assert constructed("Relu").layer_statistics(values, "y")["y"].dead == (0, 2, 3)
    values[17, 3] = 0.5
    assert constructed("Relu").layer_statistics(values, "y")["y"].dead == (0, 2)


def test_nan_and_infinity_are_counted_and_left_out_of_the_rest() -> None:
    model = constructed("Relu")
    values = X.copy()
    values[2, 3], values[5, 3] = np.nan, np.inf
    row = model.layer_statistics(values, "shifted")["shifted"]
    # 0 * NaN is NaN, and 0 * infinity too, but only in column 3 here.
    assert (row.nans, row.infinities, row.count) == (1, 1, 36)
    kept = [*values[np.isfinite(values[:, 3]), 3], *[-50.0] * 9, *[50.0] * 9, *[0.0] * 9]
    assert row.mean == pytest.approx(np.mean(kept), rel=1e-6)
    assert row.std == pytest.approx(np.std(kept), rel=1e-6)
    values[:] = np.nan
    row = model.layer_statistics(values, "scaled")["scaled"]
    assert (row.mean, row.std, row.min, row.max, row.zeros) == (None,) * 5


def test_layers_without_a_row_for_each_image_are_measured_image_by_image() -> None:
    """The windows of an image as one batch: (n * 4, 2)."""
    rows = [
        tiny.layer(0, "x", "InputLayer", (None, 8)),
        tiny.layer(1, "windows", "Reshape", (None, 2)),
        tiny.layer(2, "y", "ReLU", (None, 8)),
    ]
    values = {name: getattr(rows[1], name) for name in rows[1]._names}
    rows[1] = layertap.Layer(**{**values, "per_sample": False})
    made = tiny.model(
        [
            tiny.node("Reshape", "x shape", "windows"),
            tiny.node("Relu", "x", "y"),
        ],
        [tiny.value("x", ["n", 8])],
        [tiny.value("y", ["n", 8]), tiny.value("windows", ["m", 2])],
        [tiny.constant("shape", [-1, 2])],
        card=tiny.card(rows, {"x": (None, 8)}, {"y": (None, 8)}),
    )
    batch = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    found = opened(made).layer_statistics(batch, batch_size=4)
    agrees(found["windows"], batch.reshape(-1, 2))
    agrees(found["y"], np.maximum(batch, 0))


def test_a_batch_of_a_fixed_size_is_filled_up() -> None:
    made = tiny.model(
        [tiny.node("Relu", "x", "y"), tiny.node("ReduceSum", "x", "sum", keepdims=0)],
        [tiny.value("x", [4, 3])],
        [tiny.value("y", [4, 3]), tiny.value("sum", [])],
    )
    batch = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    found = opened(made).layer_statistics(batch)
    agrees(found["y"], np.maximum(batch, 0))
    assert found.left_out == {"sum": "it does not have a row for each of 4 images"}


def test_a_file_without_a_card_is_measured_whatever_its_tensors_are() -> None:
    made = tiny.model(
        [
            tiny.node("Shape", "x", "shape"),
            tiny.node("ReduceSum", "x", "sum", keepdims=0),
            tiny.node("Relu", "x", "y"),
        ],
        [tiny.value("x", ["n", 3])],
        [tiny.value("y", ["n", 3]), tiny.value("sum", [])],
    )
    batch = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    found = opened(made).layer_statistics(batch, batch_size=4)
    assert (found["shape"].mean, found["shape"].count) == (2.0, 12)  # of [1, 3]
    agrees(found["sum"], batch.sum(axis=1))
    agrees(found["y"], np.maximum(batch, 0))


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32])
def test_other_dtypes(dtype: int) -> None:
    made = tiny.model(
        [tiny.node("Cast", "x", "y", to=dtype)],
        [tiny.value("x", ["n", 5])],
        [tiny.value("y", ["n", 5], dtype)],
    )
    batch = (np.random.default_rng(1).normal(size=(6, 5)) * 9).astype(np.float32)
    model = opened(made)
    agrees(model.layer_statistics(batch, "y")["y"], model.activations(batch, "y"))


def test_layers_that_are_no_numbers_are_left_out() -> None:
    model = opened(
        tiny.model(
            [
                tiny.node("Relu", "x", "y"),
                tiny.node("SequenceConstruct", "x y", "both"),
                tiny.node("SequenceLength", "both", "length"),
            ],
            [tiny.value("x", ["n", 3])],
            [tiny.value("y", ["n", 3]), tiny.value("length", [], TensorProto.INT64)],
        )
    )
    batch = np.ones((2, 3), np.float32)
    assert model.layer_statistics(batch).left_out == {"both": "its values are not numbers"}
    with pytest.raises(UsageError, match=r"no layer can be measured\. 'both': its values"):
        model.layer_statistics(batch, "both")


# --- As a table, and as a file ------------------------------------------------------------------


def test_the_table_and_the_file(tiny_file: TinyFile, folder: Path, tmp_path: Path) -> None:
    model = layertap.open(tiny_file("image_classifier"))
    found = model.layer_statistics(folder, ["relu", "probs"])
    lines = str(found).splitlines()
    assert lines[0] == "image_classifier.onnx: 2 layers on 6 images, 1 failed"
    assert lines[2].split() == [
        "index", "name", "class", "mean", "deviation", "min", "max", "zeros", "channels", "dead",
    ]  # fmt: skip
    assert [line.split()[1] for line in lines[4:]] == ["relu", "probs"]
    path = tmp_path / "found.json"
    found.save(path)
    assert LayerStatistics.load(path) == found
    assert json.loads(path.read_text())["layers"][0]["name"] == "relu"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_a_file_that_is_not_complete_is_refused(
    tiny_file: TinyFile, folder: Path, tmp_path: Path, share: float
) -> None:
    path = tmp_path / "found.json"
    layertap.open(tiny_file("image_classifier")).layer_statistics(folder).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"holds no layer statistics: .*--on IMAGES -o OUT.json"):
        LayerStatistics.load(path)


CHANGES: list[tuple[str, Callable[[Any], Any]]] = [
    ("a list", lambda data: []),
    ("null", lambda data: None),
    ("without layers", lambda data: {**data, "layers": None}),
    ("another layer", lambda data: {**data, "layers": [1]}),
    ("an unknown bin", lambda data: _first(data, histogram=[[1, 3, 4]])),
    ("a negative count", lambda data: _first(data, histogram=[[1.0, 1.125, -4]])),
    ("text as a mean", lambda data: _first(data, mean="1")),
    ("dead is text", lambda data: _first(data, dead="12")),
    ("half of the bounds", lambda data: _first(data, bounds=[0])),
    ("a newer version", lambda data: {**data, "layer_statistics": 99}),
    ("true as a count", lambda data: _first(data, count=True)),
]


def _first(data: Any, **changes: Any) -> Any:
    return {**data, "layers": [{**data["layers"][0], **changes}, *data["layers"][1:]]}


@pytest.mark.parametrize(("what", "change"), CHANGES, ids=[what for what, _ in CHANGES])
def test_other_json_is_refused(what: str, change: Callable[[Any], Any]) -> None:
    data = constructed("Relu").layer_statistics(X).to_dict()
    assert LayerStatistics.from_dict(json.loads(json.dumps(data))).to_dict() == data
    with pytest.raises(InputError):
        LayerStatistics.from_dict(change(json.loads(json.dumps(data))))


# --- Errors -------------------------------------------------------------------------------------


def test_images_of_which_none_can_be_read(tiny_file: TinyFile, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"no image")
    model = layertap.open(tiny_file("image_classifier"))
    with pytest.raises(ImageError, match=r"image cannot be read\. one\.png: this is not an"):
        model.layer_statistics(tmp_path)
    (tmp_path / "two.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"none of the 2 images can be read\. one\.png: this"):
        model.layer_statistics(tmp_path)


def passing(dtype: int = TensorProto.FLOAT) -> layertap.Model:
    """x (n, 4) -> y, the same values."""
    return opened(
        tiny.model(
            [tiny.node("Identity", "x", "y")],
            [tiny.value("x", ["n", 4], dtype)],
            [tiny.value("y", ["n", 4], dtype)],
        )
    )


def test_numbers_that_a_float64_cannot_hold_are_none(tmp_path: Path) -> None:
    """JSON has no infinity."""
    model = passing(TensorProto.DOUBLE)
    found = model.layer_statistics(np.array([[1e300, -1e300, 0, 1]] * 2), "y")
    row = found["y"]
    assert (row.std, row.mean, row.max) == (None, 0, 1e300)
    found.save(tmp_path / "found.json")
    assert LayerStatistics.load(tmp_path / "found.json") == found


def test_zero_has_no_sign_in_a_table() -> None:
    found = passing().layer_statistics(np.full((2, 4), -0.0, np.float32), "y")
    assert "-0" not in str(found)


def test_columns_for_nan_and_infinity_are_there_if_some_are() -> None:
    model = passing()
    x = np.array([[np.nan, 1, 2, 3]], np.float32)
    assert "NaN" in str(model.layer_statistics(x, "y"))
    assert "Inf" not in str(model.layer_statistics(x, "y"))
    assert "NaN" not in str(model.layer_statistics(np.ones((1, 4), np.float32), "y"))


def test_rows_are_sorted_by_a_column(tiny_file: TinyFile, folder: Path) -> None:
    found = layertap.open(tiny_file("image_classifier")).layer_statistics(folder)
    rows = found.sorted("deviation").rows
    stds = [row.std or 0.0 for row in rows]
    assert stds == sorted(stds, reverse=True)
    assert {row.name for row in rows} == {row.name for row in found.rows}
    assert found.sorted("deviation").to_dict()["failures"] == found.failures
    with pytest.raises(
        UsageError, match=r"no column 'deviaton' to sort by\. It has mean, deviation"
    ):
        found.sorted("deviaton")


def test_no_layer_was_given(tiny_file: TinyFile, folder: Path) -> None:
    model = layertap.open(tiny_file("image_classifier"))
    with pytest.raises(UsageError, match=r"no layers were given\. Leave `layers` out for all"):
        model.layer_statistics(folder, [])


def test_what_cannot_be_measured(tiny_file: TinyFile, folder: Path) -> None:
    model = layertap.open(tiny_file("image_classifier"))
    with pytest.raises(LayerNotFoundError):
        model.layer_statistics(folder, "nothing")
    with pytest.raises(InputError):
        model.layer_statistics(np.zeros((2, 5, 5, 3), np.float32))
    with pytest.raises(UsageError, match="batch_size must be at least 1"):
        model.layer_statistics(folder, batch_size=0)
    with pytest.raises(UsageError, match="needs 2"):
        opened(tiny.two_inputs()).layer_statistics(np.zeros((2, 4), np.float32))


def test_images_of_different_sizes_have_one_set_of_statistics() -> None:
    made = tiny.image_classifier(None, None)
    model = opened(made)
    generator = np.random.default_rng(0)
    batches = [generator.random((1, 8 + k, 6, 3)).astype(np.float32) for k in range(3)]
    found = model.layer_statistics([batch[0] for batch in batches], "relu")
    values = [model.activations(batch, "relu") for batch in batches]
    agrees(found["relu"], np.concatenate([one.reshape(-1, 4) for one in values]))
    assert math.isfinite(found["relu"].std or math.nan)


@pytest.mark.parametrize("axis", [1, 2])
def test_channels_side_by_side_are_not_added_up_again(
    axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Concat along another axis has as many channels as its inputs, and is read."""
    shape: list[str | int] = ["n", 4, 6, 6]
    whole = [*shape[:axis], 2 * int(shape[axis]), *shape[axis + 1 :]]
    made = tiny.model(
        [
            tiny.node("Relu", "x", "relu"),
            tiny.node("Neg", "x", "neg"),
            tiny.node("Concat", "neg relu", "both", axis=axis),
        ],
        [tiny.value("x", shape)],
        [tiny.value("relu", shape), tiny.value("neg", shape), tiny.value("both", whole)],
    )
    read = []

    def reading(values: Any, *rest: Any) -> Any:
        read.append(values.shape)
        return sums_of(values, *rest)

    monkeypatch.setattr(collecting, "sums_of", reading)
    x = np.random.default_rng(0).normal(1, 2, (3, 4, 6, 6)).astype(np.float32)
    found = opened(made).layer_statistics(x, ["relu", "neg", "both"])
    agrees(found["both"], np.concatenate([-x, np.maximum(x, 0)], axis))
    assert found["both"].channels == whole[1]
    assert len(read) == 3 * (2 if axis == 1 else 3)
