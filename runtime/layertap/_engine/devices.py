"""The devices that onnxruntime computes on: their short names, providers and memories.

Which of them there are depends on how the installed onnxruntime was built, and on the machine; see
`probe`.
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
        install_hint("cpu"),
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
