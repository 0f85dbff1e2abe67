"""The devices that onnxruntime computes on: their short names, providers and memories.

Which of them are available depends on how the installed onnxruntime was built, and on the machine;
see `probe`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from layertap._record import Record
from layertap.errors import DeviceError, install_hint, suggest

Providers: TypeAlias = "list[tuple[str, dict[str, Any]]]"
"""onnxruntime's execution providers with their options, the first choice first."""

SILENT = 4
"""Log fatal messages only: onnxruntime also raises what it logs as an error."""


class Device(Record):
    """A kind of device."""

    name: str
    """Its name in layertap, as in `device="cuda"`."""
    provider: str
    """Its execution provider in onnxruntime."""
    title: str
    """Its name as its vendor writes it."""
    what: str = "see onnxruntime's documentation"
    """The hardware that it computes on."""
    install: str = ""
    """How to install an onnxruntime with it; empty if it must be built from source."""
    systems: Mapping[str, str] = {}
    """Operating systems that have it, by `sys.platform`; empty for all."""
    units: tuple[str, ...] = ()
    """What may follow the colon: names, or `0` for any number; the first is the default."""
    option: str = ""
    """The provider's option for the unit."""
    options: Mapping[str, Any] = {}
    """The provider's other options, for float32 to be computed as float32."""
    needs: str = "See onnxruntime's documentation for what this execution provider needs"
    """What to check if it does not start."""
    note: str = ""
    """A difference from the other devices, shown by `layertap devices`."""
    maps: bool = False
    """Whether it can use weights that are mapped from files."""
    memory: str = "cpu"
    """The memory that holds its results, as onnxruntime calls it."""

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
    install_hint("gpu"),
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
    install_hint("gpu"),
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
    # Otherwise OpenVINO computes in float16 or bfloat16 where that is faster.
    options={"precision": "FP32"},
    needs="See that this computer has such a unit and a driver for it",
    note="float16 on neural units (npu), which support nothing else",
    maps=True,
)
_OTHERS = (
    Device(
        "coreml",
        "CoreMLExecutionProvider",
        "Core ML",
        "Apple's processors, graphics and neural engine",
        install_hint("cpu"),
        _MAC,
        # The one of its two formats that keeps the dtypes of the model.
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
_OTHER_NAMES = {
    "dml": "directml",
    "gpu": "cuda",
    "metal": "coreml",
    "mps": "coreml",
    "nvidia": "cuda",
}

_NO_DEVICES = ("AzureExecutionProvider",)
"""Providers that call a remote service and do not compute on this machine."""


def canonical(text: str) -> str:
    """A device's name as this module writes it: `GPU:1` is `cuda:1`."""
    name, colon, unit = text.strip().lower().partition(":")
    return f"{_OTHER_NAMES.get(name, name)}{colon}{unit}"


def find(text: str, offered: Sequence[str] = ()) -> tuple[Device, str]:
    """Return the device that `text` names, as in `cuda:1`, and its unit.

    Args:
        offered: the execution providers of the installed onnxruntime; they may include some that
            this module does not list.

    Raises:
        DeviceError: no device has this name, or the unit is invalid.
    """
    known = {device.name: device for device in offers(offered)}
    name, colon, unit = text.partition(":")
    by_provider = {device.provider.lower(): device for device in known.values()}
    device = known.get(_OTHER_NAMES.get(name, name)) or by_provider.get(name.lower())
    if device is None:
        raise DeviceError(
            f"unknown device {text!r}. Give 'auto', a device that `layertap devices` lists, or "
            f"another execution provider of onnxruntime in `providers`.{suggest(name, [*known])}"
        )
    if not colon:
        return device, device.units[0] if device.units else ""
    if device.units == ("0",):
        if not re.fullmatch(r"[0-9]+", unit):
            raise DeviceError(
                f"device {text!r}: the unit must be a number, as in '{device.name}:0'."
            )
        return device, str(int(unit))
    if not re.fullmatch(rf"({'|'.join(device.units) or '-'})(\.[0-9]+)?", unit):
        allowed = ", ".join(repr(device.label(unit)) for unit in device.units)
        raise DeviceError(f"device {text!r}: give {allowed or repr(device.name)}.")
    return device, unit


def offers(offered: Sequence[str]) -> Iterator[Device]:
    """All devices of this module, and those that only the installed onnxruntime has."""
    yield from DEVICES.values()
    known = {device.provider for device in DEVICES.values()}
    for provider in offered:
        if provider not in known and provider not in _NO_DEVICES:
            title = provider.removesuffix("ExecutionProvider")
            yield Device(title.lower(), provider, title)


def providers(
    device: Device, unit: str, threads: int, tf32: bool = False, prefer_nhwc: bool = False
) -> Providers:
    """The execution providers for a device; the CPU comes last, for operators that it lacks."""
    options = dict(device.options)
    if device.option:
        options[device.option] = int(unit) if unit.isdigit() else unit.upper()
    if device is OPENVINO:
        if unit.startswith("npu"):
            del options["precision"]
        options["num_of_threads"] = str(threads)
    if device is CUDA:
        # TF32 has 10 bits of mantissa: errors are about 1e-3 of an activation's scale.
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
    """Whether all of these can use weights that are mapped from files."""
    known = {device.provider for device in DEVICES.values() if device.maps}
    return all(name in known for name, _ in chosen)


class DeviceMemory(NamedTuple):
    """A device's memory, as onnxruntime's bindings name it."""

    kind: str
    unit: int

    def __str__(self) -> str:
        return self.kind if self == HOST else f"{self.kind}:{self.unit}"


HOST = DeviceMemory("cpu", 0)


def memory(chosen: Providers) -> DeviceMemory:
    """The memory that these providers leave their results in."""
    provider, options = chosen[0]
    kinds = {device.provider: device.memory for device in DEVICES.values()}
    kind = kinds.get(provider, HOST.kind)
    return HOST if kind == HOST.kind else DeviceMemory(kind, int(options.get("device_id", 0)))
