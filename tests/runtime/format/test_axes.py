"""The axes of tensors, inferred from operators."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.transformers.float16 import convert_float_to_float16

from generators.tiny import constant, model, node, value, weights
from layertap.format.axes import image_axes, infer_axes, stated_axes
from layertap.format.card import TensorInfo
from layertap.format.graph import read_graph
from layertap.format.layer import Layer

SIZES: dict[str, int] = {"N": 2, "C": 5, "D": 13, "H": 7, "W": 11, "T": 9}
"""A size for each meaning. All differ, so that a size tells what an axis means."""


def axes_of(made: onnx.ModelProto, **options: Any) -> dict[str, str]:
    data = made.SerializeToString()
    return infer_axes(data, read_graph(data), **options)


def axes_of_nodes(nodes: list[Any], shape: Any, *constants: Any, **options: Any) -> dict[str, str]:
    """The axes in a network of `nodes` over `x`."""
    outputs = [value(nodes[-1].output[0], None)]
    if shape == IMAGE and len(nodes) > 1:
        outputs.append(value("conv", ["n", 5, 8, 8]))
    return axes_of(model(nodes, [value("x", shape)], outputs, constants, **options))


IMAGE: Any = ["n", 3, 8, 8]
CONV = node("Conv", "x k", "conv", pads=[1, 1, 1, 1])
KERNEL = weights("k", 5, 3, 3, 3)


# --- Files that a tool converted ------------------------------------------------------------------


def image_network() -> onnx.ModelProto:
    """A network of images as PyTorch writes it, whose layers are outputs, one of them NHWC."""
    nodes = [
        node("Conv", "x k", "conv", pads=[1, 1, 1, 1]),
        node("Relu", "conv", "relu"),
        node("MaxPool", "relu", "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "pool k2", "conv2", pads=[1, 1, 1, 1]),
        node("Add", "pool conv2", "sum"),
        node("Mul", "sum conv2", "product"),
        node("Concat", "sum product", "both", axis=1),
        node("AveragePool", "both", "mean", kernel_shape=[2, 2]),
        node("Transpose", "mean", "last", perm=[0, 2, 3, 1]),
        node("GlobalAveragePool", "mean", "gap"),
        node("Flatten", "gap", "flat"),
        node("Gemm", "flat d", "logits"),
        node("Softmax", "logits", "y"),
        node("MatMul", "last m", "dense"),
    ]
    return model(
        nodes,
        [value("x", ["n", 3, 8, 12])],
        [value("y", ["n", 4]), value("last", None), value("dense", None), value("sum", None)],
        [
            weights("k", 16, 3, 3, 3),
            weights("k2", 16, 16, 3, 3),
            weights("d", 32, 4),
            weights("m", 32, 5),
        ],
        opset=17,
    )


class Batches(CalibrationDataReader):
    """Seeded images for the quantiser."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self._batches = [generator.uniform(-1, 1, (1, 3, 8, 12)) for _ in range(2)]

    def get_next(self) -> dict[str, Any] | None:
        return {"x": self._batches.pop().astype(np.float32)} if self._batches else None


def in_float16(source: Path, target: Path) -> None:
    onnx.save(convert_float_to_float16(onnx.load(source)), target)


def in_float16_with_casts(source: Path, target: Path) -> None:
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def quantised(source: Path, target: Path) -> None:
    quantize_static(source, target, Batches(), quant_format=QuantFormat.QDQ)


def quantised_operators(source: Path, target: Path) -> None:
    quantize_static(source, target, Batches(), quant_format=QuantFormat.QOperator)


def quantised_dynamically(source: Path, target: Path) -> None:
    quantize_dynamic(source, target)


def optimised(source: Path, target: Path) -> None:
    """On x86 with `com.microsoft.nchwc`, which keeps images in blocks of channels."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def quantised_and_optimised(source: Path, target: Path) -> None:
    """With `com.microsoft.QLinearConv` of images with channels last."""
    quantised(source, target)
    optimised(target, target)


def newer(source: Path, target: Path) -> None:
    onnx.save(onnx.version_converter.convert_version(onnx.load(source), 21), target)


@pytest.mark.parametrize(
    ("convert", "operators"),
    [
        (in_float16, ""),
        (in_float16_with_casts, "Cast"),
        (quantised, "DequantizeLinear"),
        (quantised_operators, "QLinearConv QLinearAdd QLinearMul QLinearConcat QGemm"),
        (quantised_dynamically, "DynamicQuantizeLinear ConvInteger MatMulInteger"),
        (optimised, ""),
        (quantised_and_optimised, "QLinearConv"),
        (newer, ""),
    ],
)
def test_the_axes_of_a_converted_file(convert: Any, operators: str, tmp_path: Path) -> None:
    source, target = tmp_path / "plain.onnx", tmp_path / "converted.onnx"
    onnx.save(image_network(), source)
    logging.disable(logging.ERROR)
    try:
        convert(source, target)
    finally:
        logging.disable(logging.NOTSET)
    found = onnx.load(target)
    assert {*operators.split()} <= {node.op_type for node in found.graph.node}
    before, after = axes_of(onnx.load(source)), axes_of(found)
    expected = {"x": "NCHW", "y": "NC", "last": "NHWC", "dense": "NHWC", "sum": "NCHW"}
    assert {name: before.get(name) for name in expected} == expected
    assert {name: after.get(name) for name in expected} == expected
    # The names of tensors inside may now be those of others: their real shapes count.
    made = [name for node in found.graph.node for name in node.output]
    names = [name for name in made if len(after.get(name, "")) == 4]
    del found.graph.output[:]
    found.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(found.SerializeToString())
    x = np.zeros((1, 3, 8, 12), np.float16 if convert is in_float16 else np.float32)
    for name, array in zip(names, session.run(names, {"x": x}), strict=True):
        sizes = tuple(array.shape[after[name].index(letter)] for letter in "HW")
        assert sizes in ((8, 12), (4, 6), (3, 5), (1, 1)), name
    assert len(names) >= 8


# --- A convolution fixes the axes, all others are carried ---------------------------------------


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([CONV], "NCHW"),
        ([CONV, node("Relu", "conv", "y")], "NCHW"),
        ([CONV, node("Transpose", "conv", "y", perm=[0, 2, 3, 1])], "NHWC"),
        ([CONV, node("Transpose", "conv", "y")], "WHCN"),
        ([CONV, node("Add", "conv conv", "y")], "NCHW"),
        ([CONV, node("Add", "conv b", "y")], "NCHW"),
        ([CONV, node("Concat", "conv conv", "y", axis=1)], "NCHW"),
        ([CONV, node("ReduceMean", "conv", "y", axes=[2, 3], keepdims=0)], "NC"),
        ([CONV, node("ReduceMean", "conv", "y", axes=[-1], keepdims=0)], "NCT"),
        ([CONV, node("ReduceMean", "conv", "y", axes=[2, 3])], "NCHW"),
        ([CONV, node("ReduceMax", "conv", "y", axes=[1], keepdims=0)], "N??"),
        ([CONV, node("ArgMax", "conv", "y", axis=1, keepdims=0)], "N??"),
        ([CONV, node("Flatten", "conv", "f"), node("MatMul", "f m", "y")], "NC"),
        ([CONV, node("Reshape", "conv flat", "y")], "NCT"),
        ([CONV, node("Reshape", "conv split", "y")], "N?CHW"),
        ([CONV, node("Reshape", "conv mixed", "y")], None),
        ([CONV, node("GlobalAveragePool", "conv", "p"), node("Squeeze", "p one", "y")], "NCT"),
        ([CONV, node("Split", "conv", "y z", axis=1, num_outputs=2)], "NCHW"),
        ([CONV, node("Where", "yes conv conv", "y")], "NCHW"),
    ],
)  # fmt: skip
def test_operators_after_a_convolution(nodes: list[Any], expected: str | None) -> None:
    found = axes_of_nodes(
        nodes,
        IMAGE,
        KERNEL,
        weights("b", 5, 1, 1),
        weights("m", 320, 4),
        constant("flat", [0, 5, 64]),
        constant("split", [0, 1, 5, 8, 8]),
        constant("mixed", [0, 40, 8]),
        constant("one", [2]),
        constant("yes", True, bool),
        opset=17 if any("axes" in {a.name for a in n.attribute} for n in nodes) else 18,
    )
    assert found["x"] == "NCHW"
    assert found.get("y", found["conv"] if len(nodes) == 1 else None) == expected
    assert "k" not in found


def test_axes_are_carried_backwards_to_the_input() -> None:
    """The input of a file from Keras is channels last, its convolutions are channels first."""
    nodes = [
        node("Mul", "x s", "scaled"),
        node("Transpose", "scaled", "turned", perm=[0, 3, 1, 2]),
        node("Conv", "turned k", "conv"),
    ]
    found = axes_of_nodes(nodes, ["n", 8, 8, 3], KERNEL, constant("s", 2.0, np.float32))
    assert (found["x"], found["scaled"], found["turned"]) == ("NHWC", "NHWC", "NCHW")


@pytest.mark.parametrize(("rank", "expected"), [(3, "NCT"), (4, "NCHW"), (5, "NCDHW")])
@pytest.mark.parametrize("op", ["Conv", "MaxPool", "BatchNormalization", "InstanceNormalization"])
def test_ranks(rank: int, expected: str, op: str) -> None:
    shape: list[Any] = ["n", 3, *[8] * (rank - 2)]
    reads, attributes = "x", dict[str, Any]()
    if op == "Conv":
        reads = "x k"
    elif op == "MaxPool":
        attributes = {"kernel_shape": [2] * (rank - 2)}
    elif op == "BatchNormalization":
        reads = "x s s s s"
    else:
        reads = "x s s"
    found = axes_of_nodes(
        [node(op, reads, "y", **attributes)],
        shape,
        weights("k", 4, 3, *[3] * (rank - 2)),
        weights("s", 3),
    )
    assert found == {"x": expected, "y": expected}


def test_a_convolution_of_sequences_as_one_of_images() -> None:
    """TensorFlow's Conv1D: the sequence is an image of one row."""
    nodes = [
        node("Unsqueeze", "x at", "row"),
        node("Conv", "row k", "conv"),
        node("Squeeze", "conv at", "y"),
    ]
    shape = ["n", 3, 8]
    found = axes_of_nodes(nodes, shape, weights("k", 4, 3, 1, 3), constant("at", [2]))
    assert (found["x"], found["y"]) == ("NCT", "NCT")


# --- Sequences and attention --------------------------------------------------------------------


def attention() -> list[Any]:
    """Two heads over an embedding, as PyTorch writes them."""
    nodes = [node("Gather", "table x", "e")]
    for name in "qkv":
        nodes += [
            node("MatMul", f"e w{name}", name),
            node("Reshape", f"{name} heads", f"{name}h"),
            node("Transpose", f"{name}h", f"{name}t", perm=[0, 2, 1, 3]),
        ]
    return [
        *nodes,
        node("Transpose", "kt", "kk", perm=[0, 1, 3, 2]),
        node("MatMul", "qt kk", "products"),
        node("Softmax", "products", "scores", axis=-1),
        node("MatMul", "scores vt", "mixed"),
        node("Transpose", "mixed", "back", perm=[0, 2, 1, 3]),
        node("Reshape", "back joined", "y"),
        node("Add", "y e", "sum"),
        node("LayerNormalization", "sum g", "normal"),
    ]


def test_attention() -> None:
    made = model(
        attention(),
        [value("x", ["n", 9], onnx.TensorProto.INT64)],
        [value("normal", None)],
        [
            weights("table", 100, 8),
            *(weights(f"w{name}", 8, 8) for name in "qkv"),
            weights("g", 8),
            constant("heads", [0, 9, 2, 4]),
            constant("joined", [0, 9, 8]),
        ],
    )
    for name in "qkv":
        made.graph.value_info.append(value(name, ["n", 9, 8]))
    made.graph.value_info.append(value("back", ["n", 9, 2, 4]))
    found = axes_of(made)
    assert found["x"] == "NT"
    assert [found[name] for name in ("e", "q", "y", "sum", "normal")] == ["NTC"] * 5
    assert found["qh"] == "NT?C"
    assert found["qt"] == "N?TC"
    assert "C" not in found["scores"]
    assert found["scores"] == found["products"] == "N???"


def test_dense_layers_over_the_last_axis() -> None:
    found = axes_of_nodes(
        [node("MatMul", "x w", "a"), node("Relu", "a", "y")], ["n", 9, 6], weights("w", 6, 5)
    )
    assert found == {"x": "NTC", "a": "NTC", "y": "NTC"}


def test_a_product_over_positions_keeps_the_channels() -> None:
    """An MLP-Mixer: channels first, then a dense layer over the positions."""
    nodes = [
        node("Conv", "x k", "conv"),
        node("MatMul", "conv w", "mixed"),
        node("Transpose", "mixed", "y", perm=[0, 2, 1]),
    ]
    found = axes_of_nodes(nodes, ["n", 3, 8], weights("k", 4, 3, 1), weights("w", 8, 6))
    assert (found["mixed"], found["y"]) == ("NCT", "NTC")


def test_recurrent_operators() -> None:
    found = axes_of_nodes(
        [node("LSTM", "x w r", "y h c", hidden_size=4)],
        [9, "n", 6],
        weights("w", 1, 16, 6),
        weights("r", 1, 16, 4),
    )
    assert found == {"x": "TNC", "y": "T?NC", "h": "?NC", "c": "?NC"}


def test_einsum_with_weights() -> None:
    found = axes_of_nodes(
        [node("Conv", "x k", "c"), node("Einsum", "c w", "y", equation="nct,cde->ntde")],
        ["n", 3, 8],
        weights("k", 4, 3, 1),
        weights("w", 4, 2, 3),
    )
    assert found["y"] == "NT?C"


# --- What is not known --------------------------------------------------------------------------


def test_nothing_is_guessed() -> None:
    relu = [node("Relu", "x", "y")]
    assert axes_of_nodes(relu, ["n", 8, 8, 3]) == {}
    assert axes_of_nodes(relu, ["n", "a"]) == {}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (["n", 3, 8, 8], "NCHW"),
        (["n", 1, 8, 8], "NCHW"),
        (["n", 8, 8, 3], "NHWC"),
        (["n", "h", "w", 3], "NHWC"),
        (["n", 3, 8, 3], None),
        (["n", 8, 8, 8], None),
        (["n", 3, 8], None),
    ],
)
def test_the_size_of_an_axis_tells_only_on_request(shape: Any, expected: str | None) -> None:
    made = model([node("Relu", "x", "y")], [value("x", shape)], [value("y", shape)])
    assert axes_of(made) == {}
    assert axes_of(made, by_size=True) == ({"x": expected, "y": expected} if expected else {})


def test_known_axes_are_carried_on() -> None:
    made = model(
        [node("Relu", "x", "y"), node("Transpose", "y", "z", perm=[0, 2, 1])],
        [value("x", ["n", 8, 3])],
        [value("z", None)],
    )
    assert axes_of(made, known={"y": "NTC"}) == {"x": "NTC", "y": "NTC", "z": "NCT"}


def test_a_function_of_the_file_is_not_the_operator_of_its_name() -> None:
    opset = onnx.helper.make_opsetid("", 18)
    turning = onnx.helper.make_function(
        "", "Conv", ["a", "b"], ["c"], [node("Identity", "a", "c")], [opset]
    )
    made = model(
        [node("Conv", "x x", "y")], [value("x", ["n", 3, 8, 8])], [value("y", None)],
        functions=[turning],
    )  # fmt: skip
    assert axes_of(made) == {}


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Transpose", "x", "y", perm=[0, 7, 1, 1])],
        [node("Conv", "x", "y")],
        [node("Add", "x y", "y")],
        [node("Gather", "x", "y")],
        [node("Einsum", "x", "y", equation="nchw->q")],
        [node("Reshape", "x huge", "y")],
        [node("Squeeze", "x huge", "y")],
        [node("Unsqueeze", "x huge", "y")],
        [node("ReduceMean", "x huge", "y", keepdims=0)],
        [node("MatMul", "x", "y")],
        [node("Split", "x", "_ y")],
        [node("LSTM", "x", "y y y")],
        [node("Concat", "", "y")],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_nodes_that_break_the_rules(nodes: list[Any]) -> None:
    made = model(
        [*nodes, node("Relu", "y", "z")],
        [value("x", ["n", 3, 8, 8])],
        [value("z", None)],
        [constant("huge", [2**62, -(2**62), 99])],
    )
    found = axes_of(made)
    assert all(set(axes) <= set("NCDHWT?") for axes in found.values())


def test_many_axes_and_many_nodes_take_no_time() -> None:
    chain = [node("Relu", f"t{i}", f"t{i + 1}") for i in range(3000)]
    chain.reverse()  # unsorted: each pass has to go the other way
    made = model(chain, [value("t0", [1] * 200)], [value("t3000", None)])
    assert axes_of(made) == {}


# --- Sizes as the reference ---------------------------------------------------------------------

STEPS = ("relu", "transpose", "add", "unsqueeze", "squeeze", "mean", "concat", "pad", "cast")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_sizes_and_axes_agree(data: st.DataObject) -> None:
    """A chain of operators that keep sizes: where the size of the channels is, there is the `C`."""
    rank = data.draw(st.sampled_from([3, 4, 5]), "rank")
    letters = "NC" + {3: "T", 4: "HW", 5: "DHW"}[rank]
    start: list[Any] = [SIZES[letter] for letter in letters]
    kernel = weights("k", SIZES["C"], SIZES["C"], *[1] * (rank - 2))
    nodes, constants, now = [node("Conv", "x k", "t0")], [kernel], [*start]
    for at in range(data.draw(st.integers(1, 8), "steps")):
        source, out = f"t{at}", f"t{at + 1}"
        step = data.draw(st.sampled_from(STEPS))
        if step == "transpose":
            perm = data.draw(st.permutations(range(len(now))))
            nodes.append(node("Transpose", source, out, perm=perm))
            now = [now[axis] for axis in perm]
        elif step == "add":
            constants.append(weights(f"w{at}", *now[data.draw(st.integers(0, len(now) - 1)) :]))
            nodes.append(node("Add", f"{source} w{at}", out))
        elif step == "unsqueeze" and len(now) < 8:
            axis = data.draw(st.integers(0, len(now)))
            constants.append(constant(f"w{at}", [axis]))
            nodes.append(node("Unsqueeze", f"{source} w{at}", out))
            now.insert(axis, 1)
        elif step == "squeeze" and 1 in now:
            constants.append(constant(f"w{at}", [now.index(1)]))
            nodes.append(node("Squeeze", f"{source} w{at}", out))
            now.remove(1)
        elif step == "mean" and len(now) > 3:
            space = [axis for axis, size in enumerate(now) if size in (13, 7, 11, 9)]
            if not space:
                nodes.append(node("Relu", source, out))
                continue
            constants.append(constant(f"w{at}", [space[0]]))
            nodes.append(node("ReduceMean", f"{source} w{at}", out, keepdims=0))
            del now[space[0]]
        elif step == "concat":
            axis = now.index(SIZES["N"])
            nodes.append(node("Concat", f"{source} {source}", f"{out}/c", axis=axis))
            nodes.append(node("Split", f"{out}/c", f"{out} {out}/rest", axis=axis, num_outputs=2))
        elif step == "cast":
            nodes.append(node("Cast", source, out, to=1))
        else:
            nodes.append(node("Relu", source, out))
    end = nodes[-1].output[0]
    made = model(nodes, [value("x", start)], [value(end, None)], constants)
    inferred = onnx.shape_inference.infer_shapes(made, strict_mode=True).graph
    sizes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in [*inferred.value_info, *inferred.output, *inferred.input]
    }
    found = axes_of(made)
    for name, shape in sizes.items():
        assert len(found[name]) == len(shape), name
        assert found[name].index("C") == shape.index(SIZES["C"]), name
        if "/c" not in name:
            assert found[name].index("N") == shape.index(SIZES["N"]), name


# --- Notation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rank", "channels", "expected"),
    [
        (2, 1, "NC"), (3, 1, "NCT"), (3, 2, "NTC"), (3, -1, "NTC"), (4, 1, "NCHW"),
        (4, 3, "NHWC"), (5, 1, "NCDHW"), (5, -1, "NDHWC"), (6, 1, "NC????"),
    ],
)  # fmt: skip
def test_axes_of_images(rank: int, channels: int, expected: str) -> None:
    assert image_axes(rank, channels) == expected


def test_axes_that_a_card_states() -> None:
    rows = [
        Layer(
            name=name, type="", index=0, shape=(None, 2), dtype="", parameters=0, inbound=(),
            tensor=tensor, axes=axes,
        )
        for name, tensor, axes in [("a", "t", "NC"), ("b", None, "NC"), ("c", "u", None)]
    ]  # fmt: skip
    info = TensorInfo(name="x", shape=(None, 2), dtype="", axes="NT")
    assert stated_axes(rows, [info]) == {"t": "NC", "x": "NT"}
