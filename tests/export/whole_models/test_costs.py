"""Costs and statistics of layers, against Keras: the formulas of its layers, and its values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap

pytestmark = pytest.mark.tensorflow


def test_the_costs_of_a_small_network(small: Any, small_file: Path) -> None:
    found = layertap.open(small_file).cost()
    assert found["conv"].multiply_adds == 7 * 9 * 3 * 3 * 3 * 8
    assert found["dense"].multiply_adds == 8 * 3
    assert found.multiply_adds == found["conv"].multiply_adds + found["dense"].multiply_adds
    assert found.parameters == small.count_params()
    for layer in small.layers:
        assert found[layer.name].parameters == layer.count_params()
        assert found[layer.name].nbytes == 4 * np.prod(layer.output.shape[1:])


def test_statistics_are_those_of_keras(keras: Any, small: Any, small_file: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 7, 9, 3)).astype(np.float32)
    names = ["conv", "bn", "relu", "add", "pool", "gap", "dense"]
    outputs = keras.Model(small.inputs, [small.get_layer(name).output for name in names])([x])
    found = layertap.open(small_file).layer_statistics(x, names)
    for name, output in zip(names, outputs, strict=True):
        values, row = np.asarray(output, np.float64), found[name]
        assert row.mean == pytest.approx(values.mean(), rel=1e-4, abs=1e-6)
        assert row.std == pytest.approx(values.std(), rel=1e-4)
        assert row.max == pytest.approx(values.max(), rel=1e-4)
        assert row.count == values.size
    assert found["relu"].zeros == pytest.approx(
        float(np.mean(np.asarray(outputs[2]) == 0)), abs=1e-3
    )


@pytest.mark.slow
def test_the_formula_of_each_kind_of_layer(keras: Any, tmp_path: Path) -> None:
    """Formulas with the sizes of the layer, as books give them."""
    import layertap_export

    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((16, 12, 4), name="image")
    x = layers.Conv2D(6, 3, padding="same", strides=2, name="conv")(image)  # 8 x 6
    x = layers.Conv2D(8, 3, groups=2, padding="same", name="grouped")(x)
    x = layers.DepthwiseConv2D(5, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = layers.SeparableConv2D(10, 3, padding="same", name="separable")(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="transposed")(x)  # 16 x 12
    inner = keras.Sequential(
        [keras.Input((16, 12, 4)), layers.Conv2D(4, 1, name="one")], name="inner"
    )
    x = inner(x)
    x = layers.Reshape((16, 48), name="sequence")(x)
    shared = layers.Dense(48, name="shared")
    x = shared(shared(x))
    x = layers.MultiHeadAttention(3, 5, name="attention")(x, x)
    x = layers.LSTM(7, return_sequences=True, name="lstm")(x)
    x = layers.GRU(9, return_sequences=True, name="gru")(x)
    x = layers.Bidirectional(layers.SimpleRNN(5), name="both")(x)
    x = layers.Dense(3, name="dense")(x)
    path = tmp_path / "kinds.onnx"
    layertap_export.export(keras.Model(image, x), path, tolerance=1e-2)
    found = layertap.open(path).cost()
    expected = {
        "conv": 8 * 6 * 9 * 4 * 6,
        "grouped": 8 * 6 * 9 * 3 * 8,
        "depthwise": 8 * 6 * 25 * 8 * 2,
        "separable": 8 * 6 * (9 * 16 + 16 * 10),
        "transposed": 8 * 6 * 9 * 10 * 4,
        "inner/one": 16 * 12 * 4 * 4,
        "lstm": 16 * 4 * 7 * (48 + 7),
        "gru": 16 * 3 * 9 * (7 + 9),
        "both/forward_layer": 16 * 5 * (9 + 5),
        "both/backward_layer": 16 * 5 * (9 + 5),
        "dense": 10 * 3,
    }
    assert {name: found[name].multiply_adds for name in expected} == expected
    # Each call of the shared layer is a row of its own.
    calls = [row.multiply_adds for row in found.rows if row.name.partition("#")[0] == "shared"]
    assert calls == [16 * 48 * 48] * 2
    projections = 16 * 48 * 15 * 3 + 16 * 15 * 48
    inside = [row for row in found.rows if row.name.split("/")[0] == "attention"]
    assert sum(row.multiply_adds for row in inside) == projections + 2 * 16 * 16 * 15
    assert found.multiply_adds == sum(row.multiply_adds for row in found.rows)


PUBLISHED = [
    # He et al. 2016 (3.8e9; Keras's strides are those of its first version), Sandler et al. 2018
    ("ResNet50", 3.87e9, 25_636_712),
    ("MobileNetV2", 3.0e8, 3_538_984),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected", "parameters"), PUBLISHED)
def test_published_counts(
    keras: Any, name: str, expected: float, parameters: int, tmp_path: Path
) -> None:
    import layertap_export

    path = tmp_path / f"{name}.onnx"
    layertap_export.export(getattr(keras.applications, name)(weights=None), path)
    found = layertap.open(path).cost()
    assert found.multiply_adds == pytest.approx(expected, rel=0.02)
    assert found.parameters == parameters
