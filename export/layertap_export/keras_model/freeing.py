"""Which sizes of a model's inputs are free, if all that is known are the data it was called on.

The usual way to load the weights of a subclassed model is to call it on zeros first, and a
Sequential model without an `Input` is built by its first data. The sizes of these data mean
nothing: Keras runs the model on others too. So every size is tried: with Keras on arrays, and then
in the trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import keras
import numpy as np

from layertap.format.layer import Shape
from layertap_export.errors import ExportError

from .inputs import Inputs
from .traceable import kept_states
from .tracing import Trace, trace_and_inputs

Axis: TypeAlias = tuple[int, int]
"""The index of an input, and of an axis of it."""

STATEFUL = "the model has stateful layers"
OTHER_SIZE = "Keras does not run the model with another size"
FREE_SIZE = "Keras cannot trace the model with a free size"


def fixed(model: Any, inputs: Inputs) -> tuple[Trace, Inputs, list[str]]:
    """The trace with the sizes of the data, and a free batch if the model takes any.

    Args:
        model: the model.
        inputs: its inputs, with `data`.

    Returns:
        The trace, the inputs, and sentences that say why the batch is not free.

    Raises:
        ExportError: Keras cannot trace the model.
    """
    own = _with_batch(inputs)
    if own == inputs:  # Keras knows no size of the batch
        return (*trace_and_inputs(model, inputs), [])
    reason = STATEFUL if _is_stateful(model) else ""
    if not reason:
        try:
            traced, found = trace_and_inputs(model, inputs)
        except ExportError:
            reason = FREE_SIZE
        else:
            ones = [_shape(info.shape, {}, batch=1) for info in found.infos]
            twos = [_shape(info.shape, {}, batch=2) for info in found.infos]
            before = [_shape(info.shape, {}, batch=1) for info in _with_batch(found).infos]
            both = all(_result(model, found, shapes) is not None for shapes in (ones, twos))
            if both or _result(model, found, before) is None:  # zeros do not suit this model
                return traced, found, []
            reason = OTHER_SIZE
    traced, found = trace_and_inputs(model, own)
    batch = next(shape[0] for shape in inputs.data if shape)
    return traced, found, [f"the batch size is fixed at {batch}: {reason}"]


def freed(model: Any, inputs: Inputs) -> tuple[Trace, Inputs, list[str]]:
    """The trace in which every size is free that Keras takes free.

    Args, Returns and Raises: see `fixed`; the sentences name the other sizes that stay, too.
    """
    traced, inputs, notes = fixed(model, inputs)
    batch = next((info.shape[0] for info in inputs.infos if info.shape), None) or 1
    before = [_shape(info.shape, {}, batch) for info in inputs.infos]
    usual = _result(model, inputs, before)
    if usual is None:  # zeros do not suit this model
        return traced, inputs, notes

    def runs(sizes: Mapping[Axis, int]) -> bool:
        other = [
            _shape(
                info.shape, {axis: n for (which, axis), n in sizes.items() if which == index}, batch
            )
            for index, info in enumerate(inputs.infos)
        ]
        found = _result(model, inputs, other)
        # A reshape may put other samples in a batch, instead of taking another size.
        return found is not None and [x[:1] for x in found] == [x[:1] for x in usual]

    reasons: dict[Axis, str] = {}
    free: dict[Axis, int] = {}
    """By axis another size that Keras runs with."""
    for axis in _fixed_axes(inputs):
        if axis in free:
            continue
        alike = [
            other for other in _fixed_axes(inputs) if _size(inputs, other) == _size(inputs, axis)
        ]
        # Two sizes may have to be equal: those of two inputs, or of a square. A size may have an
        # upper bound, such as the number of learned positions.
        size = _size(inputs, axis) or 0
        tries = [
            dict.fromkeys(axes, other)
            for other in (2 * size, size // 2)
            for axes in ([axis], alike)
            if other > 1 and free.keys().isdisjoint(axes)  # 1 may be broadcast
        ]
        found = next((x for x in tries if runs(x)), None)
        if found:
            free |= found
        else:
            reasons[axis] = OTHER_SIZE
    while free and not runs(free):
        reasons[free.popitem()[0]] = OTHER_SIZE

    if free:
        chosen: list[Axis] = []
        for axes in ([*free], *[[axis] for axis in free]):
            if {*axes} <= {*chosen}:
                continue
            try:
                traced, inputs = _trace_free(model, inputs, [*chosen, *axes])
            except ExportError:
                continue
            chosen += axes
        reasons |= {axis: FREE_SIZE for axis in free if axis not in chosen}
    return traced, inputs, [*notes, *_sentences(inputs, reasons)]


def _trace_free(model: Any, inputs: Inputs, axes: Sequence[Axis]) -> tuple[Trace, Inputs]:
    infos = list(inputs.infos)
    for index, axis in axes:
        shape = list(infos[index].shape)
        shape[axis] = None
        infos[index] = replace(infos[index], shape=tuple(shape))
    return trace_and_inputs(model, replace(inputs, infos=tuple(infos)))


def _sentences(inputs: Inputs, reasons: Mapping[Axis, str]) -> Iterator[str]:
    """One sentence for the axes of one input that stay fixed for one reason."""
    groups: dict[tuple[int, str], list[int]] = {}
    for (index, axis), reason in sorted(reasons.items()):
        groups.setdefault((index, reason), []).append(axis)
    for (index, reason), axes in groups.items():
        info = inputs.infos[index]
        sizes = _and([info.shape[axis] or 0 for axis in axes])
        which = f"axis {axes[0]} is" if len(axes) == 1 else f"the axes {_and(axes)} are"
        yield f"input {info.name!r}: {which} fixed at {sizes}, because {reason}"


def _and(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))


def _is_stateful(model: Any) -> bool:
    return any(getattr(layer, "stateful", False) for layer in model._flatten_layers())


def _with_batch(inputs: Inputs) -> Inputs:
    """The inputs with the size of the batch that the data had."""
    infos = tuple(
        replace(info, shape=(data[0], *info.shape[1:])) if data else info
        for info, data in zip(inputs.infos, inputs.data, strict=True)
    )
    return replace(inputs, infos=infos)


def _fixed_axes(inputs: Inputs) -> list[Axis]:
    """The axes behind that of the batch whose size is not free."""
    return [
        (index, axis)
        for index, info in enumerate(inputs.infos)
        for axis in range(1, len(info.shape))
        if info.shape[axis] is not None and inputs.data[index]
    ]


def _size(inputs: Inputs, axis: Axis) -> int | None:
    return inputs.infos[axis[0]].shape[axis[1]]


def _shape(shape: Shape, others: Mapping[int, int], batch: int) -> tuple[int, ...]:
    """A shape in numbers, with other sizes of some axes."""
    sizes = [batch if axis == 0 else 32 for axis in range(len(shape))]
    sizes = [other if size is None else size for size, other in zip(shape, sizes, strict=True)]
    return tuple(others.get(axis, size) for axis, size in enumerate(sizes))


def _result(
    model: Any, inputs: Inputs, shapes: Sequence[tuple[int, ...]]
) -> list[tuple[int, ...]] | None:
    """The shapes of what Keras returns for zeros, or `None` if it refuses them."""
    try:
        arrays = [
            np.zeros(shape, np.dtype(str if info.dtype == "string" else info.dtype))
            for shape, info in zip(shapes, inputs.infos, strict=True)
        ]
        with kept_states():
            result = inputs.call(model, arrays)
        return [tuple(x.shape) for x in keras.tree.flatten(result) if hasattr(x, "shape")]
    except Exception:  # noqa: BLE001 - a layer may raise anything where a size does not suit it
        return None
