"""Export a Keras model, once, to an ONNX file in which every layer is a named output.

    import layertap_export
    report = layertap_export.export(keras_model, "model.onnx")

TensorFlow is imported by the functions that need it, not by this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layertap.errors import DependencyError

from .errors import (
    ExportError,
    GradientError,
    ModelLoadError,
    UnsafeModelError,
    UnsupportedLayerError,
    VerificationError,
    WeightsError,
)

if TYPE_CHECKING:
    from .exporting import ExportReport, export
    from .gradients.adding import GradientReport, add_gradients
    from .loading import load_model
    from .loading.weights import load_weights
    from .signatures import Signature
    from .verification import LayerDifference, VerificationReport, verify

__all__ = [
    "ExportError",
    "ExportReport",
    "GradientError",
    "GradientReport",
    "LayerDifference",
    "ModelLoadError",
    "Signature",
    "UnsafeModelError",
    "UnsupportedLayerError",
    "VerificationError",
    "VerificationReport",
    "WeightsError",
    "add_gradients",
    "export",
    "load_model",
    "load_weights",
    "verify",
]

_HOME = {
    "ExportReport": "exporting",
    "export": "exporting",
    "load_model": "loading",
    "load_weights": "loading.weights",
    "Signature": "signatures",
    "LayerDifference": "verification",
    "VerificationReport": "verification",
    "verify": "verification",
}
"""Modules that import TensorFlow, by the name they give."""

_LIGHT = {"GradientReport": "gradients.adding", "add_gradients": "gradients.adding"}
"""Those that need the `onnx` package alone."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _LIGHT:
        try:
            value = getattr(import_module(f".{_LIGHT[name]}", __name__), name)
        except ModuleNotFoundError as exc:
            raise DependencyError(
                f"gradients need the package {exc.name}, which is not installed. "
                'Install it with `pip install "layertap[gradients,cpu]"`.'
            ) from exc
    elif name in _HOME:
        from ._tensorflow import prepared

        with prepared():
            value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
