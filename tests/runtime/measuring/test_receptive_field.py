"""`Model.receptive_field`: compared with what changes when one pixel after the other changes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import layertap
from generators import tiny
from layertap.errors import InputError, LayerNotFoundError, UsageError
from layertap.measuring.dependence import _RULES
from layertap.measuring.receptive_field import Fields

PYTORCH = Path(__file__).parents[2] / "fixtures" / "pytorch"

Nodes = list[onnx.NodeProto]


def made(nodes: Nodes, shape: tuple[int, ...], *constants: onnx.TensorProto, **more: Any) -> Any:
    """x -> ... -> y"""
    outputs = [tiny.value("y", None)]
    return tiny.model(nodes, [tiny.value("x", shape)], outputs, constants, **more)


def one(op: str, shape: tuple[int, ...], *constants: onnx.TensorProto, **attributes: Any) -> Any:
    """One operator, which reads x and the constants."""
    opset = attributes.pop("opset", 18)
    reads = " ".join(["x", *(item.name for item in constants)])
    return made([tiny.node(op, reads, "y", **attributes)], shape, *constants, opset=opset)


def opened(model: Any) -> layertap.Model:
    return layertap.open(model.SerializeToString())


def positive(name: str, *shape: int) -> onnx.TensorProto:
    numbers = np.random.default_rng(len(name) + len(shape)).random(shape) + 0.1
    return tiny.constant(name, numbers, np.float32)


def numbers(name: str, *values: float) -> onnx.TensorProto:
    return tiny.constant(name, values, np.float32 if any(v % 1 for v in values) else np.int64)


def scales(*values: float) -> tuple[onnx.TensorProto, ...]:
    return tiny.constant("roi", [], np.float32), tiny.constant("scales", values, np.float32)


IMAGE = (1, 2, 11, 9)
KERNEL = positive("w", 2, 2, 3, 2)

CASES: dict[str, Any] = {
    "Conv": one("Conv", IMAGE, KERNEL, pads=[1, 0, 2, 1], strides=[2, 1]),
    "Conv dilated": one("Conv", IMAGE, KERNEL, pads=[4, 0, 3, 1], dilations=[3, 2]),
    "Conv same": one("Conv", IMAGE, KERNEL, auto_pad="SAME_UPPER", strides=[2, 2]),
    "Conv same lower": one("Conv", IMAGE, KERNEL, auto_pad="SAME_LOWER", strides=[2, 2]),
    "Conv in padding": one("Conv", IMAGE, KERNEL, pads=[5, 3, 5, 3]),
    "Conv 1-D": one("Conv", (1, 2, 17), positive("w", 2, 2, 3), pads=[2, 0], dilations=[2]),
    "Conv 3-D": one("Conv", (1, 1, 4, 5, 3), positive("w", 1, 1, 2, 3, 2), strides=[1, 2, 1]),
    "MaxPool": one("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    "AveragePool": one("AveragePool", IMAGE, kernel_shape=[2, 3], strides=[3, 2], ceil_mode=1),
    "LpPool": one("LpPool", IMAGE, kernel_shape=[2, 3], strides=[3, 2]),
    "ConvTranspose": one(
        "ConvTranspose", IMAGE, KERNEL, strides=[2, 3], pads=[1, 1, 0, 0], output_padding=[1, 0]
    ),
    "ConvTranspose gaps": one("ConvTranspose", IMAGE, KERNEL, strides=[4, 3], dilations=[1, 2]),
    "ConvTranspose same": one(
        "ConvTranspose", IMAGE, KERNEL, strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "GlobalAveragePool": one("GlobalAveragePool", IMAGE),
    "GlobalMaxPool": one("GlobalMaxPool", IMAGE),
    "GlobalLpPool": one("GlobalLpPool", IMAGE),
    "DepthToSpace": one("DepthToSpace", (1, 8, 4, 3), blocksize=2),
    "SpaceToDepth": one("SpaceToDepth", (1, 1, 8, 6), blocksize=2),
    "Resize nearest": one("Resize", IMAGE, *scales(1, 1, 2, 3), mode="nearest"),
    "Resize linear": one("Resize", IMAGE, *scales(1, 1, 2, 1.5), mode="linear"),
    "Resize smaller": one("Resize", IMAGE, *scales(1, 1, 0.5, 0.3), mode="linear"),
    "Resize antialias": one("Resize", IMAGE, *scales(1, 1, 0.5, 0.3), mode="linear", antialias=1),
    "Resize corners": one(
        "Resize",
        IMAGE,
        *scales(1, 1, 2, 2),
        mode="linear",
        coordinate_transformation_mode="align_corners",
    ),
    "Resize cubic": one("Resize", IMAGE, *scales(1, 1, 2, 2), mode="cubic"),
    "Resize sizes": made(
        [tiny.node("Resize", "x _ _ sizes", "y", mode="nearest", nearest_mode="floor")],
        IMAGE,
        numbers("sizes", 1, 2, 7, 20),
    ),
    "Upsample": one("Upsample", IMAGE, scales(1, 1, 2, 2)[1], opset=9),
    "Pad": one("Pad", IMAGE, numbers("p", 0, 0, 2, -1, 0, 0, 1, 3)),
    "Pad reflect": one("Pad", IMAGE, numbers("p", 0, 0, 3, 1, 0, 0, 2, 2), mode="reflect"),
    "Pad edge": one("Pad", IMAGE, numbers("p", 0, 0, 3, 1, 0, 0, 2, 2), mode="edge"),
    "Pad old": one("Pad", IMAGE, pads=[0, 0, 3, 1, 0, 0, 2, 2], opset=10),
    "Slice": one("Slice", IMAGE, numbers("a", 1, -1), numbers("b", 9, -20), numbers("c", 2, 3),
                 numbers("d", 2, -3)),
    "Slice old": one("Slice", IMAGE, starts=[2], ends=[-2], axes=[2], opset=9),
    "Split": made(
        [tiny.node("Split", "x parts", "a y", axis=2)], IMAGE, numbers("parts", 4, 7)
    ),
    "Concat": made(
        [
            tiny.node("Split", "x parts", "a b", axis=3),
            tiny.node("Concat", "b a", "y", axis=3),
        ],
        IMAGE,
        numbers("parts", 4, 5),
    ),
    "Tile": one("Tile", IMAGE, numbers("r", 1, 1, 2, 1)),
    "Gather": one("Gather", IMAGE, numbers("i", 7, 2, -1), axis=2),
    "Gather one": one("Gather", IMAGE, tiny.constant("i", -2), axis=2),
    "Transpose": one("Transpose", IMAGE, perm=[0, 1, 3, 2]),
    "Reshape": one("Reshape", IMAGE, numbers("s", 1, 2, 99, 1)),
    "Reshape blocks": made(
        [
            tiny.node("Reshape", "x first", "a"),
            tiny.node("Transpose", "a", "b", perm=[0, 1, 2, 4, 3, 5]),
            tiny.node("ReduceSum", "b axes", "y"),
        ],
        (1, 1, 8, 6),
        numbers("first", 1, 1, 2, 4, 3, 2),
        numbers("axes", 3),
    ),
    "Squeeze": made(
        [tiny.node("Squeeze", "x axes", "a"), tiny.node("Unsqueeze", "a axes", "y")],
        (1, 1, 8, 6),
        numbers("axes", 0),
    ),
    "Flatten": made(
        [tiny.node("Flatten", "x", "a"), tiny.node("Reshape", "a back", "y")],
        IMAGE,
        numbers("back", 1, 2, 9, 11),
    ),
    "ReduceMean": one("ReduceMean", IMAGE, numbers("axes", 2)),
    "ArgMax": made(
        [tiny.node("ArgMax", "x", "a", axis=3), tiny.node("Cast", "a", "y", to=1)], (1, 1, 6, 4)
    ),
    "Softmax": one("Softmax", IMAGE, axis=3),
    "Softmax old": one("Softmax", IMAGE, axis=3, opset=11),
    "LogSoftmax": one("LogSoftmax", IMAGE, axis=2),
    "TopK": made([tiny.node("TopK", "x k", "y i", axis=2)], IMAGE, numbers("k", 3)),
    "LpNormalization": one("LpNormalization", IMAGE, axis=3),
    "LayerNormalization": one("LayerNormalization", IMAGE, positive("g", 9)),
    "InstanceNormalization": one(
        "InstanceNormalization", IMAGE, positive("g", 2), positive("bb", 2)
    ),
    "GroupNormalization": one(
        "GroupNormalization", IMAGE, positive("g", 2), positive("bb", 2), num_groups=1, opset=21
    ),
    "MeanVarianceNormalization": one("MeanVarianceNormalization", IMAGE, axes=[3]),
    "LRN": one("LRN", IMAGE, size=3),
    "BatchNormalization": one(
        "BatchNormalization", IMAGE, *(positive(name, 2) for name in "abcd")
    ),
    "CumSum": one("CumSum", IMAGE, tiny.constant("axis", 2)),
    "CumSum reverse": one("CumSum", IMAGE, tiny.constant("axis", 3), reverse=1),
    "MatMul": one("MatMul", IMAGE, positive("w", 9, 4)),
    "Gemm": made(
        [
            tiny.node("Reshape", "x flat", "a"),
            tiny.node("Gemm", "a w", "b", transA=1),
            tiny.node("Reshape", "b back", "y"),
        ],
        (1, 1, 6, 4),
        numbers("flat", 6, 4),
        positive("w", 6, 5),
        numbers("back", 1, 1, 4, 5),
    ),
    "Einsum": one("Einsum", IMAGE, positive("w", 9, 4), equation="nchw,wk->nckh"),
    "attention": made(
        [
            tiny.node("Transpose", "x", "k", perm=[0, 1, 3, 2]),
            tiny.node("MatMul", "x k", "scores"),
            tiny.node("Softmax", "scores", "share", axis=-1),
            tiny.node("MatMul", "share x", "y"),
        ],
        (1, 1, 5, 3),
    ),
    "Expand": made(
        [tiny.node("ReduceMax", "x axes", "a"), tiny.node("Expand", "a s", "y")],
        IMAGE,
        numbers("axes", 2),
        numbers("s", 1, 2, 4, 9),
    ),
    "Mul of a mean": made(
        [tiny.node("ReduceMean", "x axes", "a"), tiny.node("Mul", "x a", "y")],
        IMAGE,
        numbers("axes", 3),
    ),
    "LSTM": made(
        [tiny.node("LSTM", "x w r", "a", hidden_size=2), tiny.node("Squeeze", "a one", "y")],
        (7, 1, 3),
        positive("w", 1, 8, 3),
        positive("r", 1, 8, 2),
        numbers("one", 1),
    ),
    "GRU both ways": made(
        [
            tiny.node("GRU", "x w r", "a", hidden_size=2, direction="bidirectional"),
            tiny.node("Slice", "a from to one", "b"),
            tiny.node("Squeeze", "b one", "y"),
        ],
        (7, 1, 3),
        positive("w", 2, 6, 3),
        positive("r", 2, 6, 2),
        numbers("from", 0),
        numbers("to", 1),
        numbers("one", 1),
    ),
    "RNN reverse": made(
        [
            tiny.node("RNN", "x w r", "a", hidden_size=2, direction="reverse"),
            tiny.node("Squeeze", "a one", "y"),
        ],
        (7, 1, 3),
        positive("w", 1, 2, 3),
        positive("r", 1, 2, 2),
        numbers("one", 1),
    ),
    "two branches": made(
        [
            tiny.node("Conv", "x w", "a", pads=[1, 0, 1, 1]),
            tiny.node("Slice", "x from to axes", "part"),
            tiny.node("Pad", "part pads", "b"),
            tiny.node("Add", "a b", "y"),
        ],
        IMAGE,
        KERNEL,
        numbers("from", 6),
        numbers("to", 11),
        numbers("axes", 2),
        numbers("pads", 0, 0, 6, 0, 0, 0, 0, 0),
    ),
}  # fmt: skip


def boxes(model: Any, space: list[int], out_space: list[int]) -> dict[Any, Any]:
    """By position of y, the box of the positions of x that change it: each is changed alone."""
    session = ort.InferenceSession(model.SerializeToString())
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).random(shape).astype(np.float32) / 2
    plain = session.run(["y"], {"x": x})[0]
    hits: dict[Any, list[Any]] = {
        at: [] for at in itertools.product(*(range(plain.shape[a]) for a in out_space))
    }
    others = tuple(a for a in range(plain.ndim) if a not in out_space)
    for place in itertools.product(*(range(shape[a]) for a in space)):
        changed = x.copy()
        index: list[Any] = [slice(None)] * len(shape)
        for axis, at in zip(space, place, strict=True):
            index[axis] = at
        changed[tuple(index)] += 2
        for step in (1, -2):  # one of them may change nothing, as of the largest value
            changed[tuple(index)] *= step
            differs = (session.run(["y"], {"x": changed})[0] != plain).any(axis=others)
            for hit in np.argwhere(differs).tolist():
                hits[tuple(hit)].append(place)
    return {
        at: tuple((min(one), max(one) + 1) for one in zip(*found, strict=True)) or None
        for at, found in hits.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_the_box_is_what_changes_the_position(name: str) -> None:
    model = opened(CASES[name])
    layer = model.layer("y")
    fields = Fields(model._program, [layer])
    expected = boxes(CASES[name], fields._positions("x"), fields._positions("y"))
    assert {at: fields.of(layer, at).box for at in expected} == expected


def test_every_operator_with_a_rule_of_its_own_has_a_case() -> None:
    rules = {_RULES[node.op_type] for case in CASES.values() for node in case.graph.node}
    names = {rule.__qualname__ for rule in _RULES.values()} - {r.__qualname__ for r in rules}
    assert names == set()


def chain(*layers: tuple[str, int, int]) -> Any:
    """Convolutions and poolings with TensorFlow's padding: (operator, kernel, stride)."""
    nodes, tensor = [], "x"
    for number, (op, kernel, stride) in enumerate(layers):
        target = "y" if number == len(layers) - 1 else f"t{number}"
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2}
        reads = f"{tensor} w{kernel}" if op == "Conv" else tensor
        nodes.append(tiny.node(op, reads, target, None, **sizes, auto_pad="SAME_UPPER"))
        tensor = target
    kernels = [positive(f"w{size}", 1, 1, size, size) for size in {k for _, k, _ in layers}]
    return made(nodes, (1, 1, 224, 224), *kernels)


def block(tensor: str, number: int, stride: int) -> tuple[Nodes, str]:
    """A bottleneck of ResNet50, with its stride in the first convolution, as in Keras."""
    a, b, c, d, out = (f"{letter}{number}" for letter in "abcdo")
    first = stride > 1 or number == 0
    nodes = [
        tiny.node("Conv", f"{tensor} w1", a, strides=[stride] * 2),
        tiny.node("Conv", f"{a} w3", b, pads=[1] * 4),
        tiny.node("Conv", f"{b} w1", c),
        *([tiny.node("Conv", f"{tensor} w1", d, strides=[stride] * 2)] if first else []),
        tiny.node("Add", f"{c} {d if first else tensor}", out),
    ]
    return nodes, out


def resnet50() -> Any:
    nodes = [
        tiny.node("Conv", "x w7", "stem", strides=[2, 2], pads=[3] * 4),
        tiny.node("MaxPool", "stem", "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    ]
    tensor, number = "pool", 0
    for stage, count in enumerate((3, 4, 6, 3)):
        for at in range(count):
            more, tensor = block(tensor, number, 2 if stage and at == 0 else 1)
            nodes, number = [*nodes, *more], number + 1
    nodes.append(tiny.node("Relu", tensor, "y"))
    kernels = [positive(f"w{size}", 1, 1, size, size) for size in (1, 3, 7)]
    return made(nodes, (1, 1, 224, 224), *kernels)


VGG16 = [
    *itertools.chain.from_iterable(
        [("Conv", 3, 1)] * count + [("MaxPool", 2, 2)] for count in (2, 2, 3, 3, 3)
    )
]
MOBILENET = [("Conv", 3, 2)] + [
    ("Conv", 3, stride) for stride in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
]


@pytest.mark.parametrize(
    ("network", "size", "padding"),
    [(chain(*VGG16), 212, 90), (chain(*MOBILENET), 315, 126), (resnet50(), 483, None)],
    ids=["VGG16", "MobileNet", "ResNet50"],
)
def test_the_published_sizes(network: Any, size: int, padding: int | None) -> None:
    """The table in https://github.com/google-research/receptive_field, of Araujo et al. 2019. The
    padding of its ResNet50 is that of TF-Slim, which puts the strides elsewhere."""
    found = opened(network).receptive_field("y", (3, 4))
    assert found.size == (size, size)
    assert found.stride == (32, 32)
    if padding is not None:
        assert found.start == (-padding, -padding)
        rows = 32 * 3 - padding
        assert found.unclipped == ((rows, rows + size), (rows + 32, rows + 32 + size))
    spans = found.unclipped or ()
    assert found.box == tuple((max(first, 0), min(last, 224)) for first, last in spans)


def test_enlargements_have_fractions_as_strides() -> None:
    nodes = [
        tiny.node("Conv", "x w", "a", strides=[2, 2]),
        tiny.node("Resize", "a roi scales", "y", mode="nearest"),
    ]
    made_of = made(nodes, IMAGE, KERNEL, *scales(1, 1, 3, 4))
    found = opened(made_of).receptive_field("y")
    assert found.stride == (2 / 3, 0.5)
    assert found.size == (3, 2)


def test_what_reads_the_whole_input_is_named() -> None:
    nodes = [
        tiny.node("Conv", "x w", "a"),
        tiny.node("GlobalAveragePool", "a", "squeezed"),
        tiny.node("Mul", "a squeezed", "scaled"),
        tiny.node("Conv", "scaled w", "y"),
    ]
    model = opened(made(nodes, IMAGE, KERNEL))
    found = model.receptive_field("y")
    assert (found.whole, found.mixed, found.size, found.stride) == (
        "squeezed",
        None,
        (5, 3),
        (1, 1),
    )
    assert found.box == ((0, 11), (0, 9))
    assert found.unclipped == ((3, 8), (3, 6))
    assert model.receptive_field("a").whole is None
    assert str(found) == (
        "y 7 x 7, of x 11 x 9\n"
        "size 5 x 3, stride 1 x 1, start 0, 0\n"
        "reads the whole input through squeezed\n"
        "at 3, 3: rows 0:11, columns 0:9"
    )
    pooled = model.receptive_field("squeezed")
    assert (pooled.size, pooled.stride, pooled.unclipped) == (None, None, None)


def test_what_mixes_positions_is_named() -> None:
    found = opened(CASES["Reshape"]).receptive_field("y", (13, 0))
    assert (found.size, found.whole, found.mixed) == (None, None, "y")
    assert found.box == ((1, 2), (4, 5))
    assert "no size: y mixes positions" in str(found)


def test_ways_along_different_axes_are_named_where_they_part() -> None:
    nodes = [
        tiny.node("Relu", "x", "a"),
        tiny.node("Conv", "a w", "b"),
        tiny.node("Transpose", "b", "turned", perm=[0, 1, 3, 2]),
        tiny.node("Add", "b turned", "y"),
    ]
    model = opened(made(nodes, (1, 2, 7, 6), KERNEL))
    found = model.receptive_field("y", (0, 2))
    assert (found.size, found.whole, found.mixed) == (None, None, "turned")
    assert found.box == ((0, 5), (0, 4))


def test_several_layers_are_a_dict_of_those_with_positions() -> None:
    nodes = [
        tiny.node("Conv", "x w", "a"),
        tiny.node("ReduceMean", "a axes", "pooled", keepdims=0),
        tiny.node("MatMul", "pooled m", "y"),
    ]
    parts = [KERNEL, numbers("axes", 2, 3), positive("m", 2, 3)]
    model = opened(made(nodes, IMAGE, *parts))
    found = model.receptive_field(None)
    assert [*found] == ["a"]
    assert json.loads(json.dumps(found["a"].to_dict()))["box"] == [[4, 7], [4, 6]]
    with pytest.raises(UsageError) as caught:
        model.receptive_field("pooled")
    assert str(caught.value) == (
        "'pooled' has no positions, only samples and channels: each value is one of the whole "
        "input. Choose a layer with feature maps."
    )
    with pytest.raises(LayerNotFoundError):
        model.receptive_field("nothing")


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ((9, 0), "at (9, 0) is outside of 'y', which has 9 x 8 positions, counted from 0."),
        ((0, -1), "at must be at least 0, got -1."),
        (3, "at must be 2 integers for 'y', which has 9 x 8 positions, got 3."),
        ("1,2", "at must be 2 integers for 'y', which has 9 x 8 positions, got '1,2'."),
        ((1.5, 2), "at must be an integer of at least 0, got 1.5."),
    ],
)
def test_a_position_that_does_not_exist(at: Any, message: str) -> None:
    model = opened(one("Conv", IMAGE, KERNEL))
    with pytest.raises(UsageError) as caught:
        model.receptive_field("y", at)
    assert str(caught.value) == message


def test_an_operator_that_is_not_known_is_named() -> None:
    nodes = [
        tiny.node("Relu", "x", "a"),
        tiny.node("NonZero", "a", "b"),
        tiny.node("Unsqueeze", "b zero", "c"),
        tiny.node("Cast", "c", "y", to=1),
    ]
    model = opened(made(nodes, IMAGE, numbers("zero", 0)))
    with pytest.raises(UsageError) as caught:
        model.receptive_field("y")
    assert "computes 'b' with the operator NonZero, which is not one that layertap knows" in str(
        caught.value
    )
    assert model.receptive_field("a", (2, 3)).box == ((2, 3), (3, 4))


def test_positions_that_depend_on_values_are_refused() -> None:
    nodes = [
        tiny.node("ReduceSum", "x", "total", keepdims=0),
        tiny.node("Cast", "total", "whole", to=7),
        tiny.node("Reshape", "whole one", "end"),
        tiny.node("Slice", "x zero end", "y"),
    ]
    model = opened(made(nodes, IMAGE, numbers("one", 1), numbers("zero", 0)))
    with pytest.raises(UsageError, match="operator Slice, whose positions depend on the values"):
        model.receptive_field("y")


def test_free_sizes_come_from_size() -> None:
    model = opened(one("Conv", (1, 2, "h", "w"), KERNEL))  # type: ignore[arg-type]
    assert model.receptive_field("y", size=(20, 30)).input_size == (20, 30)
    with pytest.raises(UsageError, match="Give size"):
        model.receptive_field("y")


def test_sizes_that_the_graph_computes() -> None:
    """A crop to two thirds of the height, for whatever height."""
    nodes = [
        tiny.node("Shape", "x", "shape"),
        tiny.node("Gather", "shape two", "height"),
        tiny.node("Div", "height three", "third"),
        tiny.node("Slice", "x third height two", "crop"),
        tiny.node("Conv", "crop w", "y"),
    ]
    parts = [numbers("two", 2), numbers("three", 3), KERNEL]
    model = opened(made(nodes, IMAGE, *parts))
    assert model.receptive_field("y", (0, 0)).box == ((3, 6), (0, 2))


def test_files_from_pytorch() -> None:
    """In `whole` files, onnxruntime takes some operators apart before it runs them."""
    found = []
    for form in ("newer", "newer-whole", "older", "older-whole"):
        model = layertap.open(PYTORCH / f"resnet.{form}.onnx")
        fields = model.receptive_field(None).values()
        found.append({(x.size, x.stride, x.start, x.box) for x in fields if x.size})
    assert found[0] == found[1] == found[2] == found[3]
    assert max(size for size, *_ in found[0]) > (20, 20)


def test_several_inputs_need_a_choice() -> None:
    nodes = [tiny.node("Conv", "b w", "c"), tiny.node("Add", "a c", "y")]
    inputs = [tiny.value("a", (1, 2, 5, 6)), tiny.value("b", (1, 2, 7, 7))]
    model = opened(tiny.model(nodes, inputs, [tiny.value("y", None)], [KERNEL]))
    assert model.receptive_field("y", (1, 1), input_name="b").box == ((1, 4), (1, 3))
    assert model.receptive_field("y", (1, 1), input_name="a").box == ((1, 2), (1, 2))
    assert model.receptive_field("c").input == "b"
    with pytest.raises(UsageError, match="depends on several inputs: 'a', 'b'"):
        model.receptive_field("y")
    with pytest.raises(UsageError, match="'c' does not depend on 'a'"):
        model.receptive_field("c", input_name="a")
    with pytest.raises(UsageError, match="has no input 'aa', only 'a', 'b'"):
        model.receptive_field("y", input_name="aa")


def test_the_measured_box_is_that_of_the_weights() -> None:
    """A kernel whose last row and first column are 0."""
    kernel = np.ones((2, 2, 5, 3), np.float32)
    kernel[:, :, -1] = kernel[:, :, :, 0] = 0
    made_of = one("Conv", IMAGE, tiny.constant("w", kernel, np.float32))
    model = opened(made_of)
    found = model.receptive_field("y", (2, 3), measure="random")
    assert found.box == ((2, 7), (3, 6))
    assert found.measured == ((2, 6), (4, 6))
    image = np.random.default_rng(1).random(IMAGE).astype(np.float32)
    assert model.receptive_field("y", (2, 3), measure=image).measured == ((2, 6), (4, 6))
    assert "measured: rows 2:6, columns 4:6" in str(found)
    dead = one("Conv", IMAGE, tiny.constant("w", 0 * kernel, np.float32))
    assert opened(dead).receptive_field("y", (2, 3), measure="random").measured is None
    with pytest.raises(InputError):
        model.receptive_field("y", measure=image[0])
    several = one("Conv", ("n", 2, 11, 9), KERNEL)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="measure must be one sample, got 2"):
        opened(several).receptive_field("y", measure=np.concatenate([image, image]))
