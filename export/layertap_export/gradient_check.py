"""Comparing the gradients in a file with TensorFlow's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from layertap.card import Card, Gradients

from .errors import ExportError
from .golden_values import steady
from .gradients.differences import compare
from .gradients.kinks import neighbours
from .gradients.running import broadcasts, part_of, session
from .pruning import reads
from .tape import Tape

KINKS = 0.05
"""How much of a gradient's length two forward passes may make, by kinks that they decide otherwise.
Measured: up to 0.01, in the middle of DenseNet121."""

COMPARED = ("Max", "Min", "ReduceMax", "ReduceMin", "GlobalMaxPool")
"""Operators whose rules look for the operand that equals the result. It would not, to the last
digit, if the result came from Keras, and the operand from onnxruntime."""

SECONDS = 60.0
"""How long gradients are compared with central differences, where TensorFlow cannot tell them."""

Pair = tuple[str, NDArray[Any], NDArray[Any]]
"""The name of a graph output, what it gives, and what is expected of it."""


class GradientCheck:
    """The gradients of a file beside TensorFlow's, batch after batch."""

    def __init__(
        self, file: onnx.ModelProto, card: Card, model: Any, *, complete: bool = True
    ) -> None:
        """
        Args:
            file: the file's contents.
            card: its card.
            model: the Keras model that it was made from.
            complete: whether it exposes all layers that can be.
        """
        assert card.gradients is not None
        self._file, self._card, self._model = file, card, model
        self._complete = complete
        self._gradients = card.gradients
        self._names = list(card.gradients.tensors.values())
        self._opened = session(file.SerializeToString())
        nodes = file.graph.node
        self._makers = {name: node for node in nodes for name in node.output}
        self._read = {name for node in nodes for name in reads(node)}
        self._first: tuple[Tape, dict[str, NDArray[Any]]] | None = None

    def pairs(self, arrays: Sequence[NDArray[Any]]) -> Iterator[Pair]:
        """The file's gradients on one batch, and TensorFlow's, for several sets of weights.

        Two forward passes in float32 do not decide all kinks alike (see `gradients.kinks`), so the
        backward half is fed with the activations of Keras: where it goes by the same, it must give
        the same. Beside that the file as a whole is run, and must agree but for kinks.

        Where layers are missing for that, or TensorFlow cannot tell the logits, because the model
        does more with its probabilities, slopes are compared with central differences, on the first
        batch.
        """
        feeds = {info.name: x for info, x in zip(self._card.inputs, arrays, strict=True)}
        tape = Tape(self._model, self._card, arrays)
        first = self._first is None
        self._first = self._first or (tape, dict(feeds))
        if tape.knows_scores and self._complete:
            yield from self._beside(tape, feeds)
        elif first:
            tensors = {layer.name: str(layer.tensor) for layer in self._card.layers}
            tensors = {info.name: info.name for info in self._card.inputs} | tensors
            found = compare(self._file, self._gradients, tensors, feeds, SECONDS)
            for name, slopes in found.items():
                yield self._gradients.tensors[name], slopes.ours, slopes.expected

    def _beside(self, tape: Tape, feeds: dict[str, NDArray[Any]]) -> Iterator[Pair]:
        """All sets of weights at once: for some the gradient may be nothing but roundings, as that
        of the sum of all probabilities."""
        given = self._given(tape.activations) | feeds
        backward: Any = None
        found: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {x: [] for x in self._names}
        for weights in tape.weights():
            given[self._gradients.weights] = feeds[self._gradients.weights] = weights
            if backward is None:
                part = part_of(self._file, self._names, given)
                backward = session(part.SerializeToString())
            expected = tape.gradients(weights)
            for values in zip(
                self._names,
                self._run(backward, given),
                self._run(self._opened, feeds),
                expected.values(),
                strict=True,
            ):
                name, actual, whole, want = values
                found[name].append((actual if _is_near(whole, want) else whole, want))
        for name, pairs in found.items():
            wrong = [pair for pair in pairs if pair[0].shape != pair[1].shape]
            if wrong:
                yield name, *wrong[0]
            else:
                yield name, np.stack([x for x, _ in pairs]), np.stack([x for _, x in pairs])

    def _given(self, activations: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Keras's activations as the tensors that the graph computes with."""
        given: dict[str, NDArray[Any]] = {}
        for layer in self._card.layers:
            value = activations.get(layer.name)
            if layer.tensor is None or value is None:
                continue
            source, perms = self._peeled(layer.tensor)
            maker = self._makers.get(source)
            if maker is None or maker.op_type in COMPARED:
                continue
            for perm in reversed(perms):
                value = np.transpose(value, np.argsort(perm))
            given.setdefault(source, np.ascontiguousarray(value))
        return given

    def _peeled(self, tensor: str) -> tuple[str, list[list[int]]]:
        """The tensor that a graph output is made from by nothing but Transposes, and these."""
        perms: list[list[int]] = []
        while (node := self._makers.get(tensor)) is not None:
            if node.op_type not in ("Identity", "Transpose") or tensor in self._read:
                break
            if node.op_type == "Transpose":
                perms.insert(0, list(node.attribute[0].ints))
            tensor = node.input[0]
        return tensor, perms

    def golden(self) -> dict[str, NDArray[Any]]:
        """TensorFlow's gradients on the first batch, for the default weights.

        Those are left out that a machine which rounds otherwise would find to differ, because a
        kink is near.
        """
        assert self._first is not None  # there was a batch
        tape, feeds = self._first
        if not tape.knows_scores:
            found = self._run(self._opened, feeds)
            return dict(zip(self._names, found, strict=True))
        stable = dict(tape.gradients(next(tape.weights())))
        for near in neighbours(feeds, 4):
            found = self._run(self._opened, near)
            for name, value in zip(self._names, found, strict=True):
                if name in stable and not steady(value, stable[name]):
                    del stable[name]
        return stable

    def measured(self) -> Gradients:
        """What the card says of the gradients, with what a run tells."""
        assert self._first is not None  # there was a batch
        _, feeds = self._first
        return replace(self._gradients, broadcasts=broadcasts(self._opened, self._gradients, feeds))

    def _run(self, opened: Any, values: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """All gradients; what is no input of the session is left alone."""
        inputs = [*opened.get_inputs(), *opened.get_overridable_initializers()]
        feeds = {x.name: values[x.name] for x in inputs if x.name in values}
        try:
            found: list[NDArray[Any]] = opened.run(self._names, feeds)
        except Exception as exc:
            raise ExportError(f"onnxruntime cannot run the exported file: {exc}") from exc
        return found


def _is_near(value: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether a gradient is another one but for kinks; what has another shape is not."""
    if value.shape != expected.shape:
        return False
    distance = np.linalg.norm((value.astype(np.float64) - expected).ravel())
    length = np.linalg.norm(expected.astype(np.float64).ravel())
    return bool(distance <= KINKS * length)
