"""`layertap cam`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import layertap as api
from generators import tiny
from layertap.cam import METHODS
from layertap.view.overlays import overlay, panel
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

    # The picture at the model's input size, and the overlay.
    seen = Image.fromarray(api.load_image("pictures/a.png", size=(8, 6)).astype(np.uint8))
    expected = panel([("Original", seen), (f"dog {score:.3f}", overlay(seen, heat))])
    assert Image.open("out/a.cam.png").tobytes() == expected.tobytes()


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
    score = api.open(file).predict("pictures/a.png")[0, 0]
    seen = Image.fromarray(api.load_image("pictures/a.png", size=(8, 6)).astype(np.uint8))
    over = overlay(seen, np.load("out/a.cam.npy"), colormap="magma", alpha=0.9)
    expected = panel([("Original", seen), (f"cat {score:.3f}", over)])
    assert Image.open("out/a.cam.png").tobytes() == expected.tobytes()


def test_picture_is_cropped_as_for_the_model(pictures: Path, tmp_path: Path) -> None:
    """`keep_aspect_ratio` removes the sides, and the heat map covers the rest."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 40, 3), dtype=np.uint8)).save(
        "wide.png"
    )
    recipe = {"size": [8, 6], "keep_aspect_ratio": True, "interpolation": "bilinear",
              "scaling": {"mode": "rescale", "scale": 1 / 255}}  # fmt: skip
    Path("recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    file = tiny.save(tiny.differentiable(), tmp_path / "model.onnx")
    done = layertap("cam", file, "wide.png", "-o", "out", "--preprocess", "recipe.json")
    assert done.code == 0
    seen = api.load_image("wide.png", size=(8, 6), keep_aspect_ratio=True, interpolation="bilinear")
    picture = Image.fromarray(np.round(seen).astype(np.uint8))
    score = api.open(file).predict("wide.png", preprocess=recipe)[0]
    title = f"{LABELS[score.argmax()]} {score.max():.3f}"
    expected = panel(
        [("Original", picture), (title, overlay(picture, np.load("out/wide.cam.npy")))]
    )
    assert Image.open("out/wide.cam.png").tobytes() == expected.tobytes()


def test_classes_without_labels_have_their_index(pictures: Path, tmp_path: Path) -> None:
    made = tiny.differentiable()
    for prop in made.metadata_props:
        prop.value = prop.value.replace('"labels":["cat","dog","bird"],', "")
    file = tiny.save(made, tmp_path / "model.onnx")
    done = layertap("cam", file, "pictures/a.png", "-o", "out", "--target", "-1")
    assert re.match(r"wrote out/a.cam.png: class 2 \d\.\d{3}\n", done.err)
    assert done.code == 0


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
