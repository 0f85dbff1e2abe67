"""Runs the tries of a masking, and makes the maps of its scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .masking import Maps, Masking
from .perturbing import Perturbation
from .targets import Array, Targets


class Masked:
    """The maps of a batch by one masking."""

    def __init__(
        self,
        tries: Perturbation,
        masking: Masking,
        fillings: Mapping[str, Callable[[int], Array]],
        targets: Targets,
        batch_size: int,
        places: npt.NDArray[np.intp] | None = None,
    ) -> None:
        """
        Args:
            tries: the network with the tensors that are masked.
            masking: the method.
            fillings: for each tensor a function from a sample to what replaces masked positions,
                `(rows, h, w, c)`; with several rows, each mask is tried with all of them, and the
                scores are averaged.
            targets: what the maps explain.
            batch_size: number of masked copies per run.
            places: for the only tensor, where the elements of the masked positions `(h, w, c)` are
                in the flat values of a sample; `None` if they are the values.
        """
        self._tries, self._masking = tries, masking
        self._fillings, self._targets = fillings, targets
        self._batch_size, self._places = batch_size, places

    def maps(self, sample: int) -> dict[str, Maps]:
        """The maps of one sample, `(targets, h, w)`, by tensor."""
        weights = self._targets.weights[sample].astype(np.float64)
        offsets = self._targets.offsets[sample].astype(np.float64)
        fillings = {tensor: filling(sample) for tensor, filling in self._fillings.items()}
        rows = max(len(filling) for filling in fillings.values())

        def change(wholes: Mapping[str, Array], index: int) -> dict[str, Array]:
            kept = self._masking.keep(index // rows)
            return {
                tensor: self._mixed(wholes[tensor], fillings[tensor][index % rows], keep)
                for tensor, keep in kept.items()
            }

        with np.errstate(all="ignore"):  # NaN and infinity come out as they are
            numbers = range(self._masking.tries * rows)
            scores = self._tries.scores(sample, numbers, change, self._batch_size, self._targets)
            means = scores.reshape(self._masking.tries, rows, -1).mean(axis=1)
            whole = weights @ self._targets.read(self._tries.whole[[sample]])[0]
            return self._masking.read(means + offsets, whole + offsets)

    def _mixed(self, whole: Array, filling: Array, keep: Array) -> Array:
        if self._places is None:
            return mixed(whole, filling, keep)
        flat = whole.ravel().copy()
        flat[self._places] = mixed(flat[self._places], filling.ravel()[self._places], keep)
        changed: Array = flat.reshape(whole.shape)
        return changed


def mixed(whole: Array, filling: Array, keep: Array) -> Array:
    """The kept part of the values, and the filling for the rest.

    Args:
        whole: `(h, w, c)`, or `(columns,)`.
        filling: of the same shape.
        keep: `(h, w)`, or `(columns,)`: shares of 0 to 1, or booleans.
    """
    share = keep.reshape(keep.shape + (1,) * (whole.ndim - keep.ndim))
    if keep.dtype == bool:
        return np.where(share, whole, filling)
    found: Any = whole * share + filling * (1 - share)
    return np.asarray(found)
