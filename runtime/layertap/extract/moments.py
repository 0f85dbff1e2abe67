"""Mean and standard deviation over a sample of a collection of images.

They are what `Standardize` needs, for a model that was trained on such images. The sample is the
same on every machine: the images of a folder are sorted by their path relative to it (with `/`),
and `random.Random(seed).sample` draws from that list. Each image is read as the model will read it
(size, colour mode, filter), without a scaling.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from layertap.errors import ImageError, UsageError
from layertap.images.load import ColorMode, Depth, Interpolation
from layertap.images.preprocessing import PerChannel, Preprocessing, Standardize

from .images import find_images


@dataclass(frozen=True, kw_only=True)
class CollectionStatistics:
    """Mean and standard deviation of the pixels, 0..255, and how they came about."""

    mean: PerChannel
    """Over all pixels and channels, or one per channel."""
    std: PerChannel
    """Population standard deviation (divided by n), over the same."""
    files: tuple[str, ...]
    """The images that count, in the order of their paths."""
    failures: Mapping[str, str]
    """Images of the sample that could not be read, and why; they do not count."""
    available: int
    """How many images the collection has; the sample was drawn from these."""
    recipe: Preprocessing
    """How the images were read; without a scaling."""

    @property
    def count(self) -> int:
        """How many images count."""
        return len(self.files)

    def preprocessing(self) -> Preprocessing:
        """The recipe that reads images in the same way and standardizes them by these numbers.

        Raises:
            PreprocessingError: the standard deviation is 0, all pixels being alike.
        """
        return replace(self.recipe, scaling=Standardize(mean=self.mean, std=self.std))


def collection_statistics(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    size: tuple[int, int] | None,
    sample: int | None = 100,
    seed: int = 0,
    color_mode: ColorMode = "rgb",
    interpolation: Interpolation = "nearest",
    keep_aspect_ratio: bool = False,
    depth: Depth = "clip",
    per_channel: bool = False,
) -> CollectionStatistics:
    """Mean and standard deviation over a seeded sample of a collection, in float64 and one pass.

    Args:
        images: A folder, or paths of images and folders; their order does not matter.
        size: (height, width) to read the images at; `None` for their own, where every pixel
            counts the same, so that big images count for more.
        sample: How many images to draw; `None`, or more than there are, takes all.
        seed: Decides which.
        color_mode, interpolation, keep_aspect_ratio, depth: As in `load_image`.
        per_channel: One mean and deviation for each channel, instead of one for all.

    Raises:
        ImageError: there is no image, or none that can be read.
        PreprocessingError: an option of the reading makes no sense.
        UsageError: `sample` is less than 1.
    """
    if sample is not None and sample < 1:
        raise UsageError(f"the sample is {sample} images, but it must be at least 1.")
    recipe = Preprocessing(
        size=size,
        color_mode=color_mode,
        interpolation=interpolation,
        keep_aspect_ratio=keep_aspect_ratio,
        depth=depth,
    )
    found = find_images(images)
    chosen = found
    if sample is not None and sample < len(found):
        chosen = [found[i] for i in sorted(random.Random(seed).sample(range(len(found)), sample))]
    moments = _Moments(channels=recipe.channels if per_channel else 1)
    files: list[str] = []
    failures: dict[str, str] = {}
    for file in chosen:
        try:
            moments.add(recipe(file))
        except ImageError as exc:
            failures[file] = str(exc)
        else:
            files.append(file)
    if not files:
        first = next(iter(failures.values()))
        raise ImageError(f"none of the {len(failures)} images of the sample can be read: {first}")
    mean, std = moments.mean.tolist(), moments.std.tolist()
    return CollectionStatistics(
        mean=tuple(mean) if per_channel else mean[0],
        std=tuple(std) if per_channel else std[0],
        files=tuple(files),
        failures=failures,
        available=len(found),
        recipe=recipe,
    )


class _Moments:
    """Mean and deviation of values that come in parts.

    Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm for computing
    sample variances": parts are merged by their counts, means and sums of squared deviations,
    which loses nothing where the mean is large and the deviation small.
    """

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._squares = np.zeros(channels)
        self.mean: npt.NDArray[np.float64] = np.zeros(channels)

    def add(self, pixels: npt.NDArray[np.float32]) -> None:
        values = pixels.astype(np.float64).reshape(-1, len(self.mean))
        count, mean = len(values), values.mean(axis=0)
        squares = np.square(values - mean).sum(axis=0)
        total = self._count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self._squares += squares + np.square(delta) * (self._count * count / total)
        self._count = total

    @property
    def std(self) -> npt.NDArray[np.float64]:
        deviation: npt.NDArray[np.float64] = np.sqrt(self._squares / self._count)
        return deviation
