"""Comparing the gradients in a file with TensorFlow's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from layertap._engine.stopping import STOPPED
from layertap.format.card import GoldenLayer
from layertap.format.layer import ITEM_BYTES, Layer
from layertap_export.convert.dtypes import as_in_file, element_type
from layertap_export.errors import ExportError
from layertap_export.graph.graph import makers, reads
from layertap_export.graph.operators import facts, is_view
from layertap_export.keras_model.subject import Subject

from .against_tape import Tape
from .card_like import CardLike
from .finite_differences import DEFAULT_SECONDS, compare
from .golden_values import STEADY_TOLERANCE, golden_layer, steady
from .keras_itself import SHARE
from .kinks import neighbours
from .weight_rows import broadcasts
from .written_file import WrittenFile, tensor_types

KINK_TOLERANCE = 0.05
"""Share of a gradient's length by which two forward passes may differ where they are on different
sides of kinks. Measured: up to 0.01, in the middle of DenseNet121."""

SEEDED_BATCHES = 2
"""The batches for central differences: one of one sample, one of two."""

Pair = tuple[str, NDArray[Any], NDArray[Any]]
"""The name of a graph output, its value, and the expected value."""


class GradientCheck:
    """Compares the gradients of a file with TensorFlow's, batch after batch."""

    def __init__(
        self,
        file: WrittenFile,
        card: CardLike,
        subject: Subject,
        sources: LayerSources,
    ) -> None:
        """
        Args:
            file: the file; its gradients and all that leads to them are run as they are in it.
            card: the card of the file, or its draft.
            subject: the model that it was made from.
            sources: where its graph has the layers, those that it does not expose too.
        """
        assert card.gradients is not None
        self._file, self._card, self._model = file, card, subject.keras_model
        self._subject = subject
        self._sources = sources
        self._layers = dict(sources.by_tensor)
        self._gradients = card.gradients
        self._names = list(card.gradients.tensors.values())
        self.measured = card.gradients
        """The card's entry for the gradients; after the first batch with what was measured."""
        self.golden: dict[str, GoldenLayer] = {}
        """Of the first batch, for the default weights. Those near a kink are left out, because a
        machine that rounds differently would see a difference."""
        self._count = 0
        """How many batches were compared."""
        self._tape_usable: bool | None = None
        """Whether TensorFlow can compute the gradients; `None` before the first batch."""

    def pairs(
        self, arrays: Sequence[NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> Iterator[Pair]:
        """The file's gradients on one batch, and TensorFlow's, for several sets of weights.

        Two forward passes in float32 may see different sides of a kink (see `kinks`). So the
        backward half is fed with Keras's activations, and must then agree in full. In addition the
        whole file is run, and must agree except near kinks; or, as in 16 bits, where the largest of
        a window may be another one after each rounding, be about as close to Keras in float64 as
        Keras is.

        Where layers are not exposed, or TensorFlow cannot compute the gradients (the logits are
        unknown, because the model goes on from its probabilities; a layer runs once per step; an
        operation has no gradient), slopes are compared with central differences, on the
        seeded batches: a fault may show only with several samples.

        Args:
            arrays: the batch.
            outputs: what the model returns for it, as a TensorFlow function.
        """
        feeds = {info.name: x for info, x in zip(self._card.inputs, arrays, strict=True)}
        tape = self._tape(arrays, outputs)
        if not self._count:
            self._take_note(tape, feeds)
        self._count += 1
        known: Collection[str] = ()
        if tape is not None and self._sources.complete:
            known = tape.knows
            yield from self._against_tape(tape, feeds, partial(self._exact, arrays))
        others = {k: v for k, v in self._gradients.tensors.items() if k not in known}
        if others and self._count <= SEEDED_BATCHES:
            tensors = {layer.name: str(layer.tensor) for layer in self._card.layers}
            tensors = {info.name: info.name for info in self._card.inputs} | tensors
            rest = replace(self._gradients, tensors=others)
            found = compare(self._file, rest, tensors, feeds, DEFAULT_SECONDS / SEEDED_BATCHES)
            for name, slopes in found.items():
                yield others[name], slopes.ours, slopes.expected

    def _tape(
        self, arrays: Sequence[NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> Tape | None:
        """A run of the model, if TensorFlow can compute the gradients of its scores."""
        if self._model is None:
            return None
        tape = Tape(self._model, self._card, self._sources.layers, arrays)
        self._layers = {k: x for k, x in self._layers.items() if x.name in tape.activations}
        if self._tape_usable is None:
            self._tape_usable = (
                tape.knows_scores and tape.returns(outputs) and tape.default_gradients is not None
            )
        return tape if self._tape_usable else None

    def _against_tape(
        self, tape: Tape, feeds: Mapping[str, NDArray[Any]], exactly: Callable[[], Tape | None]
    ) -> Iterator[Pair]:
        """The largest difference over all sets of weights, scaled by the largest value.

        For some weights the gradient is only rounding, as that of the sum of all probabilities."""
        exact = cache(exactly)
        backward = self._from_activations(tape, feeds)
        worst: dict[str, NDArray[Any]] = {}
        largest: dict[str, NDArray[Any]] = {}
        for weights in tape.weights():
            actual = self._run(self._backward, backward, weights)
            whole = self._run(self._whole, feeds, weights)
            for name, want in tape.gradients(weights).items():
                near = _is_near(whole[name], want) or (
                    (precise := exact()) is not None
                    and _is_as_close(whole[name], want, precise.gradients(weights).get(name))
                )
                value = actual[name] if near else whole[name]
                if value.shape != want.shape:
                    yield name, value, want
                    return
                delta, scale = np.abs(value - want).max(initial=0), np.abs(want).max(initial=0)
                worst[name] = np.maximum(worst.get(name, delta), delta)
                largest[name] = np.maximum(largest.get(name, scale), scale)
        for name, scale in largest.items():
            yield (
                name,
                np.array([scale, worst[name]], scale.dtype),
                np.array([scale, 0], scale.dtype),
            )

    def _exact(self, arrays: Sequence[NDArray[Any]]) -> Tape | None:
        """A run of the model in float64, if it can be built and has the same gradients."""
        try:
            copy = self._subject.in_float64()
            wide = [
                x.astype(info.dtype) if x.dtype.kind == "f" else x
                for x, info in zip(arrays, copy.inputs, strict=True)
            ]
            tape = Tape(copy.keras_model, self._card, self._sources.layers, wide)
            return tape if tape.knows_scores and tape.default_gradients is not None else None
        except Exception:  # noqa: BLE001 - a layer's own code may not take float64
            return None

    def _take_note(self, tape: Tape | None, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Measure on the first batch: golden values, and whether rows of weights broadcast."""
        weights = self._default
        expected = self._run(self._whole, feeds, weights)
        if tape is not None:
            expected |= tape.default_gradients or {}
        narrow = self._file.narrow
        rounding = max((one.rounding for one in narrow.values()), default=0.0)
        for near in neighbours(feeds, 4, rounding):
            for name, value in self._run(self._whole, near, weights).items():
                allowed = narrow[name].tolerance if name in narrow else STEADY_TOLERANCE
                if name in expected and not steady(value, expected[name], allowed):
                    del expected[name]
        self.golden = {name: golden_layer(value) for name, value in sorted(expected.items())}
        shape = tape.shape if tape is not None else self._shape(feeds)
        rows = broadcasts(self._whole, self._gradients, feeds, shape, weights.dtype)
        self.measured = replace(self._gradients, broadcasts=rows)

    @cached_property
    def _default(self) -> NDArray[Any]:
        return self._file.default_weights(self._gradients)

    def _shape(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[int, ...]:
        part = self._file.part([self._gradients.output], tensor_types(feeds))
        (scores,) = part.run(None, dict(feeds))
        return tuple(scores.shape)

    @cached_property
    def _whole(self) -> Any:
        """A session that computes all gradients from the model's inputs."""
        return self._session({})

    @cached_property
    def _backward(self) -> Any:
        """A session that computes all gradients from the activations of the layers."""
        return self._session({tensor: layer.tensor_type for tensor, layer in self._layers.items()})

    def _session(self, given: Mapping[str, tuple[int, int]]) -> Any:
        entries = {
            info.name: _tensor_type(info.dtype, len(info.shape)) for info in self._card.inputs
        }
        entries |= tensor_types({self._gradients.weights: self._default})
        return self._file.part(self._names, {**given, **entries})

    def _from_activations(
        self, tape: Tape, feeds: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """Keras's activations that the backward half reads, and the inputs."""
        wanted = {value.name for value in self._backward.get_inputs()}
        return {
            **feeds,
            **{
                source: layer.of(tape.activations[layer.name])
                for source, layer in self._layers.items()
                if source in wanted
            },
        }

    def _run(
        self, opened: Any, values: Mapping[str, NDArray[Any]], weights: NDArray[Any]
    ) -> dict[str, NDArray[Any]]:
        """All gradients, by name of the graph's output."""
        given = {**values, self._gradients.weights: weights}
        feeds = {x.name: np.ascontiguousarray(given[x.name]) for x in opened.get_inputs()}
        try:
            return dict(zip(self._names, opened.run(self._names, feeds), strict=True))
        except STOPPED:
            raise
        except Exception as exc:
            raise ExportError(f"onnxruntime cannot run the exported file: {exc}") from exc


def _tensor_type(dtype: str, rank: int) -> tuple[int, int]:
    return element_type(dtype), rank


@dataclass(frozen=True)
class _Shown:
    """How a layer is shown by a tensor that the graph computes with."""

    layer: Layer
    perms: tuple[Sequence[int], ...]
    """The Transposes from that tensor to the layer."""

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def tensor_type(self) -> tuple[int, int]:
        """Element type and rank of the tensor."""
        return _tensor_type(self.layer.dtype, len(self.layer.shape))

    def of(self, activation: Any) -> NDArray[Any]:
        """The tensor's value, from Keras's activation."""
        value = as_in_file(activation.numpy())
        for perm in reversed(self.perms):
            value = np.transpose(value, np.argsort(perm))
        return value


@dataclass(frozen=True, eq=False)
class LayerSources:
    """Where a graph has the layers of a model: the tensors that it computes with."""

    layers: tuple[Layer, ...]
    """Every layer, with the graph output that shows it."""
    by_tensor: Mapping[str, _Shown]
    """The layers by the tensors that can take the values of TensorFlow's."""

    @classmethod
    def of(cls, graph: onnx.GraphProto, layers: Sequence[Layer]) -> LayerSources:
        """Find them in a graph."""
        made_by = makers(graph.node)
        read = {name for node in graph.node for name in reads(node)}
        found: dict[str, _Shown] = {}
        for layer in layers:
            perms: list[Sequence[int]] = []
            tensor = str(layer.tensor)
            while (node := made_by.get(tensor)) is not None and tensor not in read:
                if not is_view(node):
                    break
                if node.op_type == "Transpose":
                    perms.insert(0, list(node.attribute[0].ints))
                tensor = node.input[0]
            if node is not None and not _selects(node) and layer.dtype in ITEM_BYTES:
                found.setdefault(tensor, _Shown(layer, tuple(perms)))
        return cls(tuple(layers), found)

    @property
    def complete(self) -> bool:
        """Whether the graph shows all layers that can be shown."""
        return all(layer.exposed for layer in self.layers if layer.why_not is None)


def _selects(node: onnx.NodeProto) -> bool:
    """Whether the gradient goes to the operand that equals the result. No operand would, to the
    last digit, if the result came from Keras and the operand from onnxruntime."""
    row = facts(node)
    return row is not None and row.selects


def _is_as_close(value: NDArray[Any], expected: NDArray[Any], exact: NDArray[Any] | None) -> bool:
    """Whether a gradient is about as close to the exact one as what was expected."""
    if exact is None or not value.shape == expected.shape == exact.shape:
        return False
    ours, theirs = (
        np.linalg.norm((x.astype(np.float64) - exact).ravel()) for x in (value, expected)
    )
    return bool(ours <= SHARE * theirs)


def _is_near(value: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether two gradients agree except for kinks; not if their shapes differ."""
    if value.shape != expected.shape:
        return False
    distance = np.linalg.norm((value.astype(np.float64) - expected).ravel())
    length = np.linalg.norm(expected.astype(np.float64).ravel())
    return bool(distance <= KINK_TOLERANCE * length)
