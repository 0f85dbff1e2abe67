"""Models from functions, and their weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layertap.cli import main
from layertap_export import ModelLoadError, WeightsError, load_model

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

BUILDERS = """
import keras

def build():
    layers = [keras.Input((4,), name="x"), keras.layers.Dense(2, name="dense")]
    return keras.Sequential(layers, name="built")

def named(weights="none"):
    name = weights.rpartition("/")[2]
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name=name)

class Models:
    @staticmethod
    def inner():
        return build()

def loads():
    return keras.models.load_model("own.keras")

ready = build()
number = 3

def fails():
    raise RuntimeError("no data")

def gives_a_number():
    return 3
"""


@pytest.fixture
def builders(module: Callable[[str], str]) -> str:
    return module(BUILDERS)


@pytest.mark.parametrize("what", ["build", "ready", "Models.inner"])
def test_a_reference_can_be_a_function_or_a_model(what: str, builders: str) -> None:
    assert load_model(f"{builders}:{what}").name == "built"


def test_weights_are_passed_to_a_function_with_that_parameter(
    builders: str, tmp_path: Path
) -> None:
    """They need not exist: `imagenet`, for example, is not a file."""
    assert load_model(f"{builders}:named", weights=tmp_path / "w.h5").name == "w.h5"
    assert load_model(f"{builders}:named").name == "none"


@pytest.mark.parametrize("name", ["w.weights.h5", "w.keras", "w.h5"])
def test_weights_are_loaded_into_the_model_that_a_function_returns(
    name: str, builders: str, tmp_path: Path
) -> None:
    model = load_model(f"{builders}:build")
    (model.save_weights if name == "w.weights.h5" else model.save)(tmp_path / name)
    loaded = load_model(f"{builders}:build", weights=tmp_path / name)
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_functions_and_weights_work_on_the_command_line(
    builders: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_model(f"{builders}:build").save_weights("w.weights.h5")
    options = [f"{builders}:build", "--weights", "w.weights.h5"]
    assert main(["export", *options, "-o", "built.onnx"]) == 0
    assert main(["verify", "built.onnx", *options]) == 0
    assert main(["verify", "built.onnx", f"{builders}:build"]) == 1  # other random weights
    printed = capsys.readouterr()
    assert printed.out.count("verified 1 layer against Keras") == 2
    assert "layertap: warning: the model's weights are not those that" in printed.err
    assert "\nlayertap: built.onnx is not what Keras computes: 1 of 1 layers" in printed.err


def test_weights_that_do_not_fit_or_exist_are_an_error(
    builders: str, small: Any, tmp_path: Path
) -> None:
    small.save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(WeightsError) as caught:
        load_model(f"{builders}:build", weights=tmp_path / "w.weights.h5")
    assert str(caught.value).startswith(
        f"{str(tmp_path / 'w.weights.h5')!r} does not contain the weights of 'built': "
    )
    with pytest.raises(WeightsError) as caught:
        load_model(f"{builders}:build", weights=tmp_path / "v.weights.h5")
    missing = str(tmp_path / "v.weights.h5")
    assert str(caught.value).startswith(f"there is no file {missing!r}. Did you mean ")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("bild", "the module '{module}' has no 'bild'. Did you mean 'build'?"),
        ("fails", "{module}:fails failed: RuntimeError: no data"),
        (
            "gives_a_number",
            "expected a keras.Model from {module}:gives_a_number, got an instance of builtins.int.",
        ),
        (
            "number",
            "expected a keras.Model from {module}:number, got an instance of builtins.int.",
        ),
    ],
)
def test_a_reference_that_gives_no_model_is_an_error(
    what: str, message: str, builders: str
) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_model(f"{builders}:{what}")
    assert str(caught.value) == message.format(module=builders)


def test_weights_for_a_model_that_is_not_built_by_a_function_are_an_error(builders: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_model(f"{builders}:ready", weights="w.h5")
    assert str(caught.value) == (
        f"`weights` is only for a function that builds a model, and {builders}:ready is not a "
        "function."
    )


def test_a_module_that_raises_is_an_error(module: Callable[[str], str]) -> None:
    name = module("1 / 0")
    with pytest.raises(ModelLoadError) as caught:
        load_model(f"{name}:build")
    assert str(caught.value) == f"the module {name!r} failed: ZeroDivisionError: division by zero"


def test_custom_objects_are_available_in_a_function_that_loads_a_file(
    keras: Any, builders: str, tmp_path: Path
) -> None:
    class Own(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x + 1

    keras.Sequential([keras.Input((4,)), Own()], name="own").save(tmp_path / "own.keras")
    assert load_model(f"{builders}:loads", custom_objects=[Own]).name == "own"
