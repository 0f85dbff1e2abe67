"""Measure the tables of elsewhere.md and edge.md, and write them into the pages.

    python docs/_elsewhere.py demo/chest.onnx [engines] [cost] [wheels] [sizes]

A table follows the line `<!-- NAME -->` and ends with an empty line. Without names all are made.
`engines` needs OpenVINO and the onnx package, `wheels` and `sizes` ask pip.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import layertap

DOCS = Path(__file__).parent
EARLY, LATE = "conv1_relu", "conv5_block16_concat"
BILINEAR = {"size": [320, 320], "interpolation": "bilinear", "scaling": {"mode": "torch"}}

Feeds = dict[str, Any]


def made(file: Path, folder: Path) -> dict[str, Path]:
    """Files of each kind, by what they are called in the table."""
    import layertap_export

    def cut(name: str, *options: str) -> Path:
        command = [sys.executable, "-m", "layertap", "cut", str(file), "-o", str(folder / name)]
        subprocess.run([*command, *options], check=True, capture_output=True)
        return folder / name

    output = layertap.open(file).outputs[0].name
    ends = ["--to", output, f"grad/{LATE}", "--class-input"]
    nearest, bilinear = folder / "nearest.onnx", folder / "bilinear.onnx"
    layertap_export.finish(file, nearest, heat_map=True, top=3)
    layertap_export.finish(file, bilinear, heat_map=True, top=3, preprocess=BILINEAR)
    return {
        "plain: the model's output and two layers": cut("plain.onnx", "--to", output, EARLY, LATE),
        "cut at an early layer": cut("early.onnx", "--to", EARLY),
        "gradient, `--class-input required`": cut("required.onnx", *ends, "required"),
        "gradient, `--class-input optional`": cut("optional.onnx", *ends, "optional"),
        "finished, `nearest`": nearest,
        "finished, `bilinear`": bilinear,
    }


def feeds(file: Path) -> Feeds:
    """A value for each input that has to be fed, and for the weights of the classes."""
    generator, found = np.random.default_rng(0), {}
    session = _session(file)
    for value in [*session.get_inputs(), *session.get_overridable_initializers()]:
        if value.name == "image":
            found["image"] = generator.integers(0, 256, (400, 300, 3), np.uint8)
        elif value.name == "target":
            found["target"] = np.array([12])
        elif value.name == "score_weights":
            found["score_weights"] = np.eye(14, dtype=np.float32)[[12]]
        else:
            found[value.name] = generator.normal(size=(1, 320, 320, 3)).astype(np.float32)
    return found


def _session(file: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def onnxruntime_values(file: Path, given: Feeds) -> dict[str, Any]:
    session = _session(file)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def openvino_values(file: Path, given: Feeds) -> dict[str, Any]:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = {name for port in compiled.inputs for name in port.names}
    results = compiled({name: value for name, value in given.items() if name in names})
    return {name: results[port] for port in compiled.outputs for name in port.names}


def engines(file: Path) -> Iterable[Sequence[str]]:
    """Which files OpenVINO reads, and how far its values are from onnxruntime's."""
    import openvino

    yield ["File", f"OpenVINO {openvino.__version__.split('-')[0]}"]
    with tempfile.TemporaryDirectory() as folder:
        for name, path in made(file, Path(folder)).items():
            given = feeds(path)
            expected = onnxruntime_values(path, given)
            try:
                found = openvino_values(path, given)
            except Exception as exc:  # noqa: BLE001 - whatever an engine throws is the result
                yield [name, "refused: " + str(exc).strip().splitlines()[-1][:90].replace("|", "/")]
                continue
            errors = {
                key: np.abs(value.astype(np.float64) - found[key]).max()
                / (np.abs(value).max() or 1)
                for key, value in expected.items()
            }
            worst = max(errors, key=lambda key: errors[key])
            yield [name, f"{errors[worst]:.0e} in `{worst}`"]


def timed(run: Callable[[], object], rounds: int = 15) -> float:
    """The median time of a call, in milliseconds."""
    run()
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken) * 1e3


def cost(file: Path) -> Iterable[Sequence[str]]:
    """The time of one layer, from the whole file and from a part that was cut."""
    yield ["Layer", "session on the whole file", "session on the cut file", "size of the cut file"]
    whole = _session(file)
    with tempfile.TemporaryDirectory() as folder:
        for layer in (EARLY, "pool3_pool", LATE):
            part = Path(folder, "part.onnx")
            layertap.open(file).cut(part, end=layer)
            cut, given = (
                _session(part),
                {whole.get_inputs()[0].name: np.zeros((1, 320, 320, 3), "f")},
            )
            yield [
                f"`{layer}`",
                f"{timed(partial(whole.run, [layer], given)):.0f} ms",
                f"{timed(partial(cut.run, [layer], given)):.0f} ms",
                f"{part.stat().st_size / 1e6:.2g} MB",
            ]


PLATFORMS = {
    "Linux x86-64, glibc": (
        "manylinux_2_28_x86_64",
        "manylinux_2_27_x86_64",
        "manylinux2014_x86_64",
    ),
    "Linux arm64, glibc": (
        "manylinux_2_28_aarch64",
        "manylinux_2_27_aarch64",
        "manylinux2014_aarch64",
    ),
    "Linux, musl (Alpine)": ("musllinux_1_2_x86_64", "musllinux_1_1_x86_64"),
    "Linux armv7 (32 bit)": ("manylinux_2_31_armv7l", "manylinux2014_armv7l", "linux_armv7l"),
    "macOS arm64": ("macosx_15_0_arm64",),
    "macOS x86-64": ("macosx_15_0_x86_64",),
    "Windows x86-64": ("win_amd64",),
    "Windows arm64": ("win_arm64",),
    "Windows, 32 bit": ("win32",),
}
"""The tags of the wheels that pip accepts on each platform."""

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def _newest(tags: Sequence[str], python: str) -> str:
    """The version of onnxruntime that pip would install; a dash if there is none."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--no-deps", "--only-binary=:all:", "--target", "unused", "--report", "-"]
    command += [f"--python-version={python}", *(f"--platform={tag}" for tag in tags)]
    done = subprocess.run([*command, "onnxruntime"], capture_output=True, text=True, check=False)
    if done.returncode:
        if "No matching distribution" not in done.stderr:
            raise RuntimeError(done.stderr)
        return "-"
    return str(json.loads(done.stdout)["install"][0]["metadata"]["version"])


def wheels(file: Path) -> Iterable[Sequence[str]]:
    """The newest onnxruntime that pip installs on each platform, for each Python."""
    del file
    yield ["Platform", *(f"Python {python}" for python in PYTHONS)]
    for platform, tags in PLATFORMS.items():
        yield [platform, *(_newest(tags, python) for python in PYTHONS)]


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def sizes(file: Path) -> Iterable[Sequence[str]]:
    """What the runtime takes, installed by pip without bytecode."""
    yield ["What", "wheel", "installed"]
    root = DOCS.parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hatch = [
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "-t",
            "wheel",
            "-d",
            str(folder / "own"),
        ]
        subprocess.run(hatch, cwd=root, check=True, capture_output=True)
        (own,) = (folder / "own").glob("*.whl")
        total = 0.0
        for what, wanted in {
            "layertap (runtime, exporter and models)": [str(own)],
            "numpy": ["numpy"],
            "Pillow": ["pillow"],
            "onnxruntime with its own requirements": ["onnxruntime"],
        }.items():
            place = folder / re.sub(r"\W", "", what)
            # numpy is counted once.
            alone = [] if what.startswith("onnxruntime") else ["--no-deps"]
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target"]
            subprocess.run([*pip, str(place), *alone, *wanted], check=True, capture_output=True)
            if not alone:
                for part in [*place.glob("numpy*")]:
                    subprocess.run(["rm", "-r", str(part)], check=True)
            installed = megabytes(place)
            total += installed
            size = f"{own.stat().st_size / 1e6:.1f} MB" if what.startswith("layertap") else ""
            yield [what, size, f"{installed:.1f} MB"]
            if what.startswith("layertap"):
                yield ["of it the runtime alone", "", f"{megabytes(place / 'layertap'):.1f} MB"]
        yield ["together", "", f"{total:.0f} MB"]


TABLES = {"engines": engines, "cost": cost, "wheels": wheels, "sizes": sizes}


def markdown(rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row).replace("|  |", "| |") + " |" for row in rows]
    lines.insert(1, "|" + "---|" * (lines[0].count("|") - 1))
    return "\n".join(lines) + "\n"


def main(file: Path, names: Sequence[str]) -> None:
    for name in names or TABLES:
        table = markdown(TABLES[name](file))
        print(table)
        for page in (DOCS / "elsewhere.md", DOCS / "edge.md"):
            text = page.read_text(encoding="utf-8") if page.exists() else ""
            mark = f"<!-- {name} -->\n\n"
            if mark in text:
                before, after = text.split(mark)
                after = re.sub(r"\A(\|.*\n)*", lambda _, table=table: table, after)
                page.write_text(before + mark + after, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
