"""Targets: the class, or the weighted sum of scores, that a heat map explains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from layertap.errors import ModelFileError, UsageError, suggest
from layertap.format.select import is_integer

from .places import At, weights_at

Array: TypeAlias = npt.NDArray[Any]

Target: TypeAlias = "str | int | Sequence[Any] | Array"
"""What a caller may give; see `resolve`."""

TOP = "top"
"""Each image's class with the highest score."""

ALL = "all"
"""Every class, one target each."""


def by_class(outputs: npt.NDArray[Any], places: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
    """The scores of the classes, `(n, classes)`; their mean if there are several positions.

    Args:
        outputs: `(n, ..., classes)`.
        places: weights of the positions, `(1, ...)`, for a weighted mean.
    """
    if outputs.ndim < 2:
        raise UsageError(
            f"the scores must have at least two axes, classes last, (n, classes), got shape "
            f"{outputs.shape}."
        )
    if places is not None:
        whole = np.abs(places).sum(dtype=np.float64)
        axes = tuple(range(1, outputs.ndim - 1))
        mixed: npt.NDArray[Any] = (outputs * places[..., None]).sum(axis=axes) / whole
        return mixed.astype(outputs.dtype)
    scores: npt.NDArray[Any] = outputs.reshape(
        len(outputs), math.prod(outputs.shape[1:-1]), outputs.shape[-1]
    ).mean(axis=1)
    return scores


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets of each image."""

    weights: npt.NDArray[np.float32]
    """`(n, targets, k)`: the weight of each score that `read` returns."""
    classes: npt.NDArray[np.int64] | None
    """`(n, targets)`; `None` if weights were given."""
    offsets: npt.NDArray[np.float32]
    """`(n, targets)`, added to the weighted scores: 1 where the probability of the negative of two
    classes is meant, `1 - p`; otherwise 0."""
    several: bool = True
    """Whether a list of targets was given (also a list of one) instead of a single target."""
    places: npt.NDArray[np.float32] | None = None
    """The weights of the positions, `(1, ...)`, if some were asked for with `at`."""
    shape: tuple[int, ...] | None = None
    """`(..., classes)`, if each position has weights of its own: `k` is the product of it."""

    def read(self, outputs: Array) -> Array:
        """The scores `(n, k)` in the values of an output, `(n, ..., classes)`.

        They are those of the classes: the mean over the positions, or the mean at `places`. If each
        position has weights of its own, they are all values.
        """
        sizes = outputs.shape[1:-1] if self.places is None else self.places.shape[1:]
        if outputs.shape[1:] != (self.shape or (*sizes, outputs.shape[-1])):
            raise ModelFileError(
                f"the scores have the shape {outputs.shape}, which is not what the file states. "
                "Export it again."
            )
        if self.shape is not None:
            return outputs.reshape(len(outputs), -1)
        return by_class(outputs, self.places)

    def scores(self, outputs: Array) -> npt.NDArray[np.float32]:
        """The scores of the targets, `(n, targets)`, from those that `read` returns, `(n, k)`."""
        if outputs.shape[1] != self.weights.shape[2]:
            raise ModelFileError(
                f"the model has {outputs.shape[1]} scores, but its gradients take the weights of "
                f"{self.weights.shape[2]} classes. Export it again."
            )
        with np.errstate(all="ignore"):  # NaN and infinity come out as they are
            mixed: Array = np.einsum("ntc,nc->nt", self.weights.astype(np.float64), outputs)
            return (mixed + self.offsets).astype(np.float32)


def needs_scores(target: Target | Targets, labels: Sequence[str] | None) -> bool:
    """Whether the scores of all classes must be known before the targets are."""
    if isinstance(target, (list, tuple)):
        return any(needs_scores(one, labels) for one in target)
    return isinstance(target, str) and target == TOP and target not in (labels or ())


def is_by_place(target: Target | Targets, rank: int) -> bool:
    """Whether a target is an array with weights of the positions of a score.

    Args:
        rank: the number of axes of the score, `(n, ..., classes)`.
    """
    return isinstance(target, np.ndarray) and target.ndim > 1 and rank > 2


def _is_all(target: Any, labels: Sequence[str] | None) -> bool:
    return isinstance(target, str) and target == ALL and target not in (labels or ())


def resolve(
    target: Any,
    *,
    samples: int,
    classes: int,
    sizes: Sequence[int] = (),
    labels: Sequence[str] | None = None,
    values: Array | None = None,
    probability: bool = False,
    at: At | None = None,
) -> Targets:
    """Resolve `target` for a batch.

    Args:
        target: one target: a label, the index of a class (negative ones count from the end), or
            `"top"`, each image's class with the highest score. Several targets for all images: a
            list of these, or `"all"`, every class. Different targets for each image: a list of
            lists, one per image, all of the same length. A weighted sum of scores: an array of
            floats, `(classes,)` for all images, `(n, classes)`, or `(n, targets, classes)` for
            several sums. Of a score at several positions: `(classes,)`, the shape of the score
            with or without the axis of the samples, or `(n, targets, ..., classes)`; axes of
            positions may be 1. Or targets that were resolved before.
        samples: number of images.
        classes: number of classes.
        sizes: the sizes of the axes of positions, between samples and classes.
        labels: the names of the classes. Two names for one score are [negative, positive], the
            classes of a binary model: the first is explained by the negative score.
        values: the score, `(n, ..., classes)`, if `needs_scores` is true.
        probability: whether the scores end in a sigmoid or softmax.
        at: the positions that are meant, see `places.weights_at`; all of them by default.

    Raises:
        UsageError: unknown class, or weights or lists that do not fit the images and classes.
    """
    if isinstance(target, Targets):
        return target
    if is_by_place(target, 2 + len(sizes)):
        if at is not None:
            raise UsageError(
                "target has weights of the positions, and at selects positions. Give one of them."
            )
        return _by_place(target, samples, (*sizes, classes))
    places = None if at is None else weights_at(at, sizes)
    if isinstance(target, np.ndarray) and not _lists(target):
        return replace(_mixes(target, samples, classes), places=places)
    scores = None if values is None else by_class(values, places)
    many = _is_all(target, labels) or _is_list(target)
    found = _classes(target, samples, classes, labels, scores, probability)
    return replace(found, places=places, several=many)


def _classes(
    target: Any,
    samples: int,
    classes: int,
    labels: Sequence[str] | None,
    scores: Array | None,
    probability: bool,
) -> Targets:
    """The targets that are classes, see `resolve`."""
    if scores is not None and needs_scores(target, labels) and np.shape(scores)[1:] != (classes,):
        raise ModelFileError(
            f"the model has scores of shape {np.shape(scores)}, but its gradients take the weights "
            f"of {classes} classes. Export it again."
        )
    known = _Classes(classes, labels, scores, probability)
    if _is_all(target, labels):
        target = list(range(known.count))
    if not _is_list(target):
        return known.targets(known.column(target, samples)[:, None])
    if not len(target):
        raise UsageError(
            "the list of targets is empty. Give labels or indices of classes, or 'top'."
        )
    nested = [_is_list(one) for one in target]
    if not all(nested):
        if any(nested):
            raise UsageError(
                "the list of targets contains both targets and lists of targets. Give targets, "
                "which apply to all images, or one list for each image."
            )
        every = range(known.count)
        each = [x for one in target for x in (every if _is_all(one, labels) else [one])]
        columns = [known.column(one, samples) for one in each]
        return known.targets(np.stack(columns, axis=1))
    if len(target) != samples:
        raise UsageError(
            f"expected lists of targets for {samples} image{'s' if samples > 1 else ''}, got "
            f"{len(target)}."
        )
    lengths = {len(one) for one in target}
    if len(lengths) != 1 or 0 in lengths:
        raise UsageError(
            "every image must have the same number of targets, at least one; the lists have "
            f"{', '.join(str(len(one)) for one in target)}."
        )
    rows = [[known.column(one, samples)[i] for one in each] for i, each in enumerate(target)]
    return known.targets(np.array(rows))


def _is_list(target: Any) -> bool:
    return isinstance(target, (list, tuple)) or (isinstance(target, np.ndarray) and _lists(target))


def _lists(target: Array) -> bool:
    """Whether an array is a list of indices, such as `argsort` returns."""
    return target.ndim == 1 and target.dtype.kind in "iu"


def _mixes(target: Array, samples: int, classes: int) -> Targets:
    if target.ndim == 0 or target.dtype.kind != "f":
        raise UsageError(
            f"an array of dtype {target.dtype} and shape {target.shape} is not a valid target. "
            "Weights of the classes must be floats; give the indices of several classes as a list."
        )
    given = target[None] if target.ndim == 1 else target
    given = given[:, None] if given.ndim == 2 else given
    if given.ndim != 3 or given.shape[2] != classes or given.shape[0] not in (1, samples):
        raise UsageError(
            f"weights of the classes must have shape ({classes},), ({samples}, {classes}) or "
            f"({samples}, targets, {classes}), got {target.shape}."
        )
    weights = np.broadcast_to(_finite_weights(given), (samples, *given.shape[1:]))
    return Targets(weights, None, np.zeros(weights.shape[:2], np.float32), target.ndim == 3)


def _by_place(target: Array, samples: int, shape: tuple[int, ...]) -> Targets:
    """Targets with weights of the positions and classes of a score of this shape."""
    more = target.ndim - len(shape)
    given = target[None, None] if more == 0 else target[:, None] if more == 1 else target
    sizes = [(1, samples), given.shape[1:2], *((1, size) for size in shape[:-1]), shape[-1:]]
    fits = len(sizes) == given.ndim and 0 not in given.shape
    if not fits or any(size not in by for size, by in zip(given.shape, sizes, strict=True)):
        one = ", ".join(map(str, shape))
        raise UsageError(
            f"weights of the scores must have shape ({shape[-1]},), ({one}), ({samples}, {one}) or "
            f"({samples}, targets, {one}), got {target.shape}."
        )
    if target.dtype.kind not in "biuf":
        raise UsageError(
            f"weights of the scores must be numbers or truth values, got {target.dtype}."
        )
    weights = _finite_weights(given)
    if not weights.any():
        raise UsageError("the weights of the scores are 0 everywhere, so they select none.")
    weights = np.broadcast_to(weights, (samples, given.shape[1], *shape))
    weights = weights.reshape(*weights.shape[:2], -1)
    return Targets(weights, None, np.zeros(weights.shape[:2], np.float32), more == 2, shape=shape)


def _finite_weights(given: Array) -> Array:
    """Weights of scores in float32."""
    with np.errstate(over="ignore"):
        weights = given.astype(np.float32)
    if not np.isfinite(weights).all():
        raise UsageError("the weights of the scores have a value that is not finite in float32.")
    return weights


def is_binary(classes: int | None, labels: Sequence[str] | None) -> bool:
    """Whether one score is that of two classes: of two labels, [negative, positive]."""
    return classes == 1 and labels is not None and len(labels) == 2


class _Classes:
    """Finds classes by label or index."""

    def __init__(
        self,
        classes: int,
        labels: Sequence[str] | None,
        scores: Array | None,
        probability: bool,
    ) -> None:
        self._binary = is_binary(classes, labels)
        self._probability = probability
        self.count = classes = 2 if self._binary else classes
        # A file's labels belong to its only output; other outputs have none.
        self._labels = tuple(labels) if labels and len(labels) == classes else ()
        self._scores = scores

    def column(self, target: Any, samples: int) -> npt.NDArray[np.int64]:
        """The class for each image, `(n,)`."""
        if isinstance(target, np.generic):
            target = target.item()
        if isinstance(target, str) and target == TOP and target not in self._labels:
            if self._scores is None:
                raise ValueError("'top' needs the scores")
            if self._binary:
                return (self._scores[:, 0] > (0.5 if self._probability else 0)).astype(np.int64)
            best: npt.NDArray[np.int64] = self._scores.argmax(axis=-1)
            return best
        return np.full(samples, self._index(target))

    def targets(self, found: Array) -> Targets:
        """The targets for classes `(n, targets)`."""
        classes, offsets = found.astype(np.int64), np.zeros(found.shape, np.float32)
        if self._binary:
            negative = classes == 0
            weights = np.where(negative, -1, 1).astype(np.float32)[..., None]
            return Targets(weights, classes, offsets + (negative & self._probability))
        weights = np.zeros((*found.shape, self.count), np.float32)
        np.put_along_axis(weights, found[..., None], 1, axis=-1)
        return Targets(weights, classes, offsets)

    def _index(self, target: Any) -> int:
        if isinstance(target, str):
            return self._by_label(target)
        if not is_integer(target):
            raise UsageError(
                f"{target!r} is not a valid target. Give a label or an index, or 'top'; or "
                "weights of the classes as an array."
            )
        index = int(target)
        if not -self.count <= index < self.count:
            raise UsageError(
                f"class {index} is out of range: the output has {self.count}, 0 to "
                f"{self.count - 1}."
            )
        return index % self.count

    def _by_label(self, label: str) -> int:
        if not self._labels:
            raise UsageError(
                f"unknown class {label!r}: the file has no labels. Give an index, 0 to "
                f"{self.count - 1}, or 'top'."
            )
        if label not in self._labels:
            near = suggest(label, self._labels)
            first = ", ".join(map(repr, self._labels[:3]))
            raise UsageError(
                f"no class is called {label!r}; there are {len(self._labels)}, {first}, ...{near}"
                if len(self._labels) > 3
                else f"no class is called {label!r}; there are {first}.{near}"
            )
        return self._labels.index(label)
