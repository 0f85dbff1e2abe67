"""Random masks of low resolution, enlarged and shifted at random: those of RISE."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from . import upsampling

Masks = npt.NDArray[np.float32]

TOGETHER = 1 << 22
"""Values of masks that are in memory at the same time."""


class RandomMasks:
    """Masks over some positions, with values of 0 to 1 and a mean of `keep` at every position."""

    def __init__(
        self,
        size: Sequence[int],
        cells: Sequence[int],
        count: int,
        keep: float,
        seed: Sequence[int],
        *,
        smooth: bool,
    ) -> None:
        """Draw the masks.

        Petsiuk et al. 2018, section 3.2: a grid of `cells`, each 1 with the probability `keep` and
        otherwise 0, is enlarged bilinearly to one cell more than the image takes, and an image is
        cut out of that at a random place. A cell of one position is not enlarged.

        Args:
            size: the numbers of positions.
            cells: the numbers of cells along the same axes.
            smooth: whether to interpolate between cells. Otherwise all values are 0 or 1.
        """
        generator = np.random.default_rng(seed)
        self.size = tuple(size)
        self._grids = (generator.random((count, *cells)) < keep).astype(np.float32)
        sides = [math.ceil(one / few) for one, few in zip(size, cells, strict=True)]
        self._wide = [_enlarged(few, side, smooth) for few, side in zip(cells, sides, strict=True)]
        self._starts = generator.integers(0, sides, (count, len(sides)))

    def __len__(self) -> int:
        return len(self._grids)

    def __getitem__(self, index: int) -> Masks:
        """One mask, of the positions' size."""
        mask: Masks = self._grids[index]
        for axis, (wide, start) in enumerate(zip(self._wide, self._starts[index], strict=True)):
            mask = np.moveaxis(
                np.tensordot(wide[start : start + self.size[axis]], mask, (1, axis)), 0, axis
            )
        return mask

    def weighted(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The sum of all masks, for each column of weights.

        Args:
            weights: `(masks, columns)`.

        Returns:
            `(columns, *size)`.
        """
        total = np.zeros((weights.shape[1], math.prod(self.size)))
        for part in self._parts():
            masks = np.stack([self[index].ravel() for index in part])
            total += weights[part.start : part.stop].T @ masks.astype(np.float64)
        return total.reshape(-1, *self.size)

    def _parts(self) -> Iterator[range]:
        step = max(1, TOGETHER // max(1, math.prod(self.size)))
        for start in range(0, len(self), step):
            yield range(start, min(start + step, len(self)))


def _enlarged(cells: int, side: int, smooth: bool) -> npt.NDArray[np.float32]:
    """The matrix from cells to the positions of one cell more, `(positions, cells)`."""
    if side == 1:
        return np.eye(cells, dtype=np.float32)
    if smooth:
        wide = upsampling.resize(np.eye(cells), ((cells + 1) * side,)).astype(np.float64)
    else:  # the cell before the first is the first once more
        wide = np.eye(cells)[:, [0, *range(cells)]].repeat(side, axis=1)
    return np.ascontiguousarray(wide.T.astype(np.float32))
