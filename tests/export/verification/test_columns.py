"""Inputs whose elements have uses of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import layertap
import layertap_export
from keras_batches import batches_of
from layertap.comparing.check import check

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

DTYPES = {"tokens": "int32", "float tokens": "float32", "words": "string", "keys": "int64"}


def columns_model(keras: Any, kind: str, counts: list[int], form: str, oov: int = 1) -> Any:
    """A model with a table of so many rows, or so many keys, for each column of its input."""
    keras.utils.set_random_seed(0)
    layers, ops = keras.layers, keras.ops
    shape = (1, len(counts)) if form == "middle axis" else (len(counts),)
    entry = keras.Input(shape, dtype=DTYPES[kind], name="x")
    if form == "unstack":
        columns = ops.unstack(entry, axis=-1)
    else:
        columns = [entry[..., index] for index in range(len(counts))]
    found = []
    for index, (count, x) in enumerate(zip(counts, columns, strict=True)):
        if kind == "words":
            words = [f"{index}-{number}" for number in range(count)]
            x = layers.StringLookup(vocabulary=words, num_oov_indices=oov)(x)
        elif kind == "keys":
            keys = list(range(1000 * index + 5, 1000 * index + 5 + 3 * count, 3))
            x = layers.IntegerLookup(vocabulary=keys, num_oov_indices=oov)(x)
        rows = count + oov if kind in ("words", "keys") else count
        found.append(layers.Embedding(rows, 2, name=f"table{index}")(x))
    return keras.Model(entry, layers.Dense(2, name="out")(ops.concatenate(found, -1)))


@settings(max_examples=10, deadline=None)
@given(
    kind=st.sampled_from(sorted(DTYPES)),
    counts=st.lists(st.integers(2, 70), min_size=2, max_size=4, unique=True),
    form=st.sampled_from(["slices", "unstack", "middle axis"]),
    oov=st.integers(0, 1),
)
def test_every_row_of_each_columns_table_is_read(
    kind: str, counts: list[int], form: str, oov: int, keras: Any
) -> None:
    if kind == "words" and form == "unstack":
        form = "slices"  # Keras has no unstack of strings
    read, batches = batches_of(columns_model(keras, kind, counts, form, oov))
    assert len(read.shares()) == len(counts) * (2 if kind in ("words", "keys") else 1)
    assert all(seen == rows for seen, rows in read.shares().values())
    assert len(batches) >= 2


@pytest.mark.parametrize(("kind", "oov"), [("tokens", 1), ("words", 0), ("keys", 0)])
def test_the_golden_sample_has_them_too(kind: str, oov: int, keras: Any, tmp_path: Path) -> None:
    model = columns_model(keras, kind, [5, 40], "slices", oov)
    report = layertap_export.export(model, tmp_path / "m.onnx")
    assert report.verification.tables["table1"][0] == report.verification.tables["table1"][1]
    opened = layertap.open(report.path)
    assert check(opened)
    golden = report.verification.golden.inputs[0]
    assert golden.choices is not None
    assert len(set(golden.choices)) >= 20


def test_a_column_of_real_numbers_beside_one_of_tokens(keras: Any) -> None:
    layers = keras.layers
    entry = keras.Input((3,))
    one, two = layers.Embedding(5, 2)(entry[:, 0]), layers.Embedding(80, 2)(entry[:, 1])
    x = keras.ops.concatenate([one, two, entry[:, 2:]], -1)
    read, batches = batches_of(keras.Model(entry, x))
    assert all(seen == rows for seen, rows in read.shares().values())
    last = np.concatenate([batch.arrays[0][:, 2] for batch in batches])
    assert last.min() < 0 < last.max()
    assert (last != np.round(last)).any()
