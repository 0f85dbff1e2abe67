"""Keras in float64, for inputs of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import layertap_export

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

WORDS = [f"word {number}" for number in range(12)]


@pytest.mark.parametrize("kind", ["words", "keys", "words and numbers"])
def test_inputs_that_are_no_real_numbers(kind: str, keras: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    if kind == "keys":
        lookup = layers.IntegerLookup(vocabulary=list(range(5, 40, 3)), name="lookup")
    else:
        lookup = layers.StringLookup(vocabulary=WORDS, name="lookup")
    entry = keras.Input((3,), dtype="int64" if kind == "keys" else "string", name="words")
    x = layers.Flatten()(layers.Embedding(13, 4, name="table")(lookup(entry)))
    entries = [entry]
    if kind == "words and numbers":
        entries.append(keras.Input((5,), name="numbers"))
        x = layers.Concatenate()([x, entries[1]])
    model = keras.Model(entries, layers.Dense(2, activation="tanh", name="out")(x))
    report = layertap_export.export(model, tmp_path / "m.onnx", reference="float64")
    found = {layer.name: layer for layer in report.verification.layers}
    assert found["out"].from_float64 is not None
    assert found["out"].keras_from_float64 is not None
    assert 0 < found["out"].from_float64 < 1e-6
    assert 0 < found["out"].keras_from_float64 < 1e-6
    assert "against Keras in float64 the file's largest scaled error is" in str(report)
