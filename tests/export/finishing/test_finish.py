"""Finished files: what they take and give, beside what the runtime computes in Python."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

import layertap
from generators import tiny
from layertap._engine.session import plain_session
from layertap.cli import main
from layertap.comparing.check import check
from layertap.errors import (
    InputError,
    LayerNotFoundError,
    LayertapWarning,
    ModelFileError,
    OutputError,
    PreprocessingError,
    UsageError,
)
from layertap.format.card import KEY, Card
from layertap_export import VerificationError, add_gradients, finish
from layertap_export.finishing import assemble, heat_map, methods, picture_input, scaling
from layertap_export.finishing.classes import Classes
from layertap_export.verification import finished_files
from pages import page

STRETCHED = {"size": [8, 6], "scaling": {"mode": "rescale", "scale": 1 / 255}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny.save(tiny.differentiable(states_axes=True), tmp_path / "tiny.onnx")


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def run(path: Path, **given: Any) -> dict[str, NDArray[Any]]:
    """All outputs, by a plain session, as any client makes it."""
    session = plain_session(path)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def class_of(number: int) -> NDArray[np.int64]:
    return np.array([number], np.int64)


def relabelled(path: Path, **changes: Any) -> Path:
    """The file with another card."""
    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.key == KEY:
            entry.value = replace(Card.from_json(entry.value), digest=None, **changes).to_json()
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("method", [*methods.WITH_GRADIENT, *methods.WITHOUT_GRADIENT])
def test_heat_maps_of_every_method(file: Path, method: str, tmp_path: Path) -> None:
    layer, app = "last" if "eigen" in method else "relu", tmp_path / "app.onnx"
    finish(file, app, heat_map=layer, method=method)
    opened = layertap.open(file)
    for seed, target in enumerate((-1, 0, 1, 2)):
        shown = picture(31 + seed, 17, seed=seed)
        fed = {"target": class_of(target)} if method in methods.WITH_GRADIENT else {}
        found = run(app, image=shown, **fed)
        np.testing.assert_array_equal(found["probs"], opened.predict(shown))
        asked: Any = "top" if target == -1 or not fed else target
        expected = opened.cam(shown, layer, asked, method=method, resize=shown.shape[:2])
        assert found["heat_map"].shape == shown.shape[:2]
        np.testing.assert_allclose(found["heat_map"], expected, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"broadcasts": False},
        {"score": "output"},
        {"final": "Softmax"},
        {"channels_first": True},
    ],
)
def test_other_models(options: dict[str, Any], tmp_path: Path) -> None:
    made = tiny.differentiable(states_axes=True, **options)
    file, app = tiny.save(made, tmp_path / "tiny.onnx"), tmp_path / "app.onnx"
    finish(file, app, heat_map="mixed", top=2)
    opened, shown = layertap.open(file), picture(20, 30)
    found = run(app, image=shown, target=class_of(1))
    np.testing.assert_array_equal(found["probs"], opened.predict(shown))
    expected = opened.cam(shown, "mixed", 1, resize=(20, 30))
    np.testing.assert_allclose(found["heat_map"], expected, atol=1e-5)


def test_a_file_from_elsewhere(tmp_path: Path) -> None:
    """Channels first, an older opset, free sizes, no card."""
    made = tiny.model(
        [
            tiny.node("Conv", "x w", "conv", pads=[1, 1, 1, 1]),
            tiny.node("Relu", "conv", "relu"),
            tiny.node("GlobalAveragePool", "relu", "pool"),
            tiny.node("Flatten", "pool", "flat"),
            tiny.node("Gemm", "flat d", "y"),
        ],
        [tiny.value("x", ["n", 3, "h", "w"])],
        [tiny.value("y", ["n", 2])],
        [tiny.weights("w", 4, 3, 3, 3), tiny.weights("d", 4, 2)],
        opset=13,
    )
    plain, file = tiny.save(made, tmp_path / "plain.onnx"), tmp_path / "gradients.onnx"
    add_gradients(plain, file, "relu")
    recipe = {"size": None, "scaling": {"mode": "torch"}}
    app = tmp_path / "app.onnx"
    finish(file, app, heat_map=True, preprocess=recipe)
    shown = picture(21, 34)
    found = run(app, image=shown, target=class_of(-1))
    opened = layertap.open(file)
    expected = opened.cam(shown, "relu", preprocess=recipe)
    np.testing.assert_allclose(found["heat_map"], expected, atol=1e-5)
    np.testing.assert_allclose(found["y"], opened.predict(shown, preprocess=recipe), rtol=1e-6)


def segmentation(folder: Path) -> Path:
    """A segmentation with classes on axis 1, as PyTorch writes it."""
    made = tiny.model(
        [
            tiny.node("Conv", "x w", "conv", pads=[1, 1, 1, 1]),
            tiny.node("Relu", "conv", "relu"),
            tiny.node("Conv", "relu k", "logits"),
            tiny.node("Softmax", "logits", "y", axis=1),
        ],
        [tiny.value("x", [1, 3, 8, 6])],
        [tiny.value("y", [1, 3, 8, 6])],
        [tiny.weights("w", 4, 3, 3, 3), tiny.weights("k", 3, 4, 1, 1)],
    )
    return tiny.save(made, folder / "plain.onnx")


def test_a_segmentation_with_classes_on_the_second_axis(tmp_path: Path) -> None:
    file, app = tmp_path / "gradients.onnx", tmp_path / "app.onnx"
    add_gradients(segmentation(tmp_path), file, "relu")
    finish(file, app, heat_map=True, top=2, preprocess=STRETCHED)
    opened, finished, shown = layertap.open(file), layertap.open(app), picture(21, 34)
    means = opened.predict(shown, preprocess=STRETCHED)[0].mean((1, 2))
    order = np.argsort(-means)
    for target in (0, 1, 2):
        found = run(app, image=shown, target=class_of(target))
        np.testing.assert_array_equal(found["top_classes"], [order[:2]])
        np.testing.assert_allclose(found["top_scores"], [means[order[:2]]], rtol=1e-5)
        options: Any = {"preprocess": STRETCHED, "resize": (21, 34)}
        expected = opened.cam(shown, "relu", target, **options)
        np.testing.assert_allclose(found["heat_map"], expected, atol=1e-5)
        np.testing.assert_allclose(finished.cam(shown, target=target), expected, atol=1e-5)
    best = finished.cam(shown, target="top")
    np.testing.assert_array_equal(best, finished.cam(shown, target=int(order[0])))
    with pytest.raises(InputError, match="the output has 3, 0 to 2"):
        finished.predict({"image": shown, "target": 3})


@pytest.mark.parametrize("score", ["y:1", "conv", "conv:1"])
def test_gradients_of_no_output(score: str, tmp_path: Path) -> None:
    """A channel or a layer is no output of the model, whose classes could be chosen."""
    file, app = tmp_path / "gradients.onnx", tmp_path / "app.onnx"
    add_gradients(segmentation(tmp_path), file, "conv", score=score)
    with pytest.raises(UsageError, match=r"is not an output of the model.* --score OUTPUT"):
        finish(file, app, heat_map=True, preprocess=STRETCHED)
    finish(file, app, heat_map="relu", method="eigencam", top=1, preprocess=STRETCHED)
    assert "top_classes" in run(app, image=picture(20, 30))


@pytest.mark.parametrize(
    ("recipe", "seen"),
    [
        ({"size": [8, 6], "keep_aspect_ratio": True}, (slice(0, 40), slice(10, 40))),
        ({"size": [8, 6], "shorter_side": 8}, (slice(0, 40), slice(10, 40))),
    ],
)
def test_the_map_covers_what_the_network_sees(
    file: Path, recipe: dict[str, Any], seen: tuple[slice, slice], tmp_path: Path
) -> None:
    """A picture of 40 x 50: of its width, 30 pixels are seen."""
    app = tmp_path / "app.onnx"
    finish(file, app, heat_map="relu", preprocess=recipe)
    shown = picture(40, 50)
    found = run(app, image=shown, target=class_of(2))["heat_map"]
    opened = layertap.open(file)
    inside = np.zeros((40, 50), np.float32)
    inside[seen] = opened.cam(shown, "relu", 2, preprocess=recipe, resize=(40, 30))
    np.testing.assert_allclose(found, inside, atol=1e-5)
    assert found.max() == 1


def test_several_pictures(file: Path, tmp_path: Path) -> None:
    app = tmp_path / "app.onnx"
    finish(file, app, heat_map="relu", batch=True, top=1)
    batch = np.stack([picture(25, 19, seed=seed) for seed in range(3)])
    targets = np.array([2, -1, 0])
    found = run(app, image=batch, target=targets)
    assert found["heat_map"].shape == (3, 25, 19)
    opened = layertap.open(file)
    asked: list[Any] = [2, "top", 0]
    for row, (one, target) in enumerate(zip(batch, asked, strict=True)):
        expected = opened.cam(one, "relu", target, resize=(25, 19))
        np.testing.assert_allclose(found["heat_map"][row], expected, atol=1e-5)
    one_for_all = run(app, image=batch, target=class_of(1))["heat_map"]
    np.testing.assert_allclose(
        one_for_all[2], run(app, image=batch[2:], target=class_of(1))["heat_map"][0], atol=1e-6
    )


def test_the_models_own_input(file: Path, tmp_path: Path) -> None:
    app = tmp_path / "app.onnx"
    finish(file, app, image_input=False, heat_map="relu", top=3)
    opened = layertap.open(file)
    batch = np.random.default_rng(0).random((2, 8, 6, 3), np.float32)
    found = run(app, image=batch, target=np.array([1, 1]))
    expected = opened.cam(batch, "relu", 1)
    np.testing.assert_allclose(found["heat_map"], expected[:, 0], atol=1e-5)
    assert [value.name for value in plain_session(app).get_inputs()] == ["image", "target"]


def test_the_best_classes(file: Path, tmp_path: Path) -> None:
    app = tmp_path / "app.onnx"
    finish(file, app, top=2)
    found = run(app, image=picture(9, 9))
    order = np.argsort(-found["probs"], axis=1)[:, :2]
    np.testing.assert_array_equal(found["top_classes"], order)
    np.testing.assert_array_equal(
        found["top_scores"], np.take_along_axis(found["probs"], order, axis=1)
    )


def one_score(path: Path, batch: int | str = "batch", kind: int = tiny.FLOAT) -> Path:
    """A model with one score for two classes, and with gradients.

    Args:
        batch: the number of samples, or a symbol.
        kind: the element type in which it computes its feature maps.
    """
    made = tiny.model(
        [
            tiny.node("Transpose", "image", "turned", perm=[0, 3, 1, 2]),
            tiny.node("Conv", "turned w", "conv", pads=[1, 1, 1, 1]),
            tiny.node("Cast", "conv", "narrow", to=kind),
            tiny.node("Cast", "narrow", "wide", to=tiny.FLOAT),
            tiny.node("Tanh", "wide", "bent"),
            tiny.node("Transpose", "bent", "maps", perm=[0, 2, 3, 1]),
            tiny.node("GlobalAveragePool", "bent", "pool"),
            tiny.node("Flatten", "pool", "flat"),
            tiny.node("Gemm", "flat d", "score"),
            tiny.node("Sigmoid", "score", "p"),
        ],
        [tiny.value("image", [batch, 8, 6, 3])],
        [tiny.value("p", [batch, 1]), tiny.value("maps", [batch, 8, 6, 4])],
        [tiny.weights("w", 4, 3, 3, 3), tiny.weights("d", 4, 1)],
        card=tiny.card(
            [
                tiny.layer(0, "image", "InputLayer", (None, 8, 6, 3)),
                tiny.layer(1, "maps", "Conv2D", (None, 8, 6, 4), "image"),
                tiny.layer(2, "p", "Dense", (None, 1), "maps"),
            ],
            {"image": (batch if isinstance(batch, int) else None, 8, 6, 3)},
            {"p": (None, 1)},
            labels=("no", "yes"),
            preprocessing=STRETCHED,
        ),
    )
    add_gradients(tiny.save(made, path.with_name("plain.onnx")), path, "maps")
    return path


@pytest.mark.parametrize("target", [-1, 0, 1])
def test_one_score_for_two_classes(target: int, tmp_path: Path) -> None:
    """The first of two labels is explained by the negative score."""
    file, app = one_score(tmp_path / "gradients.onnx"), tmp_path / "app.onnx"
    finish(file, app, heat_map="maps")
    opened = layertap.open(file)
    for seed in range(4):
        shown = picture(12, 13, seed=seed)
        found = run(app, image=shown, target=class_of(target))["heat_map"]
        asked: Any = "top" if target == -1 else target
        expected = opened.cam(shown, "maps", asked, resize=(12, 13))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_best_of_two_classes_with_one_score(tmp_path: Path) -> None:
    """As `layertap run` prints them: the score of the first of two labels is 1 - p."""
    file, app = one_score(tmp_path / "gradients.onnx"), tmp_path / "app.onnx"
    finish(file, app, top=2)
    seen = set()
    for seed in range(8):
        shown = np.full((9, 9, 3), seed * 32, np.uint8)
        (p,) = layertap.open(file).predict(shown)[0]
        found = run(app, image=shown)
        best = int(p > 0.5)
        seen.add(best)
        np.testing.assert_array_equal(found["top_classes"], [[best, 1 - best]])
        np.testing.assert_allclose(found["top_scores"], [sorted([p, 1 - p])[::-1]], rtol=1e-6)
    assert seen == {0, 1}
    with pytest.raises(UsageError, match="top is 3, but 'p' has only 2 classes"):
        finish(file, app, top=3)


@pytest.mark.parametrize("samples", [1, 3])
def test_a_fixed_number_of_samples(samples: int, tmp_path: Path) -> None:
    file = one_score(tmp_path / "gradients.onnx", batch=samples)
    app, opened = tmp_path / "app.onnx", layertap.open(file)
    shown = np.stack([picture(12, 13, seed=seed) for seed in range(samples)])
    if samples > 1:
        with pytest.raises(UsageError, match=r"exactly 3 samples.* \(--batch\)"):
            finish(file, app, top=1)
    finish(file, app, heat_map=True, top=1, batch=True)
    assert plain_session(app).get_inputs()[0].shape[0] == samples
    found = run(app, image=shown, target=class_of(1))
    np.testing.assert_allclose(found["p"], opened.predict(shown), rtol=1e-6)
    maps = opened.cam(shown, target=1, resize=(12, 13)).reshape(-1, 12, 13)
    np.testing.assert_allclose(found["heat_map"], maps, atol=1e-5)
    assert check(layertap.open(app))


def test_a_model_that_computes_in_16_bits_has_a_golden_sample(tmp_path: Path) -> None:
    file = one_score(tmp_path / "gradients.onnx", kind=onnx.TensorProto.FLOAT16)
    app = tmp_path / "app.onnx"
    report = finish(file, app, heat_map="maps", layers="maps")
    assert report.card.golden is not None
    assert {"p", "maps"} <= report.card.golden.layers.keys()
    assert check(layertap.open(app))


def test_outputs_that_rounding_moves_far_are_not_in_the_golden_sample(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here all of them: a session that is asked for no outputs would compute all."""
    whole = finished_files.Comparison.run
    monkeypatch.setattr(
        finished_files.Comparison,
        "run",
        lambda self: replace(whole(self), unsteady={"probs", "top_scores"}),
    )
    finish(file, tmp_path / "app.onnx", top=1)
    with pytest.raises(ModelFileError, match="rounding alone moves them"):
        check(layertap.open(tmp_path / "app.onnx"))


def test_the_size_of_a_heat_map_is_that_of_the_first_of_several_images(tmp_path: Path) -> None:
    made = tiny.model(
        [
            tiny.node("Add", "left right", "both"),
            tiny.node("Tanh", "both", "maps"),
            tiny.node("GlobalAveragePool", "maps", "pool"),
            tiny.node("Flatten", "pool", "y"),
        ],
        [tiny.value("left", ["n", 3, 8, 6]), tiny.value("right", ["n", 3, 8, 6])],
        [tiny.value("y", ["n", 3])],
    )
    file, app = tmp_path / "gradients.onnx", tmp_path / "app.onnx"
    add_gradients(tiny.save(made, tmp_path / "plain.onnx"), file, "maps")
    with pytest.raises(UsageError, match="2 inputs that could be images"):
        finish(file, app, heat_map="maps", preprocess={})
    finish(file, app, heat_map="maps", image_input=False)
    batch = np.random.default_rng(0).normal(size=(2, 3, 8, 6)).astype(np.float32)
    fed = {"left": batch, "right": batch * 2}
    found = run(app, **fed, target=class_of(1))["heat_map"]
    expected = layertap.open(file).cam(fed, "maps", 1)
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-5)


def test_layers_and_reductions(file: Path, tmp_path: Path) -> None:
    app = tmp_path / "app.onnx"
    asked = {"relu": "mean", "mixed": None, "last": "top2", "image": None, "conv": "flatten"}
    finish(file, app, layers=asked)
    shown, opened = picture(30, 20), layertap.open(file)
    found, expected = run(app, image=shown), dict[str, Any](opened.activations(shown, asked))
    np.testing.assert_allclose(found["relu/mean"], expected["relu"], rtol=1e-6)
    np.testing.assert_allclose(found["mixed"], expected["mixed"], rtol=1e-6)
    np.testing.assert_allclose(found["last/top2"], expected["last"].values, rtol=1e-6)
    np.testing.assert_array_equal(found["last/top2/channels"], expected["last"].channels)
    np.testing.assert_allclose(found["conv/flatten"], expected["conv"], rtol=1e-5, atol=1e-6)


def test_one_layer_as_it_is_and_reduced(file: Path, tmp_path: Path) -> None:
    """Each form once, whatever selects it, and also of two layers that are one tensor."""
    app = tmp_path / "app.onnx"
    asked = {"relu": [None, "mean", "top2", "mean"], "re*": "mean", "mixed": None}
    report = finish(file, app, layers=asked)
    names = ("probs", "relu", "mixed", "relu/mean", "relu/top2", "relu/top2/channels")
    assert report.outputs == names
    shown, opened = picture(30, 20), layertap.open(file)
    found = run(app, image=shown)
    assert tuple(found) == names
    whole = opened.activations(shown, "relu")
    np.testing.assert_allclose(found["relu"], whole, rtol=1e-6)
    np.testing.assert_allclose(found["relu/mean"], whole.mean(axis=(1, 2)), rtol=1e-5)
    again = tmp_path / "again.onnx"
    finish(file, again, layers=["relu=mean", "relu", "relu=top2", "mixed"])
    assert sorted(run(again, image=shown)) == sorted(names)


@pytest.mark.parametrize("layers", [None, (), [], {}])
def test_no_layers(file: Path, layers: Any, tmp_path: Path) -> None:
    assert finish(file, tmp_path / "app.onnx", layers=layers).outputs == ("probs",)


def test_the_report_names_all_outputs(file: Path, tmp_path: Path) -> None:
    report = finish(file, tmp_path / "app.onnx", top=1, layers=["mixed", "relu=mean"])
    assert ": image -> probs, mixed, top_scores, top_classes, relu/mean)" in str(report)
    report = finish(file, tmp_path / "app.onnx", layers="all")
    named = len(layertap.open(file).layers)
    assert len(report.outputs) == named
    text = str(report).partition("-> ")[2].partition(")")[0]
    listed, _, more = text.partition(" and ")
    assert len(listed.split(", ")) + int(more.split()[0] if more else 0) == named


def test_names_that_the_model_has_already(file: Path, tmp_path: Path) -> None:
    """Its own input is called `image`: what the recipe makes of the picture gets another name."""
    app = tmp_path / "app.onnx"
    report = finish(file, app, heat_map="relu", layers="image")
    assert report.card.finished is not None
    assert report.card.finished.image == "image"
    (row,) = (layer for layer in report.card.layers if layer.name == "image")
    found = run(app, image=picture(8, 6), target=class_of(0))
    np.testing.assert_array_equal(
        found[str(row.tensor)][0], layertap.Preprocessing.from_dict(STRETCHED)(picture(8, 6))
    )
    np.testing.assert_array_equal(
        layertap.open(app).activations(picture(8, 6), "image"), found[str(row.tensor)]
    )


def test_only_plain_operators_and_little_more(file: Path, tmp_path: Path) -> None:
    app = tmp_path / "app.onnx"
    report = finish(file, app, heat_map="last", top=2, layers=["relu"])
    model = onnx.load(app)
    onnx.checker.check_model(model, full_check=True)
    assert {item.domain for item in model.opset_import} == {""}
    assert report.added_bytes < 50_000
    assert app.stat().st_size - file.stat().st_size < 50_000


def test_equal_bytes(file: Path, tmp_path: Path) -> None:
    paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path in paths:
        finish(file, path, heat_map="relu", top=2)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_source_is_not_replaced(file: Path, tmp_path: Path) -> None:
    """Also under another name: what was exported would be lost."""
    (tmp_path / "linked.onnx").symlink_to(file)
    before = file.read_bytes()
    for name in (file, tmp_path / "." / file.name, tmp_path / "linked.onnx"):
        with pytest.raises(OutputError, match="is an input, and writing the output would destroy"):
            finish(file, name, top=1)
    assert file.read_bytes() == before


# --- The runtime on a finished file ---------------------------------------------------------------


@pytest.fixture
def app(file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "app.onnx"
    finish(file, path, heat_map="relu", top=2, layers=["mixed"])
    return path


def test_the_runtime_takes_pictures_in_every_form(app: Path, file: Path, tmp_path: Path) -> None:
    shown = picture(30, 20)
    path = tmp_path / "shown.png"
    Image.fromarray(shown).save(path)
    opened, plain = layertap.open(app), layertap.open(file)
    expected = plain.predict(shown)
    for form in (shown, path, str(path), path.read_bytes(), Image.fromarray(shown), shown[None]):
        np.testing.assert_array_equal(opened.predict(form)["probs"], expected)
    heat = opened.cam(path, target="dog")
    np.testing.assert_allclose(heat, plain.cam(shown, "relu", "dog", resize=(30, 20)), atol=1e-5)
    several = opened.cam(path, target=["dog", 0])
    assert several.shape == (1, 2, 30, 20)
    np.testing.assert_array_equal(several[0, 0], heat)
    np.testing.assert_allclose(
        opened.activations(path, "mixed"), plain.activations(shown, "mixed"), rtol=1e-6
    )
    assert check(opened)


def test_deep_pictures_are_rounded_with_a_warning(app: Path, tmp_path: Path) -> None:
    deep = (picture(10, 10, 1)[..., 0].astype(np.uint16) << 8) + 77
    path = tmp_path / "deep.png"
    Image.fromarray(deep).save(path)
    file = layertap.open(app)
    with pytest.warns(LayertapWarning, match="clips its values"):
        file.predict(path)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (np.full((4, 4, 3), 70000), "from 0 to 255"),
        (np.full((4, 4, 3), -1.0, np.float32), "from 0 to 255, got -1"),
        (np.zeros((2, 4, 4, 3), np.uint8), "takes one picture"),
        (np.array([["a"]]), "takes a picture"),
        (np.zeros((4,), np.uint8), r"takes a picture: .* got an array of shape \(4,\) and dtype"),
        (None, "takes a picture: a path, an image, or an array .* got None"),
        ([], "takes a picture: .* got a list"),
        (np.zeros((4, 4, 2), np.float32), r"with 1, 3 or 4 channels, the last axis, got \(4, 4, 2"),
        (np.full((4, 4, 3), 0.5, np.float32), "from 0 to 255, got float32 from 0.5 to 0.5"),
        ({"target": 3}, "class 3 is out of range: the output has 3, 0 to 2; -1 is the one with"),
        ({"target": np.array([-4])}, "class -4 is out of range"),
        ({"target": [0, 1]}, "takes one class, got 2"),
        ({"target": np.array([1.5])}, "must contain integers"),
    ],
)
def test_what_is_no_picture(app: Path, given: Any, problem: str) -> None:
    given = {"image": picture(4, 4), **given} if isinstance(given, dict) else given
    for compute in (layertap.open(app).predict, layertap.open(app).cam):
        with pytest.raises(layertap.LayertapError, match=problem):
            compute(given)


@pytest.mark.parametrize("target", [2, -1, [1], np.array([-3]), np.int32(0)])
def test_a_class_in_every_form(app: Path, target: Any) -> None:
    shown = picture(9, 9)
    found = layertap.open(app).predict({"image": shown, "target": target})["heat_map"]
    exact = run(app, image=shown, target=np.reshape(target, -1).astype(np.int64))["heat_map"]
    np.testing.assert_array_equal(found, exact)


def test_what_a_finished_file_cannot_do(app: Path, file: Path, tmp_path: Path) -> None:
    opened, shown = layertap.open(app), picture(9, 9)
    with pytest.raises(LayerNotFoundError, match="heat map of 'relu', got layer 'last'"):
        opened.cam(shown, "last")
    with pytest.raises(UsageError, match=r"method gradcam, got 'layercam'"):
        opened.cam(shown, method="layercam")
    with pytest.raises(LayerNotFoundError, match=r"'heat_map' is an output .* `Model\.cam`"):
        opened.activations(shown, "heat_map")
    with pytest.raises(LayerNotFoundError, match=r"'top_scores' is an output .* `Model\.predict`"):
        opened.tap(["top_scores"])
    with pytest.raises(LayerNotFoundError, match=r"no layer; the file exposes 2 layers\."):
        opened.activations(shown, "heat_*")
    with pytest.raises(UsageError, match="eigen_smooth="):
        opened.cam(shown, eigen_smooth=True)
    with pytest.raises(UsageError, match="takes no preprocessing"):
        opened.predict(shown, preprocess=STRETCHED)
    with pytest.raises(UsageError, match="explains one class"):
        opened.cam(shown, target=np.ones(3, np.float32))
    other = tmp_path / "other.onnx"
    finish(file, other, heat_map="last", method="eigencam")
    with pytest.raises(UsageError, match="method eigencam, got 'gradcam'"):
        layertap.open(other).cam(shown, method="gradcam")
    with pytest.warns(LayertapWarning, match="the map of eigencam is the same for every class"):
        layertap.open(other).cam(shown, target="dog")
    finish(file, other, top=1)
    with pytest.raises(UsageError, match="without a heat map"):
        layertap.open(other).cam(shown)


def test_commands_that_need_the_file_before_it_was_finished(app: Path, tmp_path: Path) -> None:
    """Both say so, instead of advice that leads nowhere."""
    Image.fromarray(picture(9, 9)).save(tmp_path / "shown.png")
    with pytest.raises(UsageError, match=r"finished file.*made from"):
        add_gradients(app, tmp_path / "more.onnx", layers=["relu"])
    with pytest.raises(UsageError, match=r"finished file.*made from"):
        layertap.open(app).extract(tmp_path / "shown.png", ["probs"], tmp_path / "collection")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "app.onnx",
        "shown.png",
        "tiny.onnx",
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"image": "zz"}, "the input 'zz', which the graph does not have"),
        ({"target": "zz"}, "the input 'zz', which the graph does not have"),
        ({"image": "target"}, "as picture and as class"),
        ({"scores": None}, "without scores, layer or method"),
        ({"layer": None}, "without scores, layer or method"),
        ({"method": None}, "without scores, layer or method"),
        ({"heat_map": "zz"}, "no tensor 'zz'"),
        ({"scores": "zz"}, "no tensor 'zz'"),
        ({"method": "zz"}, "unknown method 'zz'"),
        ({"preprocessing": {"color_mode": "pink"}}, "pink"),
    ],
)
def test_a_card_that_was_changed(
    app: Path,
    changes: dict[str, Any],
    problem: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    card = layertap.open(app).card
    assert card is not None
    assert card.finished is not None
    relabelled(app, finished=replace(card.finished, **changes))
    Image.fromarray(picture(9, 9)).save(tmp_path / "shown.png")
    command = ["cam", str(app), str(tmp_path / "shown.png"), "-o", str(tmp_path / "maps")]
    assert main(command) == 2
    assert problem in capfd.readouterr().err


def test_a_part_of_a_finished_file(app: Path, file: Path, tmp_path: Path) -> None:
    """Its card says what it still takes and gives."""
    shown, whole, part = picture(30, 20), layertap.open(app), tmp_path / "part.onnx"
    whole.cut(part, end="probs")
    opened = layertap.open(part)
    np.testing.assert_array_equal(opened.predict(shown), layertap.open(file).predict(shown))
    assert opened.labels == ("cat", "dog", "bird")
    assert check(opened)
    with pytest.raises(UsageError, match="without a heat map"):
        opened.cam(shown)
    whole.cut(part, end=["probs", "heat_map"])
    opened = layertap.open(part)
    found = opened.cam(shown, target="dog")
    np.testing.assert_array_equal(found, whole.cam(shown, target="dog"))
    whole.cut(part, end=["heat_map"])
    found = layertap.open(part).predict({"image": shown, "target": 1})
    np.testing.assert_array_equal(found, whole.cam(shown, target=1))
    whole.cut(part, end=["top_classes"])
    np.testing.assert_array_equal(
        layertap.open(part).predict(shown), whole.predict(shown)["top_classes"]
    )
    whole.cut(part, start="mixed", end="probs")
    opened = layertap.open(part)
    maps = whole.activations(shown, "mixed")
    np.testing.assert_allclose(opened.predict(maps), whole.predict(shown)["probs"], rtol=1e-6)


def test_a_class_that_does_not_exist_stops_the_run(app: Path) -> None:
    with pytest.raises(Exception, match="out of"):
        run(app, image=picture(9, 9), target=class_of(3))


# --- Errors and faults --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "problem"),
    [
        ({"heat_map": "relu", "method": "scorecam"}, UsageError, "runs the network many times"),
        ({"heat_map": "relu", "method": "rise"}, UsageError, "runs the network many times"),
        ({"heat_map": "relu", "method": "gradcm"}, UsageError, "Did you mean 'gradcam'"),
        ({"heat_map": "pool"}, LayerNotFoundError, "no gradient for 'pool'"),
        ({"heat_map": "pool", "method": "eigencam"}, UsageError, "feature maps"),
        ({"heat_map": "relo"}, LayerNotFoundError, "Did you mean"),
        ({"top": 4}, UsageError, "only 3 classes"),
        ({"top": 0}, UsageError, "at least 1"),
        ({"layers": ["nothing"]}, LayerNotFoundError, "nothing"),
        ({"layers": {"relu": "median"}}, UsageError, "unknown reduction 'median'"),
        ({"preprocess": {"size": [9, 9]}}, InputError, "8"),
        ({"output": "prob"}, UsageError, "no output 'prob'"),
        ({}, UsageError, "nothing to add"),
        ({"layers": ["grad:relu"]}, UsageError, "not grad:LAYER or cam:CLASS"),
        ({"layers": {"cam:dog": None}}, UsageError, "not grad:LAYER or cam:CLASS"),
    ],
)
def test_bad_input(
    file: Path, options: dict[str, Any], error: type[Exception], problem: str, tmp_path: Path
) -> None:
    app = tmp_path / "app.onnx"
    more: dict[str, Any] = {"top": 1} if "output" in options else {}
    if not options:
        more = {"image_input": False}
    with pytest.raises(error, match=problem):
        finish(file, app, **options, **more)
    assert not app.exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"method": "gradcam"}, "give heat_map= (--heat-map)"),
        ({"method": "layercam", "top": 1, "heat_map": False}, "give heat_map= (--heat-map)"),
        ({"output": "probs"}, "heat_map= (--heat-map) or top= (--top)"),
        ({"output": "probs", "layers": ["relu"]}, "heat_map= (--heat-map) or top= (--top)"),
        ({"image_input": False, "top": 1, "batch": True}, "batch= (--batch) is for pictures"),
        ({"image_input": False, "top": 1, "preprocess": STRETCHED}, "(--preprocess) is for pictu"),
    ],
)
def test_options_without_effect(
    file: Path,
    options: dict[str, Any],
    problem: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In Python and on the command line, and in an export before the model is loaded."""
    app, recipe = tmp_path / "app.onnx", tmp_path / "recipe.json"
    recipe.write_text(json.dumps(STRETCHED))
    with pytest.raises(UsageError, match=re.escape(problem)):
        finish(file, app, **options)
    words = {"output": "output-name", "image_input": "no-image-input"}
    command = []
    for name, value in options.items():
        value = recipe if name == "preprocess" else value
        command += [f"--{words.get(name, name)}"] if value != False else []  # noqa: E712
        command += ["--no-image-input"] if name == "image_input" else []
        if isinstance(value, list):
            command += value
        elif not isinstance(value, bool):
            command.append(str(value))
    command = [word for word in command if word != "--heat_map"]
    assert main(["finish", str(file), "-o", str(app), *command]) == 2
    assert problem in capfd.readouterr().err
    if options.keys() <= {"method", "top", "heat_map"}:
        export = ["export", "gone:model", "-o", str(tmp_path / "new.onnx"), *command]
        assert main([*export, "--finish", str(app), "--preprocess", str(recipe)]) == 2
        assert problem in capfd.readouterr().err
    assert not app.exists()


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("--method layercam", "--method is for a finished file: give --finish"),
        ("--top 2", "--top is for a finished file: give --finish"),
        ("--finish app.onnx --top 0", "top must be at least 1"),
        ("--finish app.onnx --heat-map --method scorecam", "the network many times"),
        ("--finish app.onnx --heat-map --method gradcm", "Did you mean 'gradcam'"),
    ],
)
def test_what_an_export_refuses_before_the_model_is_loaded(
    command: str, problem: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(STRETCHED))
    words = f"export gone:model -o new.onnx --preprocess {tmp_path / 'recipe.json'}".split()
    assert main([*words, *command.split()]) == 2
    assert problem in capfd.readouterr().err


def test_an_order_of_sums_that_is_unknown_is_found_before_an_export(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"scaling": {"mode": "samplewise"}}))
    words = f"export gone:model -o new.onnx --preprocess {recipe} --finish app.onnx --top 1"
    assert main(words.split()) == 2
    assert "samplewise" in capfd.readouterr().err


def test_a_model_without_an_image_or_a_recipe(tmp_path: Path) -> None:
    flat = tiny.save(tiny.linear_chain(), tmp_path / "flat.onnx")
    with pytest.raises(PreprocessingError, match="does not say how an image becomes its input"):
        finish(flat, tmp_path / "app.onnx", top=1)
    with pytest.raises(UsageError, match="no input for an image"):
        finish(flat, tmp_path / "app.onnx", top=1, preprocess={"size": [8, 8]})


def test_a_finished_file_is_not_finished_again(app: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="finished already"):
        finish(app, tmp_path / "again.onnx", top=1)


@pytest.mark.parametrize("fault", ["formula", "scaling", "classes", "one NaN"])
def test_a_wrong_file_is_not_written(
    file: Path, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part that is added is compared with the runtime."""
    if fault == "formula":
        monkeypatch.setattr(methods, "WITH_GRADIENT", {"gradcam": methods._layercam})
    elif fault == "one NaN":  # in the second picture alone, which is 23 pixels high
        whole = heat_map.finished

        def broken(build: Any, maps: Any, axes: Any) -> Any:
            apart = (axes[0].pixels - build.int64([23])).cast(onnx.TensorProto.FLOAT)
            return whole(build, maps, axes) + apart * 0.0 / apart

        monkeypatch.setattr(assemble, "finished_map", broken)
    elif fault == "scaling":
        exact = scaling.scaled
        monkeypatch.setattr(
            picture_input,
            "scaled",
            lambda *given: exact(*given) * np.float32(1.0000001).item(),
        )
    else:
        real = Classes.best

        def reversed_scores(self: Classes, build: Any, count: int) -> Any:
            return real(replace(self, scores=-self.scores), build, count)

        monkeypatch.setattr(Classes, "best", reversed_scores)
    target = tmp_path / "app.onnx"
    with pytest.raises(VerificationError, match="differ"):
        finish(file, target, heat_map="relu", top=2)
    assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.onnx"]


def test_the_page_on_finished_files(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    client, made = re.findall(r"```python\n(.*?)```", page("finishing.md"), re.DOTALL)
    file.rename("chest.onnx")
    Image.fromarray(picture(21, 34)).save("chest.png")
    exec(made, {})
    exec(client, {})
    printed = capsys.readouterr().out
    assert printed.startswith("wrote app.onnx")
    assert printed.splitlines()[-1].endswith("(21, 34) (21, 34, 3)")


# --- Commands -----------------------------------------------------------------------------------


def test_commands(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(50, 40)).save("shown.png")
    Image.fromarray(picture(20, 70)).save("other.png")
    command = "finish tiny.onnx -o app.onnx --heat-map relu --top 2 --layers last=mean mixed"
    assert main(command.split()) == 0
    printed = capfd.readouterr().out
    assert "app.onnx" in printed
    assert "image" in printed
    assert main("run app.onnx shown.png other.png".split()) == 0
    assert main("run tiny.onnx shown.png other.png".split()) == 0
    first, second, *more = capfd.readouterr().out.splitlines()
    assert [first, second] == more
    assert main("cam app.onnx shown.png other.png -o maps --target dog".split()) == 0
    assert np.load("maps/other.cam.npy").shape == (20, 70)
    report = json.loads(Path("maps/cam.json").read_text())
    assert [image["targets"][0]["label"] for image in report["images"]] == ["dog", "dog"]
    assert main("check app.onnx".split()) == 0
    assert main("info app.onnx".split()) == 0
    printed = capfd.readouterr().out
    assert "gradcam of relu, for the class in target" in printed
    assert "prepared in the file" in printed
    assert main("run app.onnx shown.png --preprocess x.json".split()) == 2
    assert "prepares pictures itself" in capfd.readouterr().err
    assert main("run app.onnx shown.png --layers heat_map".split()) == 2
    assert "an output of the file, not a layer. `Model.cam` returns" in capfd.readouterr().err
    assert main("finish tiny.onnx -o app.onnx --no-image-input --strip --top 1".split()) == 0
    assert main("check app.onnx".split()) == 2
    assert "--strip left it out" in capfd.readouterr().err


def test_a_stripped_file(file: Path, tmp_path: Path) -> None:
    whole, short = tmp_path / "whole.onnx", tmp_path / "short.onnx"
    finish(file, whole, heat_map="relu", top=2, layers=["mixed"])
    finish(file, short, heat_map="relu", top=2, layers=["mixed"], strip=True)
    card = layertap.open(short).card
    assert card is not None
    assert (card.golden, card.verification, card.made_from, card.notes) == (None,) * 4
    assert card.labels == ("cat", "dog", "bird")
    assert [layer.name for layer in card.layers] == ["mixed", "probs"]
    assert card.stripped is True
    with pytest.raises(ModelFileError, match=r"--strip left it out\. Check the file that this"):
        check(layertap.open(short))
    shown = picture(9, 9)
    np.testing.assert_array_equal(
        layertap.open(short).cam(shown, target="dog"), layertap.open(whole).cam(shown, target="dog")
    )
    assert short.stat().st_size < whole.stat().st_size
