"""Recording what every layer puts out, by the names under which the file will give it."""

from __future__ import annotations

import threading
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


def recorded(model: Any, x: Any, keep: Any = None) -> Any:
    """The recorder after one call of the model."""
    from layertap_export.recording import Recorder

    recorder = Recorder() if keep is None else Recorder(keep)
    with recorder.recording():
        model(x, training=False)
    return recorder


def outputs(model: Any, x: Any) -> dict[str, Any]:
    """Name -> array, in the order in which the calls began."""
    return {
        name: np.asarray(tensor)
        for call in recorded(model, x).calls
        for name, tensor in call.outputs
    }


def inbound(model: Any, x: Any) -> dict[str, list[str]]:
    return {call.path: call.inbound for call in recorded(model, x).calls}


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def test_functional(keras: Any, small: Any) -> None:
    found = outputs(small, ones(2, 7, 9, 3))
    assert list(found) == ["conv", "bn", "relu", "add", "drop", "pool", "gap", "dense"]
    function = keras.Model(small.input, [small.get_layer(name).output for name in found])
    for value, expected in zip(found.values(), function(ones(2, 7, 9, 3)), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert inbound(small, ones(2, 7, 9, 3))["add"] == ["conv", "relu"]


def test_a_layer_that_returns_its_input_hands_on_its_own_name(small: Any) -> None:
    """In inference a Dropout is nothing, but the layer behind it reads it all the same."""
    assert inbound(small, ones(1, 7, 9, 3))["pool"] == ["drop"]


def test_sequential(keras: Any, layers: Any) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.ReLU(name="b")])
    assert inbound(model, ones(1, 4)) == {"a": [], "b": ["a"]}


def test_a_model_inside_a_model(keras: Any, layers: Any) -> None:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense")], name="inner")
    outer = keras.Sequential([keras.Input((4,)), inner, layers.Dense(2, name="dense")])
    found = outputs(outer, ones(1, 4))
    assert list(found) == ["inner", "inner/dense", "dense"]
    np.testing.assert_array_equal(found["inner"], found["inner/dense"])


def test_a_shared_layer_counts_its_calls(keras: Any, layers: Any) -> None:
    shared, entry = layers.Dense(4, name="shared"), keras.Input((4,))
    model = keras.Model(entry, layers.Add(name="add")([shared(entry), shared(shared(entry))]))
    x = ones(1, 4)
    found = outputs(model, x)
    assert list(found) == ["shared", "shared#1", "shared#2", "add"]
    np.testing.assert_allclose(found["shared#2"], shared(shared(x)), rtol=1e-6)
    assert inbound(model, x)["add"] == ["shared", "shared#2"]


def test_a_shared_model_counts_its_calls(keras: Any, layers: Any) -> None:
    tower = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="dense")], name="tower")
    left, right = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([left, right], layers.Add(name="add")([tower(left), tower(right)]))
    found = outputs(model, [ones(1, 4), 2 * ones(1, 4)])
    assert list(found) == ["tower", "tower/dense", "tower#1", "tower#1/dense", "add"]
    np.testing.assert_allclose(found["tower#1/dense"], 2 * found["tower/dense"], rtol=1e-6)


def test_two_layers_of_one_name_are_told_apart(keras: Any, layers: Any) -> None:
    class Twins(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__(name="twins")
            self.parts = [layers.Dense(2, name="part"), layers.Dense(2, name="part")]

        def call(self, x: Any) -> Any:
            return self.parts[1](self.parts[0](x))

    model = keras.Sequential([keras.Input((2,)), Twins()])
    assert list(outputs(model, ones(1, 2))) == ["twins", "twins/part", "twins/part~2"]


def test_subclassed(keras: Any, layers: Any) -> None:
    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = layers.Dense(3, name="first"), layers.Dense(2, name="second")

        def call(self, x: Any, training: bool = False) -> Any:
            return self.second(keras.ops.relu(self.first(x)))

    model = Model()
    model(ones(1, 4))
    assert list(outputs(model, ones(1, 4))) == ["first", "second"]


def test_several_outputs_of_one_layer(keras: Any, layers: Any) -> None:
    entry = keras.Input((5, 3))
    lstm = layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")
    model = keras.Model(entry, lstm(entry))
    found = outputs(model, ones(2, 5, 3))
    assert {name: value.shape for name, value in found.items()} == {
        "lstm": (2, 5, 4),
        "lstm:1": (2, 4),
        "lstm:2": (2, 4),
    }


def test_operations_of_a_functional_graph_are_layers_too(keras: Any, layers: Any) -> None:
    """`keras.ops` called on symbolic tensors; the same inside a layer's own code is not."""
    entry = keras.Input((4,))
    hidden = layers.Dense(4, activation="relu", name="dense")(entry)
    model = keras.Model(entry, keras.ops.tanh(hidden + entry))
    assert list(outputs(model, ones(1, 4))) == ["dense", "add", "tanh"]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (1, [""]),
        ((1, 2, 3), ["", ":1", ":2"]),
        ([1], [""]),
        ({"b": 1, "a": 2}, [":a", ":b"]),
        ((1, (2, 3)), ["", ":1", ":1:1"]),
        ((1, {"a": 2}), ["", ":1:a"]),
        (None, []),
        ((None, 2), [":1"]),
        ([], []),
    ],
)
def test_names_of_leaves(value: Any, names: list[str], keras: Any) -> None:
    from layertap_export.recording import named_leaves

    assert [name for name, _ in named_leaves(value)] == names


def test_only_what_is_wanted_is_kept(small: Any) -> None:
    recorder = recorded(small, ones(1, 7, 9, 3), keep={"bn", "dense"}.__contains__)
    names = [name for call in recorder.calls for name, _ in call.outputs]
    assert names == ["bn", "dense"]


def test_inner_calls_end_before_outer_ones(keras: Any, layers: Any) -> None:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense")], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner, layers.ReLU(name="relu")])
    recorder = recorded(model, ones(1, 4))
    ended = sorted(recorder.calls, key=lambda call: call.finished)
    assert [call.path for call in ended] == ["inner/dense", "inner", "relu"]


def test_nothing_stays_patched(keras: Any, small: Any) -> None:
    from keras.src.ops.operation import Operation

    from layertap_export.recording import Recorder

    before = keras.layers.Layer.__call__, Operation.__call__
    recorder = Recorder()
    with pytest.raises(ValueError, match="expected shape"), recorder.recording():
        small(ones(1, 7, 9, 4))
    assert (keras.layers.Layer.__call__, Operation.__call__) == before
    small(ones(1, 7, 9, 3))
    assert recorder.calls == []


def test_another_thread_is_left_alone(small: Any) -> None:
    from layertap_export.recording import Recorder

    recorder, results = Recorder(), []
    other = threading.Thread(target=lambda: results.append(small(ones(1, 7, 9, 3))))
    with recorder.recording():
        other.start()
        other.join()
        assert recorder.calls == []
        small(ones(1, 7, 9, 3))
    assert len(results) == 1
    assert len(recorder.calls) == 8


def test_a_recording_inside_a_recording(small: Any) -> None:
    """Each has its own."""
    from layertap_export.recording import Recorder

    outer, inner = Recorder(), Recorder()
    with outer.recording():
        with inner.recording():
            small(ones(1, 7, 9, 3))
        assert outer.calls == []
        small(ones(1, 7, 9, 3))
    assert len(inner.calls) == len(outer.calls) == 8
