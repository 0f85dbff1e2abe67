"""Random graphs of square matrices, and of tensors in channels-first and channels-last order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import reference
from generators import tiny

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Feeds = Mapping[str, Array]

# --- Square matrices: any tensor can be the input of any node -----------------------------------

UNARY = ("Relu", "Neg", "Tanh", "Identity", "Transpose", "Sigmoid")
BINARY = ("Add", "Mul", "Sub")


@st.composite
def squares(
    draw: st.DrawFn,
    sources: Sequence[str] = ("x0", "x1", "w0", "w1"),
    kinds: Sequence[str] = ("unary", "unary", "binary", "split", "if"),
) -> tuple[onnx.ModelProto, list[str]]:
    """A graph of 3 x 3 matrices, with dead ends; and some of its tensors.

    Args:
        sources: what nodes read first: inputs are called x..., weights w...
        kinds: the nodes, one of which is drawn each time.
    """
    tensors, nodes = list(sources), []
    for index in range(draw(st.integers(1, 12))):
        name = f"t{index}"
        kind = draw(st.sampled_from(kinds))
        a, b = draw(st.sampled_from(tensors)), draw(st.sampled_from(tensors))
        if kind == "unary":
            nodes.append(tiny.node(draw(st.sampled_from(UNARY)), a, name))
        elif kind == "binary":
            nodes.append(tiny.node(draw(st.sampled_from(BINARY)), f"{a} {b}", name))
        elif kind == "split":
            nodes.append(tiny.node("TopK", f"{a} k", f"{name} {name}_places"))
        else:
            then, other = (
                helper.make_graph(
                    [tiny.node(draw(st.sampled_from(UNARY[:3])), source, f"{name}_{side}")],
                    side,
                    [],
                    [tiny.value(f"{name}_{side}", None)],
                )
                for side, source in (("then", a), ("else", b))
            )
            nodes.append(tiny.node("If", "flag", name, then_branch=then, else_branch=other))
        tensors.append(name)
    made = tiny.model(
        nodes,
        [tiny.value(name, [3, 3]) for name in sources if name[0] == "x"],
        [tiny.value(tensors[-1], [3, 3])],
        [
            *(tiny.weights(name, 3, 3) for name in sources if name[0] == "w"),
            *([tiny.constant("k", [3])] if "split" in kinds else []),
            *([tiny.constant("flag", draw(st.booleans()), np.bool_)] if "if" in kinds else []),
        ],
    )
    asked = [name for name in tensors if name[0] != "x" or len(sources) > 1]
    return made, draw(st.lists(st.sampled_from(asked), min_size=1, max_size=4, unique=True))


def chains() -> st.SearchStrategy[tuple[onnx.ModelProto, list[str]]]:
    """A graph in which every tensor depends on x, and some of its tensors."""
    return squares(sources=["x"], kinds=["unary", "binary"])


# --- Tensors of any rank, many of them behind a Transpose ---------------------------------------

CHANNELS_FIRST, CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
RANKS = (1, 2, 3, 4, 5)


class RandomGraph:
    """A graph to which drawn nodes are added; each node is computed when it is added.

    Inputs are named in0, in1, ..., weights w0, w1, ..., and outputs of nodes t0_0, t1_0, ...
    """

    def __init__(self, draw: st.DrawFn, *shapes: Shape) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.opset = self.one_of([13, 18])
        self.numbers = np.random.default_rng(draw(st.integers(0, 2**16)))
        self.feeds = {f"in{i}": self.normal(shape) for i, shape in enumerate(shapes)}
        self.values: dict[str, Array] = dict(self.feeds)

    # What is drawn.

    def one_of(self, items: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(items)))

    def chance(self, one_in: int) -> bool:
        return bool(self.draw(st.integers(0, one_in - 1)) == 0)

    def some(self, items: Sequence[int]) -> list[int]:
        """One or more of them, in any order."""
        return self.draw(st.permutations(items))[: self.draw(st.integers(1, len(items)))]

    def signed(self, axes: Sequence[int], rank: int) -> list[int]:
        """The same axes, some of them counted from the end."""
        return [self.one_of([axis, axis - rank]) for axis in axes]

    def pick(self, dtype: str = "float32", ranks: Sequence[int] = RANKS) -> str:
        """An existing tensor, more often a late one, often through a Transpose."""
        known = [x for x, v in self.values.items() if v.dtype == dtype and v.ndim in ranks]
        known = [x for x in known if x[0] != "w"]
        if not known:
            to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            known = [self.emit("Cast", self.one_of(list(self.feeds)), to=to)]
        return self.perhaps_transposed(self.one_of([*known, known[-1], known[-1]]))

    def perhaps_transposed(self, name: str) -> str:
        return self.transposed(name) if self.draw(st.booleans()) else name

    def transposed(self, name: str, perm: Sequence[int] | None = None) -> str:
        axes = range(self.values[name].ndim)
        if perm is None:
            usual = [CHANNELS_FIRST, CHANNELS_LAST] if len(axes) == 4 else []
            perm = self.one_of([self.draw(st.permutations(axes)), *usual])
        reverse = list(perm) == list(axes)[::-1]  # the default of Transpose
        attributes: dict[str, Any] = {} if reverse else {"perm": list(perm)}
        return self.emit("Transpose", name, **attributes)

    # What is made.

    def normal(self, shape: Sequence[int]) -> Array:
        return self.numbers.normal(size=shape).astype(np.float32)

    def weight(self, value: Any, dtype: str = "int64") -> str:
        name = f"w{len(self.weights)}"
        self.values[name] = np.asarray(value, dtype)
        self.weights.append(numpy_helper.from_array(self.values[name], name))
        return name

    def random_weight(self, shape: Sequence[int]) -> str:
        return self.weight(self.normal(shape), "float32")

    def emit(
        self, op: str, *reads: str, outputs: int = 1, inside: Sequence[str] = (), **attributes: Any
    ) -> str:
        """Add a node and compute it. Return the name of its first output.

        Args:
            reads: its inputs; "" is one that is left out.
            outputs: how many it has.
            inside: tensors that the graphs among its attributes read.
        """
        names = [f"t{len(self.nodes)}_{index}" for index in range(outputs)]
        node = helper.make_node(op, reads, names, **attributes)
        self.nodes.append(node)
        feeds = {name: self.values[name] for name in [*reads, *inside] if name}
        inputs = [
            tiny.value(name, value.shape, helper.np_dtype_to_tensor_dtype(value.dtype))
            for name, value in feeds.items()
        ]
        outputs_of_any_type = [onnx.ValueInfoProto(name=name) for name in names]
        alone = tiny.model([node], inputs, outputs_of_any_type, opset=self.opset)
        results = reference.session(alone.SerializeToString()).run(names, feeds)
        self.values |= dict(zip(names, map(np.asarray, results), strict=True))
        return names[0]

    def model(self, outputs: Sequence[str], shapes: Sequence[tiny.Shape]) -> onnx.ModelProto:
        """The graph with these outputs, and with these shapes stated for its inputs."""
        return tiny.model(
            self.nodes,
            [tiny.value(name, shape) for name, shape in zip(self.feeds, shapes, strict=True)],
            [
                tiny.value(name, None, helper.np_dtype_to_tensor_dtype(self.values[name].dtype))
                for name in outputs
            ],
            self.weights,
            opset=self.opset,
        )

    def broadcastable(self, name: str) -> str:
        """A constant, or a computed tensor, that broadcasts to another without enlarging it."""
        shape, dtype = self.values[name].shape, self.values[name].dtype
        if self.chance(4):
            same = [
                other
                for other, value in self.values.items()
                if value.dtype == dtype and sorted(value.shape) == sorted(shape) and other[0] != "w"
            ]
            other = self.one_of(same)  # at least `name`
            sizes = self.values[other].shape
            every = permutations(range(len(shape)))
            fitting = [perm for perm in every if tuple(sizes[axis] for axis in perm) == shape]
            return self.transposed(other, self.one_of(fitting))
        tail = shape[self.draw(st.integers(0, len(shape))) :]
        weight = self.random_weight([self.one_of([1, size]) for size in tail])
        return self.emit("Sum", weight, self.computed_zero()) if self.chance(4) else weight

    def computed_zero(self) -> str:
        """A tensor of rank 0 whose value constant folding cannot know."""
        total = self.emit("ReduceSum", "in0", keepdims=0)
        return self.emit("Sub", total, total)

    # One method for each kind of node that the pass handles.

    def unary(self) -> None:
        plain = ["Relu", "Sigmoid", "Neg", "Erf", "Softsign", "Identity"]
        alphas = [("LeakyRelu", 0.3), ("HardSigmoid", 0.25), ("ThresholdedRelu", 0.5)]
        op, *alpha = self.one_of([*((op,) for op in plain), *alphas])
        self.emit(op, self.pick(), **({"alpha": alpha[0]} if alpha else {}))

    def binary(self) -> None:
        name = self.pick()
        pair = self.draw(st.permutations([name, self.broadcastable(name)]))
        compares, computes = ["Less", "GreaterOrEqual"], ["Add", "Sub", "Mul", "Max"]
        self.emit(self.one_of(compares if self.chance(4) else computes), *pair)

    def variadic(self) -> None:
        name = self.pick()
        others = [self.broadcastable(name) for _ in range(self.one_of([0, 1, 2]))]
        self.emit(self.one_of(["Sum", "Mean", "Min"]), *others, name)

    def p_relu(self) -> None:
        name = self.pick()
        self.emit("PRelu", name, self.broadcastable(name))

    def where(self) -> None:
        condition = self.pick("bool")
        numbers = self.emit("Cast", condition, to=TensorProto.FLOAT)
        self.emit("Where", condition, self.broadcastable(numbers), self.broadcastable(numbers))

    def logical(self) -> None:
        self.emit("Not", self.pick("bool"))

    def cast(self) -> None:
        source, to = self.one_of(
            [
                ("float32", TensorProto.INT64),
                ("int64", TensorProto.FLOAT),
                ("bool", TensorProto.FLOAT),
            ]
        )
        self.emit("Cast", self.pick(source), to=to)

    def clip(self) -> None:
        low, high = self.weight(-0.5, "float32"), self.weight(0.75, "float32")
        self.emit("Clip", self.pick(), *self.one_of([[], [low], ["", high], [low, high]]))

    def concat(self) -> None:
        name = self.pick()
        sizes = list(self.values[name].shape)
        axis = self.draw(st.integers(-len(sizes), len(sizes) - 1))
        sizes[axis] = 2
        others = [
            name if self.draw(st.booleans()) else self.random_weight(sizes)
            for _ in range(self.one_of([1, 2]))
        ]
        parts = [name, *others] if self.draw(st.booleans()) else [*others, name]
        self.emit("Concat", *parts, axis=axis)

    def split(self) -> None:
        name = self.pick()
        shape = self.values[name].shape
        axis = self.one_of([a for a, size in enumerate(shape) if size > 1] or [0])
        count = shape[axis]
        stated = [self.weight([1] * count)] if self.draw(st.booleans()) else []
        counted = {} if stated or self.opset == 13 else {"num_outputs": count}
        axis = self.one_of([axis, axis - len(shape)])
        where = {"axis": axis} if axis or self.draw(st.booleans()) else {}
        self.emit("Split", name, *stated, outputs=count, **counted, **where)

    def softmax(self) -> None:
        name = self.pick()
        rank = self.values[name].ndim
        axis = self.one_of([{}, {"axis": self.draw(st.integers(-rank, rank - 1))}])
        self.emit(self.one_of(["Softmax", "LogSoftmax"]), name, **axis)

    def pad(self) -> None:
        name = self.pick()
        axes: Sequence[int] = range(self.values[name].ndim)
        more: list[str] = []
        if self.opset == 18 and self.chance(3):
            axes = self.some(axes)
            more = ["", self.weight(axes)]
        elif self.draw(st.booleans()):
            more = [self.weight(0.5, "float32")]
        before, after = ([self.one_of([0, most]) for _ in axes] for most in (1, 2))
        pads = self.weight([*before, *after])
        if self.chance(4):  # known only at run time
            zero = self.emit("Cast", self.computed_zero(), to=TensorProto.INT64)
            pads = self.emit("Add", pads, zero)
        self.emit("Pad", name, pads, *more, **self.one_of([{}, {"mode": "edge"}]))

    def slice(self) -> None:
        name = self.pick()
        shape = self.values[name].shape
        axes: Sequence[int] = range(self.draw(st.integers(1, len(shape))))
        more: list[str] = []
        if self.draw(st.booleans()):
            axes = self.some(range(len(shape)))
            more = [self.weight(self.signed(axes, len(shape)))]
            more += [self.weight([1] * len(axes))] if self.draw(st.booleans()) else []
        starts = [self.draw(st.integers(0, shape[axis] - 1)) for axis in axes]
        ends = [self.one_of([2**31, start + 1]) for start in starts]
        self.emit("Slice", name, self.weight(starts), self.weight(ends), *more)

    def reduce(self) -> None:
        name = self.pick(ranks=RANKS[1:])
        rank = self.values[name].ndim
        axes = self.signed(self.some(range(rank)), rank)
        op = self.one_of(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceL1"])
        more = self.one_of([{}, {"keepdims": 0}, {"keepdims": 1}])
        listed: list[str] = []
        if self.chance(6):
            listed = [self.weight([])] if op == "ReduceSum" and self.draw(st.booleans()) else []
        elif self.opset == 18 or op == "ReduceSum":
            listed = [self.weight(axes)]
        else:
            more = {**more, "axes": axes}
        self.emit(op, name, *listed, **more)

    def arg_max(self) -> None:
        name = self.pick(ranks=RANKS[1:])
        rank = self.values[name].ndim
        axis = self.draw(st.integers(-rank, rank - 1))
        keep = self.one_of([{}, {"keepdims": 0}])
        self.emit(self.one_of(["ArgMax", "ArgMin"]), name, axis=axis, **keep)

    def squeeze(self) -> None:
        name = self.pick()
        shape = self.values[name].shape
        ones = [axis for axis, size in enumerate(shape) if size == 1]
        if ones and len(ones) < len(shape):
            axes = ones[: self.draw(st.integers(1, len(ones)))]
            listed = [] if self.chance(4) else [self.weight(self.signed(axes, len(shape)))]
            self.emit("Squeeze", name, *listed)

    def unsqueeze(self) -> None:
        name = self.pick(ranks=RANKS[:-1])
        count = self.one_of([1, 1, 2])
        rank = self.values[name].ndim + count
        axes = self.draw(st.permutations(range(rank)))[:count]
        self.emit("Unsqueeze", name, self.weight(self.signed(axes, rank)))

    def take_shape(self) -> None:
        start = self.one_of([{}, {"start": 1}]) if self.opset == 18 else {}
        self.emit("Shape", self.pick(), **start)

    def reshape(self) -> None:
        name = self.pick()
        size = self.values[name].size
        target = self.one_of([[size], [1, size], [1, size, 1], list(self.values[name].shape)])
        if self.draw(st.booleans()):
            target[target.index(max(target))] = -1
        self.emit("Reshape", name, self.weight(target))

    def opaque(self) -> None:
        """A node that must have its input in its own order."""
        name = self.pick()
        axis = self.draw(st.integers(0, self.values[name].ndim - 1))
        self.emit("CumSum", name, self.weight(axis))

    def of_constants(self) -> None:
        weight = self.random_weight([self.one_of([1, 2, 3]) for _ in "abc"])
        self.transposed(self.emit("Exp", weight))

    def condition(self) -> None:
        """An If and a Loop whose bodies read tensors of the graph around them."""
        name = self.pick()
        shape = self.values[name].shape
        prefix = f"b{len(self.nodes)}"
        total = self.emit("ReduceSum", "in0", keepdims=0)
        chosen = self.emit("Greater", total, self.weight(0.0, "float32"))
        then, other = (
            helper.make_graph(
                [helper.make_node(op, reads, [f"{prefix}_{op}"])],
                f"{prefix}_{op}",
                [],
                [tiny.value(f"{prefix}_{op}", shape)],
            )
            for op, reads in (("Neg", [name]), ("Mul", [name, name]))
        )
        self.emit("If", chosen, inside=[name], then_branch=then, else_branch=other)
        flag = TensorProto.BOOL
        step = helper.make_graph(
            [
                helper.make_node("Add", [f"{prefix}_carried", name], [f"{prefix}_sum"]),
                helper.make_node("Identity", [f"{prefix}_going"], [f"{prefix}_on"]),
            ],
            f"{prefix}_loop",
            [
                tiny.value(f"{prefix}_turn", (), TensorProto.INT64),
                tiny.value(f"{prefix}_going", (), flag),
                tiny.value(f"{prefix}_carried", shape),
            ],
            [tiny.value(f"{prefix}_on", (), flag), tiny.value(f"{prefix}_sum", shape)],
        )
        self.emit("Loop", self.weight(2), "", name, inside=[name], body=step)


Known = Mapping[str, tuple[int | None, ...]]
"""What a converter may know of the shapes of tensors."""

STEPS: Sequence[Callable[[RandomGraph], None]] = [
    method
    for name, method in vars(RandomGraph).items()
    if name
    in "unary binary variadic p_relu where logical cast clip concat split softmax pad slice "
    "reduce arg_max squeeze unsqueeze take_shape reshape opaque of_constants condition".split()
]


@st.composite
def random_graphs(draw: st.DrawFn) -> tuple[onnx.ModelProto, Known, Feeds]:
    """A graph of one or two inputs, any of its tensors as outputs."""
    sizes = st.sampled_from([1, 2, 3])
    shape = st.one_of(st.tuples(sizes, sizes, sizes), st.tuples(sizes, sizes, sizes, sizes))
    graph = RandomGraph(draw, *draw(st.lists(shape, min_size=1, max_size=2)))
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=8)):
        step(graph)
    made = [name for name in graph.values if name[0] == "t"]
    candidates = [*made, *graph.values]  # inputs and weights too, now and then
    outputs = draw(st.lists(st.sampled_from(candidates), min_size=1, unique=True))
    known: dict[str, tuple[int | None, ...]] = {}
    unknown = draw(st.sampled_from(["nothing", "sizes", "first axis", "some shapes"]))
    for name, value in graph.values.items():
        if unknown == "sizes":
            known[name] = (None,) * value.ndim
        elif unknown == "first axis":
            known[name] = (None, *value.shape[1:])[: value.ndim]
        elif unknown == "nothing" or draw(st.booleans()):
            known[name] = value.shape
    shapes = [
        value.shape if unknown == "nothing" else (None,) * value.ndim
        for value in graph.feeds.values()
    ]
    return graph.model(outputs, shapes), known, graph.feeds


class RandomChain(RandomGraph):
    """The same where every node reads only the one before it, and constants."""

    def last(self) -> str:
        return [name for name in self.values if name[0] != "w"][-1]

    def pick(self, dtype: str = "float32", ranks: Sequence[int] = RANKS) -> str:
        return self.perhaps_transposed(self.last())

    def broadcastable(self, name: str) -> str:
        shape = self.values[name].shape
        return self.random_weight(shape[self.draw(st.integers(0, len(shape))) :])


CHAIN_STEPS: Sequence[Callable[[RandomGraph], None]] = [
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
def random_chains(draw: st.DrawFn) -> tuple[onnx.ModelProto, Feeds]:
    sizes = draw(st.lists(st.sampled_from([1, 2, 3]), min_size=3, max_size=4))
    chain = RandomChain(draw, tuple(sizes))
    for step in draw(st.lists(st.sampled_from(CHAIN_STEPS), min_size=1, max_size=10)):
        if 1 < chain.values[chain.last()].ndim < 5:
            step(chain)
    return chain.model([chain.last()], [chain.feeds["in0"].shape]), chain.feeds


class RandomConvolutions(RandomGraph):
    """What tf2onnx makes of a convolutional network: channels last, a Transpose before and behind
    all that ONNX knows channels first only."""

    def any_image(self) -> str:
        images = [x for x, v in self.values.items() if x[0] != "w" and v.shape[1:3] == (6, 5)]
        return str(self.one_of([*images, images[-1], images[-1]]))

    def channels_first(self, op: str, name: str, *reads: str, **attributes: Any) -> str:
        moved = self.transposed(name, CHANNELS_FIRST)
        done = self.emit(op, moved, *reads, **attributes)
        image = self.transposed(done, CHANNELS_LAST)
        del self.values[moved], self.values[done]
        return image

    def convolution(self) -> None:
        name = self.any_image()
        weight = self.random_weight([4, self.values[name].shape[-1], 3, 3])
        image = self.channels_first("Conv", name, weight, pads=[1, 1, 1, 1])
        self.emit("Add", image, self.random_weight([4]))

    def pool(self) -> None:
        name = self.any_image()
        self.channels_first("MaxPool", name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def activation(self) -> None:
        self.emit(self.one_of(["Relu", "Sigmoid"]), self.any_image())

    def batch_normalisation(self) -> None:
        name = self.any_image()
        for op in ("Mul", "Add"):
            name = self.emit(op, name, self.random_weight(self.values[name].shape[-1:]))

    def excitation(self) -> None:
        name = self.any_image()
        axes = [self.weight([1, 2])] if self.opset == 18 else []
        attributes: dict[str, Any] = {} if axes else {"axes": [1, 2]}
        mean = self.emit("ReduceMean", name, *axes, **attributes)
        self.emit("Mul", name, mean)

    def join(self) -> None:
        name, other = self.any_image(), self.any_image()
        if self.values[name].shape == self.values[other].shape:
            self.emit("Add", name, other)
        else:
            self.emit("Concat", name, other, axis=3)

    def pad_and_crop(self) -> None:
        padded = self.emit("Pad", self.any_image(), self.weight([0, 1, 2, 0, 0, 0, 1, 0]))
        starts, ends, axes = ([1, 3], [2**31, 2**31], [1, 2])
        self.emit("Slice", padded, *map(self.weight, (starts, ends, axes)))


@st.composite
def random_convolutions(draw: st.DrawFn) -> tuple[onnx.ModelProto, Known, Feeds]:
    graph = RandomConvolutions(draw, (2, 6, 5, 3))
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
    del graph.values["in0"]  # all else works on what the first convolution puts out
    for step in draw(st.lists(st.sampled_from(steps), max_size=12)):
        step()
    made = [name for name in graph.values if name[0] == "t"]
    known = {
        name: (None, *value.shape[1:]) if name[0] == "t" else value.shape
        for name, value in graph.values.items()
    }
    return graph.model(made, [("batch", 6, 5, 3)]), known, graph.feeds
