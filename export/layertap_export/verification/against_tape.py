"""Gradients by TensorFlow, the reference for those in a file.

The model runs eagerly under a `tf.GradientTape` while its layers are recorded. The logits are
the input of the sigmoid or softmax whose result the model returned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from layertap.comparing.measures import difference
from layertap.format.card import Gradients
from layertap.format.layer import Layer, channel_or_last_axis
from layertap.format.operators import FINAL_ACTIVATIONS
from layertap_export.convert.dtypes import as_in_file, file_dtype
from layertap_export.keras_model.families import is_a
from layertap_export.keras_model.inputs import model_inputs
from layertap_export.keras_model.recording import Call, Recorder
from layertap_export.keras_model.traceable import traceable
from layertap_export.keras_model.tracing import returned
from layertap_export.keras_model.wrapping import wrapped

from .card_like import CardLike

EAGER_TOLERANCE = 1e-3
"""The largest scaled difference of an output between an eager run and a TensorFlow function."""


class Tape:
    """One run of a model that can compute gradients."""

    def __init__(
        self,
        model: Any,
        card: CardLike,
        layers: Sequence[Layer],
        arrays: Sequence[NDArray[Any]],
    ) -> None:
        """
        Args:
            model: the Keras model.
            card: states the inputs, the outputs and the gradients.
            layers: the layers to record, those that the file does not expose too.
            arrays: a batch for each of the model's inputs.
        """
        assert card.gradients is not None
        self._gradients: Gradients = card.gradients
        tensors = {
            info.name: tf.convert_to_tensor(array)
            for info, array in zip(card.inputs, arrays, strict=True)
        }
        # Only operations after the layers are recorded: all recorded ones are differentiated.
        self._tape = tf.GradientTape(persistent=True, watch_accessed_variables=False)
        recorder = _WatchingRecorder(self._tape, layers, self._gradients)
        entries = {layer.name: layer.tensor for layer in layers}
        self._sources = {
            name: tensors[str(entries.get(name, name))]
            for name in self._gradients.tensors
            if entries.get(name, name) in tensors
        }
        # The file was compared already, and the user may have freed sizes that Keras checks.
        inputs = replace(model_inputs(model), other_sizes=True)
        with self._tape, recorder.recording(), traceable(to_run=True), _inputs_kept() as kept:
            self._tape.watch(list(self._sources.values()))
            result = returned(model, inputs, list(tensors.values()))
            self._recorded = recorder.recorded
            self._outputs = {
                info.name: one.value for info, one in zip(card.outputs, result, strict=True)
            }
            self._scores: Any = self._found_scores(card, layers, kept)
        wanted = self._gradients.tensors.keys() & self._recorded.keys()
        self._sources |= {name: self._recorded[name] for name in wanted}

    def _found_scores(
        self, card: CardLike, layers: Sequence[Layer], kept: Mapping[int, Any]
    ) -> Any:
        """The tensor that is differentiated; `None` if it was not seen.

        Args:
            card: states the outputs.
            layers: states the axes of layers.
            kept: the inputs of final activations, by the id of the result.
        """
        gradients = self._gradients
        name, axes = self._scored, None
        output = self._outputs.get(name)
        if output is None:
            output = self._recorded.get(name)
            axes = next((x.axes for x in layers if x.name == name), None)
        scores = kept.get(id(output)) if gradients.score == "logits" else output
        if scores is None or gradients.channel is None:
            return scores
        axis = channel_or_last_axis(axes, len(scores.shape))
        return tf.gather(scores, [gradients.channel], axis=axis)

    @property
    def _scored(self) -> str:
        """The output or layer that is differentiated."""
        return self._gradients.of or self._gradients.output

    @property
    def activations(self) -> Mapping[str, Any]:
        """TensorFlow's tensors of the recorded layers, by name."""
        return self._recorded

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the scores."""
        return tuple(self._scores.shape)

    @property
    def knows(self) -> Collection[str]:
        """Names of the layers and inputs that it has gradients of."""
        return self._sources.keys()

    def returns(self, outputs: Mapping[str, NDArray[Any]]) -> bool:
        """Whether the scores are the same as in a TensorFlow function: a layer may compute
        otherwise where it runs eagerly, as under a tape.

        Args:
            outputs: those of the function. If the score is a layer inside, all of them count.
        """
        names = [self._scored] if self._scored in outputs else [*outputs]
        return all(
            difference(as_in_file(self._outputs[name].numpy()), outputs[name]).scaled
            <= EAGER_TOLERANCE
            for name in names
        )

    @property
    def knows_scores(self) -> bool:
        """Whether the logits were found; not if the model computes on with its probabilities."""
        return self._scores is not None

    @cached_property
    def default_gradients(self) -> Mapping[str, NDArray[Any]] | None:
        """The gradients for the default weights; `None` if an operation has no gradient in
        TensorFlow, such as resizing by area."""
        try:
            return self.gradients(next(self.weights()))
        except LookupError:
            return None

    def weights(self) -> Iterator[NDArray[Any]]:
        """Sets of weights to verify with: the default, one class per sample, and a mix of all."""
        shape, dtype = self.shape, np.dtype(file_dtype(self._scores.dtype.name))
        yield np.ones((1,) * (len(shape) - 1) + shape[-1:], dtype)
        generator = np.random.default_rng(0)
        if shape and shape[-1] > 1:
            classes = generator.integers(shape[-1], size=shape[:-1])
            yield np.eye(shape[-1], dtype=dtype)[classes]
        yield generator.uniform(-1, 1, shape).astype(dtype)

    def gradients(self, weights: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """The gradients of `sum(weights * scores)`, by name of the graph's output.

        Args:
            weights: they broadcast to the scores.
        """
        scores = self._scores
        given = tf.broadcast_to(tf.cast(weights, scores.dtype), tf.shape(scores))
        found = self._tape.gradient(
            scores,
            dict(self._sources),
            output_gradients=given,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return {
            output: as_in_file(tf.convert_to_tensor(found[name]).numpy())
            for name, output in self._gradients.tensors.items()
            if name in found
        }


class _WatchingRecorder(Recorder):
    """Records layers, and has a tape watch those with a gradient."""

    def __init__(
        self, tape: tf.GradientTape, layers: Sequence[Layer], gradients: Gradients
    ) -> None:
        super().__init__(reserved=[x.name for x in layers if x.type == "InputLayer"])
        self._tape = tape
        self._watched = gradients.tensors.keys()
        self.recorded: dict[str, Any] = {}
        """The tensors of these layers, except those in loops, by name."""
        self._shown = {x.name for x in layers if x.exposed}

    def run(self, original: Callable[..., Any], layer: Any, args: Any, kwargs: Any) -> Any:
        begun = len(self.calls)
        result = super().run(original, layer, args, kwargs)
        for call in self.calls[begun : begun + 1]:
            if _runs_once(call):
                found = {name: x for name, x in call.outputs if name in self._shown}
                self.recorded |= found
                self._tape.watch([x for name, x in found.items() if name in self._watched])
        return result


def _runs_once(call: Call | None) -> bool:
    """Whether a layer runs for all samples and steps at once, as in the file."""
    while call is not None:
        if call.in_loop or (call.parent and is_a(call.parent.layer, "layers.TimeDistributed")):
            return False
        call = call.parent
    return True


ACTIVATIONS = [re.sub(r"\B(?=[A-Z])", "_", name).lower() for name in FINAL_ACTIVATIONS]
"""The final activations by their names in `tf.nn`, where Keras calls them: `log_softmax`."""


@contextmanager
def _inputs_kept() -> Iterator[Mapping[int, Any]]:
    """Record the inputs of final activations, by the id of the result."""
    kept: dict[int, Any] = {}
    results = []  # kept alive: else an id may be used again

    def call(original: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        x = tf.convert_to_tensor(x)
        result = original(x, *args, **kwargs)
        kept[id(result)] = x
        results.append(result)
        return result

    with ExitStack() as wrappings:
        for module in (tf, tf.nn, tf.math):
            for name in ACTIVATIONS:
                if hasattr(module, name):
                    wrappings.enter_context(wrapped(module, name, call))
        yield kept
