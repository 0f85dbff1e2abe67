"""Export a Keras model, once, to an ONNX file in which every layer is a named output.

    import layertap_export
    report = layertap_export.export(keras_model, "model.onnx")

TensorFlow is imported by the functions that need it, not by this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import (
    ExportError,
    ModelLoadError,
    UnsafeModelError,
    UnsupportedLayerError,
    VerificationError,
    WeightsError,
)

if TYPE_CHECKING:
    from .exporting import ExportReport, export
    from .loading import load_model
    from .loading.weights import load_weights
    from .signatures import Signature
    from .verification import LayerDifference, VerificationReport, verify

__all__ = [
    "ExportError",
    "ExportReport",
    "LayerDifference",
    "ModelLoadError",
    "Signature",
    "UnsafeModelError",
    "UnsupportedLayerError",
    "VerificationError",
    "VerificationReport",
    "WeightsError",
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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._tensorflow import prepared

    with prepared():
        from importlib import import_module

        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
