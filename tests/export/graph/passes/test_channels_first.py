"""The channels-first pass: whatever it does to a graph, the outputs stay what they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from generators import tiny
from layertap_export.graph.passes.channels_first import View, channels_first

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported

DTYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
CHANNELS_FIRST, CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


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
    for index, name in enumerate(tensors):  # an input or a weight is no output, an Identity is
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


def test_a_convolution_between_transposes_passes_its_order_on() -> None:
    model = tiny.model(
        [
            node("Transpose", "x", "first", perm=CHANNELS_FIRST),
            node("Conv", "first w", "conv"),
            node("Transpose", "conv", "last", perm=CHANNELS_LAST),
            node("Add", "last b", "biased"),
            node("Relu", "biased", "relu"),
            node("Transpose", "relu", "again", perm=CHANNELS_FIRST),
            node("Conv", "again v", "second"),
            node("Transpose", "second", "out", perm=CHANNELS_LAST),
        ],
        [value("x", (2, 3, 4, 5))],
        [value("relu", None), value("out", None)],
        [
            tiny.weights("w", 6, 5, 1, 1),
            tiny.weights("b", 6),
            tiny.weights("v", 2, 6, 1, 1),
        ],
    )
    made = assert_same(model, {"x": X})
    assert ops(made) == ["Transpose", "Conv", "Add", "Relu", "Conv"]
    _, views = laid_out(model)
    assert {view.perm for view in views.values()} == {CHANNELS_LAST}


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Relu", "v", "y")],
        [node("Add", "v row", "y")],
        [node("Sub", "column v", "y")],
        [node("Mul", "v number", "y")],
        [node("ReduceSum", "v first", "total", keepdims=0), node("Add", "v total", "y")],
        [node("ReduceMax", "v first", "peak", keepdims=0), node("Add", "peak v", "y")],
        [node("PRelu", "v row", "y")],
        [node("Less", "v row", "less"), node("Where", "less v row", "y")],
        [node("Cast", "v", "y", to=TensorProto.INT32)],
        [node("Clip", "v _ number", "y")],
        [node("Softmax", "v", "y", axis=1)],
        [node("LogSoftmax", "v", "y")],
        [node("Hardmax", "v", "y", axis=1)],
        [node("LpNormalization", "v", "y", axis=2)],
        [node("Split", "v two", "y z", axis=1)],
        [node("Concat", "v v", "y", axis=3)],
        [node("Concat", "v full", "y", axis=-1)],
        [node("Pad", "v pads", "y")],
        [node("Pad", "v pad_two _ axes", "y")],
        [node("Pad", "v pads_late", "y")],
        [node("Slice", "v one_two three_four", "y")],
        [node("Slice", "v one_two three_four axes", "y")],
        [node("Slice", "v known_late three_four axes", "y")],
        [node("Slice", "v starts32 ends32", "y")],
        [node("Slice", "v starts32 ends32 axes32", "y")],
        [node("ReduceMean", "v axes", "y")],
        [node("ReduceMean", "v first", "y", keepdims=0)],
        [node("ReduceMean", "v", "y", keepdims=0)],
        [node("ArgMax", "v", "y", axis=1)],
        [node("ArgMin", "v", "y", axis=-1, keepdims=0)],
        [node("ReduceMean", "v axes", "mean"), node("Squeeze", "mean axes", "y")],
        [node("Unsqueeze", "v first", "y")],
        [node("Shape", "v", "y")],
        [node("Shape", "v", "y", start=1)],
        [node("Reshape", "v flat", "y")],
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
            tiny.weights("column", 4, 1, 1),
            tiny.weights("full", 2, 4, 5, 1),
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
    x = numbers.astype(dtype)
    matrix = np.arange(15).reshape(3, 5).astype(dtype) - 7
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
def test_what_is_not_flattened_alike_stays(rows: list[int], shapes: dict[str, Any]) -> None:
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


class RandomGraph:
    """A graph that grows by drawn nodes, and what is known of its tensors."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
        """Dtype and shape by tensor."""
        self.inputs: list[str] = []
        self.opset = self.one_of([13, 18])

    def one_of(self, items: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(items)))

    def add_input(self) -> None:
        name = f"in{len(self.inputs)}"
        rank = self.one_of([3, 4, 4])
        self.kinds[name] = ("float32", tuple(self.one_of([1, 2, 3]) for _ in range(rank)))
        self.inputs.append(name)

    def weight(self, value: Any, dtype: str = "int64") -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        self.kinds[name] = (dtype, np.shape(value))
        return name

    def random_weight(self, shape: Sequence[int], dtype: str) -> str:
        numbers = np.random.default_rng(len(self.weights)).normal(size=shape)
        return self.weight(numbers * 2 if dtype != "bool" else numbers > 0, dtype)

    def pick(self, dtype: str = "float32", ranks: Sequence[int] = (1, 2, 3, 4, 5)) -> str:
        """An existing tensor, more often a late one, often through a Transpose."""
        known = [
            name
            for name, (kind, shape) in self.kinds.items()
            if kind == dtype and len(shape) in ranks and name[0] != "w"
        ]
        if not known:
            name = self.draw(st.sampled_from(self.inputs))
            known = [self.emit("Cast", [name], dtype, self.shape(name), to=DTYPES[dtype])]
        name = self.one_of([*known, known[-1], known[-1]])
        return self.transposed(name) if self.draw(st.booleans()) else name

    def transposed(self, name: str, perm: Sequence[int] | None = None) -> str:
        dtype, shape = self.kinds[name]
        if perm is None:
            usual = [CHANNELS_FIRST, CHANNELS_LAST] if len(shape) == 4 else []
            perm = self.one_of([self.draw(st.permutations(range(len(shape)))), *usual])
        given_perm = {} if list(perm) == list(range(len(shape)))[::-1] else {"perm": list(perm)}
        moved = tuple(shape[axis] for axis in perm)
        return self.emit("Transpose", [name], dtype, moved, **given_perm)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.kinds[name][1]

    def emit(
        self, op: str, inputs: Sequence[str], dtype: str, shape: Sequence[int], **attributes: Any
    ) -> str:
        """A node with one output, whose name is returned."""
        return self.emit_all(op, inputs, dtype, [shape], **attributes)[0]

    def emit_all(
        self,
        op: str,
        inputs: Sequence[str],
        dtype: str,
        shapes: Sequence[Sequence[int]],
        **attributes: Any,
    ) -> list[str]:
        outputs = [f"t{len(self.nodes)}_{index}" for index in range(len(shapes))]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, **attributes))
        for name, shape in zip(outputs, shapes, strict=True):
            self.kinds[name] = (dtype, tuple(shape))
        return outputs

    def broadcastable(self, dtype: str, shape: tuple[int, ...]) -> str:
        """A constant, or a computed tensor, that broadcasts to `shape` without enlarging it."""
        if self.draw(st.integers(0, 3)) == 0:
            same = [
                name
                for name, (kind, other) in self.kinds.items()
                if kind == dtype and sorted(other) == sorted(shape) and name[0] != "w"
            ]
            if same:
                name = self.one_of(same)
                fitting = [
                    perm
                    for perm in np.ndindex(*(len(shape),) * len(shape))
                    if sorted(perm) == list(range(len(shape)))
                    and tuple(self.shape(name)[axis] for axis in perm) == shape
                ]
                return self.transposed(name, self.one_of(fitting))
        rank = self.draw(st.integers(0, len(shape)))
        sizes = [self.one_of([1, size]) for size in shape[len(shape) - rank :]]
        weight = self.random_weight(sizes, dtype)
        if self.draw(st.integers(0, 3)) == 0 and dtype == "float32":
            return self.emit("Sum", [weight, self.computed_zero()], dtype, sizes)
        return weight

    def computed_zero(self) -> str:
        """A tensor of rank 0 that no folding can know."""
        name = self.inputs[0]
        total = self.emit("ReduceSum", [name], "float32", (), keepdims=0)
        return self.emit("Sub", [total, total], "float32", ())

    # One method for each kind of node that the pass handles.

    def unary(self) -> None:
        name = self.pick()
        op, attributes = self.one_of(
            [
                ("Relu", {}),
                ("Sigmoid", {}),
                ("Neg", {}),
                ("Erf", {}),
                ("Softsign", {}),
                ("LeakyRelu", {"alpha": 0.3}),
                ("HardSigmoid", {"alpha": 0.25}),
                ("ThresholdedRelu", {"alpha": 0.5}),
                ("Identity", {}),
            ]
        )
        self.emit(op, [name], "float32", self.shape(name), **attributes)

    def binary(self) -> None:
        name = self.pick()
        shape = self.shape(name)
        pair = [name, self.broadcastable("float32", shape)]
        if self.draw(st.booleans()):
            pair.reverse()
        if self.draw(st.integers(0, 3)) == 0:
            self.emit(self.one_of(["Less", "GreaterOrEqual"]), pair, "bool", shape)
        else:
            self.emit(self.one_of(["Add", "Sub", "Mul", "Max"]), pair, "float32", shape)

    def variadic(self) -> None:
        name = self.pick()
        shape = self.shape(name)
        others = [self.broadcastable("float32", shape) for _ in range(self.one_of([0, 1, 2]))]
        self.emit(self.one_of(["Sum", "Mean", "Min"]), [*others, name], "float32", shape)

    def p_relu(self) -> None:
        name = self.pick()
        slope = self.broadcastable("float32", self.shape(name))
        self.emit("PRelu", [name, slope], "float32", self.shape(name))

    def where(self) -> None:
        name = self.pick("bool")
        shape = self.shape(name)
        branches = [self.broadcastable("float32", shape) for _ in "ab"]
        self.emit("Where", [name, *branches], "float32", shape)

    def logical(self) -> None:
        name = self.pick("bool")
        self.emit("Not", [name], "bool", self.shape(name))

    def cast(self) -> None:
        source, target = self.one_of(
            [("float32", "int64"), ("int64", "float32"), ("bool", "float32")]
        )
        name = self.pick(source)
        self.emit("Cast", [name], target, self.shape(name), to=DTYPES[target])

    def clip(self) -> None:
        name = self.pick()
        low, high = self.weight(-0.5, "float32"), self.weight(0.75, "float32")
        ends = self.one_of([[], [low], ["", high], [low, high]])
        self.emit("Clip", [name, *ends], "float32", self.shape(name))

    def concat(self) -> None:
        name = self.pick()
        shape = self.shape(name)
        axis = self.draw(st.integers(-len(shape), len(shape) - 1))
        parts = [name]
        for _ in range(self.one_of([1, 2])):
            if self.draw(st.booleans()):
                parts.append(name)
            else:
                sizes = list(shape)
                sizes[axis] = 2
                parts.append(self.random_weight(sizes, "float32"))
        if self.draw(st.booleans()):
            parts.reverse()
        total = list(shape)
        total[axis] = sum(self.shape(part)[axis] for part in parts)
        self.emit("Concat", parts, "float32", total, axis=axis)

    def split(self) -> None:
        name = self.pick()
        shape = self.shape(name)
        axis = self.one_of([a for a in range(len(shape)) if shape[a] > 1] or [0])
        sizes = [1] * shape[axis] if shape[axis] > 1 else [1]
        shapes = [[*shape[:axis], size, *shape[axis + 1 :]] for size in sizes]
        if self.draw(st.booleans()):
            extra, attributes = [self.weight(sizes)], {}
        else:
            extra, attributes = [], {"num_outputs": len(sizes)} if self.opset == 18 else {}
        axis = axis - len(shape) if self.draw(st.booleans()) else axis
        if axis or self.draw(st.booleans()):
            attributes["axis"] = axis
        self.emit_all("Split", [name, *extra], "float32", shapes, **attributes)

    def softmax(self) -> None:
        name = self.pick()
        rank = len(self.shape(name))
        axis = self.one_of([{}, {"axis": self.draw(st.integers(-rank, rank - 1))}])
        op = self.one_of(["Softmax", "LogSoftmax"])
        self.emit(op, [name], "float32", self.shape(name), **axis)

    def pad(self) -> None:
        name = self.pick()
        shape = self.shape(name)
        axes = list(range(len(shape)))
        extra: list[str] = []
        if self.opset == 18 and self.draw(st.integers(0, 2)) == 0:
            axes = self.draw(st.permutations(axes))[: self.one_of([1, len(axes)])]
            extra = ["", self.weight(axes)]
        elif self.draw(st.booleans()):
            extra = [self.weight(0.5, "float32")]
        before = [self.one_of([0, 1]) for _ in axes]
        after = [self.one_of([0, 2]) for _ in axes]
        sizes = list(shape)
        for axis, one, other in zip(axes, before, after, strict=True):
            sizes[axis] += one + other
        mode = self.one_of([{}, {"mode": "edge"}])
        pads = self.weight([*before, *after])
        if self.draw(st.integers(0, 3)) == 0:  # known only at run time
            zero = self.emit("Cast", [self.computed_zero()], "int64", (), to=DTYPES["int64"])
            pads = self.emit("Add", [pads, zero], "int64", self.shape(pads))
        self.emit("Pad", [name, pads, *extra], "float32", sizes, **mode)

    def slice(self) -> None:
        name = self.pick()
        shape = self.shape(name)
        rank = len(shape)
        if self.draw(st.booleans()):
            axes = list(range(self.draw(st.integers(1, rank))))
            extra: list[str] = []
        else:
            axes = self.draw(st.permutations(range(rank)))[: self.draw(st.integers(1, rank))]
            signed = [axis - rank if self.draw(st.booleans()) else axis for axis in axes]
            extra = [self.weight(signed)]
        starts = [self.draw(st.integers(0, shape[axis] - 1)) for axis in axes]
        ends = [self.one_of([2**31, start + 1]) for start in starts]
        sizes = list(shape)
        for axis, start, end in zip(axes, starts, ends, strict=True):
            sizes[axis] = min(end, shape[axis]) - start
        if extra and self.draw(st.booleans()):
            extra.append(self.weight([1] * len(axes)))
        self.emit("Slice", [name, self.weight(starts), self.weight(ends), *extra], "float32", sizes)

    def reduce(self) -> None:
        name = self.pick(ranks=(2, 3, 4, 5))
        shape = self.shape(name)
        rank = len(shape)
        keep = self.one_of([{}, {"keepdims": 0}, {"keepdims": 1}])
        axes = self.draw(st.permutations(range(rank)))[: self.draw(st.integers(1, rank))]
        op = self.one_of(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceL1"])
        signed = [self.one_of([a, a - rank]) for a in axes]
        listed: list[str] = []
        if self.draw(st.integers(0, 5)) == 0:
            axes = list(range(rank))
            if op == "ReduceSum" and self.draw(st.booleans()):
                listed = [self.weight(np.zeros(0))]
        elif self.opset == 18 or op == "ReduceSum":
            listed = [self.weight(signed)]
        else:
            keep = {**keep, "axes": signed}
        sizes = [1 if a in axes else size for a, size in enumerate(shape)]
        if keep.get("keepdims", 1) == 0:
            sizes = [size for a, size in enumerate(shape) if a not in axes]
        self.emit(op, [name, *listed], "float32", sizes, **keep)

    def arg_max(self) -> None:
        name = self.pick(ranks=(2, 3, 4, 5))
        shape = self.shape(name)
        axis = self.draw(st.integers(-len(shape), len(shape) - 1))
        keep = self.one_of([{}, {"keepdims": 0}])
        sizes = list(shape)
        sizes[axis] = 1
        if keep:
            del sizes[axis]
        self.emit(self.one_of(["ArgMax", "ArgMin"]), [name], "int64", sizes, axis=axis, **keep)

    def squeeze(self) -> None:
        name = self.pick()
        shape = self.shape(name)
        ones = [axis for axis, size in enumerate(shape) if size == 1]
        if not ones or len(ones) == len(shape):
            return
        if self.draw(st.integers(0, 3)):
            ones = ones[: self.draw(st.integers(1, len(ones)))]
            listed = [self.weight([self.one_of([a, a - len(shape)]) for a in ones])]
        else:
            listed = []
        sizes = [size for axis, size in enumerate(shape) if axis not in ones]
        self.emit("Squeeze", [name, *listed], "float32", sizes)

    def unsqueeze(self) -> None:
        name = self.pick(ranks=(1, 2, 3, 4))
        shape = list(self.shape(name))
        rank = len(shape) + self.one_of([1, 1, 2])
        axes = sorted(self.draw(st.permutations(range(rank)))[: rank - len(shape)])
        for axis in axes:
            shape.insert(axis, 1)
        axes = [self.one_of([axis, axis - rank]) for axis in axes[::-1]]
        self.emit("Unsqueeze", [name, self.weight(axes)], "float32", shape)

    def take_shape(self) -> None:
        name = self.pick()
        rank = len(self.shape(name))
        part = self.one_of([{}, {"start": 1}]) if self.opset == 18 else {}
        self.emit("Shape", [name], "int64", (rank - len(part),), **part)

    def reshape(self) -> None:
        name = self.pick()
        size = int(np.prod(self.shape(name)))
        sizes = self.one_of([[size], [1, size], [1, size, 1], list(self.shape(name))])
        target = list(sizes)
        if self.draw(st.booleans()):
            target[target.index(max(target))] = -1
        self.emit("Reshape", [name, self.weight(target)], "float32", sizes)

    def opaque(self) -> None:
        """A node that must have its input in its own order."""
        name = self.pick()
        axis = self.draw(st.integers(0, len(self.shape(name)) - 1))
        self.emit("CumSum", [name, self.weight(axis)], "float32", self.shape(name))

    def of_constants(self) -> None:
        weight = self.random_weight([self.one_of([1, 2, 3]) for _ in "abc"], "float32")
        shape = self.shape(weight)
        name = self.emit("Exp", [weight], "float32", shape)
        self.transposed(name)

    def condition(self) -> None:
        """An If and a Loop whose bodies read tensors of the graph around them."""
        name = self.pick()
        dtype, shape = self.kinds[name]
        count = len(self.nodes)
        total = self.emit("ReduceSum", [self.inputs[0]], "float32", (), keepdims=0)
        chosen = self.emit("Greater", [total, self.weight(0.0, "float32")], "bool", ())

        def body(op: str, reads: list[str]) -> onnx.GraphProto:
            output = f"b{count}_{op}"
            return helper.make_graph(
                [helper.make_node(op, reads, [output])],
                output,
                [],
                [helper.make_tensor_value_info(output, DTYPES[dtype], shape)],
            )

        branches = {"then_branch": body("Neg", [name]), "else_branch": body("Mul", [name, name])}
        self.emit("If", [chosen], dtype, shape, **branches)

        step = helper.make_graph(
            [
                helper.make_node("Add", [f"b{count}_carried", name], [f"b{count}_sum"]),
                helper.make_node("Identity", [f"b{count}_going"], [f"b{count}_on"]),
            ],
            f"b{count}_loop",
            [
                tiny.value(f"b{count}_turn", (), TensorProto.INT64),
                tiny.value(f"b{count}_going", (), TensorProto.BOOL),
                tiny.value(f"b{count}_carried", shape),
            ],
            [
                tiny.value(f"b{count}_on", (), TensorProto.BOOL),
                tiny.value(f"b{count}_sum", shape),
            ],
        )
        turns = self.weight(2)
        self.emit("Loop", [turns, "", name], dtype, shape, body=step)


STEPS = [
    method
    for name, method in vars(RandomGraph).items()
    if name
    in "unary binary variadic p_relu where logical cast clip concat split softmax pad slice "
    "reduce arg_max squeeze unsqueeze take_shape reshape opaque of_constants condition".split()
]


@st.composite
def random_graphs(
    draw: Callable[[Any], Any],
) -> tuple[onnx.ModelProto, dict[str, tuple[int | None, ...]], dict[str, Any]]:
    """A graph, what a converter might know of its tensors' shapes, and a feed."""
    graph = RandomGraph(draw)
    for _ in range(draw(st.integers(1, 2))):
        graph.add_input()
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=8)):
        step(graph)
    made = [name for node in graph.nodes for name in node.output]
    candidates = [*made, *graph.kinds]  # inputs and weights too, now and then
    outputs = draw(st.lists(st.sampled_from(candidates), min_size=1, unique=True))
    known: dict[str, tuple[int | None, ...]] = {}
    ignorance = draw(st.sampled_from(["nothing", "sizes", "first axis", "some shapes"]))
    for name, (_, shape) in graph.kinds.items():
        if ignorance == "sizes":
            known[name] = (None,) * len(shape)
        elif ignorance == "first axis":
            known[name] = (None, *shape[1:])[: len(shape)]
        elif ignorance == "nothing" or draw(st.booleans()):
            known[name] = shape
    model = tiny.model(
        graph.nodes,
        [
            tiny.value(
                name,
                graph.shape(name) if ignorance == "nothing" else (None,) * len(graph.shape(name)),
            )
            for name in graph.inputs
        ],
        [tiny.value(name, None, DTYPES[graph.kinds[name][0]]) for name in outputs],
        graph.weights,
        opset=graph.opset,
    )
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    feeds = {
        name: generator.normal(size=graph.shape(name)).astype(np.float32) for name in graph.inputs
    }
    return model, known, feeds


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


# --- How many Transposes are left ---------------------------------------------------------------


class RandomChain(RandomGraph):
    """The same where every node reads only the one before it, and constants."""

    def pick(self, dtype: str = "float32", ranks: Sequence[int] = (1, 2, 3, 4, 5)) -> str:
        name = [name for name in self.kinds if name[0] != "w"][-1]
        return self.transposed(name) if self.draw(st.booleans()) else name

    def broadcastable(self, dtype: str, shape: tuple[int, ...]) -> str:
        rank = self.draw(st.integers(0, len(shape)))
        return self.random_weight(shape[len(shape) - rank :], dtype)


CHAIN_STEPS = [
    RandomGraph.unary,
    RandomGraph.variadic,
    RandomGraph.p_relu,
    RandomGraph.concat,
    RandomGraph.softmax,
    RandomGraph.reduce,
    RandomGraph.squeeze,
    RandomGraph.unsqueeze,
    RandomGraph.reshape,
    RandomGraph.opaque,
]


@st.composite
def random_chains(draw: Callable[[Any], Any]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    chain = RandomChain(draw)
    chain.add_input()
    for step in draw(st.lists(st.sampled_from(CHAIN_STEPS), min_size=1, max_size=10)):
        if 1 < len(chain.shape(list(chain.kinds)[-1])) < 5:
            step(chain)
    last = [name for name in chain.kinds if name[0] != "w"][-1]
    model = tiny.model(
        chain.nodes,
        [tiny.value("in0", chain.shape("in0"))],
        [tiny.value(last, None)],
        chain.weights,
        opset=chain.opset,
    )
    feeds = {"in0": np.random.default_rng(0).normal(size=chain.shape("in0")).astype(np.float32)}
    return model, feeds


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_chains())
def test_a_chain_has_no_more_transposes_than_before(drawn: Any) -> None:
    model, feeds = drawn
    note(onnx.printer.to_text(model))
    made = assert_same(model, feeds)
    assert ops(made).count("Transpose") <= ops(model).count("Transpose")


class RandomConvolutions(RandomGraph):
    """What tf2onnx makes of a convolutional network: channels last, a Transpose before and behind
    all that ONNX knows channels first only."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        super().__init__(draw)
        self.inputs, self.kinds = ["in0"], {"in0": ("float32", (2, 6, 5, 3))}

    def any_image(self) -> str:
        images = [n for n, (_, shape) in self.kinds.items() if n[0] != "w" and shape[1:3] == (6, 5)]
        return self.one_of([*images, images[-1], images[-1]])

    def channels_first(self, op: str, name: str, inputs: list[str], out: int, **more: Any) -> str:
        n, height, width, _ = self.shape(name)
        moved = self.transposed(name, CHANNELS_FIRST)
        done = self.emit(op, [moved, *inputs], "float32", (n, out, height, width), **more)
        image = self.transposed(done, CHANNELS_LAST)
        del self.kinds[moved], self.kinds[done]
        return image

    def convolution(self) -> None:
        name = self.any_image()
        channels = self.shape(name)[-1]
        weight = self.random_weight([4, channels, 3, 3], "float32")
        image = self.channels_first("Conv", name, [weight], 4, pads=[1, 1, 1, 1])
        bias = self.random_weight([4], "float32")
        self.emit("Add", [image, bias], "float32", self.shape(image))

    def pool(self) -> None:
        name = self.any_image()
        more = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        self.channels_first("MaxPool", name, [], self.shape(name)[-1], **more)

    def activation(self) -> None:
        name = self.any_image()
        self.emit(self.one_of(["Relu", "Sigmoid"]), [name], "float32", self.shape(name))

    def batch_normalisation(self) -> None:
        name = self.any_image()
        for op in ("Mul", "Add"):
            numbers = self.random_weight([self.shape(name)[-1]], "float32")
            name = self.emit(op, [name, numbers], "float32", self.shape(name))

    def excitation(self) -> None:
        name = self.any_image()
        n, _, _, channels = self.shape(name)
        axes = [self.weight([1, 2])] if self.opset == 18 else []
        more = {} if axes else {"axes": [1, 2]}
        mean = self.emit("ReduceMean", [name, *axes], "float32", (n, 1, 1, channels), **more)
        self.emit("Mul", [name, mean], "float32", self.shape(name))

    def join(self) -> None:
        name, other = self.any_image(), self.any_image()
        if self.shape(name) == self.shape(other):
            self.emit("Add", [name, other], "float32", self.shape(name))
        elif self.shape(name)[:3] == self.shape(other)[:3]:
            total = self.shape(name)[3] + self.shape(other)[3]
            sizes = (*self.shape(name)[:3], total)
            self.emit("Concat", [name, other], "float32", sizes, axis=3)

    def pad_and_crop(self) -> None:
        name = self.any_image()
        n, height, width, channels = self.shape(name)
        pads = self.weight([0, 1, 2, 0, 0, 0, 1, 0])
        padded = self.emit("Pad", [name, pads], "float32", (n, height + 1, width + 3, channels))
        ends = [self.weight([low, low]) for low in (0, 2**31)]
        axes = self.weight([1, 2])
        starts = self.weight([1, 3])
        self.emit("Slice", [padded, starts, ends[1], axes], "float32", (n, height, width, channels))


@st.composite
def random_convolutions(
    draw: Callable[[Any], Any],
) -> tuple[onnx.ModelProto, dict[str, tuple[int | None, ...]], dict[str, Any]]:
    graph = RandomConvolutions(draw)
    steps = [
        graph.convolution,
        graph.pool,
        graph.activation,
        graph.batch_normalisation,
        graph.excitation,
        graph.join,
        graph.pad_and_crop,
    ]
    graph.convolution()
    del graph.kinds["in0"]  # all else works on what the first convolution puts out
    for step in draw(st.lists(st.sampled_from(steps), max_size=12)):
        step()
    made = [name for name in graph.kinds if name[0] == "t"]
    model = tiny.model(
        graph.nodes,
        [tiny.value("in0", ("batch", 6, 5, 3))],
        [tiny.value(name, None) for name in made],
        graph.weights,
        opset=graph.opset,
    )
    known = {
        name: (None, *node_shape[1:]) if name[0] == "t" else node_shape
        for name, (_, node_shape) in graph.kinds.items()
    }
    feeds = {"in0": np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype(np.float32)}
    return model, known, feeds


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_convolutions())
def test_a_convolutional_network_has_transposes_at_its_entry_only(drawn: Any) -> None:
    model, known, feeds = drawn
    note(onnx.printer.to_text(model))
    made = assert_same(model, feeds, shapes=known)
    transposes = [node for node in made.graph.node if node.op_type == "Transpose"]
    assert [list(node.input) for node in transposes] == [["in0"]]
