"""Tiny ONNX models, made with the `onnx` package: one function each, named for what it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from layertap.format.card import KEY, Card, Gradients, Source, TensorInfo
from layertap.format.layer import Layer

FLOAT = TensorProto.FLOAT
Shape = Sequence[int | str | None]


# --- Parts --------------------------------------------------------------------------------------


def value(name: str, shape: Shape | None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def weights(name: str, *shape: int, seed: int = 0, fan_in: int = 1) -> onnx.TensorProto:
    """Normal numbers that depend on the name, so that no two weights are alike."""
    generator = np.random.default_rng([seed, *name.encode()])
    numbers = generator.normal(size=shape) / fan_in**0.5
    return numpy_helper.from_array(numbers.astype(np.float32), name)


def constant(name: str, data: Any, dtype: Any = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(data, dtype=dtype), name)


def node(op: str, reads: str, writes: str, name: str | None = None, **attributes: Any) -> Any:
    """`node("Add", "a b", "c")`; `_` stands for an input that is left out."""
    inputs = ["" if item == "_" else item for item in reads.split()]
    return helper.make_node(op, inputs, writes.split(), name=name or writes, **attributes)


def changed(
    made: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> onnx.ModelProto:
    """A copy of a model with another value of one weight."""
    copy = onnx.ModelProto.FromString(made.SerializeToString())
    (item,) = (item for item in copy.graph.initializer if item.name == name)
    value = numpy_helper.to_array(item)
    item.CopyFrom(numpy_helper.from_array(change(value).astype(value.dtype), name))
    return copy


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    card: Card | None = None,
    opset: int = 18,
    ir_version: int = 8,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, list(initializers))
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(name, version) for name, version in (domains or {}).items()]
    made = helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=ir_version,
        functions=list(functions),
        producer_name="tiny",
    )
    if card:
        helper.set_model_props(made, {KEY: card.to_json(), "author": "tests"})
    return made


def card(
    layers: Sequence[Layer],
    inputs: Mapping[str, tuple[int | None, ...]],
    outputs: Mapping[str, tuple[int | None, ...]],
    **more: Any,
) -> Card:
    return Card(
        source=Source(
            framework="keras", version="3.15.1", model="tiny", type="Functional", weights_sha256="0"
        ),
        inputs=tuple(TensorInfo(name=n, shape=s, dtype="float32") for n, s in inputs.items()),
        outputs=tuple(TensorInfo(name=n, shape=s, dtype="float32") for n, s in outputs.items()),
        layers=tuple(layers),
        **more,
    )


def layer(
    index: int,
    name: str,
    kind: str,
    shape: tuple[int | None, ...],
    inbound: str = "",
    parameters: int = 0,
    exposed: bool = True,
) -> Layer:
    return Layer(
        name=name,
        type=kind,
        index=index,
        shape=shape,
        dtype="float32",
        parameters=parameters,
        inbound=tuple(inbound.split()),
        tensor=name if exposed else None,
    )


def save(made: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


# --- Models with a card -------------------------------------------------------------------------


def linear_chain() -> onnx.ModelProto:
    """x (n, 4) -> a -> b -> c, dense layers of 5, 3 and 2."""
    sizes = {"a": (4, 5), "b": (5, 3), "c": (3, 2)}
    nodes, rows, before = [], [layer(0, "x", "InputLayer", (None, 4))], "x"
    for index, (name, (fan_in, fan_out)) in enumerate(sizes.items(), start=1):
        nodes.append(node("MatMul", f"{before} {name}/w", f"{name}/product"))
        nodes.append(node("Add", f"{name}/product {name}/b", name))
        parameters = fan_in * fan_out + fan_out
        rows.append(layer(index, name, "Dense", (None, fan_out), before, parameters))
        before = name
    return model(
        nodes,
        [value("x", ["batch", 4])],
        [value(name, ["batch", sizes[name][1]]) for name in "cab"],
        [weights(f"{name}/w", *shape) for name, shape in sizes.items()]
        + [weights(f"{name}/b", shape[1]) for name, shape in sizes.items()],
        card=card(rows, {"x": (None, 4)}, {"c": (None, 2)}),
    )


def image_classifier(
    height: int | None = 8, width: int | None = 6, preprocessing: bool = True
) -> onnx.ModelProto:
    """Images (n, 8, 6, 3) -> conv -> relu -> drop (as it is) -> pool -> probs, as layertap exports.

    `hidden` is a layer that the export left out.
    """
    h, w = (height or "height"), (width or "width")
    nodes = [
        node("Transpose", "image", "first", perm=[0, 3, 1, 2]),
        node("Conv", "first kernel bias", "conv_nchw", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", "conv_nchw", "relu_nchw"),
        node("GlobalAveragePool", "relu_nchw", "pooled"),
        node("Flatten", "pooled", "pool"),
        node("MatMul", "pool dense", "logits"),
        node("Softmax", "logits", "probs", axis=-1),
        node("Transpose", "conv_nchw", "conv", perm=[0, 2, 3, 1]),
        node("Transpose", "relu_nchw", "relu", perm=[0, 2, 3, 1]),
        node("Identity", "relu", "drop"),
    ]
    rows = [
        layer(0, "image", "InputLayer", (None, height, width, 3)),
        layer(1, "conv", "Conv2D", (None, height, width, 4), "image", 112),
        layer(2, "relu", "ReLU", (None, height, width, 4), "conv"),
        layer(3, "drop", "Dropout", (None, height, width, 4), "relu"),
        layer(4, "pool", "GlobalAveragePooling2D", (None, 4), "drop"),
        layer(5, "hidden", "Dropout", (None, 4), "pool", exposed=False),
        layer(6, "probs", "Dense", (None, 2), "hidden", 8),
    ]
    size = [height, width] if height and width else None
    recipe = {"size": size, "scaling": {"mode": "rescale", "scale": 1 / 255}}
    return model(
        nodes,
        [value("image", ["batch", h, w, 3])],
        [
            value("probs", ["batch", 2]),
            *(value(name, ["batch", h, w, 4]) for name in ("conv", "relu", "drop")),
            value("pool", ["batch", 4]),
        ],
        [weights("kernel", 4, 3, 3, 3), weights("bias", 4), weights("dense", 4, 2)],
        card=card(
            rows,
            {"image": (None, height, width, 3)},
            {"probs": (None, 2)},
            labels=("cat", "dog"),
            preprocessing=recipe if preprocessing else None,
        ),
    )


def digits() -> onnx.ModelProto:
    """Grey images (n, 8, 8, 1) -> stem_relu -> pool -> average -> digit, with random weights.

    Layers of these names and shapes has the network in `layertap_models.digits`, too.
    """
    rows = [
        layer(0, "image", "InputLayer", (None, 8, 8, 1)),
        layer(1, "stem_relu", "Activation", (None, 8, 8, 32), "image", 288),
        layer(2, "pool", "MaxPooling2D", (None, 4, 4, 32), "stem_relu"),
        layer(3, "average", "GlobalAveragePooling2D", (None, 96), "pool", 27648),
        layer(4, "digit", "Dense", (None, 10), "average", 960),
    ]
    return model(
        [
            node("Transpose", "image", "first", perm=[0, 3, 1, 2]),
            node("Conv", "first kernel", "stem", pads=[1, 1, 1, 1]),
            node("Relu", "stem", "stem_nchw"),
            node("MaxPool", "stem_nchw", "pool_nchw", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", "pool_nchw kernel2", "last", pads=[1, 1, 1, 1]),
            node("Relu", "last", "last_nchw"),
            node("GlobalAveragePool", "last_nchw", "pooled"),
            node("Flatten", "pooled", "average"),
            node("MatMul", "average dense", "logits"),
            node("Softmax", "logits", "digit"),
            node("Transpose", "stem_nchw", "stem_relu", perm=[0, 2, 3, 1]),
            node("Transpose", "pool_nchw", "pool", perm=[0, 2, 3, 1]),
        ],
        [value("image", ["batch", 8, 8, 1])],
        [
            value("digit", ["batch", 10]),
            value("average", ["batch", 96]),
            value("stem_relu", ["batch", 8, 8, 32]),
            value("pool", ["batch", 4, 4, 32]),
        ],
        [
            weights("kernel", 32, 1, 3, 3, fan_in=9),
            weights("kernel2", 96, 32, 3, 3, fan_in=288),
            weights("dense", 96, 10, fan_in=96),
        ],
        card=card(
            rows,
            {"image": (None, 8, 8, 1)},
            {"digit": (None, 10)},
            preprocessing={
                "size": [8, 8],
                "color_mode": "grayscale",
                "interpolation": "box",
                "scaling": {"mode": "rescale", "scale": 1 / 255},
            },
        ),
    )


def images(n: int = 2, seed: int = 0) -> np.ndarray:
    """What `image_classifier` takes, (n, 8, 6, 3)."""
    return np.random.default_rng(seed).random((n, 8, 6, 3)).astype(np.float32)


def two_inputs() -> onnx.ModelProto:
    """An image (n, 4, 4, 3) and a vector (n, 5) -> `sum` and `product`; `seen` reads the image."""
    rows = [
        layer(0, "image", "InputLayer", (None, 4, 4, 3)),
        layer(1, "vector", "InputLayer", (None, 5)),
        layer(2, "seen", "Dense", (None, 5), "image", 240),
        layer(3, "sum", "Add", (None, 5), "seen vector"),
        layer(4, "product", "Multiply", (None, 5), "seen vector"),
    ]
    return model(
        [
            node("Flatten", "image", "flat"),
            node("MatMul", "flat kernel", "seen"),
            node("Add", "seen vector", "sum"),
            node("Mul", "seen vector", "product"),
        ],
        [value("image", ["batch", 4, 4, 3]), value("vector", ["batch", 5])],
        [value(name, ["batch", 5]) for name in ("sum", "product", "seen")],
        [weights("kernel", 48, 5)],
        card=card(
            rows,
            {"image": (None, 4, 4, 3), "vector": (None, 5)},
            {"sum": (None, 5), "product": (None, 5)},
            preprocessing={"size": [4, 4]},
        ),
    )


DIFFERENTIABLE = (
    weights("kernel", 4, 3, 3, 3, fan_in=27),
    weights("bias", 4),
    weights("kernel2", 5, 4, 3, 3, fan_in=36),
    weights("bias2", 5),
    weights("dense", 5, 3, fan_in=5, seed=131),  # the best class is not the same for all images
    weights("dense_bias", 3, seed=131),
)
"""The weights of `differentiable`."""


def _forwards(final: str) -> list[onnx.NodeProto]:
    return [
        node("Conv", "first kernel bias", "conv_nchw", pads=[1, 1, 1, 1]),
        node("Relu", "conv_nchw", "relu_nchw"),
        node("Add", "relu_nchw conv_nchw", "joined"),  # a way past relu
        node("Conv", "joined kernel2 bias2", "mixed_nchw", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "mixed_nchw", "last_nchw"),
        node("GlobalAveragePool", "last_nchw", "pooled"),
        node("Flatten", "pooled", "pool"),
        node("Gemm", "pool dense dense_bias", "logits"),
        node(final, "logits", "probs"),
    ]


def turned(source: str, target: str, perm: list[int]) -> onnx.NodeProto:
    """A Transpose, or an Identity if the axes keep their order."""
    if perm == sorted(perm):
        return node("Identity", source, target)
    return node("Transpose", source, target, perm=perm)


def differentiable(
    *,
    broadcasts: bool = True,
    score: str = "logits",
    final: str = "Sigmoid",
    channels_first: bool = False,
    states_axes: bool = False,
) -> onnx.ModelProto:
    """Images (n, 8, 6, 3) -> conv -> relu, + conv -> mixed (n, 4, 3, 5) -> last -> pool -> probs,
    three classes; and its gradients, put in by hand.

    Args:
        broadcasts: whether one image may go with many rows of weights.
        score: what is differentiated: `logits`, or `output` (for a sigmoid).
        final: the last operator, `Sigmoid` or `Softmax`.
        channels_first: whether the image and all layers have channels first, as in a Keras model
            with `data_format="channels_first"`.
        states_axes: whether the card states the axes, as cards of format 1.3 do.
    """
    order = (2, 0, 1) if channels_first else (0, 1, 2)

    def arranged(shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape[axis] for axis in order) if len(shape) == 3 else tuple(shape)

    nodes = [
        turned("image", "first", [0, 1, 2, 3] if channels_first else [0, 3, 1, 2]),
        *_forwards(final),
        node("Sub", "one probs", "left"),
        node("Mul", "probs left", "slope"),
        node("Mul", "score_weights slope", "seed_output"),
        node("Identity", "score_weights", "seed_logits"),
        node("Transpose", "dense", "dense_t", perm=[1, 0]),
        node("MatMul", f"seed_{score} dense_t", "g_pool"),
        node("Unsqueeze", "g_pool places", "g_place"),
        node("Div", "g_place count", "g_mean"),
        node("Shape", "last_nchw", "last_shape"),
        node("Expand", "one last_shape", "ones"),
        node("Mul", "g_mean ones", "g_last"),
        node("Sign", "last_nchw", "last_mask"),
        node("Mul", "g_last last_mask", "g_mixed"),
        node(
            "ConvTranspose", "g_mixed kernel2", "g_joined",
            pads=[1, 1, 1, 1], strides=[2, 2], output_padding=[1, 1],
        ),
        node("Sign", "relu_nchw", "relu_mask"),
        node("Add", "relu_mask one", "both_ways"),
        node("Mul", "g_joined both_ways", "g_conv"),
        node("ConvTranspose", "g_conv kernel", "g_image", pads=[1, 1, 1, 1]),
    ]  # fmt: skip
    shapes = {"conv": (8, 6, 4), "relu": (8, 6, 4), "mixed": (4, 3, 5), "last": (4, 3, 5)}
    perm = [0, 1, 2, 3] if channels_first else [0, 2, 3, 1]
    nodes += [turned(f"{n}_nchw", n, perm) for n in shapes]
    sources = {"conv": "conv", "relu": "joined", "mixed": "mixed", "last": "last", "image": "image"}
    for name, source in sources.items():
        shown = f"grad/{name}" if broadcasts else f"turned/{name}"
        nodes.append(turned(f"g_{source}", shown, perm))
        if not broadcasts:  # a shape that must be that of the layer
            nodes.append(node("Shape", name, f"shape/{name}"))
            nodes.append(node("Reshape", f"turned/{name} shape/{name}", f"grad/{name}"))
    rows = [
        layer(0, "image", "InputLayer", (None, 8, 6, 3)),
        layer(1, "conv", "Conv2D", (None, 8, 6, 4), "image", 112),
        layer(2, "relu", "ReLU", (None, 8, 6, 4), "conv"),
        layer(3, "mixed", "Conv2D", (None, 4, 3, 5), "relu conv", 185),
        layer(4, "last", "ReLU", (None, 4, 3, 5), "mixed"),
        layer(5, "pool", "GlobalAveragePooling2D", (None, 5), "last"),
        layer(6, "probs", "Dense", (None, 3), "pool", 18),
    ]
    maps = "NCHW" if channels_first else "NHWC"
    rows = [
        replace(
            row,
            shape=(None, *arranged([size or 0 for size in row.shape[1:]])),
            axes=(maps if len(row.shape) == 4 else "NC") if states_axes else None,
        )
        for row in rows
    ]
    image = arranged((8, 6, 3))
    return model(
        nodes,
        [value("image", ["batch", *image]), value("score_weights", ["rows", 3])],
        [
            value("probs", ["batch", 3]),
            *(value(name, ["batch", *arranged(shape)]) for name, shape in shapes.items()),
            value("pool", ["batch", 5]),
            *(
                value(f"grad/{name}", [None, *arranged(shape)])
                for name, shape in {**shapes, "image": (8, 6, 3)}.items()
            ),
        ],
        [
            *DIFFERENTIABLE,
            constant("score_weights", np.ones((1, 3)), np.float32),
            constant("one", 1, np.float32),
            constant("count", 12, np.float32),
            constant("places", [2, 3]),
        ],
        card=card(
            rows,
            {"image": (None, *image)},
            {"probs": (None, 3)},
            labels=("cat", "dog", "bird"),
            preprocessing={"size": [8, 6], "scaling": {"mode": "rescale", "scale": 1 / 255}},
            gradients=Gradients(
                output="probs",
                score=score,
                weights="score_weights",
                tensors={name: f"grad/{name}" for name in sources},
                broadcasts=broadcasts,
            ),
        ),
    )


def frames() -> onnx.ModelProto:
    """Three frames (n, 3, 4), all of which `td/relu` takes for one batch (3 n, 4), and a bias."""
    rows = [
        layer(0, "frames", "InputLayer", (None, 3, 4)),
        layer(1, "bias", "InputLayer", (None, 4)),
        layer(2, "td", "TimeDistributed", (None, 3, 4), "frames"),
        replace(layer(3, "td/relu", "ReLU", (None, 4)), parent="td", per_sample=False),
        layer(4, "sum", "Add", (None, 4), "td bias"),
    ]
    return model(
        [
            node("Reshape", "frames all", "flat"),
            node("Relu", "flat", "td/relu"),
            node("Reshape", "td/relu each", "td"),
            node("ReduceSum", "td steps", "total", keepdims=0),
            node("Add", "total bias", "sum"),
        ],
        [value("frames", ["batch", 3, 4]), value("bias", ["batch", 4])],
        [value("sum", ["batch", 4]), value("td", ["batch", 3, 4]), value("td/relu", [None, 4])],
        [constant("all", [-1, 4]), constant("each", [-1, 3, 4]), constant("steps", [1])],
        card=card(rows, {"frames": (None, 3, 4), "bias": (None, 4)}, {"sum": (None, 4)}),
    )


# --- Models without one -------------------------------------------------------------------------


def residual() -> onnx.ModelProto:
    """A branch that joins again, read twice on the way; a weight shared by two nodes."""
    return model(
        [
            node("MatMul", "x w", "a"),
            node("Relu", "a", "b"),
            node("MatMul", "b w", "c"),
            node("Add", "a c", "d"),
            node("Add", "d b", "y"),
        ],
        [value("x", ["n", 3])],
        [value("y", ["n", 3])],
        [weights("w", 3, 3)],
    )


def channels_first() -> onnx.ModelProto:
    """The network of `differentiable` as PyTorch would have it: images (n, 3, 8, 6), no card."""
    return model(
        _forwards("Sigmoid"),
        [value("first", ["n", 3, 8, 6])],
        [value("probs", ["n", 3])],
        DIFFERENTIABLE,
    )


def channels_first_gradients() -> onnx.ModelProto:
    """`channels_first` with the gradients of `differentiable`, and the card of a file from
    elsewhere, of which nothing is Keras's.
    """
    made = differentiable()
    graph = made.graph
    kept = [one for one in graph.node if "image" not in one.input]
    del graph.node[:]
    graph.node.extend(kept)
    graph.input[0].CopyFrom(value("first", ["n", 3, 8, 6]))
    shapes = {"last_nchw": (5, 4, 3), "relu_nchw": (4, 8, 6)}
    gradients = {"last_nchw": "g_last", "relu_nchw": "g_joined", "first": "g_image"}
    graph.output.extend(value(name, ["n", *shape]) for name, shape in shapes.items())
    graph.output.extend(value(name, None) for name in gradients.values())
    (prop,) = (item for item in made.metadata_props if item.key == KEY)
    known = Card.from_json(prop.value)
    assert known.gradients is not None
    rows = [layer(0, "relu_nchw", "Relu", (None, 4, 8, 6))]
    rows.append(layer(1, "last_nchw", "Relu", (None, 5, 4, 3)))
    prop.value = replace(
        known,
        source=replace(known.source, framework="onnx"),
        inputs=(TensorInfo(name="first", shape=(None, 3, 8, 6), dtype="float32"),),
        layers=tuple(rows),
        preprocessing=None,
        gradients=replace(known.gradients, tensors=gradients),
    ).to_json()
    return made


def unused_parts() -> onnx.ModelProto:
    """Nodes, weights and an input that lead nowhere."""
    return model(
        [
            node("Neg", "x", "y"),
            node("Add", "other dead_w", "dead"),
            node("Relu", "dead", "deader"),
            node("Split", "y", "left right", num_outputs=2, axis=1),
        ],
        [value("x", ["n", 4]), value("other", ["n", 2])],
        [value("y", ["n", 4]), value("left", ["n", 2])],
        [weights("dead_w", 2), weights("deader_w", 2)],
    )


def leaves() -> onnx.ModelProto:
    """Chains of Transposes and Identities at the end, off a node, an input and a weight."""
    return model(
        [
            node("Relu", "x", "r"),
            node("Transpose", "r", "t1", perm=[0, 2, 3, 1]),
            node("Identity", "t1", "t2"),
            node("Transpose", "t2", "t3", perm=[1, 0, 3, 2]),
            node("Transpose", "t3", "t4"),
            node("Transpose", "x", "tx", perm=[2, 0, 1, 3]),
            node("Identity", "x", "ix"),
            node("Transpose", "w", "tw"),
            node("Neg", "t1", "inner"),
        ],
        [value("x", ["n", 2, 3, 4])],
        [value(name, None) for name in ("t3", "t4", "tx", "ix", "tw", "inner")],
        [weights("w", 2, 3)],
    )


def branching() -> onnx.ModelProto:
    """An If whose branches capture tensors, a weight and an input; one holds another If."""
    inner_then = helper.make_graph(
        [node("Mul", "a k", "it")], "inner_then", [], [value("it", None)]
    )
    inner_else = helper.make_graph(
        [node("Sub", "a x", "ie")], "inner_else", [], [value("ie", None)]
    )
    then = helper.make_graph(
        [
            node("Add", "a w", "local"),
            node("If", "flag2", "nested", then_branch=inner_then, else_branch=inner_else),
            node("Add", "local nested", "then_out"),
        ],
        "then",
        [],
        [value("then_out", None)],
        [weights("k", 3)],
    )
    otherwise = helper.make_graph(
        [node("Identity", "b", "else_out")], "else", [], [value("else_out", None)]
    )
    return model(
        [
            node("Relu", "x", "a"),
            node("Neg", "x", "b"),
            node("Exp", "x", "unused"),
            node("Cast", "switch", "flag", to=TensorProto.BOOL),
            node("Not", "flag", "flag2"),
            node("If", "flag", "y", then_branch=then, else_branch=otherwise),
            node("Neg", "y", "z"),
        ],
        [value("x", ["n", 3]), value("switch", [], TensorProto.INT32)],
        [value("z", ["n", 3])],
        [weights("w", 3), weights("unused_w", 3)],
    )


def looping() -> onnx.ModelProto:
    """A Loop that doubles what it captures, and a Scan that sums rows onto a captured tensor."""
    body = helper.make_graph(
        [
            node("Add", "state step", "next"),
            node("Identity", "keep_in", "keep_out"),
            node("Identity", "next", "seen"),
        ],
        "body",
        [
            value("i", [], TensorProto.INT64),
            value("keep_in", [], TensorProto.BOOL),
            value("state", None),
        ],
        [value("keep_out", [], TensorProto.BOOL), value("next", None), value("seen", None)],
    )
    scan = helper.make_graph(
        [node("Add", "carry row", "sum"), node("Mul", "sum step", "scaled")],
        "scan",
        [value("carry", [3]), value("row", [3])],
        [value("sum", [3]), value("scaled", [3])],
    )
    return model(
        [
            node("Relu", "x", "a"),
            node("ReduceMax", "a", "step", axes=[0], keepdims=0),
            node("Loop", "count keep a", "last all", body=body),
            node("Scan", "step a", "total rows", body=scan, num_scan_inputs=1),
            node("Neg", "total", "y"),
        ],
        [value("x", ["n", 3])],
        [value("y", [3]), value("last", ["n", 3])],
        [constant("count", 3), constant("keep", True, np.bool_)],
        opset=17,
    )


def with_function() -> onnx.ModelProto:
    """A function of the file's own, used twice; another has the name of a standard operator."""
    swish = helper.make_function(
        "own",
        "Swish",
        ["v"],
        ["o"],
        [node("Sigmoid", "v", "s"), node("Mul", "v s", "o")],
        [helper.make_opsetid("", 18)],
    )
    return model(
        [
            node("Swish", "x", "a", domain="own"),
            node("Add", "a w", "b"),
            node("Swish", "b", "y", domain="own"),
        ],
        [value("x", ["n", 3])],
        [value("y", ["n", 3])],
        [weights("w", 3)],
        functions=[swish],
        domains={"own": 1},
    )


def sparse() -> onnx.ModelProto:
    """A sparse initialiser that is multiplied with the input, and one that nobody reads."""
    made = model(
        [node("MatMul", "x s", "a"), node("Relu", "a", "y")],
        [value("x", ["n", 3])],
        [value("y", ["n", 2])],
    )
    for name in ("s", "unread"):
        numbers = helper.make_tensor(name, FLOAT, [2], [1.5, -2.0])
        places = helper.make_tensor(f"{name}_places", TensorProto.INT64, [2], [1, 4])
        made.graph.sparse_initializer.append(helper.make_sparse_tensor(numbers, places, [3, 2]))
    return made


def listed_weights() -> onnx.ModelProto:
    """IR version 3: every initialiser is also listed as an input."""
    return model(
        [node("MatMul", "x w", "a"), node("Add", "a b", "y")],
        [value("x", ["n", 3]), value("w", [3, 2]), value("b", [2])],
        [value("y", ["n", 2])],
        [weights("w", 3, 2), weights("b", 2)],
        opset=8,
        ir_version=3,
    )


def optional_input() -> onnx.ModelProto:
    """`gain` has a value of its own, and may be fed: it is an initialiser, and listed as an input.

    `a` does not read it, `b` and `y` do.
    """
    return model(
        [
            node("MatMul", "x w", "a"),
            node("Mul", "a gain", "b"),
            node("Neg", "b", "y"),
        ],
        [value("x", ["n", 3]), value("gain", ["rows", 2])],
        [value("y", ["n", 2])],
        [weights("w", 3, 2), constant("gain", [[1, 1]], np.float32)],
    )


def quantised() -> onnx.ModelProto:
    """Quantise, dequantise, multiply: int8 weights and tensors."""
    return model(
        [
            node("QuantizeLinear", "x scale zero", "q"),
            node("DequantizeLinear", "q scale zero", "d"),
            node("DequantizeLinear", "wq scale wzero", "w"),
            node("MatMul", "d w", "y"),
        ],
        [value("x", ["n", 3])],
        [value("y", ["n", 2])],
        [
            constant("scale", 0.05, np.float32),
            constant("zero", 128, np.uint8),
            constant("wzero", 0, np.int8),
            constant("wq", [[1, -2], [3, 4], [-5, 6]], np.int8),
        ],
        opset=13,
    )


def odd_types() -> onnx.ModelProto:
    """Integers, strings, booleans and a sequence; tensors of which nothing is stated."""
    return model(
        [
            node("Gather", "table index", "picked"),
            node("Concat", "words words", "twice", axis=0),
            node("Greater", "picked zero", "positive"),
            node("SequenceConstruct", "picked picked", "pair"),
            node("SequenceLength", "pair", "length"),
        ],
        [value("index", ["n"], TensorProto.INT64), value("words", [3], TensorProto.STRING)],
        [value("picked", ["n", 2]), value("length", [], TensorProto.INT64)],
        [weights("table", 4, 2), constant("zero", 0, np.float32)],
        opset=16,
    )


def constant_outputs() -> onnx.ModelProto:
    """Outputs that are a weight and an input, and one that depends on no input at all."""
    return model(
        [node("Neg", "w", "n"), node("Relu", "x", "y")],
        [value("x", ["n", 3])],
        [value("w", [2, 3]), value("x", ["n", 3]), value("n", [2, 3]), value("y", ["n", 3])],
        [weights("w", 2, 3)],
    )


def counting(limit: int = 2**40) -> onnx.ModelProto:
    """x (n, 1) -> first = -x -> y: 1 added for as long as a counter is below x[0, 0] * `limit`."""
    body = helper.make_graph(
        [
            node("Add", "state one", "next"),
            node("Less", "next most", "keep_out"),
        ],
        "body",
        [
            value("i", [], TensorProto.INT64),
            value("keep_in", [], TensorProto.BOOL),
            value("state", []),
        ],
        [value("keep_out", [], TensorProto.BOOL), value("next", [])],
    )
    return model(
        [
            node("Neg", "x", "first"),
            node("ReduceMax", "x", "largest", keepdims=0),
            node("Mul", "largest limit", "most"),
            helper.make_node("Loop", ["", "keep", "zero"], ["last"], body=body),
            node("Add", "first last", "y"),
        ],
        [value("x", ["batch", 1])],
        [value("y", ["batch", 1]), value("first", ["batch", 1])],
        [
            constant("keep", True, np.bool_),
            constant("zero", 0, np.float32),
            constant("one", 1, np.float32),
            constant("limit", float(limit), np.float32),
        ],
        card=card(
            [
                layer(0, "x", "InputLayer", (None, 1)),
                layer(1, "first", "Lambda", (None, 1)),
                layer(2, "y", "Lambda", (None, 1)),
            ],
            {"x": (None, 1)},
            {"y": (None, 1)},
        ),
    )


PLAIN = (
    residual,
    unused_parts,
    leaves,
    branching,
    looping,
    with_function,
    sparse,
    listed_weights,
    optional_input,
    quantised,
    odd_types,
    constant_outputs,
)
"""Every model without a card."""


def feeds(made: onnx.ModelProto, n: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Something to feed to each input: free sizes become `n`."""
    generator = np.random.default_rng(seed)
    given = {}
    known = {item.name for item in made.graph.initializer}
    for item in made.graph.input:
        if item.name in known:
            continue
        tensor = item.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else n for dim in tensor.shape.dim]
        if tensor.elem_type == TensorProto.STRING:
            given[item.name] = np.array(["one", "two", "three"], dtype=object)
        elif tensor.elem_type == FLOAT:
            given[item.name] = generator.random(shape).astype(np.float32)
        else:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            given[item.name] = generator.integers(0, 2, size=shape).astype(dtype)
    return given
