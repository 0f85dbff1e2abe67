"""Points, boxes and masks: the places of a score that a gradient is taken at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from PIL import Image

import layertap
from generators import tiny
from layertap.cam.places import weights_at
from layertap.cli import main
from layertap_export import add_gradients

FIXTURES = Path(__file__).parents[2] / "fixtures" / "pytorch"


def grid(*rows: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in rows], np.float32)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ((0, 1), grid(".#..", "....", "....")),
        ((-1, -4), grid("....", "....", "#...")),
        (np.array([1, 2]), grid("....", "..#.", "....")),
        ((1, 0, 3, 2), grid("....", "##..", "##..")),
        ([0, 0, 3, 4], grid("####", "####", "####")),
        (grid("#...", "....", "...#") > 0, grid("#...", "....", "...#")),
        (np.full((3, 4), -0.5), np.full((3, 4), -0.5, np.float32)),
    ],
)
def test_places(at: Any, expected: np.ndarray) -> None:
    found = weights_at(at, (3, 4))
    assert found.shape == (1, 3, 4)
    np.testing.assert_array_equal(found[0], expected)


def test_a_sequence_has_one_index_and_a_volume_three() -> None:
    for at in (2, [2], (2, 3)):
        np.testing.assert_array_equal(weights_at(at, (5,)), [[0, 0, 1, 0, 0]])
    np.testing.assert_array_equal(weights_at(np.arange(5), (5,)), [np.arange(5)])
    found = weights_at((0, 1, 1, 2, 2, 3), (2, 2, 3))
    assert np.argwhere(found).tolist() == [[0, 0, 1, 1], [0, 0, 1, 2], [0, 1, 1, 1], [0, 1, 1, 2]]


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ((3, 0), r"at=\(3, 0\) is outside: the places have the sizes \(3, 4\)"),
        ((0, -5), "is outside"),
        ((1, 1, 1, 2), "the box .* is empty or outside"),
        ((0, 0, 4, 4), "the box .* is empty or outside"),
        ((-1, 0, 3, 4), "the box .* is empty or outside"),
        ((1,), r"at has 1 indices. The score has \(3, 4\) places: give a point of 2 indices"),
        ((1.5, 2), "the indices in at must be integers"),
        ((True, False), "the indices in at must be integers"),
        (True, "at must be a point, a box or a mask, got a bool"),
        ("1,2", "at must be a point, a box or a mask, got a str"),
        (np.ones((4, 3)), r"the mask has the shape \(4, 3\). The score has \(3, 4\) places"),
        (np.ones((1, 3, 4)), "the mask has the shape"),
        (np.zeros((3, 4)), "the mask is 0 everywhere"),
        (np.full((3, 4), np.nan), "not finite"),
        (np.full((3, 4), 1e39), "not finite"),
        (np.full((3, 4), "a"), "the mask holds <U1"),
    ],
)
def test_what_is_no_place(at: Any, words: str) -> None:
    with pytest.raises(layertap.UsageError, match=words):
        weights_at(at, (3, 4))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_a_point_is_a_box_of_one_place_and_a_mask(sizes: list[int], data: st.DataObject) -> None:
    point = [data.draw(st.integers(0, size - 1)) for size in sizes]
    mask = np.zeros(sizes, bool)
    mask[tuple(point)] = True
    box = [*point, *(index + 1 for index in point)]
    for at in (box, mask):
        np.testing.assert_array_equal(weights_at(point, sizes), weights_at(at, sizes))


# --- Files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("unet") / "grad.onnx"
    add_gradients(FIXTURES / "unet.newer.onnx", path, ["dec", "up"], score="head")
    return path


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "unet.npz") as arrays:
        return dict(arrays)


def test_a_region_of_a_segmentation_has_the_gradient_of_autograd(
    unet: Path, recorded: dict[str, np.ndarray]
) -> None:
    """The classes are the second axis there, as in all files from PyTorch."""
    model, x = layertap.open(unet), recorded["input x"]
    expected = recorded["gradient dec:0"]
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:7] = True
    for at in ((2, 3, 5, 7), mask):
        found = model.gradients(x, "dec", target=1, at=at)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    several = model.gradients(x, "dec", target=[0, 1], at=mask)
    np.testing.assert_allclose(several[:, 1], expected, rtol=1e-4, atol=1e-6)
    points = sum(
        model.gradients(x, "dec", target=1, at=(row, column))
        for row in range(2, 5)
        for column in range(3, 7)
    )
    np.testing.assert_allclose(points, expected, rtol=1e-4, atol=1e-6)
    # Without places, all count.
    everywhere = model.gradients(x, "dec", target=1)
    whole = model.gradients(x, "dec", target=1, at=(0, 0, 8, 8))
    np.testing.assert_allclose(everywhere, whole, rtol=1e-4, atol=1e-6)


def test_one_channel_of_an_output_has_the_places_of_the_output(
    tmp_path: Path, recorded: dict[str, np.ndarray]
) -> None:
    add_gradients(FIXTURES / "unet.newer.onnx", tmp_path / "grad.onnx", "dec", score="head:1")
    model, x = layertap.open(tmp_path / "grad.onnx"), recorded["input x"]
    expected = recorded["gradient dec:0"]
    found = model.gradients(x, "dec", at=(2, 3, 5, 7))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_best_class_is_that_of_the_place(unet: Path) -> None:
    model = layertap.open(unet)
    for seed in range(100):
        x = 5 * np.random.default_rng(seed).normal(size=(2, 1, 8, 8)).astype(np.float32)
        scores = model.predict(x)["conv2d_3"][0]
        differ = np.argwhere(scores.argmax(0) != scores.mean((1, 2)).argmax())
        if len(differ):
            break
    row, column = differ[0]
    best = int(scores[:, row, column].argmax())
    x[1] = x[0]
    np.testing.assert_array_equal(
        model.gradients(x, "dec", at=(row, column)),
        model.gradients(x, "dec", target=best, at=(row, column)),
    )


def test_a_heat_map_explains_a_region(
    unet: Path,
    recorded: dict[str, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from layertap.cam import heat_maps

    model, x = layertap.open(unet), recorded["input x"]
    found = heat_maps(model, x, "dec", [1], at=(2, 3, 5, 7), resize=False)
    weights = recorded["gradient dec:0"].mean((2, 3))[:, :, None, None]
    heat = np.maximum((weights * recorded["dec:0"]).sum(1), 0)
    heat /= np.maximum(heat.max((1, 2), keepdims=True), 1e-30)
    np.testing.assert_allclose(found.maps[:, 0], heat, rtol=1e-3, atol=1e-5)
    scores = recorded["head:0"][:, 1, 2:5, 3:7].mean((1, 2))
    np.testing.assert_allclose(found.scores[:, 0], scores, rtol=1e-4)

    np.save(tmp_path / "x.npy", x)
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 3:7] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.save(tmp_path / "mask.npy", mask)
    command = ["cam", str(unet), str(tmp_path / "x.npy"), "--layer", "dec", "--target", "1"]
    options = (
        ["--at", "2,3,5,7"],
        ["--mask", str(tmp_path / "mask.png")],
        ["--mask", str(tmp_path / "mask.npy")],
    )
    for at, option in enumerate(options):
        folder = tmp_path / str(at)
        assert main([*command, *option, "-o", str(folder)]) == 0
        arrays = [np.load(path) for path in sorted(folder.glob("*.npy"))]
        full = model.cam(x, "dec", target=[1], at=mask > 0)
        np.testing.assert_allclose(np.stack(arrays).reshape(full.shape), full, atol=1e-6)
    capsys.readouterr()
    for option, words in (
        (["--at", "1;2"], "--at must be ROW,COLUMN or TOP,LEFT,BOTTOM,RIGHT"),
        (["--at", "9,9"], "is outside"),
        (["--at", "1,1", "--mask", "mask.png"], "not both"),
        (["--at", "1,1", "--aug-smooth"], "cannot be combined"),
        (["--at", "1,1", "--method", "eigencam"], "methods that explain a class"),
        (["--mask", "nosuch.png"], "nosuch.png"),
        (["--mask", "input"], "--mask input is for --method scorecam"),
    ):
        assert main([*command, *option, "-o", str(tmp_path / "bad")]) != 0
        assert words in capsys.readouterr().err


def test_scores_with_one_place_take_no_place(tmp_path: Path) -> None:
    add_gradients(FIXTURES / "resnet.older.onnx", tmp_path / "grad.onnx", "layer2")
    model = layertap.open(tmp_path / "grad.onnx")
    with pytest.raises(layertap.UsageError, match="leave out at"):
        model.gradients(np.zeros((1, 3, 32, 32), np.float32), "layer2", at=(0, 0))
    with pytest.raises(layertap.UsageError, match="not for eigencam"):
        model.cam(np.zeros((1, 3, 32, 32), np.float32), "layer2", method="eigencam", at=(0, 0))


def test_masking_methods_score_the_classes_of_the_second_axis(
    recorded: dict[str, np.ndarray],
) -> None:
    """Of a file from PyTorch, whose classes are not the last axis: as the weights say."""
    made = tiny.model(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        [tiny.value("x", ["n", 2, 3, 3])],
        [tiny.value("y", ["n", 4, 3, 3])],
        [tiny.weights("w", 4, 2, 1, 1)],
    )
    model = layertap.open(made.SerializeToString())
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 3)).astype(np.float32)
    (weights,) = (onnx.numpy_helper.to_array(one)[..., 0, 0] for one in made.graph.initializer)
    mean = x[0].mean((1, 2))
    for target in range(4):
        found = model.attribute(x, "occlusion", target=target, window=3, stride=3)
        np.testing.assert_allclose(found[0, :, 0, 0].sum(), 2 * weights[target] @ mean, rtol=1e-4)
