"""Projections of feature maps onto one principal component.

A principal component has no sign of its own. Here it has the one with which the projection goes
along with the sum over the channels: where much is active, the heat is high.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from layertap.errors import UsageError

Maps = npt.NDArray[np.float64]

POSITIONS = 4096
"""Largest number of positions for a kernel matrix, which then takes 128 MiB."""


def principal(maps: Maps) -> Maps:
    """The projection of each position onto the first principal component of all positions.

    The channels are centred first: `X = maps - mean over the positions`. The projection is `X v`,
    where `v` is the first right singular vector of `X`, as a matrix of positions by channels.

    Args:
        maps: `(h, w, c)`.

    Returns:
        `(h, w)`.
    """
    positions = _centred(maps)
    if not np.isfinite(positions).all():  # a NaN in the network stays one in the map
        return np.full(maps.shape[:-1], np.nan)
    if len(positions) < positions.shape[1]:  # X v = s u, and the smaller matrix has the same s
        values, vectors = np.linalg.eigh(positions @ positions.T)
        projection = vectors[:, -1] * np.sqrt(max(values[-1], 0.0))
    else:
        _, vectors = np.linalg.eigh(positions.T @ positions)
        projection = positions @ vectors[:, -1]
    return _signed(projection, maps)


def kernel_principal(maps: Maps) -> Maps:
    """The projection of each position onto the first component of a kernel PCA.

    The kernel is the sigmoid `k(x, y) = tanh(x . y / c + 1)` between the centred channels of two
    positions, centred in its feature space (Schölkopf, Smola and Müller 1997: Kernel Principal
    Component Analysis); the projection is `sqrt(l) u` for its largest eigenvalue `l`.

    Args:
        maps: `(h, w, c)`.

    Returns:
        `(h, w)`.

    Raises:
        UsageError: more than `POSITIONS` positions.
    """
    positions = _centred(maps)
    if len(positions) > POSITIONS:
        raise UsageError(
            f"kpcacam compares every position of a map with every other, and takes up to "
            f"{POSITIONS}; this layer has {len(positions)}. Take a later layer, or eigencam."
        )
    if not np.isfinite(positions).all():
        return np.full(maps.shape[:-1], np.nan)
    kernel = np.tanh(positions @ positions.T / positions.shape[1] + 1)
    kernel += kernel.mean() - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None]
    values, vectors = np.linalg.eigh(kernel)
    return _signed(vectors[:, -1] * np.sqrt(max(values[-1], 0.0)), maps)


def _centred(maps: Maps) -> Maps:
    positions = maps.reshape(-1, maps.shape[-1])
    centred: Maps = positions - positions.mean(axis=0)
    return centred


def _signed(projection: Maps, maps: Maps) -> Maps:
    along = projection @ maps.sum(axis=-1).ravel()
    return (projection if along >= 0 else -projection).reshape(maps.shape[:-1])
