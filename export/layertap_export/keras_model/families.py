"""The differences between models of Keras 3 (`keras`) and of Keras 2 (`tf_keras`).

Both families have the same layers with the same names, but different internals. `tf_keras` is never
imported here: if a `tf_keras` model exists, the caller has imported it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from layertap_export.errors import ModelLoadError


def loaded() -> tuple[Any, ...]:
    """The packages that are imported: `keras`, and `tf_keras` if it is in use."""
    import keras

    tf_keras = sys.modules.get("tf_keras")
    return (keras, tf_keras) if tf_keras else (keras,)


def family_of(model: Any) -> Any:
    """The package that a model belongs to: `keras` or `tf_keras`."""
    return next(family for family in loaded() if isinstance(model, family.Model))


def is_a(value: Any, *names: str) -> bool:
    """Whether it is an instance of one of these classes of any family.

    For example, `is_a(x, "layers.Dense", "Model")`.
    """
    return any(
        isinstance(value, attrgetter(name)(family))
        for family in loaded()
        for name in names
        if not (name in _NEW and family.__name__ == "tf_keras")
    )


_NEW = ("layers.GroupQueryAttention",)
"""Classes that Keras 2 lacks."""


def checked_model(model: Any, source: str) -> Any:
    """Return `model` if it is a Keras model.

    Args:
        model: any object.
        source: where it comes from, for the message.

    Raises:
        ModelLoadError: it is not a Keras model.
    """
    if not is_a(model, "Model"):
        cls = type(model)
        raise ModelLoadError(
            f"expected a keras.Model from {source}, got an instance of "
            f"{cls.__module__}.{cls.__name__}."
        )
    return model


@contextmanager
def custom_object_scope(custom_objects: Mapping[str, Any]) -> Iterator[None]:
    """Let each family find these classes and functions by name in this block."""
    with ExitStack() as scopes:
        for family in loaded():
            scopes.enter_context(family.utils.custom_object_scope(dict(custom_objects)))
        yield


@contextmanager
def names_of_a_fresh_process() -> Iterator[None]:
    """Let Keras count the layers that it names in this block from 0, as in a new process.

    Afterwards it counts on from the larger number, so that names stay unique in this process.
    """
    from keras.src.backend.common import global_state

    key = "object_name_uids"
    before = global_state.get_global_attribute(key) or {}
    global_state.set_global_attribute(key, defaultdict(int))
    # Keras 2 has a counter for each TensorFlow graph.
    keras_2 = getattr(sys.modules.get("tf_keras.src.backend"), "PER_GRAPH_OBJECT_NAME_UIDS", {})
    before_2 = dict(keras_2)
    keras_2.clear()
    try:
        yield
    finally:
        inside = global_state.get_global_attribute(key) or {}
        global_state.set_global_attribute(key, _larger(before, inside))
        for graph, counters in before_2.items():
            keras_2[graph] = _larger(counters, keras_2.get(graph, {}))


def _larger(one: Mapping[Any, int], other: Mapping[Any, int]) -> Mapping[Any, int]:
    largest = {key: max(one.get(key, 0), other.get(key, 0)) for key in {**one, **other}}
    return defaultdict(int, largest)


# --- Graphs -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Node:
    """One call of a layer or operation in the graph of a Functional model."""

    layer: Any
    inputs: list[Any]
    """Symbolic tensors."""
    outputs: list[Any]


def callables() -> list[Any]:
    """The classes whose `__call__` runs layers, or `keras.ops` operations in Functional models."""
    from keras.src.ops.operation import Operation

    return [*(family.layers.Layer for family in loaded()), Operation]


def functional_of(model: Any) -> Any:
    """The Functional graph of a Functional or Sequential model, else `None`."""
    from keras.src.models.functional import Functional

    if is_a(model, "Sequential"):
        # A Sequential model of Keras 2 is a Functional model itself once its input is known.
        keras_2 = model if getattr(model, "_graph_initialized", False) else None
        return getattr(model, "_functional", keras_2)
    is_keras_2 = is_a(model, "Model") and getattr(model, "_is_graph_network", False)
    return model if isinstance(model, Functional) or is_keras_2 else None


def members_of(model: Any) -> list[Any] | None:
    """The layers of a model in its own order, with the operations of a Functional model.

    `None` for a layer, which has no such order.
    """
    if not is_a(model, "Model"):
        return None
    functional = None if is_a(model, "Sequential") else functional_of(model)
    return list(model.layers) if functional is None else operations_of(functional)


def operations_of(functional: Any) -> list[Any]:
    """The layers and the `keras.ops` operations in a graph; in Keras 2 operations are layers."""
    return list(getattr(functional, "operations", functional.layers))


def nodes_of(functional: Any) -> Iterator[Node]:
    """The calls in a graph in the order in which they run, without the inputs."""
    import tensorflow as tf

    by_depth = functional._nodes_by_depth
    for node in (node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]):
        if node.is_input:
            continue
        if hasattr(node, "operation"):
            yield Node(node.operation, list(node.input_tensors), list(node.outputs))
        else:
            yield Node(node.layer, list(node.keras_inputs), tf.nest.flatten(node.outputs))


def producer_of(symbol: Any) -> Any:
    """The layer or operation that returned a symbolic tensor."""
    history = symbol._keras_history
    return history.operation if hasattr(history, "operation") else history.layer


def is_symbolic(value: Any) -> bool:
    """Whether a value is a symbolic tensor of Keras, or a spec of a tensor."""
    import keras
    import tensorflow as tf

    # KerasTensor is not a public name of tf_keras.
    is_keras_2 = type(value).__name__ == "KerasTensor"
    return is_keras_2 or isinstance(value, (keras.KerasTensor, tf.TypeSpec))


def called_with(model: Any) -> tuple[Any, Any] | None:
    """The positional and keyword arguments of a subclassed model's last call, with symbols for
    tensors; `None` if they are not known. Models of Keras 3 keep those of symbolic calls only."""
    if hasattr(model, "save_spec"):
        return model.save_spec() or None
    nodes = model._inbound_nodes
    return (nodes[-1].arguments.args, nodes[-1].arguments.kwargs) if nodes else None
