"""Rows of tables that are read by indices which are any function of the inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import layertap_export
from keras_batches import batches_of
from layertap.errors import LayertapWarning

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

LINEAR = [float(x) for x in np.linspace(-50, 150, 200)]
SPREAD = [float(x) for x in np.geomspace(1e-3, 1e5, 200)]

INDICES: dict[str, tuple[Callable[[Any, Any], Any], int]] = {
    "digitize": (lambda ops, x: ops.digitize(x, LINEAR), 201),
    "digitize widely": (lambda ops, x: ops.digitize(x, SPREAD), 201),
    "digitize minus": (lambda ops, x: ops.digitize(7 - 3 * x, LINEAR), 201),
    "logarithm": (lambda ops, x: ops.cast(ops.log1p(ops.relu(x)) * 9, "int32") % 200, 200),
    "square root": (lambda ops, x: ops.minimum(ops.cast(ops.sqrt(ops.relu(x)), "int32"), 200), 201),
    "square": (lambda ops, x: ops.minimum(ops.cast(ops.square(x) * 3, "int32"), 200), 201),
    "exponential": (lambda ops, x: ops.clip(ops.cast(ops.exp(x), "int32"), 0, 200), 201),
    "sine": (lambda ops, x: ops.cast(ops.sin(x) * 99.5, "int32") + 99, 199),
    "rounded": (
        lambda ops, x: ops.clip(ops.cast(ops.round(x * x * x), "int32"), -60, 60) + 60,
        121,
    ),
    "softmax": (lambda ops, x: ops.cast(ops.softmax(x) * 10.9, "int32"), 11),
    "two columns": (
        lambda ops, x: ops.digitize(x[:, :1], LINEAR[::20]) * 11 + ops.digitize(x, LINEAR[::20]),
        121,
    ),
}
"""The index of a table by the name of the function, and how many rows it selects from."""


def computed(keras: Any, function: Callable[[Any], Any]) -> Any:
    """A layer that computes a function of its inputs."""

    class Computed(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return function(x)

    return Computed()


def table_model(
    keras: Any, name: str, shape: tuple[int | None, ...], dtype: str = "float32"
) -> Any:
    index, rows = INDICES[name]
    entry = keras.Input(shape, dtype=dtype, name="x")
    layer = computed(keras, lambda x: index(keras.ops, keras.ops.cast(x, "float32")))
    found = layer(entry)
    return keras.Model(entry, keras.layers.Embedding(rows, 4, name="table")(found))


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(sorted(INDICES)),
    shape=st.sampled_from([(3,), (None,), (2, 5)]),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_every_row_is_read(
    keras: Any, name: str, shape: tuple[int | None, ...], dtype: str
) -> None:
    read, batches = batches_of(table_model(keras, name, shape, dtype))
    rows = INDICES[name][1]
    assert read.shares() == {"table": (rows, rows)}
    assert max(batch.arrays[0].shape[1] for batch in batches) < 100  # no wave of 4,096 steps


@pytest.mark.parametrize("mode", ["int", "one_hot", "multi_hot", "count"])
def test_every_bin_of_a_discretization_is_read(mode: str, keras: Any) -> None:
    entry = keras.Input((3,))
    bins = keras.layers.Discretization(bin_boundaries=LINEAR, output_mode=mode, name="bins")(entry)
    if mode == "int":
        bins = keras.layers.Flatten()(keras.layers.Embedding(201, 2)(bins))
    read, _ = batches_of(keras.Model(entry, keras.layers.Dense(2)(bins)))
    assert list(read.shares().values()) == [(201, 201)]


def test_several_inputs_and_a_batch_of_fixed_size(keras: Any) -> None:
    one, two = keras.Input((3,), batch_size=4), keras.Input((3,), batch_size=4, dtype="int32")
    ages = [18.0, 30.0, 65.0, 100.0, 1000.0]

    def index(values: Any) -> Any:
        digitize = keras.ops.digitize
        return digitize(values[0], LINEAR[::20]) * 6 + digitize(
            keras.ops.cast(values[1], "float32"), ages
        )

    x = keras.layers.Embedding(66, 4, name="table")(computed(keras, index)([one, two]))
    read, batches = batches_of(keras.Model([one, two], x))
    assert read.shares() == {"table": (66, 66)}
    assert {batch.arrays[0].shape for batch in batches} == {(4, 3)}


def test_an_index_of_two_numbers(keras: Any) -> None:
    import tensorflow as tf

    class Grid(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.table = self.add_weight(shape=(11, 11, 3), initializer="normal")

        def call(self, x: Any) -> Any:
            return tf.gather_nd(self.table, keras.ops.digitize(x, LINEAR[::20]))

        def compute_output_shape(self, shape: Any) -> Any:
            return (shape[0], 3)

    entry = keras.Input((2,))
    read, _ = batches_of(keras.Model(entry, Grid(name="grid")(entry)))
    assert read.shares() == {"grid": (121, 121)}


@pytest.mark.parametrize("name", ["digitize widely", "square", "two columns"])
def test_a_wrong_row_is_found(name: str, keras: Any, tmp_path: Path) -> None:
    model = table_model(keras, name, (3,))
    rows = INDICES[name][1]
    report = layertap_export.export(model, tmp_path / "good.onnx")
    graph = onnx.load(report.path)
    (item,) = [x for x in graph.graph.initializer if list(x.dims) == [rows, 4]]
    table = numpy_helper.to_array(item).copy()
    table[rows // 2] *= -9
    item.CopyFrom(numpy_helper.from_array(table, item.name))
    onnx.save(graph, tmp_path / "bad.onnx")
    assert layertap_export.verify(report.path, model)
    with pytest.warns(LayertapWarning, match="the weights are not those that were verified"):
        assert not layertap_export.verify(tmp_path / "bad.onnx", model)


def test_a_warning_says_which_tables_were_hardly_read(keras: Any, tmp_path: Path) -> None:
    entry = keras.Input((3,), name="x")
    index = keras.layers.Lambda(lambda x: keras.ops.cast(keras.ops.sigmoid(x) * 4.9, "int32"))(
        entry
    )
    model = keras.Model(entry, keras.layers.Embedding(100, 4, name="codes")(index))
    words = "read 5 of 100 rows of 'codes': .* --sample FILE.npz with the names x "
    with pytest.warns(LayertapWarning, match=words) as caught:
        report = layertap_export.export(model, tmp_path / "x.onnx")
    assert caught[0].filename == __file__
    assert report.verification.hardly_read == ("codes",)
    with pytest.warns(LayertapWarning, match=words):
        layertap_export.verify(report.path, model)
