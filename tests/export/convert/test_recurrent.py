"""Recurrent layers become ONNX's operators, with the values of Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

import layertap
import layertap_export
import reference

pytestmark = [
    pytest.mark.tensorflow,
    # Keras converts arrays for TensorFlow in a way that numpy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

Array = NDArray[Any]
Make = Callable[[Any], Any]
OPERATORS = {"LSTM": "LSTM", "GRU": "GRU", "SimpleRNN": "RNN"}


def converted(model: Any, opset: int = 18) -> onnx.ModelProto:
    """The graph of a Keras model, without layers as outputs."""
    from layertap_export.convert.assemble import assemble
    from layertap_export.convert.to_onnx import to_onnx
    from layertap_export.keras_model.tracing import trace

    traced = trace(model)
    names = [info.name for info in traced.inputs]
    raw = to_onnx(traced.function, names, opset, traced.scopes)
    graph = assemble(raw, traced, ())
    assert all(not weight.external_data for weight in graph.graph.initializer)
    return graph


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def seeded(model: Any, spread: float = 0.6) -> Any:
    """The model with random weights, biases included."""
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(0, spread, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def agree(model: Any, graph: onnx.ModelProto, *arrays: Array, tolerance: float = 2e-6) -> None:
    """Assert that onnxruntime computes what Keras does, relative to the largest value."""
    import keras

    feeds = {item.name: array for item, array in zip(graph.graph.input, arrays, strict=True)}
    expected = keras.tree.flatten(
        model(list(arrays) if isinstance(model.input, list) else arrays[0])
    )
    actual = reference.session(graph.SerializeToString()).run(None, feeds)
    close(actual, [np.asarray(value) for value in expected], tolerance)


def close(actual: Any, expected: Any, tolerance: float = 2e-6) -> None:
    assert len(actual) == len(expected)
    for left, right in zip(actual, expected, strict=True):
        assert left.shape == right.shape
        assert left.dtype == right.dtype
        # States that grow beyond all numbers are infinite or NaN, as the order of sums has it.
        finite = np.isfinite(right)
        np.testing.assert_array_equal(np.isfinite(left), finite)
        scale = max(1.0, float(np.abs(right[finite]).max(initial=0)))
        np.testing.assert_allclose(
            left[finite] / scale, right[finite] / scale, atol=tolerance, rtol=0
        )


def sequences(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- Any options --------------------------------------------------------------------------------

BOUNDED = ("sigmoid", "tanh", "hard_sigmoid", "softsign")
FUNCTIONS = (*BOUNDED, "linear", "relu", "elu", "leaky_relu", None)


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    """The options of a layer, and of the model around it."""
    cls = draw(st.sampled_from([*OPERATORS]))
    both_ways = draw(st.booleans())
    dtype = draw(st.sampled_from(["float32", "float32", "mixed_float16"]))
    functions = FUNCTIONS if dtype == "float32" else BOUNDED  # others leave the range of float16
    layer: dict[str, Any] = {
        "units": draw(st.integers(1, 4)),
        "activation": draw(st.sampled_from(functions)),
        "use_bias": draw(st.booleans()),
        "return_sequences": draw(st.booleans()),
        "return_state": draw(st.booleans()),
        "go_backwards": not both_ways and draw(st.booleans()),
        "zero_output_for_mask": draw(st.booleans()),
        "dtype": dtype,
    }
    if cls != "SimpleRNN":
        layer["recurrent_activation"] = draw(st.sampled_from(functions))
    if cls == "GRU":
        layer["reset_after"] = draw(st.booleans())
    return {
        "cls": cls,
        "layer": layer,
        "masked": draw(st.booleans()),
        "given_states": draw(st.booleans()),
        "both_ways": both_ways,
        "merge_mode": draw(st.sampled_from(["concat", "sum", "mul", "ave", None])),
        "samples": draw(st.sampled_from([None, None, 1, 3])),
        "steps": draw(st.sampled_from([None, 1, 5])),
        "features": draw(st.integers(1, 3)),
        "opset": draw(st.sampled_from([13, 18])),
        "seed": draw(st.integers(0, 999)),
    }


def model_of(keras: Any, chosen: Mapping[str, Any]) -> Any:
    """A model with one layer; its inputs are the sequence, the mask and the states."""
    layer = getattr(keras.layers, chosen["cls"])(**chosen["layer"])
    count = 2 if chosen["cls"] == "LSTM" else 1
    if chosen["both_ways"]:
        layer, count = keras.layers.Bidirectional(layer, chosen["merge_mode"]), 2 * count
    entry = keras.Input((chosen["steps"], chosen["features"]), chosen["samples"], name="x")
    inputs, arguments = [entry], {}
    if chosen["masked"]:
        mask = keras.Input((chosen["steps"],), chosen["samples"], dtype="bool", name="mask")
        inputs.append(mask)
        arguments["mask"] = mask
    if chosen["given_states"]:
        units = chosen["layer"]["units"]
        states = [
            keras.Input((units,), chosen["samples"], name=f"state_{index}")
            for index in range(count)
        ]
        inputs += states
        arguments["initial_state"] = states
    return seeded(keras.Model(inputs, layer(entry, **arguments)), 0.4)


def feeds_of(chosen: Mapping[str, Any], samples: int, steps: int) -> list[Array]:
    rng = np.random.default_rng(chosen["seed"])
    feeds: list[Array] = [rng.normal(size=(samples, steps, chosen["features"])).astype(np.float32)]
    if chosen["masked"]:
        mask = rng.random((samples, steps)) < rng.choice([0.0, 0.3, 0.7, 1.0], (samples, 1))
        feeds.append(mask)
    if chosen["given_states"]:
        count = (2 if chosen["cls"] == "LSTM" else 1) * (1 + chosen["both_ways"])
        units = chosen["layer"]["units"]
        feeds += [rng.normal(size=(samples, units)).astype(np.float32) for _ in range(count)]
    return feeds


def any_layer_matches(chosen: Mapping[str, Any], keras: Any) -> None:
    model = model_of(keras, chosen)
    graph = converted(model, chosen["opset"])
    found = kinds(graph)
    assert found.count(OPERATORS[chosen["cls"]]) == 1 + chosen["both_ways"]
    assert "Loop" not in found
    half = chosen["layer"]["dtype"] != "float32"
    for samples, steps in ((2, 4), (3, 1), (1, 7)):
        feeds = feeds_of(chosen, chosen["samples"] or samples, chosen["steps"] or steps)
        agree(model, graph, *feeds, tolerance=2e-2 if half else 2e-5)


@given(chosen=options())
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
def test_any_layer_matches(chosen: Mapping[str, Any], keras: Any) -> None:
    any_layer_matches(chosen, keras)


@pytest.mark.slow
@given(chosen=options())
@settings(max_examples=400, deadline=None, suppress_health_check=[*HealthCheck])
def test_any_of_many_layers_matches(chosen: Mapping[str, Any], keras: Any) -> None:
    any_layer_matches(chosen, keras)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("scale", [1e-4, 100.0])
def test_small_and_large_inputs_match(function: str | None, scale: float, keras: Any) -> None:
    """Relative to each value: an activation neither overflows nor loses digits."""
    entry = keras.Input((None, 1), name="x")
    layer = keras.layers.SimpleRNN(1, activation=function, use_bias=False, return_sequences=True)
    model = keras.Model(entry, layer(entry))
    layer.set_weights([np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)])
    x = np.linspace(-scale, scale, 41, dtype=np.float32).reshape(1, -1, 1)
    (actual,) = reference.session(converted(model).SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(actual, np.asarray(model(x)), rtol=1e-3, atol=1e-7)


# --- Numbers that are not finite ----------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("cls", OPERATORS)
def test_nan_and_infinity_match(cls: str, backwards: bool, masked: bool, keras: Any) -> None:
    """From a NaN on all results are NaN, also from one in a state; those of other samples, and of
    the steps before it, are not, and neither are those of infinite inputs."""
    chosen: dict[str, Any] = {
        "cls": cls,
        "layer": {
            "units": 3, "return_sequences": True, "return_state": True, "go_backwards": backwards,
            "activation": "relu" if cls == "SimpleRNN" and backwards else "tanh",
        },
        "masked": masked, "given_states": True, "both_ways": False, "samples": None,
        "steps": None, "features": 2, "seed": 1,
    }  # fmt: skip
    model = model_of(keras, chosen)
    x, *states = feeds_of({**chosen, "masked": False}, 7, 6)
    x[1, 2, 0], x[2, 5, 1], x[3, 0, :] = np.nan, np.nan, np.nan
    if chosen["layer"]["activation"] == "tanh":
        x[4, 1, 0], x[4, 3, 0] = np.inf, -np.inf
    states[0][5, 0] = np.nan
    mask = np.ones((7, 6), bool)
    mask[1, 3:5], mask[2, 5], mask[3, 0], mask[5, :2], mask[6] = False, False, False, False, False
    feeds = [x, *([mask] if masked else []), *states]
    expected = [np.asarray(value) for value in model(feeds)]
    assert any(np.isnan(value).any() for value in expected)
    agree(model, converted(model), *feeds)


# --- Operators, and notes on the others ---------------------------------------------------------


def stacked(k: Any) -> Any:
    cells = [k.LSTMCell(3), k.GRUCell(2, reset_after=False), k.SimpleRNNCell(4)]
    return k.RNN(k.StackedRNNCells(cells), return_sequences=True, return_state=True)


LAYERS: Mapping[str, tuple[Make, list[str]]] = {
    "stacked cells": (stacked, ["LSTM", "GRU", "RNN"]),
    "nested cells": (
        lambda k: k.RNN([k.StackedRNNCells([k.GRUCell(3), k.SimpleRNNCell(2)]), k.LSTMCell(2)]),
        ["GRU", "RNN", "LSTM"],
    ),
    "cell": (lambda k: k.RNN(k.LSTMCell(3), go_backwards=True, return_sequences=True), ["LSTM"]),
    "both ways, unlike": (
        lambda k: k.Bidirectional(
            k.LSTM(3, return_sequences=True),
            backward_layer=k.GRU(2, return_sequences=True, go_backwards=True),
        ),
        ["LSTM", "GRU"],
    ),
    "dropout": (lambda k: k.GRU(3, dropout=0.5, recurrent_dropout=0.5), ["GRU"]),
    "first implementation": (lambda k: k.LSTM(3, implementation=1), ["LSTM"]),
    "in a model": (
        lambda k: __import__("keras").Sequential([k.GRU(3, return_sequences=True), k.LSTM(2)]),
        ["GRU", "LSTM"],
    ),
    "in steps": (lambda k: lambda x: k.TimeDistributed(k.GRU(3))(k.Reshape((3, 2, 4))(x)),
                 ["GRU"] * 3),
}  # fmt: skip


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_become_operators(name: str, masked: bool, keras: Any) -> None:
    make, expected = LAYERS[name]
    entry = keras.Input((6, 4), name="x")
    inputs = [entry]
    layer = make(keras.layers)
    if masked:
        if name in ("in steps", "in a model"):
            pytest.skip("they take no mask of the steps")
        inputs.append(keras.Input((6,), dtype="bool", name="mask"))
    model = keras.Model(inputs, layer(entry, **({"mask": inputs[1]} if masked else {})))
    seeded(model)
    graph = converted(model)
    operators = [kind for kind in kinds(graph) if kind in (*OPERATORS.values(), "Loop")]
    assert operators == expected
    mask = np.array([[1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 1, 1], [0] * 6, [1] * 6], bool)
    agree(model, graph, sequences(4, 6, 4), *([mask] if masked else []))


def test_steps_that_a_layer_masks_itself_are_left_out(keras: Any) -> None:
    """By Masking and by an Embedding, at the start, in the middle, at the end, and all of them."""
    k = keras.layers
    entry, words = keras.Input((None, 2), name="x"), keras.Input((None,), dtype="int32", name="w")
    masked = k.LSTM(3, return_sequences=True, return_state=True)(k.Masking()(entry))
    embedded = k.Bidirectional(k.GRU(2, return_sequences=True))(
        k.Embedding(9, 3, mask_zero=True)(words)
    )
    last = k.SimpleRNN(2, zero_output_for_mask=True)(k.Embedding(9, 3, mask_zero=True)(words))
    model = seeded(keras.Model([entry, words], [masked, embedded, last]))
    keep = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    x = sequences(5, 4, 2) * keep[..., None].astype(np.float32)
    ids = np.random.default_rng(1).integers(1, 9, keep.shape) * keep
    graph = converted(model)
    assert "Loop" not in kinds(graph)
    agree(model, graph, x.astype(np.float32), ids.astype(np.int32))


def test_a_state_may_come_from_another_layer(keras: Any) -> None:
    """An encoder and a decoder."""
    k = keras.layers
    source, target = keras.Input((None, 3), name="s"), keras.Input((None, 2), name="t")
    _, *states = k.LSTM(4, return_state=True)(source)
    decoded = k.LSTM(4, return_sequences=True)(target, initial_state=states)
    model = seeded(keras.Model([source, target], decoded))
    graph = converted(model)
    assert kinds(graph).count("LSTM") == 2
    agree(model, graph, sequences(2, 5, 3), sequences(2, 7, 2))


def test_states_before_the_first_step_are_left_out_of_the_graph(keras: Any) -> None:
    """They are zeros, which is what the operators begin with."""
    k = keras.layers
    for layer, samples in (
        (k.LSTM(2), None),
        (k.GRU(2, dtype="mixed_float16"), None),
        (k.SimpleRNN(2), 3),
    ):
        entry = keras.Input((4, 3), samples, name="x")
        graph = converted(keras.Model(entry, layer(entry)))
        (node,) = (node for node in graph.graph.node if node.op_type in OPERATORS.values())
        assert len(node.input) == 4


def test_the_steps_of_both_directions_are_not_reversed_twice(keras: Any) -> None:
    """Neither by Bidirectional, nor by a layer that goes backwards before another one."""
    k = keras.layers
    for masked in (False, True):
        entry = keras.Input((4, 3), name="x")
        x = k.Masking()(entry) if masked else entry
        graph = converted(keras.Model(entry, k.Bidirectional(k.GRU(2, return_sequences=True))(x)))
        assert not [
            node
            for node in graph.graph.node
            if node.op_type in ("Slice", "ReverseSequence") and len(node.input) == 5
        ]


def custom_cell(keras: Any) -> Any:
    class Half(keras.layers.SimpleRNNCell):
        def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
            output, states = super().call(inputs, states, training=training)
            return output / 2, states

    return keras.layers.RNN(Half(3), name="one")


def own_gates(keras: Any) -> Any:
    class Coupled(keras.layers.LSTMCell):
        def _compute_carry_and_output_fused(self, z: Any, c_tm1: Any) -> Any:
            i, _, c, o = z
            gate = self.recurrent_activation(i)
            return (1 - gate) * c_tm1 + gate * self.activation(c), self.recurrent_activation(o)

    return keras.layers.RNN(Coupled(3), name="one")


def own_steps(keras: Any) -> Any:
    from keras.src import backend

    class Doubling(keras.layers.GRU):
        def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, **_: Any) -> Any:
            def step(inputs: Any, states: Any) -> Any:
                return self.cell(2 * inputs, states)

            return backend.rnn(step, sequences, initial_state, mask=mask)

    return Doubling(3, name="one")


STAY_LOOPS: Mapping[str, tuple[Make, str]] = {
    "custom cell": (custom_cell, "ONNX has no operator for the cell 'Half'"),
    "own gates": (own_gates, "ONNX has no operator for the cell 'Coupled'"),
    "own steps": (own_steps, "its class has its own steps"),
    "activation": (
        lambda keras: keras.layers.LSTM(3, activation="gelu", name="one"),
        "ONNX's operators do not have the activation 'gelu'",
    ),
    "inaccurate activation": (
        lambda keras: keras.layers.SimpleRNN(3, activation="softplus", name="one"),
        "onnxruntime's operators lose the digits of the activation 'softplus'",
    ),
    "own activation": (
        lambda keras: keras.layers.GRU(3, recurrent_activation=lambda x: x / 2, name="one"),
        "ONNX's operators do not have the activation '<lambda>'",
    ),
    "stacked": (
        lambda keras: keras.layers.RNN(
            [keras.layers.GRUCell(2), keras.layers.SimpleRNNCell(2, activation="silu")],
            name="one",
        ),
        "ONNX's operators do not have the activation 'silu'",
    ),
    "convolution": (
        lambda keras: (
            lambda x: keras.layers.ConvLSTM1D(2, 2, name="one")(
                keras.layers.Reshape((5, 4, 1), name="shape")(x)
            )
        ),
        "ONNX has no operator for the cell 'ConvLSTMCell'",
    ),
}


@pytest.mark.parametrize("name", STAY_LOOPS)
def test_the_report_says_which_layer_stays_a_loop(name: str, keras: Any, tmp_path: Path) -> None:
    make, reason = STAY_LOOPS[name]
    entry = keras.Input((5, 4), name="x")
    model = seeded(keras.Model(entry, make(keras)(entry)), 0.3)
    report = layertap_export.export(model, tmp_path / "model.onnx")
    assert report.card.notes == (
        f"layer 'one' runs as an ONNX Loop, which is slower than an operator: {reason}.",
    )
    assert f"note: {report.card.notes[0]}" in str(report)
    assert "Loop" in kinds(onnx.load(tmp_path / "model.onnx"))


def test_a_subclass_that_changes_nothing_becomes_an_operator(keras: Any) -> None:
    class Mine(keras.layers.GRU):
        def call(
            self,
            sequences: Any,
            initial_state: Any = None,
            mask: Any = None,
            training: bool = False,
        ) -> Any:
            return super().call(2 * sequences, initial_state, mask, training)

    class Direct(keras.layers.Layer):
        """Calls a layer without `__call__`."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = keras.layers.LSTM(3)

        def build(self, shape: Any) -> None:
            self.inner.build(shape)

        def call(self, x: Any) -> Any:
            return self.inner.call(x)

    entry = keras.Input((5, 4), name="x")
    model = seeded(keras.Model(entry, [Mine(3)(entry), Direct()(entry)]))
    graph = converted(model)
    assert sorted(set(kinds(graph)) & {"GRU", "LSTM", "Loop"}) == ["GRU", "LSTM"]
    agree(model, graph, sequences(2, 5, 4))


def test_dropout_in_inference_is_refused(keras: Any) -> None:
    class Always(keras.layers.GRU):
        def inner_loop(self, *args: Any, **options: Any) -> Any:
            return super().inner_loop(*args, **{**options, "training": True})

    entry = keras.Input((5, 4), name="x")
    model = keras.Model(entry, Always(3, dropout=0.5, name="gru")(entry))
    with pytest.raises(layertap_export.UnsupportedLayerError, match=r"layer 'gru.*draws random"):
        converted(model)


def test_unrolled_steps_can_be_read(keras: Any, tmp_path: Path) -> None:
    entry = keras.Input((2, 4), name="x")
    model = seeded(keras.Model(entry, keras.layers.GRU(2, unroll=True, name="gru")(entry)))
    report = layertap_export.export(model, tmp_path / "model.onnx")
    cells = [f"gru/cell{call}{state}" for call in ("", "#1") for state in ("", ":1")]
    assert report.exposed == ("x", "gru", *cells)


def test_the_table_lists_the_cells_of_an_operator(keras: Any) -> None:
    """As in a trace with loops, that Keras can run."""
    from layertap_export.keras_model.tracing import trace

    entry = keras.Input((5, 4), name="x")
    cells = [keras.layers.LSTMCell(3, name="a"), keras.layers.GRUCell(2, name="b")]
    stacked = keras.layers.RNN(cells, return_state=True, name="rnn")(entry)
    other = keras.layers.GRU(2, return_sequences=True, name="gru")(entry)
    model = keras.Model(entry, [stacked, other])
    rows = [[row.layer for row in trace(model, to_run=to_run).rows] for to_run in (False, True)]
    assert rows[0] == rows[1]


# --- Weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("cls", OPERATORS)
def test_large_weights_stay_outside_the_graph(
    cls: str, policy: str, keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are in the file once, in ONNX's order."""
    entry = keras.Input((5, 40), name="x")
    layer = getattr(keras.layers, cls)(50, return_sequences=True, dtype=policy, name="one")
    model = seeded(keras.Model(entry, layer(entry)), 0.1)
    report = layertap_export.export(model, tmp_path / "in.onnx")
    monkeypatch.setattr("layertap_export.convert.freezing.STUB_BYTES", 1000)
    monkeypatch.setattr("layertap_export.graph.weights.STUB_BYTES", 1000)
    monkeypatch.setattr("layertap_export.convert.freezing.GRAPH_DEF_BYTES", 3000)
    layertap_export.export(model, tmp_path / "out.onnx")
    assert (tmp_path / "in.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()
    weights = sum(w.size for w in model.get_weights())
    bytes_each = 4 if policy == "float32" else 2
    assert report.size_bytes < weights * bytes_each + 8000


# --- Other engines ------------------------------------------------------------------------------

PLAIN: Mapping[str, Make] = {
    **{
        f"{cls} {name}": partial(lambda k, cls, options: getattr(k, cls)(3, **options), cls=cls,
                                 options=options)
        for cls in OPERATORS
        for name, options in {
            "last": {},
            "sequences": {"return_sequences": True, "return_state": cls != "LSTM"},
            "backwards": {"go_backwards": True, "return_sequences": True},
        }.items()
    },
    "GRU reset before": lambda k: k.GRU(3, reset_after=False, return_sequences=True),
    "both ways": lambda k: k.Bidirectional(k.LSTM(3, return_sequences=True)),
}  # fmt: skip


def graphs_and_values(
    keras: Any, name: str, masked: bool
) -> tuple[onnx.ModelProto, dict[str, Array], list[Array]]:
    entry = keras.Input((None, 4), name="x")
    x = keras.layers.Masking()(entry) if masked else entry
    model = seeded(keras.Model(entry, PLAIN[name](keras.layers)(x)))
    value = sequences(3, 5, 4)
    value[0, 3:], value[1, :2], value[2] = 0, 0, 0
    expected = keras.tree.flatten(model(value))
    return converted(model), {"x": value}, [np.asarray(item) for item in expected]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", PLAIN)
def test_the_evaluator_of_the_onnx_package_runs_the_file(
    name: str, masked: bool, keras: Any
) -> None:
    """It ignores `sequence_lens` and other activations than the default ones."""
    graph, feeds, expected = graphs_and_values(keras, name, masked)
    close(ReferenceEvaluator(graph).run(None, feeds), expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", PLAIN)
def test_openvino_runs_the_file(name: str, masked: bool, keras: Any) -> None:
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    import openvino

    graph, feeds, expected = graphs_and_values(keras, name, masked)
    core = openvino.Core()
    read = core.read_model(graph.SerializeToString())
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    close([*compiled(feeds).values()], expected)


# --- Keras 2 ------------------------------------------------------------------------------------


@pytest.fixture
def keras_2() -> Any:
    return pytest.importorskip("tf_keras")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "name", ["LSTM", "GRU", "SimpleRNN", "hard", "before", "both", "stacked", "time major"]
)
def test_keras_2_matches(name: str, masked: bool, keras: Any, keras_2: Any) -> None:
    k = keras_2.layers
    layer = {
        "LSTM": lambda: k.LSTM(3, return_sequences=True, return_state=True),
        "GRU": lambda: k.GRU(3, go_backwards=True, return_sequences=True),
        "SimpleRNN": lambda: k.SimpleRNN(3, activation="relu"),
        "hard": lambda: k.LSTM(3, recurrent_activation="hard_sigmoid", activation=None),
        "before": lambda: k.GRU(3, reset_after=False, use_bias=False, return_state=True),
        "both": lambda: k.Bidirectional(k.GRU(3, return_sequences=True)),
        "stacked": lambda: k.RNN([k.LSTMCell(3), k.GRUCell(2)], return_state=True),
        "time major": lambda: k.RNN(k.GRUCell(3), time_major=True, return_sequences=True),
    }[name]()
    entry = keras_2.Input((5, 4), batch_size=5 if name == "time major" else None, name="x")
    mask = keras_2.Input((5,), batch_size=5 if name == "time major" else None, dtype="bool",
                         name="mask")  # fmt: skip
    inputs = [entry, mask] if masked else [entry]
    model = seeded(keras_2.Model(inputs, layer(entry, **({"mask": mask} if masked else {}))))
    graph = converted(model)
    assert "Loop" not in kinds(graph)
    kept = np.random.default_rng(2).random((5, 5)) < 0.6
    kept[1] = False
    agree(model, graph, sequences(5, 5, 4), *([kept] if masked else []))


def test_a_loop_of_keras_2_is_noted(keras: Any, keras_2: Any, tmp_path: Path) -> None:
    entry = keras_2.Input((5, 4), name="x")
    layer = keras_2.layers.LSTM(3, activation="gelu", name="one")
    report = layertap_export.export(keras_2.Model(entry, layer(entry)), tmp_path / "model.onnx")
    assert report.card.notes
    assert "layer 'one' runs as an ONNX Loop" in report.card.notes[0]


def test_the_file_is_what_the_layers_give(keras: Any, tmp_path: Path) -> None:
    """Through the public functions, at other sizes than the export's."""
    k = keras.layers
    entry = keras.Input((None, 3), name="x")
    y = k.GRU(4, return_sequences=True, name="gru")(k.Masking(name="mask")(entry))
    y = k.Bidirectional(k.LSTM(3, return_sequences=True, name="lstm"), name="both")(y)
    model = seeded(keras.Model(entry, k.SimpleRNN(2, return_state=True, name="rnn")(y)))
    layertap_export.export(model, tmp_path / "model.onnx")
    opened = layertap.open(tmp_path / "model.onnx")
    for shape in ((1, 1, 3), (4, 9, 3)):
        x = sequences(*shape)
        x[0, -2:] = 0
        found = opened.activations(x, ["gru", "both", "both/backward_layer", "rnn", "rnn:1"])
        part = keras.Model(entry, [model.get_layer(name).output for name in ("gru", "both")])
        gru, both = part(x)
        last, state = model(x)
        close([found[n] for n in ("gru", "both", "rnn", "rnn:1")],
              [np.asarray(v) for v in (gru, both, last, state)])  # fmt: skip
