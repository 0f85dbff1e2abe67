"""Keras models for use with layertap, each with labels and a preprocessing recipe.

    layertap models                                             # list the models
    layertap export layertap_models.digits:train -o digits.onnx

`MODELS` describes them. TensorFlow is not imported before a model is built.
"""

from __future__ import annotations

from .registry import MODELS as MODELS
from .registry import ModelSpec as ModelSpec
from .registry import find as find

__all__ = ["MODELS", "ModelSpec", "find"]
