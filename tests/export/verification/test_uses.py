"""What the inputs of a model are used for, and that the batches touch every row of its tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_batches import batches_of

pytestmark = pytest.mark.tensorflow

PATHS = ("plain", "reshape", "nested", "sequential", "take", "shifted", "one_hot", "concatenate")


def tokens(keras: Any, path: str, dtype: str, rows: int, length: int | None) -> Any:
    """A model whose tokens go to a table of so many rows on one of the `PATHS`."""
    layers, ops = keras.layers, keras.ops
    entry = keras.Input((length,), dtype=dtype, name="tokens")
    table = layers.Embedding(rows, 4, name="table")
    x = entry
    if path == "reshape":
        x = ops.expand_dims(ops.transpose(ops.reshape(x, (-1, length or 1)), (1, 0)), -1)[..., 0]
        x = ops.transpose(x, (1, 0))
    elif path == "shifted":
        x = ops.cast(x, "int32") - 3
    elif path == "concatenate":
        x = ops.concatenate([x, ops.flip(x, axis=1)], axis=1)
    if path == "nested":
        inner = keras.Input((length,), dtype=dtype)
        x = keras.Model(inner, table(inner), name="inside")(x)
    elif path == "sequential":
        x = keras.Sequential([table], name="inside")(x)
    elif path == "take":
        weights = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
        x = ops.take(ops.convert_to_tensor(weights), ops.cast(x, "int32"), axis=0)
    elif path == "one_hot":
        x = layers.Dense(4, name="table")(ops.one_hot(ops.cast(x, "int32"), rows))
    else:
        x = table(x)
    return keras.Model(entry, layers.Dense(2)(x))


@settings(max_examples=25, deadline=None)
@given(
    path=st.sampled_from(PATHS),
    dtype=st.sampled_from(["float32", "int32", "int64", "uint8", "float64"]),
    rows=st.integers(1, 200),
    length=st.sampled_from([None, 1, 5, 10]),
)
def test_every_row_of_a_table_is_read(
    keras: Any, path: str, dtype: str, rows: int, length: int | None
) -> None:
    if path == "reshape" and length is None:
        length = 3
    model = tokens(keras, path, dtype, rows, length)
    read, batches = batches_of(model)
    (share,) = read.shares().values()
    assert share == (rows, rows)
    first = 3 if path == "shifted" else 0
    for batch in batches:
        (array,) = batch.arrays
        assert array.dtype == dtype
        assert (array == np.floor(array)).all()
        assert first <= array.min()
        assert array.max() < rows + first
        assert array.shape[1] < 100  # no wave of 4,096 steps
