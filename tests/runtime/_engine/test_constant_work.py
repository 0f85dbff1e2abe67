"""Work that a file asks for with constants alone is done where it can be stopped."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import layertap
from generators import tiny
from layertap._engine import constant_work
from layertap._engine.constant_work import much_from_constants
from layertap._engine.session import plain_session
from layertap._engine.stopping import time_limit
from layertap.errors import RunTimeoutError
from layertap.format.graph import read_graph
from layertap.format.source import BytesSource

X = np.ones((1, 2), np.float32)


def adding(
    nodes: Sequence[onnx.NodeProto], constants: Sequence[onnx.TensorProto], result: str
) -> onnx.ModelProto:
    """x (n, 2) -> y = x + the sum of `result`, which depends on constants."""
    return tiny.model(
        [*nodes, tiny.node("ReduceSum", result, "sum", keepdims=0), tiny.node("Add", "x sum", "y")],
        [tiny.value("x", ["batch", 2])],
        [tiny.value("y", ["batch", 2])],
        list(constants),
    )


def filled(size: str = "size", name: str = "m0") -> onnx.NodeProto:
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [1e-3])
    return helper.make_node("ConstantOfShape", [size], [name], value=value)


SIZE = tiny.constant("size", [1200, 1200], np.int64)
PRODUCTS = [tiny.node("MatMul", f"m{i} m0", f"m{i + 1}") for i in range(150)]
"""More than ten seconds of work, in steps of less than a tenth."""


def nested() -> onnx.ModelProto:
    """The products in both branches of an If."""
    body = helper.make_graph(
        [filled("inner"), *PRODUCTS, tiny.node("ReduceSum", "m150", "out", keepdims=1)],
        "body",
        [],
        [tiny.value("out", [1, 1])],
        [tiny.constant("inner", [1200, 1200], np.int64)],
    )
    chosen = helper.make_node("If", ["yes"], ["m"], then_branch=body, else_branch=body)
    return adding([chosen], [tiny.constant("yes", True, np.bool_)], "m")


def in_a_function() -> onnx.ModelProto:
    opset = helper.make_opsetid("", 17)
    nodes = [filled(), *PRODUCTS, tiny.node("Identity", "m150", "out")]
    function = helper.make_function("own", "Products", ["size"], ["out"], nodes, [opset])
    call = helper.make_node("Products", ["size"], ["m"], domain="own")
    made = adding([call], [SIZE], "m")
    made.functions.append(function)
    made.opset_import.append(helper.make_opsetid("own", 1))
    return made


def of_a_shape() -> onnx.ModelProto:
    """The size is that of a tensor that depends on the input."""
    nodes = [
        tiny.node("ReduceMax", "x", "largest", keepdims=1),
        tiny.node("Expand", "largest size", "wide"),
        tiny.node("Shape", "wide", "again"),
        filled("again"),
    ]
    return adding([*nodes, *PRODUCTS], [SIZE], "m150")


def broadcast() -> onnx.ModelProto:
    nodes = [tiny.node("Mul", "row column", "m0"), *PRODUCTS]
    row = tiny.constant("row", np.ones((1, 1200)), np.float32)
    column = tiny.constant("column", np.full((1200, 1), 1e-3), np.float32)
    return adding(nodes, [row, column], "m150")


FILES: dict[str, Callable[[], onnx.ModelProto]] = {
    "ConstantOfShape": lambda: adding([filled(), *PRODUCTS], [SIZE], "m150"),
    "Expand": lambda: adding(
        [tiny.node("Expand", "one size", "m0"), *PRODUCTS],
        [SIZE, tiny.constant("one", 1e-3, np.float32)],
        "m150",
    ),
    "computed": lambda: adding(
        [tiny.node("Add", "half half", "size"), filled(), *PRODUCTS],
        [tiny.constant("half", [600, 600], np.int64)],
        "m150",
    ),
    "If": nested,
    "function": in_a_function,
    "Shape": of_a_shape,
    "broadcast": broadcast,
}


def much(model: onnx.ModelProto) -> bool:
    data = model.SerializeToString()
    return much_from_constants(BytesSource(data), read_graph(data))


def test_bytes_whose_weights_are_in_a_file() -> None:
    """An exporter may open such bytes, and tell onnxruntime the folder."""
    weights = tiny.constant("m0", np.ones((4, 4)), np.float32)
    onnx.external_data_helper.set_external_data(weights, "elsewhere.bin")
    weights.ClearField("raw_data")
    expand = tiny.node("Expand", "m0 size", "wide")
    assert much(adding([expand], [weights, tiny.constant("size", [4, 4], np.int64)], "wide"))


@pytest.mark.parametrize("name", FILES)
def test_work_of_constants_is_stopped(name: str) -> None:
    data = FILES[name]().SerializeToString()
    model = layertap.open(data)
    started = time.monotonic()
    with pytest.raises(RunTimeoutError):
        model.predict(X, timeout=0.3)
    assert time.monotonic() - started < 5  # alone about a third; without a stop more than ten
    with pytest.raises(RunTimeoutError), time_limit(0.3):
        plain_session(data).run(None, {"x": X})
    assert time.monotonic() - started < 10


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signals")
def test_a_signal_stops_it_too() -> None:
    def end(*_: object) -> None:
        raise TimeoutError("ended")

    model = layertap.open(FILES["ConstantOfShape"]().SerializeToString())
    before = signal.signal(signal.SIGALRM, end)
    started = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(TimeoutError, match="ended"):
            model.predict(X)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 5  # alone about a third; without a stop more than ten


@pytest.mark.parametrize("kind", ["image_classifier", "differentiable"])
def test_models_with_little_of_it_are_loaded_as_ever(
    kind: str, tiny_file: Callable[[str], Path]
) -> None:
    assert not much(onnx.load(tiny_file(kind)))


def test_a_refused_file_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """onnxruntime's Python part prints errors to stdout that it takes for those of a device, such
    as that of a message that is no UTF-8."""
    data = of_a_shape().SerializeToString().replace(b"keepdims", b"keep\xffims")
    with pytest.raises(layertap.ModelFileError):
        layertap.open(data).predict(X)
    assert capfd.readouterr().out == ""


def test_little_work_in_every_form() -> None:
    """Masks, positions and rearranged weights, as other exporters write them."""
    weights = tiny.constant("w", np.ones((300, 200)), np.float32)
    nodes = [
        tiny.node("Shape", "w", "sizes"),
        filled("sizes", "mask"),
        tiny.node("Transpose", "w", "turned", perm=[1, 0]),
        tiny.node("MatMul", "turned mask", "product"),
        tiny.node("Expand", "product more", "m"),
    ]
    assert not much(adding(nodes, [weights, tiny.constant("more", [2, 1, 1], np.int64)], "m"))


def test_sizes_that_are_free_are_no_constants() -> None:
    nodes = [
        tiny.node("Shape", "x", "sizes"),
        filled("sizes", "m0"),
        tiny.node("Transpose", "m0", "m1", perm=[1, 0]),
        tiny.node("MatMul", "m1 m0", "m"),
    ]
    assert not much(adding(nodes, [], "m"))


MORE, MANY = np.array([2, 3]), np.array([0, 1, 1, 0])
STEPS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "Concat": ("a b", lambda a, b: np.concatenate([a, b])),
    "Expand": ("a more", lambda a, _: a * np.ones(MORE)),
    "Add": ("a b", np.add),
    "Neg": ("a", lambda a, _: -a),
    "Tile": ("a more", lambda a, _: np.tile(a, MORE)),
    "Gather": ("a many", lambda a, _: a[MANY]),
    "MatMul": ("a b", np.matmul),
}


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9), st.integers(0, 9)),
        min_size=1,
        max_size=10,
    ),
    st.sampled_from([(1, 1), (1, 3), (2, 2)]),
)
@settings(max_examples=150, deadline=None)
def test_what_counts_as_little_is_little(
    steps: list[tuple[str, int, int]], shape: tuple[int, int]
) -> None:
    """Whatever the operators, and how they are put together."""
    values = {"t0": np.ones(shape)}
    nodes = []
    total = 0
    for op, first, second in steps:
        reads, compute = STEPS[op]
        a, b = (list(values)[at % len(values)] for at in (first, second))
        try:
            value = compute(values[a], values[b])
        except (ValueError, IndexError):  # the sizes do not fit
            continue
        if value.size > 10**6:
            continue
        total += value.size
        new = f"t{len(values)}"
        names = " ".join({"a": a, "b": b}.get(name, name) for name in reads.split())
        nodes.append(tiny.node(op, names, new))
        if op == "Concat":
            nodes[-1].attribute.append(helper.make_attribute("axis", 0))
        values[new] = value
    constants = [
        tiny.constant("t0", values["t0"], np.float32),
        tiny.constant("more", MORE),
        tiny.constant("many", MANY),
    ]
    made = adding(nodes, constants, list(values)[-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constant_work, "LIMIT", 2000)
        patch.setattr(constant_work, "PER_WEIGHT", 0)
        if total > 2000:
            assert much(made)
    if total < 10**5:
        assert not much(made)
