"""Loading weights files: how layers are matched, and the errors."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from layertap.errors import LayertapError
from layertap_export import WeightsError
from layertap_export.keras_model.loading.weight_files import read_weights
from layertap_export.keras_model.loading.weights import load_weights

pytestmark = [
    pytest.mark.tensorflow,
    # Keras's saving code reads variables in a way that numpy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def small(*, units: int = 2, head: str = "head", inputs: int = 4, first: str = "first") -> Any:
    """Dense, batch normalization, dense; the weights count up, so that all are different."""
    model = keras.Sequential(
        [
            keras.Input((inputs,)),
            keras.layers.Dense(3, name=first),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.Dense(units, name=head),
        ],
        name="small",
    )
    model.set_weights(
        [
            np.arange(zeros.size, dtype=np.float32).reshape(zeros.shape) + 100 * number
            for number, zeros in enumerate(model.get_weights())
        ]
    )
    return model


def blank(**options: Any) -> Any:
    """The same with all weights 0."""
    model = small(**options)
    model.set_weights([np.zeros_like(array) for array in model.get_weights()])
    return model


def write(path: Path, layers: dict[str, dict[str, Any]], **attributes: Any) -> Path:
    """Write a file in Keras 2's layout, from arrays by layer name and weight name."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        file.attrs.update(attributes)
        for name, weights in layers.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in weights]
            for key, value in weights.items():
                group[f"{name}/{key}:0"] = value
    return path


def arrays(model: Any) -> dict[str, dict[str, Any]]:
    return {
        layer.name: {variable.name: np.asarray(variable) for variable in layer.weights}
        for layer in model.layers
    }


@pytest.mark.parametrize(
    ("first", "head", "in_file"),
    [
        # Keras's own loader would match these by order.
        ("first", "head", {"head": "head", "bn": "bn", "first": "first"}),
        ("dense_1", "dense", {"dense": "head", "bn": "bn", "dense_1": "first"}),
        # `conv1/conv` of Keras 2 is `conv1_conv` of Keras 3.
        ("one_first", "one_head", {"one/head": "head", "bn": "bn", "one/first": "first"}),
        # Other names are matched by order: `dense_1`, `dense_2` can be `dense`, `dense_1`.
        ("first", "head", {"a": "first", "bn": "bn", "b": "head"}),
        ("dense", "dense_1", {"dense_1": "first", "bn": "bn", "dense_2": "head"}),
    ],
    ids=["names", "automatic names", "slashes", "order", "order of automatic names"],
)
def test_layers_of_equal_shapes_are_matched(
    first: str, head: str, in_file: dict[str, str], tmp_path: Path
) -> None:
    model = small(units=3, inputs=3)
    layers = arrays(model)
    renamed = {name: layers[layer] for name, layer in in_file.items()}
    other = blank(units=3, inputs=3, first=first, head=head)
    load_weights(other, write(tmp_path / "w.h5", renamed))
    equal(model, other)


def test_attributes_that_keras_split_are_read(tmp_path: Path) -> None:
    """HDF5 allows 64 kB per attribute; for more, Keras writes `layer_names0`, `layer_names1`."""
    model = small()
    path = write(tmp_path / "w.h5", arrays(model))
    with h5py.File(path, "a") as file:
        first, *rest = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        file.attrs["layer_names0"] = [first]
        file.attrs["layer_names1"] = rest
    other = blank()
    load_weights(other, path)
    assert np.array_equal(other.get_weights()[0], model.get_weights()[0])


def test_float64_arrays_are_rounded_to_float32(tmp_path: Path) -> None:
    layers = arrays(small())
    layers["first"]["kernel"] = layers["first"]["kernel"].astype(np.float64) * (1 + 1e-12)
    model = blank()
    load_weights(model, write(tmp_path / "w.h5", layers))
    assert np.array_equal(model.get_weights()[0], small().get_weights()[0])


# Files that cannot be read.


def _text(path: Path) -> None:
    path.write_text("no weights here")


def _truncated(path: Path) -> None:
    whole = write(path.with_name("whole.h5"), arrays(small())).read_bytes()
    path.write_bytes(whole[:3000])


def _empty(path: Path) -> None:
    h5py.File(path, "w").close()


def _other_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def _theano(path: Path) -> None:
    write(path, arrays(small()), backend=b"theano")


def _lost_dataset(path: Path) -> None:
    write(path, arrays(small()))
    with h5py.File(path, "a") as file:
        del file["first/first/kernel:0"]


def _no_archive(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 and no more")


def _dataset_for_group(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["layers/dense/vars"] = np.float32(1)


def _nothing(path: Path) -> None:
    path.with_name("wights.h5").touch()


KINDS = "a Keras weights file (.weights.h5, .h5 or .keras)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, f"{{}} is a folder; give {KINDS}."),
        (_text, f"{{}} is not {KINDS}."),
        (Path.touch, f"{{}} is not {KINDS}."),
        (_empty, "{} is an HDF5 file, but contains no weights of Keras layers."),
        (
            _other_archive,
            f"{{}} cannot be read as {KINDS}; it may be damaged "
            "(There is no item named 'model.weights.h5' in the archive).",
        ),
        (
            _theano,
            "{} was written with Theano, which stores convolution kernels flipped. "
            "Load it in Keras 2 on TensorFlow and save it again.",
        ),
        (_nothing, "there is no file {}. Did you mean 'wights.h5'?"),
    ],
)
def test_files_without_weights_of_keras_are_an_error(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "weights.h5"
    make(path)
    with pytest.raises(WeightsError) as caught:
        load_weights(small(), path)
    assert str(caught.value) == message.format(repr(str(path)))
    assert isinstance(caught.value, LayertapError)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_truncated, "truncated file"),
        (_lost_dataset, "'kernel:0' doesn't exist"),
        (_no_archive, "not a zip file"),
        (_dataset_for_group, "scalar dataset"),
    ],
)
def test_damaged_files_are_an_error(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    """The error contains the message of h5py, which differs between versions."""
    path = tmp_path / "weights.h5"
    make(path)
    with pytest.raises(WeightsError) as caught:
        load_weights(small(), path)
    message = str(caught.value)
    assert message.startswith(f"{str(path)!r} cannot be read as {KINDS}; it may be damaged (")
    assert reason in message
    assert caught.value.__cause__ is not None


# Files of another model.


def _without(layers: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: weights for name, weights in layers.items() if name not in names}


@pytest.mark.parametrize(
    ("layers", "problems"),
    [
        (
            lambda: _without(arrays(small()), "head"),
            "it has no weights for 'head' (kernel (3, 2), bias (2,)).",
        ),
        (
            lambda: {**arrays(small()), "extra": {"kernel": np.zeros((2, 5), np.float32)}},
            "no layer of the model matches its 'extra' (kernel (2, 5)).",
        ),
        (
            lambda: arrays(small(units=5)),
            "its 'head' has a kernel of shape (3, 5) instead of (3, 2); "
            "its 'head' has a bias of shape (5,) instead of (2,).",
        ),
        (
            lambda: arrays(small(units=5, head="scores")),
            "it has no weights for 'head' (kernel (3, 2), bias (2,)); "
            "no layer of the model matches its 'scores' (kernel (3, 5), bias (5,)).",
        ),
        (
            lambda: {**arrays(small()), "head": {"kernel": np.zeros((3, 2), np.float32)}},
            "its 'head' has kernel (3, 2) instead of kernel (3, 2), bias (2,).",
        ),
        (
            lambda: {
                **arrays(small()),
                "head": {"kernel": np.zeros((3, 2), np.uint16), "bias": np.zeros(2, np.float32)},
            },
            "its 'head' has a kernel of dtype uint16 instead of float32.",
        ),
        (
            lambda: arrays(small(units=5, inputs=6)) | {"gap": {"kernel": np.zeros((1, 1))}},
            "no layer of the model matches its 'gap' (kernel (1, 1)); "
            "its 'first' has a kernel of shape (6, 3) instead of (4, 3); "
            "its 'head' has a kernel of shape (3, 5) instead of (3, 2); and 1 more.",
        ),
    ],
)
def test_weights_of_another_model_are_an_error(
    tmp_path: Path, layers: Callable[[], dict[str, Any]], problems: str
) -> None:
    path = write(tmp_path / "w.h5", layers())
    model = small()
    before = [array.tobytes() for array in model.get_weights()]
    with pytest.raises(WeightsError) as caught:
        load_weights(model, path)
    assert str(caught.value) == (
        f"{str(path)!r} does not contain the weights of 'small': {problems}"
    )
    assert [array.tobytes() for array in model.get_weights()] == before


def test_a_layer_of_another_name_is_matched_by_shape(tmp_path: Path) -> None:
    model = small(head="dense_7")
    other = blank()
    load_weights(other, write(tmp_path / "w.h5", arrays(model)))
    assert np.array_equal(other.get_weights()[-1], model.get_weights()[-1])


def equal(model: Any, other: Any) -> None:
    for expected, found in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(expected, found)


def test_ambiguous_layers_are_not_matched_by_order(tmp_path: Path) -> None:
    """If the number of layers differs, layers of equal shape could be exchanged."""
    layers = arrays(small(units=3, inputs=3))
    renamed = {"a": layers["first"], "bn": layers["bn"], "b": layers["head"], "c": layers["head"]}
    with pytest.raises(WeightsError, match="it has no weights for 'first'"):
        load_weights(small(units=3, inputs=3), write(tmp_path / "w.h5", renamed))


# --- Models in models ---------------------------------------------------------------------------


def backbone(k: Any, family: Any, frozen: Sequence[str] = ()) -> Any:
    x = start = family.Input((8, 8, 3))
    for number in "12":
        x = k.Conv2D(3, 3, padding="same", name=f"conv{number}")(x)
        x = k.BatchNormalization(name=f"bn{number}")(x)
    model = family.Model(start, x, name="backbone")
    for name in frozen:
        model.get_layer(name).trainable = False
    return model


def with_backbone(family: Any, frozen: Sequence[str] = ()) -> Any:
    k = family.layers
    x = family.Input((8, 8, 3))
    y = k.Flatten()(backbone(k, family, frozen)(x))
    return family.Model(x, k.Dense(2)(k.Dense(2)(y)))


def sequences(family: Any, frozen: Sequence[str] = ()) -> Any:
    k = family.layers
    return family.Sequential(
        [
            family.Input((5, 4)),
            k.LSTM(4, return_sequences=True),
            k.LSTM(4, return_sequences=True),
            k.Bidirectional(k.LSTM(2, return_sequences=True)),
            k.Bidirectional(k.GRU(2, return_sequences=True)),
            k.TimeDistributed(k.Dense(3)),
            k.Conv1D(3, 2),
        ]
    )


def attention(family: Any, frozen: Sequence[str] = ()) -> Any:
    k = family.layers
    x = family.Input((5, 4))
    y = k.MultiHeadAttention(2, 4)(x, x)
    return family.Model(x, k.LayerNormalization()(k.MultiHeadAttention(2, 4)(y, x)))


def depthwise(family: Any, frozen: Sequence[str] = ()) -> Any:
    """`depthwise_kernel` of Keras 2 is `kernel` in Keras 3."""
    k = family.layers
    layers = [k.DepthwiseConv2D(3), k.SeparableConv2D(4, 3), k.Conv2DTranspose(3, 3)]
    return family.Sequential([family.Input((8, 8, 3)), *layers])


def fill(model: Any) -> np.ndarray:
    """Give a model random weights; returns its outputs."""
    randomise(model)
    return computed(model)


def randomise(model: Any) -> None:
    random = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(random.uniform(0.1, 0.5, tuple(variable.shape)))


def computed(model: Any) -> np.ndarray:
    shape = (2, *model.input_shape[1:])
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return np.asarray(model(x, training=False))


@pytest.mark.parametrize("make", [with_backbone, sequences, attention, depthwise])
@pytest.mark.parametrize("name", ["w.weights.h5", "w.h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_weights_of_keras_3_load_in_keras_3(make: Any, name: str, tmp_path: Path) -> None:
    make(keras)  # so that the numbers in names differ
    model, other = make(keras), make(keras)
    expected = fill(model)
    (model.save if name == "w.h5" else model.save_weights)(tmp_path / name)
    load_weights(other, tmp_path / name)
    np.testing.assert_array_equal(computed(other), expected)


@pytest.mark.parametrize("make", [with_backbone, sequences, attention, depthwise])
@pytest.mark.parametrize(
    ("to", "name"),
    [
        ("keras", "w.weights.h5"),
        ("tf_keras", "w.h5"),
        pytest.param("keras", "w.h5", marks=pytest.mark.slow),
        pytest.param("tf_keras", "w.weights.h5", marks=pytest.mark.slow),
    ],
)
def test_weights_of_keras_2_load_in_both_families(
    make: Any, name: str, to: str, tf_keras: Any, tmp_path: Path
) -> None:
    """Frozen layers come last in `.h5` files of Keras 2; the other model has no frozen layers."""
    make(tf_keras)
    model, other = make(tf_keras, ["bn1", "conv1"]), make(keras if to == "keras" else tf_keras)
    randomise(model)
    model.save_weights(tmp_path / name)
    load_weights(other, tmp_path / name)
    if to == "keras":
        np.testing.assert_allclose(computed(other), computed(model), rtol=1e-5, atol=1e-6)
    else:
        equal(model, other)


@pytest.mark.parametrize("version", ["2.0.8", "2.2.4", "2.3.1"])
def test_weights_of_2017_to_2019_load_in_keras_3(version: str, old: Any) -> None:
    k = keras.layers
    file = old(version, "nested")
    x = keras.Input((8, 8, 3))
    start = keras.Input((8, 8, 3))
    y = start
    for number in "12":
        y = k.Conv2D(4, 3, name=f"conv{number}")(y)
        y = k.BatchNormalization(name=f"bn{number}")(y)
    inner = keras.Model(start, y, name="backbone")
    model = keras.Model(x, k.Dense(2)(k.Flatten()(inner(x))))
    load_weights(model, file.weights)
    np.testing.assert_allclose(np.asarray(model(file.x)), file.y, rtol=1e-5, atol=1e-5)


def test_inner_models_with_equal_layer_names_are_matched_by_path(tmp_path: Path) -> None:
    def inner(name: str) -> Any:
        layers = [keras.Input((3,)), keras.layers.Dense(3, name="one")]
        return keras.Sequential(layers, name=name)

    def model() -> Any:
        return keras.Sequential([keras.Input((3,)), inner("left"), inner("right")])

    first, other = model(), model()
    expected = fill(first)
    first.save_weights(tmp_path / "w.weights.h5")
    load_weights(other, tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(computed(other), expected)


def test_weights_of_a_subclassed_model_are_loaded(tmp_path: Path) -> None:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = [keras.layers.Dense(3), keras.layers.Dense(3)]

        def call(self, x: Any) -> Any:
            for block in self.blocks:
                x = block(x)
            return x

    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    first, other = Net(), Net()
    expected = np.asarray(first(x))
    other(x)
    first.save_weights(tmp_path / "w.weights.h5")
    load_weights(other, tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(np.asarray(other(x)), expected)


# --- Groups -------------------------------------------------------------------------------------


def test_groups_with_names_are_matched_by_name(tmp_path: Path) -> None:
    """Not by their number among the layers of a class."""
    model = small(units=3, inputs=3)
    path = tmp_path / "w.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "a") as file:
        layers = file["layers"]
        layers.move("dense", "other")
        layers.move("dense_1", "dense")
        layers.move("other", "dense_1")
    other = blank(units=3, inputs=3)
    load_weights(other, path)
    equal(model, other)


def test_the_state_of_training_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "w.weights.h5"
    small().save_weights(path)
    with h5py.File(path, "a") as file:
        file["layers/dropout/seed_generator/vars/0"] = np.array([0, 3], np.uint32)
        file["optimizer/vars/0"] = np.array(7)
    assert [layer.path for layer in read_weights(path)] == [("bn",), ("first",), ("head",)]


def test_groups_without_names_are_matched_by_number_in_their_class(tmp_path: Path) -> None:
    """Older versions of Keras wrote no names: `dense`, `batch_normalization`, `dense_1`."""
    model = small(units=3, inputs=3)
    path = tmp_path / "w.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "a") as file:
        groups = [file[f"layers/{name}/vars"] for name in ("dense", "dense_1")]
        for group in (*groups, file["layers/batch_normalization/vars"]):
            del group.attrs["name"]
    other = blank(units=3, inputs=3)
    load_weights(other, path)
    equal(model, other)
