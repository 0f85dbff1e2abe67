"""Custom classes and functions of models."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap_export
from layertap.cli import main
from layertap_export import ModelLoadError, load_model
from layertap_export.keras_model.loading.custom_objects import custom_objects_of, unknown_name_in

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]

OWN = """
import keras

class Scale(keras.layers.Layer):
    def __init__(self, factor=2.0, **options):
        super().__init__(**options)
        self.factor = factor
    def call(self, x):
        return x * self.factor
    def get_config(self):
        return {**super().get_config(), "factor": self.factor}

def shifted_tanh(x):
    return keras.ops.tanh(x) + 1

OWN = {"Scale": Scale, "shifted_tanh": shifted_tanh}
number = 3

class Holder:
    Scale = Scale

def build():
    layers = [keras.layers.Dense(3, activation=shifted_tanh), Scale(3.0, name="scale")]
    return keras.Sequential([keras.Input((4,)), *layers])
"""


@pytest.fixture
def own(module: Callable[[str], str]) -> str:
    return module(OWN)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.parametrize(
    "given", [["{}:OWN"], ["{}:Scale", "{}:shifted_tanh"], ["{}:Holder.Scale", "{}:shifted_tanh"]]
)
def test_custom_objects_can_be_references(
    name: str, given: list[str], own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In Python and on the command line, for `export` and `verify`."""
    model = load_model(f"{own}:build")
    model.save(tmp_path / name)
    references = [reference.format(own) for reference in given]
    loaded = load_model(tmp_path / name, custom_objects=references)
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(loaded(x)), np.asarray(model(x)))
    options = [word for reference in references for word in ("--custom-objects", reference)]
    assert main(["export", name, "-o", "own.onnx", *options]) == 0
    assert "2 of 2 layers exposed" in capsys.readouterr().out
    assert main(["verify", "own.onnx", name, *options]) == 0


def test_custom_objects_can_be_classes_functions_and_mappings(own: str, tmp_path: Path) -> None:
    model = load_model(f"{own}:build")
    model.save(tmp_path / "model.keras")
    scale, tanh = type(model.layers[-1]), model.layers[0].activation
    for given in ([scale, tanh], {"Scale": scale, "shifted_tanh": tanh}, [{"Scale": scale}, tanh]):
        report = layertap_export.export(
            tmp_path / "model.keras", tmp_path / "own.onnx", custom_objects=given
        )
        assert layertap_export.verify(report.path, tmp_path / "model.keras", custom_objects=given)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.parametrize(
    ("given", "unknown"), [([], "shifted_tanh"), (["{}:shifted_tanh"], "Scale")]
)
def test_the_error_names_a_missing_custom_object(
    name: str, given: list[str], unknown: str, keras: Any, own: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    load_model(f"{own}:build").save(path)
    with pytest.raises(ModelLoadError) as caught:
        load_model(path, custom_objects=[reference.format(own) for reference in given])
    assert str(caught.value) == (
        f"{str(path)!r} uses {unknown!r}, which Keras {keras.__version__} does not know. If it is "
        "a custom class or function, say where it is: --custom-objects "
        f"package.module:{unknown} (custom_objects= in Python)."
    )


def test_models_of_keras_2_can_have_custom_objects(tf_keras: Any, tmp_path: Path) -> None:
    class Own(tf_keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x + 1

    path = tmp_path / "model.h5"
    tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2), Own()]).save(path)
    with pytest.raises(ModelLoadError) as caught:
        load_model(path)
    assert str(caught.value).startswith(
        f"{str(path)!r} uses 'Own', which tf_keras {tf_keras.__version__} does not know."
    )
    assert type(load_model(path, custom_objects=[Own]).layers[-1]) is Own


def test_a_missing_custom_object_is_reported_before_missing_tf_keras(
    tf_keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installing tf_keras would not help."""

    class Own(tf_keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x + 1

    path = tmp_path / "model.h5"
    tf_keras.Sequential([tf_keras.Input((4,)), Own()]).save(path)
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(ModelLoadError, match="uses 'Own', which Keras 3"):
        load_model(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nothing", "expected package.module:name, got 'nothing'."),
        ("{}:", "expected package.module:name, got '{}:'."),
        ("{}:Scal", "the module '{}' has no 'Scal'. Did you mean 'Scale'?"),
        ("no_such_module_here:Own", "cannot import the module 'no_such_module_here': No module "
         "named 'no_such_module_here'"),
    ],
)  # fmt: skip
def test_invalid_references_are_an_error(given: str, message: str, own: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        custom_objects_of([given.format(own)])
    assert str(caught.value) == message.format(own)


def test_a_constant_for_the_code_of_lambda_layers(own: str) -> None:
    assert custom_objects_of([f"{own}:number"]) == {"number": 3}
    with pytest.raises(ModelLoadError, match=r"^invalid custom object 3 of type int: expected"):
        custom_objects_of([3])


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("Could not locate class 'Own'. Make sure custom classes", "Own"),
        ("Could not locate function 'own_act'. Make sure", "own_act"),
        ("Unknown layer: 'mine>Own'. Please ensure you are using", "mine>Own"),
        ("Unknown activation function: 'own_act'. Please ensure", "own_act"),
        ("Unknown initializer: Own. Please ensure", "Own"),
        ("Could not interpret activation function identifier: own_act", "own_act"),
        ("Could not interpret activation function identifier: {'value': 3}", None),
        ("Unrecognized keyword arguments passed to LSTM: {'time_major': False}", None),
    ],
)
def test_the_unknown_name_is_read_from_messages_of_keras(message: str, name: str | None) -> None:
    assert unknown_name_in(message) == name
