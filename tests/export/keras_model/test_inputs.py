"""The inputs of Keras models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from generators import zoo

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*looks like it has unbuilt state:UserWarning"),
]

Shapes = dict[str, tuple[tuple[int | None, ...], str]]


def found(model: Any) -> Shapes:
    from layertap_export.keras_model.inputs import model_inputs

    return {info.name: (info.shape, info.dtype) for info in model_inputs(model).infos}


def subclass(keras: Any, call: Callable[..., Any], **more: Any) -> Any:
    """An instance of a subclass of `keras.Model` with this `call`."""
    return type("Net", (keras.Model,), {"call": call, **more})(name="net")


FLOAT = "float32"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nested", {"image": ((None, 6, 8, 3), FLOAT)}),
        ("sequential_of_functional", {"input_layer": ((None, 6, 8, 4), FLOAT)}),
        ("shared_models", {"left": ((None, 4), FLOAT), "right": ((None, 4), FLOAT)}),
        ("dicts", {"left": ((None, 4), FLOAT), "right": ((None, 3), FLOAT)}),
        (
            "nested_structures",
            {"t:s": ((None, 2), FLOAT), "u": ((None, 2), FLOAT), "u:1": ((None, 2), FLOAT)},
        ),
        ("with_state", {"entry": ((2, 4, 2), FLOAT)}),
        ("tied", {"entry": ((None, 4), "int32")}),
        # Subclassed: called on data, built by its own `build`, called on symbolic inputs.
        ("subclassed", {"x": ((None, 4), FLOAT)}),
        (
            "nested_argument",
            {"one": ((None, 4), FLOAT), "pair": ((None, 2), FLOAT), "pair:1": ((None, 3), FLOAT)},
        ),
        ("own_build", {"left": ((None, 4), FLOAT), "right": ((None, 5), FLOAT)}),
        ("masks_and_arguments", {"x": ((None, 5, 2), FLOAT)}),
        (
            "several_arguments",
            {"left": ((None, 4), FLOAT), "right": ((None, 2), FLOAT), "weight": ((None, 1), FLOAT)},
        ),
    ],
)
def test_inputs_have_names_shapes_and_dtypes(name: str, expected: Shapes, keras: Any) -> None:
    model = zoo.make(keras, name)
    assert found(model) == expected
    assert list(found(model)) == list(expected)


def test_inputs_are_named_by_the_parameters_of_call(keras: Any) -> None:
    model = subclass(
        keras, lambda self, first, *rest, scale=1.0, **more: (first, *rest, more["last"])
    )
    entries = [keras.Input((n,)) for n in (1, 2, 3, 4)]
    model(*entries[:3], last=entries[3], scale=2.0)
    shapes = {"first": 1, "rest": 2, "rest:1": 3, "last": 4}
    assert found(model) == {name: ((None, n), FLOAT) for name, n in shapes.items()}


def test_equal_and_empty_keys_get_unique_names(keras: Any) -> None:
    model = subclass(keras, lambda self, x: x["a"]["b"] + 1)
    model({"a:b": keras.Input((1,)), "a": {"b": keras.Input((2,))}, "": keras.Input((3,))})
    assert found(model) == {
        "input": ((None, 3), FLOAT),
        "a:b": ((None, 2), FLOAT),
        "a:b~2": ((None, 1), FLOAT),
    }


def test_the_last_symbolic_call_defines_the_inputs(keras: Any) -> None:
    model = subclass(keras, lambda self, x: x + 1)
    model(keras.Input((3,)))
    model(keras.Input((None, 4), dtype="int32"))
    assert found(model) == {"x": ((None, None, 4), "int32")}


@pytest.mark.parametrize("name", ["several_arguments", "nested_argument", "dicts", "nested"])
def test_a_call_puts_arrays_into_the_nested_arguments(name: str, keras: Any) -> None:
    from layertap_export.keras_model.inputs import model_inputs

    model = zoo.make(keras, name)
    inputs = model_inputs(model)
    arrays = zoo.batch(inputs.infos)
    if name == "several_arguments":
        expected = model(arrays["left"], arrays["right"], weight=arrays["weight"])
    elif name == "nested_argument":
        expected = model({"one": arrays["one"], "pair": [arrays["pair"], arrays["pair:1"]]})
    elif name == "dicts":
        expected = model(arrays)
    else:
        expected = model(arrays["image"])
    given = [arrays[info.name] for info in inputs.infos]
    ours, theirs = (keras.tree.flatten(x) for x in (inputs.call(model, given), expected))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_call_runs_in_inference_mode(keras: Any) -> None:
    from layertap_export.keras_model.inputs import model_inputs

    seen: list[Any] = []

    def call(self: Any, x: Any, training: Any = None) -> Any:
        seen.append(training)
        return x

    model = subclass(keras, call)
    model(keras.Input((2,)), training=True)
    model_inputs(model).call(model, [np.ones((1, 2), np.float32)])
    assert seen[-1] is False


def two(self: Any, left: Any, right: Any, training: Any = None, mask: Any = None) -> Any:
    return left + right


@pytest.mark.parametrize(
    ("prepare", "call", "message"),
    [
        (
            lambda model: None,
            lambda self, x: x,
            "the model 'net' has never been called, so its inputs are not known. Call it once on a "
            "batch, give its first layer an input shape, or state its inputs with --input x=SHAPE "
            "(in Python: inputs={'x': shape}); for example --input x=?,224,224,3:float32, where ? "
            "is a free size.",
        ),
        (
            lambda model: model(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)),
            two,
            "the shapes of all arguments of call(left, right) are not known: the model 'net' was "
            "only called on data, or built with shapes. Call it once on symbolic inputs, "
            "model(keras.Input(...), keras.Input(...)), before you export it, or state its inputs "
            "with --input left=SHAPE --input right=SHAPE (in Python: inputs={'left': shape}).",
        ),
    ],
)
def test_inputs_that_are_not_known_are_an_error(
    prepare: Callable[[Any], Any], call: Callable[..., Any], message: str, keras: Any
) -> None:
    from layertap_export import ExportError

    model = subclass(keras, call)
    prepare(model)
    with pytest.raises(ExportError) as caught:
        found(model)
    assert str(caught.value) == message


def test_parameters_of_build_that_call_does_not_have_are_an_error(keras: Any) -> None:
    from layertap_export import ExportError

    model = subclass(
        keras, lambda self, x, y: x + y, build=lambda self, x_shape, z_shape=None: None
    )
    model.build(x_shape=(None, 3), z_shape=(None, 3))
    with pytest.raises(ExportError, match=r"the shapes of all arguments of call\(x, y\) are not"):
        found(model)
