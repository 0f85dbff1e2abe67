"""The batches that a model is compared on: ranges and sizes that Keras takes, and its edges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import layertap
import layertap_export
from keras_batches import batches_of
from layertap.errors import LayertapWarning

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def float_tokens(keras: Any, rows: int = 50) -> Any:
    entry = keras.Input((10,), name="tokens")
    x = keras.layers.Embedding(rows, 4, name="table")(entry)
    return keras.Model(entry, keras.layers.Dense(2, name="out")(x))


@pytest.mark.parametrize("row", [1, 23, 49])
def test_a_wrong_row_of_a_table_behind_a_float_input_is_found(
    row: int, keras: Any, tmp_path: Path
) -> None:
    model = float_tokens(keras)
    report = layertap_export.export(model, tmp_path / "good.onnx")
    assert report.verification.tables == {"table": (50, 50)}
    assert "rows of tables that were read: 'table' 50 of 50" in str(report)
    card = layertap.open(report.path).card
    assert card is not None
    assert card.verification is not None
    assert card.verification.tables is not None
    assert card.verification.tables["table"].read == 50
    graph = onnx.load(report.path)
    (item,) = [x for x in graph.graph.initializer if list(x.dims) == [50, 4]]
    table = numpy_helper.to_array(item).copy()
    table[row] *= -9
    item.CopyFrom(numpy_helper.from_array(table, item.name))
    onnx.save(graph, tmp_path / "bad.onnx")
    assert layertap_export.verify(report.path, model)
    with pytest.warns(LayertapWarning, match="the weights are not those that were verified"):
        assert not layertap_export.verify(tmp_path / "bad.onnx", model)


def sizes_of(batches: list[Any], position: int = 0, axis: int = 1) -> list[int]:
    return [batch.arrays[position].shape[axis] for batch in batches]


class TestSizes:
    """Sizes that belong together, and those with a bound."""

    def test_one_input_four_times_the_other(self, keras: Any) -> None:
        small, large = (keras.Input((None, None, 3)) for _ in range(2))
        model = keras.Model([small, large], keras.layers.UpSampling2D(4)(small) + large)
        _, batches = batches_of(model)
        assert [4 * size for size in sizes_of(batches)] == sizes_of(batches, 1)
        assert len(set(sizes_of(batches))) == 4

    def test_an_image_and_its_mask(self, keras: Any) -> None:
        image, mask = keras.Input((None, None, 3)), keras.Input((None, None))
        model = keras.Model([image, mask], image * keras.ops.expand_dims(mask, -1))
        _, batches = batches_of(model)
        for batch in batches:
            assert batch.arrays[0].shape[:3] == batch.arrays[1].shape

    def test_a_lower_bound(self, keras: Any) -> None:
        entry = keras.Input((None, 1))
        _, batches = batches_of(keras.Model(entry, keras.layers.Cropping1D((5000, 5000))(entry)))
        assert min(sizes_of(batches)) > 10_000

    @settings(max_examples=15, deadline=None)
    @given(
        shape=st.sampled_from([(None, 2), (None,), (None, None, 3), (None, 5)]),
        target=st.sampled_from(
            [(-1, 28, 2), (-1, 7), (-1, 1000), (37, -1), (5, -1, 11), (-1, 160)]
        ),
    )
    def test_multiples_of_what_a_reshape_has(
        self, shape: tuple[int | None, ...], target: tuple[int, ...], keras: Any
    ) -> None:
        entry = keras.Input(shape)
        _, batches = batches_of(keras.Model(entry, keras.layers.Reshape(target)(entry)))
        known = int(np.prod([size for size in target if size > 0]))
        assert len({batch.arrays[0].shape[1] for batch in batches}) >= 4
        for batch in batches:
            assert batch.arrays[0][0].size % known == 0

    @pytest.mark.parametrize("bound", [2, 5, 11, 150])
    def test_learned_positions(self, bound: int, keras: Any) -> None:
        class Positions(keras.layers.Layer):
            def build(self, shape: Any) -> None:
                self.table = self.add_weight(shape=(bound, 2), initializer="normal")

            def call(self, x: Any) -> Any:
                return x + self.table[: keras.ops.shape(x)[1]]

        entry = keras.Input((None, 2))
        read, batches = batches_of(keras.Model(entry, Positions(name="positions")(entry)))
        assert max(sizes_of(batches)) == bound
        assert list(read.shares().values()) == [(bound, bound)]


class TestRanges:
    """Whole numbers that are no ids of an Embedding, and numbers for which Keras is finite."""

    def test_a_table_of_three_classes(self, keras: Any) -> None:
        weights = np.eye(3, dtype=np.float32)
        entry = keras.Input((), dtype="int32")
        model = keras.Model(entry, keras.ops.take(weights, entry, axis=0))
        read, batches = batches_of(model)
        assert list(read.shares().values()) == [(3, 3)]
        assert max(batch.arrays[0].max() for batch in batches) == 2

    @pytest.mark.parametrize("kind", ["floor", "modulo", "shifted"])
    def test_a_divisor(self, kind: str, keras: Any, tmp_path: Path) -> None:
        """TensorFlow refuses to divide a whole number by 0."""
        one, two = (keras.Input((4,), dtype="int32") for _ in range(2))
        result = {
            "floor": lambda: one // two,
            "modulo": lambda: one % two,
            "shifted": lambda: one // (two - 3),
        }[kind]()
        report = layertap_export.export(keras.Model([one, two], result), tmp_path / "x.onnx")
        zeros = ("not compared on zeros: the model does not take them",)
        assert report.verification.notes == (() if kind == "shifted" else zeros)

    def test_segments(self, keras: Any) -> None:
        data, ids = keras.Input((5,)), keras.Input((), dtype="int32")
        model = keras.Model([data, ids], keras.ops.segment_sum(data, ids, num_segments=4))
        _, batches = batches_of(model)
        assert {"seeded", "many", "zeros", "negative", "large"} == {batch.kind for batch in batches}
        assert set(batches[0].arrays[1].tolist()) == {0, 1, 2, 3}
        for batch in batches:
            assert batch.arrays[1].max() < 4

    def test_two_vocabularies_do_not_get_each_others_keys(self, keras: Any) -> None:
        lookup = keras.layers.StringLookup
        one, two = (keras.Input((2,), dtype="string") for _ in range(2))
        first = lookup(vocabulary=["a", "b"], num_oov_indices=0)(one)
        second = lookup(vocabulary=[f"w{i}" for i in range(30)])(two)
        read, batches = batches_of(keras.Model([one, two], [first, second]))
        assert set(read.shares().values()) == {(2, 2), (30, 30)}
        for batch in batches:
            assert set(batch.arrays[0].ravel()) <= {"a", "b"}
            assert not set(batch.arrays[1].ravel()) & {"a", "b"}

    def test_each_input_gets_the_range_where_keras_is_finite(self, keras: Any) -> None:
        one, two = keras.Input((4,)), keras.Input((4,))
        x = keras.ops.concatenate([keras.ops.log(one), keras.ops.arccos(two)])
        _, batches = batches_of(keras.Model([one, two], x))
        assert batches[0].arrays[0].min() > 0
        assert batches[0].arrays[1].min() < 0
        assert [batch.kind for batch in batches] == [
            "seeded",
            "seeded",
            "many",
            "zeros",
            "negative",
            "large",
        ]
        assert np.abs(batches[-1].arrays[0]).max() > 10
        assert batches[3].arrays[0].tolist() == np.zeros((1, 4)).tolist()
        assert batches[4].arrays[0].max() <= 0


def test_a_model_of_little_work_is_compared_on_many_samples(keras: Any) -> None:
    """A batch of one sample is among the batches; large models have few samples."""
    entry = keras.Input((6,))
    cheap = keras.Model(entry, keras.layers.Dense(2)(entry))
    counts = [len(batch.arrays[0]) for batch in batches_of(cheap)[1]]
    assert counts == [64, 1, 1000, 1, 1002, 1]
    entry = keras.Input((256, 256, 3))
    large = keras.Model(entry, keras.layers.Conv2D(16, 3)(entry))
    counts = [len(batch.arrays[0]) for batch in batches_of(large)[1]]
    assert counts == [1, 2, 1, 3, 1]
    entry = keras.Input((6,), batch_size=3)
    fixed = keras.Model(entry, keras.layers.Dense(2)(entry))
    assert {len(batch.arrays[0]) for batch in batches_of(fixed)[1]} == {3}


def test_the_report_says_which_batches_the_model_does_not_take(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    class Small(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            with tf.control_dependencies([tf.debugging.assert_less(tf.abs(x), 50.0)]):
                return tf.identity(x) * 2.0

        def compute_output_shape(self, shape: Any) -> Any:
            return shape

    entry = keras.Input((4,))
    model = keras.Model(entry, keras.layers.Dense(2)(Small()(entry)))
    report = layertap_export.export(model, tmp_path / "small.onnx")
    note = "not compared on values times 100: the model does not take them"
    assert report.verification.notes == (note,)
    assert str(report).splitlines()[2:] == [note]
    verified = replace(report.verification, notes=tuple(map(str, range(5))))
    assert str(verified).splitlines()[1:] == ["0", "1", "2 and 2 more"]
    plain = keras.Model(entry, keras.layers.Dense(2)(entry))
    assert layertap_export.export(plain, tmp_path / "plain.onnx").verification.notes == ()


def test_a_model_that_runs_on_no_batch_says_what_to_do(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    class Particular(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            with tf.control_dependencies([tf.debugging.assert_equal(x, 3.25)]):
                return tf.identity(x)

    entry = keras.Input((3,), name="x")
    with pytest.raises(layertap.LayertapError) as caught:
        layertap_export.export(keras.Model(entry, Particular()(entry)), tmp_path / "x.onnx")
    assert "--sample FILE.npz with the names x" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_users_sizes_and_samples(keras: Any, tmp_path: Path) -> None:
    entry = keras.Input((None, None, 3), name="image")
    model = keras.Model(entry, keras.layers.Conv2D(2, 3, padding="same")(entry))
    own = np.random.default_rng(0).normal(size=(2, 9, 5, 3))
    report = layertap_export.export(
        model, tmp_path / "x.onnx", samples=own, sizes={"height": 20, "width": 24}
    )
    *made, last = report.verification.batches
    assert last == "2 x 9 x 5 x 3, your sample"
    assert {label.partition(" x ")[2].partition(",")[0] for label in made} == {"20 x 24 x 3"}
    np.savez(tmp_path / "own.npz", image=own)
    assert layertap_export.verify(report.path, model, samples=tmp_path / "own.npz")
    with pytest.raises(layertap.UsageError, match="Did you mean 'height'"):
        layertap_export.verify(report.path, model, sizes={"hieght": 3})
    with pytest.raises(layertap.InputError, match="axis 3"):
        layertap_export.verify(report.path, model, samples=own[..., :2])
