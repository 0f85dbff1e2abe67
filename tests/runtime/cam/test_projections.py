"""Principal components, beside numpy's SVD and scikit-learn's kernel PCA."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from layertap.cam.projections import POSITIONS, kernel_principal, principal
from layertap.errors import UsageError

Maps = NDArray[np.float64]
SHAPES = [(5, 4, 7), (3, 2, 20), (8, 8, 1), (1, 6, 3)]


def maps(shape: tuple[int, ...], seed: int = 0) -> Maps:
    return np.maximum(np.random.default_rng(seed).normal(size=shape), 0)


def same_but_for_the_sign(found: Maps, expected: Maps) -> None:
    sign = np.sign((found * expected).sum())
    np.testing.assert_allclose(found, sign * expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_principal_component(shape: tuple[int, ...]) -> None:
    values = maps(shape)
    places = values.reshape(-1, shape[-1])
    places = places - places.mean(axis=0)
    _, _, directions = np.linalg.svd(places)
    same_but_for_the_sign(principal(values), (places @ directions[0]).reshape(shape[:-1]))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_component_of_a_kernel_pca(shape: tuple[int, ...]) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    values = maps(shape)
    places = values.reshape(-1, shape[-1])
    reference = decomposition.KernelPCA(n_components=1, kernel="sigmoid")
    expected = reference.fit_transform(places - places.mean(axis=0)).reshape(shape[:-1])
    same_but_for_the_sign(kernel_principal(values), expected)


@pytest.mark.parametrize("project", [principal, kernel_principal])
@pytest.mark.parametrize("shape", SHAPES)
def test_heat_is_where_much_is_active(project: object, shape: tuple[int, ...]) -> None:
    """Whatever sign a decomposition comes out with."""
    assert callable(project)
    for seed in range(5):
        values = maps(shape, seed)
        assert (project(values) * values.sum(axis=-1)).sum() >= 0


@pytest.mark.parametrize("project", [principal, kernel_principal])
def test_maps_without_differences_and_with_nan(project: object) -> None:
    assert callable(project)
    np.testing.assert_allclose(project(np.ones((3, 4, 2))), np.zeros((3, 4)), atol=1e-6)
    values = maps((3, 4, 2))
    values[1, 1, 1] = np.nan
    assert np.isnan(project(values)).all()


def test_more_dimensions_than_two() -> None:
    values = maps((2, 3, 2, 4))
    np.testing.assert_array_equal(
        principal(values).ravel(), principal(values.reshape(-1, 1, 4))[:, 0]
    )


def test_a_kernel_that_would_be_too_large() -> None:
    assert POSITIONS == 64 * 64
    with pytest.raises(UsageError) as caught:
        kernel_principal(np.zeros((65, 64, 2)))
    assert str(caught.value) == (
        "kpcacam compares every position of a map with every other, and takes up to 4096; this "
        "layer has 4160. Take a later layer, or eigencam."
    )
