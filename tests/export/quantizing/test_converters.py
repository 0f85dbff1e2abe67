"""float16 and int8 at any levels of the layers, on random graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

import reference
from generators import tiny
from generators.random_graphs import random_convolutions, random_graphs, squares
from layertap.format.card import Card, Source, TensorInfo
from layertap_export.graph.shapes.shapes import Shapes
from layertap_export.quantizing.half import Half, fits
from layertap_export.quantizing.integers import Integers
from layertap_export.quantizing.levels import Level, Ownership
from layertap_export.quantizing.ranges import ranges

Converter = Half | Integers


def card_for(model: onnx.ModelProto) -> Card:
    """A card whose layers are the outputs of the graph, and whose own output is the last."""
    names = [value.name for value in model.graph.output]
    made = {name for node in model.graph.node for name in node.output}
    rows = [tiny.layer(at, name, "X", (None,)) for at, name in enumerate(names) if name in made]
    return Card(
        source=Source(framework="onnx", version="", model="", type="", weights_sha256=""),
        inputs=(),
        outputs=(TensorInfo(name=names[-1], shape=(None,), dtype="float32"),),
        layers=tuple(rows),
    )


def converter(
    kind: type[Converter], model: onnx.ModelProto, feeds: Any, card: Card | None = None
) -> Converter:
    shapes, card = Shapes(model), card or card_for(model)
    outputs = [value.name for value in model.graph.output]
    seen = ranges(model, outputs, shapes, [feeds])
    return kind(model, card, Ownership(model, card), shapes, seen)


def values(model: onnx.ModelProto, feeds: Any) -> dict[str, Any]:
    session = reference.session(model.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    read = {value.name for value in session.get_inputs()}
    fed = {name: value for name, value in feeds.items() if name in read}
    return dict(zip(names, session.run(names, fed), strict=True))


MOST = {Half: 0.02, Integers: 0.4}
"""The largest errors of random networks; those of trained ones are smaller."""


def compare(
    kind: type[Converter], model: onnx.ModelProto, feeds: Any, data: st.DataObject, *, near: bool
) -> None:
    """At any levels the model is valid, and gives what it gave: names, dtypes, shapes, values."""
    converted = converter(kind, model, feeds)
    levels = data.draw(
        st.dictionaries(
            st.sampled_from(converted.layers or ("none",)), st.sampled_from(Level), max_size=9
        )
    )
    made = converted.at(levels)
    assert [x.name for x in made.graph.output] == [x.name for x in model.graph.output]
    assert [x.name for x in made.graph.input] == [x.name for x in model.graph.input]
    expected, found = values(model, feeds), values(made, feeds)
    for name, one in expected.items():
        other = found[name]
        assert (other.dtype, other.shape) == (one.dtype, one.shape)
        if near:
            assert np.abs(other - one).max() <= MOST[kind] * np.abs(one).max(), name
    exact = converted.at(dict.fromkeys(converted.layers, Level.FLOAT))
    assert [node.op_type for node in exact.graph.node] == [
        node.op_type for node in model.graph.node if set(node.output) & names_of(exact)
    ]
    for name, other in values(exact, feeds).items():
        np.testing.assert_array_equal(other, expected[name])


def names_of(model: onnx.ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.output}


GRAPHS: dict[str, Any] = {
    "convolutions": random_convolutions,
    "any operators": random_graphs,
    "branches": squares,
}


def check_drawn(kind: type[Converter], what: str, data: st.DataObject) -> None:
    model, *rest = data.draw(GRAPHS[what]())
    if what != "branches":
        compare(kind, model, rest[-1], data, near=what == "convolutions")
        return
    generator = np.random.default_rng(0)
    feeds = {
        value.name: generator.random((3, 3), np.float32)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
        else np.array(True)
        for value in model.graph.input
    }
    compare(kind, model, feeds, data, near=False)


@pytest.mark.parametrize("what", GRAPHS)
@pytest.mark.parametrize("kind", [Half, Integers])
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_random_graphs(kind: type[Converter], what: str, data: st.DataObject) -> None:
    check_drawn(kind, what, data)


@pytest.mark.slow
@pytest.mark.parametrize("what", GRAPHS)
@pytest.mark.parametrize("kind", [Half, Integers])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_many_random_graphs(kind: type[Converter], what: str, data: st.DataObject) -> None:
    check_drawn(kind, what, data)


def chain(scale: float = 1.0, *, shared: bool = False) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """x -> a (MatMul, Relu) -> b (MatMul, Add, Relu) -> c (MatMul)."""
    generator = np.random.default_rng(1)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        value = generator.normal(0, 0.3, shape).astype(np.float32)
        return numpy_helper.from_array(value, name)

    big = weight("wb", 16, 16)
    if scale != 1:
        big = numpy_helper.from_array(numpy_helper.to_array(big) * np.float32(scale), "wb")
    last = "wb" if shared else "wc"
    model = tiny.model(
        [
            tiny.node("MatMul", "x wa", "a0"),
            tiny.node("Relu", "a0", "a"),
            tiny.node("MatMul", "a wb", "b0"),
            tiny.node("Add", "b0 bias", "b1"),
            tiny.node("Relu", "b1", "b"),
            tiny.node("MatMul", f"b {last}", "c"),
        ],
        [tiny.value("x", ["n", 16])],
        [tiny.value(name, ["n", 16]) for name in "abc"],
        [
            weight("wa", 16, 16),
            big,
            weight("bias", 16),
            *([] if shared else [weight("wc", 16, 16)]),
        ],
    )
    return model, {"x": generator.normal(0, 1, (9, 16)).astype(np.float32)}


def test_a_weight_beyond_float16_stays() -> None:
    """What its result is fed to computes in float32, because the result is beyond float16, too."""
    model, feeds = chain(1e6)
    made = converter(Half, model, feeds)
    assert made.reached({}) == {"a": Level.NARROW, "c": Level.STORED}


def test_what_is_stored_is_what_is_rounded() -> None:
    """Stored in float16, a layer computes in float32 with rounded weights, bit for bit."""
    model, feeds = chain()
    levels = dict.fromkeys("abc", Level.STORED)
    found = values(converter(Half, model, feeds).at(levels), feeds)
    for item in model.graph.initializer:
        if item.name != "bias":
            value = numpy_helper.to_array(item)
            item.CopyFrom(
                numpy_helper.from_array(value.astype(np.float16).astype(np.float32), item.name)
            )
    for name, value in values(model, feeds).items():
        np.testing.assert_array_equal(found[name], value)


def test_integers_are_those_of_onnxruntime() -> None:
    """With all layers narrow, the numbers are those that its quantiser gives for the whole file."""
    import tempfile
    from pathlib import Path

    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    model, feeds = chain()
    rest = [x for x in model.graph.output if x.name == "c"]
    del model.graph.output[:]
    model.graph.output.extend(rest)

    class Reader(CalibrationDataReader):
        rows = iter([feeds])

        def get_next(self) -> Any:
            return next(self.rows, None)

    with tempfile.TemporaryDirectory() as folder:
        plain, theirs = Path(folder) / "m.onnx", Path(folder) / "q.onnx"
        tiny.save(model, plain)
        quantize_static(
            plain, theirs, Reader(), QuantFormat.QDQ, ["MatMul"], per_channel=True,
            reduce_range=True, weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
        )  # fmt: skip
        expected = values(onnx.load(theirs), feeds)["c"]
    found = values(converter(Integers, model, feeds).at({}), feeds)["c"]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", [Half, Integers])
def test_only_the_layer_that_is_narrow_is_rounded(kind: type[Converter]) -> None:
    model, feeds = chain()
    expected = values(model, feeds)
    levels = {"a": Level.FLOAT, "c": Level.FLOAT}
    found = values(converter(kind, model, feeds).at(levels), feeds)
    np.testing.assert_array_equal(found["a"], expected["a"])
    assert 1e-5 < np.abs(found["b"] - expected["b"]).max() / np.abs(expected["b"]).max() < 0.03


def test_the_integers_of_weights_have_7_bits() -> None:
    """Two products with a byte fit into 16 bits, as x86 processors without VNNI add them up."""
    model, feeds = chain()
    made = converter(Integers, model, feeds).at({})
    integers = [
        numpy_helper.to_array(item)
        for item in made.graph.initializer
        if item.data_type == TensorProto.INT8 and item.dims
    ]
    largest = max(int(np.abs(x.astype(np.int64)).max()) for x in integers if x.size > 1)
    assert 60 <= largest <= 64
    assert 2 * 255 * largest < 2**15


@pytest.mark.parametrize("exact", ["b", "c"])
def test_a_weight_that_two_layers_share(exact: str) -> None:
    """The layer that stays in float32 reads the exact weight, the other one the rounded."""
    model, feeds = chain(shared=True)
    other = "c" if exact == "b" else "b"
    levels = {"a": Level.FLOAT, exact: Level.FLOAT, other: Level.STORED}
    expected = values(model, feeds)
    found = values(converter(Integers, model, feeds).at(levels), feeds)
    weight = next(numpy_helper.to_array(x) for x in model.graph.initializer if x.name == "wb")
    if exact == "b":
        np.testing.assert_array_equal(found["b"], expected["b"])
    else:
        np.testing.assert_allclose(found["c"], found["b"] @ weight, rtol=1e-5, atol=1e-5)
    assert np.abs(found[other] - expected[other]).max() > 0
    # In float16 the rounded weight would be a second one, which saves nothing.
    made = converter(Half, model, feeds).at(levels)
    assert [item.name for item in made.graph.initializer].count("wb/float16") == 0


@pytest.mark.parametrize("kind", [Half, Integers])
@pytest.mark.parametrize("suffix", ["/float16", "/computed", "/unrounded", "/dequantised"])
def test_layers_with_the_names_that_would_be_given(kind: type[Converter], suffix: str) -> None:
    """`a/float16` may be a layer of the model."""
    model, feeds = chain()
    names = {"a0": f"b{suffix}", "b0": f"wb{suffix}", "b": f"a{suffix}", "wa": f"bias{suffix}"}
    for node in model.graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
    for value in (*model.graph.output, *model.graph.initializer):
        value.name = names.get(value.name, value.name)
    expected, found = values(model, feeds), values(converter(kind, model, feeds).at({}), feeds)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=0.05 * np.abs(value).max())


@pytest.mark.parametrize(
    ("value", "exact", "fitting"),
    [
        ([1.0, -2.5], False, True),
        ([65504.0, 0.0], False, True),
        ([65536.0, 0.0], False, False),
        ([np.inf], False, False),
        ([np.nan, 1.0], False, False),
        ([1.0, 1e-9], False, True),  # nothing beside 1
        ([1.0, 1e-9], True, False),
        ([1e-9], False, False),
        ([0.0], True, True),
        ([], False, True),
    ],
)
def test_which_weights_fit_float16(value: list[float], exact: bool, fitting: bool) -> None:
    assert fits(np.array(value, np.float32), exact) is fitting
