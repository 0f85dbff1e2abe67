"""Compares a finished file with what the runtime computes in Python."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import layertap
from layertap._engine.pictures import TOP as TOP_CLASS
from layertap._engine.program import program_of
from layertap.cam import targets
from layertap.cam.scores import class_axis, class_scores, of_both_classes, resolve_target
from layertap.comparing.golden import feeds
from layertap.comparing.measures import difference
from layertap.format.card import Card, Golden, GoldenInput
from layertap.images.preprocessing import Preprocessing
from layertap.images.region import scaled_size
from layertap_export.finishing.assemble import Assembled, Wanted, samples_of

from .golden_values import STEADY_TOLERANCE, golden_layer
from .written_file import WrittenFile

TOLERANCE = 1e-5
"""The largest scaled error of an output of a finished file, unless it computes in 16 bits."""

GOLDEN_PICTURE = (48, 64, 3)
"""Height, width and channels of the picture in the golden sample."""

ROUNDING = 1e-6
"""By how much an input is changed to see how far rounding moves the results."""

STEADY = 4.0
"""How many times as much the results of the file may differ as by that."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One picture, and one class."""

    picture: NDArray[Any]
    """uint8 `(height, width, channels)`, or `(n, height, width, channels)`."""
    target: int


def trials(
    size: tuple[int, int] | None, classes: int, *, batch: int, count: int = 6
) -> Iterator[Trial]:
    """Random pictures of several sizes, shapes and kinds, each with a class.

    Args:
        size: (height, width) of the network's input, if it is fixed.
        classes: the number of classes.
        batch: how many pictures are given at once, as a batch; 0 for one without an axis of them.
    """
    generator = np.random.default_rng(0)
    high, wide = size or (64, 48)
    sizes = [
        (high, wide), (high * 2 + 7, wide + 5), (max(high // 2, 1), max(wide // 3, 1)),
        (high + 31, wide * 3 + 1), (max(high - 3, 1), max(wide // 2 - 1, 1)), (high, wide * 2),
    ]  # fmt: skip
    for at in range(count):
        channels = (3, 1, 4)[at % 3]
        shape = (*sizes[at % len(sizes)], channels)
        rows = batch or 1
        pictures = np.stack([_picture(generator, shape) for _ in range(rows)])
        target = TOP_CLASS if at % 2 == 0 else int(generator.integers(classes))
        yield Trial(pictures if batch else pictures[0], target)


def _picture(generator: np.random.Generator, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Waves with noise, and some pixels that are black or white."""
    height, width, channels = shape
    y, x = np.mgrid[:height, :width][..., None] / max(height, width)
    waves = np.sin(generator.uniform(2, 20, channels) * y + generator.uniform(2, 20, channels) * x)
    noisy = 127 + 100 * waves + generator.normal(0, 40, shape)
    picture: NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
    return picture


def _spread(
    heat: NDArray[np.float64], size: tuple[int, int], recipe: Preprocessing | None, axis: int
) -> NDArray[np.float64]:
    """A map interpolated along one axis to the size of the picture there."""
    start, length, total, first, count = _region(size, recipe, axis)
    seen = (np.arange(size[axis]) + 0.5 - start) * total / length - first
    cells = heat.shape[axis]
    centres = (np.arange(cells) + 0.5) * count / cells
    inside = (seen >= 0) & (seen <= count)

    def along(row: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(inside, np.interp(seen, centres, row), 0.0)

    spread: NDArray[np.float64] = np.apply_along_axis(along, axis, heat)
    return spread


def _region(
    size: tuple[int, int], recipe: Preprocessing | None, axis: int
) -> tuple[float, float, float, float, float]:
    """Start and length of what is resized, to how much, and which part of that is taken."""
    own = size[axis]
    if recipe is None or (recipe.size is None and recipe.shorter_side is None):
        return 0, own, own, 0, own
    if recipe.shorter_side is not None:
        total = scaled_size(*size, recipe.shorter_side)[axis]
        wanted = recipe.size[axis] if recipe.size else total
        spare = total - wanted
        return 0, own, total, round(spare / 2) if spare >= 0 else -(-spare // 2), wanted
    assert recipe.size is not None
    wanted, length = recipe.size[axis], own
    if recipe.keep_aspect_ratio:
        length = min(own, size[1 - axis] * wanted // recipe.size[1 - axis])
    return (own - length) // 2, length, wanted, 0, wanted


@dataclass(frozen=True, slots=True)
class Compared:
    """How far a finished file is from the runtime."""

    errors: Mapping[str, float]
    """The largest scaled error of each output; for the picture, infinity unless what the recipe
    makes of it is the same bit for bit."""
    allowed: Mapping[str, float]
    pictures: int
    unsteady: Collection[str]
    """The outputs that rounding moves by more than a check would allow."""


class Comparison:
    """Compares every output of a finished file with the runtime, on random pictures."""

    def __init__(
        self,
        file: WrittenFile,
        opened: layertap.Model,
        made: Assembled,
        wanted: Wanted,
        base: Mapping[str, NDArray[Any]],
    ) -> None:
        """
        Args:
            file: the finished file.
            opened: the file that it was made from.
            made: what was assembled.
            wanted: what it should take and give.
            base: a sample of the model's own inputs, for those that are no picture.
        """
        assert made.card.finished is not None
        self._file, self._opened, self._card = file, opened, made.card
        self._recipe, self._batch, self._base = wanted.recipe, wanted.batch, base
        self._facts = made.card.finished
        self._reductions, self._prepared = made.reductions, made.prepared
        self._program = program_of(opened)
        self._program.has_warned = True  # of batches that the file's own recipe cannot return
        self._session = file.session()
        self._names = [value.name for value in self._session.get_outputs()]
        self._image = next((x.name for x in opened.inputs if len(x.shape) == 4), None)
        self._samples = next((samples_of(x) for x in opened.inputs if x.name == self._image), None)
        self._errors: dict[str, float] = {}
        self._moved: dict[str, float] = {}

    def run(self) -> Compared:
        facts, recipe = self._facts, self._recipe
        shape = next((x.shape for x in self._opened.outputs if x.name == facts.scores), (1,))
        count = shape[class_axis(self._program, str(facts.scores), len(shape))]
        classes = 2 if targets.is_binary(count, self._program.labels) else (count or 1)
        pictures = 0
        batch = (self._samples or 2) if self._batch else 0
        for trial in trials(recipe.size if recipe else None, classes, batch=batch):
            self._try(trial)
            pictures += len(trial.picture) if self._batch else 1
        narrow = self._file.narrow
        least = max((one.tolerance for one in narrow.values()), default=0.0)
        allowed = {
            # Where rounding moves the runtime's own results, no other program can be nearer.
            name: max(TOLERANCE, STEADY * self._moved.get(name, 0.0), least)
            for name in self._errors
        }
        most = max(STEADY_TOLERANCE, least)
        unsteady = {name for name, moved in self._moved.items() if not STEADY * moved <= most}
        return Compared(self._errors, allowed, pictures, unsteady)

    def _try(self, trial: Trial) -> None:
        facts = self._facts
        given, fed, size = self._inputs(trial)
        if facts.target is not None:
            fed[facts.target] = np.array([trial.target], np.int64)
        read = {value.name for value in self._session.get_inputs()}
        fed = {name: value for name, value in fed.items() if name in read}
        found = dict(zip(self._names, self._session.run(self._names, fed), strict=True))
        if facts.image is not None:
            self._note(facts.image, self._picture_error(facts.image, trial, given))
        known = {info.name for info in self._opened.outputs}
        known |= {str(layer.tensor) for layer in self._card.layers}
        asked = [name for name in self._names if name in known and name != self._prepared]
        moved = self._changed(given)
        fetch = self._program.fetch(asked)
        values, others = fetch(given), fetch(moved)
        for name in asked:
            error = _scaled_error(found[name], values[name])
            self._note(name, error, _scaled_error(others[name], values[name]))
        for name, one in self._reductions.items():
            value = self._opened.activations(given, {one.layer.name: one.how})[one.layer.name]
            if isinstance(value, layertap.TopChannels):
                value = (value.values, value.channels)[one.at]
            self._note(name, _scaled_error(found[name], value))
        if facts.top_scores is not None and facts.top_classes is not None:
            scores = class_scores(self._program, str(facts.scores), found[str(facts.scores)])
            if targets.is_binary(scores.shape[1], self._program.labels):
                scores = of_both_classes(self._program, str(facts.scores), scores)
            best = found[facts.top_scores], found[facts.top_classes]
            self._note(facts.top_scores, 0.0 if _are_best(scores, *best) else float("inf"))
        if facts.heat_map is not None:
            classes = self._classes(found[str(facts.scores)], trial.target)
            self._compare_map(found[facts.heat_map], given, classes, size)

    def _inputs(self, trial: Trial) -> tuple[dict[str, Any], dict[str, Any], tuple[int, int]]:
        """What the runtime is given, what the file is fed, and the size of the picture."""
        given: dict[str, Any] = dict(self._base)
        if self._recipe is None or self._facts.image is None:
            axes = self._program.axes(str(self._image), 4) if self._image else ""
            shape = np.shape(given[str(self._image)]) if self._image else ()
            size = tuple(n for n, letter in zip(shape, axes, strict=True) if letter not in "NC")
            return given, dict(given), (size[0], size[1]) if len(size) == 2 else (0, 0)
        pictures = list(trial.picture) if self._batch else [trial.picture]
        rows = {
            name: np.repeat(value[:1], len(pictures), axis=0) if np.ndim(value) else value
            for name, value in given.items()
        }
        kind = next(x.dtype for x in self._opened.inputs if x.name == self._image)
        batch = self._recipe.batch(pictures).astype(kind)
        height, width = trial.picture.shape[-3:-1]
        fed = {**rows, self._facts.image: trial.picture}
        return {**rows, str(self._image): batch}, fed, (height, width)

    @cached_property
    def _first_part(self) -> Any:
        """A session over the nodes that prepare the picture."""
        kind = (onnx.TensorProto.UINT8, 4 if self._batch else 3)
        return self._file.part([str(self._prepared)], {str(self._facts.image): kind})

    def _picture_error(self, name: str, trial: Trial, given: Mapping[str, Any]) -> float:
        """0 if the graph makes of a picture what the recipe makes of it, else infinity."""
        (made,) = self._first_part.run(None, {name: trial.picture})
        same = np.array_equal(made, given[str(self._image)], equal_nan=made.dtype.kind == "f")
        return 0.0 if same else float("inf")

    def _compare_map(
        self,
        found: NDArray[Any],
        given: Mapping[str, Any],
        classes: Sequence[int],
        size: tuple[int, int],
    ) -> None:
        maps = self._expected_map(given, classes, size)
        others = self._expected_map(self._changed(given), classes, size)
        error = float(np.abs(found.reshape(maps.shape) - maps).max())
        self._note(str(self._facts.heat_map), error, float(np.abs(others - maps).max()))

    def _classes(self, scores: NDArray[Any], target: int) -> list[int]:
        """The class that is explained for each sample.

        The best one is that of the file's own scores: of two equal ones, rounding decides.
        """
        rows = class_scores(self._program, str(self._facts.scores), scores)
        if target != TOP_CLASS:
            return [target] * len(rows)
        best = resolve_target(self._program, str(self._facts.scores), targets.TOP, rows).classes
        assert best is not None
        return [int(number) for number in best[:, 0]]

    @staticmethod
    def _changed(given: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs that are changed by as much as rounding may change them."""
        return {
            name: (value * (1 + ROUNDING)).astype(value.dtype) if value.dtype.kind == "f" else value
            for name, value in given.items()
        }

    def _expected_map(
        self, given: Mapping[str, Any], classes: Sequence[int], size: tuple[int, int]
    ) -> NDArray[np.float64]:
        """The heat maps that the runtime computes for a prepared batch, in the size of the picture.

        Args:
            given: the inputs, prepared.
            classes: the class of each sample.
            size: (height, width) of the picture.

        Returns:
            `(n, height, width)`.
        """
        options: dict[str, Any] = {"layer": self._facts.layer, "method": self._facts.method}
        if self._facts.target is not None:
            options["target"] = [[number] for number in classes]
        maps = self._opened.cam(given, normalize=False, resize=False, **options)
        maps = np.maximum(maps.reshape(-1, *maps.shape[-2:]), 0).astype(np.float64)
        recipe = self._recipe
        done = np.stack([_spread(_spread(one, size, recipe, 0), size, recipe, 1) for one in maps])
        peaks = done.max(axis=(1, 2), keepdims=True)
        return done / np.where(peaks > 0, peaks, 1)

    def _note(self, name: str, error: float, moved: float = 0.0) -> None:
        # Of a NaN and a number, `max` gives the first, `maximum` the NaN, which never passes.
        self._errors[name] = float(np.maximum(self._errors.get(name, 0.0), error))
        self._moved[name] = max(self._moved.get(name, 0.0), moved)


def _scaled_error(found: Any, expected: Any) -> float:
    if np.shape(found) != np.shape(expected):
        return float("inf")
    return difference(np.asarray(found), np.asarray(expected)).scaled


def _are_best(scores: NDArray[Any], found: NDArray[Any], classes: NDArray[np.int64]) -> bool:
    """Whether these are the highest scores `(n, k)` of `(n, classes)`, in order, and their
    classes."""
    best = -np.sort(-scores, axis=1)[:, : classes.shape[1]]
    rows = np.take_along_axis(scores, classes, axis=1)
    unique = all(len(set(row)) == len(row) for row in classes.tolist())
    return unique and np.allclose(found, best, TOLERANCE) and np.allclose(rows, best, TOLERANCE)


def golden_sample(file: WrittenFile, card: Card, base: Golden, compared: Compared) -> Golden:
    """A golden sample of a finished file: a picture of random bytes, and its outputs.

    The best classes are left out, because rounding may swap two of them; and so is what rounding
    moves far.

    Args:
        base: a golden sample of the model, for its inputs that are no picture.
    """
    facts = card.finished
    assert facts is not None
    old = {item.name: item for item in base.inputs}
    inputs = []
    for info in card.inputs:
        if info.name == facts.image:
            several = len(info.shape) == 4
            shape = (samples_of(info) or 1, *GOLDEN_PICTURE) if several else GOLDEN_PICTURE
            inputs.append(GoldenInput(name=info.name, shape=shape, low=0.0, high=256.0))
        elif info.name == facts.target:
            inputs.append(GoldenInput(name=info.name, shape=(1,), low=-1.0, high=0.0))
        else:
            inputs.append(old[info.name])
    golden = Golden(seed=0, inputs=tuple(inputs), layers={})
    session = file.session()
    names = [value.name for value in session.get_outputs()]
    names = [name for name in names if name not in (facts.top_classes, *compared.unsteady)]
    # onnxruntime takes an empty list for all outputs.
    values = session.run(names, feeds(golden, card.inputs)) if names else []
    layers = {
        name: golden_layer(value)
        for name, value in zip(names, values, strict=True)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and np.isfinite(value).all()
    }
    return replace(golden, layers=layers)
