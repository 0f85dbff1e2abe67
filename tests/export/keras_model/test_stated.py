"""Inputs as users state them: on the command line and in Python."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layertap.errors import UsageError
from layertap.format.layer import Shape
from layertap_export.keras_model.stated import DTYPES, Stated, parsed, stated_inputs

IMAGE = (None, None, None, 3)


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("x=?,?,?,3:float32", "x", Stated(IMAGE, "float32")),
        ("x=?,?,?,3", "x", Stated(IMAGE, None)),
        ("x=None, None, None, 3", "x", Stated(IMAGE, None)),
        ("x=(None, 10)", "x", Stated((None, 10), None)),
        ("x=[-1,*,?,3]:uint8", "x", Stated(IMAGE, "uint8")),
        ("x=1x224x224x3", "x", Stated((1, 224, 224, 3), None)),
        ("x=:int32", "x", Stated(None, "int32")),
        ("x=int32", "x", Stated(None, "int32")),
        ("x=?", "x", Stated((None,), None)),
        ("pair:1=?,3:float16", "pair:1", Stated((None, 3), "float16")),
        ("a=b=?,3", "a=b", Stated((None, 3), None)),
    ],
)
def test_the_command_line_states_shape_and_dtype(text: str, name: str, expected: Stated) -> None:
    assert parsed([text]) == {name: expected}


@given(
    shape=st.lists(st.none() | st.integers(1, 10**6), min_size=1, max_size=6),
    dtype=st.none() | st.sampled_from(DTYPES),
    name=st.text(min_size=1),
)
def test_every_shape_and_name_can_be_written(
    shape: list[int | None], dtype: str | None, name: str
) -> None:
    sizes = ",".join("?" if size is None else str(size) for size in shape)
    text = f"{name}={sizes}" + (f":{dtype}" if dtype else "")
    assert parsed([text]) == {name: Stated(tuple(shape), dtype)}
    assert stated_inputs({name: tuple(shape)}) == {name: Stated(tuple(shape), None)}
    assert stated_inputs({name: (shape, dtype)}) == {name: Stated(tuple(shape), dtype)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "cannot read the input 'x'. Give NAME=SHAPE or NAME=SHAPE:DTYPE"),
        ("=3", "cannot read the input '=3'."),
        ("x=", "'x=' has neither a shape nor a dtype."),
        ("x=?,b", "'x=?,b' has 'b' as a size. Give NAME=SHAPE"),
        ("x=?,1.5", "'x=?,1.5' has '1.5' as a size."),
        ("x=?,0", "the sizes of 'x=?,0' must be at least 1 or None, got 0."),
        (
            "x=?,3:flaot32",
            "'x=?,3:flaot32' has the unknown dtype 'flaot32'. Did you mean 'float32'",
        ),
    ],
)
def test_other_forms_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed([text])
    assert words in str(caught.value)


def test_an_input_is_stated_once() -> None:
    with pytest.raises(UsageError, match="the input 'x' is stated twice: 'x=4' is the second"):
        parsed(["x=3", "x=4"])


SYMBOL = SimpleNamespace(shape=IMAGE, dtype="float32")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (IMAGE, Stated(IMAGE, None)),
        (list(IMAGE), Stated(IMAGE, None)),
        (np.array([2, 3]), Stated((2, 3), None)),
        ((np.int64(2), -1), Stated((2, None), None)),
        ((IMAGE, "float32"), Stated(IMAGE, "float32")),
        ((IMAGE, np.float32), Stated(IMAGE, "float32")),
        ((IMAGE, np.dtype("uint8")), Stated(IMAGE, "uint8")),
        ((IMAGE, None), Stated(IMAGE, None)),
        ("float32", Stated(None, "float32")),
        (np.int32, Stated(None, "int32")),
        (np.dtype("int32"), Stated(None, "int32")),
        ("?,?,?,3:float32", Stated(IMAGE, "float32")),
        (SYMBOL, Stated(IMAGE, "float32")),
        ({"left": (None, 2), "right": (None, 3)}, {"left": Stated((None, 2), None),
                                                   "right": Stated((None, 3), None)}),
        ([(None, 2), ((None, 3), "int32")], [Stated((None, 2), None), Stated((None, 3), "int32")]),
        ((4,), Stated((4,), None)),
    ],
)  # fmt: skip
def test_python_states_shape_and_dtype(value: Any, expected: Any) -> None:
    assert stated_inputs({"x": value}) == {"x": expected}
    if not isinstance(value, dict):  # a mapping has the names of inputs
        assert stated_inputs(value) == {"": expected}


def test_symbols_of_keras_and_tensorflow_are_taken(keras: Any) -> None:
    import tensorflow as tf

    shape: Shape = (None, 4)
    for symbol in (keras.Input((4,), dtype="int32"), keras.KerasTensor(shape, "int32"),
                   tf.TensorSpec(shape, tf.int32), (tf.TensorShape(shape), tf.int32)):  # fmt: skip
        assert stated_inputs({"x": symbol}) == {"x": Stated(shape, "int32")}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "got None for the input 'x'. Give a shape with the batch first"),
        (3, "got 3 for the input 'x'."),
        ((None, 0), "the sizes of the input 'x' must be at least 1 or None, got 0."),
        ((None, True), "the sizes of the input 'x' must be at least 1 or None, got True."),
        ((None, 1.5), "the input 'x' has 1.5 as a size."),
        ((None, "a"), "the input 'x' has 'a' as a size."),
        ((IMAGE, "flaot"), "the input 'x' has the unknown dtype 'flaot'. Did you mean 'float"),
        ("flaot32", "'flaot32' for the input 'x' has 'flaot32' as a size."),
        ((IMAGE, np.complex64), "the input 'x' has the unknown dtype 'complex64'."),
    ],
)
def test_other_values_are_refused(value: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        stated_inputs({"x": value})
    assert words in str(caught.value)


def test_names_are_strings() -> None:
    with pytest.raises(UsageError, match="the names of inputs must be strings, got 0"):
        stated_inputs({0: (None, 3)})
