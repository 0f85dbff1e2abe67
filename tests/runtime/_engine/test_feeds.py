"""What callers may give as inputs, and what is said when it does not fit."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layertap._engine.feeds import is_image, prepare, unprepared
from layertap.errors import ImageError, InputError
from layertap.format.graph import TensorType
from layertap.format.recipe import value_range
from layertap.images.preprocessing import Preprocessing

IMAGE = TensorType("float32", ("batch", 8, 6, 3))
VECTOR = TensorType("float32", ("batch", 4))
RECIPE = Preprocessing(size=(8, 6))


def array(value: Any, spec: TensorType = VECTOR, recipe: Preprocessing | None = None) -> Any:
    return prepare(value, {"x": spec}, ["x"], recipe)["x"]


def message(*args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        prepare(*args, **options)
    return str(caught.value)


# --- dtypes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (np.float64, "float32"),
        (np.float16, "float32"),
        (np.int64, "float32"),
        (np.uint8, "float32"),
        (np.bool_, "float32"),
        (">f4", "float32"),
        (np.float32, "float64"),
        (np.float32, "float16"),
        (np.bool_, "int32"),
        (np.int64, "int32"),
        (np.int64, "uint8"),
        (np.uint8, "int64"),
        (np.int64, "bool"),
        (np.float32, ""),
    ],
)
def test_numbers_are_converted(given: Any, dtype: str) -> None:
    values = np.array([[0, 1, 1, 0]], dtype=given)
    converted = array(values, TensorType(dtype, ("n", 4)))
    assert converted.dtype == (np.dtype(dtype) if dtype else values.dtype)
    assert converted.dtype.isnative
    assert converted.tolist() == [[0, 1, 1, 0]]


@pytest.mark.parametrize(
    ("values", "dtype", "words"),
    [
        (
            np.zeros((1, 4)),
            "int32",
            "input 'x' must contain integers (int32), got dtype float64. Round and convert it: "
            "np.rint(x).astype('int32').",
        ),
        (
            np.array([[0, 1, 2, 300]]),
            "uint8",
            "input 'x' has dtype uint8, with values from 0 to 255, but the given values range "
            "from 0 to 300.",
        ),
        (
            np.array([[0, 1, 2, 3]]),
            "bool",
            "input 'x' has dtype bool, with values from 0 to 1, but the given values range from "
            "0 to 3.",
        ),
        (
            np.zeros((1, 4), np.complex64),
            "float32",
            "input 'x' has dtype complex64, expected float32. Give its real part, or its "
            "absolute value.",
        ),
        (
            np.array([[1, None, "a", 2]], object),
            "float32",
            "input 'x' takes numbers (float32), got values of dtype object. An image is only taken "
            "by an input with four axes, and an .npy file is read with np.load.",
        ),
        (
            np.array([["a", "b", "c", "d"]]),
            "float32",
            "input 'x' takes numbers (float32), got values of dtype <U1. An image is only taken by "
            "an input with four axes, and an .npy file is read with np.load.",
        ),
        (np.zeros((1, 4)), "string", "input 'x' must contain strings, got dtype float64."),
        (
            np.array([["a", 1, "b", "c"]], object),
            "string",
            "input 'x' must contain strings, got dtype object.",
        ),
        (
            np.zeros((1, 4), np.float32),
            "bfloat16",
            "input 'x' must have dtype bfloat16, which numpy lacks, got float32. Use ml_dtypes.",
        ),
    ],
)
def test_types_that_do_not_fit(values: Any, dtype: str, words: str) -> None:
    assert message(values, {"x": TensorType(dtype, ("n", 4))}, ["x"]) == words


def test_strings_are_passed_to_string_inputs_only() -> None:
    spec = TensorType("string", ("n",))
    for given in (["a", "bc"], np.array(["a", "bc"]), np.array(["a", "bc"], object)):
        assert array(given, spec).tolist() == ["a", "bc"]
        assert array(given, spec).dtype == object
    assert array("a", TensorType("string", ())).shape == ()


def test_nan_and_overflow_pass_through() -> None:
    values = array(np.array([[np.nan, np.inf, 1e300, 1]]))
    assert np.isnan(values[0, 0])
    assert values[0, 1:].tolist() == [np.inf, np.inf, 1]


def test_an_array_that_fits_is_not_copied() -> None:
    given = np.zeros((2, 4), np.float32)
    given.flags.writeable = False
    assert array(given) is given
    turned = np.zeros((4, 2), np.float32).T
    assert array(turned).flags.c_contiguous


def test_a_scalar_stays_one() -> None:
    assert array(3.0, TensorType("float32", ())).shape == ()


def test_empty_batches_pass() -> None:
    assert array(np.zeros((0, 4), int), TensorType("uint8", ("n", 4))).shape == (0, 4)


def test_what_is_no_tensor_is_passed_on() -> None:
    given = [np.zeros(1), np.zeros(2)]
    assert array(given, TensorType("sequence")) is given


# --- shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (
            (8, 6, 3),
            "input 'x' has shape (8, 6, 3), expected (n, 8, 6, 3). Add the batch axis: x[None].",
        ),
        (
            (2, 3, 8, 6),
            "input 'x' has shape (2, 3, 8, 6), expected (n, 8, 6, 3). Its channels come first; "
            "use x.transpose(0, 2, 3, 1).",
        ),
        (
            (2, 6, 8, 3),
            "input 'x' has shape (2, 6, 8, 3), expected (n, 8, 6, 3). Height and width are "
            "swapped.",
        ),
        (
            (2, 8, 6, 1),
            "input 'x' has shape (2, 8, 6, 1), expected (n, 8, 6, 3): axis 3 (channels) must be "
            "3, got 1.",
        ),
        (
            (2, 9, 6, 3),
            "input 'x' has shape (2, 9, 6, 3), expected (n, 8, 6, 3): axis 1 must be 8, got 9.",
        ),
        (
            (5,),
            "input 'x' has shape (5,), expected (n, 8, 6, 3): it must have 4 axes, got 1.",
        ),
        (
            (1, 2, 8, 6, 3),
            "input 'x' has shape (1, 2, 8, 6, 3), expected (n, 8, 6, 3): it must have 4 axes, "
            "got 5.",
        ),
    ],
)
def test_shapes_that_do_not_fit(shape: tuple[int, ...], words: str) -> None:
    assert message(np.zeros(shape), {"x": IMAGE}, ["x"]) == words


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ((None, "h", "w", 3), "(n, h, w, 3)"),
        ((2, None), "(2, any)"),
        (("batch",), "(n,)"),
        ((), "()"),
    ],
)
def test_how_expected_shapes_are_written(dims: Any, words: str) -> None:
    spec = TensorType("float32", dims)
    assert f"expected {words}: it must" in message(np.zeros((1,) * 7), {"x": spec}, ["x"])


def test_free_sizes_take_anything() -> None:
    spec = TensorType("float32", (None, "h", "w", 3))
    assert array(np.zeros((1, 5, 7, 3)), spec).shape == (1, 5, 7, 3)
    assert array(np.zeros((5, 7)), TensorType("float32", None)).shape == (5, 7)


def test_lists_of_numbers_are_arrays() -> None:
    assert array([[1, 2, 3, 4]]).shape == (1, 4)
    assert array([np.zeros(4), np.ones(4)]).shape == (2, 4)
    assert array([np.zeros((2, 4))]).shape == (2, 4)  # a list of inputs, of which there is one
    assert message([[1], [2, 3]], {"x": VECTOR}, ["x"]).startswith(
        "input 'x': cannot convert a list to an array ("
    )


def test_none_and_bytes_are_not_arrays() -> None:
    assert message(None, {"x": VECTOR}, ["x"]) == "input 'x' must be an array, got None."
    assert message(b"abc", {"x": VECTOR}, ["x"]) == "input 'x' must be an array, got bytes."


def test_paths_and_sets_are_not_arrays_either() -> None:
    """numpy makes arrays without axes of them."""
    for given, words in (("photos", "'photos'"), (Path("a.png"), "'a.png'"), ({1}, "a set")):
        found = message(given, {"x": VECTOR}, ["x"])
        assert re.fullmatch(rf"input 'x' must be an array( \(n, 4\))?, got {words}\.", found)
    assert message({"a.png"}, {"x": IMAGE}, ["x"]).endswith(
        "must be an array (n, 8, 6, 3), got a set."
    )


# --- several inputs -----------------------------------------------------------------------------

TWO = {"image": IMAGE, "vector": VECTOR}
IMAGES, VECTORS = np.zeros((2, 8, 6, 3), np.float32), np.zeros((2, 4), np.float32)


@pytest.mark.parametrize(
    "given",
    [{"image": IMAGES, "vector": VECTORS}, {"vector": VECTORS, "image": IMAGES}, [IMAGES, VECTORS],
     (IMAGES, VECTORS)],
)  # fmt: skip
def test_inputs_by_name_and_in_order(given: Any) -> None:
    prepared = prepare(given, TWO, ["image", "vector"])
    assert prepared["image"] is IMAGES
    assert prepared["vector"] is VECTORS


def test_only_what_is_needed_must_be_given() -> None:
    assert prepare({"vector": VECTORS}, TWO, ["vector"]) == {"vector": VECTORS}
    assert prepare(VECTORS, TWO, ["vector"]) == {"vector": VECTORS}
    assert prepare({"vector": VECTORS, "image": "unread"}, TWO, ["vector"]) == {"vector": VECTORS}
    assert prepare(None, TWO, []) == {}
    assert prepare(None, {}, []) == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"vector": VECTORS, "imgae": IMAGES},
            "the model has no input 'imgae'; it has 'image', 'vector'. Did you mean 'image'?",
        ),
        (
            {"vector": VECTORS},
            "input 'image' is missing: the request needs 'image', 'vector', but only 'vector' "
            "was given.",
        ),
        (
            {},
            "input 'image' is missing: the request needs 'image', 'vector'.",
        ),
        (
            VECTORS,
            "the model has 2 inputs ('image', 'vector'), got an array of shape (2, 4) and dtype "
            "float32. Give a dict by input name; commands take an .npz file with an array for each "
            "input.",
        ),
        (
            [VECTORS] * 3,
            "the model has 2 inputs ('image', 'vector'), got a list of 3. Give a dict by input "
            "name; commands take an .npz file with an array for each input.",
        ),
    ],
)
def test_inputs_that_do_not_fit(given: Any, words: str) -> None:
    assert message(given, TWO, ["image", "vector"]) == words


def test_inputs_must_agree_on_the_batch() -> None:
    given = {"image": IMAGES, "vector": VECTORS[:1]}
    assert message(given, TWO, ["image", "vector"], batch="batch") == (
        "the inputs have different batch sizes: 'image' has 2, 'vector' has 1."
    )
    assert set(prepare(given, TWO, ["image", "vector"])) == {"image", "vector"}


# --- images -------------------------------------------------------------------------------------


def pixels(seed: int = 0, height: int = 8, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(data: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(data).save(buffer, "PNG")
    return buffer.getvalue()


def test_one_image_in_every_form(tmp_path: Path) -> None:
    data = pixels()
    path = tmp_path / "a.png"
    path.write_bytes(png(data))
    forms = [path, str(path), png(data), io.BytesIO(png(data)), Image.fromarray(data), data]
    for form in forms:
        prepared = array(form, IMAGE, RECIPE)
        np.testing.assert_array_equal(prepared, data[None].astype(np.float32))
        assert prepared.dtype == np.float32


def test_a_list_of_images_is_a_batch() -> None:
    data = [pixels(0), pixels(1, 16, 12)]
    prepared = array([data[0], png(data[1])], IMAGE, RECIPE)
    np.testing.assert_array_equal(prepared, RECIPE.batch(data))
    assert prepared.shape == (2, 8, 6, 3)


TF = Preprocessing.from_dict({"size": [8, 6], "scaling": {"mode": "tf"}})


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64", ">i2"])
def test_a_batch_of_integers_is_pixels(dtype: str) -> None:
    batch = np.stack([pixels(0, 16, 12), pixels(1, 16, 12)])
    prepared = array(batch.astype(dtype), IMAGE, TF)
    if np.dtype(dtype) == np.uint16:  # colour of 16 bits, of which the upper 8 are read
        batch >>= 8
    np.testing.assert_array_equal(prepared, TF.batch(list(batch)))
    assert prepared.shape == (2, 8, 6, 3)
    nested = array(batch.tolist(), IMAGE, TF)
    np.testing.assert_array_equal(nested, TF.batch(list(batch)))


def test_a_batch_of_floats_is_ready() -> None:
    batch = np.stack([pixels(0), pixels(1)]).astype(np.float32)
    assert array(batch, IMAGE, TF) is batch


def test_integers_for_an_input_of_integers_are_its_values() -> None:
    spec = TensorType("uint8", ("n", 8, 6, 3))
    batch = np.stack([pixels(0), pixels(1)])
    assert array(batch, spec, RECIPE) is batch
    np.testing.assert_array_equal(array(list(batch), spec, RECIPE), batch)  # images, as integers
    assert array(list(batch), spec, RECIPE).dtype == np.uint8


def test_integers_without_a_recipe_are_numbers() -> None:
    batch = np.stack([pixels(0)])
    np.testing.assert_array_equal(array(batch, IMAGE), batch.astype(np.float32))


def test_integers_that_are_no_pixels() -> None:
    batch = np.full((1, 8, 6, 3), -1)
    assert message(batch, {"x": IMAGE}, ["x"], TF) == (
        "input 'x': integers in an image are pixels, from 0 to 255 (or to 65535 for 16 bits), got "
        "int64 from -1 to -1. If the batch is prepared already, convert it to float: "
        "x.astype('float32')."
    )


def test_one_float_sample_without_its_batch_axis() -> None:
    assert message(np.zeros((8, 6, 3), np.float32), {"x": IMAGE}, ["x"], TF) == (
        "input 'x' has shape (8, 6, 3), expected (n, 8, 6, 3). If its values are prepared, add the "
        "batch axis: x[None]. If they are pixels, give them as integers, which are prepared: "
        "x.astype('uint8')."
    )


@pytest.mark.parametrize("many", [list, tuple, iter, lambda x: (one for one in x)])
def test_several_images_in_any_iterable(many: Any, tmp_path: Path) -> None:
    data = [pixels(0), pixels(1)]
    np.testing.assert_array_equal(array(many(data), IMAGE, TF), TF.batch(data))
    paths = []
    for at, one in enumerate(data):
        paths.append(str(tmp_path / f"{at}.png"))
        Image.fromarray(one).save(paths[-1])
    np.testing.assert_array_equal(array(many(paths), IMAGE, TF), TF.batch(data))
    np.testing.assert_array_equal(array(np.array(paths), IMAGE, TF), TF.batch(data))
    np.testing.assert_array_equal(array(np.array(paths, object), IMAGE, TF), TF.batch(data))


def test_a_series_of_paths_of_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    Image.fromarray(pixels(0)).save(tmp_path / "a.png")
    series = pandas.Series([str(tmp_path / "a.png")], index=["x"])
    np.testing.assert_array_equal(array(series, IMAGE, TF), TF.batch([pixels(0)]))


@pytest.mark.parametrize("none", [[], (), np.zeros((0, 5, 5, 3), np.uint8), iter(())])
def test_no_images_are_an_empty_batch(none: Any) -> None:
    assert array(none, IMAGE, TF).shape == (0, 8, 6, 3)
    assert array(none, IMAGE, TF).dtype == np.float32


def test_no_samples_are_an_empty_batch() -> None:
    assert array([]).shape == (0, 4)
    assert array([], TensorType("string", ("n", 2))).shape == (0, 2)


@pytest.mark.parametrize(
    ("scaling", "ready", "pixels_alike"),
    [
        ({"mode": "standardize", "mean": 120.0, "std": 60.0}, (-2.0, 2.2), (0.0, 255.0)),
        ({"mode": "standardize", "mean": 120.0, "std": 60.0}, (0.0, 2.2), (0.0, 3.0)),
        ({"mode": "samplewise"}, (-3.0, 40.0), (0.0, 1.0)),
        ({"mode": "rescale", "scale": 1 / 255}, (0.0, 1.0), (0.0, 255.0)),
        ({"mode": "rescale", "scale": 1 / 255}, (0.0, 1.0), (-1.0, 1.0)),
        ({"mode": "tf"}, (-1.0, 1.0), (0.0, 255.0)),
        ({"mode": "torch"}, (-2.1, 2.6), (0.0, 255.0)),
        ({"mode": "caffe"}, (-123.0, 151.0), (0.0, 255.0)),
        (None, (0.0, 255.0), (-1.0, 1.0)),
        (None, (0.0, 255.0), (0.0, float("nan"))),
    ],
)
def test_a_batch_that_the_recipe_cannot_return(
    scaling: Any, ready: tuple[float, float], pixels_alike: tuple[float, float]
) -> None:
    prepared = value_range({"size": [8, 6], "scaling": scaling})
    assert prepared is not None
    batch = np.linspace(*ready, 8 * 6 * 3, dtype=np.float32).reshape(1, 8, 6, 3)
    assert unprepared("x", batch, IMAGE, prepared) == ""
    large = np.broadcast_to(batch, (400, 8, 6, 3)).copy()
    assert unprepared("x", large, IMAGE, prepared) == ""
    low, high = pixels_alike
    wrong = np.linspace(low, high, 8 * 6 * 3, dtype=np.float32).reshape(1, 8, 6, 3)
    for given in (wrong, np.broadcast_to(wrong, (400, 8, 6, 3)).copy()):
        problem = unprepared("x", given, IMAGE, prepared)
        assert problem.startswith("input 'x': the batch ")
        assert ("contains NaN" in problem) == (high != high)


def test_an_image_that_is_none() -> None:
    with pytest.raises(ImageError, match=r"^image bytes: this is not an image"):
        array(b"not an image", IMAGE, RECIPE)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            "a.png",
            "input 'x': got 'a.png' as an image, but the model's file has no preprocessing. Give "
            'a recipe, as in preprocess={"size": [8, 6]}, or a batch of shape (n, 8, 6, 3).',
        ),
        (
            np.zeros((8, 6, 3), np.uint8),
            "input 'x': got an array of shape (8, 6, 3) and dtype uint8 as an image, but the "
            "model's file "
            'has no preprocessing. Give a recipe, as in preprocess={"size": [8, 6]}, or a batch of '
            "shape (n, 8, 6, 3) (for an array that is one sample, add the batch axis: x[None]).",
        ),
    ],
)
def test_images_without_a_recipe(given: Any, words: str) -> None:
    assert message(given, {"x": IMAGE}, ["x"]) == words


@pytest.mark.parametrize("given", ["a.png", Path("a.png"), ["a.png", "b.png"], b"image"])
def test_images_for_an_input_whose_shape_is_not_stated(given: Any, tmp_path: Path) -> None:
    unknown = TensorType("float32", None)
    words = message(given, {"x": unknown}, ["x"])
    assert "as an image, but the model's file has no preprocessing, and does not state" in words
    Image.new("RGB", (6, 8), "red").save(tmp_path / "red.png")
    recipe = Preprocessing(size=(8, 6))
    for image in (tmp_path / "red.png", [str(tmp_path / "red.png")] * 2):
        found = prepare(image, {"x": unknown}, ["x"], recipe)["x"]
        assert np.array_equal(found, prepare(image, {"x": IMAGE}, ["x"], recipe)["x"])
    rows = np.ones((2, 3), np.uint8)  # an array may be anything there
    assert np.array_equal(prepare(rows, {"x": unknown}, ["x"], recipe)["x"], rows)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a.png", True),
        (Path("a.png"), True),
        (b"", True),
        (io.BytesIO(), True),
        (Image.new("L", (1, 1)), True),
        (np.zeros((2, 2), np.uint8), True),
        (np.zeros((2, 2, 3), np.uint16), True),
        (np.zeros((2, 2, 3), np.int64), True),
        (np.zeros((1, 2, 2, 3), np.uint8), False),
        (np.zeros((2, 2, 3), np.float32), False),
        (np.zeros(2, np.uint8), False),
        ([1, 2], False),
        (None, False),
    ],
)
def test_what_is_an_image(value: Any, expected: bool) -> None:
    assert is_image(value) is expected
