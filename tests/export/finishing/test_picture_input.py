"""Preprocessing recipes as nodes: the same bits as the runtime's, which are Keras's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from layertap._engine.session import plain_session
from layertap.errors import UsageError
from layertap.images.load import Interpolation
from layertap.images.preprocessing import Preprocessing
from layertap_export.finishing.picture_input import prepare
from layertap_export.finishing.resampling import FILTERS
from layertap_export.gradients.builder import Builder, Value
from layertap_export.graph.shapes.shapes import Shapes

SCALINGS: list[dict[str, Any] | None] = [
    None,
    {"mode": "standardize", "mean": 142.95, "std": 67.39},
    {"mode": "samplewise"},
    {"mode": "samplewise", "epsilon": 0.5},
    {"mode": "rescale", "scale": 1 / 255, "offset": -0.3},
    {"mode": "caffe"},
    {"mode": "tf"},
    {"mode": "torch"},
]


def graph(recipe: Preprocessing, *, batch: bool = False, opset: int = 18) -> onnx.ModelProto:
    """A model that applies a recipe to a picture."""
    sizes = [*(["n"] if batch else []), "h", "w", "c"]
    made = helper.make_model(
        helper.make_graph(
            [],
            "recipe",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, sizes)],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None] * 4)],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    build = Builder(made, Shapes(made), prefix="finish/", names_nodes=False)
    picture = Value(build, "image", TensorProto.UINT8)
    build.output(prepare(build, picture, recipe, batch=batch).prepared, "out")
    build.finish()
    return made


def session(recipe: Mapping[str, Any], **more: Any) -> Any:
    made = graph(Preprocessing.from_dict(recipe), **more)
    onnx.checker.check_model(made)
    return plain_session(made.SerializeToString())


def run(ready: Any, picture: NDArray[Any]) -> NDArray[Any]:
    (made,) = ready.run(None, {"image": picture})
    return np.asarray(made)


def same_bits(recipe: Mapping[str, Any], ready: Any, picture: NDArray[Any]) -> None:
    expected = Preprocessing.from_dict(recipe)(picture)
    found = run(ready, picture)[0]
    assert found.shape == expected.shape, (recipe, picture.shape)
    np.testing.assert_array_equal(found, expected, err_msg=f"{recipe} {picture.shape}")


def pictures(
    generator: np.random.Generator, sizes: list[tuple[int, int]]
) -> Iterator[NDArray[Any]]:
    """Noise, and black and white, with 1, 3 and 4 channels."""
    for size in sizes:
        for channels in (1, 3, 4):
            noise = generator.integers(0, 256, (*size, channels), np.uint8)
            yield noise if generator.random() < 0.7 else np.where(noise > 127, 255, 0).astype("u1")


def recipes(generator: np.random.Generator, count: int) -> Iterator[dict[str, Any]]:
    """Recipes of every kind: each filter comes equally often."""
    filters = get_args(Interpolation)
    for at in range(count):
        mode = ("rgb", "rgba", "grayscale")[at // len(filters) % 3]
        scaling = SCALINGS[generator.integers(len(SCALINGS))]
        if mode != "rgb" and scaling and scaling["mode"] in ("caffe", "tf", "torch"):
            scaling = None
        recipe: dict[str, Any] = {
            "color_mode": mode,
            "interpolation": filters[at % len(filters)],
            "size": generator.integers(1, 70, 2).tolist(),
            "scaling": scaling,
        }
        geometry = generator.integers(4)
        if geometry == 1:
            recipe["keep_aspect_ratio"] = True
        if geometry > 1:
            recipe["shorter_side"] = int(generator.integers(1, 80))
        if geometry == 3:
            recipe["size"] = None
            recipe["scaling"] = None if scaling and scaling["mode"] == "samplewise" else scaling
        if generator.random() < 0.2:
            recipe["channels"] = "first"
        yield recipe


def compare(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    for recipe in recipes(generator, count):
        ready = session(recipe)
        sizes = [tuple(generator.integers(1, 200, 2).tolist()) for _ in range(2)]
        if recipe["size"]:
            sizes.append(tuple(recipe["size"]))  # is not resized
        for picture in pictures(generator, sizes):
            same_bits(recipe, ready, picture)


def test_random_recipes() -> None:
    compare(0, 36)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_random_recipes(seed: int) -> None:
    compare(seed, 54)


@pytest.mark.parametrize("name", [*FILTERS, "nearest"])
@pytest.mark.parametrize("size", [(1, 1), (3, 1999), (2500, 2), (1, 700)])
def test_extreme_sizes(name: str, size: tuple[int, int]) -> None:
    recipe = {"size": [31, 20], "interpolation": name}
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    same_bits(recipe, session(recipe), picture)


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("name", ["lanczos", "nearest"])
def test_older_opsets(opset: int, name: str) -> None:
    recipe = {"size": [31, 20], "interpolation": name, "scaling": {"mode": "samplewise"}}
    picture = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    same_bits(recipe, session(recipe, opset=opset), picture)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 128, 129, 137, 300, 1000, 4099])
def test_sums_in_the_order_of_numpy(count: int) -> None:
    """The scaling `samplewise` depends on it, for every number of values."""
    recipe = {"size": [1, count], "color_mode": "grayscale", "scaling": {"mode": "samplewise"}}
    ready = session(recipe)
    generator = np.random.default_rng(count)
    for _ in range(20):
        same_bits(recipe, ready, generator.integers(0, 256, (1, count, 1), np.uint8))


def test_several_pictures() -> None:
    recipe = {
        "size": [21, 30],
        "interpolation": "bicubic",
        "color_mode": "rgba",
        "scaling": {"mode": "samplewise"},
    }
    ready = session(recipe, batch=True)
    batch = np.random.default_rng(0).integers(0, 256, (3, 50, 41, 4), np.uint8)
    expected = Preprocessing.from_dict(recipe).batch(list(batch))
    np.testing.assert_array_equal(run(ready, batch), expected)


@pytest.mark.parametrize("channels", [2, 5])
@pytest.mark.parametrize("mode", ["rgb", "rgba", "grayscale"])
@pytest.mark.parametrize("name", ["nearest", "bilinear"])
def test_another_number_of_channels_stops_the_run(channels: int, mode: str, name: str) -> None:
    ready = session({"size": [8, 8], "color_mode": mode, "interpolation": name})
    with pytest.raises(Exception, match=r"Expand|expand|broadcast|invalid|dimension"):
        run(ready, np.zeros((9, 9, channels), np.uint8))


def test_samplewise_needs_a_size() -> None:
    with pytest.raises(UsageError, match=r'needs a "size"'):
        session({"scaling": {"mode": "samplewise"}})


def test_it_is_small() -> None:
    """The issue allows 50 kB for everything."""
    examples: dict[str, dict[str, Any]] = {
        "nearest": {"size": [320, 320]},
        "lanczos": {"size": [320, 320], "interpolation": "lanczos"},
        "samplewise": {"size": [320, 320], "scaling": {"mode": "samplewise"}},
        "all": {
            "size": [299, 299],
            "color_mode": "rgba",
            "interpolation": "lanczos",
            "shorter_side": 320,
            "scaling": {"mode": "samplewise"},
        },
    }
    sizes = {
        name: graph(Preprocessing.from_dict(recipe)).ByteSize() for name, recipe in examples.items()
    }
    assert sizes["nearest"] < 5_000
    assert sizes["lanczos"] < 20_000
    assert max(sizes.values()) < 50_000
