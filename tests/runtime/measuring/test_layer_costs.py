"""`Model.cost`: bytes, crossings, sizes and measured times of layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto
from PIL import Image

import layertap
from generators import tiny
from layertap.errors import InputError, LayerNotFoundError, UsageError
from layertap.format.card import Golden, GoldenInput
from layertap.measuring.samples import sample

TinyFile = Callable[[str], Path]


def opened(made: Any, **options: Any) -> layertap.Model:
    return layertap.open(made.SerializeToString(), **options)


def test_the_layers_of_a_classifier(tiny_file: TinyFile) -> None:
    found = layertap.open(tiny_file("image_classifier")).cost()
    assert found.inputs == {"image": (1, 8, 6, 3)}
    rows = {row.name: (row.multiply_adds, row.nbytes, row.crossing) for row in found.rows}
    assert rows == {
        "image": (0, 576, 576),
        "conv": (8 * 6 * 3 * 3 * 3 * 4, 768, 768),
        "relu": (0, 768, 768),
        "drop": (0, 768, 768),
        "pool": (0, 16, 16),
        "hidden": (0, None, None),
        "probs": (4 * 2, 8, 8),
    }
    assert found.multiply_adds == sum(row.multiply_adds for row in found.rows)
    assert found.parameters == 120
    assert found["conv"].cut == ("conv",)
    assert found["relu"].milliseconds is None
    assert json.loads(json.dumps(found.to_dict()))["multiply_adds"] == found.multiply_adds


def test_activations_of_the_same_sizes_have_these_bytes(tiny_file: TinyFile) -> None:
    """Against the arrays themselves."""
    for name in ("image_classifier", "residual", "branching", "frames", "digits"):
        model = layertap.open(tiny_file(name))
        found = model.cost()
        feeds = sample(model._program, None)
        assert found.inputs == {key: value.shape for key, value in feeds.items()}
        for layer, value in model.activations(feeds).items():
            nbytes = found[layer].nbytes
            assert nbytes is None or nbytes == value.nbytes, (name, layer)


def chain(*more: Any) -> Any:
    """x -> a -> b -> c, where c also reads a, and the shape of x."""
    return tiny.model(
        [
            tiny.node("Relu", "x", "a"),
            tiny.node("Exp", "a", "b"),
            tiny.node("Add", "a b", "c"),
            tiny.node("Shape", "x", "shape"),
            tiny.node("Reshape", "c shape", "y"),
        ],
        [tiny.value("x", ["n", 4])],
        [tiny.value("y", ["n", 4])],
    )


def test_all_tensors_that_live_across_a_place_cross_it() -> None:
    found = opened(chain()).cost()
    rows = {row.name: (row.crossing, row.tensors, row.cut) for row in found.rows}
    assert rows["a"] == (32, 2, None)  # a, and x, whose shape is read later
    assert rows["b"] == (48, 3, None)
    assert rows["c"] == (32, 2, None)
    assert rows["y"] == (16, 1, None)  # nothing comes after it


def test_what_constants_give_does_not_cross() -> None:
    made = tiny.model(
        [
            tiny.node("Exp", "w", "gain"),
            tiny.node("Mul", "x gain", "a"),
            tiny.node("Relu", "a", "b"),
            tiny.node("Mul", "b gain", "y"),
        ],
        [tiny.value("x", ["n", 4])],
        [tiny.value("y", ["n", 4])],
        [tiny.constant("w", [1, 2, 3, 4], np.float32)],
    )
    rows = {row.name: (row.crossing, row.cut) for row in opened(made).cost().rows}
    assert rows["a"] == (16, ("a",))
    assert rows["b"] == (16, ("b",))


def test_a_tensor_in_several_orders_of_axes_crosses_once() -> None:
    made = tiny.model(
        [
            tiny.node("Relu", "x", "a"),
            tiny.turned("a", "at", [1, 0]),
            tiny.node("Identity", "at", "same"),
            tiny.node("Exp", "same", "b"),
            tiny.turned("b", "bt", [1, 0]),
            tiny.node("Add", "a bt", "y"),
        ],
        [tiny.value("x", [3, 4])],
        [tiny.value("y", [3, 4])],
    )
    found = opened(made).cost()
    for name in ("a", "at", "same"):
        assert (found[name].crossing, found[name].tensors) == (48, 1)
        assert found[name].cut == ("a",)
    assert found["bt"].cut == ("a", "b")


@pytest.mark.parametrize("name", ["image_classifier", "residual", "digits", "linear_chain"])
def test_every_place_can_be_cut_and_gives_the_same(
    name: str, tiny_file: TinyFile, tmp_path: Path
) -> None:
    """By `Model.cut`, and by a run of both parts."""
    model = layertap.open(tiny_file(name), reproducible=True)
    found = model.cost()
    cuts = dict.fromkeys(row.cut for row in found.rows if row.cut)
    assert cuts
    generator = np.random.default_rng(0)
    feeds = {key: generator.random(shape).astype(np.float32) for key, shape in found.inputs.items()}
    whole = model.predict(feeds)
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain.intra_op_num_threads = 1
    for number, layers in enumerate(cuts):
        assert layers is not None
        ends = [str(tmp_path / f"{number}{part}.onnx") for part in ("a", "b")]
        model.cut(ends[0], None, layers)
        model.cut(ends[1], layers)
        first, second = (ort.InferenceSession(end, plain) for end in ends)
        names = [one.name for one in first.get_outputs()]
        needed = {one.name: feeds[one.name] for one in first.get_inputs()}
        sent = dict(zip(names, first.run(names, needed), strict=True))
        reads = {one.name for one in second.get_inputs()}
        assert reads == set(sent)
        nbytes = {row.crossing for row in found.rows if row.cut == layers}
        assert nbytes == {sum(value.nbytes for value in sent.values())}
        results = layertap.open(ends[1], reproducible=True).predict(sent)
        if isinstance(whole, dict):
            assert all(np.array_equal(results[key], whole[key]) for key in whole)
        else:
            assert np.array_equal(results, whole)


def test_a_node_behind_a_guard_belongs_to_its_layer() -> None:
    """An LSTM ends the process on a sequence without steps, so an If is around it."""
    rows = [
        tiny.layer(0, "x", "InputLayer", (None, None, 6)),
        tiny.layer(1, "lstm", "LSTM", (None, None, None, 8), "x"),
    ]
    made = tiny.model(
        [
            tiny.node("NonZero", "x", "places", "lstm/NonZero"),
            tiny.node("Transpose", "places", "turned", "lstm/Transpose", perm=[1, 0]),
            tiny.node("Gather", "turned first", "steps", "lstm/Gather", axis=1),
            tiny.node("Gather", "x steps", "kept", "lstm/Gather_1", axis=0),
            tiny.node("LSTM", "kept w r", "lstm", "lstm/LSTM", hidden_size=8),
        ],
        [tiny.value("x", ["t", 1, 6])],
        [tiny.value("lstm", [None, 1, None, 8])],
        [tiny.weights("w", 1, 32, 6), tiny.weights("r", 1, 32, 8), tiny.constant("first", 0)],
        card=tiny.card(rows, {"x": (None, 1, 6)}, {"lstm": (None, 1, None, 8)}),
    )
    found = opened(made).cost(measure="random", runs=2)
    steps = (found["lstm"].nbytes or 0) // 32
    assert steps > 0
    assert found["lstm"].multiply_adds == found.multiply_adds == steps * 32 * (6 + 8)
    assert found.unassigned == 0


def inner(*names: str) -> Any:
    """x -> a -> b, of which both are in `block`; the card states these layers."""
    rows = [
        tiny.layer(0, "x", "InputLayer", (None, 4)),
        tiny.layer(1, "block", "Functional", (None, 2), "x"),
        tiny.layer(2, "block/a", "Dense", (None, 3), "x"),
        tiny.layer(3, "block/b", "Dense", (None, 2), "block/a"),
    ]
    rows = [replace_parent(row) for row in rows if row.name in names]
    made = tiny.model(
        [
            tiny.node("MatMul", "x u", "block/a", "block/a/MatMul"),
            tiny.node("MatMul", "block/a v", "block/b", "block/b/MatMul"),
            tiny.node("Identity", "block/b", "block", "block/Identity"),
        ],
        [tiny.value("x", ["n", 4])],
        [tiny.value("block", ["n", 2]), tiny.value("block/a", ["n", 3])],
        [tiny.weights("u", 4, 3), tiny.weights("v", 3, 2)],
        card=tiny.card(rows, {"x": (None, 4)}, {"block": (None, 2)}),
    )
    return opened(made)


def replace_parent(row: Any) -> Any:
    values = {key: getattr(row, key) for key in row._names}
    return type(row)(**{**values, "parent": "block" if "/" in row.name else None})


def test_a_layer_that_holds_others_has_their_costs_too() -> None:
    """As it has their parameters; the whole counts each operator once."""
    found = inner("x", "block", "block/a", "block/b").cost(measure="random", runs=2)
    assert found["block/a"].multiply_adds == 12
    assert found["block"].multiply_adds == found.multiply_adds == 18
    parts = [found[name].milliseconds or 0.0 for name in ("block/a", "block/b")]
    assert found["block"].milliseconds == pytest.approx(sum(parts), rel=0.9)
    assert (found["block"].milliseconds or 0.0) >= max(parts)
    assert found.milliseconds == pytest.approx(
        sum(row.milliseconds or 0.0 for row in found.rows if "/" not in row.name)
        + (found.unassigned or 0.0)
    )


def test_layers_beside_the_way_to_the_outputs_have_bytes() -> None:
    """A padding that the outputs do not need, and float32 that the file makes of float16."""
    half = TensorProto.FLOAT16
    made = tiny.model(
        [
            tiny.node("Cast", "x", "x16", to=half),
            tiny.node("Relu", "x16", "relu16"),
            tiny.node("Cast", "relu16", "relu", to=TensorProto.FLOAT),
            tiny.node("Exp", "relu16", "y16"),
            tiny.node("Cast", "y16", "y", to=TensorProto.FLOAT),
            tiny.node("Pad", "x pads", "padded"),
        ],
        [tiny.value("x", ["n", "length"])],
        [tiny.value("y", ["n", "length"]), tiny.value("relu", ["n", "length"]),
         tiny.value("padded", ["n", 9])],
        [tiny.constant("pads", [0, 0, 0, 1])],
        card=tiny.card(
            [
                tiny.layer(0, "x", "InputLayer", (None, None)),
                tiny.layer(1, "padded", "ZeroPadding1D", (None, 9), "x"),
                tiny.layer(2, "relu", "ReLU", (None, None), "x"),
                tiny.layer(3, "y", "Activation", (None, None), "relu"),
            ],
            {"x": (None, None)}, {"y": (None, None)},
        ),
    )  # fmt: skip
    found = opened(made).cost(size=(8,))
    assert (found["padded"].nbytes, found["padded"].crossing) == (36, None)
    assert (found["relu"].nbytes, found["relu"].crossing, found["relu"].tensors) == (32, 16, 1)


def test_rows_are_sorted_by_a_column(tiny_file: TinyFile) -> None:
    found = layertap.open(tiny_file("image_classifier")).cost()
    assert [row.name for row in found.sorted("multiply-adds").rows][:2] == ["conv", "probs"]
    assert found.sorted("MB").rows[-1].name == "hidden"
    assert found.sorted("MB").multiply_adds == found.multiply_adds
    with pytest.raises(UsageError, match="the table has no column 'ms' to sort by"):
        found.sorted("ms")


# --- Sizes --------------------------------------------------------------------------------------


def test_the_size_scales_what_depends_on_it() -> None:
    model = opened(tiny.image_classifier(None, None))
    one, other = model.cost(size=(8, 6)), model.cost(size=(16, 12))
    assert other["conv"].multiply_adds == 4 * one["conv"].multiply_adds
    assert other["relu"].nbytes == 4 * (one["relu"].nbytes or 0)
    assert other["probs"].multiply_adds == one["probs"].multiply_adds
    assert one["conv"].multiply_adds == opened(tiny.image_classifier()).cost()["conv"].multiply_adds


def test_the_default_size_is_that_of_the_golden_sample() -> None:
    made = tiny.image_classifier(None, None)
    (prop,) = (item for item in made.metadata_props if item.key == "layertap")
    card = layertap.open(made.SerializeToString()).card
    assert card is not None
    golden = Golden(
        seed=0,
        inputs=(GoldenInput(name="image", shape=(2, 16, 12, 3), low=0, high=1),),
        layers={},
    )
    values = {name: getattr(card, name) for name in type(card)._names}
    prop.value = type(card)(**{**values, "golden": golden}).to_json()
    assert opened(made).cost().inputs == {"image": (1, 16, 12, 3)}


@pytest.mark.parametrize(
    ("free", "size", "message"),
    [
        (False, (8, 6), "has 0 free sizes after the batch. Leave size out."),
        (True, (8,), "size has 1 number, but the first input of the model, 'image'"),
        (True, (8, 6, 3), "has 2 free sizes after the batch."),
        (True, (0, 6), "each size in size must be at least 1, got 0."),
        (True, "8x6", "size must be several integers"),
        (
            True,
            None,
            "the file has no golden sample that states one, so no size of its tensors is known.",
        ),
    ],
)
def test_sizes_that_do_not_fit(free: bool, size: Any, message: str) -> None:
    model = opened(tiny.image_classifier(*(None, None) if free else ()))
    with pytest.raises(UsageError) as caught:
        model.cost(size=size)
    assert message in str(caught.value)


def test_a_size_that_the_model_cannot_be_run_at() -> None:
    made = tiny.model(
        [tiny.node("Conv", "x w", "y")],
        [tiny.value("x", ["n", 3, "h", "w_"])],
        [tiny.value("y", ["n", 4, None, None])],
        [tiny.weights("w", 4, 3, 5, 5)],
    )
    with pytest.raises((InputError, UsageError)):
        opened(made).cost(size=(2, 2))


def test_inputs_of_several_dtypes() -> None:
    assert opened(tiny.two_inputs()).cost().multiply_adds > 0
    found = opened(tiny.odd_types()).cost()
    assert len(found.rows) > 0


# --- Times --------------------------------------------------------------------------------------


def heavy() -> Any:
    """Three convolutions, of which the second takes nearly all of the time; each with a relu."""
    sizes = {"first": (3, 8, 1), "second": (8, 128, 9), "third": (128, 2, 1)}
    rows, nodes, weights, before = (
        [tiny.layer(0, "x", "InputLayer", (None, 3, 64, 64))],
        [],
        [],
        "x",
    )
    for index, (name, (given, made, window)) in enumerate(sizes.items()):
        pads = [window // 2] * 4
        rows += [
            tiny.layer(2 * index + 1, name, "Conv2D", (None, made, 64, 64), before),
            tiny.layer(2 * index + 2, f"{name}_relu", "ReLU", (None, made, 64, 64), name),
        ]
        nodes += [
            tiny.node("Conv", f"{before} {name}/W", name, f"{name}/Conv", pads=pads),
            tiny.node("Relu", name, f"{name}_relu", f"{name}_relu/Relu"),
        ]
        weights.append(tiny.weights(f"{name}/W", made, given, window, window, fan_in=given))
        before = f"{name}_relu"
    shape = ("batch", 2, 64, 64)
    return tiny.model(
        nodes,
        [tiny.value("x", ["batch", 3, 64, 64])],
        [tiny.value(before, shape)],
        weights,
        card=tiny.card(rows, {"x": (None, 3, 64, 64)}, {before: (None, 2, 64, 64)}),
    )


def test_the_times_of_the_layers_add_up_to_the_run() -> None:
    """And a relu that onnxruntime fuses into a convolution takes no time of its own."""
    found = opened(heavy(), threads=1).cost(measure="random", runs=5)
    assert found.milliseconds is not None
    assert found.unassigned == 0
    spent = {row.name: row.milliseconds or 0.0 for row in found.rows}
    assert spent["second"] > 0.7 * sum(spent.values())
    assert spent["second_relu"] < 0.1 * spent["second"]
    assert sum(spent.values()) == pytest.approx(found.milliseconds)
    before = [found[name].milliseconds_before or 0.0 for name in ("first_relu", "second", "third")]
    assert before == sorted(before)
    assert before[1] == pytest.approx(spent["first"] + spent["first_relu"] + spent["second"])


def test_times_on_an_image(tiny_file: TinyFile, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "one.png")
    model = layertap.open(tiny_file("image_classifier"))
    found = model.cost("conv", measure=str(tmp_path / "one.png"), runs=2)
    assert [row.name for row in found.rows] == ["conv"]
    assert (found["conv"].milliseconds or 0) > 0
    with pytest.raises(layertap.ImageError):
        model.cost(measure=str(tmp_path / "none.png"))


def test_nothing_is_left_behind(tiny_file: TinyFile, tmp_path: Path, monkeypatch: Any) -> None:
    """Profiles are files; onnxruntime would put them into the current folder."""
    import tempfile

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    layertap.open(tiny_file("digits")).cost(measure="random", runs=1)
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments(tiny_file: TinyFile) -> None:
    model = layertap.open(tiny_file("digits"))
    with pytest.raises(LayerNotFoundError):
        model.cost("nothing")
    with pytest.raises(UsageError, match="runs must be at least 1"):
        model.cost(measure="random", runs=0)
    options = ort.SessionOptions()
    with pytest.raises(UsageError, match="Give session_options as a dict"):
        layertap.open(tiny_file("digits"), session_options=options).cost()
    model = layertap.open(tiny_file("digits"), session_options={"log_severity_level": 3})
    assert model.cost().multiply_adds > 0


def test_the_table_names_the_whole(tiny_file: TinyFile) -> None:
    lines = str(layertap.open(tiny_file("image_classifier")).cost(["conv", "probs"])).splitlines()
    assert lines[0] == (
        "image_classifier.onnx for image (1, 8, 6, 3): 5,192 multiply-adds, 120 parameters"
    )
    assert lines[4].split() == [
        "1", "conv", "Conv2D", "5,184", "112", "0.000768", "0.000768", "1",
    ]  # fmt: skip
    assert len(lines) == 6
