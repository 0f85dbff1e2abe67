"""The devices that onnxruntime computes on: their short names, and why one is not to be had.

Which there are is a matter of how the installed onnxruntime was built, and of the machine. That
one computes is known only when it has: onnxruntime falls back to the CPU in silence.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from layertap._record import Record
from layertap.errors import DeviceError, suggest
from layertap.format import wire

if TYPE_CHECKING:
    from pathlib import Path

Providers: TypeAlias = "list[tuple[str, dict[str, Any]]]"
"""onnxruntime's execution providers with their options, the first choice first."""

SILENT = 4
"""Only fatal messages: what onnxruntime logs as an error it also raises, and that is enough."""


class Device(Record):
    """A kind of device."""

    name: str
    """What users call it."""
    provider: str
    """What onnxruntime calls it."""
    title: str
    """What its makers call it."""
    what: str = "as onnxruntime has it"
    """What it computes on."""
    install: str = ""
    """What brings an onnxruntime that has it; empty where one has to build it."""
    systems: Mapping[str, str] = {}
    """Where it is to be found, by `sys.platform`; empty for everywhere."""
    units: tuple[str, ...] = ()
    """What stands behind the colon: names, or `0` for any number; the first is the default."""
    option: str = ""
    """The provider's option that takes it."""
    options: Mapping[str, Any] = {}
    """The provider's other options, for float32 to be computed as float32."""
    needs: str = "See onnxruntime's documentation for what this execution provider needs"
    """What to look after if it does not start."""
    note: str = ""
    """What is not as elsewhere."""
    maps: bool = False
    """Whether it takes weights that are mapped from files."""
    memory: str = "cpu"
    """Where its results are, as onnxruntime calls it."""

    def label(self, unit: str) -> str:
        """`cuda:0`."""
        return f"{self.name}:{unit}" if unit else self.name


_WINDOWS, _MAC = {"win32": "Windows"}, {"darwin": "macOS"}
_LINUX = {"linux": "Linux"}

CPU = Device("cpu", "CPUExecutionProvider", "CPU", "this computer's processor", maps=True)
CUDA = Device(
    "cuda",
    "CUDAExecutionProvider",
    "CUDA",
    "NVIDIA cards",
    '`pip install "layertap[gpu]"`',
    units=("0",),
    option="device_id",
    needs="Install the libraries of the CUDA version that it was built for, for example with "
    '`pip install "onnxruntime-gpu[cuda,cudnn]"`',
    maps=True,
    memory="cuda",
)
TENSORRT = Device(
    "tensorrt",
    "TensorrtExecutionProvider",
    "TensorRT",
    "NVIDIA cards, by TensorRT",
    '`pip install "layertap[gpu]"`',
    units=("0",),
    option="device_id",
    needs="Install the libraries of the TensorRT and CUDA versions that it was built for",
    note="rounds to TF32 on newer cards, unless the environment sets NVIDIA_TF32_OVERRIDE=0",
    memory="cuda",
)
OPENVINO = Device(
    "openvino",
    "OpenVINOExecutionProvider",
    "OpenVINO",
    "Intel's processors, graphics and neural units",
    "`pip install onnxruntime-openvino`",
    units=("cpu", "gpu", "npu"),
    option="device_type",
    # Else OpenVINO computes in float16 or bfloat16 where that is faster.
    options={"precision": "FP32"},
    needs="See that this computer has such a unit and a driver for it",
    note="float16 on neural units (npu), which have nothing else",
    maps=True,
)
_OTHERS = (
    Device(
        "coreml",
        "CoreMLExecutionProvider",
        "Core ML",
        "Apple's processors, graphics and neural engine",
        '`pip install "layertap[cpu]"`',
        _MAC,
        # Of its two formats the one that keeps to the types that a model states.
        options={"ModelFormat": "MLProgram"},
    ),
    Device(
        "directml",
        "DmlExecutionProvider",
        "DirectML",
        "graphics cards of all makers, on Windows",
        "`pip install onnxruntime-directml`",
        _WINDOWS,
        units=("0",),
        option="device_id",
    ),
    Device(
        "webgpu",
        "WebGpuExecutionProvider",
        "WebGPU",
        "graphics cards of all makers",
        "`pip install onnxruntime-webgpu`",
    ),
    Device(
        "migraphx",
        "MIGraphXExecutionProvider",
        "MIGraphX",
        "AMD cards",
        "`pip install onnxruntime-migraphx`",
        _LINUX,
        units=("0",),
        option="device_id",
    ),
    Device(
        "rocm",
        "ROCMExecutionProvider",
        "ROCm",
        "AMD cards, up to onnxruntime 1.22",
        "`pip install onnxruntime-rocm`",
        _LINUX,
        units=("0",),
        option="device_id",
    ),
    Device(
        "qnn",
        "QNNExecutionProvider",
        "QNN",
        "Qualcomm's neural units",
        "`pip install onnxruntime-qnn`",
        note="float16 on neural units",
    ),
    Device("xnnpack", "XnnpackExecutionProvider", "XNNPACK", "processors, by XNNPACK"),
)

DEVICES = {device.name: device for device in (CPU, CUDA, TENSORRT, OPENVINO, *_OTHERS)}
_OTHER_NAMES = {"dml": "directml"}

_NO_DEVICES = ("AzureExecutionProvider",)
"""Calls a service; computes nothing here."""


def find(text: str, offered: Sequence[str] = ()) -> tuple[Device, str]:
    """The device that `text` names, as in `cuda:1`, and its unit.

    Args:
        offered: the execution providers of the installed onnxruntime, of which some may not be
            known here.

    Raises:
        DeviceError: there is no such name.
    """
    known = {device.name: device for device in offers(offered)}
    name, colon, unit = text.partition(":")
    device = known.get(_OTHER_NAMES.get(name, name))
    if device is None:
        raise DeviceError(
            f"there is no device {text!r}. Give 'auto', one that `layertap devices` lists, or "
            f"another execution provider of onnxruntime in `providers`.{suggest(name, [*known])}"
        )
    if not colon:
        return device, device.units[0] if device.units else ""
    if device.units == ("0",):
        if not re.fullmatch(r"[0-9]+", unit):
            raise DeviceError(f"device {text!r}: give a card's number, as in '{device.name}:0'.")
        return device, str(int(unit))
    if not re.fullmatch(rf"({'|'.join(device.units) or '-'})(\.[0-9]+)?", unit):
        allowed = ", ".join(repr(device.label(unit)) for unit in device.units)
        raise DeviceError(f"device {text!r}: give {allowed or repr(device.name)}.")
    return device, unit


def offers(offered: Sequence[str]) -> Iterator[Device]:
    """All devices known here, and those of the installed onnxruntime that are not."""
    yield from DEVICES.values()
    known = {device.provider for device in DEVICES.values()}
    for provider in offered:
        if provider not in known and provider not in _NO_DEVICES:
            title = provider.removesuffix("ExecutionProvider")
            yield Device(title.lower(), provider, title)


def providers(
    device: Device, unit: str, threads: int, tf32: bool = False, prefer_nhwc: bool = False
) -> Providers:
    """What onnxruntime is to be asked for, the CPU for what the device cannot do last."""
    options = dict(device.options)
    if device.option:
        options[device.option] = int(unit) if unit.isdigit() else unit.upper()
    if device is OPENVINO:
        if unit.startswith("npu"):
            del options["precision"]
        options["num_of_threads"] = str(threads)
    if device is CUDA:
        # TF32 has a mantissa of 10 bits: activations are off by 1e-3 of their scale.
        options["use_tf32"] = int(tf32)
        if prefer_nhwc:
            options["prefer_nhwc"] = 1
    if device.name == "xnnpack":
        options["intra_op_num_threads"] = str(threads)
    chosen = [(device.provider, options)]
    if device is TENSORRT:
        chosen += [(CUDA.provider, {"device_id": int(unit), "use_tf32": 0})]
    return chosen if device is CPU else [*chosen, (CPU.provider, {})]


def maps(chosen: Providers) -> bool:
    """Whether all of these take weights that are mapped from files."""
    known = {device.provider for device in DEVICES.values() if device.maps}
    return all(name in known for name, _ in chosen)


class DeviceMemory(NamedTuple):
    """A memory, as onnxruntime's bindings name it."""

    kind: str
    unit: int

    def __str__(self) -> str:
        return self.kind if self == HOST else f"{self.kind}:{self.unit}"


HOST = DeviceMemory("cpu", 0)


def memory(chosen: Providers) -> DeviceMemory:
    """Where these providers leave results."""
    provider, options = chosen[0]
    kinds = {device.provider: device.memory for device in DEVICES.values()}
    kind = kinds.get(provider, HOST.kind)
    return HOST if kind == HOST.kind else DeviceMemory(kind, int(options.get("device_id", 0)))


# --- Why one is not to be had -------------------------------------------------------------------


class Trouble(NamedTuple):
    """Why a device is not to be had, and what to do about it, if anything; without a full stop."""

    reason: str
    remedy: str


def check(ort: Any, device: Device, unit: str) -> None:
    """Return if the device computes.

    Raises:
        DeviceError: it does not; the message says why and what to do.
    """
    found = trouble(ort, device, unit)
    if found:
        label = device.label(unit) if is_built(ort, device) else device.name
        remedy = f"{found.remedy}, or use" if found.remedy else "Use"
        raise DeviceError(
            f'device {label!r} is not to be had: {found.reason}. {remedy} device="cpu".'
        )


def is_built(ort: Any, device: Device) -> bool:
    """Whether the installed onnxruntime was built for the device."""
    return device.provider in ort.get_available_providers()


_lock = threading.Lock()
_work: set[tuple[str, str]] = set()
"""Devices that have computed something."""


def trouble(ort: Any, device: Device, unit: str) -> Trouble | None:
    """Why the device does not compute; `None` if it does."""
    with _lock:
        if (device.name, unit) in _work:
            return None
        if not is_built(ort, device):
            return _not_built(ort, device)
        reason = _try(ort, device, unit)
        if reason:
            return Trouble(
                f"onnxruntime {ort.__version__} could not start {device.title}: {reason}",
                device.needs,
            )
        _work.add((device.name, unit))
        return None


def wheels() -> list[str]:
    """The installed distributions that bring a package called onnxruntime."""
    from importlib import metadata  # which takes as long as all the rest here

    found = []
    for ending in _WHEELS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            name = f"onnxruntime{ending}"
            found.append(f"{name} {metadata.version(name)}")
    return found


_WHEELS = ("", *(f"-{end}" for end in "gpu openvino directml webgpu migraphx rocm qnn".split()))


def _not_built(ort: Any, device: Device) -> Trouble:
    if device.systems and sys.platform not in device.systems:
        there = " and ".join(device.systems.values())
        return Trouble(f"{device.title} is there on {there} alone", "")
    installed = wheels()
    if len(installed) > 1:
        names = " ".join(wheel.split()[0] for wheel in installed)
        offered = ", ".join(
            name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()
        )
        return Trouble(
            f"{' and '.join(installed)} are both installed and have overwritten one another; what "
            f"is left offers {offered}",
            f"Run `pip uninstall {names}`, then {device.install or 'install the one you need'}",
        )
    wheel = installed[0] if installed else f"onnxruntime {ort.__version__}"
    reason = f"the installed {wheel} has no {device.title} in it"
    if not device.install:
        return Trouble(f"{reason}, nor has any other wheel", "Build onnxruntime from its sources")
    return Trouble(reason, f"Run `pip uninstall {wheel.split()[0]}`, then {device.install}")


def _try(ort: Any, device: Device, unit: str) -> str:
    """Run a model of one node on the device; why it failed, or nothing."""
    from pathlib import Path

    import numpy as np

    said = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if device in (CUDA, TENSORRT):
            # Finds the CUDA libraries that came as wheels; what is missing it prints.
            with contextlib.redirect_stdout(said), contextlib.suppress(Exception):
                if hasattr(ort, "preload_dlls"):
                    ort.preload_dlls()
        options = ort.SessionOptions()
        options.log_severity_level = SILENT
        ort.set_default_logger_severity(SILENT)
        try:
            session = ort.InferenceSession(
                _probe(), options, providers=providers(device, unit, 1)[:1], enable_fallback=0
            )
            if device.provider in session.get_providers():
                session.run(None, {"x": np.ones(1, np.float32)})
                return ""
        except Exception as exc:  # noqa: BLE001 - onnxruntime's errors have no other common class
            return reason_of(exc).rstrip(".")
        finally:
            ort.set_default_logger_severity(2)  # onnxruntime's default
    missing = re.findall(r"Failed to load (\S+): ", said.getvalue())
    if missing:
        return f"it cannot load {', '.join(dict.fromkeys(missing))}"
    return _loading_fails(Path(ort.__file__).parent / "capi", device) or "it does not say why"


def _loading_fails(folder: Path, device: Device) -> str:
    """The operating system's word on why a provider cannot be loaded."""
    # Only after onnxruntime has failed with it: loaded before, it would not work at all.
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


def reason_of(exc: Exception) -> str:
    """onnxruntime's message without its codes and source lines."""
    message = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(exc).strip())
    message = re.sub(r"^Failed to load model with error: ", "", message)
    # A source file's line, and the signature of the function there.
    message = re.sub(r"\S*/onnxruntime/\S+:\d+ [^()]*\([^()]*(?:\([^()]*\)[^()]*)*\) ", "", message)
    return " ".join(message.split()) or type(exc).__name__
