"""A signature of a TensorFlow SavedModel: the function that TensorFlow keeps of a model.

It can be exported like a Keras model, but has no layers: only its outputs have names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from layertap._public import public
from layertap.errors import UsageError, suggest
from layertap.format.card import Source, TensorInfo
from layertap.format.layer import Layer, Shape
from layertap.format.text import shape_text
from layertap_export.errors import ExportError

from .stated import Stated
from .structure import Row
from .tracing import Trace
from .variables import sha256, shared


@public
class Signature:
    """One signature of a loaded SavedModel."""

    framework = "TensorFlow"
    keras_model: Any | None = None
    layers: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()

    def __init__(self, root: Any, key: str, name: str, explanation: str) -> None:
        """Take a signature.

        Args:
            root: the object that `tf.saved_model.load` returned, which keeps the variables alive.
            key: the signature's name.
            name: the SavedModel's.
            explanation: a sentence that says why there are no layers.

        Raises:
            ExportError: an input or output has no known rank.
        """
        self._root = root
        self._function = root.signatures[key]
        self.key, self.name, self._explanation = key, name, explanation
        keywords = self._function.structured_input_signature[1]
        outputs = self._function.structured_outputs
        # A SavedModel keeps no order: it differs from load to load.
        self.inputs = tuple(_info(name, spec) for name, spec in sorted(keywords.items()))
        self.outputs = tuple(_info(name, spec) for name, spec in sorted(outputs.items()))

    def with_inputs(self, stated: Mapping[str, Any]) -> Signature:
        """The same signature with sizes that it leaves free fixed.

        Raises:
            UsageError: it has no such input, or takes no such shape or dtype.
        """
        names = [info.name for info in self.inputs]
        infos = {info.name: info for info in self.inputs}
        for given, item in stated.items():
            name = given or (names[0] if len(names) == 1 else "")
            if name not in infos or not isinstance(item, Stated):
                raise UsageError(
                    f"the signature {self.key!r} has no input {name!r}.{suggest(name, names)} Its "
                    f"inputs are {', '.join(map(repr, names))}."
                )
            info = infos[name]
            shape, dtype = item.shape or info.shape, item.dtype or info.dtype
            fits = len(shape) == len(info.shape) and all(
                size is None or size == wanted
                for size, wanted in zip(info.shape, shape, strict=True)
            )
            if not fits or dtype != info.dtype:
                raise UsageError(
                    f"the signature {self.key!r} takes {name!r} as {info.dtype} "
                    f"{shape_text(info.shape)}, got {dtype} {shape_text(shape)}. A signature is a "
                    "finished graph: only its free sizes can be fixed."
                )
            infos[name] = replace(info, shape=shape)
        changed = copy(self)
        changed.inputs = tuple(infos[name] for name in names)
        return changed

    def with_fixed_sizes(self) -> None:
        """Return `None`: a signature states its sizes."""

    @property
    def note(self) -> str:
        """Why there are no layers."""
        return self._explanation

    @property
    def source(self) -> Source:
        """The card's entry for it."""
        return Source(
            framework="tensorflow",
            version=tf.__version__,
            model=self.name,
            type=self.key,
            weights_sha256=sha256(self._function.variables),
        )

    def runner(
        self, layers: Mapping[str, str], outputs: Sequence[str], traced: Trace | None = None
    ) -> Callable[[Sequence[NDArray[Any]]], dict[str, NDArray[Any]]]:
        """What computes the outputs: `run`."""
        return self.run

    def in_float64(self) -> Signature:
        """Raise ExportError: a SavedModel keeps no configuration to build it from again."""
        raise ExportError(
            f"the signature {self.key!r} cannot be computed in float64: a SavedModel keeps its "
            "operations with their number types. Compare with reference='keras'."
        )

    @property
    def weights(self) -> Sequence[NDArray[Any]]:
        """The values of its variables that are real numbers."""
        return [x for x in map(shared, self._function.variables) if x.dtype.kind == "f"]

    def rebuilt(self) -> Signature:
        """Itself: nothing is lost."""
        return self

    def run(self, arrays: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The values that TensorFlow computes, by name of the output, from the inputs in order."""
        tensors = {
            info.name: tf.constant(array, info.dtype)
            for info, array in zip(self.inputs, arrays, strict=True)
        }
        return {name: value.numpy() for name, value in self._function(**tensors).items()}

    def trace(self) -> Trace:
        """The signature as a traced function; each output is a row of the table."""
        names = [info.name for info in self.inputs]

        def call(*flat: Any) -> list[Any]:
            found = self._function(**dict(zip(names, flat, strict=True)))
            return [tf.identity(found[info.name]) for info in self.outputs]

        specs = [
            tf.TensorSpec(info.shape, info.dtype, name=f"input_{index}")
            for index, info in enumerate(self.inputs)
        ]
        function = tf.function(call, input_signature=specs, autograph=False)
        rows = tuple(
            Row(
                Layer(
                    name=info.name,
                    type="Output",
                    index=index,
                    shape=info.shape,
                    dtype=info.dtype,
                    parameters=0,
                    inbound=(),
                    tensor=info.name,
                )
            )
            for index, info in enumerate(self.outputs)
        )
        concrete = function.get_concrete_function()
        return Trace(self.inputs, self.outputs, rows, {}, concrete, runs=True)


def _info(name: str, spec: Any) -> TensorInfo:
    if spec.shape.rank is None:
        raise ExportError(
            f"the signature does not state how many axes {name!r} has. Save the model with an "
            "input_signature that does."
        )
    shape: Shape = tuple(spec.shape)
    return TensorInfo(name=name, shape=shape, dtype=spec.dtype.name)
