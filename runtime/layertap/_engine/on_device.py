"""Values in a device's memory: onnxruntime's `OrtValue`s, and what other libraries hold there.

Libraries hand such values on by DLPack, without a copy: an object with `__dlpack__` and
`__dlpack_device__` is one. See https://dmlc.github.io/dlpack/latest/python_spec.html
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
"""`DLDeviceType`; 3 is the computer's own memory that a card can read, too."""


def is_ortvalue(value: object) -> bool:
    """Whether it is an `onnxruntime.OrtValue`."""
    ort = sys.modules.get("onnxruntime")  # whoever holds one has imported it
    return ort is not None and isinstance(value, ort.OrtValue)


def memory_of(value: Any) -> DeviceMemory | None:
    """Where an object with DLPack, or an `OrtValue`, is; `None` for anything else."""
    if isinstance(value, np.ndarray):
        return None
    if is_ortvalue(value):
        kind = value.device_name().lower()
        if kind == HOST.kind:
            return HOST
        # Before 1.21 no number is told: it is taken for the first card.
        inner = value._ortvalue
        return DeviceMemory(
            kind, inner.__dlpack_device__()[1] if hasattr(inner, "__dlpack__") else 0
        )
    if not (hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")):
        return None
    try:
        kind, unit = value.__dlpack_device__()
    except Exception:  # noqa: BLE001 - libraries raise what they like; it is an array-like then
        return None
    name = _KINDS.get(int(kind), f"DLPack device {int(kind)}")
    return DeviceMemory(name, 0 if name == "cpu" else int(unit))


def take(what: str, value: Any, there: DeviceMemory, here: DeviceMemory) -> Any:
    """The same values for a session whose memory is `here`: an `OrtValue` on a device, else what
    numpy makes an array of. Nothing is copied, but for an `OrtValue` that comes from a device into
    the computer's own memory.

    Args:
        what: what messages call it.
        there: where they are.

    Raises:
        InputError: they cannot be had here.
    """
    if there == HOST or (is_ortvalue(value) and here == HOST):
        return _as_array(what, value)
    if there != here:
        raise InputError(
            f"{what} is on {there}, and the model runs on {here}. Bring it there first, or open "
            f"the model with device={str(there)!r}."
        )
    if is_ortvalue(value):
        return value
    try:
        return _from_dlpack(value.__dlpack__())
    except Exception as exc:  # libraries raise what they like
        raise InputError(
            f"{what}: onnxruntime cannot take this {type(value).__name__} as it is ({exc}). Give "
            "one that lies in one piece (x.contiguous()) and needs no gradient (x.detach())."
        ) from exc


def _as_array(what: str, value: Any) -> Any:
    if not is_ortvalue(value):
        return value if hasattr(value, "__array__") else np.from_dlpack(value)
    if not value.is_tensor():
        raise InputError(f"{what}: an OrtValue that is no tensor ({value.data_type()}).")
    inner = value._ortvalue
    shared = value.device_name().lower() == "cpu" and hasattr(inner, "__dlpack__")
    if not shared or value.data_type() in _NOT_SHARED:
        return value.numpy()
    return np.from_dlpack(inner)


_NOT_SHARED = {"tensor(string)", "tensor(bfloat16)", "tensor(bool)"}
"""What numpy does not take by DLPack, or onnxruntime has not always given as what it is."""


def _from_dlpack(capsule: object) -> Any:
    ort: Any = sys.modules["onnxruntime"]  # a model that is on a device has imported it
    if hasattr(ort.OrtValue, "from_dlpack"):
        return ort.OrtValue.from_dlpack(capsule)
    # Up to 1.23 only the class below has it, and wants to know whether bytes are truth values.
    inner = ort.capi.onnxruntime_pybind11_state.OrtValue
    return ort.OrtValue(inner.from_dlpack(capsule, False))


def dtype_of(value: Any) -> str:
    """The numpy name of an `OrtValue`'s dtype."""
    name = re.sub(r"^tensor\((\w+)\)$", r"\1", value.data_type())
    return {"float": "float32", "double": "float64"}.get(name, name)


def keep(ort: Any, value: Any, memory: DeviceMemory) -> Any:
    """An array as an `OrtValue` in `memory`; without a copy where that is the computer's memory."""
    made = value if is_ortvalue(value) else ort.OrtValue.ortvalue_from_numpy(value, *memory)
    return shareable(made)


def on_host(value: Any) -> Any:
    """An `OrtValue` as an array; anything else as it is."""
    return value.numpy() if is_ortvalue(value) else value


def shareable(value: Any) -> Any:
    """An `OrtValue` with DLPack, which up to onnxruntime 1.23 only what is inside it has."""
    if hasattr(value, "__dlpack__") or not hasattr(value._ortvalue, "__dlpack__"):
        return value
    return _shareable_class(type(value))(value._ortvalue)  # type: ignore[arg-type]


@cache
def _shareable_class(base: Hashable) -> Any:
    class OrtValue(base):  # type: ignore[valid-type, misc]
        """With DLPack."""

        def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
            return self._ortvalue.__dlpack__(stream=stream)

        def __dlpack_device__(self) -> tuple[int, int]:
            kind, unit = self._ortvalue.__dlpack_device__()
            return kind, unit

    return OrtValue
