"""Targets: which class, or which mix of classes, a gradient or a heat map is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from layertap.errors import UsageError, suggest

Array: TypeAlias = npt.NDArray[Any]

Target: TypeAlias = "str | int | Sequence[Any] | Array"
"""What a caller may give; see `resolve`."""

TOP = "top"
"""The class with the highest score, of every image its own."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What was asked for, image by image."""

    weights: npt.NDArray[np.float32]
    """`(n, targets, classes)`: how much each score counts."""
    classes: npt.NDArray[np.int64] | None
    """`(n, targets)`; `None` where weights were given."""

    def scores(self, outputs: Array) -> npt.NDArray[np.float32]:
        """The scores of the targets, `(n, targets)`, out of those of all classes `(n, classes)`."""
        mixed: Array = np.einsum("ntc,nc->nt", self.weights.astype(np.float64), outputs)
        return mixed.astype(np.float32)


def needs_scores(target: Target, labels: Sequence[str] | None) -> bool:
    """Whether the scores of all classes must be known before the targets are."""
    if isinstance(target, (list, tuple)):
        return any(needs_scores(one, labels) for one in target)
    return isinstance(target, str) and target == TOP and target not in (labels or ())


def several(target: Target) -> bool:
    """Whether several targets are asked for, be it a list of one, and not one alone."""
    return _is_list(target) or (isinstance(target, np.ndarray) and target.ndim == 3)


def resolve(
    target: Any,
    *,
    samples: int,
    classes: int,
    labels: Sequence[str] | None = None,
    scores: Array | None = None,
) -> Targets:
    """What `target` means for a batch.

    Args:
        target: one target: a label, a class's index (negative ones count from the end), or `"top"`,
            the class with the highest score, of every image its own. Several, the same for every
            image: a list of such. Others for every image: a list of lists, one for each image, all
            of one length. Or any mix of the scores: an array of floats, `(classes,)` for all
            images, `(n, classes)`, or `(n, targets, classes)` for several mixes.
        samples: how many images there are.
        classes: how many classes.
        labels: the names of the classes.
        scores: of all classes, `(n, classes)`, where `needs_scores` says so.

    Raises:
        UsageError: no such class, or something that fits neither the images nor the classes.
    """
    if isinstance(target, np.ndarray) and not _lists(target):
        return _mixes(target, samples, classes)
    known = _Classes(classes, labels, scores)
    if not _is_list(target):
        return _of_classes(known.column(target, samples)[:, None], classes)
    if not len(target):
        raise UsageError(
            "the list of targets is empty. Give labels or indices of classes, or 'top'."
        )
    nested = [_is_list(one) for one in target]
    if not all(nested):
        if any(nested):
            raise UsageError(
                "the list of targets holds both targets and lists of them. Give targets, which "
                "hold for every image, or one list for each image."
            )
        columns = [known.column(one, samples) for one in target]
        return _of_classes(np.stack(columns, axis=1), classes)
    if len(target) != samples:
        raise UsageError(
            f"lists of targets for {len(target)} images were given, but there "
            f"{'is 1 image' if samples == 1 else f'are {samples} images'}."
        )
    lengths = {len(one) for one in target}
    if len(lengths) != 1 or 0 in lengths:
        raise UsageError(
            "every image must have the same number of targets, at least one; the lists have "
            f"{', '.join(str(len(one)) for one in target)}."
        )
    rows = [[known.column(one, samples)[i] for one in each] for i, each in enumerate(target)]
    return _of_classes(np.array(rows), classes)


def _is_list(target: Any) -> bool:
    return isinstance(target, (list, tuple)) or (isinstance(target, np.ndarray) and _lists(target))


def _lists(target: Array) -> bool:
    """Whether an array is a list of indices, as `argsort` gives it; none of a whole number is."""
    return target.ndim == 1 and target.dtype.kind in "iu"


def _of_classes(found: Array, classes: int) -> Targets:
    weights = np.zeros((*found.shape, classes), np.float32)
    np.put_along_axis(weights, found[..., None], 1, axis=-1)
    return Targets(weights, found.astype(np.int64))


def _mixes(target: Array, samples: int, classes: int) -> Targets:
    if target.ndim == 0 or target.dtype.kind != "f":
        raise UsageError(
            f"an array of dtype {target.dtype} and shape {target.shape} is no target. Weights of "
            "the classes are floats; the indices of several classes go in as a list."
        )
    given = target[None] if target.ndim == 1 else target
    given = given[:, None] if given.ndim == 2 else given
    if given.ndim != 3 or given.shape[2] != classes or given.shape[0] not in (1, samples):
        raise UsageError(
            f"weights of the classes have the shape ({classes},), ({samples}, {classes}) or "
            f"({samples}, targets, {classes}), but these have {target.shape}."
        )
    weights = np.broadcast_to(given, (samples, *given.shape[1:])).astype(np.float32)
    return Targets(weights, None)


class _Classes:
    """Finds classes by what they are called."""

    def __init__(self, classes: int, labels: Sequence[str] | None, scores: Array | None) -> None:
        self._count = classes
        # A file's labels are those of its one output; another output has none.
        self._labels = tuple(labels) if labels and len(labels) == classes else ()
        self._scores = scores

    def column(self, target: Any, samples: int) -> npt.NDArray[np.int64]:
        """The class for each image, `(n,)`."""
        if isinstance(target, np.generic):
            target = target.item()
        if isinstance(target, str) and target == TOP and target not in self._labels:
            if self._scores is None:
                raise ValueError("'top' needs the scores")
            best: npt.NDArray[np.int64] = self._scores.argmax(axis=-1)
            return best
        return np.full(samples, self._index(target))

    def _index(self, target: Any) -> int:
        if isinstance(target, str):
            return self._by_label(target)
        if not isinstance(target, Integral) or isinstance(target, bool):
            raise UsageError(
                f"{target!r} is no target. Give a class by its label or index, or 'top'; weights "
                "of the classes go in as an array."
            )
        index = int(target)
        if not -self._count <= index < self._count:
            raise UsageError(
                f"there is no class {index}: the output has {self._count}, 0 to {self._count - 1}."
            )
        return index % self._count

    def _by_label(self, label: str) -> int:
        if not self._labels:
            raise UsageError(
                f"the file has no labels for its classes, and {label!r} cannot be found. Give an "
                f"index, 0 to {self._count - 1}, or 'top'."
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
