"""Quality of heat maps, measured by the model's output for changed images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from layertap._arguments import array, count
from layertap._engine.program import HasProgram, Program, program_of
from layertap.errors import InputError

from . import targets
from .axes import as_fed, channels_last, copies
from .baselines import baseline_of
from .places import At
from .scores import choose_output, classes_last, resolve_target
from .targets import Array, Target

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe

Baseline = "float | str | npt.ArrayLike"
"""What replaces removed pixels: a number or an array that fits the image, in the units of the
model's input; or `"zero"`, `"mean"`, the mean of each channel, or `"blur"`, the blurred image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The target's score while pixels are removed or inserted."""

    fractions: npt.NDArray[np.float64]
    """`(steps + 1,)`: the fraction of the pixels that is changed, 0 to 1."""
    scores: npt.NDArray[np.float32]
    """`(n, targets, steps + 1)`: the model's output for the target."""

    @property
    def auc(self) -> npt.NDArray[np.float64]:
        """`(n, targets)`: the area under the curve, by the trapezoidal rule."""
        heights = (self.scores[..., 1:] + self.scores[..., :-1]).astype(np.float64) / 2
        area: npt.NDArray[np.float64] = (heights * np.diff(self.fractions)).sum(axis=-1)
        return area


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """The target's score for the image, and for the image times its map."""

    before: npt.NDArray[np.float32]
    """`(n, targets)`: of the image."""
    after: npt.NDArray[np.float32]
    """`(n, targets)`: of the image times the map."""

    @property
    def average_drop(self) -> float:
        """Mean loss of score in percent: `max(0, before - after) / before`.

        It is 0 for an image with a score of 0 or less.
        """
        lost = np.maximum(0, self.before.astype(np.float64) - self.after)
        share = np.divide(lost, self.before, out=np.zeros_like(lost), where=self.before > 0)
        return float(100 * share.mean())

    @property
    def increase(self) -> float:
        """Percent of the images with a higher score after multiplication by the map."""
        return float(100 * (self.after > self.before).mean())


def deletion(
    model: HasProgram,
    inputs: Any,
    maps: npt.ArrayLike,
    target: Target = targets.TOP,
    *,
    steps: int = 50,
    baseline: Any = 0.0,
    batch_size: int = 32,
    output: str | None = None,
    preprocess: Recipe | None = None,
    at: At | None = None,
) -> Curve:
    """Remove pixels, those with the largest map values first: for a good map the score falls fast.

    Petsiuk, Das and Saenko 2018: RISE: Randomized Input Sampling for Explanation of Black-box
    Models. https://arxiv.org/abs/1806.07421. The paper sets pixels to 0 (as here, in the units of
    the model's input), as many per step as the image has columns.

    Args:
        model: a `layertap.Model`.
        inputs: as in `Model.activations`.
        maps: `(h, w)` or `(n, targets, h, w)`, as returned by `Model.cam`, of the image's size.
        target: the target of the maps, see `Model.cam`.
        steps: number of steps.
        baseline: the new value of pixels: a number, an array that fits the image, `"zero"`,
            `"mean"` or `"blur"`.
        batch_size: number of changed images per run.
        output: name of the output that contains the classes, if the model has several.
        preprocess: a recipe for images instead of the card's.
        at: the positions of the scores, see `Model.cam`.

    Raises:
        InputError: maps or a baseline that do not fit the images.
        UsageError: invalid target.
    """
    steps = count("steps", steps)
    trial = _Trial(
        program_of(model), inputs, maps, target, baseline, batch_size, output, preprocess, at
    )
    return trial.curve(steps, trial.images, trial.baseline)


def insertion(
    model: HasProgram,
    inputs: Any,
    maps: npt.ArrayLike,
    target: Target = targets.TOP,
    *,
    steps: int = 50,
    baseline: Any = "blur",
    batch_size: int = 32,
    output: str | None = None,
    preprocess: Recipe | None = None,
    at: At | None = None,
) -> Curve:
    """Insert pixels, those with the largest map values first: for a good map the score rises fast.

    The counterpart of `deletion`, from the same paper and with the same arguments. It starts from
    `baseline`; the paper uses the blurred image.
    """
    steps = count("steps", steps)
    trial = _Trial(
        program_of(model), inputs, maps, target, baseline, batch_size, output, preprocess, at
    )
    return trial.curve(steps, trial.baseline, trial.images)


def confidence(
    model: HasProgram,
    inputs: Any,
    maps: npt.ArrayLike,
    target: Target = targets.TOP,
    *,
    baseline: Any = 0.0,
    batch_size: int = 32,
    output: str | None = None,
    preprocess: Recipe | None = None,
    at: At | None = None,
) -> Confidence:
    """The target's score for the image, and for the image times the map.

    Chattopadhay et al. 2018: Grad-CAM++: Improved Visual Explanations for Deep Convolutional
    Networks. https://arxiv.org/abs/1710.11063, with its *average drop* and *increase in
    confidence*.

    Args:
        maps: see `deletion`; values from 0 to 1.
        baseline: what replaces the image where the map is 0: `map * image + (1 - map) *
            baseline`; 0 in the paper.

    Raises:
        InputError: maps or a baseline that do not fit the images.
        UsageError: invalid target.
    """
    trial = _Trial(
        program_of(model), inputs, maps, target, baseline, batch_size, output, preprocess, at
    )

    def kept(sample: int, at: int) -> Iterator[Array]:
        share = trial.maps[sample, at][..., None].astype(np.float64)
        yield share * trial.images[sample] + (1 - share) * trial.baseline[sample]

    return Confidence(before=trial.before, after=trial.scores(kept, 1)[..., 0])


class _Trial:
    """A batch of images, with the model's output for them and for changed images."""

    def __init__(
        self,
        program: Program,
        inputs: Any,
        maps: npt.ArrayLike,
        target: Target,
        baseline: Any,
        batch_size: int,
        output: str | None,
        preprocess: Recipe | None,
        at: At | None,
    ) -> None:
        batch_size = count("batch_size", batch_size)
        self._program, self._batch_size = program, batch_size
        self._output = choose_output(program, output)
        self._fetch = program.fetch([self._output])
        self._feeds = program.prepare_arrays(self._fetch.plan.needs, inputs, preprocess)
        given = array("maps", maps).astype(np.float32)
        self._name = self._image(given)
        self.images: Array = channels_last(program, self._name, self._feeds[self._name])
        """`(n, h, w, c)`."""
        outputs = self._said(self._feeds)
        found = self._targets = resolve_target(program, self._output, target, outputs, at)
        self._offsets = found.offsets
        self._weights = found.weights.astype(np.float64)
        self.before = found.scores(found.read(outputs))
        """`(n, targets)`."""
        self.maps = self._fitted(given)
        """`(n, targets, h, w)`."""
        axes = "N" + "?" * (self.images.ndim - 2) + "C"
        self.baseline = baseline_of(baseline, self._name, self.images, axes)
        """`(n, h, w, c)`."""

    def _said(self, feeds: Mapping[str, Any]) -> Array:
        """The model's output, `(n, ..., classes)`."""
        return classes_last(self._program, self._output, self._fetch(feeds)[self._output])

    def curve(self, steps: int, before: Array, after: Array) -> Curve:
        """The curve from `before` to `after`, `(n, h, w, c)`: pixels change in the maps' order."""
        positions = self.maps[0, 0].size
        counts = np.round(np.linspace(0, positions, steps + 1)).astype(int)

        def changed(sample: int, at: int) -> Iterator[Array]:
            order = np.argsort(-self.maps[sample, at].ravel(), kind="stable")
            flat = before[sample].reshape(positions, -1).copy()
            done = 0
            for until in counts:
                chosen = order[done:until]
                flat[chosen] = after[sample].reshape(positions, -1)[chosen]
                done = until
                yield flat.reshape(before.shape[1:]).copy()

        return Curve(fractions=counts / positions, scores=self.scores(changed, steps + 1))

    def scores(
        self, changed: Callable[[int, int], Iterator[Array]], count: int
    ) -> npt.NDArray[np.float32]:
        """The output for `count` changed images, for each image and target.

        Args:
            changed: yields the changed images, `(h, w, c)`, of an image and a target.

        Returns:
            `(n, targets, count)`.
        """
        found = np.empty((*self.before.shape, count), np.float32)
        for sample, at in np.ndindex(*self.before.shape):
            images, start = changed(sample, at), 0
            while start < count:
                batch = np.stack(
                    [next(images) for _ in range(min(self._batch_size, count - start))]
                )
                said = self._targets.read(self._said(self._batch(batch, sample)))
                found[sample, at, start : start + len(batch)] = (
                    said @ self._weights[sample, at] + self._offsets[sample, at]
                )
                start += len(batch)
        return found

    def _batch(self, images: Array, sample: int) -> dict[str, Any]:
        """Changed images, with the other inputs of the sample that they are made from."""
        others = {name: value for name, value in self._feeds.items() if name != self._name}
        feeds = copies(self._program, others, sample, len(self.images), len(images))
        return {
            **feeds,
            self._name: as_fed(self._program, self._name, images.astype(self.images.dtype)),
        }

    def _image(self, maps: Array) -> str:
        rank = maps.ndim if maps.ndim <= 3 else maps.ndim - 2
        names = [name for name, value in self._feeds.items() if np.ndim(value) == rank + 2]
        if not names:
            raise InputError(
                f"maps of shape {maps.shape} do not fit any input: "
                + ", ".join(f"{name!r} {np.shape(value)}" for name, value in self._feeds.items())
            )
        return names[0]

    def _fitted(self, maps: Array) -> npt.NDArray[np.float32]:
        shape = (*self.before.shape, *self.images.shape[1:-1])
        if maps.shape == shape[2:] and shape[:2] == (1, 1):
            return maps[None, None]
        if maps.shape != shape:
            raise InputError(
                f"the maps have shape {maps.shape}, expected {shape}: one map of the image's size "
                "for each image and target, as returned by Model.cam."
            )
        return maps
