"""The two families of Keras models: those of Keras 3, and those of Keras 2, which lives on as the
package `tf_keras`.

Both have the same layers under the same names, and differ inside. What else is different is here.
`tf_keras` is used only where somebody has imported it, as whoever has such a model must have done.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from layertap_export.errors import ModelLoadError


def loaded() -> tuple[Any, ...]:
    """The packages of the families that are in use."""
    import keras

    tf_keras = sys.modules.get("tf_keras")
    return (keras, tf_keras) if tf_keras else (keras,)


def family_of(model: Any) -> Any:
    """The package that a model is of: `keras` or `tf_keras`."""
    return next(family for family in loaded() if isinstance(model, family.Model))


def is_a(thing: Any, *kinds: str) -> bool:
    """Whether it is of one of these classes in any family: `is_a(x, "layers.Dense", "Model")`."""
    classes = (attrgetter(kind)(family) for family in loaded() for kind in kinds)
    return isinstance(thing, tuple(classes))


def checked_model(model: Any, what: str) -> Any:
    """Return `model` if it is a Keras model.

    Raises:
        ModelLoadError: it is something else; the message names `what` was given.
    """
    if not is_a(model, "Model"):
        raise ModelLoadError(
            f"{what} gave a {type(model).__module__}.{type(model).__name__}, not a keras.Model."
        )
    return model


@contextmanager
def custom_object_scope(custom_objects: Mapping[str, Any]) -> Iterator[None]:
    """Let each family find these classes and functions by their names."""
    with ExitStack() as scopes:
        for family in loaded():
            scopes.enter_context(family.utils.custom_object_scope(dict(custom_objects)))
        yield


# --- Graphs -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Node:
    """One call of a layer or operation in the graph of a Functional model."""

    layer: Any
    inputs: list[Any]
    """Symbolic tensors."""
    outputs: list[Any]


def callables() -> list[Any]:
    """The classes whose `__call__` runs layers, and `keras.ops` in Functional models."""
    from keras.src.ops.operation import Operation

    return [*(family.layers.Layer for family in loaded()), Operation]


def functional_of(model: Any) -> Any:
    """The Functional graph of a Functional or Sequential model, else `None`."""
    from keras.src.models.functional import Functional

    if is_a(model, "Sequential"):
        # Of Keras 2 it is one itself, once it knows its input.
        own = model if getattr(model, "_graph_initialized", False) else None
        return getattr(model, "_functional", own)
    of_keras_2 = is_a(model, "Model") and getattr(model, "_is_graph_network", False)
    return model if isinstance(model, Functional) or of_keras_2 else None


def members_of(model: Any) -> list[Any] | None:
    """What a model's own order is of: layers, and operations too in a Functional one; `None` for a
    layer, which has no such order."""
    if not is_a(model, "Model"):
        return None
    functional = None if is_a(model, "Sequential") else functional_of(model)
    return list(model.layers) if functional is None else operations_of(functional)


def operations_of(functional: Any) -> list[Any]:
    """The layers in a graph, and the `keras.ops` operations, which Keras 2 has as layers."""
    return list(getattr(functional, "operations", functional.layers))


def nodes_of(functional: Any) -> Iterator[Node]:
    """The calls in a graph, in the order in which they run; inputs are left out."""
    import tensorflow as tf

    by_depth = functional._nodes_by_depth
    for node in (node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]):
        if node.is_input:
            continue
        if hasattr(node, "operation"):
            yield Node(node.operation, list(node.input_tensors), list(node.outputs))
        else:
            yield Node(node.layer, list(node.keras_inputs), tf.nest.flatten(node.outputs))


def maker_of(symbol: Any) -> Any:
    """The layer or operation that a symbolic tensor comes from."""
    history = symbol._keras_history
    return history.operation if hasattr(history, "operation") else history.layer


def is_symbolic(value: Any) -> bool:
    """Whether a value stands for a tensor in a model that is being put together, or says what
    tensor a model was called with."""
    import keras
    import tensorflow as tf

    # That of Keras 2 is no class of its package's surface.
    of_keras_2 = type(value).__name__ == "KerasTensor"
    return of_keras_2 or isinstance(value, (keras.KerasTensor, tf.TypeSpec))


def called_with(model: Any) -> tuple[Any, Any] | None:
    """The positional and the named arguments, with symbols for tensors, that a subclassed model
    was called with; `None` if it does not know. Of Keras 3 it only knows symbolic calls."""
    if hasattr(model, "save_spec"):
        return model.save_spec() or None
    nodes = model._inbound_nodes
    return (nodes[-1].arguments.args, nodes[-1].arguments.kwargs) if nodes else None
