"""Tracing with free sizes, where Keras or TensorFlow would refuse or go wrong."""

from __future__ import annotations

import threading
from importlib import import_module
from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def tf(keras: Any) -> Any:
    import tensorflow

    return tensorflow


def traced(tf: Any, function: Any, *specs: Any) -> Any:
    from layertap_export.graph_mode import graph_mode

    with graph_mode():
        return tf.function(function, autograph=False).get_concrete_function(*specs)


def test_nothing_is_written(tf: Any, keras: Any) -> None:
    counter = keras.Variable(3.0)

    def call(x: Any) -> Any:
        counter.assign(counter + 1)
        return x * counter

    function = traced(tf, call, tf.TensorSpec([], tf.float32))
    assert [float(function(tf.constant(2.0))) for _ in range(2)] == [8.0, 8.0]
    assert float(counter.value) == 3.0
    assert "AssignVariableOp" not in {op.type for op in function.graph.get_operations()}


def test_a_size_that_is_computed(tf: Any, keras: Any) -> None:
    layer = keras.layers.UpSampling2D((2, 3), interpolation="bilinear")
    x = np.random.default_rng(0).uniform(-1, 1, (1, 4, 5, 2)).astype(np.float32)
    function = traced(tf, layer.call, tf.TensorSpec([None, None, None, 2], tf.float32))
    np.testing.assert_allclose(function(tf.constant(x)), layer(x), atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_time_distributed_takes_all_steps(steps: int, tf: Any, keras: Any) -> None:
    """In a graph Keras 3.15 takes as many as there are samples."""
    layer = keras.layers.TimeDistributed(keras.layers.Dense(2))
    x = np.random.default_rng(0).uniform(-1, 1, (2, steps, 4)).astype(np.float32)
    expected = layer(x)
    spec = tf.TensorSpec([None, None, 4], tf.float32)
    function = traced(tf, lambda x: layer.call(x), spec)
    np.testing.assert_allclose(function(tf.constant(x)), expected, atol=1e-6)


def test_time_distributed_hands_the_mask_on(tf: Any, keras: Any) -> None:
    layer = keras.layers.TimeDistributed(keras.layers.GlobalAveragePooling1D())
    x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 5, 4)).astype(np.float32)
    mask = np.random.default_rng(1).uniform(size=(2, 3, 5)) > 0.3
    expected = layer(x, mask=mask)
    function = traced(
        tf,
        lambda x, mask: layer.call(x, mask=mask),
        tf.TensorSpec([None, None, 5, 4], tf.float32),
        tf.TensorSpec([None, None, 5], tf.bool),
    )
    np.testing.assert_allclose(function(tf.constant(x), tf.constant(mask)), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_no_cudnn_on_a_machine_with_a_gpu(
    name: str, tf: Any, keras: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rnn = import_module("keras.src.backend.tensorflow.rnn")
    layer = getattr(keras.layers, name)(3)
    layer.build((None, 5, 2))
    monkeypatch.setattr(rnn, "_is_gpu_available", lambda: True)
    spec = tf.TensorSpec([None, 5, 2], tf.float32)
    function = traced(tf, layer.call, spec)
    nodes = [n for f in function.graph.as_graph_def().library.function for n in f.node_def]
    found = {op.type for op in function.graph.get_operations()} | {node.op for node in nodes}
    assert not [name for name in found if "Cudnn" in name]
    plain = tf.function(layer.call, autograph=False).get_concrete_function(spec)
    nodes = [n for f in plain.graph.as_graph_def().library.function for n in f.node_def]
    found = {op.type for op in plain.graph.get_operations()} | {node.op for node in nodes}
    assert "CudnnRNNV3" in found  # what it would be otherwise


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("form", ["list", "pairs", "dict"])
def test_switch_case(form: str, default: bool, tf: Any) -> None:
    """The same branch as TensorFlow takes, for indices outside too, and no `Case` in the graph."""
    branches = [lambda value=value: tf.constant(value) for value in (10.0, 20.0, 30.0)]
    given = {
        "list": branches,
        "pairs": [(2, branches[2]), (0, branches[0]), (1, branches[1])],
        "dict": dict(enumerate(branches)),
    }[form]
    options = {"default": lambda: tf.constant(-1.0)} if default else {}

    def call(index: Any) -> Any:
        return tf.switch_case(index, given, **options)

    function = traced(tf, call, tf.TensorSpec([], tf.int32))
    for index in (-1, 0, 1, 2, 3):
        assert float(function(tf.constant(index))) == float(call(tf.constant(index)))
    assert {op.type for op in function.graph.get_operations()}.isdisjoint({"Case", "StatelessCase"})


def test_other_threads_are_left_alone(tf: Any) -> None:
    from layertap_export.graph_mode import graph_mode

    original, seen = tf.switch_case, []
    with graph_mode():
        assert tf.switch_case is not original

        def other() -> None:
            with tf.Graph().as_default() as graph:
                tf.switch_case(tf.constant(1), [lambda: tf.constant(1), lambda: tf.constant(2)])
                seen.extend(op.type for op in graph.get_operations())

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "StatelessCase" in seen or "Case" in seen
    assert tf.switch_case is original


def test_what_was_replaced_is_put_back_after_an_error(tf: Any, keras: Any) -> None:
    from layertap_export.graph_mode import graph_mode

    before = (tf.switch_case, keras.ops.image.resize, keras.layers.TimeDistributed.call)
    with pytest.raises(KeyError), graph_mode():
        raise KeyError
    assert (tf.switch_case, keras.ops.image.resize, keras.layers.TimeDistributed.call) == before
