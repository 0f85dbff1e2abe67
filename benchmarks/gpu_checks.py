"""What must hold on an NVIDIA GPU: each check returns one line, or raises `CheckError`.

A check compares with the CPU and, where the CPU could have answered in the GPU's place, shows that
it did not: by the execution provider of each operator, and by the memory that the results are in.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import layertap
from layertap.comparing.measures import difference

from . import models

TF32 = 1e-2
"""Largest scaled error with TF32, which has a mantissa of 10 bits."""
HALF = 2e-2
"""Largest scaled error of a layer of the float16 file; of its outputs, 5e-3."""
HALF_OUTPUTS = 5e-3
HEAVY = ("Conv", "FusedConv", "MatMul", "Gemm", "FusedMatMul", "BatchNormalization", "MaxPool")
"""Operators that must all run on the GPU."""
CUDA = "CUDAExecutionProvider"
PICTURES = {"cuda": 256, "cpu": 16}


class CheckError(Exception):
    """A check did not hold."""


class Files(NamedTuple):
    """What is checked."""

    chest: Path
    """The chest model with gradients at `models.LATE`."""
    half: Path | None
    """The same in float16."""


class Machine(NamedTuple):
    """Where it is checked."""

    files: Files
    device: str
    """`cuda`; `cpu` for a rehearsal, in which what is about the GPU has to fail."""

    def open(self, **options: Any) -> layertap.Model:
        return layertap.open(self.files.chest, device=self.device, **options)


def image() -> npt.NDArray[np.float32]:
    """A prepared image, seeded, in the range that the model's recipe gives, `(1, 320, 320, 3)`."""
    return np.random.default_rng(0).uniform(-2, 1.6, (1, 320, 320, 3)).astype(np.float32)


def checks() -> Iterator[tuple[str, Callable[[Machine], str]]]:
    """The checks with their titles, the most important first."""
    yield "float32, all layers", lambda machine: _layers(machine, models.TOLERANCE)
    yield (
        "float32, NHWC, all layers",
        lambda machine: _layers(machine, models.TOLERANCE, prefer_nhwc=True),
    )
    yield "TF32, all layers", lambda machine: _layers(machine, TF32, tf32=True)
    yield "TF32 has an effect", _tf32_has_an_effect
    yield "every heavy operator runs on the GPU", _providers
    yield "results stay in the GPU's memory", _memory
    yield "DLPack with torch", _torch
    yield "DLPack with cupy", _cupy
    yield "gradients and heat maps", _gradients
    yield "extract", _extract
    yield "the float16 file", _half
    yield "without a card: an error", _no_card
    yield "without a library: an error", _no_library


def _expected(machine: Machine, what: Callable[[layertap.Model], Any]) -> Any:
    with layertap.open(machine.files.chest) as model:
        return what(model)


def _names(model: layertap.Model) -> list[str]:
    return [layer.name for layer in model.layers if layer.type != "InputLayer"]


def _worst(
    found: Mapping[str, Any], expected: Mapping[str, Any], allowed: float
) -> tuple[float, str]:
    """The largest scaled error, and where.

    Raises:
        CheckError: it is more than allowed, NaN, or arrays have other names, shapes or dtypes.
    """
    if [*found] != [*expected]:
        raise CheckError("the results have other names than those of the CPU")
    worst, at = 0.0, ""
    for name, value in expected.items():
        one = difference(np.asarray(found[name]), np.asarray(value))
        if one.problem or not one.scaled <= allowed:  # NaN is no agreement
            raise CheckError(
                f"{name!r}: {one.problem or f'{one.scaled:.1e}, allowed {allowed:.0e}'}"
            )
        if one.scaled > worst:
            worst, at = one.scaled, name
    return worst, at


def _layers(machine: Machine, allowed: float, **options: Any) -> str:
    batch = image()
    expected = _expected(machine, lambda model: model.activations(batch, _names(model)))
    with machine.open(**options) as model:
        found = model.activations(batch, [*expected])
        worst, at = _worst(found, expected, allowed)
        same = all(np.array_equal(found[name], value) for name, value in expected.items())
    if same:
        raise CheckError("every layer is equal to the CPU's to the last bit: was it the CPU?")
    return f"{len(expected)} layers, largest scaled error {worst:.1e} in {at!r}"


def _tf32_has_an_effect(machine: Machine) -> str:
    batch = image()
    values = []
    for tf32 in (False, True):
        with machine.open(tf32=tf32) as model:
            values.append(np.asarray(model.activations(batch, models.LATE)))
    error = difference(values[1], values[0]).scaled
    if not 1e-5 < error < TF32:
        raise CheckError(f"with it {models.LATE!r} changes by {error:.1e} of its scale")
    return f"{models.LATE!r} changes by {error:.1e} of its scale"


def _providers(machine: Machine) -> str:
    """By onnxruntime's profile, which names the provider of each operator."""
    counts: Counter[tuple[str, bool]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        options = {"enable_profiling": True, "profile_file_prefix": str(Path(folder, "run"))}
        with machine.open(session_options=options) as model:
            program = model._program  # the profile is in onnxruntime's own session
            outputs = [info.name for info in model.outputs]
            fetch = program.fetch(outputs, fused=True)
            fetch(program.prepare(fetch.plan.needs, image(), None, watch=False))
            assert fetch.session is not None
            events = json.loads(Path(fetch.session.inner.end_profiling()).read_text("utf-8"))
    for event in events:
        if event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time"):
            args = event["args"]
            counts[str(args.get("op_name")), args.get("provider") == CUDA] += 1
    elsewhere = {op: n for (op, on_gpu), n in counts.items() if not on_gpu}
    heavy = {op: n for op, n in elsewhere.items() if op in HEAVY}
    on_gpu = sum(n for (_, there), n in counts.items() if there)
    if heavy or not on_gpu:
        raise CheckError(f"{on_gpu} operators ran on the GPU, and elsewhere {heavy or elsewhere}")
    return f"{on_gpu} operators on the GPU, elsewhere {elsewhere or 'none'}"


def _memory(machine: Machine) -> str:
    batch = image()
    expected = _expected(machine, lambda model: model.activations(batch, _names(model)))
    with machine.open() as model:
        values: Any = model.activations(batch, [*expected], on_device=True)
        places = {value.device_name().lower() for value in values.values()}
        if places != {"cuda"}:
            raise CheckError(f"they are in {', '.join(sorted(places))}")
        found = {name: value.numpy() for name, value in values.items()}
        worst, at = _worst(found, expected, models.TOLERANCE)
    return f"{len(expected)} layers, largest scaled error {worst:.1e} in {at!r}"


def _shared(machine: Machine, put: Callable[[Any], Any], take: Callable[[Any], Any]) -> str:
    """A batch that another library put on the GPU, and a layer that it takes from there."""
    batch = image()
    expected = _expected(machine, lambda model: model.activations(batch, models.LATE))
    with machine.open() as model:
        value: Any = model.activations(put(batch), models.LATE, on_device=True)
        worst, _ = _worst({models.LATE: take(value)}, {models.LATE: expected}, models.TOLERANCE)
    return f"an input and a layer, without a copy; scaled error {worst:.1e}"


def _torch(machine: Machine) -> str:
    try:
        import torch  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return "skipped: torch is not installed"
    if not torch.cuda.is_available():
        return "skipped: this torch has no GPU"

    def take(value: Any) -> Any:
        tensor = torch.from_dlpack(value)
        if tensor.device.type != "cuda":
            raise CheckError(f"torch sees it in {tensor.device}")
        return tensor.cpu().numpy()

    return _shared(machine, lambda batch: torch.from_numpy(batch).to("cuda"), take)


def _cupy(machine: Machine) -> str:
    try:
        import cupy  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return "skipped: cupy is not installed"
    return _shared(machine, cupy.asarray, lambda value: cupy.asnumpy(cupy.from_dlpack(value)))


def _gradients(machine: Machine) -> str:
    batch = image()

    def both(model: layertap.Model) -> dict[str, Any]:
        return {
            "gradients": model.gradients(batch, models.LATE, 0),
            "cam": model.cam(batch, target=0),
        }

    expected = _expected(machine, both)
    with machine.open() as model:
        worst, at = _worst(both(model), expected, models.TOLERANCE)
    return f"largest scaled error {worst:.1e} in the {at}"


def _extract(machine: Machine) -> str:
    """A collection, compared with the CPU's in some rows."""
    import time

    from layertap_models import phantom

    recipe = layertap.Preprocessing.from_dict(models.RECIPE)
    with tempfile.TemporaryDirectory() as folder:
        first = phantom.write_samples(Path(folder, "first"), 16)
        images = Path(folder, "images")
        images.mkdir()
        for number in range(PICTURES[machine.device]):
            shutil.copy(first[number % len(first)], images / f"{number:04}.png")
        asked = {models.LATE: "mean"}
        rows = {}
        for device, source in ((machine.device, images), ("cpu", Path(folder, "first"))):
            with layertap.open(machine.files.chest, device=device) as model:
                started = time.perf_counter()
                features = model.extract(
                    str(source), asked, Path(folder, f"to-{source.name}"), preprocess=recipe
                )
                if source is images:
                    seconds = time.perf_counter() - started
                rows[source.name] = np.array(features[models.LATE][: len(first)])
    worst, _ = _worst({models.LATE: rows["images"]}, {models.LATE: rows["first"]}, models.TOLERANCE)
    rate = PICTURES[machine.device] / seconds
    return f"{rate:.0f} images of 1024 x 1024 per second; scaled error {worst:.1e}"


def _half(machine: Machine) -> str:
    if machine.files.half is None:
        return "skipped: no float16 file was given"
    batch = image()
    expected = _expected(machine, lambda model: model.activations(batch, _names(model)))
    with layertap.open(machine.files.half, device=machine.device) as model:
        worst, at = _worst(model.activations(batch, [*expected]), expected, HALF)
        outputs = {"outputs": model.predict(batch)}
        whole = _expected(machine, lambda one: one.predict(batch))
        error, _ = _worst(outputs, {"outputs": whole}, HALF_OUTPUTS)
    return f"outputs {error:.1e}, layers {worst:.1e} in {at!r}, compared with float32 on the CPU"


_CHILD = """
import sys, warnings
warnings.simplefilter("ignore")
if sys.argv[3] == "apart":
    import onnxruntime
    onnxruntime.preload_dlls = lambda *args, **more: None
import layertap
try:
    layertap.open(sys.argv[1], device=sys.argv[2])
except layertap.DeviceError as exc:
    print("DeviceError:", exc)
    print("auto:", layertap.open(sys.argv[1], device="auto").device)
else:
    print("no error")
"""


def _refused(machine: Machine, how: str, **environment: str) -> str:
    """The message of a process that must not find the GPU."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(machine.files.chest), machine.device, how],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    message, _, auto = done.stdout.strip().rpartition("\nauto: ")
    if done.returncode or not message.startswith("DeviceError: ") or auto != "cpu":
        raise CheckError(f"exit code {done.returncode}: {done.stdout[-300:]} {done.stderr[-300:]}")
    return message.removeprefix("DeviceError: ")


def _no_card(machine: Machine) -> str:
    return _refused(machine, "as it is", CUDA_VISIBLE_DEVICES="-1")


def _no_library(machine: Machine) -> str:
    """Empty files stand where the loader looks first for CUDA's libraries."""
    import onnxruntime

    library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if not library.is_file() or not shutil.which("ldd"):
        raise CheckError(f"there is no {library}, or no ldd")
    listed = subprocess.run(["ldd", library], capture_output=True, text=True, check=False).stdout
    names = {*re.findall(r"(lib(?:cudnn|cublas|cufft|curand)\w*\.so\.\d+)", listed)}
    if not names:
        raise CheckError("onnxruntime's library needs none of CUDA's")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            Path(folder, name).touch()
        message = _refused(machine, "apart", LD_LIBRARY_PATH=folder)
    if not any(name.partition(".so")[0] in message for name in names):
        raise CheckError(f"the error names no library: {message}")
    return message
