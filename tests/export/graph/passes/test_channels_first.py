"""The channels-first pass: whatever it does to a graph, the outputs stay what they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, note, settings
from onnx import TensorProto, helper, numpy_helper

from generators import tiny
from generators.random_graphs import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    random_chains,
    random_convolutions,
    random_graphs,
)
from layertap_export.graph.passes.channels_first import View, channels_first

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported


def laid_out(
    model: onnx.ModelProto, shapes: dict[str, tuple[int | None, ...]] | None = None
) -> tuple[onnx.ModelProto, dict[str, View]]:
    """The graph after the pass, and its outputs as views; `model` stays as it is."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if shapes is None:
        inferred = onnx.shape_inference.infer_shapes(model).graph
        shapes = {
            item.name: tuple(d.dim_value or None for d in item.type.tensor_type.shape.dim)
            for item in [*inferred.value_info, *inferred.output]
        }
    return made, channels_first(made, shapes).outputs


def run_plainly(model: onnx.ModelProto, tensors: Sequence[str], feeds: dict[str, Any]) -> list[Any]:
    """The values of `tensors`, with onnxruntime's own optimisers off: they have bugs too."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    del whole.graph.output[:]
    for index, name in enumerate(tensors):  # outputs are Identities, never inputs or weights
        whole.graph.node.append(helper.make_node("Identity", [name], [f"output {index}"]))
        whole.graph.output.add().name = f"output {index}"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        whole.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {item.name: feeds[item.name] for item in session.get_inputs()})


def run(made: onnx.ModelProto, views: dict[str, View], feeds: dict[str, Any]) -> dict[str, Any]:
    """The outputs of a graph after the pass, each through its view."""
    values = run_plainly(made, [view.source for view in views.values()], feeds)
    return {
        name: value if view.plain else np.transpose(value, view.perm)
        for (name, view), value in zip(views.items(), values, strict=True)
    }


def assert_same(model: onnx.ModelProto, feeds: dict[str, Any], **how: Any) -> onnx.ModelProto:
    """The pass leaves every output of `model` as it was; returns the new graph."""
    outputs = [value.name for value in model.graph.output]
    expected = run_plainly(model, outputs, feeds)
    made, views = laid_out(model, **how)
    assert list(views) == outputs
    found = run(made, views, feeds)
    for name, value in zip(outputs, expected, strict=True):
        assert_close(found[name], value)
    return made


def assert_close(actual: Any, expected: Any) -> None:
    """Equal, but for rounding in proportion to the largest value."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    scale = np.abs(expected).max(initial=1) if expected.dtype.kind == "f" else 0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * scale)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


# --- Single cases -------------------------------------------------------------------------------

X = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5) / 60 - 1
node, value, constant = tiny.node, tiny.value, tiny.constant


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Relu", "v", "y")],
        [node("Add", "v row", "y")],
        [node("ReduceSum", "v first", "total", keepdims=0), node("Add", "v total", "y")],
        [node("Less", "v row", "less"), node("Where", "less v row", "y")],
        [node("Cast", "v", "y", to=TensorProto.INT32)],
        [node("Clip", "v _ number", "y")],
        [node("Softmax", "v", "y", axis=1)],
        [node("LogSoftmax", "v", "y")],
        [node("Hardmax", "v", "y", axis=1)],
        [node("LpNormalization", "v", "y", axis=2)],
        [node("Split", "v two", "y z", axis=1)],
        [node("Concat", "v v", "y", axis=3)],
        [node("Pad", "v pad_two _ axes", "y")],
        [node("Pad", "v pads_late", "y")],
        [node("Slice", "v one_two three_four axes", "y")],
        [node("Slice", "v known_late three_four axes", "y")],
        [node("Slice", "v starts32 ends32", "y")],
        [node("Slice", "v starts32 ends32 axes32", "y")],
        [node("ReduceMean", "v axes", "y")],
        [node("ReduceMean", "v", "y", keepdims=0)],
        [node("ArgMin", "v", "y", axis=-1, keepdims=0)],
        [node("ReduceMean", "v axes", "mean"), node("Squeeze", "mean axes", "y")],
        [node("Unsqueeze", "v first", "y")],
        [node("Shape", "v", "y", start=1)],
        [node("ReduceMean", "v axes", "mean"), node("Reshape", "mean flat", "y")],
    ],
    ids=lambda nodes: onnx.printer.to_text(nodes[-1]),
)
def test_one_node_behind_a_transpose(nodes: list[onnx.NodeProto]) -> None:
    """The permutation is not its own inverse, and all sizes differ."""
    model = tiny.model(
        [
            node("Transpose", "x", "v", perm=CHANNELS_LAST),
            # One and two, and pads, that no folding can know, under a second name.
            node("ReduceMin", "x", "least", keepdims=0),
            node("Cast", "least", "minus_one", to=TensorProto.INT64),
            node("Sub", "zero_one minus_one", "sum"),
            node("Identity", "sum", "known_late"),
            node("Sub", "pads minus_one", "more_pads"),
            node("Identity", "more_pads", "pads_late"),
            *nodes,
        ],
        [value("x", (2, 3, 4, 5))],
        [value(name, None, 0) for name in nodes[-1].output],
        [
            tiny.weights("row", 3),
            constant("number", 0.25, np.float32),
            constant("first", [0]),
            constant("axes", [-3, 2]),
            constant("two", [1, 3]),
            constant("zero_one", [0, 1]),
            constant("one_two", [1, 2]),
            constant("three_four", [3, 4]),
            constant("starts32", [1, 2], np.int32),
            constant("ends32", [3, 4], np.int32),
            constant("axes32", [-3, 2], np.int32),
            constant("pads", [0, 1, 2, 0, 0, 0, 0, 3]),
            constant("pad_two", [1, 0, 0, 2]),
            constant("flat", [-1]),
        ],
    )
    assert_same(model, {"x": X})


@pytest.mark.parametrize(
    ("sizes", "dtype", "op_type"),
    [
        ((4,), np.float32, "Conv"),
        ((4, 5), np.float32, "Conv"),
        ((2, 4, 5), np.float32, "Conv"),
        ((4, 5), np.float16, "Conv"),
        ((4, 5), np.float64, "MatMul"),  # onnxruntime convolves no float64
        ((4, 5), np.int32, "MatMul"),
        ((2, 4, 2, 3), np.float32, "MatMul"),  # nor in four dimensions
    ],
)
def test_a_product_of_the_channels_is_a_convolution(
    sizes: tuple[int, ...], dtype: type, op_type: str
) -> None:
    rank = len(sizes) + 2
    numbers = np.random.default_rng(0).integers(-3, 4, (2, 3, *sizes))
    x: np.ndarray = numbers.astype(dtype)
    matrix: np.ndarray = np.arange(15).reshape(3, 5).astype(dtype) - 7
    model = tiny.model(
        [
            node("Transpose", "x", "v", perm=(0, *range(2, rank), 1)),
            node("MatMul", "v w", "y"),
            node("MatMul", "v w", "again"),
        ],
        [value("x", x.shape, helper.np_dtype_to_tensor_dtype(x.dtype))],
        [value(name, None, helper.np_dtype_to_tensor_dtype(x.dtype)) for name in ("y", "again")],
        [numpy_helper.from_array(matrix, "w")],
    )
    made = assert_same(model, {"x": x})
    assert [op for op in ops(made) if op != "Transpose"] == [op_type] * 2
    assert ("Transpose" in ops(made)) == (op_type == "MatMul")
    assert len(made.graph.initializer) == 1


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_a_flattened_view_is_multiplied_in_its_own_order(rank: int) -> None:
    shape = (2, 3, 4, 5, 6)[:rank]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    model = tiny.model(
        [
            node("Transpose", "x", "v", perm=(0, *range(2, rank), 1)),
            node("Reshape", "v rows", "flat"),
            node("Identity", "flat", "dropped"),
            node("MatMul", "dropped w", "y"),
            node("MatMul", "flat u", "z"),
        ],
        [value("x", (None, *shape[1:]))],
        [value("y", None), value("z", None)],
        [
            constant("rows", [-1, x[0].size]),
            tiny.weights("w", x[0].size, 2),
            tiny.weights("u", x[0].size, 7),
        ],
    )
    shapes = {"v": (None, *shape[2:], 3), "flat": (None, x[0].size)}
    assert ops(assert_same(model, {"x": x}, shapes=shapes)) == ["Reshape", "MatMul", "MatMul"]
    model.graph.output.add().CopyFrom(value("flat", None))  # which has Keras's order
    made = assert_same(model, {"x": x}, shapes=shapes)
    assert sorted(ops(made)) == ["MatMul", "MatMul", "Reshape", "Reshape", "Transpose"]


@pytest.mark.parametrize(
    ("rows", "shapes"),
    [
        ([-1, 30], {"v": (2, 4, 5, 3), "flat": (4, 30)}),
        ([2, -1], {"v": (None, None, 5, 3), "flat": (None, 60)}),
    ],
    ids=["two samples in a row", "unknown sizes"],
)
def test_a_product_of_another_flattening_stays(rows: list[int], shapes: dict[str, Any]) -> None:
    model = tiny.model(
        [
            node("Transpose", "x", "v", perm=CHANNELS_LAST),
            node("Reshape", "v rows", "flat"),
            node("MatMul", "flat w", "y"),
        ],
        [value("x", (2, 3, 4, None))],
        [value("y", None)],
        [constant("rows", rows), tiny.weights("w", 30 if rows[1] == 30 else 60, 2)],
    )
    assert ops(assert_same(model, {"x": X}, shapes=shapes)) == ["Transpose", "Reshape", "MatMul"]


def test_constants_are_computed() -> None:
    model = tiny.model(
        [
            node("Transpose", "w", "moved", perm=(1, 0)),
            node("Add", "moved one", "sum"),
            node("MatMul", "x sum", "y"),
        ],
        [value("x", (1, 3))],
        [value("y", (1, 2))],
        [tiny.weights("w", 2, 3), constant("one", 1, np.float32)],
    )
    made = assert_same(model, {"x": X[0, :1, 0, :3]})
    assert ops(made) == ["MatMul"]
    assert [list(item.dims) for item in made.graph.initializer] == [[3, 2]]


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param([node("RandomNormalLike", "w", "k")], id="random"),
        pytest.param([node("Expand", "w big", "k")], id="larger than what it is made of"),
        pytest.param([node("Mean", "one w", "k")], id="more than onnx.reference can"),
    ],
)
def test_constants_that_are_left_to_the_runtime(kept: list[onnx.NodeProto]) -> None:
    model = tiny.model(
        [*kept, node("ReduceSum", "k", "y", keepdims=0)],
        [],
        [value("y", ())],
        [
            tiny.weights("w", 1, 1, 1),
            constant("one", 1, np.float32),
            constant("big", [1 << 12, 1 << 11, 1]),
        ],
    )
    made, _ = laid_out(model)
    assert ops(made) == [kept[0].op_type, "ReduceSum"]


def test_identities_vanish() -> None:
    model = tiny.model(
        [
            node("Identity", "x", "same"),
            node("Relu", "same", "relu"),
            node("Identity", "relu", "y"),
        ],
        [value("x", (2, 3, 4, 5))],
        [value("y", None)],
    )
    assert ops(assert_same(model, {"x": X})) == ["Relu"]
    assert laid_out(model)[1] == {"y": View("relu", (0, 1, 2, 3))}


def test_an_input_and_a_weight_can_be_outputs() -> None:
    model = tiny.model(
        [node("Transpose", "x", "moved", perm=CHANNELS_LAST), node("Transpose", "w", "turned")],
        [value("x", (2, 3, 4, 5))],
        [value(name, None) for name in ("x", "moved", "w", "turned")],
        [tiny.weights("w", 2, 3)],
    )
    made = assert_same(model, {"x": X})
    assert ops(made) == []
    _, views = laid_out(model)
    assert views["x"] == View("x", (0, 1, 2, 3))
    assert views["moved"] == View("x", CHANNELS_LAST)


def test_scalars_stay_scalars() -> None:
    model = tiny.model(
        [node("Clip", "x low _", "y")],
        [value("x", (2, 3, 4, 5))],
        [value("y", None)],
        [constant("low", 0, np.float32)],
    )
    made = assert_same(model, {"x": X})
    assert [list(item.dims) for item in made.graph.initializer] == [[]]


def test_a_transpose_that_moves_no_value_is_a_reshape() -> None:
    model = tiny.model(
        [
            node("ReduceMean", "x axes", "mean"),
            node("Transpose", "mean", "moved", perm=CHANNELS_FIRST),
            node("CumSum", "moved axis", "y"),
        ],
        [value("x", (None, 3, 4, 5))],
        [value("y", None)],
        [constant("axes", [1, 2]), constant("axis", 1)],
    )
    assert ops(assert_same(model, {"x": X})) == ["ReduceMean", "Reshape", "CumSum"]


@pytest.mark.parametrize(
    ("perm", "second", "after"),
    [
        ((1, 0, 2), "w", ["MatMul", "Add"]),
        ((2, 1, 0), "w", ["Transpose", "MatMul", "Add"]),  # the last axis is another one
        ((1, 0, 2), "y", ["Transpose", "MatMul", "Add"]),  # no weights
    ],
)
def test_weights_wait_for_no_transpose_that_leaves_their_axis(
    perm: tuple[int, ...], second: str, after: list[str]
) -> None:
    """As between a recurrent layer, which puts time first, and a dense one."""
    model = tiny.model(
        [
            node("Transpose", "x", "turned", perm=perm),
            node("MatMul", f"turned {second}", "product"),
            node("Add", "product b", "out"),
        ],
        [value("x", (4, 4, 4)), value("y", (4, 5))],
        [value("out", None)],
        [tiny.weights("w", 4, 5), tiny.weights("b", 5)],
    )
    x = np.arange(64, dtype=np.float32).reshape(4, 4, 4) / 30 - 1
    y = np.arange(20, dtype=np.float32).reshape(4, 5) / 10 - 1
    assert ops(assert_same(model, {"x": x, "y": y})) == after


def test_an_unsqueezed_view_meets_the_next_convolution_in_its_order() -> None:
    """A Conv1D is a Conv2D on images of height 1."""
    nodes = [node("Unsqueeze", "x one", "image0")]
    for index in (0, 1):
        nodes += [
            node("Transpose", f"image{index}", f"first{index}", perm=CHANNELS_FIRST),
            node("Conv", f"first{index} w", f"conv{index}"),
            node("Transpose", f"conv{index}", f"last{index}", perm=CHANNELS_LAST),
            node("Squeeze", f"last{index} one", f"line{index}"),
            node("Relu", f"line{index}", f"relu{index}"),
            node("Unsqueeze", f"relu{index} one", f"image{index + 1}"),
        ]
    model = tiny.model(
        nodes,
        [value("x", (2, 7, 3))],
        [value("relu1", None)],
        [tiny.weights("w", 3, 3, 1, 2), constant("one", [1])],
    )
    made = assert_same(model, {"x": X.reshape(-1)[:42].reshape(2, 7, 3)})
    chain = ["Conv", "Squeeze", "Relu"]
    assert ops(made) == ["Unsqueeze", "Transpose", *chain, "Unsqueeze", *chain]


# --- Random graphs ------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_graphs())
def test_random_graphs_compute_the_same(drawn: Any) -> None:
    model, known, feeds = drawn
    note(onnx.printer.to_text(model))
    assert_same(model, feeds, shapes=known)


@pytest.mark.slow
@settings(max_examples=20000, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_graphs())
def test_many_random_graphs_compute_the_same(drawn: Any) -> None:
    model, known, feeds = drawn
    note(onnx.printer.to_text(model))
    assert_same(model, feeds, shapes=known)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_chains())
def test_a_chain_has_no_more_transposes_than_before(drawn: Any) -> None:
    model, feeds = drawn
    note(onnx.printer.to_text(model))
    made = assert_same(model, feeds)
    assert ops(made).count("Transpose") <= ops(model).count("Transpose")


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_convolutions())
def test_a_convolutional_network_has_transposes_at_its_entry_only(drawn: Any) -> None:
    model, known, feeds = drawn
    note(onnx.printer.to_text(model))
    made = assert_same(model, feeds, shapes=known)
    transposes = [node for node in made.graph.node if node.op_type == "Transpose"]
    assert [list(node.input) for node in transposes] == [["in0"]]
