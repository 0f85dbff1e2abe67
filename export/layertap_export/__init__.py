"""Export a Keras model, once, to an ONNX file in which every layer is a named output.

    import layertap_export
    report = layertap_export.export(keras_model, "model.onnx")

TensorFlow is imported by the functions that need it, not by this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layertap.errors import DependencyError, install_hint

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
    from .api.add_gradients import add_gradients
    from .api.export import export
    from .api.export_report import ExportReport
    from .api.finish import finish
    from .api.finish_report import FinishReport
    from .api.gradient_report import GradientReport
    from .api.quantize import quantize
    from .api.quantize_report import QuantizeReport
    from .api.verify import verify
    from .keras_model.loading import load_model
    from .keras_model.loading.weights import load_weights
    from .keras_model.signatures import Signature
    from .verification.report import LayerDifference, VerificationReport

__all__ = [
    "ExportError",
    "ExportReport",
    "FinishReport",
    "GradientError",
    "GradientReport",
    "LayerDifference",
    "ModelLoadError",
    "QuantizeReport",
    "Signature",
    "UnsafeModelError",
    "UnsupportedLayerError",
    "VerificationError",
    "VerificationReport",
    "WeightsError",
    "add_gradients",
    "export",
    "finish",
    "load_model",
    "load_weights",
    "quantize",
    "verify",
]

_HOME = {
    "ExportReport": "api.export_report",
    "export": "api.export",
    "load_model": "keras_model.loading",
    "load_weights": "keras_model.loading.weights",
    "Signature": "keras_model.signatures",
    "LayerDifference": "verification.report",
    "VerificationReport": "verification.report",
    "verify": "api.verify",
}
"""Modules that import TensorFlow, by the name they give."""

_LIGHT = {
    "FinishReport": "api.finish_report",
    "GradientReport": "api.gradient_report",
    "QuantizeReport": "api.quantize_report",
    "add_gradients": "api.add_gradients",
    "finish": "api.finish",
    "quantize": "api.quantize",
}
"""Those that need the `onnx` package alone."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _LIGHT:
        try:
            value = getattr(import_module(f".{_LIGHT[name]}", __name__), name)
        except ModuleNotFoundError as exc:
            raise DependencyError(
                f"{name} needs the package {exc.name}, which is not installed. "
                f"Install it with {install_hint('gradients', 'cpu')}."
            ) from exc
    elif name in _HOME:
        from .keras_model.tensorflow import prepared

        with prepared():
            value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
