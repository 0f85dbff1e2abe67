"""Devices by short name: the list, and the reason if one is not available."""

from __future__ import annotations

import json
import sys
import types
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import layertap
from generators import tiny
from layertap._engine import engine, probe, session
from layertap._engine.devices import DEVICES, find, maps, offers, providers
from layertap._engine.engine import Engine
from layertap._engine.settings import Settings
from layertap.cli import main
from layertap.errors import DeviceError, UsageError

CPU_LAST: tuple[str, dict[str, Any]] = ("CPUExecutionProvider", {})

# --- Names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "unit"),
    [
        ("cpu", "cpu", ""),
        ("cuda", "cuda", "0"),
        ("cuda:12", "cuda", "12"),
        ("cuda:007", "cuda", "7"),
        ("tensorrt:1", "tensorrt", "1"),
        ("openvino", "openvino", "cpu"),
        ("openvino:gpu", "openvino", "gpu"),
        ("openvino:gpu.1", "openvino", "gpu.1"),
        ("openvino:npu", "openvino", "npu"),
        ("coreml", "coreml", ""),
        ("directml", "directml", "0"),
        ("dml:1", "directml", "1"),
        ("own", "own", ""),
        ("mps", "coreml", ""),
        ("CPUExecutionProvider", "cpu", ""),
        ("cudaexecutionprovider:1", "cuda", "1"),
    ],
)
def test_a_device_name_is_a_kind_and_a_unit(text: str, name: str, unit: str) -> None:
    device, found = find(text, ["CPUExecutionProvider", "OwnExecutionProvider"])
    assert (device.name, found) == (name, unit)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "cudda",
            "unknown device 'cudda'. Give 'auto', a device that `layertap devices` lists, or "
            "another execution provider of onnxruntime in `providers`. Did you mean 'cuda', "
            "'cpu'?",
        ),
        (
            "own:1",
            "unknown device 'own:1'. Give 'auto', a device that `layertap devices` lists, or "
            "another execution provider of onnxruntime in `providers`.",
        ),
        ("cuda:x", "device 'cuda:x': the unit must be a number, as in 'cuda:0'."),
        ("cuda:-1", "device 'cuda:-1': the unit must be a number, as in 'cuda:0'."),
        ("cuda:", "device 'cuda:': the unit must be a number, as in 'cuda:0'."),
        ("dml:²", "device 'dml:²': the unit must be a number, as in 'directml:0'."),
        ("coreml:0", "device 'coreml:0': give 'coreml'."),
        ("cpu:", "device 'cpu:': give 'cpu'."),
        *(
            (
                text,
                f"device {text!r}: give 'openvino:cpu', 'openvino:gpu', 'openvino:npu'.",
            )
            for text in ("openvino:", "openvino:CPU", "openvino:foo", "openvino:gpu.x")
        ),
    ],
)
def test_names_that_are_none(text: str, words: str) -> None:
    with pytest.raises(DeviceError) as caught:
        find(text)
    assert str(caught.value) == words


def test_what_an_onnxruntime_has_beyond_the_table() -> None:
    """Azure calls a service, and is no device."""
    found = list(offers(["AzureExecutionProvider", "CPUExecutionProvider", "OwnExecutionProvider"]))
    assert [device.name for device in found] == [*DEVICES, "own"]
    assert (found[-1].provider, found[-1].title) == ("OwnExecutionProvider", "Own")


def test_the_table_knows_onnxruntimes_own_names() -> None:
    """ROCm went out of it in 1.23."""
    known = {*onnxruntime.get_all_providers(), "ROCMExecutionProvider"}
    assert {device.provider for device in DEVICES.values()} <= known


# --- What onnxruntime is asked for --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("cpu", [("CPUExecutionProvider", {})]),
        ("cuda:1", [("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0}), CPU_LAST]),
        (
            "tensorrt:2",
            [
                ("TensorrtExecutionProvider", {"device_id": 2}),
                ("CUDAExecutionProvider", {"device_id": 2, "use_tf32": 0}),
                CPU_LAST,
            ],
        ),
        (
            "openvino",
            [
                (
                    "OpenVINOExecutionProvider",
                    {"device_type": "CPU", "precision": "FP32", "num_of_threads": "3"},
                ),
                CPU_LAST,
            ],
        ),
        (
            "openvino:gpu.1",
            [
                (
                    "OpenVINOExecutionProvider",
                    {"device_type": "GPU.1", "precision": "FP32", "num_of_threads": "3"},
                ),
                CPU_LAST,
            ],
        ),
        (
            "openvino:npu",
            [
                ("OpenVINOExecutionProvider", {"device_type": "NPU", "num_of_threads": "3"}),
                CPU_LAST,
            ],
        ),
        ("coreml", [("CoreMLExecutionProvider", {"ModelFormat": "MLProgram"}), CPU_LAST]),
        ("dml", [("DmlExecutionProvider", {"device_id": 0}), CPU_LAST]),
        ("webgpu", [("WebGpuExecutionProvider", {}), CPU_LAST]),
        ("xnnpack", [("XnnpackExecutionProvider", {"intra_op_num_threads": "3"}), CPU_LAST]),
        ("own", [("OwnExecutionProvider", {}), CPU_LAST]),
    ],
)
def test_providers_and_their_options(text: str, chosen: Any) -> None:
    found = providers(*find(text, ["OwnExecutionProvider"]), threads=3)
    assert found == chosen
    known = ("cpu", "cuda", "openvino")
    assert maps(found) == text.startswith(known)  # others are given copies of the weights


def test_tf32_is_an_option_of_open(wheel: Any, tmp_path: Path) -> None:
    made = wheel(GPU, True)
    path = tiny.save(tiny.residual(), tmp_path / "m.onnx")
    for device in ("cuda", "auto"):
        layertap.open(path, device=device, tf32=True).tap("y")
        assert made.asked[-1][0][1]["use_tf32"] == 1
    with pytest.raises(UsageError, match="got 'tensorrt'"):
        layertap.open(path, device="tensorrt", tf32=True)


def test_channels_last_is_an_option_of_open(wheel: Any, tmp_path: Path) -> None:
    made = wheel(GPU, True)
    path = tiny.save(tiny.residual(), tmp_path / "m.onnx")
    for given in (False, True):
        layertap.open(path, device="cuda", prefer_nhwc=given).tap("y")
        assert made.asked[-1][0][1].get("prefer_nhwc", 0) == int(given)


def test_weights_are_not_shared_on_a_device_that_copies_them(wheel: Any, tmp_path: Path) -> None:
    wheel(["DmlExecutionProvider", "CPUExecutionProvider"], True)
    path = tiny.save(tiny.residual(), tmp_path / "m.onnx")
    model = layertap.open(path, device="directml", share_weights=True)
    assert model.device == "directml:0"
    with pytest.raises(UsageError) as caught:
        model.tap("a")
    assert str(caught.value) == "share_weights=True is not supported on device 'directml:0'."


# --- Why one is not available ---------------------------------------------------------------------


class Wheel:
    """An onnxruntime of which nothing works but the CPU, unless a test says so."""

    __version__ = "1.99.0"
    SessionOptions = onnxruntime.SessionOptions
    RunOptions = onnxruntime.RunOptions

    def __init__(self, providers: list[str], works: bool = False, says: str = "") -> None:
        self.__file__ = str(Path(__file__))
        self.available, self.works, self.says = providers, works, says
        self.severity: list[int] = []
        self.asked: list[Any] = []

    def get_available_providers(self) -> list[str]:
        return self.available

    def preload_dlls(self) -> None:
        print(self.says)

    def set_default_logger_severity(self, level: int) -> None:
        self.severity.append(level)

    def InferenceSession(  # noqa: N802 - onnxruntime's name
        self, model: bytes, options: Any, providers: list[Any], enable_fallback: int
    ) -> Any:
        onnx.checker.check_model(model, full_check=True)
        self.asked.append(providers)
        if self.says.startswith("CUDA failure"):
            raise RuntimeError(self.says)
        names = [name for name, _ in providers if self.works or name == "CPUExecutionProvider"]
        return types.SimpleNamespace(
            get_providers=lambda: names or ["CPUExecutionProvider"],
            run=lambda outputs, feeds, options=None: [-feeds["x"]],
        )


GPU = ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(*args: Any, wheels: list[str] | None = None) -> Wheel:
        made = Wheel(*args)
        for module in (engine, session):
            monkeypatch.setattr(module, "import_onnxruntime", lambda: made)
        monkeypatch.setattr("layertap.cli.devices.import_onnxruntime", lambda: made)
        monkeypatch.setattr(probe, "_work", set())
        installed = dict.fromkeys(wheels or ["onnxruntime-gpu"], "1.99.0")

        def version(name: str) -> str:
            if name not in installed:
                raise metadata.PackageNotFoundError(name)
            return installed[name]

        monkeypatch.setattr(metadata, "version", version)
        return made

    return install


def refusal(device: str = "cuda") -> str:
    with pytest.raises(DeviceError) as caught:
        Engine(Settings(device=device))
    return str(caught.value)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="a CUDA wheel is here"
)
def test_cuda_asked_of_the_wheel_that_is_installed() -> None:
    (installed,) = probe.wheels()
    assert installed.split()[1] == onnxruntime.__version__
    assert refusal() == (
        f"device 'cuda' is not available: the installed {installed} was built without CUDA. Run "
        f'`pip uninstall {installed.split()[0]}`, then `pip install ".[gpu]"` in a checkout of '
        "layertap, or use the device 'cpu'."
    )


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_cuda_that_works(wheel: Any, device: str) -> None:
    made = wheel(GPU, True)
    index = int(device[5:] or 0)
    engine = Engine(Settings(device=device))
    assert engine.device == f"cuda:{index}"
    assert made.asked == [[("CUDAExecutionProvider", {"device_id": index, "use_tf32": 0})]]
    Engine(Settings(device=device))
    assert len(made.asked) == 1  # tried once
    assert made.severity == [4, 2]


def test_auto_takes_cuda_where_it_works(wheel: Any) -> None:
    wheel(GPU, True)
    assert Engine(Settings(device="auto")).device == "cuda:0"
    wheel(GPU, False)
    assert Engine(Settings(device="auto")).device == "cpu"
    wheel(["CPUExecutionProvider"])
    assert Engine(Settings(device="auto")).device == "cpu"


def test_cuda_without_its_libraries(wheel: Any, capsys: pytest.CaptureFixture[str]) -> None:
    wheel(
        GPU,
        False,
        "Failed to load libcublas.so.13: libcublas.so.13: cannot open shared object file\n"
        "Failed to load /x/libcurand.so.10: cannot open\nPlease follow https://somewhere",
    )
    assert refusal() == (
        "device 'cuda:0' is not available: onnxruntime 1.99.0 could not start CUDA: it cannot "
        "load libcublas.so.13, /x/libcurand.so.10. Install the libraries of the CUDA version "
        'that it was built for, for example with `pip install "onnxruntime-gpu[cuda,cudnn]"`, or '
        "use the device 'cpu'."
    )
    assert capsys.readouterr().out == ""


def test_cuda_without_a_card(wheel: Any) -> None:
    wheel(GPU, False, "CUDA failure 100: no CUDA-capable device is detected.")
    assert (
        "could not start CUDA: CUDA failure 100: no CUDA-capable device is detected. Install"
        in (refusal("cuda:1"))
    )


def test_cuda_that_does_not_say_why(wheel: Any, tmp_path: Path) -> None:
    made = wheel(GPU, False)
    assert "could not start CUDA: no reason given. Install" in refusal()
    library = tmp_path / "capi" / "libonnxruntime_providers_cuda.so"
    library.parent.mkdir()
    library.write_bytes(b"no library")
    made.__file__ = str(tmp_path / "__init__.py")
    assert f"could not start CUDA: {library}: " in refusal()


def test_two_wheels_that_overwrote_one_another(wheel: Any) -> None:
    wheel(["CPUExecutionProvider"], wheels=["onnxruntime", "onnxruntime-gpu"])
    assert refusal() == (
        "device 'cuda' is not available: onnxruntime 1.99.0 and onnxruntime-gpu 1.99.0 are both "
        "installed and have overwritten each other's files; the result supports CPU. Run `pip "
        'uninstall onnxruntime onnxruntime-gpu`, then `pip install ".[gpu]"` in a checkout of '
        "layertap, or use the device 'cpu'."
    )


def test_a_provider_that_drops_out_when_the_session_is_made(wheel: Any) -> None:
    """The probe worked, the model does not: no silent fall to the CPU either."""
    made = wheel(GPU, True)
    engine = Engine(Settings(device="cuda"))
    made.works = False
    with pytest.raises(DeviceError) as caught:
        engine.start(tiny.residual().SerializeToString(), "'m.onnx'", None)
    assert str(caught.value) == (
        "onnxruntime 1.99.0 runs 'm.onnx' on CPUExecutionProvider, not on CUDAExecutionProvider "
        "as requested."
    )


@pytest.mark.parametrize(
    ("device", "system", "words"),
    [
        (
            "openvino:gpu",
            "linux",
            "device 'openvino' is not available: the installed onnxruntime 1.99.0 was built "
            "without OpenVINO. Run `pip uninstall onnxruntime`, then `pip install "
            "onnxruntime-openvino`, or use the device 'cpu'.",
        ),
        (
            "coreml",
            "linux",
            "device 'coreml' is not available: Core ML is only available on macOS. Use "
            "the device 'cpu'.",
        ),
        (
            "dml",
            "darwin",
            "device 'directml' is not available: DirectML is only available on Windows. Use "
            "the device 'cpu'.",
        ),
        (
            "xnnpack",
            "linux",
            "device 'xnnpack' is not available: the installed onnxruntime 1.99.0 was built "
            "without XNNPACK, as are all other wheels. Build onnxruntime from source, or use "
            "the device 'cpu'.",
        ),
    ],
)
def test_devices_that_the_installed_onnxruntime_was_not_built_for(
    device: str, system: str, words: str, wheel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(["CPUExecutionProvider"], wheels=["onnxruntime"])
    monkeypatch.setattr(sys, "platform", system)
    assert refusal(device) == words


def test_a_unit_that_is_not_there(wheel: Any) -> None:
    wheel(["OpenVINOExecutionProvider", "CPUExecutionProvider"], wheels=["onnxruntime-openvino"])
    assert refusal("openvino:gpu") == (
        "device 'openvino:gpu' is not available: onnxruntime 1.99.0 could not start OpenVINO: no "
        "reason given. See that this computer has such a unit and a driver for it, or use "
        "the device 'cpu'."
    )


def test_an_unknown_name_is_told_before_anything_is_tried(wheel: Any) -> None:
    made = wheel(GPU, True)
    assert refusal("gpus").startswith("unknown device 'gpus'. Give 'auto', a device that ")
    assert made.asked == []


# --- OpenVINO, where it is installed ------------------------------------------------------------

needs_openvino = pytest.mark.skipif(
    "OpenVINOExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="needs onnxruntime-openvino",
)


@needs_openvino
@pytest.mark.parametrize("large", [1, 10**9], ids=["mapped", "copied"])
def test_openvino_computes_what_the_cpu_does(
    large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32: bfloat16, which it prefers on some processors, would be off by 5e-3."""
    monkeypatch.setattr(engine, "MAPPED_BYTES", large)
    channels = 64
    nodes, before = [], "x"
    for index in range(4):
        nodes.append(tiny.node("Conv", f"{before} w{index}", f"c{index}", pads=[1] * 4))
        nodes.append(tiny.node("Relu", f"c{index}", f"r{index}"))
        before = f"r{index}"
    made = tiny.model(
        nodes,
        [tiny.value("x", ["n", channels, 16, 16])],
        [tiny.value("r3", None)],
        [tiny.weights(f"w{index}", channels, channels, 3, 3) for index in range(4)],
    )
    path = tiny.save(made, tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(2, channels, 16, 16)).astype(np.float32)
    model = layertap.open(path, device="openvino")
    assert model.device == "openvino:cpu"
    for name in ("r0", "r3"):
        wanted = layertap.open(path).activations(x, name)
        np.testing.assert_allclose(
            model.activations(x, name), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max()
        )


@needs_openvino
def test_openvino_does_not_fall_to_the_cpu_in_silence() -> None:
    for unit in ("gpu.77", "npu.77"):
        assert f"device 'openvino:{unit}' is not available" in refusal(f"openvino:{unit}")


# --- The command --------------------------------------------------------------------------------


def test_the_list(wheel: Any, capsys: pytest.CaptureFixture[str]) -> None:
    wheel(["OwnExecutionProvider", "CPUExecutionProvider"], True, wheels=["onnxruntime-own"])
    assert main(["devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "onnxruntime 1.99.0, from no wheel"
    assert lines[2].startswith("cpu       yes  this computer's processor; ")
    assert lines[3:5] == [
        "cuda      no   the installed onnxruntime 1.99.0 was built without CUDA. "
        "Run `pip uninstall",
        '               onnxruntime`, then `pip install ".[gpu]"` in a checkout of layertap',
    ]
    assert lines[-1] == "own       yes  see onnxruntime's documentation"
    assert max(map(len, lines)) <= 100
    assert not any(line.endswith("-") for line in lines)  # commands are for copying


def test_the_list_for_machines(wheel: Any, capsys: pytest.CaptureFixture[str]) -> None:
    wheel([*GPU, "OpenVINOExecutionProvider"], True)
    assert main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["onnxruntime"], found["wheels"]) == ("1.99.0", ["onnxruntime-gpu 1.99.0"])
    rows = {row.pop("device"): row for row in found["devices"]}
    names = [name for name in DEVICES if name not in ("cuda", "openvino")]
    assert {*names, "cuda:0", "openvino:cpu", "openvino:gpu", "openvino:npu"} == rows.keys()
    assert rows["cuda:0"] == {
        "provider": "CUDAExecutionProvider",
        "what": "NVIDIA cards",
        "available": True,
        "reason": None,
        "remedy": None,
        "note": None,
    }
    assert rows["webgpu"] == {
        "provider": "WebGpuExecutionProvider",
        "what": "graphics cards of all makers",
        "available": False,
        "reason": "the installed onnxruntime-gpu 1.99.0 was built without WebGPU",
        "remedy": "Run `pip uninstall onnxruntime-gpu`, then `pip install onnxruntime-webgpu`",
        "note": None,
    }


def test_the_list_of_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["devices"]
    assert rows[0]["device"] == "cpu"
    assert rows[0]["available"]
    for row in rows[1:]:
        assert row["available"] == (row["reason"] is None)
