"""Baselines: what replaces the parts of an input or a layer that are taken away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from layertap.errors import InputError, UsageError, suggest
from layertap.format.text import class_text

from .targets import Array

if TYPE_CHECKING:
    from layertap._engine.program import Program

WORDS = ("zero", "mean", "blur")
"""Baselines by name: 0; the mean over the positions, channel by channel; and the blurred image."""


def baselines(
    program: Program, baseline: Any, values: Mapping[str, Array], names: Mapping[str, str] = {}
) -> dict[str, Array]:
    """The baseline of each tensor: float64, or the dtype of a tensor that is not of floats.

    Args:
        program: says what the axes of its tensors mean.
        baseline: a number, an array that fits one sample or all, or one of `WORDS`; or a dict of
            these by name.
        values: the values of the tensors, `(n, ...)`.
        names: what a tensor is called in messages and dicts, if not by its name.

    Raises:
        InputError: it does not fit.
        UsageError: the tensor has no positions to take a mean over, or to blur; an unknown name.
    """
    called = {tensor: names.get(tensor, tensor) for tensor in values}
    if isinstance(baseline, Mapping):
        known = [*dict.fromkeys([*called.values(), *(info.name for info in program.inputs)])]
        unknown = next((key for key in baseline if key not in known), None)
        if unknown is not None:
            raise UsageError(
                f"the baseline names {unknown!r}, but there {'are' if len(known) > 1 else 'is'} "
                f"{', '.join(map(repr, known))}.{suggest(str(unknown), known)}"
            )
    found = {}
    for tensor, value in values.items():
        one = baseline
        if isinstance(baseline, Mapping):
            one = baseline.get(called[tensor], 0.0)
        axes = program.axes(tensor, value.ndim)
        found[tensor] = baseline_of(one, called[tensor], value, axes)
    return found


def backgrounds(background: Any, values: Mapping[str, Array]) -> dict[str, Array]:
    """The samples to compare with, `(k, ...)` for each input, of the input's dtype.

    Args:
        background: an array for the only input, or a dict of arrays by input name.
        values: the values of the inputs, `(n, ...)`.

    Raises:
        InputError: one is missing, of another shape, or not of numbers.
    """
    if not isinstance(background, Mapping):
        if len(values) > 1:
            raise InputError(
                "the background must be a dict with an array for each of the inputs "
                f"{', '.join(map(repr, values))}, got {class_text(background)}."
            )
        background = dict.fromkeys(values, background)
    found = {}
    for name, value in values.items():
        if name not in background:
            raise InputError(f"the background has no array for the input {name!r}.")
        text = value.dtype.kind in "OUST"
        try:
            given = np.asarray(background[name], object if text else np.float64)
        except (TypeError, ValueError) as exc:
            raise InputError(
                f"the background must be an array, or a dict of arrays by input name, got "
                f"{class_text(background[name])}."
            ) from exc
        if given.shape[1:] != value.shape[1:] or given.ndim != value.ndim or not len(given):
            sizes = ", ".join(map(str, ("k", *value.shape[1:])))
            raise InputError(
                f"the background has shape {given.shape}, but for input {name!r} it must be "
                f"({sizes}), with at least one sample."
            )
        if not text and value.dtype.kind != "f" and not np.array_equal(given, given.astype(int)):
            raise InputError(f"the background of {name!r} must be of whole numbers.")
        found[name] = given.astype(value.dtype)
    counts = {len(one) for one in found.values()}
    if len(counts) > 1:
        raise InputError(
            "the background must have as many samples of each input, got "
            + ", ".join(f"{len(one)} of {name!r}" for name, one in found.items())
            + "."
        )
    return found


def baseline_of(one: Any, name: str, values: Array, axes: str) -> Array:
    """The baseline of one tensor, of the shape of its values.

    Args:
        one: a number, an array, or one of `WORDS`.
        name: the name in messages.
        values: `(n, ...)`.
        axes: what the axes of the values mean, as `Layer.axes`.

    Raises:
        InputError: it does not fit.
        UsageError: the tensor has no positions to take a mean over, or to blur.
    """
    text = values.dtype.kind in "OUST"
    dtype = np.dtype(np.float64) if values.dtype.kind == "f" else values.dtype
    if isinstance(one, str) and (one in WORDS or not text):
        return _named(one, name, values, axes)
    try:
        given = np.asarray(one, object if text else np.float64)
    except (TypeError, ValueError) as exc:
        raise InputError(
            f"the baseline must be a number, an array, {', '.join(map(repr, WORDS))}, or a dict of "
            f"these by input name, got {class_text(one)}."
        ) from exc
    if text and not all(isinstance(word, str) for word in given.ravel()):
        if isinstance(one, float) and one == 0:
            given = np.asarray("", object)
        else:
            raise InputError(
                f"the baseline of {name!r}, whose elements are strings, must be a string, got "
                f"{class_text(one)}."
            )
    if not text and dtype.kind != "f":
        with np.errstate(all="ignore"):
            whole = given.astype(dtype)
        if not np.array_equal(whole, given):
            raise InputError(
                f"the baseline of {name!r} must be of whole numbers that fit {dtype.name}, which "
                f"the values are, got {class_text(one)}."
            )
    try:
        return np.broadcast_to(given.astype(dtype), values.shape)
    except ValueError:
        raise InputError(
            f"the baseline has shape {given.shape}, but {name!r} has shape {values.shape}. "
            "Give a number, one sample, or one sample for each."
        ) from None


def _named(word: str, name: str, values: Array, axes: str) -> Array:
    if word not in WORDS:
        words = ", ".join(map(repr, WORDS))
        raise UsageError(
            f"baseline must be a number, an array that fits, or one of {words}, got {word!r}."
            + suggest(word, WORDS)
        )
    if word == "zero":
        empty = "" if values.dtype.kind in "OUST" else 0
        dtype = np.float64 if values.dtype.kind == "f" else values.dtype
        return np.full(values.shape, empty, dtype)
    space = tuple(at for at, letter in enumerate(axes) if letter not in "NC")
    if not space or values.dtype.kind not in "fiu" or "C" not in axes:
        raise UsageError(
            f"the baseline {word!r} needs an image or another input with positions and channels, "
            f"but {name!r} has the shape {values.shape} and the dtype {values.dtype}. Give a "
            "number or an array."
        )
    if word == "blur":
        return blurred(values, space)
    with np.errstate(all="ignore"):  # NaN and infinity come out as they are
        mean = values.mean(axis=space, keepdims=True, dtype=np.float64)
    dtype = np.float64 if values.dtype.kind == "f" else values.dtype
    return np.broadcast_to(mean.astype(dtype), values.shape)


def blurred(values: Array, axes: tuple[int, ...]) -> Array:
    """Values blurred along some axes by a Gaussian of 11 positions and deviation 5, as in the paper
    of RISE for its metrics; the edge is repeated beyond itself.
    """
    kernel = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 5.0**2))
    kernel /= kernel.sum()
    found: npt.NDArray[Any] = values.astype(np.float64)
    for axis in axes:
        length = found.shape[axis]
        positions = np.clip(np.arange(-5, length + 5), 0, length - 1)
        wide = found.take(positions, axis)
        found = sum(
            share * wide.take(np.arange(at, at + length), axis) for at, share in enumerate(kernel)
        )
    return found.astype(values.dtype)
