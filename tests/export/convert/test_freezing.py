"""Variables that stay out of TensorFlow's graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap_export

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def chain(keras: Any, shape: tuple[int | None, ...], *layers: Any, dtype: str = "float32") -> Any:
    x = start = keras.Input(shape, dtype=dtype, name="image")
    for layer in layers:
        x = layer(x)
    return keras.Model(start, x, name="chain")


def transformed(k: Any, keras: Any) -> Any:
    x = keras.Input((5, 8), name="words")
    return keras.Model(x, k.Dense(3)(k.MultiHeadAttention(2, 4, name="mha")(x, x)))


MODELS: dict[str, Callable[[Any, Any], Any]] = {
    "images": lambda k, keras: chain(
        keras,
        (8, 9, 3),
        k.Conv2D(4, 3, padding="same", name="conv"),
        k.BatchNormalization(name="bn"),
        k.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"),
        k.SeparableConv2D(6, 3, name="separable"),
        k.Conv2DTranspose(4, 3, strides=2, padding="same", name="transposed"),
        k.Conv2D(4, 2, groups=2, name="grouped"),
        k.Flatten(name="flat"),
        k.Dense(3, name="dense"),
    ),
    "volumes": lambda k, keras: chain(
        keras, (6, 6, 6, 2), k.Conv3D(4, 3, name="conv"), k.Conv3DTranspose(2, 3, name="up")
    ),
    "words": lambda k, keras: chain(
        keras,
        (5,),
        k.Embedding(11, 4, name="embed"),
        k.Conv1D(4, 3, padding="causal", name="conv"),
        k.LSTM(3, return_sequences=True, name="lstm"),
        k.Dense(4, name="dense"),
        k.EinsumDense("abk,kj->abj", (None, 6), name="einsum"),
        k.EinsumDense("abc,cde->abde", (None, 2, 3), name="heads"),
        dtype="int32",
    ),
    "attention": transformed,
    "half": lambda k, keras: chain(
        keras,
        (8, 9, 3),
        k.Conv2D(4, 3, dtype="mixed_float16", name="conv"),
        k.Dense(3, dtype="mixed_float16", name="dense"),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_file_is_the_same_as_with_all_weights_in_the_graph(
    name: str, keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras.utils.set_random_seed(0)
    model = MODELS[name](keras.layers, keras)
    files = {}
    for large in (1, 1 << 40):
        monkeypatch.setattr("layertap_export.convert.freezing.STUB_BYTES", large)
        path = tmp_path / f"{large}.onnx"
        # The tolerance is that of half precision.
        layertap_export.export(model, path, tolerance=1e-2 if name == "half" else 1e-4)
        files[large] = path.read_bytes()
    assert files[1] == files[1 << 40]


def frozen(model: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The weights that are kept out of the graph, by the end of the variable's name."""
    from layertap_export.convert.freezing import freeze
    from layertap_export.keras_model.tracing import trace

    monkeypatch.setattr("layertap_export.convert.freezing.STUB_BYTES", 1)
    traced = trace(model)
    kept = freeze(traced.function).weights
    names = {id(value): name for name, value in kept.items()}
    assert len(names) == len(kept)
    return {str(value.shape): value for value in kept.values()}


def test_a_weight_is_the_variable_itself(keras: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = keras.layers.Dense(3, name="dense")
    model = chain(keras, (4,), layer)
    (kept,) = frozen(model, monkeypatch).values()
    variable = layer.kernel.value.value()
    assert np.shares_memory(kept, np.asarray(memoryview(variable)))
    np.testing.assert_array_equal(kept, layer.kernel.numpy())
    layer.kernel.assign(np.zeros((4, 3)))  # which is then another piece of memory
    assert kept.any()


def test_what_is_computed_with_stays_in_the_graph(
    keras: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bias is added, and a kernel goes into a loop: tf2onnx wants to see their values."""
    layers = keras.layers
    lstm = layers.LSTM(3, "gelu", name="lstm")  # for which there is no operator
    model = chain(keras, (5, 4), lstm, layers.Dense(2, name="dense"))
    assert list(frozen(model, monkeypatch)) == ["(3, 2)"]


def test_a_weight_that_is_used_otherwise_too_stays_in_the_graph(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Normed(keras.layers.Dense):
        def call(self, x: Any) -> Any:
            return super().call(x) / keras.ops.norm(self.kernel)

    model = chain(keras, (4,), Normed(3, name="normed"))
    assert frozen(model, monkeypatch) == {}
    assert layertap_export.export(model, tmp_path / "normed.onnx").verification


def test_more_than_tensorflow_s_graphs_hold(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layertap_export.convert.freezing.STUB_BYTES", 1)
    monkeypatch.setattr("layertap_export.convert.freezing.GRAPH_DEF_BYTES", 1000)
    layers = keras.layers
    # 36 kB go into products, and 860 bytes into additions and the loop of an LSTM.
    model = chain(keras, (5, 90), layers.Dense(100), layers.Dense(3), layers.LSTM(4, "gelu"))
    assert layertap_export.export(model, tmp_path / "fits.onnx")
    model = chain(keras, (5, 4), layers.LSTM(8, "gelu", name="lstm"))
    with pytest.raises(layertap_export.ExportError) as caught:
        layertap_export.export(model, tmp_path / "large.onnx")
    assert str(caught.value) == (
        "more than 0.0 GB of the weights are used in loops or arithmetic, "
        "'lstm/lstm_cell/recurrent_kernel:0' among them. Above this size, weights can only be "
        "exported if convolutions and matrix products use them."
    )
