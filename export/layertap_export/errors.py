"""What can go wrong while a model is exported or verified.

layertap.LayertapError
`-- ExportError
    +-- ModelLoadError          MODEL cannot be loaded as a Keras model
    |   +-- UnsafeModelError    it holds code (a Lambda layer) and --unsafe was not given
    |   `-- WeightsError        a weights file that cannot be read, or is another model's
    +-- UnsupportedLayerError   a layer uses an operation that has no way into ONNX
    +-- GradientError           what was asked for has no gradient
    `-- VerificationError       what is in the file is not what it should be; carries the report
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from layertap.errors import LayertapError


class Report(Protocol):
    """The result of a comparison: a `VerificationReport` or a `GradientReport`.

    It is true if everything passed; its text says what differs.
    """

    @property
    def tolerance(self) -> float:
        """Largest scaled error that passes."""

    @property
    def failed(self) -> Sequence[object]:
        """What did not pass: `LayerDifference`s, or names of layers."""

    def __bool__(self) -> bool: ...


class ExportError(LayertapError):
    """The model cannot be exported; the message says why and what to do."""


class ModelLoadError(ExportError):
    """What was given as the model cannot be loaded as a Keras model."""


class UnsafeModelError(ModelLoadError):
    """The model file holds code of its own, which only `unsafe=True` would run."""


class WeightsError(ModelLoadError):
    """A weights file that cannot be read, or holds the weights of another model."""


class UnsupportedLayerError(ExportError):
    """A layer uses an operation that has no way into ONNX."""


class GradientError(ExportError):
    """What was asked for has no gradient; the message names the layer and the operator."""


class VerificationError(ExportError):
    """The file's activations are not Keras's, or its gradients are wrong; `report` holds every
    difference."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def keras_words(error: Exception) -> str:
    """Keras's message in one line, without terminal colours and the values of all arguments."""
    text = re.sub(r"\x1b\[\d*m", "", str(error)).partition("Arguments received by ")[0]
    return " ".join(text.split())
