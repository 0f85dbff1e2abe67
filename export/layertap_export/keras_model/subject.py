"""What can be exported, and compared with its file: a Keras model or a SavedModel's signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias

import tensorflow as tf
from numpy.typing import NDArray

from layertap.comparing.measures import difference
from layertap.errors import UsageError
from layertap.format.card import Source, TensorInfo
from layertap.format.layer import uncounted
from layertap_export.errors import ExportError

from .families import checked_model, family_of
from .float64 import rebuilt
from .freeing import fixed, freed
from .inputs import Inputs, model_inputs
from .naming import automatic_base, layer_name
from .signatures import Signature
from .stated import Stated
from .tracing import Trace, returned, trace, trace_and_inputs
from .variables import in_place, sha256, shared
from .wrapping import setting

Run: TypeAlias = Callable[[Sequence[NDArray[Any]]], dict[str, NDArray[Any]]]
"""Computes values by name of the file's output from arrays in the order of the inputs."""

LOOPS = ("While", "StatelessWhile")
"""TensorFlow's operations for loops."""

READS_BATCH = "the model reads it as a Python number, and computes something else for others"

EAGER_TOLERANCE = 1e-5
"""The largest scaled difference between an eager call and a trace that is rounding."""


class Subject(Protocol):
    """Something that TensorFlow computes, and that a file is made from."""

    @property
    def framework(self) -> str:
        """What computes it, for messages: `Keras` or `TensorFlow`."""

    @property
    def note(self) -> str:
        """Why there are no layers; empty for a Keras model."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences for the card: which sizes of the inputs are not free, and why."""

    @property
    def keras_model(self) -> Any | None:
        """The model whose layers can be recorded while it runs; `None` for a signature."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Its inputs, in order."""

    @property
    def layers(self) -> Sequence[Any]:
        """The Keras layers, those inside others too; they say what the inputs may hold."""

    @property
    def source(self) -> Source:
        """The card's entry for it."""

    @property
    def weights(self) -> Sequence[NDArray[Any]]:
        """The values of its weights that are real numbers."""

    def trace(self) -> Trace:
        """It as one TensorFlow function that returns the tensors of all layers.

        Raises:
            ExportError: Keras cannot call it.
        """

    def runner(
        self, layers: Mapping[str, str], outputs: Sequence[str], traced: Trace | None = None
    ) -> Run:
        """What computes its layers and outputs.

        Args:
            layers: names of the file's outputs by the names of the layers that they show.
            outputs: the names of its own outputs, in order.
            traced: a trace of it, if there is one whose symbols are just those `layers`.
        """

    def with_fixed_sizes(self) -> Subject | None:
        """The same with fewer free sizes, to be tried where no file could be made: with the sizes
        of the data that the model was called on, where these were found to be free, and then with
        one batch size, if the model does not compute what its trace with a free one computes;
        `None` if there are none."""

    def in_float64(self) -> Subject:
        """The same, computed in float64.

        Raises:
            ExportError: it cannot be built a second time.
        """

    def rebuilt(self) -> Subject:
        """The same in its own dtypes, built a second time as `in_float64` does it.

        Raises:
            ExportError: it cannot be built a second time.
        """


def subject_of(model: Any, stated: Mapping[str, Any] | None = None) -> Subject:
    """The subject that was given.

    Args:
        model: a Keras model of either family, or a `Signature`.
        stated: what the user states of its inputs, from `stated_inputs`.

    Raises:
        ModelLoadError: it is something else.
        UsageError: it has no input that is stated, or not of this shape.
    """
    if isinstance(model, Signature):
        return model.with_inputs(stated) if stated else model
    return KerasModel(checked_model(model, "the caller"), stated)


def subject_like(model: Any, inputs: Sequence[TensorInfo]) -> Subject:
    """The subject with the inputs of a file that may have been made from it.

    Names that differ only in Keras's counters are taken for the same; sizes and dtypes are those of
    the file, if the model can have them.

    Raises:
        ModelLoadError: it is no model.
        ExportError: the inputs of the model are not known.
    """
    stated = {info.name: Stated(info.shape, info.dtype) for info in inputs}
    if isinstance(model, Signature):
        try:
            return model.with_inputs(stated)
        except UsageError:  # it is another signature
            return model
    checked = checked_model(model, "the caller")
    try:
        own = model_inputs(checked)
    except ExportError:  # it was never called, and the user stated the inputs
        return KerasModel(checked, stated)
    if len(own.infos) != len(inputs):
        return KerasModel(checked)
    return KerasModel(
        checked,
        {
            ours.name: Stated(
                theirs.shape, ours.dtype if ours.dtype == "bfloat16" else theirs.dtype
            )
            for ours, theirs in zip(own.infos, inputs, strict=True)
            if _may_be_same(ours, theirs, any_size=bool(own.data))
        },
    )


def _may_be_same(ours: TensorInfo, theirs: TensorInfo, any_size: bool) -> bool:
    """Whether an input of a file can be that of a model, where its sizes were fixed or freed."""
    return (
        uncounted(ours.name) == uncounted(theirs.name)
        and len(ours.shape) == len(theirs.shape)
        and all(
            any_size or one is None or other is None or one == other
            for one, other in zip(ours.shape, theirs.shape, strict=True)
        )
    )


class KerasModel:
    """A built `keras.Model` or `tf_keras.Model`."""

    framework = "Keras"
    note = ""

    def __init__(
        self,
        model: Any,
        stated: Mapping[str, Any] | None = None,
        *,
        free: bool = True,
        inputs: Inputs | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Take a model.

        Args:
            model: the model.
            stated: what the user states of its inputs.
            free: free the sizes that are only those of the data that the model was called on.
            inputs: its inputs, if they are known.
            notes: which of their sizes are not free, and why.
        """
        self.keras_model = model
        self._stated, self._free = stated, free
        self._known, self._notes = inputs, notes
        self._differs = False
        """Whether the model was seen to compute something else than its trace."""

    @cached_property
    def _traced(self) -> tuple[Trace, Inputs, list[str]]:
        """The trace, the inputs with their free sizes, and what stayed fixed and why."""
        model = self.keras_model
        if self._known is not None:
            return (*trace_and_inputs(model, self._known), [*self._notes])
        inputs = model_inputs(model, self._stated)
        if inputs.data and self._free:
            return freed(model, inputs)
        if inputs.data:
            traced, inputs, notes = fixed(model, inputs)
            reason = "the file could not be made or verified with free sizes"
            return traced, inputs, [*notes, f"the sizes of the inputs are fixed, because {reason}"]
        return (*trace_and_inputs(model, inputs), [])

    @property
    def _inputs(self) -> Inputs:
        return self._traced[1]

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        infos: tuple[TensorInfo, ...] = self._inputs.infos
        return infos

    @property
    def notes(self) -> Sequence[str]:
        """Which sizes of the inputs are not free, and why."""
        return self._traced[2]

    def with_fixed_sizes(self) -> Subject | None:
        if "_traced" not in vars(self) or self._known is not None:  # it has failed
            return None
        known = model_inputs(self.keras_model, self._stated)
        free = any(
            None in ours.shape[1:] and None not in theirs.shape[1:]
            for ours, theirs in zip(self.inputs, known.infos, strict=True)
        )
        if free:
            return KerasModel(self.keras_model, self._stated, free=False)
        return self._with_one_batch_size() if self._differs else None

    def _with_one_batch_size(self) -> Subject | None:
        """The same with the batch size of the data, else 1; `None` if it is not free."""
        inputs = self._inputs
        if not any(info.shape[:1] == (None,) for info in inputs.infos):
            return None
        batch = next((shape[0] for shape in inputs.data if shape), None) or 1
        infos = tuple(
            replace(info, shape=(batch, *info.shape[1:])) if info.shape[:1] == (None,) else info
            for info in inputs.infos
        )
        return KerasModel(
            self.keras_model,
            self._stated,
            inputs=replace(inputs, infos=infos),
            notes=[*self.notes, f"the batch size is fixed at {batch}: {READS_BATCH}"],
        )

    @property
    def layers(self) -> Sequence[Any]:
        model = self.keras_model
        return list(model._flatten_layers() if hasattr(model, "_flatten_layers") else model.layers)

    @property
    def source(self) -> Source:
        family = family_of(self.keras_model)
        return Source(
            framework=family.__name__,
            version=family.__version__,
            # Keras's counter says what else was built in that process.
            model=automatic_base(self.keras_model) or layer_name(self.keras_model),
            type=type(self.keras_model).__name__,
            weights_sha256=sha256(self.keras_model.weights),
        )

    @property
    def weights(self) -> Sequence[NDArray[Any]]:
        return [x for x in map(shared, self.keras_model.weights) if x.dtype.kind == "f"]

    def trace(self) -> Trace:
        return self._traced[0]

    def runner(
        self, layers: Mapping[str, str], outputs: Sequence[str], traced: Trace | None = None
    ) -> Run:
        """What Keras computes.

        The layers run as a TensorFlow function, as in `model.predict`: there the calls that are to
        be compared are those of the export, also where some are in loops. The model's own outputs
        come from a call of the model without the changes that a trace makes, see `_own_outputs`.
        """
        function = (
            traced
            if traced and traced.runs
            else trace(self.keras_model, layers, inputs=self._inputs, to_run=True)
        )

        loops = any(op.type in LOOPS for op in function.function.graph.get_operations())

        def run(arrays: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
            with _unoptimised():
                flat = function.function(*map(tf.convert_to_tensor, arrays))
            names = [layers[row.layer.name] for row in function.rows if row.symbol is not None]
            count = len(function.outputs)
            values = {name: in_place(x) for name, x in zip(names, flat[count:], strict=True)}
            own = self._own_outputs(arrays, [in_place(x) for x in flat[:count]], loops)
            values |= dict(zip(outputs, own, strict=True))
            return values

        return run

    def _own_outputs(
        self, arrays: Sequence[NDArray[Any]], traced: Sequence[NDArray[Any]], loops: bool
    ) -> list[NDArray[Any]]:
        """The model's outputs as `model.predict` gives them.

        An eager call takes no time to trace. Where it does not agree with the trace, the model runs
        as a TensorFlow function of its own: a layer may compute otherwise eagerly, or fail, and a
        trace may be wrong. Keras raises its own errors here for invalid inputs.

        Loops take milliseconds for each step of an eager call. So a model that has some is traced
        once as `model.predict` traces it, with a free batch.

        Args:
            arrays: the inputs.
            traced: the outputs of the trace.
            loops: whether the model has loops.
        """
        if loops and self._predicting is not None:
            try:
                with _unoptimised():
                    own = [
                        in_place(x) for x in self._predicting(*map(tf.convert_to_tensor, arrays))
                    ]
                if _agree(own, traced):
                    return own
            except Exception:  # noqa: BLE001 - if it is the model's, a run below raises it
                pass
        try:
            own = [in_place(x.value) for x in returned(self.keras_model, self._inputs, arrays)]
            if _agree(own, traced):
                return own
        except Exception:  # noqa: BLE001 - if it is the model's, the run below raises it
            pass

        def call(*flat: Any) -> list[Any]:
            return [tf.identity(x.value) for x in returned(self.keras_model, self._inputs, flat)]

        with _unoptimised():
            predicted = tf.function(call, autograph=False)(*map(tf.convert_to_tensor, arrays))
        own = [in_place(x) for x in predicted]
        self._differs |= not _agree(own, traced)
        return own

    @cached_property
    def _predicting(self) -> Any | None:
        """The model as one TensorFlow function of its inputs, without the changes that a trace
        makes; `None` if Keras cannot trace it so."""
        specs = [tf.TensorSpec(info.shape, info.dtype) for info in self.inputs]

        def call(*flat: Any) -> list[Any]:
            return [tf.identity(x.value) for x in returned(self.keras_model, self._inputs, flat)]

        try:
            return tf.function(call, input_signature=specs, autograph=False).get_concrete_function()
        except Exception:  # noqa: BLE001 - a layer may raise anything where a size is free
            return None

    def in_float64(self) -> Subject:
        return self._rebuilt("float64")

    def rebuilt(self) -> Subject:
        return self._rebuilt(None)

    def _rebuilt(self, dtype: Literal["float64"] | None) -> Subject:
        copy = rebuilt(self.keras_model, dtype)
        try:
            dtypes = [info.dtype for info in model_inputs(copy).infos]
        except ExportError:  # the copy was not called on all arguments
            dtypes = [dtype or info.dtype for info in self.inputs]
        stated = {
            info.name: Stated(info.shape, given if "float" in info.dtype else info.dtype)
            for info, given in zip(self.inputs, dtypes, strict=True)
        }
        return KerasModel(copy, stated)


def _agree(own: Sequence[NDArray[Any]], traced: Sequence[NDArray[Any]]) -> bool:
    return all(
        difference(one, other).scaled <= EAGER_TOLERANCE
        for one, other in zip(own, traced, strict=True)
    )


def _unoptimised() -> AbstractContextManager[None]:
    """Run functions as they were traced. To optimise a graph takes longer than to run it twice."""
    optimizer, switch = tf.config.optimizer, "disable_meta_optimizer"
    return setting(
        lambda: {switch: False, **optimizer.get_experimental_options()},
        optimizer.set_experimental_options,
        lambda before: {**before, switch: True},
    )
