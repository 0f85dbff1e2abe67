"""Recorded calls of layers: names, outputs, and which output is read by which call."""

from __future__ import annotations

import threading
from collections import namedtuple
from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture
def layers(keras: Any) -> Any:
    keras.utils.clear_session()
    return keras.layers


def recorded(model: Any, x: Any) -> Any:
    """The recorder after one call of the model."""
    from layertap_export.keras_model.recording import Recorder

    recorder = Recorder()
    with recorder.recording():
        model(x, training=False)
    return recorder


def outputs(model: Any, x: Any) -> dict[str, Any]:
    """The output arrays by name, in the order in which the calls began."""
    return {
        name: np.asarray(tensor)
        for call in recorded(model, x).calls
        for name, tensor in call.outputs
    }


def inbound(model: Any, x: Any) -> dict[str, list[str]]:
    return {call.path: call.inbound for call in recorded(model, x).calls}


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def test_every_layer_of_a_functional_model_is_recorded(keras: Any, small: Any) -> None:
    found = outputs(small, ones(2, 7, 9, 3))
    assert list(found) == ["conv", "bn", "relu", "add", "drop", "pool", "gap", "dense"]
    function = keras.Model(small.input, [small.get_layer(name).output for name in found])
    for value, expected in zip(found.values(), function(ones(2, 7, 9, 3)), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert inbound(small, ones(2, 7, 9, 3))["add"] == ["conv", "relu"]


def test_a_layer_that_returns_its_input_is_the_source_of_the_next_layer(small: Any) -> None:
    """Dropout returns its input in inference."""
    assert inbound(small, ones(1, 7, 9, 3))["pool"] == ["drop"]


Point = namedtuple("Point", ["y", "x"])


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (1, [""]),
        ((1, 2, 3), ["", ":1", ":2"]),
        ([1], [""]),
        ({"b": 2, "a": 1}, [":b", ":a"]),
        ((1, (2, 3)), ["", ":1", ":1:1"]),
        ((1, {"a": 2}), ["", ":1:a"]),
        ([[1, 2], [3]], ["", ":0:1", ":1"]),
        ({"b": [2, 3], "a": {"c": 1}}, [":b", ":b:1", ":a:c"]),
        ({"0": 1, 1: 2}, [":0", ":1"]),
        (Point(1, 2), [":y", ":x"]),
        ([], []),
        ({}, []),
    ],
)
def test_nested_values_have_suffixes_and_positions(
    value: Any, names: list[str], keras: Any
) -> None:
    """They are in insertion order; the positions are those of Keras's flattened structure."""
    from layertap_export.keras_model.recording import nested_values

    found = nested_values(value)
    assert [item.suffix for item in found] == names
    flat = keras.tree.flatten(value)
    assert [item.value for item in found] == [flat[item.position] for item in found]
    assert sorted(item.position for item in found) == list(range(len(flat)))


def test_names_are_unique(keras: Any, layers: Any) -> None:
    """Also if a layer has the name of another layer's second call, or of its second output."""

    class Two(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x + 1, x + 2

    entry, shared = keras.Input((4,)), layers.Dense(4, name="a")
    x = layers.Dense(4, name="a#1")(shared(shared(entry)))
    x, y = Two(name="two")(layers.Dense(4, name="two:1")(x))
    model = keras.Model(entry, layers.Add(name="sum")([x, y]))
    assert list(outputs(model, ones(1, 4))) == [
        "a",
        "a#1",
        "a#1~2",
        "two:1",
        "two",
        "two:1~2",
        "sum",
    ]


def test_reserved_names_are_not_used(keras: Any, layers: Any) -> None:
    from layertap_export.keras_model.recording import Recorder

    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="x")])
    recorder = Recorder(reserved=["x"])
    with recorder.recording():
        model(ones(1, 4))
    assert [call.path for call in recorder.calls] == ["x~2"]


def test_the_cells_of_a_loop_are_recorded_once(keras: Any, layers: Any) -> None:
    """Keras also runs them to find the shape of the output, and stacked cells for dropout."""
    cells = [layers.LSTMCell(3, name="one", dropout=0.1), layers.GRUCell(2, name="two")]
    for unroll, times in ((False, 1), (True, 4)):
        rnn = layers.RNN(cells, name="rnn", unroll=unroll)
        model = keras.Sequential([keras.Input((4, 2)), rnn])
        calls = recorded(model, ones(1, 4, 2)).calls
        stacked = [call for call in calls if call.layer is rnn.cell]
        assert [call.in_loop for call in stacked] == [not unroll] * times
        inner = [call.layer.name for call in calls if call.parent in stacked]
        assert inner == ["one", "two"] * times
        assert len(calls) == 1 + 3 * times


def test_symbolic_calls_are_not_recorded(keras: Any, layers: Any) -> None:
    """A layer may build a model while it is called."""

    class Builder(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            entry = keras.Input((4,))
            model = keras.Model(entry, layers.Activation("relu", name="inner")(entry), name="model")
            return model(x)

    model = keras.Sequential([keras.Input((4,)), Builder(name="builder")])
    assert list(outputs(model, ones(1, 4))) == ["builder", "builder/model", "builder/model/inner"]


def test_gradients_flow_through_a_recorded_model(keras: Any, layers: Any) -> None:
    import tensorflow as tf

    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, "tanh", name="a")])
    x = tf.constant(ones(2, 4))
    gradients = []
    for record in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(x)
            calls = recorded(model, x).calls if record else []
            y = calls[0].outputs[0][1] if record else model(x, training=False)
        gradients.append(tape.gradient(y, x))
    np.testing.assert_array_equal(*gradients)
    assert np.abs(gradients[0]).max() > 0


def test_inner_calls_end_before_outer_ones(keras: Any, layers: Any) -> None:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense")], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner, layers.ReLU(name="relu")])
    recorder = recorded(model, ones(1, 4))
    ended = sorted(recorder.calls, key=lambda call: call.finished)
    assert [call.path for call in ended] == ["inner/dense", "inner", "relu"]


def test_nothing_stays_patched(keras: Any, small: Any) -> None:
    from keras.src.ops.operation import Operation

    from layertap_export.keras_model.recording import Recorder

    before = keras.layers.Layer.__call__, Operation.__call__
    recorder = Recorder()
    with pytest.raises(ValueError, match="expected shape"), recorder.recording():
        small(ones(1, 7, 9, 4))
    assert (keras.layers.Layer.__call__, Operation.__call__) == before
    small(ones(1, 7, 9, 3))
    assert recorder.calls == []


def test_calls_in_another_thread_are_not_recorded(small: Any) -> None:
    from layertap_export.keras_model.recording import Recorder

    recorder, results = Recorder(), []
    other = threading.Thread(target=lambda: results.append(small(ones(1, 7, 9, 3))))
    with recorder.recording():
        other.start()
        other.join()
        assert recorder.calls == []
        small(ones(1, 7, 9, 3))
    assert len(results) == 1
    assert len(recorder.calls) == 8


def test_nested_recordings_are_separate(small: Any) -> None:
    from layertap_export.keras_model.recording import Recorder

    outer, inner = Recorder(), Recorder()
    with outer.recording():
        with inner.recording():
            small(ones(1, 7, 9, 3))
        assert outer.calls == []
        small(ones(1, 7, 9, 3))
    assert len(inner.calls) == len(outer.calls) == 8
