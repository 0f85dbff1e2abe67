"""Whether a graph computes much from constants alone.

onnxruntime computes such nodes while it loads a model ("constant folding"), and nothing stops it
there: not its flag for cancelled loads, which it looks at only before and after. A file of 300
bytes can ask for hours of work. So a model with much of it is loaded without constant folding;
then the nodes are computed in each run, which can be stopped.

What the nodes compute is bounded by the sizes of their inputs. Where that says too little, because
a size is a value (ConstantOfShape, Expand), onnxruntime's shape inference is asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from layertap._cut.plan import plan_cut
from layertap._cut.write import write_cut
from layertap.errors import LayertapError
from layertap.format.external import find_weights
from layertap.format.graph import MAX_RANK, Graph, Node
from layertap.format.references import without_references
from layertap.format.source import BytesSource, FileSource

from .devices import CPU, SILENT
from .library import FOLDER, import_onnxruntime, supports_external_weights

LIMIT = 1 << 27
"""Elementary steps, about a tenth of a second, from which on work is much."""

PER_WEIGHT = 16
"""Steps per weight that are not much in any file: reading it takes longer."""

FOLDING = "ConstantFolding"
"""onnxruntime's name of the optimization."""

SIZES = frozenset({"Shape", "Size"})
"""Operators whose result is constant if the sizes of their input are."""

_RANDOM = frozenset({
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
    "Bernoulli",
})  # fmt: skip
"""Operators that onnxruntime does not compute while it loads a model."""

NESTED = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Operators with a graph inside, which may have constants of its own."""

_LINEAR = frozenset(
    """
    Abs Acos Acosh ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization BitwiseNot Cast CastLike
    Ceil Celu Clip Concat Cos Cosh CumSum DequantizeLinear Dropout Elu Erf Exp Flatten Floor Gelu
    GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity IsInf IsNaN LayerNormalization
    LeakyRelu Log LogSoftmax Mish Neg Not QuantizeLinear Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
    Round Selu Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign Split Sqrt Squeeze Tan
    Tanh ThresholdedRelu Transpose Trilu Unsqueeze
""".split()
)
"""Operators whose outputs together have at most as many elements as their inputs, and that take
time in proportion to them."""

_PRODUCTS = frozenset(
    """
    Add And BitwiseAnd BitwiseOr BitwiseXor Div Equal Gather GatherElements GatherND Gemm Greater
    GreaterOrEqual Less LessOrEqual MatMul MatMulInteger Max Mean Min Mod Mul Or PRelu Pow Sub Sum
    Where Xor
""".split()
)
"""Operators that take at most as many steps as the product of the numbers of their inputs'
elements, and write at most as many elements."""

_CONTRACTIONS = frozenset({"Gemm", "MatMul", "MatMulInteger"})

_FILLING = frozenset({
    "ConstantOfShape", "Range", "Expand", "Tile", "Pad", "OneHot", "EyeLike", "NonZero", "Resize",
    "Upsample",
})  # fmt: skip
"""Operators that take time in proportion to what they write."""


def much_from_constants(source: FileSource | BytesSource, graph: Graph) -> bool:
    """Whether a model should be loaded without constant folding.

    Args:
        source: the model.
        graph: its index.
    """
    if graph.functions or any(node.op_type in NESTED for node in graph.nodes):
        return True
    stored = {
        name: math.prod(size for size in item.type.dims or () if isinstance(size, int))
        for name, item in graph.initializers.items()
        if name not in graph.optional
    }
    limit = max(LIMIT, PER_WEIGHT * sum(stored.values()))
    steps, unknown, elements = _bounded(_constant_nodes(graph, stored), stored, limit)
    if not unknown:
        return False
    if graph.locations and source.path is None:
        return True  # it is not known where its weights are
    try:
        shapes = _inferred(source, graph, unknown)
        if any(map(_sizes, graph.nodes)):
            # Only now it is known which sizes are constant.
            free = _free_sizes(source, graph, stored, shapes)
            steps, unknown, elements = _bounded(_constant_nodes(graph, stored, free), stored, limit)
    except LayertapError:
        raise
    except Exception:  # noqa: BLE001 - onnxruntime's own; it refuses the whole model, too
        return True
    for node in unknown:
        for name in node.writes:
            # onnxruntime gives an empty shape for a scalar, and where it knows nothing.
            bound = math.prod(shapes[name]) if shapes.get(name) else _bound(node, elements)
            if bound is None:
                return True
            elements[name] = bound
        steps += _steps(node, shapes, elements)
    return steps > limit


def _bounded(
    nodes: Iterable[Node], stored: Mapping[str, int], limit: int
) -> tuple[int, list[Node], dict[str, int]]:
    """The steps that nodes take, the nodes whose inputs do not say it, and numbers of elements."""
    steps, unknown, elements = 0, [], dict(stored)
    for node in nodes:
        bound = _bound(node, elements)
        if bound is None or steps + bound > limit:
            unknown.append(node)
        else:
            steps += bound
            elements |= dict.fromkeys(node.writes, bound)
    return steps, unknown, elements


def _free_sizes(
    source: FileSource | BytesSource,
    graph: Graph,
    stored: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
) -> set[int]:
    """The indices of the nodes that give sizes which are not known before a run."""
    static = {*stored, *shapes}
    static |= {
        name
        for name, kind in graph.inputs.items()
        if kind.dims is not None and all(isinstance(size, int) for size in kind.dims)
    }
    with source.read(sparsely=True) as buffer:
        return {
            at
            for at, node in enumerate(graph.nodes)
            if _sizes(node)
            and static.isdisjoint(node.reads)
            # Some of the sizes may be constant where others are not.
            and b"start" not in buffer[slice(*node.span)]
            and b"end" not in buffer[slice(*node.span)]
        }


def _constant_nodes(
    graph: Graph, stored: Iterable[str], free: AbstractSet[int] = frozenset()
) -> list[Node]:
    """The nodes that depend on constants only, each after those that it reads from.

    Args:
        free: indices of nodes that give sizes and are not constant.
    """
    readers: dict[str, list[int]] = {}
    missing = []
    for at, node in enumerate(graph.nodes):
        needs = () if _sizes(node) and at not in free else node.reads
        missing.append(len(needs))
        for name in needs:
            readers.setdefault(name, []).append(at)
    found = []
    ready = [at for at, count in enumerate(missing) if not count]

    def give(name: str) -> None:
        for at in readers.pop(name, ()):
            missing[at] -= 1
            if not missing[at]:
                ready.append(at)

    for name in stored:
        give(name)
    while ready:
        node = graph.nodes[ready.pop()]
        if node.op_type not in _RANDOM or node.domain:
            found.append(node)
            for name in node.writes:
                give(name)
    return found


def _sizes(node: Node) -> bool:
    return node.op_type in SIZES and not node.domain


def _bound(node: Node, elements: Mapping[str, int]) -> int | None:
    """The most steps that a node takes, and elements that it writes, by the sizes of its inputs."""
    if node.domain:
        return None
    if node.op_type == "Constant":
        return node.span[1] - node.span[0]
    if node.op_type in SIZES:
        return MAX_RANK
    sizes = [elements.get(name) for name in node.reads]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return None
    if node.op_type in _LINEAR:
        return sum(known)
    if node.op_type in _PRODUCTS:
        # An input that occurs twice is listed once.
        return math.prod(known) if len(known) > 1 else known[0] * known[0]
    return None


def _inferred(
    source: FileSource | BytesSource, graph: Graph, nodes: Sequence[Node]
) -> dict[str, tuple[int, ...]]:
    """The shapes of what nodes write and read, and of what the sizes are taken of, as far as they
    are known without the file's word."""
    makers = {name for node in graph.nodes for name in node.writes}
    names = {name for node in nodes for name in (*node.writes, *node.reads) if name in makers}
    plan = plan_cut(graph, sorted(names), peeled=False)
    measured = {
        name for at in plan.nodes if _sizes(graph.nodes[at]) for name in graph.nodes[at].reads
    }
    plan = plan_cut(graph, sorted(names | (measured & makers)), peeled=False)
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    weights = find_weights(source, graph.locations)
    stays = supports_external_weights() and source.path is not None
    if stays:
        options.add_session_config_entry(FOLDER, str(weights.folder))
    with source.read(sparsely=True) as buffer:
        bare = Graph.trusted({**vars(graph), "values": (), "outputs": {}})
        locate = weights.refer if stays else weights.load
        part = write_cut(buffer, bare, plan, locate, None, weights.stay if stays else None)
    part = without_references(part, weights.referred, weights.load)
    session = ort.InferenceSession(part, options, providers=[CPU.provider], enable_fallback=0)
    shapes = {info.name: tuple(info.shape) for info in session.get_outputs()}
    shapes |= {name: item.type.dims or () for name, item in graph.initializers.items()}
    return {
        name: shape
        for name, shape in shapes.items()
        if all(isinstance(size, int) and size >= 0 for size in shape)
    }


def _steps(node: Node, shapes: Mapping[str, tuple[int, ...]], elements: Mapping[str, int]) -> int:
    """How many steps a node takes at most."""
    sizes = [elements[name] for name in (*node.reads, *node.writes)]
    if node.domain or node.op_type not in _LINEAR | _PRODUCTS | _FILLING:
        return math.prod(max(size, 1) for size in sizes)
    if node.op_type in _CONTRACTIONS:
        first = node.reads[0]
        inner = max(shapes.get(first, ())[-2:], default=elements[first])
        return sum(sizes) + elements[node.writes[0]] * inner
    return sum(sizes)
