"""The errors of the exporter.

    layertap.LayertapError
    `-- ExportError
        +-- ModelLoadError          MODEL cannot be loaded as a Keras model
        |   +-- UnsafeModelError    it contains code (a Lambda layer) and --unsafe was not given
        |   `-- WeightsError        a weights file that cannot be read, or is another model's
        +-- UnsupportedLayerError   a layer uses an operation that cannot be converted to ONNX
        +-- GradientError           a requested gradient does not exist
        `-- VerificationError       the file differs from its model; carries the report

The runtime's own errors, such as `layertap.OutputError`, can be raised by the exporter, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from layertap._public import public
from layertap.errors import LayertapError
from layertap.format.text import printable


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


@public
class ExportError(LayertapError):
    """The model cannot be exported; the message says why and what to do."""


@public
class ModelLoadError(ExportError):
    """The argument cannot be loaded as a Keras model."""


@public
class UnsafeModelError(ModelLoadError):
    """The model file contains Python code, which runs only with `unsafe=True`."""


@public
class WeightsError(ModelLoadError):
    """A weights file cannot be read, or contains the weights of another model."""


@public
class UnsupportedLayerError(ExportError):
    """A layer uses an operation that cannot be converted to ONNX."""


@public
class GradientError(ExportError):
    """A requested gradient does not exist; the message names the layer and the operator."""


@public
class VerificationError(ExportError):
    """The file's activations or gradients differ from those of its model; `report` contains every
    difference."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report

    def __str__(self) -> str:
        """The message: lines of text, each of them printable."""
        return "\n".join(map(printable, str(self.args[0]).split("\n")))


def keras_words(error: Exception) -> str:
    """Keras's message in one line, without terminal colours and the values of all arguments.

    If a setting of TensorFlow helps, it is named.
    """
    text = re.sub(r"\x1b\[\d*m", "", str(error)).partition("Arguments received by ")[0]
    words = " ".join(text.split())
    if "CPU implementations do not yet support dilation" in words:
        words += (
            " With oneDNN, TensorFlow can: set TF_ENABLE_ONEDNN_OPTS=1 before TensorFlow is "
            "imported."
        )
    return words
