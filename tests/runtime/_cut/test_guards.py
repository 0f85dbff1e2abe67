"""Guards: no value ends the process, and the results are those that numpy gives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import layertap
from generators import tiny
from layertap._cut.guards import FATAL, guarded, may_need_guards
from layertap._engine.session import plain_session
from layertap.errors import InputError
from layertap.format.graph import read_graph

EQUATIONS = (
    "nij,njk->nik", "nik,njk->nij", "abcd,aecd->acbe", "acbe,aecd->abcd", "nij,njk", "ij,ij->",
    "nij->nji", "nij->", "ii->i", "n,m->nm", "...ij,...jk->...ik", "nij,nj,ni->n",
)  # fmt: skip


def shifted(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, int],
    outputs: Sequence[str],
    constants: Sequence[onnx.TensorProto] = (),
    opset: int = 18,
    **others: Any,
) -> bytes:
    """A model whose inputs `x` are read as `x[1:, ..., 1:]`, so that they are empty inside only."""
    cut = []
    for name, rank in inputs.items():
        axes = tiny.constant(f"{name}_axes", range(rank))
        ones, ends = (tiny.constant(f"{name}_{v}", [v] * rank) for v in (1, 2**40))
        constants = [*constants, axes, ones, ends]
        cut.append(tiny.node("Slice", f"{name}_fed {name}_1 {name}_{2**40} {name}_axes", name))
    made = tiny.model(
        [*cut, *nodes],
        [tiny.value(f"{name}_fed", [None] * rank) for name, rank in inputs.items()],
        [tiny.value(name, None) for name in outputs],
        constants,
        opset=opset,
        **others,
    )
    return made.SerializeToString()


def fed(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The values with one more row before the first one along each axis."""
    return {f"{k}_fed": np.pad(v, [(1, 0)] * v.ndim) for k, v in values.items()}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_einsum(data: st.DataObject) -> None:
    """On arrays that are empty inside the graph, and on those that are fed."""
    equation = data.draw(st.sampled_from(EQUATIONS))
    letters = sorted({letter for letter in equation if letter.isalpha()})
    sizes = {letter: data.draw(st.integers(0, 3), letter) for letter in letters}
    operands = equation.partition("->")[0].split(",")
    shapes = [[sizes[x] for x in part.replace("...", "")] for part in operands]
    names = [f"x{at}" for at in range(len(shapes))]
    draw = np.random.default_rng(0).normal
    values = {k: draw(size=v).astype(np.float32) for k, v in zip(names, shapes, strict=True)}
    node = tiny.node("Einsum", " ".join(names), "y", equation=equation)
    expected = np.einsum(equation, *values.values())

    inside = shifted([node], {k: v.ndim for k, v in values.items()}, ["y"])
    found = layertap.open(inside).predict(fed(values))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    given_ = [tiny.value(k, [None] * v.ndim) for k, v in values.items()]
    plain = tiny.model([node], given_, [tiny.value("y", None)]).SerializeToString()
    found = layertap.open(plain).predict(values)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_sum_over_nothing_is_zero_beside_infinity() -> None:
    node = tiny.node("Einsum", "x y", "z", equation="ij,jk->ik")
    model = layertap.open(shifted([node], {"x": 2, "y": 2}, ["z"]))
    values = {"x": np.zeros((2, 0), np.float32), "y": np.zeros((0, 3), np.float32)}
    assert np.array_equal(model.predict(fed(values)), np.zeros((2, 3)))
    node = tiny.node("Einsum", "x y", "z", equation="ij,k->ik")
    model = layertap.open(shifted([node], {"x": 2, "y": 1}, ["z"]))
    values = {"x": np.zeros((2, 0), np.float32), "y": np.array([np.inf, np.nan], np.float32)}
    assert np.array_equal(model.predict(fed(values)), np.zeros((2, 2)))


def recurrent(op_type: str, direction: str, starts: bool) -> bytes:
    """x (t, n, 2), states at the start -> all steps and the last states."""
    gates, ways = {"LSTM": 4, "GRU": 3}[op_type] * 3, 1 + (direction == "bidirectional")
    states = ["h", "c"][: 1 + (op_type == "LSTM")]
    reads = " ".join(["x w r _ _", *states]) if starts else "x w r"
    node = tiny.node(
        op_type,
        reads,
        " ".join(["all", *(f"last_{x}" for x in states)]),
        hidden_size=3,
        direction=direction,
    )
    inputs = {"x": 3, **dict.fromkeys(states, 3)} if starts else {"x": 3}
    weights = [tiny.weights("w", ways, gates, 2), tiny.weights("r", ways, gates, 3)]
    return shifted([node], inputs, [*node.output], weights)


@pytest.mark.parametrize("op_type", ["LSTM", "GRU"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("starts", [False, True], ids=["from zero", "from states"])
def test_recurrent_layers(op_type: str, direction: str, starts: bool) -> None:
    """Without a step, the last states are those at the start."""
    model = layertap.open(recurrent(op_type, direction, starts))
    ways = 1 + (direction == "bidirectional")
    generator = np.random.default_rng(1)
    for steps, samples in ((0, 2), (2, 0), (0, 0)):
        values = {"x": generator.normal(size=(steps, samples, 2)).astype(np.float32)}
        for name in "hc" if starts else "":
            values[name] = generator.normal(size=(ways, samples, 3)).astype(np.float32)
        known = {k: v for k, v in fed(values).items() if k in {x.name for x in model.inputs}}
        found = model.predict(known)
        assert found["all"].shape == (steps, ways, samples, 3)
        for name in "h" if op_type == "GRU" else "hc":
            expected = values.get(name, np.zeros((ways, samples, 3)))
            assert np.array_equal(found[f"last_{name}"], expected)
        # The last states alone.
        assert np.array_equal(model.activations(known, "last_h"), found["last_h"])


def test_transposed_convolution() -> None:
    """Of an axis without elements there remains what the kernel is longer than the step."""
    constants = [tiny.weights("w", 3, 2, 3, 3, 3), tiny.weights("b", 2)]
    node = tiny.node("ConvTranspose", "x w b", "y", strides=[2, 2, 2])
    model = layertap.open(shifted([node], {"x": 5}, ["y"], constants))
    bias = onnx.numpy_helper.to_array(constants[1])
    for shape in ((1, 3, 0, 2, 2), (1, 3, 2, 0, 2), (1, 3, 2, 2, 0), (0, 3, 2, 2, 2)):
        found = model.predict(fed({"x": np.ones(shape, np.float32)}))
        sizes = [2 * size + 1 for size in shape[2:]]
        assert found.shape == (shape[0], 2, *sizes)
        assert np.array_equal(found, np.broadcast_to(bias[:, None, None, None], found.shape))


def test_what_has_no_result_is_an_error() -> None:
    node = tiny.node("Unique", "x", "y first", axis=1)
    model = layertap.open(shifted([node], {"x": 2}, ["y"]))
    assert model.predict(fed({"x": np.ones((3, 2), np.float32)})).shape == (3, 1)
    with pytest.raises(InputError, match=r"an input of its operator Unique becomes empty"):
        model.predict(fed({"x": np.ones((3, 0), np.float32)}))
    for opset in (7, 10):
        made = tiny.model(
            [
                tiny.node("NonZero", "mask", "found"),
                tiny.node("Squeeze", "found", "rows", axes=[0]),
                tiny.node("Gather", "x rows", "some", axis=0),
                tiny.node("LSTM", "some w r", "y", hidden_size=3),
            ],
            [tiny.value("x", ["t", "n", 2]), tiny.value("mask", ["t"])],
            [tiny.value("y", [None, 1, "n", 3])],
            [tiny.weights("w", 1, 12, 2), tiny.weights("r", 1, 12, 3)],
            opset=max(opset, 9),
        )
        old = layertap.open(made.SerializeToString())
        values = {"x": np.ones((2, 1, 2), np.float32), "mask": np.array([0, 1], np.float32)}
        assert old.predict(values).shape == (1, 1, 1, 3)
        values["x"] = values["x"][:, :0]
        assert old.predict(values).shape == (1, 1, 0, 3)


def body(nodes: Sequence[onnx.NodeProto], reads: str, writes: str) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        "body",
        [tiny.value(name, None) for name in reads.split()],
        [tiny.value(name, None) for name in writes.split()],
    )


def in_an_if() -> bytes:
    product = tiny.node("Einsum", "x x", "p", equation="ij,ij->i")
    inner = body([product], "", "p")
    other = body([tiny.node("ReduceSum", "x axis", "q", keepdims=0)], "", "q")
    node = tiny.node("If", "yes", "y", then_branch=inner, else_branch=other)
    constants = [tiny.constant("yes", True, bool), tiny.constant("axis", [1])]
    return shifted([node], {"x": 2}, ["y"], constants)


def in_a_scan() -> bytes:
    product = tiny.node("Einsum", "row row", "p", equation="j,j->")
    inner = body([tiny.node("Identity", "c", "d"), product], "c row", "d p")
    node = tiny.node("Scan", "zero x", "last y", body=inner, num_scan_inputs=1)
    return shifted([node], {"x": 2}, ["y"], [tiny.constant("zero", [0], np.float32)])


def in_a_function() -> bytes:
    product = tiny.node("Einsum", "a a", "p", equation="ij,ij->i")
    opsets = [helper.make_opsetid("", 18)]
    function = helper.make_function("own", "Squares", ["a"], ["p"], [product], opsets)
    node = tiny.node("Squares", "x", "y", domain="own")
    return shifted([node], {"x": 2}, ["y"], functions=[function], domains={"own": 1})


@pytest.mark.parametrize("make", [in_an_if, in_a_scan, in_a_function])
@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3)], ids=str)
def test_an_operator_inside(make: Callable[[], bytes], shape: tuple[int, int]) -> None:
    if make is in_a_scan and not shape[0]:
        pytest.skip("onnxruntime has no Scan of no step")
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    model = layertap.open(make())
    np.testing.assert_allclose(model.predict(fed({"x": x})), (x * x).sum(1), rtol=1e-5)


SMALLEST = {np.int32: -(2**31), np.int64: -(2**63)}


@settings(max_examples=40, deadline=None)
@given(data=st.data(), dtype=st.sampled_from([*SMALLEST]))
@example(data=None, dtype=np.int32)
@example(data=None, dtype=np.int64)
def test_division_of_integers(data: st.DataObject | None, dtype: Any) -> None:
    """C's division, which rounds towards zero; the smallest integer by -1 is itself."""
    low = SMALLEST[dtype]
    pairs = [(low, -1), (low, 1), (low, low), (7, -2), (-7, -1)]
    if data is not None:
        number = st.sampled_from([low, low + 1, -low - 1, -1, 1]) | st.integers(-9, 9)
        pairs = data.draw(st.lists(st.tuples(number, number.filter(bool)), min_size=1))
    a, b = np.array(pairs, dtype).T
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    expected = np.array([quotient(x, y, low) for x, y in pairs], dtype)
    for model in divisions(kind, a, b):
        assert np.array_equal(model.predict(dict(zip("ab", (a, b), strict=True))), expected)


def quotient(x: int, y: int, low: int) -> int:
    rounded = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
    return low if rounded == -low else rounded


def divisions(kind: int, a: np.ndarray, b: np.ndarray) -> list[layertap.Model]:
    """The quotient of two inputs, directly and of what other operators pass on."""
    inputs = [tiny.value("a", ["n"], kind), tiny.value("b", ["n"], kind)]
    outputs = [tiny.value("y", ["n"], kind)]
    nodes = [
        [tiny.node("Div", "a b", "y")],
        [
            tiny.node("Unsqueeze", "a axis", "a2"),
            tiny.node("Cast", "b", "b2", to=kind),
            tiny.node("Identity", "b2", "b3"),
            tiny.node("Div", "a2 b3", "y2"),
            tiny.node("Squeeze", "y2 axis", "y"),
        ],
    ]
    axis = [tiny.constant("axis", [0])]
    made = [tiny.model(one, inputs, outputs, axis).SerializeToString() for one in nodes]
    return [layertap.open(one) for one in made]


@pytest.mark.parametrize("dtype", [*SMALLEST])
def test_division_of_constants(dtype: Any) -> None:
    """onnxruntime computes them while it loads the model."""
    kind, low = helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), SMALLEST[dtype]
    for divisor, expected in ((-1, low), (2, low // 2)):
        made = tiny.model(
            [tiny.node("Div", "a b", "q"), tiny.node("Add", "x q", "y")],
            [tiny.value("x", ["n"], kind)],
            [tiny.value("y", ["n"], kind)],
            [tiny.constant("a", low, dtype), tiny.constant("b", divisor, dtype)],
        )
        found = layertap.open(made.SerializeToString()).predict(np.zeros(2, dtype))
        assert found.tolist() == [expected] * 2


def test_what_needs_no_guard_stays(tiny_file: Callable[[str], Path]) -> None:
    """Inputs that are not empty give products that are not empty, through most operators."""
    nodes = [
        tiny.node("Reshape", "x shape", "split"),
        tiny.node("Einsum", "split split", "scores", equation="abcd,aecd->acbe"),
        tiny.node("Softmax", "scores", "weights", axis=-1),
        tiny.node("Einsum", "weights split", "mixed", equation="acbe,aecd->abcd"),
        tiny.node("Div", "mixed two", "half"),
        tiny.node("Shape", "half", "sizes"),
        tiny.node("Div", "sizes count", "y"),
    ]
    constants = [
        tiny.constant("shape", [0, 0, 2, 2]),
        tiny.constant("two", 2, np.float32),
        tiny.constant("count", [2, 1, 3, 5]),
    ]
    inputs = [tiny.value("x", ["n", "t", 4])]
    outputs = [tiny.value("y", [4], TensorProto.INT64)]
    made = tiny.model(nodes, inputs, outputs, constants).SerializeToString()
    assert guarded(made) is made
    assert len(guarded(made, everywhere=True)) > len(made)
    for name in ("image_classifier", "differentiable", "residual", "looping", "with_function"):
        file = tiny_file(name).read_bytes()
        assert guarded(file) is file
    graph = read_graph(tiny_file("image_classifier").read_bytes())
    assert not may_need_guards(graph, range(len(graph.nodes)))


def test_guards_do_not_change_results() -> None:
    x = np.random.default_rng(3).normal(size=(3, 4, 2)).astype(np.float32)
    for op_type in ("LSTM", "GRU"):
        made = recurrent(op_type, "bidirectional", starts=False)
        assert guarded(made) != made
        plain = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
        expected = plain.run(None, fed({"x": x}))
        for found in (
            plain_session(made).run(None, fed({"x": x})),
            [*layertap.open(made).predict(fed({"x": x})).values()],
        ):
            assert all(map(np.array_equal, found, expected))


def test_a_whole_file_with_weights_beside_it(tmp_path: Path) -> None:
    made = onnx.ModelProto.FromString(recurrent("LSTM", "forward", starts=False))
    options: dict[str, Any] = {"save_as_external_data": True, "location": "w.data"}
    onnx.save(made, tmp_path / "lstm.onnx", **options, size_threshold=64)
    session = plain_session(tmp_path / "lstm.onnx")
    found = session.run(["last_h"], fed({"x": np.zeros((0, 2, 2), np.float32)}))
    assert np.array_equal(found[0], np.zeros((1, 2, 3)))


@pytest.mark.parametrize("op_type", ["Einsum", "GRU", "LSTM", "ConvTranspose", "Div"])
def test_the_process_ends_without_a_guard(op_type: str, tmp_path: Path) -> None:
    """If this fails, onnxruntime has mended the operator, and its guard can go."""
    x = np.zeros((0, 5, 2), np.float32)
    if op_type == "Einsum":
        node = tiny.node("Einsum", "x x", "y", equation="nik,njk->nij")
        model = shifted([node], {"x": 3}, ["y"])
    elif op_type == "ConvTranspose":
        x = np.zeros((1, 3, 0, 2, 2), np.float32)
        model = shifted(
            [tiny.node("ConvTranspose", "x w", "y")],
            {"x": 5},
            ["y"],
            [tiny.weights("w", 3, 2, 3, 3, 3)],
        )
    elif op_type == "Div":
        nodes = [
            tiny.node("Cast", "x", "a", to=TensorProto.INT32),
            tiny.node("Div", "a b", "q"),
            tiny.node("Cast", "q", "y", to=TensorProto.FLOAT),
        ]
        model = shifted(nodes, {"x": 3}, ["y"], [tiny.constant("b", -1, np.int32)])
        x = np.full((1, 1, 1), -(2**31), np.float32)
    else:
        model = recurrent(op_type, "forward", starts=False)
        x = np.zeros((2, 0, 2), np.float32)
    (tmp_path / "model.onnx").write_bytes(model)
    np.save(tmp_path / "x.npy", fed({"x": x})["x_fed"])
    program = (
        "import numpy, onnxruntime as o;"
        "s = o.InferenceSession('model.onnx', providers=['CPUExecutionProvider']);"
        "s.run(None, {'x_fed': numpy.load('x.npy')})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode < 0
    assert ("", op_type) in FATAL or op_type == "Div"
