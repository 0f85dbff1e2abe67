"""The user's own batches: every form in which they are given, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import layertap
from layertap.format.card import TensorInfo
from layertap.images.preprocessing import Preprocessing
from layertap_export.verification.user_samples import user_batches

NUMBERS = TensorInfo(name="numbers", shape=(None, 3), dtype="float32")
TOKENS = TensorInfo(name="tokens", shape=(None, None), dtype="int32")
PICTURE = TensorInfo(name="picture", shape=(None, 4, 4, 3), dtype="float32")
WORDS = TensorInfo(name="words", shape=(None, 2), dtype="string")
X = np.arange(6, dtype=np.float32).reshape(2, 3)
T = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
RECIPE = Preprocessing(size=(4, 4))


def arrays_of(samples: Any, *inputs: TensorInfo) -> list[tuple[Any, ...]]:
    return [arrays for _, arrays in user_batches(samples, inputs, RECIPE)]


def files(folder: Path) -> dict[str, Path]:
    """The same numbers in files of each kind, and two images."""
    np.save(folder / "x.npy", X)
    np.savez(folder / "both.npz", numbers=X, tokens=T)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    (folder / "images").mkdir()
    for name in ("one", "two"):
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    return {"npy": folder / "x.npy", "npz": folder / "both.npz", "images": folder / "images"}


def test_one_input(tmp_path: Path) -> None:
    made = files(tmp_path)
    for sample in (X, X.astype(np.float64), made["npy"], str(made["npy"]), {"numbers": X}):
        for form in (sample, [sample], (x for x in [sample])):
            ((found,),) = arrays_of(form, NUMBERS)
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, X)
    assert len(arrays_of([X, X[:1]], NUMBERS)) == 2


def test_several_inputs(tmp_path: Path) -> None:
    made = files(tmp_path)
    samples = [
        made["npz"],
        {"tokens": T, "numbers": X},
        {"tokens": T.tolist(), "numbers": made["npy"]},
        (X, T),
    ]
    for numbers, tokens in arrays_of(samples, NUMBERS, TOKENS):
        np.testing.assert_array_equal(numbers, X)
        np.testing.assert_array_equal(tokens, T)
        assert tokens.dtype == np.int32
    assert len(arrays_of(samples, NUMBERS, TOKENS)) == 4


def test_images_of_one_size_are_one_batch(tmp_path: Path) -> None:
    made = files(tmp_path)
    one = made["images"] / "one.png"
    want = RECIPE.batch([one])
    pixels = np.asarray(Image.open(one))
    for sample in (one, str(one), one.read_bytes(), Image.open(one), pixels):
        ((found,),) = arrays_of(sample, PICTURE)
        np.testing.assert_array_equal(found, want)
    ((folder,),) = arrays_of(made["images"], PICTURE)
    np.testing.assert_array_equal(folder, np.concatenate([want, want]))
    ((both,), (ready,)) = arrays_of([one, pixels, want], PICTURE)
    assert (len(both), len(ready)) == (2, 1)
    free = TensorInfo(name="picture", shape=(None, None, None, 3), dtype="float32")
    batches = user_batches([pixels, pixels[:4]], [free], None)
    assert [arrays[0].shape for _, arrays in batches] == [(1, 5, 6, 3), (1, 4, 6, 3)]
    ((_, (by_name, _)),) = user_batches(
        {"picture": one, "numbers": X[:1]}, [PICTURE, NUMBERS], RECIPE
    )
    np.testing.assert_array_equal(by_name, want)


def test_strings() -> None:
    ((found,),) = arrays_of([{"words": [["a", "b"]]}], WORDS)
    assert found.tolist() == [["a", "b"]]


@pytest.mark.parametrize(
    ("samples", "inputs", "words"),
    [
        (np.zeros((2, 4)), [NUMBERS], ["'numbers'", "(2, 4)", "(n, 3)"]),
        (np.zeros(3), [NUMBERS], ["x[None]"]),
        ({"number": X}, [NUMBERS], ["no input 'number'", "Did you mean 'numbers'?"]),
        ({"numbers": X}, [NUMBERS, TOKENS], ["input 'tokens' is missing"]),
        ({"numbers": X, "tokens": T[:1]}, [NUMBERS, TOKENS], ["different batch sizes"]),
        ({"tokens": T + 0.5}, [TOKENS], ["must contain integers"]),
        ({"numbers": X + 1j}, [NUMBERS], ["dtype complex"]),
        (["a.png"], [NUMBERS], ["takes no images", "'a.png'", ".npy"]),
        (["a.png"], [PICTURE, NUMBERS], ["2 inputs", "NAME=FILE"]),
        ("none.npy", [NUMBERS], ["none.npy", "no such file"]),
        (5, [NUMBERS], ["samples must be images, arrays, dicts of arrays, or paths, got 5"]),
        ([None], [NUMBERS], ["got None"]),
    ],
)
def test_what_does_not_fit_is_one_error(samples: Any, inputs: Any, words: list[str]) -> None:
    with pytest.raises(layertap.LayertapError) as caught:
        arrays_of(samples, *inputs)
    for word in words:
        assert word in str(caught.value)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    for name in ("bad.npy", "bad.npz"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 no arrays")
        with pytest.raises(layertap.InputError, match=name):
            arrays_of(tmp_path / name, NUMBERS)


def test_nan_is_warned_of() -> None:
    with pytest.warns(layertap.LayertapWarning, match="'numbers' contains NaN or infinite"):
        arrays_of(X * np.nan, NUMBERS)
