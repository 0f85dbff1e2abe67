"""Checks of a file before Keras loads it: whether it is a model, and whether it contains code."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layertap_export import ModelLoadError, UnsafeModelError, load_model

from .conftest import edit_config

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".hdf5", ".dat"])
@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "{} is empty. Copy or save it again."),
        (b"no model\n", "{} is not a Keras model file (.keras or .h5). It looks like a text file."),
        (LFS, "{} is not a Keras model file (.keras or .h5). It looks like a Git LFS pointer; "
         "fetch the model itself with `git lfs pull`."),
        (b"\x80\x04pickle", "{} is not a Keras model file (.keras or .h5)."),
    ],
)  # fmt: skip
def test_files_of_other_formats_are_an_error(
    contents: bytes, message: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(contents)
    with pytest.raises(ModelLoadError) as caught:
        load_model(path)
    assert str(caught.value) == message.format(repr(str(path)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("saved_model.pb", "'{}/saved_model.pb' is part of a SavedModel. Give the folder: '{}'."),
        ("model.onnx", "'{}/model.onnx' is not a Keras model file (.keras or .h5). It looks like "
         "an ONNX model."),
    ],
)  # fmt: skip
def test_files_of_savedmodels_and_onnx_are_recognized_by_name(
    name: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"\x08\x08")
    with pytest.raises(ModelLoadError) as caught:
        load_model(tmp_path / name)
    assert str(caught.value) == message.format(tmp_path, tmp_path)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_truncated_files_are_an_error(name: str, share: float, small: Any, tmp_path: Path) -> None:
    path = tmp_path / name
    small.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelLoadError) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(f"{str(path)!r} is not a Keras model file, or it is damaged: ")
    assert "\n" not in message


def test_a_file_with_only_weights_is_an_error(small: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    small.save_weights(path)
    with pytest.raises(ModelLoadError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f"{str(path)!r} contains only weights, not the model. Give the function that builds the "
        "model, package.module:function, and this file with --weights (weights= in Python)."
    )


def test_a_zip_archive_without_a_config_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", "")
    with pytest.raises(ModelLoadError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f"{str(path)!r} is a zip archive without the config.json of a Keras model."
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "{} is a folder, but not a SavedModel."),
        (
            ["a.keras", "b.h5", "c.txt"],
            "{} is a folder, but not a SavedModel. Give the file in it: 'a.keras', 'b.h5'.",
        ),
        (["config.json"], "{} has a config.json, but no model.weights.h5."),
        (
            ["config.json", "model.weights.h5"],
            "the config.json in {} is damaged: Expecting value: line 1 column 1 (char 0)",
        ),
    ],
)
def test_folders_without_a_model_are_an_error(
    files: list[str], message: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(ModelLoadError) as caught:
        load_model(tmp_path)
    assert str(caught.value) == message.format(repr(str(tmp_path)))


# --- Code ---------------------------------------------------------------------------------------


def lone(keras: Any, code: Any) -> Any:
    return keras.Sequential([keras.Input((4,)), keras.layers.Lambda(code, name="double")])


def nested(keras: Any, code: Any) -> Any:
    """In two nested models and a wrapper."""
    inner = keras.layers.TimeDistributed(keras.layers.Lambda(code, name="double"))
    middle = keras.Sequential([keras.Input((3, 4)), inner])
    return keras.Sequential([keras.Input((3, 4)), keras.Sequential([keras.Input((3, 4)), middle])])


@pytest.mark.parametrize("suffix", [".keras", ".h5", ""])
@pytest.mark.parametrize("make", [lone, nested])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_lambda_layer_needs_unsafe(
    suffix: str, make: Callable[[Any, Any], Any], keras: Any, tmp_path: Path
) -> None:
    path = tmp_path / f"lambda{suffix}"
    make(keras, lambda x: x * 2).save(path if suffix else f"{path}.keras")
    if not suffix:
        zipfile.ZipFile(f"{path}.keras").extractall(path)
    with pytest.raises(UnsafeModelError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f"{str(path)!r} has a Lambda layer ('double'): loading it would run Python code from the "
        "file. If you trust the file, export it with --unsafe (unsafe=True in Python)."
    )
    loaded = load_model(path, unsafe=True)
    while hasattr(loaded, "layers"):
        loaded = loaded.layers[-1]
    assert getattr(loaded, "layer", loaded).name == "double"


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_a_lambda_function_in_any_layer_needs_unsafe(keras: Any, tmp_path: Path) -> None:
    class Own(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * 2

        def get_config(self) -> Any:
            function = keras.saving.serialize_keras_object(lambda x: x * 2)
            return {**super().get_config(), "function": function}

    path = tmp_path / "own.keras"
    keras.Sequential([keras.Input((4,)), Own()]).save(path)
    with pytest.raises(UnsafeModelError) as caught:
        load_model(path, custom_objects=[Own])
    assert str(caught.value) == (
        f"{str(path)!r} has a lambda function: loading it would run Python code from the file. If "
        "you trust the file, export it with --unsafe (unsafe=True in Python)."
    )


def test_a_lambda_layer_in_an_unknown_option_needs_unsafe(keras: Any, tmp_path: Path) -> None:
    """The check does not depend on whether Keras knows the option."""
    path = tmp_path / "own.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(path)
    odd = [{"class_name": "Lambda", "config": 3}]
    edit_config(path, lambda layers: layers[1]["config"].update(odd=odd))
    with pytest.raises(UnsafeModelError, match=r"has a Lambda layer \('lambda'\)"):
        load_model(path)
