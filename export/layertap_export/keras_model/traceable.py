"""Changes to TensorFlow and Keras while a model is traced, so that the trace can be converted."""

from __future__ import annotations

import inspect
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import keras
import tensorflow as tf
from keras.src import ops as keras_ops
from tensorflow.python.ops.resource_variable_ops import ResourceVariable

from layertap_export.errors import ExportError

from .recurrence import Loop, recurrent_operators
from .wrapping import wrapped

LIBRARIES = ("keras", "tensorflow")


@dataclass(frozen=True, eq=False)
class Changes:
    """What was changed in a trace so that it can be converted."""

    inlined: list[Any] = field(default_factory=list)
    """The functions of Keras and TensorFlow themselves that were inlined."""
    operators: list[Any] = field(default_factory=list)
    """The recurrent layers that are one operation each."""
    loops: list[Loop] = field(default_factory=list)
    """The recurrent layers that stay loops."""

    @property
    def runs(self) -> bool:
        """Whether TensorFlow can run the trace."""
        return not self.inlined and not self.operators


@contextmanager
def traceable(to_run: bool) -> Iterator[Changes]:
    """Trace models in this block: layers may have any name, and the tensors of all layers, inner
    ones included, are in one graph.

    Args:
        to_run: make a trace that TensorFlow can run: keep recurrent layers as loops, and do not
            inline those functions of Keras that TensorFlow can run only if compiled.

    Yields:
        What was changed so far.
    """
    changes = Changes()
    with (
        _inlined_functions(None if to_run else changes.inlined),
        nullcontext() if to_run else recurrent_operators(changes.operators, changes.loops),
        _valid_scopes(),
        _free_steps(),
        _computed_sizes(),
        _centre_crops(),
        _two_way_branches(),
        _without_cudnn(),
        _normalisations_in_steps(),
        _without_recomputation(),
        _without_metrics(),
        _finite(),
    ):
        yield changes


@contextmanager
def kept_states() -> Iterator[None]:
    """Call models without a change of their layers' states. `keras.StatelessScope` does not know
    the stateful recurrent layers of Keras 2."""

    def assign(original: Any, variable: Any, *args: Any, **kwargs: Any) -> Any:
        frame: Any = sys._getframe(2)
        while frame.f_globals.get("__name__", "").partition(".")[0] == "tensorflow":
            frame = frame.f_back
        if frame.f_globals.get("__name__", "").startswith("tf_keras.src.layers.rnn."):
            return variable
        return original(variable, *args, **kwargs)

    keras_2 = "tf_keras" in sys.modules
    with (
        keras.StatelessScope(),
        wrapped(ResourceVariable, "assign", assign) if keras_2 else nullcontext(),
    ):
        yield


@contextmanager
def _inlined_functions(inlined: list[Any] | None) -> Iterator[None]:
    """Run nested `tf.function`s as plain Python, so that their operations are part of our graph.

    Otherwise the outputs of layers inside them could not be read. And tf2onnx does not support
    functions with jit compilation, such as Keras's grouped convolutions.

    Args:
        inlined: collects the inlined functions of Keras and TensorFlow themselves; `None` leaves
            these functions as they are. They call no layers.
    """

    def call(original: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_of_library(function.python_function):
            return _with_control_flow(function)(*args, **kwargs)
        if inlined is None:
            return original(function, *args, **kwargs)
        inlined.append(function)
        return function.python_function(*args, **kwargs)

    with wrapped(type(tf.function(lambda: None)), "__call__", call):
        yield


def _is_of_library(body: Any) -> bool:
    """Whether this is code of Keras or TensorFlow, other than a layer that a user has wrapped."""
    owner = getattr(body, "__self__", body)
    return _module(body) in LIBRARIES and not isinstance(owner, keras.layers.Layer)


def _module(body: Any) -> str:
    return (getattr(body, "__module__", None) or "").split(".")[0]


def _with_control_flow(function: Any) -> Callable[..., Any]:
    """The Python function in a `tf.function`, with `if`s and loops on tensors converted to
    TensorFlow control flow."""
    body: Callable[..., Any] = function.python_function
    if not getattr(function, "_autograph", True) or _module(body) in LIBRARIES:
        return body
    try:
        converted: Callable[..., Any] = tf.autograph.to_graph(body)
    except Exception:  # noqa: BLE001 - without source code TensorFlow does not convert it either
        return body
    return partial(converted, body.__self__) if inspect.ismethod(body) else converted


@contextmanager
def _valid_scopes() -> Iterator[None]:
    """Allow any layer name: TensorFlow rejects some of them as scope names."""

    def name_scope(original: Any, graph: Any, name: str | None) -> Any:
        if name:
            name = re.sub(r"[^A-Za-z0-9_./-]", "_", name)
            name = name if re.match(r"[A-Za-z0-9.]", name) else f"x{name}"
        return original(graph, name)

    with wrapped(tf.Graph, "name_scope", name_scope):
        yield


MOST_OPERATIONS = 100_000
"""More operations than any model makes; the largest of keras.applications makes some 30,000."""


@contextmanager
def _finite() -> Iterator[None]:
    """Stop a trace that does not end: a loop in Python that waits for a size which is free."""
    made = itertools.count(1)

    def create(original: Any, graph: Any, *args: Any, **kwargs: Any) -> Any:
        if next(made) > MOST_OPERATIONS:
            raise ExportError(
                f"the model makes more than {MOST_OPERATIONS:,} TensorFlow operations: a loop in "
                "its code does not end. If it waits for a size that is free, fix the sizes of the "
                "inputs: --input NAME=SHAPE (inputs= in Python)."
            )
        return original(graph, *args, **kwargs)

    def scan(original: Any, f: Any, elems: Any, reverse: bool = False, axis: int = 0) -> Any:
        if any(x.shape[axis] is None for x in tf.nest.flatten(elems)):
            raise ExportError(
                "keras.ops.associative_scan does not end over an axis of free size. Fix the sizes "
                "of the inputs: --input NAME=SHAPE (inputs= in Python)."
            )
        return original(f, elems, reverse=reverse, axis=axis)

    with (
        wrapped(tf.Graph, "_create_op_internal", create),
        wrapped(keras.src.backend.core, "associative_scan", scan),
    ):
        yield


@contextmanager
def _without_metrics() -> Iterator[None]:
    """Ignore `add_metric` of Keras 2, which changes variables: predictions do not depend on it."""
    tf_keras = sys.modules.get("tf_keras")
    if tf_keras is None:
        yield
        return
    with wrapped(tf_keras.layers.Layer, "add_metric", lambda *_, **__: None):
        yield


@contextmanager
def _free_steps() -> Iterator[None]:
    """Let TimeDistributed pass all steps of all samples to its inner layer as one batch, if the
    number of steps is free. Keras 3.15 loops over as many steps as there are samples then."""

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


def _reshaped(tensor: Any, leading: Sequence[Any], replaced: int) -> Any:
    """`tensor` with the sizes `leading` in place of its first `replaced` axes."""
    sizes = tf.unstack(tf.shape(tensor))[replaced:]
    static = tensor.shape[replaced:]
    rest = [y if x is None else x for x, y in zip(static, sizes, strict=True)]
    return tf.reshape(tensor, [*leading, *rest])


@contextmanager
def _computed_sizes() -> Iterator[None]:
    """Let `keras.ops.image.resize` accept sizes that are tensors; Keras checks that they are
    positive, which fails for tensors of a graph."""

    def resize(original: Any, images: Any, size: Any, *args: Any, **kwargs: Any) -> Any:
        if any(tf.is_tensor(x) for x in size):
            return keras.src.backend.image.resize(images, size, *args, **kwargs)
        return original(images, size, *args, **kwargs)

    with wrapped(keras_ops.image, "resize", resize), wrapped(keras.ops.image, "resize", resize):
        yield


@contextmanager
def _centre_crops() -> Iterator[None]:
    """Let CenterCrop look at sizes that are free: Keras then always crops, also an image that is
    smaller than the crop, which it enlarges where it knows the sizes."""

    def transform_images(
        original: Any, layer: Any, images: Any, transformation: Any = None, training: bool = True
    ) -> Any:
        first = layer.data_format == "channels_first"
        rows, columns = (-2, -1) if first else (-3, -2)
        if None not in (images.shape[rows], images.shape[columns]):
            return original(layer, images, transformation, training)
        images = tf.cast(images, layer.compute_dtype)
        sizes = tf.shape(images)
        height, width = sizes[rows], sizes[columns]
        fits = tf.logical_and(height >= layer.height, width >= layer.width)
        # Else the largest part of the same proportions, which is resized; as Keras computes it.
        part_height = _share(width, layer.height, layer.width, height)
        part_width = _share(height, layer.width, layer.height, width)
        part_height = tf.where(fits, layer.height, part_height)
        part_width = tf.where(fits, layer.width, part_width)
        top, left = (height - part_height) // 2, (width - part_width) // 2
        where = (..., slice(top, top + part_height), slice(left, left + part_width))
        part = images[where if first else (*where, slice(None))]
        return keras.src.backend.image.resize(
            part, (layer.height, layer.width), data_format=layer.data_format
        )

    with wrapped(keras.layers.CenterCrop, "transform_images", transform_images):
        yield


def _share(other: Any, numerator: int, denominator: int, limit: Any) -> Any:
    """`other * numerator / denominator`, rounded down in float32, from 1 to `limit`."""
    exact = tf.cast(other * numerator, "float32") / denominator
    return tf.maximum(tf.minimum(limit, tf.cast(exact, "int32")), 1)


@contextmanager
def _two_way_branches() -> Iterator[None]:
    """Replace `tf.switch_case` with nested `tf.cond`s, which tf2onnx can convert."""

    def switch_case(
        original: Any, branch_index: Any, branch_fns: Any, default: Any = None, name: str = ""
    ) -> Any:
        """The result of the branch with this index, or of the default, by default the last one."""
        if isinstance(branch_fns, dict):
            branches = sorted(branch_fns.items())
        elif callable(branch_fns[0]):
            branches = list(enumerate(branch_fns))
        else:
            branches = sorted(branch_fns, key=lambda branch: branch[0])
        selected = default or branches.pop()[1]
        for index, branch in reversed(branches):
            selected = _if_equal(branch_index, index, branch, selected)
        return selected()

    with wrapped(tf, "switch_case", switch_case):
        yield


def _if_equal(
    branch_index: Any, index: int, branch: Callable[[], Any], otherwise: Callable[[], Any]
) -> Callable[[], Any]:
    return lambda: tf.cond(tf.equal(branch_index, index), branch, otherwise)


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """Keep recurrent layers from using cuDNN on machines with a GPU: ONNX does not support it."""
    # `from ... import rnn` would import the function of this name.
    recurrence = import_module("keras.src.backend.tensorflow.rnn")
    with wrapped(recurrence, "cudnn_ok", lambda original, *args, **kwargs: False):
        yield


@contextmanager
def _normalisations_in_steps() -> Iterator[None]:
    """Let layer normalisations of Keras 2 compute mean and variance themselves. The exporter makes
    one operator of these steps, and not of the batch normalisation that Keras makes of them."""
    if "tf_keras" not in sys.modules:
        yield
        return

    def call(original: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
        fused, layer._fused = layer._fused, False
        try:
            return original(layer, *args, **kwargs)
        finally:
            layer._fused = fused

    layers = import_module("tf_keras.layers")
    with wrapped(layers.LayerNormalization, "call", call):
        yield


@contextmanager
def _without_recomputation() -> Iterator[None]:
    """Run layers under `keras.RematScope` like others. Recomputation saves memory for gradients,
    which are not needed here, and TensorFlow's wrapper takes no keyword arguments in a graph."""
    with wrapped(tf, "recompute_grad", lambda original, function, *args, **kwargs: function):
        yield
