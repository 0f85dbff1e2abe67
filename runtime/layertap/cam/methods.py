"""The methods: from a layer's activations, and gradients or scores, to a heat map.

Each works on one image and one target, in float64. `A` are the activations, `(h, w, c)`; `G` is the
gradient of the target's score with respect to them; `k` counts channels, and sums without a
variable run over the positions. What a function returns with a channel axis are *weighted
activations*: their sum over the channels is the map.

Names and definitions are those of pytorch-grad-cam, except for its small constants in denominators,
which make a map depend on the scale of the gradient. If a denominator is 0, the quotient is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from layertap.errors import UsageError, suggest

from .masking import kernelshap, occlusion, reciprocam, rise
from .projections import kernel_principal, principal
from .rollout import gradient_rollout, rollout

Maps = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method."""

    name: str
    compute: Callable[..., Any]
    """From the activations `(h, w, c)`, and what `takes` says, to weighted activations
    `(h, w, c)` or a map `(h, w)`. If it takes `positions`, what to mask; see `masking`."""
    takes: str = ""
    """`gradients`: the gradient, `(h, w, c)`; `masked` or `ablated`: the target's scores with each
    channel as a mask, or without it; `positions`: the target's scores with positions masked; empty
    if it takes activations only."""
    of_output: bool = False
    """Whether its scores are those of the output, such as probabilities, as in its paper."""
    masks_input: bool = False
    """Whether it masks the image if no layer is given."""
    from_least: bool = False
    """Whether the least value of a map means no evidence, instead of 0."""
    of_attention: bool = False
    """Whether it takes the scores of attention layers, and their gradients if it `takes` them,
    instead of the activations of one layer; see `rollout`."""


def find_method(name: str) -> Method:
    """Return the method of this name; case, hyphens, spaces and underscores are ignored.

    Raises:
        UsageError: the name is unknown.
    """
    plain = str(name).lower()
    for sign in "-_ ":
        plain = plain.replace(sign, "")
    plain = _ALIASES.get(plain, plain)
    if plain not in METHODS:
        raise UsageError(
            f"unknown method {name!r}; the methods are {', '.join(METHODS)}."
            + suggest(plain, list(METHODS))
        )
    return METHODS[plain]


def gradcam(activations: Maps, gradient: Maps) -> Maps:
    """`w_k A_k` with `w_k = mean(G_k)`.

    Selvaraju et al. 2017: Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization. https://arxiv.org/abs/1610.02391
    """
    return activations * _over_positions(np.mean, gradient)


def gradcam_plus_plus(activations: Maps, gradient: Maps) -> Maps:
    """`w_k A_k` with `w_k = sum(a_k relu(G_k))` and `a_k = G_k^2 / (2 G_k^2 + sum(A_k) G_k^3)`.

    The higher derivatives are those of `exp(score)`, as in the paper, which are powers of `G`.

    Chattopadhay et al. 2018: Grad-CAM++: Improved Visual Explanations for Deep Convolutional
    Networks. https://arxiv.org/abs/1710.11063
    """
    # Divided by G^2, so that squares of small gradients do not underflow.
    share = _ratio(1.0 * (gradient != 0), 2 + _over_positions(np.sum, activations) * gradient)
    return activations * _over_positions(np.sum, share * np.maximum(gradient, 0))


def xgradcam(activations: Maps, gradient: Maps) -> Maps:
    """`w_k A_k` with `w_k = sum(G_k A_k) / sum(A_k)`.

    Fu et al. 2020: Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs.
    https://arxiv.org/abs/2008.02312
    """
    products = _over_positions(np.sum, gradient * activations)
    return activations * _ratio(products, _over_positions(np.sum, activations))


def layercam(activations: Maps, gradient: Maps) -> Maps:
    """`relu(G_k) A_k`, position by position.

    Jiang et al. 2021: LayerCAM: Exploring Hierarchical Class Activation Maps for Localization.
    https://doi.org/10.1109/TIP.2021.3089943
    """
    return np.maximum(gradient, 0) * activations


def hirescam(activations: Maps, gradient: Maps) -> Maps:
    """`G_k A_k`, position by position.

    Draelos and Carin 2020: Use HiResCAM instead of Grad-CAM for faithful explanations of
    convolutional neural networks. https://arxiv.org/abs/2011.08891
    """
    return gradient * activations


def gradcamelementwise(activations: Maps, gradient: Maps) -> Maps:
    """`relu(G_k A_k)`, position by position; from pytorch-grad-cam."""
    return np.maximum(gradient * activations, 0)


def eigengradcam(activations: Maps, gradient: Maps) -> Maps:
    """The first principal component of `G A`, see `projections`; from pytorch-grad-cam."""
    return principal(gradient * activations)


def eigencam(activations: Maps) -> Maps:
    """The first principal component of `A`, see `projections`: the same for every target.

    Muhammad and Yeasin 2020: Eigen-CAM: Class Activation Map using Principal Components.
    https://arxiv.org/abs/2008.00299. The paper does not centre the activations; pytorch-grad-cam
    does, and so does this.
    """
    return principal(activations)


def kpcacam(activations: Maps) -> Maps:
    """The first component of a kernel PCA of `A`, see `projections`: the same for every target.

    Karmani et al. 2024: KPCA-CAM: Visual Explainability of Deep Computer Vision Models using
    Kernel PCA. https://arxiv.org/abs/2410.00267
    """
    return kernel_principal(activations)


def scorecam(activations: Maps, scores: Maps) -> Maps:
    """`w_k A_k` with `w = softmax(s)`: `s_k` is the target's score with channel `k` as a mask.

    The mask is `(A_k - min A_k) / (max A_k - min A_k)`. What is masked is the layer (`A` times the
    mask) or, as in the paper, the input: see `Model.cam`. A constant channel
    masks nothing and has weight 0.

    Wang et al. 2020: Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural
    Networks. https://arxiv.org/abs/1910.01279

    Args:
        activations: `(h, w, c)`.
        scores: `(c,)`; NaN for channels that were not tried.
    """
    known = np.isfinite(scores)
    weights = np.zeros(len(scores))
    if known.any():
        powers = np.exp(scores[known] - scores[known].max())
        weights[known] = powers / powers.sum()
    return activations * weights


def ablationcam(activations: Maps, scores: Maps, whole: float) -> Maps:
    """`w_k A_k` with `w_k = (s - s_k) / |s|`: the drop of the score when channel `k` is set to 0.

    The paper divides by `s`. With its absolute value, a channel that raises the score has a
    positive weight also if the score is negative.

    Desai and Ramaswamy 2020: Ablation-CAM: Visual Explanations for Deep Convolutional Network via
    Gradient-free Localization. https://doi.org/10.1109/WACV45572.2020.9093360

    Args:
        activations: `(h, w, c)`.
        scores: `(c,)`; NaN for channels that were not tried.
        whole: the score with all channels.
    """
    drop = np.where(np.isfinite(scores), whole - scores, 0.0)
    return activations * (drop / abs(whole) if whole else drop)


def _over_positions(reduce: Any, maps: Maps) -> Maps:
    reduced: Maps = reduce(maps, axis=tuple(range(maps.ndim - 1)))
    return reduced


def _ratio(over: Maps, under: Maps) -> Maps:
    return np.divide(over, under, out=np.zeros(np.broadcast(over, under).shape), where=under != 0)


DEFAULT = "gradcam"
"""The method where none is asked for."""

METHODS = {
    method.name: method
    for method in (
        Method(name="gradcam", compute=gradcam, takes="gradients"),
        Method(name="gradcam++", compute=gradcam_plus_plus, takes="gradients"),
        Method(name="xgradcam", compute=xgradcam, takes="gradients"),
        Method(name="layercam", compute=layercam, takes="gradients"),
        Method(name="hirescam", compute=hirescam, takes="gradients"),
        Method(name="gradcamelementwise", compute=gradcamelementwise, takes="gradients"),
        Method(name="eigengradcam", compute=eigengradcam, takes="gradients"),
        Method(name="eigencam", compute=eigencam),
        Method(name="kpcacam", compute=kpcacam),
        Method(name="scorecam", compute=scorecam, takes="masked"),
        Method(name="ablationcam", compute=ablationcam, takes="ablated"),
        Method(name="occlusion", compute=occlusion, takes="positions", masks_input=True),
        Method(
            name="rise",
            compute=rise,
            takes="positions",
            of_output=True,
            masks_input=True,
            from_least=True,
        ),
        Method(
            name="reciprocam",
            compute=reciprocam,
            takes="positions",
            of_output=True,
            from_least=True,
        ),
        Method(name="kernelshap", compute=kernelshap, takes="positions", masks_input=True),
        Method(name="rollout", compute=rollout, from_least=True, of_attention=True),
        Method(
            name="gradientrollout",
            compute=gradient_rollout,
            takes="gradients",
            from_least=True,
            of_attention=True,
        ),
    )
}
"""By name; those that need gradients first."""

_ALIASES = {
    "elementwise": "gradcamelementwise", "gradcamplusplus": "gradcam++", "shap": "kernelshap",
    "attentionrollout": "rollout", "gradrollout": "gradientrollout",
}  # fmt: skip
