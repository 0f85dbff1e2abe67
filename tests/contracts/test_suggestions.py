"""Every error about an unknown name suggests the nearest known names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import layertap
import layertap_export
import layertap_models
from generators import tiny
from generators.collection import extract
from layertap.errors import LayertapError
from layertap.format.card import TensorInfo
from layertap.images.preprocessing import Preprocessing
from layertap.view.colormaps import colored
from layertap.view.documents import save_picture
from layertap_export.api.add_gradients import add_gradients
from layertap_export.gradients.score import asked_score
from layertap_export.keras_model.loading import load_model
from layertap_export.keras_model.loading.custom_objects import find_module, import_object
from layertap_export.keras_model.loading.weight_files import read_weights
from layertap_export.keras_model.stated import parsed, stated_inputs
from layertap_models.registry import find
from shell import layertap as shell

X = np.zeros((1, 8, 6, 3), np.float32)
PACKAGES = (layertap, layertap_export, layertap_models)
ROOTS = [Path(str(package.__file__)).parents[1] for package in PACKAGES]


@pytest.fixture(scope="module")
def model() -> layertap.Model:
    """Layers image, conv, relu, mixed, last, pool, probs; classes cat, dog, bird."""
    return layertap.open(tiny.differentiable().SerializeToString())


def opened(**options: Any) -> layertap.Model:
    """A model without a card; its input `first` is not a layer."""
    return layertap.open(tiny.channels_first().SerializeToString(), **options)


def collection() -> layertap.Features:
    extract(Path("out"), 1, 1)
    return layertap.features("out")


IN_A_MODEL: dict[str, list[tuple[Callable[[layertap.Model], Any], str]]] = {
    "layertap/format/select.py": [
        (lambda m: m.layer("rellu"), "relu"),
        (lambda m: m.activations(X, ["conv", "rellu"]), "relu"),
        (lambda m: m.gradients(X, "rellu"), "relu"),
        (lambda m: m.cam(X, layer="rellu"), "relu"),
        (lambda m: m.select("rellu*"), "relu"),
        (lambda m: m.select("re:rellu"), "relu"),
        (lambda m: m.select(type="Conv2d"), "Conv2D"),
    ],
    "layertap/_cut/reductions.py": [
        (lambda m: m.activations(X, {"relu": "men"}), "mean"),
        (lambda m: m.activations(X, "relu", dtype="float17"), "float16"),
    ],
    "layertap/_engine/feeds.py": [(lambda m: m.predict({"imgae": X}), "image")],
    "layertap/cam/targets.py": [(lambda m: m.gradients(X, "relu", "dgo"), "dog")],
    "layertap/cam/jacobians.py": [(lambda m: m.jacobian(X, "relu", "dgo"), "dog")],
    "layertap/measuring/receptive_field.py": [
        (lambda m: m.receptive_field("relu", input_name="imaeg"), "image")
    ],
    "layertap/cam/heat_maps.py": [(lambda m: m.cam(X, "lastconv"), "last-conv")],
    "layertap/cam/methods.py": [(lambda m: m.cam(X, method="leyercam"), "layercam")],
    "layertap/cam/attributions.py": [(lambda m: m.attribute(X, "smothgrad"), "smoothgrad")],
    "layertap/cam/baselines.py": [
        (lambda m: m.attribute(X, "occlusion", baseline="blurr"), "blur"),
        (lambda m: m.attribute(X, "occlusion", baseline={"imaeg": 1.0}), "image"),
    ],
    "layertap/cam/masked_inputs.py": [
        (lambda m: m.attribute(X, "occlusion", input_name="imaeg"), "image")
    ],
    "layertap/measuring/columns.py": [(lambda m: m.cost().sorted("parameter"), "parameters")],
    "layertap/view/explained.py": [
        (lambda m: m.picture(X, method="leyercam"), "layercam"),
        (lambda m: m.picture(X, method="smothgrad"), "smoothgrad"),
    ],
    "layertap/cam/scores.py": [
        (lambda m: m.cam(X, layer="relu", method="scorecam", output="prob"), "probs")
    ],
}

ELSEWHERE: dict[str, list[tuple[Callable[[], Any], str]]] = {
    "layertap/_cut/boundary.py": [(lambda: opened().resume({"frist": X}), "first")],
    "layertap/_arguments.py": [
        (lambda: opened().cam(X, mask="imput"), "input"),
    ],
    "layertap/_engine/devices.py": [(lambda: opened(device="cudda").predict(X), "cuda")],
    "layertap/_engine/engine.py": [
        (lambda: opened(providers=["CPUExecutionProvidr"]).predict(X), "CPUExecutionProvider")
    ],
    "layertap/_engine/session.py": [
        (
            lambda: opened(session_options={"intra_op_num_thread": 1}).predict(X),
            "intra_op_num_threads",
        ),
    ],
    "layertap/extract/features.py": [(lambda: collection()["bm"], "bn")],
    "layertap/format/card.py": [
        (lambda: opened().cut("cut.onnx", class_input="requried"), "required")
    ],
    "layertap/format/source.py": [(lambda: layertap.open("god.onnx"), "good.onnx")],
    "layertap/images/families.py": [(lambda: Preprocessing.of("resnet500"), "resnet50")],
    "layertap/images/load.py": [
        (lambda: layertap.load_image("god.png", color_mode="greyscale"), "grayscale"),  # type: ignore[arg-type]
        (lambda: layertap.load_image("god.png", interpolation="lanczos3"), "lanczos"),  # type: ignore[arg-type]
    ],
    "layertap/images/preprocessing.py": [
        (lambda: Preprocessing.from_dict({"colour_mode": "rgb"}), "color_mode"),
        (lambda: Preprocessing.from_dict({"scaling": {"mode": "standardise"}}), "standardize"),
        (lambda: Preprocessing.from_dict({"scaling": {"mode": "torch", "mod": 1}}), "mode"),
        (lambda: Preprocessing.from_dict({"scaling": {"mode": "troch"}}), "torch"),
    ],
    "layertap/view/documents.py": [
        (lambda: save_picture(Image.new("L", (2, 2)), "a.pgn"), "png"),
        (lambda: save_picture(Image.new("L", (2, 2)), "a.pdf", page="leter"), "letter"),
    ],
    "layertap/view/colormaps.py": [(lambda: colored(X[0, ..., 0], "virdis"), "viridis")],
    "layertap_models/registry.py": [(lambda: find("digit"), "digits")],
    "layertap_export/gradients/select.py": [
        (lambda: add_gradients("small.onnx", "new.onnx", "last-cnv"), "last-conv")
    ],
    "layertap_export/gradients/score.py": [
        (lambda: asked_score("agee", [TensorInfo(name="age", shape=(), dtype="float32")]), "age")
    ],
    "layertap_export/keras_model/loading/__init__.py": [
        (lambda: load_model("god.keras"), "good.keras")
    ],
    "layertap_export/keras_model/loading/custom_objects.py": [
        (lambda: import_object("pathlib:Pth"), "Path"),
        (lambda: find_module("custm"), "custom"),
    ],
    "layertap_export/keras_model/stated.py": [
        (lambda: stated_inputs({"x": ((None, 3), "flaot32")}), "float32"),
        (lambda: parsed(["x=?,3:flaot32"]), "float32"),
    ],
    "layertap_export/keras_model/loading/weight_files.py": [
        (lambda: read_weights("god.weights.h5"), "good.weights.h5")
    ],
}

IN_OTHER_TESTS = {
    "layertap/cli/__init__.py": "below",
    "layertap/extract/frames.py": "test_ray.py",
    "layertap/extract/sources.py": "test_sources.py",
    "layertap/extract/stream.py": "test_stream.py",
    "layertap_export/api/quantize.py": "test_quantize.py",
    "layertap_export/cli.py": "test_names_before_tensorflow.py",
    "layertap_export/keras_model/inputs.py": "test_freeing.py",
    "layertap_export/keras_model/signatures.py": "test_freeing.py",
    "layertap_export/keras_model/loading/saved_models.py": "test_saved_models.py",
    "layertap_export/verification/sizes.py": "test_sizes.py",
    "layertap_export/verification/layers.py": "test_float64.py",
}


def assert_suggests(call: Callable[[], Any], near: str) -> None:
    with pytest.raises(LayertapError) as caught:
        call()
    assert f" Did you mean {near!r}" in str(caught.value)


@pytest.mark.parametrize(("call", "near"), [row for rows in IN_A_MODEL.values() for row in rows])
def test_a_near_name_in_a_model_is_suggested(
    call: Callable[[layertap.Model], Any], near: str, model: layertap.Model
) -> None:
    assert_suggests(lambda: call(model), near)


@pytest.mark.parametrize(("call", "near"), [row for rows in ELSEWHERE.values() for row in rows])
def test_a_near_name_elsewhere_is_suggested(
    call: Callable[[], Any], near: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("good.onnx", "good.keras", "good.weights.h5"):
        Path(name).touch()
    Image.new("RGB", (6, 8)).save("good.png")
    tiny.save(tiny.image_classifier(), tmp_path / "small.onnx")
    (tmp_path / "custom.py").touch()
    assert_suggests(call, near)


def test_a_near_command_is_suggested() -> None:
    assert "Did you mean 'layers'?" in shell("layrs").err


def test_every_module_that_suggests_is_in_a_table() -> None:
    suggesting = {
        path.relative_to(root).as_posix()
        for root, package in zip(ROOTS, PACKAGES, strict=True)
        for path in (root / package.__name__).rglob("*.py")
        if "suggest(" in path.read_text(encoding="utf-8") and path.name != "errors.py"
    }
    assert suggesting == IN_A_MODEL.keys() | ELSEWHERE.keys() | IN_OTHER_TESTS.keys()
