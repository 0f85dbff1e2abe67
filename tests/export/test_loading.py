"""Loading the model that is to be exported, and what is said when it cannot be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from layertap_export import ModelLoadError, UnsafeModelError, load_model

pytestmark = [
    pytest.mark.tensorflow,
    # Keras's saving code, with numpy 2.4.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.hdf5"])
def test_whole_model_files_load(name: str, small: Any, tmp_path: Path) -> None:
    path = tmp_path / name
    small.save(path)
    loaded = load_model(path)
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in small.layers]
    for ours, theirs in zip(loaded.get_weights(), small.get_weights(), strict=True):
        assert (ours == theirs).all()


BUILDERS = """
import keras

def build():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="built")

def named(weights):
    name = weights.rpartition("/")[2]
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name=name)

ready = build()
number = 3

def fails():
    raise RuntimeError("no data")

def gives_a_number():
    return 3
"""


@pytest.fixture
def builders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, under a name of its own for each test."""
    name = "builders_" + re.sub(r"\W", "_", tmp_path.name)
    (tmp_path / f"{name}.py").write_text(BUILDERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("what", ["build", "ready"])
def test_a_function_or_a_model_in_a_module(what: str, builders: str) -> None:
    assert load_model(f"{builders}:{what}").name == "built"


def test_weights_are_handed_to_the_function(builders: str, tmp_path: Path) -> None:
    assert load_model(f"{builders}:named", weights=tmp_path / "w.h5").name == "w.h5"


def test_weights_without_a_function(builders: str, small: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_model(f"{builders}:ready", weights="w.h5")
    assert str(caught.value) == (
        f"weights go to a function that builds a model; {builders}:ready is none."
    )
    path = tmp_path / "model.keras"
    small.save(path)
    with pytest.raises(ModelLoadError) as caught:
        load_model(path, weights="w.h5")
    assert str(caught.value) == (
        f"{str(path)!r} has weights of its own; `weights` go to package.module:function."
    )


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "bild",
            "the module '{module}' has no 'bild'. Did you mean 'build'?",
        ),
        ("fails", "{module}:fails failed: RuntimeError: no data"),
        ("gives_a_number", "{module}:gives_a_number gave a builtins.int, not a keras.Model."),
        ("number", "{module}:number gave a builtins.int, not a keras.Model."),
    ],
)
def test_functions_that_give_no_model(what: str, message: str, builders: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_model(f"{builders}:{what}")
    assert str(caught.value) == message.format(module=builders)


def test_no_such_module() -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_model("no_such_module_here:build")
    assert str(caught.value) == (
        "cannot import the module 'no_such_module_here': No module named 'no_such_module_here'"
    )


def test_neither_a_file_nor_a_function() -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_model("chest")
    assert str(caught.value) == (
        "'chest' is neither a file nor a function. Give a .keras file, a whole-model .h5 file, or "
        "package.module:function."
    )


def test_a_missing_file_is_told_with_its_neighbour(small: Any, tmp_path: Path) -> None:
    small.save(tmp_path / "model.keras")
    with pytest.raises(ModelLoadError) as caught:
        load_model(tmp_path / "modle.keras")
    missing = str(tmp_path / "modle.keras")
    assert str(caught.value) == f"there is no file {missing!r}. Did you mean 'model.keras'?"


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    path.write_text("no model")
    with pytest.raises(ModelLoadError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f"{str(path)!r} is not a Keras model file: expected a name that ends in .keras or .h5."
    )


@pytest.mark.parametrize("name", ["text.keras", "text.h5"])
def test_a_text_file_under_a_model_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("no model")
    with pytest.raises(ModelLoadError) as caught:
        load_model(path)
    assert str(caught.value).startswith(
        f"{str(path)!r} is not a Keras model file, or it is damaged: "
    )


def test_a_truncated_file(small: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    small.save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ModelLoadError) as caught:
        load_model(path)
    assert "is not a Keras model file, or it is damaged: " in str(caught.value)


def test_a_file_with_weights_only(small: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    small.save_weights(path)
    with pytest.raises(ModelLoadError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f"{str(path)!r} holds weights only, not the model. Write a function that builds the model "
        "and loads them, and export that: package.module:function."
    )


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_lambda_layer_is_refused_unless_told(suffix: str, keras: Any, tmp_path: Path) -> None:
    layers = [keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2, name="double")]
    path = tmp_path / f"lambda{suffix}"
    keras.Sequential(layers).save(path)
    with pytest.raises(UnsafeModelError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f"{str(path)!r} has a Lambda layer ('double'), whose Python code would run while it is "
        "loaded. If you trust the file, export it with --unsafe (unsafe=True in Python)."
    )
    assert load_model(path, unsafe=True).layers[-1].name == "double"
