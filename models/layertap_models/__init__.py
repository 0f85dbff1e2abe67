"""Ready Keras models for layertap, each with its labels and its preprocessing.

    layertap models                                             # what there is
    layertap export layertap_models.digits:train -o digits.onnx

`MODELS` lists them; importing this package imports no TensorFlow, building a model does.
"""

from __future__ import annotations

from .registry import MODELS as MODELS
from .registry import ModelSpec as ModelSpec
from .registry import find as find

__all__ = ["MODELS", "ModelSpec", "find"]
