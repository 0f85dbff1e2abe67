"""The CNN for digits, which is trained once for these tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layertap.errors import DependencyError, UsageError
from layertap.images.preprocessing import Preprocessing
from layertap_models import MODELS, digits

RECIPE = Preprocessing.from_dict(MODELS["digits"].preprocessing)


@pytest.fixture(scope="module")
def trained() -> Any:
    return digits.train()


def weights_of(model: Any) -> list[bytes]:
    return [array.tobytes() for array in model.get_weights()]


def test_split_is_disjoint_and_complete() -> None:
    data = digits.load()
    assert data.train_images.shape == (1437, 8, 8)
    assert data.test_images.shape == (360, 8, 8)
    assert data.train_images.dtype == np.uint8
    assert (data.train_images.min(), data.train_images.max()) == (0, 255)
    assert np.bincount(data.train_labels).min() > 120
    assert np.bincount(data.test_labels).min() > 20


@pytest.mark.tensorflow
def test_model_has_the_expected_layers() -> None:
    model = digits.build()
    assert [type(layer).__name__ for layer in model.layers] == [
        "InputLayer",
        *("Conv2D", "BatchNormalization", "Activation"),
        *("DepthwiseConv2D", "Conv2D", "BatchNormalization", "Add", "Activation"),
        *("MaxPooling2D", "SeparableConv2D", "Conv2D", "Activation", "Concatenate"),
        *("Conv2D", "BatchNormalization", "Activation"),
        *("GlobalAveragePooling2D", "Dropout", "Dense"),
    ]
    assert model.input_shape == (None, *MODELS["digits"].input_shape)
    assert model.output_shape == (None, 10)
    assert [layer.name for layer in digits.build(seed=1).layers] == [
        layer.name for layer in model.layers
    ]


@pytest.mark.tensorflow
def test_untrained_weights_come_from_the_seed() -> None:
    assert weights_of(digits.build(seed=5)) == weights_of(digits.build(seed=5))
    assert weights_of(digits.build(seed=5)) != weights_of(digits.build(seed=6))


@pytest.mark.tensorflow
def test_trained_model_is_accurate(trained: Any) -> None:
    assert digits.accuracy(trained) > 0.95


@pytest.mark.tensorflow
def test_untrained_model_is_not_accurate() -> None:
    """`accuracy` is low for a model that was not trained."""
    assert digits.accuracy(digits.build()) < 0.4


@pytest.mark.slow
@pytest.mark.tensorflow
def test_training_is_reproducible() -> None:
    """The weights do not depend on the state of the global random generators."""
    import keras

    first = weights_of(digits.train(seed=1, epochs=1))
    keras.utils.set_random_seed(7)
    np.random.rand(3)
    assert weights_of(digits.train(seed=1, epochs=1)) == first
    assert weights_of(digits.train(seed=2, epochs=1)) != first


@pytest.mark.tensorflow
def test_png_of_a_digit_is_classified(trained: Any, tmp_path: Path) -> None:
    """The files of `write_samples` are classified, with the recipe in the registry."""
    paths = digits.write_samples(tmp_path, count=50)
    scores = trained.predict(RECIPE.batch(paths), verbose=0)
    correct = [
        MODELS["digits"].labels[score.argmax()] == path.name[0]
        for path, score in zip(paths, scores, strict=True)
    ]
    assert sum(correct) >= 48


def test_samples_equal_held_out_images(tmp_path: Path) -> None:
    """The recipe restores the pixels of the data set from the enlarged PNG."""
    data = digits.load()
    paths = digits.write_samples(tmp_path, count=20, seed=3)
    for path in paths:
        label, _, index = path.stem.partition("_")
        assert int(label) == data.test_labels[int(index)]
        assert np.array_equal(RECIPE(path), RECIPE(data.test_images[int(index)]))
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", (64, 64))
    assert len(set(paths)) == 20
    assert digits.write_samples(tmp_path, count=20, seed=3) == paths
    assert digits.write_samples(tmp_path, count=20, seed=4) != paths


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, "count must be between 1 and 360, the number of held-out digits, got 0."),
        (361, "count must be between 1 and 360, the number of held-out digits, got 361."),
    ],
)
def test_invalid_count_is_a_usage_error(tmp_path: Path, count: int, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        digits.write_samples(tmp_path, count)
    assert str(caught.value) == message


def test_invalid_epochs_are_a_usage_error() -> None:
    with pytest.raises(UsageError) as caught:
        digits.train(epochs=0)
    assert str(caught.value) == "epochs must be at least 1, got 0."


@pytest.mark.parametrize(
    ("module", "call", "message"),
    [
        (
            "sklearn.datasets",
            digits.load,
            "sklearn is needed to load the digits, and importing it failed: import of "
            "sklearn.datasets halted; None in sys.modules. "
            "Install it with `pip install scikit-learn`.",
        ),
        (
            "keras",
            digits.build,
            "keras is needed to build a model, and importing it failed: import of keras halted; "
            "None in sys.modules. "
            'Install it with `pip install ".[export]"` in a checkout of layertap.',
        ),
    ],
)
def test_missing_package_is_a_dependency_error(
    monkeypatch: pytest.MonkeyPatch, module: str, call: Any, message: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DependencyError) as caught:
        call()
    assert str(caught.value) == message
    assert isinstance(caught.value.__cause__, ImportError)
