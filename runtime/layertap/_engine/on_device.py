"""Values in a device's memory: onnxruntime's `OrtValue`s, and tensors of other libraries.

Libraries exchange such values by DLPack, without a copy: by objects with the methods `__dlpack__`
and `__dlpack_device__`. See https://dmlc.github.io/dlpack/latest/python_spec.html
"""

from __future__ import annotations

import re
import sys
from collections.abc import Hashable
from functools import cache
from typing import Any

import numpy as np

from layertap.errors import InputError

from .devices import HOST, DeviceMemory

_KINDS = {1: "cpu", 2: "cuda", 3: "cpu", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm"}
"""`DLDeviceType`; 3 is host memory that a GPU can read."""


def is_ortvalue(value: object) -> bool:
    """Whether the value is an `onnxruntime.OrtValue`."""
    ort = sys.modules.get("onnxruntime")  # if the value is one, it has been imported
    return ort is not None and isinstance(value, ort.OrtValue)


def memory_of(value: Any) -> DeviceMemory | None:
    """The memory of an object with DLPack, or of an `OrtValue`; `None` for anything else."""
    if isinstance(value, np.ndarray):
        return None
    if is_ortvalue(value):
        kind = value.device_name().lower()
        if kind == HOST.kind:
            return HOST
        # Before 1.21 the number is not available: assume the first card.
        inner = value._ortvalue
        return DeviceMemory(
            kind, inner.__dlpack_device__()[1] if hasattr(inner, "__dlpack__") else 0
        )
    if not (hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")):
        return None
    try:
        kind, unit = value.__dlpack_device__()
    except Exception:  # noqa: BLE001 - libraries may raise anything; treat it as an array-like
        return None
    name = _KINDS.get(int(kind), f"DLPack device {int(kind)}")
    return DeviceMemory(name, 0 if name == "cpu" else int(unit))


def take(label: str, value: Any, source: DeviceMemory, target: DeviceMemory) -> Any:
    """Make a value usable by a session with the memory `target`.

    The result is an `OrtValue` on a device, or something that numpy can convert to an array.
    Nothing is copied, except an `OrtValue` that moves from a device to host memory.

    Args:
        label: the value's name in messages.
        source: the memory that the value is in.
        target: the memory that the session reads.

    Raises:
        InputError: the value is on another device, or onnxruntime rejects it.
    """
    if source == HOST or (is_ortvalue(value) and target == HOST):
        return _as_array(label, value)
    if source != target:
        raise InputError(
            f"{label} is on {source}, but the model runs on {target}. Move it there first, or open "
            f"the model with device={str(source)!r}."
        )
    if is_ortvalue(value):
        return value
    try:
        return _from_dlpack(value.__dlpack__())
    except Exception as exc:  # libraries may raise anything
        raise InputError(
            f"{label}: onnxruntime cannot use this {type(value).__name__} ({exc}). Give one that "
            "is contiguous (x.contiguous()) and does not require a gradient (x.detach())."
        ) from exc


def _as_array(label: str, value: Any) -> Any:
    if not is_ortvalue(value):
        return value if hasattr(value, "__array__") else np.from_dlpack(value)
    if not value.is_tensor():
        raise InputError(f"{label}: the OrtValue is not a tensor, but {value.data_type()}.")
    inner = value._ortvalue
    shared = value.device_name().lower() == "cpu" and hasattr(inner, "__dlpack__")
    if not shared or value.data_type() in _NOT_SHARED:
        return value.numpy()
    return np.from_dlpack(inner)


_NOT_SHARED = {"tensor(string)", "tensor(bfloat16)", "tensor(bool)"}
"""Types that numpy cannot read by DLPack, or that old onnxruntimes export wrongly."""


def _from_dlpack(capsule: object) -> Any:
    ort: Any = sys.modules["onnxruntime"]  # a model on a device has imported it
    if hasattr(ort.OrtValue, "from_dlpack"):
        return ort.OrtValue.from_dlpack(capsule)
    # Up to 1.23 only the inner class has it, with a flag for whether bytes are booleans.
    inner = ort.capi.onnxruntime_pybind11_state.OrtValue
    return ort.OrtValue(inner.from_dlpack(capsule, False))


def dtype_of(value: Any) -> str:
    """The numpy name of an `OrtValue`'s dtype."""
    name = re.sub(r"^tensor\((\w+)\)$", r"\1", value.data_type())
    return {"float": "float32", "double": "float64"}.get(name, name)


def keep(ort: Any, value: Any, memory: DeviceMemory) -> Any:
    """An array as an `OrtValue` in `memory`; without a copy if that is host memory."""
    made = value if is_ortvalue(value) else ort.OrtValue.ortvalue_from_numpy(value, *memory)
    return shareable(made)


def on_host(value: Any) -> Any:
    """Convert an `OrtValue` to an array; return anything else unchanged."""
    return value.numpy() if is_ortvalue(value) else value


def shareable(value: Any) -> Any:
    """An `OrtValue` with DLPack. Up to onnxruntime 1.23 only the inner value supports it."""
    if hasattr(value, "__dlpack__") or not hasattr(value._ortvalue, "__dlpack__"):
        return value
    return _shareable_class(type(value))(value._ortvalue)  # type: ignore[arg-type]


@cache
def _shareable_class(base: Hashable) -> Any:
    class OrtValue(base):  # type: ignore[valid-type, misc]
        """An `OrtValue` with the methods of DLPack."""

        def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
            return self._ortvalue.__dlpack__(stream=stream)

        def __dlpack_device__(self) -> tuple[int, int]:
            kind, unit = self._ortvalue.__dlpack_device__()
            return kind, unit

    return OrtValue
