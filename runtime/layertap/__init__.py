"""Read any layer's activations out of an ONNX file: no TensorFlow, no Keras.

    import layertap

    model = layertap.open("chest.onnx")
    print(model.summary())
    activations = model.activations("chest.png", "conv5_block16_concat")

Names are imported when they are first used, so that `import layertap` takes almost no time:
numpy is imported with the first array or image, onnxruntime with the first session.
"""

from __future__ import annotations

from importlib import import_module

from ._version import __version__

TYPE_CHECKING = False  # `typing` imports `re`; type checkers treat the name specially
if TYPE_CHECKING:
    from . import cam
    from ._engine.request import TopChannels
    from ._model import Model, Tap, compare, open
    from .comparing.check import CheckReport
    from .comparing.comparison import Comparison
    from .errors import (
        CardVersionError,
        CollectionBusyError,
        CollectionError,
        CollectionMismatchError,
        DependencyError,
        DeviceError,
        ImageError,
        InputError,
        LayerNotFoundError,
        LayertapError,
        LayertapWarning,
        ModelFileError,
        OutputError,
        PreprocessingError,
        RunInterruptedError,
        RunTimeoutError,
        UsageError,
    )
    from .extract.bill import Bill
    from .extract.features import Features, features
    from .extract.stream import Batch
    from .format.layer import Layer
    from .images.load import load_image
    from .images.preprocessing import Preprocessing
    from .measuring.drift import Drift, LayerDrift
    from .measuring.layer_costs import LayerCost, LayerCosts
    from .measuring.layer_statistics import LayerStatistics, LayerValues
    from .measuring.receptive_field import ReceptiveField
    from .measuring.splitting import Split, SplitPlace

__all__ = [
    "Batch",
    "Bill",
    "CardVersionError",
    "CheckReport",
    "CollectionBusyError",
    "CollectionError",
    "CollectionMismatchError",
    "Comparison",
    "DependencyError",
    "DeviceError",
    "Drift",
    "Features",
    "ImageError",
    "InputError",
    "Layer",
    "LayerCost",
    "LayerCosts",
    "LayerDrift",
    "LayerNotFoundError",
    "LayerStatistics",
    "LayerValues",
    "LayertapError",
    "LayertapWarning",
    "Model",
    "ModelFileError",
    "OutputError",
    "Preprocessing",
    "PreprocessingError",
    "ReceptiveField",
    "RunInterruptedError",
    "RunTimeoutError",
    "Split",
    "SplitPlace",
    "Tap",
    "TopChannels",
    "UsageError",
    "__version__",
    "cam",
    "compare",
    "features",
    "load_image",
    "open",
]

_HOMES = {
    "Bill": "extract.bill",
    "Features": "extract.features",
    "features": "extract.features",
    "Batch": "extract.stream",
    "CheckReport": "comparing.check",
    "Comparison": "comparing.comparison",
    "Layer": "format.layer",
    "Model": "_model",
    "Tap": "_model",
    "TopChannels": "_engine.request",
    "compare": "_model",
    "open": "_model",
    "load_image": "images.load",
    "Preprocessing": "images.preprocessing",
    "Drift": "measuring.drift",
    "LayerDrift": "measuring.drift",
    "LayerCost": "measuring.layer_costs",
    "LayerCosts": "measuring.layer_costs",
    "ReceptiveField": "measuring.receptive_field",
    "Split": "measuring.splitting",
    "SplitPlace": "measuring.splitting",
    "LayerStatistics": "measuring.layer_statistics",
    "LayerValues": "measuring.layer_statistics",
}
"""The module of each name that is not an error."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "cam":  # a package; importing it makes it an attribute
        return import_module(".cam", __name__)
    value: object = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
