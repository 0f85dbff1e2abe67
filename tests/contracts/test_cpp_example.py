"""The programs in examples/cpp, built and run: what they give is what the Python runtime gives.

They are built with the library of the Python wheel. It has no headers; those are found in
$ONNXRUNTIME_INCLUDE, where Debian's libonnxruntime-dev has them, and where `.ci/run` puts them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import layertap
from generators import tiny
from layertap.cli import main
from layertap.format.card import KEY, Card
from layertap_export import finish

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cpp"
HEADERS: list[str | Path] = [
    os.environ.get("ONNXRUNTIME_INCLUDE", ""),
    ROOT / ".cache/onnxruntime-headers/usr/include/onnxruntime",
    "/usr/include/onnxruntime",
    "/usr/local/include/onnxruntime",
]
LABELS = ["été 😀", 'quo"te', "\u001b[31mred"]
"""Texts that a reader of JSON has to decode, and one that a terminal would obey."""
RECIPE = {"size": [8, 6], "scaling": {"mode": "rescale", "scale": 1 / 255}}
PICTURES = {"grey.pgm": (13, 9, 1), "colours.ppm": (11, 16, 3)}


class Programs:
    """The built programs, and the files that they read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, program: str, *arguments: object, fails: bool = False) -> str:
        """What it prints; with `fails`, its message."""
        done = subprocess.run(
            [self.folder / program, *map(str, arguments)],
            cwd=self.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == int(fails), done.stderr
        return done.stderr if fails else done.stdout

    def array(self, program: str, *arguments: object) -> NDArray[Any]:
        self.run(program, *arguments, "out.npy")
        found: NDArray[Any] = np.load(self.folder / "out.npy")
        return found


def pixels(name: str) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, PICTURES[name], np.uint8)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    if sys.platform != "linux" or not all(map(shutil.which, ("make", "g++", "gcc"))):
        pytest.skip("needs Linux, make, gcc and g++")
    known = [path for path in HEADERS if path and (Path(path) / "onnxruntime_cxx_api.h").exists()]
    if not known:
        pytest.skip("needs the headers of onnxruntime: set ONNXRUNTIME_INCLUDE")
    import onnxruntime

    libraries = [*(Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")]
    if len(libraries) != 1:
        pytest.skip("needs an onnxruntime whose wheel has libonnxruntime.so")
    folder = tmp_path_factory.mktemp("cpp")
    library = folder / "lib"
    library.mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (library / name).symlink_to(libraries[0])
    command = ["make", "-s", f"INCLUDE={known[0]}", f"LIB={library}", f"OUT={folder}"]
    built = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "warning" not in built.stderr

    model = tiny.differentiable(states_axes=True)
    for entry in model.metadata_props:
        if entry.key != KEY:
            continue
        labelled = replace(Card.from_json(entry.value), digest=None, labels=tuple(LABELS))
        entry.value = labelled.to_json()
    file = tiny.save(model, folder / "tiny.onnx")
    layers = ["image", "relu"]
    finish(file, folder / "app.onnx", heat_map="relu", layers=layers, preprocess=RECIPE)
    finish(file, folder / "batch.onnx", heat_map="relu", batch=True, preprocess=RECIPE)
    for form in ("required", "optional"):
        ends = ["--to", "probs", "grad/relu", "grad/mixed", "--class-input", form]
        assert main(["cut", str(file), *ends, "-o", str(folder / f"{form}.onnx")]) == 0
    for name in PICTURES:
        Image.fromarray(pixels(name).squeeze()).save(folder / name)
    return Programs(folder)


@pytest.fixture(scope="module")
def model(programs: Programs) -> layertap.Model:
    return layertap.open(programs.folder / "tiny.onnx")


@pytest.mark.parametrize("picture", PICTURES)
def test_scores_with_their_labels(programs: Programs, model: layertap.Model, picture: str) -> None:
    (scores,) = model.predict(pixels(picture), preprocess=RECIPE)
    order = np.argsort(-scores, kind="stable")
    shown = [LABELS[i].replace("\u001b", r"\x1b") for i in order]
    lines = [
        line.split(" ", 1)
        for line in programs.run("layertap", "scores", "app.onnx", picture).splitlines()
    ]
    assert [label for _, label in lines] == shown
    np.testing.assert_array_equal([np.float32(score) for score, _ in lines], scores[order])
    first = programs.run("layertap", "scores", "app.onnx", picture, 1)
    assert first.split(" ", 1)[1] == shown[0] + "\n"


@pytest.mark.parametrize("picture", PICTURES)
def test_a_layer_in_both_languages(programs: Programs, model: layertap.Model, picture: str) -> None:
    expected = model.activations(pixels(picture), "relu", preprocess=RECIPE)
    found = programs.array("layertap", "layer", "app.onnx", picture, "relu")
    np.testing.assert_array_equal(found, expected)
    (programs.folder / "pixels").write_bytes(pixels(picture).tobytes())
    programs.run("layer", "app.onnx", "pixels", *PICTURES[picture], "relu", "out.f32")
    values = np.fromfile(programs.folder / "out.f32", np.float32)
    np.testing.assert_array_equal(values, expected.ravel())


@pytest.mark.parametrize("app", ["app.onnx", "batch.onnx"])
@pytest.mark.parametrize("target", [*LABELS, "1", "top"])
def test_a_heat_map(programs: Programs, model: layertap.Model, app: str, target: str) -> None:
    shown = pixels("colours.ppm")
    asked = int(target) if target.isdigit() else target
    expected = model.cam(shown, "relu", asked, resize=shown.shape[:2], preprocess=RECIPE)
    found = programs.array("layertap", "cam", app, "colours.ppm", target)
    np.testing.assert_allclose(found.squeeze(), np.squeeze(expected), atol=1e-5)
    programs.run("layertap", "cam", app, "colours.ppm", target, "map.pgm")
    drawn = np.asarray(Image.open(programs.folder / "map.pgm")) / 255
    np.testing.assert_allclose(drawn, np.squeeze(expected), atol=0.5 / 255 + 1e-5)


@pytest.mark.parametrize("form", ["required", "optional"])
@pytest.mark.parametrize("layer", ["relu", "mixed"])
def test_the_gradient_of_a_class(
    programs: Programs, model: layertap.Model, form: str, layer: str
) -> None:
    for target, label in enumerate(LABELS):
        expected = model.gradients(pixels("grey.pgm"), layer, target=target, preprocess=RECIPE)
        found = programs.array(
            "layertap", "gradient", "app.onnx", "grey.pgm", f"{form}.onnx", layer, label
        )
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


GRADIENT = ("gradient", "app.onnx", "grey.pgm", "required.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scores", "missing.onnx", "grey.pgm"), "missing.onnx"),
        (("scores", "tiny.onnx", "grey.pgm"), "has no 'scores'"),
        (("scores", "app.onnx", "grey.pgm", "-1"), "K must be"),
        (("scores", "app.onnx", "tiny.onnx"), "neither a binary PGM"),
        (("scores", "app.onnx", "missing.ppm"), "cannot be opened"),
        (("scores", "app.onnx", "short.ppm"), "ends before the last pixel"),
        (("scores", "app.onnx", "deep.pgm"), "has not 8 bits"),
        (("scores", "app.onnx", "empty.pgm"), "has no pixels"),
        (("scores", "app.onnx", "huge.pgm"), "more than 178956970 pixels"),
        (("scores", "app.onnx", "endless.pgm"), "over 65536"),
        (("scores", "app.onnx", "letters.pgm"), "header of the picture is damaged"),
        (("layer", "app.onnx", "grey.pgm", "relv", "x.npy"), "has no output 'relv'; it has probs"),
        (("cam", "app.onnx", "grey.pgm", "edema", "x.pgm"), "no class 'edema'"),
        (("cam", "app.onnx", "grey.pgm", "0", "none/x.pgm"), "cannot be written"),
        ((*GRADIENT, "last", "0", "x.npy"), "no gradient of 'last'; it has those of mixed relu"),
        ((*GRADIENT, "relu", "3", "x.npy"), "a class from 0 to 2"),
        ((*GRADIENT, "relu", "top", "x.npy"), "a class from 0 to 2"),
    ],
)
def test_errors_say_what_is_wrong(
    programs: Programs, arguments: tuple[str, ...], message: str
) -> None:
    for name, content in {
        "short.ppm": b"P6 2 2 255\n12345678901",
        "deep.pgm": b"P5 2 2 65535\n12345678",
        "empty.pgm": b"P5 0 2 255\n",
        "huge.pgm": b"P5 65536 65536 255\n",
        "endless.pgm": b"P5 99999999999999999999 1 255\n",
        "letters.pgm": b"P5 # comment\n a 2 255\n1234",
    }.items():
        (programs.folder / name).write_bytes(content)
    found = programs.run("layertap", *arguments, fails=True)
    assert found.startswith("layertap: ")
    assert message in found
