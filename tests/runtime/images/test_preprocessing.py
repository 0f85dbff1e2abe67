"""`layertap.images.preprocessing`: recipes as data, and their results compared with Keras."""

from __future__ import annotations

import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from layertap.errors import InputError, PreprocessingError
from layertap.images.preprocessing import (
    ImageNet,
    Preprocessing,
    Rescale,
    Samplewise,
    Scaling,
    Standardize,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (17, 23, 3)).astype(np.uint8)
FLOATS = PIXELS.astype(np.float32)


def apply(scaling: dict[str, Any] | None, image: Any = PIXELS, **fields: Any) -> np.ndarray:
    return Preprocessing.from_dict({"scaling": scaling, **fields})(image)


# --- arithmetic ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        (None, [30, 60, 90]),
        ({"mode": "standardize", "mean": 50, "std": 10}, [-2, 1, 4]),
        ({"mode": "standardize", "mean": [10, 20, 30], "std": [10, 20, 30]}, [2, 2, 2]),
        ({"mode": "standardize", "mean": [10, 20, 30], "std": 2}, [10, 20, 30]),
        ({"mode": "samplewise", "epsilon": 1e-30}, [-(1.5**0.5), 0, 1.5**0.5]),
        ({"mode": "rescale", "scale": 0.5, "offset": -1}, [14, 29, 44]),
        ({"mode": "rescale", "scale": 0.5}, [15, 30, 45]),
        ({"mode": "rescale", "scale": [1, 2, 3], "offset": [0, 0, 1]}, [30, 120, 271]),
        ({"mode": "tf"}, [30 / 127.5 - 1, 60 / 127.5 - 1, 90 / 127.5 - 1]),
        ({"mode": "caffe"}, [90 - 103.939, 60 - 116.779, 30 - 123.68]),
        (
            {"mode": "torch"},
            [(30 / 255 - 0.485) / 0.229, (60 / 255 - 0.456) / 0.224, (90 / 255 - 0.406) / 0.225],
        ),
    ],
)
def test_scalings_give_the_expected_values(
    scaling: dict[str, Any] | None, expected: list[float]
) -> None:
    scaled = apply(scaling, np.array([[[30, 60, 90]]], np.uint8))
    assert scaled.dtype == np.float32
    assert scaled.flags.c_contiguous
    np.testing.assert_allclose(scaled, [[expected]], rtol=3e-7, atol=1e-7)


def test_standardize_equals_float64_arithmetic_in_numpy() -> None:
    """`(image - mean) / std` of a PIL image in float64, converted to float32 at the end."""
    mean, std = np.mean([123.4567, 99.1]), np.float64(57.89)
    expected = ((np.asarray(Image.fromarray(PIXELS)) - mean) / std).astype(np.float32)
    in_float32 = (FLOATS - np.float32(mean)) / np.float32(std)
    scaled = apply({"mode": "standardize", "mean": float(mean), "std": float(std)})
    assert scaled.tobytes() == expected.tobytes()
    assert scaled.tobytes() != in_float32.tobytes()


def test_flat_image_becomes_zero_with_samplewise() -> None:
    assert not apply({"mode": "samplewise"}, np.full((3, 3), 7, np.uint8)).any()


def test_recipe_is_applied_in_order() -> None:
    """16-bit grey is scaled to 0..255, cropped to 2 x 4, averaged over 2 x 2, standardized."""
    rows = [[0, 0, 90, 110, 190, 210, 0, 0], [0, 0, 110, 90, 210, 190, 0, 0]]
    grey = np.array(rows, np.uint16) * 257
    scaled = apply(
        {"mode": "standardize", "mean": [150], "std": [50]},
        grey,
        size=[1, 2],
        color_mode="grayscale",
        keep_aspect_ratio=True,
        depth="scale",
        interpolation="box",
    )
    assert scaled.tolist() == [[[-1.0], [1.0]]]


def test_the_recipe_of_torchvision() -> None:
    """`Resize(8)`, `CenterCrop(6)`, `ToTensor()` and `Normalize(...)`, computed step by step."""
    recipe = Preprocessing.from_dict(
        {"size": [6, 6], "shorter_side": 8, "channels": "first", "scaling": {"mode": "torch"}}
    )
    image = Image.fromarray(PIXELS)  # 17 x 23
    pixels = np.asarray(image.resize((10, 8), Image.Resampling.NEAREST))[1:7, 2:8]
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    expected = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    np.testing.assert_array_equal(recipe(image), expected.transpose(2, 0, 1))
    assert "shorter_side" not in Preprocessing().to_dict()
    assert Preprocessing.from_dict(recipe.to_dict()) == recipe


def test_imagenet_scaling_requires_three_channels() -> None:
    with pytest.raises(InputError) as caught:
        ImageNet(mode="torch")(np.zeros((2, 2, 4), np.float32))
    assert str(caught.value) == (
        'scaling "torch" expects RGB pixels of shape (..., 3), got (2, 2, 4).'
    )


# --- batches -------------------------------------------------------------------------------------


def test_batch_stacks_images_of_all_types() -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    recipe = Preprocessing(size=(4, 5), scaling=ImageNet(mode="tf"))
    sources: list[Any] = [PIXELS, file.getvalue(), Image.fromarray(PIXELS)]
    batch = recipe.batch(iter(sources))
    assert (batch.shape, batch.dtype) == ((3, 4, 5, 3), np.float32)
    np.testing.assert_array_equal(batch, np.stack([recipe(PIXELS)] * 3))


def test_batch_accepts_an_array_of_images() -> None:
    np.testing.assert_array_equal(Preprocessing().batch(PIXELS[None]), FLOATS[None])


def test_batch_of_different_sizes_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    with pytest.raises(InputError) as caught:
        Preprocessing().batch([path, path, PIXELS[:5]])
    assert str(caught.value) == (
        f"images of different sizes cannot form one batch: {path} (image 0) has 17 x 23 pixels, "
        'image array (image 2) has 5 x 23. Set a "size" in the preprocessing.'
    )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "batch expects at least one image, got none."),
        ("a.png", "a.png: batch expects a list of images, not one image."),
        (Path("a.png"), "a.png: batch expects a list of images, not one image."),
        (b"\x89PNG", "image bytes: batch expects a list of images, not one image."),
        (Image.new("L", (1, 1)), "image: batch expects a list of images, not one image."),
    ],
)
def test_batch_without_a_list_of_images_is_an_input_error(images: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Preprocessing().batch(images)
    assert str(caught.value) == message


# --- data ----------------------------------------------------------------------------------------


def test_default_recipe_has_the_defaults_of_keras() -> None:
    assert Preprocessing().to_dict() == {
        "size": None,
        "color_mode": "rgb",
        "interpolation": "nearest",
        "keep_aspect_ratio": False,
        "depth": "clip",
        "scaling": None,
    }
    assert Preprocessing.from_dict({}) == Preprocessing()


def test_json_is_stable() -> None:
    recipe = Preprocessing(
        size=(320, 200),
        interpolation="bicubic",
        scaling=Standardize(mean=np.array([1, 2, 3]), std=7),  # type: ignore[arg-type]
    )
    assert json.dumps(recipe.to_dict()) == (
        '{"size": [320, 200], "color_mode": "rgb", "interpolation": "bicubic", '
        '"keep_aspect_ratio": false, "depth": "clip", '
        '"scaling": {"mode": "standardize", "mean": [1.0, 2.0, 3.0], "std": 7.0}}'
    )


numbers = st.floats(-3e38, 3e38, width=64) | st.integers(-(10**9), 10**9)
positive = st.floats(1e-30, 3e38)


@st.composite
def recipes(draw: st.DrawFn) -> Preprocessing:
    color_mode = draw(st.sampled_from(["rgb", "rgba", "grayscale"]))
    channels = {"rgb": 3, "rgba": 4, "grayscale": 1}[color_mode]

    def per_channel(one: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
        return one | st.lists(one, min_size=channels, max_size=channels).map(tuple)

    scalings: list[st.SearchStrategy[Scaling | None]] = [
        st.none(),
        st.builds(Standardize, mean=per_channel(numbers), std=per_channel(positive)),
        st.builds(Samplewise, epsilon=positive),
        st.builds(Rescale, scale=per_channel(numbers), offset=per_channel(numbers)),
    ]
    if color_mode == "rgb":
        scalings.append(st.builds(ImageNet, mode=st.sampled_from(["caffe", "tf", "torch"])))
    keep_aspect_ratio = draw(st.booleans())
    return Preprocessing(
        size=draw(st.none() | st.tuples(st.integers(1, 5000), st.integers(1, 5000))),
        color_mode=color_mode,  # type: ignore[arg-type]
        interpolation=draw(st.sampled_from(["nearest", "bilinear", "lanczos", "hamming"])),
        keep_aspect_ratio=keep_aspect_ratio,
        shorter_side=None if keep_aspect_ratio else draw(st.none() | st.integers(1, 5000)),
        depth=draw(st.sampled_from(["clip", "scale"])),
        scaling=draw(st.one_of(scalings)),
    )


@given(recipes())
def test_recipe_survives_a_round_trip(recipe: Preprocessing) -> None:
    text = json.dumps(recipe.to_dict(), allow_nan=False)
    assert json.loads(text) == recipe.to_dict()
    again = Preprocessing.from_dict(json.loads(text))
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert json.dumps(again.to_dict()) == text


NO_SIZE = '"size" is {}, but it must be two positive integers, [height, width], or null.'
NO_SCALING = '"scaling" is {}, but it must be null or an object with a "mode".'
MODES = "'standardize', 'samplewise', 'rescale', 'caffe', 'tf', 'torch'"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["rgb"], 'a preprocessing recipe must be a JSON object, got ["rgb"].'),
        (
            {"colour_mode": "rgb"},
            '"colour_mode" is not a key of a preprocessing recipe, which has size, color_mode, '
            "interpolation, keep_aspect_ratio, shorter_side, depth, channels, scaling. "
            "Did you mean 'color_mode'?",
        ),
        ({"size": 320}, NO_SIZE.format(320)),
        ({"size": [320]}, NO_SIZE.format([320])),
        ({"size": [320, 0]}, NO_SIZE.format([320, 0])),
        ({"size": "320x320"}, NO_SIZE.format("'320x320'")),
        (
            {"color_mode": "RGB"},
            "\"color_mode\" is 'RGB', but it must be one of 'rgb', 'rgba', 'grayscale'. "
            "Did you mean 'rgb', 'rgba'?",
        ),
        (
            {"interpolation": None},
            "\"interpolation\" is None, but it must be one of 'nearest', 'bilinear', 'bicubic', "
            "'lanczos', 'box', 'hamming'.",
        ),
        (
            {"keep_aspect_ratio": "no"},
            "\"keep_aspect_ratio\" is 'no', but it must be true or false.",
        ),
        (
            {"shorter_side": 0},
            '"shorter_side" is 0, but it must be a positive integer, or null.',
        ),
        (
            {"shorter_side": True},
            '"shorter_side" is True, but it must be a positive integer, or null.',
        ),
        (
            {"shorter_side": [256, 256]},
            '"shorter_side" is [256, 256], but it must be a positive integer, or null.',
        ),
        (
            {"shorter_side": 100_000},
            '"shorter_side" is 100000, which is more than 178956970 pixels. If you need that, '
            "increase PIL.Image.MAX_IMAGE_PIXELS.",
        ),
        (
            {"shorter_side": 256, "keep_aspect_ratio": True},
            '"shorter_side" keeps the aspect ratio of the whole image and then crops it to '
            '"size", "keep_aspect_ratio" crops it first. Give one of them.',
        ),
        ({"depth": "clop"}, "\"depth\" is 'clop', but it must be one of 'clip', 'scale'."
                            " Did you mean 'clip'?"),
        ({"scaling": "torch"}, NO_SCALING.format("'torch'") + ' Write {"mode": "torch"}.'),
        ({"scaling": 255}, NO_SCALING.format(255)),
        ({"scaling": {}}, f'"scaling" has no "mode". It must be one of {MODES}.'),
        (
            {"scaling": {"mode": "standardise"}},
            f"\"mode\" is 'standardise', but it must be one of {MODES}. "
            "Did you mean 'standardize'?",
        ),
        (
            {"scaling": {"mode": "standardize", "mean": 1, "sdt": 2}},
            '"sdt" is not a key of scaling "standardize", which has mode, mean, std. '
            "Did you mean 'std'?",
        ),
        (
            {"scaling": {"mode": "torch", "mean": 1}},
            '"mean" is not a key of scaling "torch", which has mode. '
            "Did you mean 'mode'?",
        ),
        ({"scaling": {"mode": "standardize", "mean": 1}}, 'scaling "standardize" requires "std".'),
        (
            {"scaling": {"mode": "standardize", "mean": 1, "std": 0}},
            '"std" is 0, but it must be a number greater than 0.',
        ),
        (
            {"scaling": {"mode": "standardize", "mean": [1, "2", 3], "std": 1}},
            "\"mean\" is '2', but it must be a finite number.",
        ),
        (
            {"scaling": {"mode": "standardize", "mean": float("nan"), "std": 1}},
            '"mean" is nan, but it must be a finite number.',
        ),
        (
            {"scaling": {"mode": "rescale", "scale": 10**400}},
            f'"scale" is {10**400}, but it must be a finite number.',
        ),
        (
            {"scaling": {"mode": "rescale", "scale": True}},
            '"scale" is True, but it must be a finite number.',
        ),
        (
            {"scaling": {"mode": "samplewise", "epsilon": -1e-6}},
            '"epsilon" is -1e-06, but it must be a number greater than 0.',
        ),
        (
            {"scaling": {"mode": "standardize", "mean": [1, 2], "std": 1}},
            '"mean" is a list of length 2, but for "rgb" images it must have length 3: one number '
            "per channel.",
        ),
        (
            {"color_mode": "grayscale", "scaling": {"mode": "rescale", "scale": [1, 2, 3]}},
            '"scale" is a list of length 3, but for "grayscale" images it must have length 1: one '
            "number per channel.",
        ),
        (
            {"color_mode": "grayscale", "scaling": {"mode": "caffe"}},
            'scaling "caffe" is for images read as "rgb", not as "grayscale".',
        ),
    ],
)  # fmt: skip
def test_invalid_recipe_is_a_preprocessing_error(data: Any, message: str) -> None:
    with pytest.raises(PreprocessingError) as caught:
        Preprocessing.from_dict(data)
    assert str(caught.value) == message


def test_scaling_as_a_dict_is_a_preprocessing_error() -> None:
    with pytest.raises(PreprocessingError) as caught:
        Preprocessing(scaling={"mode": "tf"})  # type: ignore[arg-type]
    assert str(caught.value) == (
        "\"scaling\" is {'mode': 'tf'}, but it must be a Standardize, Samplewise, Rescale or "
        "ImageNet. Use Preprocessing.from_dict for JSON data."
    )


def test_load_reads_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text('{"size": [320, 200], "scaling": {"mode": "rescale", "scale": 0.5}}')
    assert Preprocessing.load(path) == Preprocessing(size=(320, 200), scaling=Rescale(scale=0.5))
    assert Preprocessing.load(str(path)) == Preprocessing.load(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no such file."),
        (b"size: 3", "this is not a JSON file (Expecting value: line 1 column 1 (char 0))."),
        (b"[" * 100_000, None),
        (b"\xff\xfe\x00", None),
        (b'{"siz": 3}', '"siz" is not a key of a preprocessing recipe, which has size, color_mode, '
                        "interpolation, keep_aspect_ratio, shorter_side, depth, channels, scaling. "
                        "Did you mean 'size'?"),
    ],
)  # fmt: skip
def test_invalid_file_is_a_preprocessing_error(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "recipe.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PreprocessingError) as caught:
        Preprocessing.load(path)
    words = re.escape(reason) if reason else r"this is not a JSON file \(.+\)\."
    assert re.fullmatch(re.escape(f"{path}: ") + words, str(caught.value))


def test_folder_is_a_preprocessing_error(tmp_path: Path) -> None:
    with pytest.raises(PreprocessingError) as caught:
        Preprocessing.load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: it cannot be read (Is a directory)."


# --- against Keras -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def keras() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras
    return keras


@pytest.mark.tensorflow
@pytest.mark.parametrize("mode", ["caffe", "tf", "torch"])
def test_equals_keras_applications(keras: Any, mode: str) -> None:
    expected = keras.applications.imagenet_utils.preprocess_input(FLOATS.copy(), mode=mode)
    assert apply({"mode": mode}).tobytes() == expected.tobytes()


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("scale", "offset"), [(1 / 255, 0.0), (1 / 127.5, -1), ([0.1, 0.2, 0.3], [1.0, 2.5, -3.7])]
)
def test_equals_keras_rescaling(keras: Any, scale: Any, offset: Any) -> None:
    expected = np.asarray(keras.layers.Rescaling(scale, offset)(FLOATS))
    scaled = apply({"mode": "rescale", "scale": scale, "offset": offset})
    assert scaled.tobytes() == expected.tobytes()


@pytest.mark.tensorflow
def test_equals_keras_image_data_generator(keras: Any) -> None:
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(samplewise_center=True, samplewise_std_normalization=True)
    expected = generator.standardize(FLOATS.copy())
    assert apply({"mode": "samplewise"}).tobytes() == expected.tobytes()
