"""The built wheel, installed by itself; and the file in the oldest onnxruntime that installs.

Both need packages that `make` downloads once into `.cache/`, so that these tests need no network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
import reference
from generators import tiny
from layertap_export.graph.passes.cast_around import cast_around
from layertap_export.graph.weights import Initializers

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / ".cache" / "wheels"
OLDEST = ROOT / ".cache" / "oldest"
PAGE = ROOT / "runtime" / "layertap" / "view" / "page"
"""The parts of the page that `layertap view` writes."""

FETCH = """
import sys, json
import layertap
model = layertap.open(sys.argv[1])
values = model.activations(json.loads(sys.argv[2]), sys.argv[3])
heavy = {"tensorflow", "keras", "onnx", "tf2onnx"} & set(sys.modules)
print(json.dumps({"values": values.tolist(), "heavy": sorted(heavy), "file": layertap.__file__}))
"""

PLAIN = """
import sys, json
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
feeds = {session.get_inputs()[0].name: np.array(json.loads(sys.argv[2]), np.float32)}
print(json.dumps({"values": session.run([sys.argv[3]], feeds)[0].tolist(),
                  "version": onnxruntime.__version__}))
"""


def _values_in_a_bare_venv(
    program: str, file: Path, folder: Path, wheels: Path, what: str
) -> dict[str, Any]:
    """What a program prints in a fresh environment with `what` from `wheels` and nothing else.

    It is given the file, an input and a layer; the values that it finds must be layertap's here.
    """
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    options = ["--quiet", "--no-compile", "--no-index", "--find-links", str(wheels)]
    subprocess.run([python, "-m", "pip", "install", *options, what], check=True)
    model = layertap.open(file)
    layer = model.select()[-1].name
    x = np.arange(8, dtype=np.float32).reshape(2, 4) / 7
    command = [str(python), "-I", "-c", program, str(file), json.dumps(x.tolist()), layer]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    found: dict[str, Any] = json.loads(done.stdout)
    np.testing.assert_allclose(found["values"], model.activations(x, layer), rtol=1e-5, atol=1e-6)
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_three_packages_and_the_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = f"layertap-{layertap.__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        license_text = archive.read(f"{info}/licenses/LICENSE")
    tops = {name.split("/")[0] for name in names}
    assert tops == {"layertap", "layertap_export", "layertap_models", info}
    for package in ("layertap", "layertap_export", "layertap_models"):
        assert f"{package}/py.typed" in names
    others = {name for name in names if not name.endswith((".py", ".typed"))}
    written = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    page = {f"layertap/view/page/{path.name}" for path in PAGE.iterdir() if path.suffix != ".py"}
    assert len(page) > 3
    assert others == {f"{info}/{name}" for name in written} | page
    assert "License-Expression: Apache-2.0\n" in metadata
    assert license_text == (ROOT / "LICENSE").read_bytes()


@pytest.mark.skipif(not WHEELS.is_dir(), reason="needs .cache/wheels, which `make` downloads")
def test_the_wheel_with_the_cpu_extra_alone_fetches_an_activation(
    wheel: Path, tiny_file: Callable[[str], Path], tmp_path: Path
) -> None:
    file = tiny_file("linear_chain")
    found = _values_in_a_bare_venv(FETCH, file, tmp_path, WHEELS, f"{wheel}[cpu]")
    assert found["heavy"] == []
    assert str(tmp_path) in found["file"]


@pytest.mark.skipif(not OLDEST.is_dir(), reason="needs .cache/oldest, which `make` downloads")
def test_the_oldest_onnxruntime_that_installs_runs_the_file(
    tiny_file: Callable[[str], Path], tmp_path: Path
) -> None:
    found = _values_in_a_bare_venv(
        PLAIN, tiny_file("linear_chain"), tmp_path, OLDEST, "onnxruntime"
    )
    assert tuple(map(int, found["version"].split(".")[:2])) <= (1, 20)


HALF = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
feeds = {"x": np.array(json.loads(sys.argv[2]), np.float16)}
print(json.dumps(session.run([sys.argv[3]], feeds)[0].astype(float).tolist()))
"""


@pytest.mark.skipif(not OLDEST.is_dir(), reason="needs .cache/oldest, which `make` downloads")
@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "LayerNormalization"])
def test_the_oldest_onnxruntime_that_installs_runs_float16(
    old_python: Path, tmp_path: Path, op_type: str
) -> None:
    """It rejects these operators in float16, unless they are put between casts."""
    made = tiny.model(
        [tiny.node("Add", "x one", "z"), tiny.node(op_type, "z g", "y")]
        if op_type == "LayerNormalization"
        else [tiny.node("Add", "x one", "z"), tiny.node(op_type, "z", "y")],
        [tiny.value("x", ["n", 4], onnx.TensorProto.FLOAT16)],
        [tiny.value("y", ["n", 4], onnx.TensorProto.FLOAT16)],
        [tiny.constant("g", [1, 2, 3, 4], np.float16), tiny.constant("one", 1, np.float16)],
    )
    x = np.arange(8, dtype=np.float16).reshape(2, 4) / 7
    command = [str(old_python), "-I", "-c", HALF, str(tmp_path / "m.onnx"), json.dumps(x.tolist())]
    tiny.save(made, tmp_path / "m.onnx")
    done = subprocess.run([*command, "y"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    cast_around(made, Initializers())
    onnx.checker.check_model(made, full_check=True)
    tiny.save(made, tmp_path / "m.onnx")
    done = subprocess.run([*command, "y"], check=True, capture_output=True, text=True, cwd=tmp_path)
    (expected,) = reference.session(made.SerializeToString()).run(["y"], {"x": x})
    np.testing.assert_allclose(json.loads(done.stdout), expected.astype(float), atol=2e-3)


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python in an environment with the oldest onnxruntime."""
    folder = tmp_path_factory.mktemp("old")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    options = ["--quiet", "--no-compile", "--no-index", "--find-links", str(OLDEST)]
    subprocess.run([python, "-m", "pip", "install", *options, "onnxruntime"], check=True)
    return python


PICTURE = """
import sys
import numpy as np, onnxruntime
given = np.load(sys.argv[2])
for name in sys.argv[3:]:
    session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
    feeds = {value.name: given[value.name] for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    np.savez(name + ".npz", **dict(zip(names, session.run(names, feeds))))
"""


@pytest.mark.skipif(not OLDEST.is_dir(), reason="needs .cache/oldest, which `make` downloads")
def test_the_oldest_onnxruntime_that_installs_runs_finished_files(
    old_python: Path, tmp_path: Path
) -> None:
    """Not all of what newer ones compute in float64 has a kernel there."""
    from layertap_export import finish
    from layertap_export.finishing.methods import WITH_GRADIENT, WITHOUT_GRADIENT
    from layertap_export.finishing.resampling import FILTERS

    file = tiny.save(tiny.differentiable(states_axes=True), tmp_path / "tiny.onnx")
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (31, 20, 4), np.uint8)
    np.savez(tmp_path / "given.npz", image=picture, target=np.array([1]))
    filters = ["nearest", *FILTERS]
    geometries: list[dict[str, Any]] = [{}, {"keep_aspect_ratio": True}, {"shorter_side": 9}]
    apps = []
    for number, method in enumerate([*WITH_GRADIENT, *WITHOUT_GRADIENT]):
        app = tmp_path / f"{number}.onnx"
        recipe = {
            "size": [8, 6],
            "interpolation": filters[number % len(filters)],
            "scaling": {"mode": "samplewise"},
        }
        geometry = geometries[number % 3]
        finish(file, app, heat_map="relu", method=method, top=2, preprocess={**recipe, **geometry})
        apps.append(app)
    command = [str(old_python), "-I", "-c", PICTURE, "", str(tmp_path / "given.npz")]
    subprocess.run([*command, *map(str, apps)], check=True, capture_output=True, cwd=tmp_path)
    for app in apps:
        session = reference.session(app.read_bytes())
        feeds = {"image": picture, "target": np.array([1])}
        feeds = {value.name: feeds[value.name] for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        found = np.load(f"{app}.npz")
        for name, expected in zip(names, session.run(names, feeds), strict=True):
            np.testing.assert_allclose(found[name], expected, atol=1e-5, err_msg=f"{app} {name}")


EVERYTHING = """
import sys
import numpy as np, onnxruntime
for name in sys.argv[2:]:
    session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    values = session.run(names, {"image": np.load(sys.argv[1])})
    np.savez(name + ".npz", **dict(zip(names, values)))
"""


@pytest.mark.skipif(not OLDEST.is_dir(), reason="needs .cache/oldest, which `make` downloads")
def test_the_oldest_onnxruntime_that_installs_runs_quantised_files(
    old_python: Path, tmp_path: Path
) -> None:
    """All outputs, gradients among them, as in float32 up to what the report says."""
    from layertap_export import add_gradients, quantize

    plain = tiny.save(tiny.digits(), tmp_path / "plain.onnx")
    add_gradients(plain, tmp_path / "digits.onnx", "average")
    images = np.random.default_rng(0).random((8, 8, 8, 1), np.float32)
    np.save(tmp_path / "images.npy", images)
    reports = [
        quantize(tmp_path / "digits.onnx", tmp_path / f"{to}.onnx", to=to, calibrate=images)
        for to in ("float16", "int8")
    ]
    command = [str(old_python), "-I", "-c", EVERYTHING, str(tmp_path / "images.npy")]
    command += [str(report.path) for report in reports]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    session = reference.session((tmp_path / "digits.onnx").read_bytes())
    names = [value.name for value in session.get_outputs()]
    expected = dict(zip(names, session.run(names, {"image": images}), strict=True))
    for report in reports:
        found = np.load(f"{report.path}.npz")
        for name, value in expected.items():
            most = 2 * max(report.error, *report.layers.values()) * np.abs(value).max()
            assert np.abs(found[name] - value).max() <= most, f"{report.path} {name}"
