"""The formulas, beside plain loops over channels and places in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from layertap.cam import METHODS as ALL_METHODS
from layertap.cam.methods import ablationcam, find_method, gradcam_plus_plus, scorecam
from layertap.errors import UsageError

METHODS = {name: method for name, method in ALL_METHODS.items() if not method.of_attention}
"""Those of one layer."""

Maps = NDArray[np.float64]
HEIGHT, WIDTH, CHANNELS = 4, 3, 6
PLACES = [(i, j) for i in range(HEIGHT) for j in range(WIDTH)]


def sample(seed: int = 0, rectified: bool = True) -> tuple[Maps, Maps]:
    """Activations, half of them 0 as after a ReLU, and a gradient."""
    generator = np.random.default_rng(seed)
    activations, gradient = generator.normal(size=(2, HEIGHT, WIDTH, CHANNELS))
    gradient[generator.random(gradient.shape) < 0.2] = 0
    return (np.maximum(activations, 0) if rectified else activations), gradient


# --- The definitions, written out ---------------------------------------------------------------


def by_channel(weight: Callable[[Maps, Maps], float]) -> Callable[[Maps, Maps], Maps]:
    """The sum over the channels of their maps, each times one weight."""

    def compute(activations: Maps, gradient: Maps) -> Maps:
        total = np.zeros((HEIGHT, WIDTH))
        for k in range(CHANNELS):
            total += weight(activations[..., k], gradient[..., k]) * activations[..., k]
        return total

    return compute


def by_place(value: Callable[[float, float], float]) -> Callable[[Maps, Maps], Maps]:
    """The sum over the channels of something that is computed place by place."""

    def compute(activations: Maps, gradient: Maps) -> Maps:
        total = np.zeros((HEIGHT, WIDTH))
        for i, j in PLACES:
            for k in range(CHANNELS):
                total[i, j] += value(float(activations[i, j, k]), float(gradient[i, j, k]))
        return total

    return compute


def mean_gradient(_: Maps, gradient: Maps) -> float:
    return sum(float(gradient[place]) for place in PLACES) / len(PLACES)


def plus_plus(activation: Maps, gradient: Maps) -> float:
    total, weight = float(activation.sum()), 0.0
    for place in PLACES:
        slope = float(gradient[place])
        if slope:
            share = slope**2 / (2 * slope**2 + total * slope**3)
            weight += share * max(slope, 0.0)
    return weight


def axiom_based(activation: Maps, gradient: Maps) -> float:
    total = float(activation.sum())
    return sum(float(gradient[p] * activation[p]) for p in PLACES) / total if total else 0.0


DEFINITIONS = {
    "gradcam": by_channel(mean_gradient),
    "gradcam++": by_channel(plus_plus),
    "xgradcam": by_channel(axiom_based),
    "layercam": by_place(lambda a, g: max(g, 0.0) * a),
    "hirescam": by_place(lambda a, g: g * a),
    "gradcamelementwise": by_place(lambda a, g: max(g * a, 0.0)),
}


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_methods_that_take_gradients(name: str, rectified: bool) -> None:
    activations, gradient = sample(1, rectified)
    weighted = METHODS[name].compute(activations, gradient)
    assert weighted.shape == activations.shape
    expected = DEFINITIONS[name](activations, gradient)
    np.testing.assert_allclose(weighted.sum(axis=-1), expected, rtol=1e-9, atol=1e-12)


def test_there_is_a_definition_of_each_method_that_takes_gradients() -> None:
    named = {name for name, method in METHODS.items() if method.takes == "gradients"}
    assert named - {"eigengradcam"} == DEFINITIONS.keys()


def test_eigengradcam_is_the_principal_component_of_the_products() -> None:
    activations, gradient = sample(2)
    expected = METHODS["eigencam"].compute(gradient * activations)
    np.testing.assert_array_equal(METHODS["eigengradcam"].compute(activations, gradient), expected)


@pytest.mark.parametrize(
    "name", [n for n, method in METHODS.items() if method.takes == "gradients"]
)
@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_the_scale_of_the_gradient_is_only_one_of_the_map(name: str, scale: float) -> None:
    """Not so with Grad-CAM++, of which the third power of the gradient is part."""
    activations, gradient = sample(3)
    whole = METHODS[name].compute(activations, gradient)
    scaled = METHODS[name].compute(activations, gradient * scale)
    if name == "gradcam++":
        assert np.abs(scaled).max() > 0
        return
    np.testing.assert_allclose(scaled / scale, whole, rtol=1e-6, atol=1e-9)


def test_small_gradients_do_not_vanish_in_gradcam_plus_plus() -> None:
    """Where G is next to nothing, `G^2 / (2 G^2 + ...)` is a half: no constant may drown it."""
    activations, gradient = sample(4)
    weighted = gradcam_plus_plus(activations, gradient * 1e-30)
    limit = activations * (np.maximum(gradient, 0) * 1e-30 / 2).sum(axis=(0, 1))
    np.testing.assert_allclose(weighted, limit, rtol=1e-9)


def test_channels_of_zeros() -> None:
    activations, gradient = sample(5)
    activations[..., 2] = 0
    gradient[..., 3] = 0
    for name in DEFINITIONS:
        weighted = METHODS[name].compute(activations, gradient)
        assert np.isfinite(weighted).all()
        assert not weighted[..., [2, 3]].any()


# --- Methods that take scores -------------------------------------------------------------------


def test_score_cam_weighs_by_a_softmax() -> None:
    activations, _ = sample()
    scores = np.array([2.0, -1.0, 0.5, 3.0, 0.0, 2.5])
    total = sum(math.exp(score) for score in scores)
    expected = sum(math.exp(scores[k]) / total * activations[..., k] for k in range(CHANNELS))
    np.testing.assert_allclose(scorecam(activations, scores).sum(axis=-1), expected, rtol=1e-12)


def test_score_cam_of_some_channels_and_of_none() -> None:
    activations, _ = sample()
    nan = float("nan")
    scores = np.array([2000.0, nan, 1999.0, nan, nan, nan])  # exp alone would overflow
    weighted = scorecam(activations, scores)
    first = 1 / (1 + math.exp(-1))
    np.testing.assert_allclose(weighted[..., 0], first * activations[..., 0])
    np.testing.assert_allclose(weighted[..., 2], (1 - first) * activations[..., 2])
    assert not weighted[..., [1, 3, 4, 5]].any()
    assert not scorecam(activations, np.full(CHANNELS, nan)).any()


@pytest.mark.parametrize("whole", [2.0, -2.0, 0.0])
def test_ablation_cam_weighs_by_the_drop(whole: float) -> None:
    """A channel without which the score falls counts as good, also where the score is negative."""
    activations, _ = sample()
    scores = np.array([whole - 1, whole, whole + 0.5, float("nan"), whole - 3, whole])
    weighted = ablationcam(activations, scores, whole)
    weights = np.array([1, 0, -0.5, 0, 3, 0]) / (abs(whole) or 1)
    np.testing.assert_allclose(weighted, activations * weights, rtol=1e-12)


# --- Names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("gradcam", "gradcam"),
        ("Grad-CAM", "gradcam"),
        ("Grad-CAM++", "gradcam++"),
        ("GradCAMPlusPlus", "gradcam++"),
        ("hires_cam", "hirescam"),
        ("elementwise", "gradcamelementwise"),
        ("KPCA_CAM", "kpcacam"),
        ("Score-CAM", "scorecam"),
    ],
)
def test_method_names_are_found_in_any_spelling(given: str, name: str) -> None:
    assert find_method(given).name == name


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        find_method("gradkam")
    assert str(caught.value) == (
        "unknown method 'gradkam'; the methods are gradcam, gradcam++, xgradcam, layercam, "
        "hirescam, gradcamelementwise, eigengradcam, eigencam, kpcacam, scorecam, ablationcam, "
        "occlusion, rise, reciprocam, kernelshap, rollout, gradientrollout. "
        "Did you mean 'gradcam', 'xgradcam', 'gradcam++'?"
    )


@pytest.mark.parametrize("name", ALL_METHODS)
def test_each_method_says_its_formula_and_where_it_is_from(name: str) -> None:
    text = ALL_METHODS[name].compute.__doc__ or ""
    assert "`" in text
    assert "https://" in text or "pytorch-grad-cam" in text
