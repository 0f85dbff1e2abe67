"""The values of TensorFlow's variables and tensors, read without a copy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def shared(variable: Any) -> NDArray[Any]:
    """The value of a Keras or TensorFlow variable, in TensorFlow's own memory.

    It must not be written to.
    """
    held = getattr(variable, "value", None)
    return in_place(held() if callable(held) else held.value())  # type: ignore[union-attr]


def in_place(tensor: Any) -> NDArray[Any]:
    """The value of an eager tensor, in TensorFlow's own memory; it must not be written to."""
    try:
        return np.asarray(memoryview(tensor))
    except (TypeError, ValueError):  # a dtype that Python does not know, or another device
        array: NDArray[Any] = tensor.numpy()
        return array


def sha256(variables: Iterable[Any]) -> str:
    """The SHA-256 of the bytes of some variables, one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for variable in variables:
        digest.update(np.ascontiguousarray(shared(variable)).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
