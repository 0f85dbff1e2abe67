"""What Keras and TensorFlow do not do, or get wrong, when a model is traced with free sizes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import keras
import tensorflow as tf
from keras.src import ops as keras_ops

_lock = threading.RLock()


@contextmanager
def graph_mode() -> Iterator[None]:
    """Trace a model in this block.

    - Nothing is written to variables: states of stateful layers and of random generators are what
      they were, and every run of the file starts from there.
    - `keras.ops.image.resize` takes sizes that are tensors (it asks whether they are positive).
    - `TimeDistributed` takes steps of a free number (Keras takes the batch size for it).
    - Recurrent layers do without cuDNN, of which ONNX knows nothing, on machines with a GPU too.
    - `tf.switch_case` is made of two-way choices, which tf2onnx knows.
    """
    with ExitStack() as stack:
        stack.enter_context(keras.StatelessScope())
        for module in (keras_ops.image, keras.ops.image):
            stack.enter_context(_replaced(module, "resize", _resize))
        stack.enter_context(_replaced(keras.layers.TimeDistributed, "call", _time_distributed))
        # The package has a function of the module's name.
        recurrence = import_module("keras.src.backend.tensorflow.rnn")
        stack.enter_context(_replaced(recurrence, "cudnn_ok", lambda original, *_, **__: False))
        stack.enter_context(_replaced(tf, "switch_case", _switch_case))
        yield


@contextmanager
def _replaced(owner: Any, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """Let `replacement(original, *args, **kwargs)` stand for a function, in this thread only."""
    thread = threading.get_ident()
    with _lock:
        original = getattr(owner, name)

        def function(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return original(*args, **kwargs)
            return replacement(original, *args, **kwargs)

        setattr(owner, name, function)
        try:
            yield
        finally:
            setattr(owner, name, original)


def _resize(original: Callable[..., Any], images: Any, size: Any, *args: Any, **kwargs: Any) -> Any:
    if any(tf.is_tensor(x) for x in size):
        return keras.src.backend.image.resize(images, size, *args, **kwargs)
    return original(images, size, *args, **kwargs)


def _time_distributed(
    original: Callable[..., Any], layer: Any, inputs: Any, training: Any = None, mask: Any = None
) -> Any:
    """All steps of all samples as one batch, and back."""
    if inputs.shape[1] is not None:
        return original(layer, inputs, training=training, mask=mask)
    inner, shape = layer.layer, tf.shape(inputs)

    def steps(x: Any) -> Any:
        merged = tf.reshape(x, tf.concat([[shape[0] * shape[1]], tf.shape(x)[2:]], 0))
        return tf.ensure_shape(merged, [None, *x.shape[2:]])

    kwargs: dict[str, Any] = {}
    if inner._call_has_mask_arg and mask is not None:
        kwargs["mask"] = steps(mask)
    if inner._call_has_training_arg:
        kwargs["training"] = training
    result = inner.call(steps(inputs), **kwargs)
    return keras.tree.map_structure(
        lambda x: tf.reshape(x, tf.concat([shape[:2], tf.shape(x)[1:]], 0)), result
    )


def _switch_case(
    original: Callable[..., Any],
    branch_index: Any,
    branch_fns: Any,
    default: Callable[[], Any] | None = None,
    name: str = "switch_case",
) -> Any:
    """The branch of that index, or the default, which is the last one if none is given."""
    if isinstance(branch_fns, dict):
        branches = sorted(branch_fns.items())
    elif callable(branch_fns[0]):
        branches = list(enumerate(branch_fns))
    else:
        branches = sorted(branch_fns, key=lambda branch: branch[0])
    chosen = default or branches.pop()[1]
    for index, branch in reversed(branches):
        chosen = _either(branch_index, index, branch, chosen)
    return chosen()


def _either(
    given: Any, index: int, branch: Callable[[], Any], otherwise: Callable[[], Any]
) -> Callable[[], Any]:
    return lambda: tf.cond(tf.equal(given, index), branch, otherwise)
