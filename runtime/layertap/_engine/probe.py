"""Whether a device works, and if not, why and what to do about it.

A small model is run to find out: onnxruntime falls back to the CPU without an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from layertap.errors import DeviceError
from layertap.format import wire

from .devices import CUDA, SILENT, TENSORRT, Device, providers
from .session import plain_session, reason_of

if TYPE_CHECKING:
    from pathlib import Path


class Problem(NamedTuple):
    """Why a device is not available, and what to do about it; both without a full stop."""

    reason: str
    remedy: str


def check(ort: Any, device: Device, unit: str) -> None:
    """Return if the device works.

    Raises:
        DeviceError: it does not work; the message says why and what to do.
    """
    found = find_problem(ort, device, unit)
    if found:
        label = device.label(unit) if is_built(ort, device) else device.name
        remedy = f"{found.remedy}, or use" if found.remedy else "Use"
        raise DeviceError(
            f"device {label!r} is not available: {found.reason}. {remedy} the device 'cpu'."
        )


def is_built(ort: Any, device: Device) -> bool:
    """Whether the installed onnxruntime was built for the device."""
    return device.provider in ort.get_available_providers()


_lock = threading.Lock()
_work: set[tuple[str, str]] = set()
"""Devices that have run a model."""


def find_problem(ort: Any, device: Device, unit: str) -> Problem | None:
    """Why the device does not work; `None` if it works."""
    with _lock:
        if (device.name, unit) in _work:
            return None
        if not is_built(ort, device):
            return _not_built(ort, device)
        reason = _try(ort, device, unit)
        if reason:
            return Problem(
                f"onnxruntime {ort.__version__} could not start {device.title}: {reason}",
                device.needs,
            )
        _work.add((device.name, unit))
        return None


def wheels() -> list[str]:
    """The installed distributions that contain a package called onnxruntime."""
    from importlib import metadata  # slow to import

    found = []
    for ending in _WHEELS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            name = f"onnxruntime{ending}"
            found.append(f"{name} {metadata.version(name)}")
    return found


_WHEELS = ("", *(f"-{end}" for end in "gpu openvino directml webgpu migraphx rocm qnn".split()))


def _not_built(ort: Any, device: Device) -> Problem:
    if device.systems and sys.platform not in device.systems:
        there = " and ".join(device.systems.values())
        return Problem(f"{device.title} is only available on {there}", "")
    installed = wheels()
    if len(installed) > 1:
        names = " ".join(wheel.split()[0] for wheel in installed)
        offered = ", ".join(
            name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()
        )
        return Problem(
            f"{' and '.join(installed)} are both installed and have overwritten each other's "
            f"files; the result supports {offered}",
            f"Run `pip uninstall {names}`, then {device.install or 'install the one you need'}",
        )
    wheel = installed[0] if installed else f"onnxruntime {ort.__version__}"
    reason = f"the installed {wheel} was built without {device.title}"
    if not device.install:
        return Problem(f"{reason}, as are all other wheels", "Build onnxruntime from source")
    return Problem(reason, f"Run `pip uninstall {wheel.split()[0]}`, then {device.install}")


def _try(ort: Any, device: Device, unit: str) -> str:
    """Run a model of one node on the device; return why it failed, or an empty string."""
    from pathlib import Path

    import numpy as np

    said = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if device in (CUDA, TENSORRT):
            # This finds CUDA libraries installed as wheels, and prints what is missing.
            with contextlib.redirect_stdout(said), contextlib.suppress(Exception):
                if hasattr(ort, "preload_dlls"):
                    ort.preload_dlls()
        ort.set_default_logger_severity(SILENT)
        try:
            session = plain_session(_probe(), providers=providers(device, unit, 1)[:1])
            if device.provider in session.get_providers():
                session.run(None, {"x": np.ones(1, np.float32)})
                return ""
        except Exception as exc:  # noqa: BLE001 - onnxruntime's errors have no common base class
            return reason_of(exc).rstrip(".")
        finally:
            ort.set_default_logger_severity(2)  # onnxruntime's default
    missing = re.findall(r"Failed to load (\S+): ", said.getvalue())
    if missing:
        return f"it cannot load {', '.join(dict.fromkeys(missing))}"
    return _loading_fails(Path(ort.__file__).parent / "capi", device) or "no reason given"


def _loading_fails(folder: Path, device: Device) -> str:
    """The operating system's reason why a provider cannot be loaded."""
    # Only after onnxruntime has failed: a library that was loaded before would not work.
    name = device.provider.removesuffix("ExecutionProvider").lower()
    libraries = sorted(folder.glob(f"*onnxruntime_providers_{name}.*"))
    try:
        for library in libraries:
            ctypes.CDLL(str(library))
    except OSError as exc:
        return str(exc).rstrip(".")
    return ""


def _probe() -> bytes:
    """A model with one node: y = Neg(x), of one float32."""
    encode = wire.encode
    one = encode(2, encode(1, encode(1, 1) + encode(2, encode(1, encode(1, 1)))))
    node = encode(1, "x") + encode(2, "y") + encode(4, "Neg")
    graph = encode(1, node) + encode(2, "probe")
    graph += encode(11, encode(1, "x") + one) + encode(12, encode(1, "y") + one)
    return encode(1, 8) + encode(7, graph) + encode(8, encode(2, 13))
