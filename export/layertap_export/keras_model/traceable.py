"""What has to be otherwise in TensorFlow and Keras while a model is traced."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import keras
import tensorflow as tf
from keras.src import ops as keras_ops

from .wrapping import wrapped

LIBRARIES = ("keras", "tensorflow")


@contextmanager
def traceable(to_run: bool) -> Iterator[list[Any]]:
    """Trace models in this block, whose layers may have any name, and whose inner layers' tensors
    shall all be in the one graph.

    Args:
        to_run: leave those functions of Keras alone that TensorFlow must compile to run them.

    Yields:
        A list of the libraries' own functions that were taken apart in this block.
    """
    taken_apart: list[Any] = []
    with (
        _inlined_functions(None if to_run else taken_apart),
        _valid_scopes(),
        _free_steps(),
        _free_sizes(),
        _two_way_choices(),
        _without_cudnn(),
        _nothing_recomputed(),
    ):
        yield taken_apart


@contextmanager
def _inlined_functions(of_libraries: list[Any] | None) -> Iterator[None]:
    """Run nested `tf.function`s as plain Python, so that their operations land in our graph.

    Otherwise what layers in them put out could not be reached; and of functions with jit
    compilation, such as Keras's grouped convolutions, tf2onnx knows nothing.

    Args:
        of_libraries: takes the functions of Keras and TensorFlow themselves; `None` leaves these as
            they are. No layer is called in them.
    """

    def call(original: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_of_library(function.python_function):
            return _with_control_flow(function)(*args, **kwargs)
        if of_libraries is None:
            return original(function, *args, **kwargs)
        of_libraries.append(function)
        return function.python_function(*args, **kwargs)

    with wrapped(type(tf.function(lambda: None)), "__call__", call):
        yield


def _is_of_library(body: Any) -> bool:
    """Whether this is code of Keras or TensorFlow, but no layer, which a user may have made one."""
    owner = getattr(body, "__self__", body)
    return _module(body) in LIBRARIES and not isinstance(owner, keras.layers.Layer)


def _module(body: Any) -> str:
    return (getattr(body, "__module__", None) or "").split(".")[0]


def _with_control_flow(function: Any) -> Callable[..., Any]:
    """What a `tf.function` was made of, with its `if`s and loops on tensors as TensorFlow's own."""
    body: Callable[..., Any] = function.python_function
    if not getattr(function, "_autograph", True) or _module(body) in LIBRARIES:
        return body
    try:
        converted: Callable[..., Any] = tf.autograph.to_graph(body)
    except Exception:  # noqa: BLE001 - its source is not to be had: TensorFlow runs it as it is too
        return body
    return partial(converted, body.__self__) if inspect.ismethod(body) else converted


@contextmanager
def _valid_scopes() -> Iterator[None]:
    """Let layers have any name: TensorFlow refuses to make a scope of some."""

    def name_scope(original: Any, graph: Any, name: str | None) -> Any:
        if name:
            name = re.sub(r"[^A-Za-z0-9_./-]", "_", name)
            name = name if re.match(r"[A-Za-z0-9.]", name) else f"x{name}"
        return original(graph, name)

    with wrapped(tf.Graph, "name_scope", name_scope):
        yield


@contextmanager
def _free_steps() -> Iterator[None]:
    """Where the number of steps is free, Keras's TimeDistributed makes as many as there are samples
    (in 3.15), in a loop. Here all steps of all samples are one batch for the inner layer."""

    def call(original: Any, layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        if inputs.shape[1] is not None:
            return original(layer, inputs, training=training, mask=mask)
        arguments = {"training": training} if layer.layer._call_has_training_arg else {}
        if mask is not None and layer.layer._call_has_mask_arg:
            arguments["mask"] = _reshaped(mask, (-1,), 2)
        result = layer.layer.call(_reshaped(inputs, (-1,), 2), **arguments)
        return _reshaped(result, tf.unstack(tf.shape(inputs)[:2]), 1)

    with wrapped(keras.layers.TimeDistributed, "call", call):
        yield


def _reshaped(tensor: Any, first: Sequence[Any], instead_of: int) -> Any:
    """`tensor` with other sizes in place of its first ones."""
    sizes = tf.unstack(tf.shape(tensor))[instead_of:]
    static = tensor.shape[instead_of:]
    rest = [y if x is None else x for x, y in zip(static, sizes, strict=True)]
    return tf.reshape(tensor, [*first, *rest])


@contextmanager
def _free_sizes() -> Iterator[None]:
    """Let `keras.ops.image.resize` take sizes that are tensors: it asks if they are positive."""

    def resize(original: Any, images: Any, size: Any, *args: Any, **kwargs: Any) -> Any:
        if any(tf.is_tensor(x) for x in size):
            return keras.src.backend.image.resize(images, size, *args, **kwargs)
        return original(images, size, *args, **kwargs)

    with wrapped(keras_ops.image, "resize", resize), wrapped(keras.ops.image, "resize", resize):
        yield


@contextmanager
def _two_way_choices() -> Iterator[None]:
    """Let `tf.switch_case` be made of two-way choices, which tf2onnx knows."""

    def switch_case(
        original: Any, branch_index: Any, branch_fns: Any, default: Any = None, name: str = ""
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

    with wrapped(tf, "switch_case", switch_case):
        yield


def _either(
    given: Any, index: int, branch: Callable[[], Any], otherwise: Callable[[], Any]
) -> Callable[[], Any]:
    return lambda: tf.cond(tf.equal(given, index), branch, otherwise)


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """Recurrent layers do without cuDNN, of which ONNX knows nothing, on a machine with a GPU."""
    # The package has a function of the module's name.
    recurrence = import_module("keras.src.backend.tensorflow.rnn")
    with wrapped(recurrence, "cudnn_ok", lambda original, *args, **kwargs: False):
        yield


@contextmanager
def _nothing_recomputed() -> Iterator[None]:
    """Layers under `keras.RematScope` run as others do: there is no gradient to save memory for,
    and TensorFlow's wrapper takes no named arguments in a graph."""
    with wrapped(tf, "recompute_grad", lambda original, function, *args, **kwargs: function):
        yield
