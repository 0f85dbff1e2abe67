"""`layertap cam`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import layertap as api
from generators import tiny
from layertap.cam import METHODS, resize
from layertap.view.colormaps import colored
from layertap.view.overlays import overlay
from layertap.view.panels import MARGIN
from shell import layertap

LABELS = ("cat", "dog", "bird")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny.save(tiny.differentiable(), tmp_path / "model.onnx")


def test_one_image_and_one_target_give_one_map(file: Path, pictures: Path) -> None:
    """The picture, the map of `Model.cam`, and the report are written."""
    done = layertap(
        "cam", file, "pictures/a.png", "--layer", "relu", "--target", "dog", "-o", "out"
    )
    model = api.open(file)
    score = model.predict("pictures/a.png")[0, 1]
    assert (done.code, done.out) == (0, "")
    assert done.err == f"wrote out/a.cam.png: dog {score:.3f}\nwrote out/cam.json\n"
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "a.cam.npy", "a.cam.png", "cam.json",
    ]  # fmt: skip

    heat = np.load("out/a.cam.npy")
    assert (heat.shape, heat.dtype) == ((8, 6), np.float32)
    np.testing.assert_array_equal(heat, model.cam("pictures/a.png", "relu", "dog"))

    assert json.loads(Path("out/cam.json").read_text(encoding="utf-8")) == {
        "model": str(file),
        "method": "gradcam",
        "layer": "relu",
        "colormap": "jet",
        "alpha": 0.5,
        "images": [
            {
                "image": "pictures/a.png",
                "overlay": "a.cam.png",
                "maps": "a.cam.npy",
                "targets": [{"label": "dog", "index": 1, "score": pytest.approx(float(score))}],
            }
        ],
        "failures": [],
    }

    # The overlay has the size of the picture, twice as high and wide as the model's input.
    picture = Image.open("pictures/a.png")
    expected = overlay(picture, resize(heat, (16, 12)))
    assert (expected.size, api.load_image(picture).shape) == ((12, 16), (16, 12, 3))
    done = layertap(
        *("cam", file, "pictures/a.png", "--layer", "relu", "--target", "dog", "-o", "out"),
        *("--show", "overlay"),
    )
    found = np.asarray(Image.open("out/a.cam.png"), int)
    assert np.abs(found - np.asarray(expected, int)).max() <= 1  # rounding at the end of a colour
    done = layertap("cam", file, "pictures/a.png", "-o", "out", "--show", "map", "--layer", "relu",
                    "--target", "dog")  # fmt: skip
    assert done.code == 0
    assert Image.open("out/a.cam.png").tobytes() == colored(heat).tobytes()


def test_a_figure_shows_the_picture_and_the_overlay(file: Path, pictures: Path) -> None:
    command = ("cam", file, "pictures/a.png", "--layer", "relu", "--target", "dog")
    assert layertap(*command, "-o", "out").code == 0
    figure = np.asarray(Image.open("out/a.cam.png"))
    heat = np.load("out/a.cam.npy")
    large = Image.open("pictures/a.png").resize((192, 256), Image.Resampling.NEAREST)
    row = slice(MARGIN + 24, MARGIN + 24 + 256)  # below a line of text
    columns = [slice(at, at + 192) for at in (MARGIN, 2 * MARGIN + 192)]
    np.testing.assert_array_equal(figure[row, columns[0]], np.asarray(large))
    np.testing.assert_array_equal(figure[row, columns[1]], np.asarray(overlay(large, heat)))
    assert (figure[row.stop + MARGIN :] < 128).any()  # the caption
    options = ["--no-original", "--no-bar", "--caption", ""]
    assert layertap(*command, "-o", "small", *options).code == 0
    alone = np.asarray(Image.open("small/a.cam.png"))
    assert alone.shape == (row.stop + MARGIN, 192 + 2 * MARGIN, 3)
    np.testing.assert_array_equal(alone[row, columns[0]], figure[row, columns[1]])


def test_many_images_and_targets_give_a_map_each(file: Path, pictures: Path) -> None:
    """Targets by label, index and rank, in batches; the default layer is the last one."""
    options = ["--target", "bird", "0", "--target", "top", "--batch-size", "2"]
    done = layertap("cam", file, pictures, "-o", "new/folder", *options, "--method", "Grad-CAM++")
    assert done.code == 0
    model = api.open(file)
    report = json.loads(Path("new/folder/cam.json").read_text(encoding="utf-8"))
    assert (report["layer"], report["method"]) == ("last", "gradcam++")
    assert [Path(item["image"]).name for item in report["images"]] == [f"{n}.png" for n in "abcde"]
    for item in report["images"]:
        maps = np.load(Path("new/folder", item["maps"]))
        expected = model.cam([item["image"]], "last", ["bird", 0, "top"], method="gradcam++")[0]
        np.testing.assert_allclose(maps, expected, atol=1e-5)
        probs = model.predict(item["image"])[0]
        best = int(probs.argmax())
        assert [target["index"] for target in item["targets"]] == [2, 0, best]
        labels = [target["label"] for target in item["targets"]]
        assert labels == ["bird", "cat", LABELS[best]]
        scores = [target["score"] for target in item["targets"]]
        np.testing.assert_allclose(scores, probs[[2, 0, best]], rtol=1e-5)


def test_options_reach_the_method(file: Path, pictures: Path) -> None:
    options = ["--method", "scorecam", "--mask", "input", "--channels", "2", "--eigen-smooth"]
    done = layertap("cam", file, "pictures/a.png", "--layer", "2", "-o", "out", *options)
    assert done.code == 0
    expected = api.open(file).cam(
        "pictures/a.png", 2, method="scorecam", mask="input", channels=2, eigen_smooth=True
    )
    np.testing.assert_allclose(np.load("out/a.cam.npy"), expected, atol=1e-5)
    done = layertap("cam", file, "pictures/a.png", "-o", "out", "--aug-smooth")
    expected = api.open(file).cam("pictures/a.png", aug_smooth=True)
    np.testing.assert_allclose(np.load("out/a.cam.npy"), expected, atol=1e-5)


def test_colormap_and_alpha_change_the_overlay(file: Path, pictures: Path) -> None:
    options = ["--colormap", "magma", "--alpha", "0.9", "--target", "cat"]
    assert layertap("cam", file, "pictures/a.png", "-o", "out", *options).code == 0
    options = [*options, "--show", "overlay"]
    assert layertap("cam", file, "pictures/a.png", "-o", "out", *options).code == 0
    expected = overlay("pictures/a.png", np.load("out/a.cam.npy"), colormap="magma", alpha=0.9)
    assert Image.open("out/a.cam.png").tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "geometry",
    [
        {"keep_aspect_ratio": True, "interpolation": "bilinear"},
        {"shorter_side": 10, "interpolation": "bilinear"},
        {"shorter_side": 5, "interpolation": "nearest"},
    ],
)
def test_the_map_lies_on_the_part_that_the_model_saw(
    geometry: dict[str, Any], pictures: Path, tmp_path: Path
) -> None:
    """The picture is whole; what the model did not see is as it was."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 40, 3), dtype=np.uint8)).save(
        "wide.png"
    )
    recipe = {"size": [8, 6], "scaling": {"mode": "rescale", "scale": 1 / 255}, **geometry}
    Path("recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    file = tiny.save(tiny.differentiable(), tmp_path / "model.onnx")
    options = ["--preprocess", "recipe.json", "--show", "overlay"]
    done = layertap("cam", file, "wide.png", "-o", "out", *options)
    assert done.code == 0
    seen = api.load_image("wide.png", size=(8, 6), **geometry)
    score = api.open(file).predict("wide.png", preprocess=recipe)[0]
    np.testing.assert_array_equal(score, api.open(file).predict(seen[None] / np.float32(255))[0])
    # Where the model saw something: the columns whose change changes its input.
    original = np.asarray(Image.open("wide.png"))
    grey = np.full_like(original, 128)
    touched = []
    for column in range(40):
        changed = grey.copy()
        changed[:, column] = 255
        touched.append((api.load_image(changed, size=(8, 6), **geometry) > 128).any())
    found = np.asarray(Image.open("out/wide.cam.png"))
    changed = (found != original).any(axis=(0, 2))
    assert 0 < changed.sum() < 40
    columns_seen = np.flatnonzero(touched)  # not all between them, with `nearest`
    assert np.flatnonzero(changed)[0] >= columns_seen[0] - 1
    assert np.flatnonzero(changed)[-1] <= columns_seen[-1] + 1
    inner = slice(np.flatnonzero(changed)[0], np.flatnonzero(changed)[-1] + 1)
    assert inner.start == pytest.approx(40 - inner.stop, abs=2)  # in the middle
    heat = np.load("out/wide.cam.npy")
    rows, columns = found.shape[0], inner.stop - inner.start
    if rows == 8 and geometry.get("keep_aspect_ratio"):
        expected = overlay(original[:, inner], resize(heat, (rows, columns)))
        assert np.abs(found[:, inner] - np.asarray(expected, int)).max() <= 1


def test_classes_without_labels_have_their_index(pictures: Path, tmp_path: Path) -> None:
    made = tiny.differentiable()
    for prop in made.metadata_props:
        prop.value = prop.value.replace('"labels":["cat","dog","bird"],', "")
    file = tiny.save(made, tmp_path / "model.onnx")
    done = layertap("cam", file, "pictures/a.png", "-o", "out", "--target", "-1")
    assert re.match(r"wrote out/a.cam.png: class 2 \d\.\d{3}\n", done.err)
    assert done.code == 0


@pytest.mark.parametrize("method", ["eigencam", "KPCA-CAM"])
def test_a_map_that_explains_no_class_names_none(file: Path, pictures: Path, method: str) -> None:
    done = layertap("cam", file, "pictures/a.png", "--method", method, "-o", "out")
    name = method.lower().replace("-", "")
    assert (done.code, done.err) == (0, f"wrote out/a.cam.png: {name}\nwrote out/cam.json\n")
    report = json.loads(Path("out/cam.json").read_text(encoding="utf-8"))
    assert report["method"] == name
    (entry,) = report["images"]
    assert entry["targets"] == []
    heat = api.open(file).cam("pictures/a.png", method=method)
    np.testing.assert_allclose(np.load("out/a.cam.npy"), heat, atol=1e-6)
    done = layertap("cam", file, "pictures/a.png", "--method", method, "--target", "0", "-o", "two")
    assert done == (
        2,
        "",
        f"layertap: --target is for methods that explain a class; the map of {method} is the same "
        "for every class. Leave out --target.\n",
    )
    assert not Path("two").exists()


def test_a_ready_batch_has_a_map_for_each_row(file: Path, pictures: Path) -> None:
    batch = api.Preprocessing.from_dict(
        {"size": [8, 6], "scaling": {"mode": "rescale", "scale": 1 / 255}}
    ).batch([pictures / "a.png", pictures / "b.png"])
    np.save("both.npy", batch)
    done = layertap("cam", file, "both.npy", "--target", "dog", "--layer", "relu", "-o", "out")
    assert done.code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "both_0.cam.npy", "both_0.cam.png", "both_1.cam.npy", "both_1.cam.png", "cam.json",
    ]  # fmt: skip
    expected = api.open(file).cam(batch, "relu", ["dog"])
    report = json.loads(Path("out/cam.json").read_text(encoding="utf-8"))
    for row, entry in enumerate(report["images"]):
        assert entry["image"] == f"both.npy[{row}]"
        np.testing.assert_allclose(np.load(Path("out", entry["maps"])), expected[row, 0], atol=1e-6)
        colours = Image.fromarray(colored(expected[row, 0]))
        with Image.open(Path("out", entry["overlay"])) as drawn:
            large = colours.resize((192, 256), Image.Resampling.NEAREST)
            tile = drawn.crop((MARGIN, MARGIN + 24, MARGIN + 192, MARGIN + 24 + 256))
            assert tile.tobytes() == large.tobytes()


def test_one_row_keeps_the_name_of_the_batch(file: Path, pictures: Path) -> None:
    np.savez("one.npz", image=np.zeros((1, 8, 6, 3), np.float32))
    assert layertap("cam", file, "one.npz", "-o", "out").code == 0
    assert Path("out/one.cam.npy").exists()
    done = layertap("cam", file, "one.npz", "pictures/a.png", "-o", "out")
    assert done == (
        2, "", "layertap: give images, or one ready batch (.npy or .npz), not several batches.\n"
    )  # fmt: skip


def test_maps_of_sequences_are_arrays_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ECG with channels second."""
    monkeypatch.chdir(tmp_path)
    made = tiny.model(
        [
            tiny.node("Conv", "x k", "c", strides=[2]),
            tiny.node("GlobalAveragePool", "c", "p"),
            tiny.node("Flatten", "p", "y"),
        ],
        [tiny.value("x", ["n", 2, 10])],
        [tiny.value("y", ["n", 3])],
        [tiny.weights("k", 3, 2, 1)],
    )
    file = tiny.save(made, tmp_path / "ecg.onnx")
    x = np.random.default_rng(0).normal(size=(2, 2, 10)).astype(np.float32)
    np.save("beats.npy", x)
    done = layertap("cam", file, "beats.npy", "--layer", "c", "--method", "eigencam", "-o", "out")
    assert done.code == 0
    assert done.err.startswith("wrote out/beats_0.cam.npy: eigencam\n")
    found = np.load("out/beats_1.cam.npy")
    np.testing.assert_allclose(found, api.open(file).cam(x, "c", method="eigencam")[1, 0])
    assert found.shape == (10,)
    report = json.loads(Path("out/cam.json").read_text(encoding="utf-8"))
    assert report["images"][0] == {
        "image": "beats.npy[0]", "maps": "beats_0.cam.npy", "targets": []
    }  # fmt: skip
    assert not list(Path("out").glob("*.png"))


def test_masked_positions(file: Path, pictures: Path) -> None:
    """Without a layer the image is masked; the options are those of the library."""
    done = layertap(
        "cam", file, pictures, "-o", "out", "--method", "occlusion", "--window", "3", "2",
        "--stride", "2", "--baseline", "mean",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads(Path("out/cam.json").read_text(encoding="utf-8"))
    assert (report["layer"], report["method"]) == ("image", "occlusion")
    model = api.open(file)
    for entry in report["images"]:
        wanted = model.cam(
            entry["image"], method="occlusion", window=(3, 2), stride=2, baseline="mean"
        )
        np.testing.assert_allclose(np.load(Path("out", entry["maps"])), wanted, atol=1e-6)
    done = layertap(
        "cam", file, pictures, "-o", "out", "--method", "rise", "--layer", "relu", "--samples", "9",
        "--seed", "4", "--baseline", "0.5",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads(Path("out/cam.json").read_text(encoding="utf-8"))
    entry = report["images"][0]
    wanted = model.cam(entry["image"], "relu", method="rise", samples=9, seed=4, baseline=0.5)
    np.testing.assert_allclose(np.load(Path("out", entry["maps"])), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--method", "rise", "--stride", "2"),
            "--stride is for --method occlusion, got --method rise.",
        ),
        (
            ("--baseline", "mean"),
            "--baseline is for --method occlusion, rise, reciprocam, kernelshap, got --method "
            "gradcam.",
        ),
        (
            ("--method", "occlusion", "--baseline", "maen"),
            "baseline must be a number, an array that fits, or one of 'zero', 'mean', 'blur', got "
            "'maen'. Did you mean 'mean'?",
        ),
    ],
)
def test_options_of_other_methods(
    file: Path, pictures: Path, options: tuple[Any, ...], message: str
) -> None:
    done = layertap("cam", file, pictures, "-o", "out", *options)
    assert done.code == 2
    assert message in done.err


def test_help_lists_all_methods() -> None:
    text = " ".join(layertap("cam", "--help").out.split())
    for name in METHODS:
        assert re.search(rf"\b{re.escape(name)}(?=[ ,;])", text), name


# --- Errors -------------------------------------------------------------------------------------


def test_unreadable_images_are_reported_and_skipped(file: Path, pictures: Path) -> None:
    (pictures / "b.png").write_text("no picture")
    done = layertap("cam", file, pictures, "gone.png", "-o", "out")
    assert done.code == 1
    messages = [
        "pictures/b.png: this is not an image in a format that Pillow reads.".replace(
            "pictures", str(pictures)
        ),
        "gone.png: there is no such file.",
    ]
    for message in messages:
        assert f"layertap: {message}\n" in done.err
    report = json.loads(Path("out/cam.json").read_text(encoding="utf-8"))
    assert [Path(item["image"]).stem for item in report["images"]] == list("acde")
    assert report["failures"] == messages


def test_no_readable_image_stops_the_command(file: Path, pictures: Path) -> None:
    done = layertap("cam", file, "gone.png", "-o", "out")
    assert done == (2, "", "layertap: gone.png: there is no such file.\n")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "1:3"], "--layer must be a name or an index, got '1:3'."),
        (["--target", "3"], "class 3 is out of range: the output has 3, 0 to 2."),
        (["--alpha", "2"], "--alpha must be between 0 and 1, got 2."),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0."),
        (["-o", "model.onnx"], "-o must be a folder, but 'model.onnx' is a file."),
    ],
)  # fmt: skip
def test_invalid_option_is_an_error(
    file: Path, pictures: Path, options: list[str], message: str
) -> None:
    """Nothing is written."""
    before = sorted(Path().rglob("*"))
    done = layertap("cam", "model.onnx", "pictures/a.png", "-o", "out", *options)
    assert done == (2, "", f"layertap: {message}\n")
    assert sorted(Path().rglob("*")) == before
