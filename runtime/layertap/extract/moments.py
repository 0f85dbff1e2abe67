"""Mean and standard deviation of a collection of images, estimated from a sample.

They are the parameters of `Standardize`, for a model that was trained on such images. The sample
does not depend on the machine: the images of a folder are sorted by their relative path (with `/`),
and `random.Random(seed).sample` draws from that list. Each image is read with the size, colour
mode and filter of the recipe, but without a scaling.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from layertap._arguments import count, flag
from layertap.errors import ImageError
from layertap.images.load import ColorMode, Depth, Interpolation
from layertap.images.own_pictures import check_not_own
from layertap.images.preprocessing import PerChannel, Preprocessing, Standardize

from .images import find_images


@dataclass(frozen=True, kw_only=True)
class CollectionStatistics:
    """Mean and standard deviation of the pixels, 0..255, and the images they were computed from."""

    mean: PerChannel
    """Over all pixels and channels, or one number per channel."""
    std: PerChannel
    """Population standard deviation (divided by n), over all channels or per channel."""
    files: tuple[str, ...]
    """The images that were measured, in the order of their paths."""
    failures: Mapping[str, str]
    """The images of the sample that could not be read, with the error messages."""
    available: int
    """Number of images in the collection, from which the sample was drawn."""
    recipe: Preprocessing
    """The recipe with which the images were read; it has no scaling."""

    @property
    def count(self) -> int:
        """Number of images that were measured."""
        return len(self.files)

    def preprocessing(self) -> Preprocessing:
        """The same recipe, with a scaling that standardizes images by these statistics.

        Raises:
            PreprocessingError: a standard deviation is 0, because all pixels are equal.
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
    shorter_side: int | None = None,
    depth: Depth = "clip",
    per_channel: bool = False,
) -> CollectionStatistics:
    """Mean and standard deviation of a seeded sample of a collection, in float64 and in one pass.

    Args:
        images: A folder, or paths of images and folders, in any order.
        size: (height, width) to which the images are resized. With `None`, each image keeps its
            size; every pixel has the same weight, so larger images have more influence.
        sample: The number of images to draw. `None`, or a larger number than there are, selects
            all images.
        seed: The seed of the sample.
        color_mode: As in `load_image`.
        interpolation: As in `load_image`.
        keep_aspect_ratio: As in `load_image`.
        shorter_side: As in `load_image`.
        depth: As in `load_image`.
        per_channel: Compute one mean and one deviation per channel, instead of one for all.

    Raises:
        ImageError: there are no images, or none can be read.
        PreprocessingError: an option for reading the images has an invalid value.
        UsageError: `sample` is less than 1.
    """
    sample = None if sample is None else count("sample", sample)
    per_channel = flag("per_channel", per_channel)
    recipe = Preprocessing(
        size=size,
        color_mode=color_mode,
        interpolation=interpolation,
        keep_aspect_ratio=keep_aspect_ratio,
        shorter_side=shorter_side,
        depth=depth,
    )
    found = find_images(images)
    drawn = found
    if sample is not None and sample < len(found):
        drawn = [found[i] for i in sorted(random.Random(seed).sample(range(len(found)), sample))]
    moments = _Moments(channels=recipe.channel_count if per_channel else 1)
    files: list[str] = []
    failures: dict[str, str] = {}
    for file in drawn:
        try:
            check_not_own(file)
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
    """Mean and standard deviation, updated image by image.

    Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm for computing
    sample variances": two sets of values are merged by their counts, means and sums of squared
    deviations. This is accurate even if the mean is large and the deviation is small.
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
