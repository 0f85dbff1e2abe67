"""The methods that need no gradient: the network's scores with parts of a tensor masked.

Each says which positions are kept in every try, and how a map is made of the scores. What a mask
removes is replaced by a baseline. The positions are those of a layer or of an input: all axes but
those of samples and channels. `x` is the tensor, `b` the baseline and `f` the score of the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from layertap._arguments import count, number
from layertap.errors import UsageError

from . import shapley, windows
from .random_masks import RandomMasks

Maps = npt.NDArray[np.float64]

Sizes = Mapping[str, tuple[int, ...]]
"""The positions of each tensor that is masked, by name."""

METHODS = ("occlusion", "rise", "reciprocam", "kernelshap")


class Options(NamedTuple):
    """What a caller says about a method; `None` for the default."""

    window: Any = None
    stride: Any = None
    samples: Any = None
    cells: Any = None
    keep: Any = None
    seed: int = 0

    def unused(self, method: str) -> str | None:
        """The first option that is given although the method does not take it."""
        given = [name for name, value in self._asdict().items() if value is not None]
        return next((name for name in given if name not in (*TAKES.get(method, ()), "seed")), None)


DEFAULTS = Options()

TAKES: Mapping[str, Collection[str]] = {
    "occlusion": ("window", "stride"),
    "rise": ("samples", "cells", "keep"),
    "reciprocam": (),
    "kernelshap": ("window", "samples"),
}
"""The options of each method."""


def not_for(option: str, method: str) -> str:
    """The message about an option that a method does not take."""
    known = [name for name, options in TAKES.items() if option in options]
    known = known or list(METHODS)
    return f"{option} is for the methods {', '.join(known)}, got {method}."


class Masking(NamedTuple):
    """One method for some tensors."""

    tries: int
    """Their number."""
    keep: Callable[[int], Mapping[str, npt.NDArray[Any]]]
    """For a try, the share of each position that is kept, 0 to 1 or booleans, by tensor. Tensors
    that are missing stay as they are."""
    read: Callable[[Maps, Maps], dict[str, Maps]]
    """From the scores of the tries `(tries, targets)` and the unchanged score `(targets,)` to maps
    `(targets, *positions)`, by tensor."""


def occlusion(sizes: Sizes, options: Options, single: Collection[str] = ()) -> Masking:
    """`f(x) - f(x without a window)`, the mean over all windows that a position is in.

    A window of the size `window` moves over the positions by `stride`, and what is in it is
    replaced by the baseline. A map of positive values: the score falls without them.

    Zeiler and Fergus 2014: Visualizing and Understanding Convolutional Networks.
    https://arxiv.org/abs/1311.2901. The paper shows the score itself, at the window's centre, for a
    grey square.
    """
    boxes: list[tuple[str, windows.Box]] = []
    for name, size in sizes.items():
        window = _window(name, size, options, name in single)
        stride = windows.of_size(
            "stride",
            options.stride,
            name,
            size,
            default=[max(1, one // 2) for one in window],
            most=window,
        )
        boxes += [(name, box) for box in windows.sliding(size, window, stride)]

    def keep(index: int) -> dict[str, npt.NDArray[Any]]:
        name, box = boxes[index]
        kept = np.ones(sizes[name], bool)
        kept[box] = False
        return {name: kept}

    def read(scores: Maps, whole: Maps) -> dict[str, Maps]:
        found = {name: np.zeros((scores.shape[1], *size)) for name, size in sizes.items()}
        covered = {name: np.zeros(size) for name, size in sizes.items()}
        for (name, box), drop in zip(boxes, whole - scores, strict=True):
            inside = (slice(None), *box)
            found[name][inside] += drop.reshape(-1, *(1,) * len(box))
            covered[name][box] += 1
        return {name: total / covered[name] for name, total in found.items()}

    return Masking(len(boxes), keep, read)


def rise(sizes: Sizes, options: Options, single: Collection[str] = ()) -> Masking:
    """`sum(f(x M_i + b (1 - M_i)) M_i) / (N p)` over `N` random masks `M_i`, see `random_masks`.

    `f` is the output itself, such as a probability, as in the paper: the masks are weighted by it.
    `p` is the probability `keep`, 0.5, with which a cell of the `cells` of a mask, 7 along each
    axis, is kept; `N` is `samples`, 1,000. The baseline is 0 in the paper. Laid at a layer, the
    masks are those of the layer's size, and only what follows the layer is run again.

    Petsiuk, Das and Saenko 2018: RISE: Randomized Input Sampling for Explanation of Black-box
    Models. https://arxiv.org/abs/1806.07421
    """
    tries = count("samples", 1000 if options.samples is None else options.samples)
    share = number("keep", 0.5 if options.keep is None else options.keep)
    if not 0 < share < 1:
        raise UsageError(f"keep must be a probability between 0 and 1, got {share:g}.")
    masks: dict[str, RandomMasks] = {}
    for at, (name, size) in enumerate(sizes.items()):
        default = size if name in single else [min(CELLS, one) for one in size]
        cells = windows.of_size("cells", options.cells, name, size, default=default, most=size)
        seed = [options.seed, at]
        masks[name] = RandomMasks(size, cells, tries, share, seed, smooth=name not in single)
    names = list(sizes)

    def keep(index: int) -> dict[str, npt.NDArray[Any]]:
        name = names[index // tries]
        mask = masks[name][index % tries]
        return {name: mask > 0.5 if name in single else mask}

    def read(scores: Maps, _: Maps) -> dict[str, Maps]:
        return {
            name: masks[name].weighted(scores[at * tries : (at + 1) * tries]) / (tries * share)
            for at, name in enumerate(names)
        }

    return Masking(tries * len(names), keep, read)


CELLS = 7
"""Cells of a mask along an axis, as in the paper for images of 224 x 224."""


def reciprocam(sizes: Sizes, options: Options, single: Collection[str] = ()) -> Masking:
    """`f(x at this position alone)`: everything else is replaced by the baseline, 0 in the paper.

    `f` is the output itself, such as a probability. The layer has one try for each position.

    Byun and Lee 2022: Recipro-CAM: Fast Gradient-Free Visual Explanations for Convolutional Neural
    Networks. https://arxiv.org/abs/2209.14074. Its map is `(f - min f) / (max f - min f)`, which is
    what `Model.cam` makes of this one before it is resized.
    """
    ((name, size),) = sizes.items()

    def keep(index: int) -> dict[str, npt.NDArray[Any]]:
        kept = np.zeros(math.prod(size), bool)
        kept[index] = True
        return {name: kept.reshape(size)}

    def read(scores: Maps, _: Maps) -> dict[str, Maps]:
        return {name: scores.T.reshape(-1, *size)}

    return Masking(math.prod(size), keep, read)


def kernelshap(sizes: Sizes, options: Options, single: Collection[str] = ()) -> Masking:
    """The Shapley values of patches, columns or tokens, which add up to `f(x) - f(b)`.

    The players are the patches of the size `window` that lie side by side, of all tensors together;
    a player that is not in a coalition is replaced by the baseline. See `shapley` for the
    coalitions: all of them if `samples` allows it, and then the values are exact. The value of a
    player is divided evenly among its positions.

    Lundberg and Lee 2017: A Unified Approach to Interpreting Model Predictions.
    https://arxiv.org/abs/1705.07874
    """
    players, labels = 0, {}
    for name, size in sizes.items():
        window = _window(name, size, options, name in single)
        labels[name] = windows.patches(size, window) + players
        players = int(labels[name].max()) + 1
    samples = None if options.samples is None else count("samples", options.samples)
    chosen = shapley.coalitions(players, samples, options.seed)
    rows = np.concatenate([np.zeros((1, players), bool), chosen.members])
    positions = sum(np.bincount(one.ravel(), minlength=players) for one in labels.values())

    def keep(index: int) -> dict[str, npt.NDArray[Any]]:
        return {name: rows[index][label] for name, label in labels.items()}

    def read(scores: Maps, whole: Maps) -> dict[str, Maps]:
        found = shapley.values(chosen, scores[1:], scores[0], whole)
        each = (found / np.reshape(positions, (-1, 1))).T
        return {name: each[:, label] for name, label in labels.items()}

    return Masking(len(rows), keep, read)


def _window(name: str, size: tuple[int, ...], options: Options, single: bool) -> tuple[int, ...]:
    default = windows.default_window(size, single=single)
    return windows.of_size("window", options.window, name, size, default=default, most=size)
