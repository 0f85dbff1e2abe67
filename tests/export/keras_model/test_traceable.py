"""Changes to TensorFlow and Keras while a model is traced."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
import layertap_export

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def traced(function: Callable[..., Any], *shape: int | None, to_run: bool = False) -> Any:
    """A concrete function of one input, and the functions of the libraries that were inlined."""
    import tensorflow as tf

    from layertap_export.keras_model.traceable import traceable

    spec = [tf.TensorSpec(shape)]
    with traceable(to_run) as changes:
        made = tf.function(function, input_signature=spec, autograph=False)
        return made.get_concrete_function(), changes.inlined


def operations(concrete: Any) -> set[str]:
    return {op.type for op in concrete.graph.get_operations()}


def x(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_tf_functions_are_inlined(keras: Any) -> None:
    """Loops and branches on tensors become TensorFlow control flow."""
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def compiled(x: Any) -> Any:
        return tf.nn.relu(x)

    @tf.function
    def with_a_loop(x: Any) -> Any:
        for i in tf.range(3):
            if tf.reduce_sum(x) > 0:
                x = x - tf.cast(i, tf.float32)
        return compiled(x)

    concrete, inlined = traced(with_a_loop, None, 2)
    assert inlined == []
    assert "Relu" in operations(concrete)
    assert any("While" in kind for kind in operations(concrete))
    assert not any("PartitionedCall" in kind for kind in operations(concrete))
    for value in (x(3, 2), -x(3, 2)):
        np.testing.assert_allclose(concrete(tf.constant(value)), with_a_loop(value))


def test_functions_without_source_are_inlined_unconverted(keras: Any) -> None:
    import tensorflow as tf

    function = tf.function(eval("lambda x: x + 1"))
    concrete, _ = traced(function, None, 2)
    np.testing.assert_allclose(concrete(tf.constant(x(1, 2))), x(1, 2) + 1)


def test_methods_are_inlined(keras: Any) -> None:
    import tensorflow as tf

    class Adds:
        amount = 2.0

        @tf.function
        def __call__(self, x: Any) -> Any:
            return x + self.amount

        def positive(self, x: Any) -> Any:
            if tf.reduce_sum(x) < 0:
                return -x
            return x

    for function in (Adds(), tf.function(Adds().positive)):
        concrete, _ = traced(function, None, 2)
        for value in (x(1, 2), -x(1, 2)):
            np.testing.assert_allclose(concrete(tf.constant(value)), function(value))


@pytest.mark.parametrize("to_run", [False, True])
def test_functions_of_keras_are_not_inlined_in_a_trace_to_run(to_run: bool, keras: Any) -> None:
    """A CPU can run a grouped three-dimensional convolution only if it is compiled."""
    import tensorflow as tf

    conv = keras.layers.Conv3D(4, 2, groups=2)
    conv.build((None, 3, 3, 3, 4))
    concrete, inlined = traced(conv, None, 3, 3, 3, 4, to_run=to_run)
    assert bool(inlined) != to_run
    value = x(2, 3, 3, 3, 4)
    if to_run:
        np.testing.assert_allclose(concrete(tf.constant(value)), conv(value), rtol=1e-5, atol=1e-6)
    else:
        assert "Conv3D" in operations(concrete)


def test_time_distributed_with_a_free_number_of_steps_matches_keras(keras: Any) -> None:
    """The eager layer loops over the steps. The inner layer also reads a mask."""
    import tensorflow as tf

    class Masked(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def build(self, shape: Any) -> None:
            self.dense.build(shape)

        def call(self, x: Any, mask: Any = None, training: bool = False) -> Any:
            return self.dense(x) * keras.ops.cast(mask, "float32")[:, None]

    layer = keras.layers.TimeDistributed(Masked())
    value = x(3, 5, 4)
    mask = np.arange(15).reshape(3, 5) % 4 > 0
    expected = layer(value, mask=mask)

    def call(x: Any) -> Any:
        return layer(x, mask=keras.ops.reshape(keras.ops.arange(15), (3, 5)) % 4 > 0)

    concrete, _ = traced(call, None, None, 4)
    np.testing.assert_allclose(concrete(tf.constant(value)), expected, rtol=1e-5, atol=1e-6)
    assert concrete.output_shapes.as_list()[1:] == [None, 3]


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_recurrent_layers_do_not_use_cudnn_on_a_machine_with_a_gpu(
    name: str, keras: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    def all_operations(concrete: Any) -> set[str]:
        functions = concrete.graph.as_graph_def().library.function
        return operations(concrete) | {node.op for f in functions for node in f.node_def}

    layer = getattr(keras.layers, name)(3)
    layer.build((None, 5, 2))
    # `from ... import rnn` would import the function of this name.
    recurrence = import_module("keras.src.backend.tensorflow.rnn")
    monkeypatch.setattr(recurrence, "_is_gpu_available", lambda: True)
    concrete, _ = traced(layer.call, None, 5, 2)
    assert not [kind for kind in all_operations(concrete) if "Cudnn" in kind]
    plain = tf.function(layer.call, autograph=False)
    unpatched = plain.get_concrete_function(tf.TensorSpec([None, 5, 2]))
    assert "CudnnRNNV3" in all_operations(unpatched)


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("form", ["list", "pairs", "dict"])
def test_switch_case_becomes_two_way_branches(form: str, default: bool, keras: Any) -> None:
    """The result is TensorFlow's, also for an index out of range, and the graph has no `Case`."""
    import tensorflow as tf

    branches = [lambda value=value: tf.constant(value) for value in (10.0, 20.0, 30.0)]
    given = {
        "list": branches,
        "pairs": [(2, branches[2]), (0, branches[0]), (1, branches[1])],
        "dict": dict(enumerate(branches)),
    }[form]
    options = {"default": lambda: tf.constant(-1.0)} if default else {}

    def call(index: Any) -> Any:
        return tf.switch_case(tf.cast(index, tf.int32), given, **options)

    concrete, _ = traced(call)
    for index in (-1.0, 0.0, 1.0, 2.0, 3.0):
        assert float(concrete(tf.constant(index))) == float(call(tf.constant(index)))
    assert operations(concrete).isdisjoint({"Case", "StatelessCase"})


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_a_centre_crop_of_any_size_matches_keras(
    data_format: str, keras: Any, tmp_path: Path
) -> None:
    """Keras enlarges an image that is smaller than the crop, if it knows its size."""
    crop = keras.layers.CenterCrop(9, 7, data_format=data_format)
    shape = (None, None, 2) if data_format == "channels_last" else (2, None, None)
    model = keras.Sequential([keras.Input(shape), crop])
    report = layertap_export.export(model, tmp_path / "x.onnx")
    tapped = layertap.open(report.path)
    for height, width in ((9, 7), (20, 31), (5, 4), (4, 12), (12, 3), (9, 6), (1, 1), (10, 8)):
        size = (height, width, 2) if data_format == "channels_last" else (2, height, width)
        image = np.random.default_rng(0).normal(size=(2, *size)).astype(np.float32)
        np.testing.assert_allclose(tapped.predict(image), crop(image), rtol=1e-5, atol=1e-5)
