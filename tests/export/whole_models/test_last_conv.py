"""`last-conv` and Grad-CAM of it, whatever wraps the last convolution."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
import layertap_export
from layertap.errors import UsageError

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

VIDEO = (3, 9, 8, 2)
"""Steps, height, width, channels."""


def chain(keras: Any, shape: tuple[int | None, ...], *layers: Any) -> Any:
    x = start = keras.Input(shape, name="x")
    for layer in layers:
        x = layer(x)
    return keras.Model(start, x)


def per_frame(k: Any) -> list[Any]:
    conv = k.TimeDistributed(k.Conv2D(4, 3, activation="relu"), name="maps")
    return [conv, k.TimeDistributed(k.Flatten()), k.LSTM(3), k.Dense(2)]


def per_frame_free(k: Any) -> list[Any]:
    conv = k.TimeDistributed(k.Conv2D(4, 3, activation="relu"), name="maps")
    return [conv, k.GlobalAveragePooling3D(), k.Dense(2)]


def frames_of_parts(k: Any) -> list[Any]:
    conv = k.TimeDistributed(k.TimeDistributed(k.Conv2D(4, 3, activation="relu")), name="maps")
    return [conv, k.Flatten(), k.Dense(2)]


def conv_lstm(k: Any) -> list[Any]:
    return [k.ConvLSTM2D(4, 3, name="maps"), k.GlobalAveragePooling2D(), k.Dense(2)]


def conv_lstm_steps(k: Any) -> list[Any]:
    conv = k.ConvLSTM2D(4, 3, return_sequences=True, name="maps")
    return [conv, k.BatchNormalization(name="after"), k.GlobalAveragePooling3D(), k.Dense(2)]


def both_ways(k: Any) -> list[Any]:
    conv = k.Bidirectional(k.ConvLSTM1D(3, 3, return_sequences=True), name="maps")
    return [conv, k.GlobalAveragePooling2D(), k.Dense(2)]


def reshaped(k: Any) -> list[Any]:
    conv = k.Conv1D(4, 3, activation="relu", padding="same", name="maps")
    return [conv, k.Reshape((6, 4, 4)), k.GlobalAveragePooling2D(), k.Dense(2)]


CASES: dict[
    str, tuple[tuple[int | None, ...], Callable[[Any], list[Any]], str, tuple[int, ...]]
] = {
    "TimeDistributed": (VIDEO, per_frame, "maps", (3, 9, 8)),
    "TimeDistributed, free steps": ((None, *VIDEO[1:]), per_frame_free, "maps", (3, 9, 8)),
    "TimeDistributed twice": ((2, *VIDEO), frames_of_parts, "maps", (2, 3, 9, 8)),
    "ConvLSTM2D": (VIDEO, conv_lstm, "maps", (9, 8)),
    "ConvLSTM2D of all steps": (VIDEO, conv_lstm_steps, "after", (3, 9, 8)),
    "Bidirectional ConvLSTM1D": ((3, 9, 2), both_ways, "maps", (3, 9)),
    "Conv1D and Reshape": ((24, 2), reshaped, "maps", (24,)),
}
"""The shape of the input, the layers, the name of the layer to find, and the size of its maps: that
of the input, with one map per step where the layer has one."""


@pytest.mark.parametrize("name", CASES)
def test_grad_cam_is_that_of_the_tape(name: str, keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    shape, layers, expected, size = CASES[name]
    keras.utils.set_random_seed(2)
    network = chain(keras, shape, *layers(keras.layers))
    layertap_export.export(network, tmp_path / "m.onnx", gradients="last-conv")
    model = layertap.open(tmp_path / "m.onnx")
    assert model.card is not None
    assert model.card.gradients is not None
    assert list(model.card.gradients.tensors) == [expected]

    x = np.random.default_rng(0).uniform(-1, 1, (2, *(s or 3 for s in shape))).astype(np.float32)
    part = keras.Model(network.inputs, [network.get_layer(expected).output, network.output])
    with tf.GradientTape() as tape:
        maps, scores = part(tf.constant(x))
        score = tf.reduce_sum(scores[:, 1])
    slopes, maps = tape.gradient(score, maps).numpy(), maps.numpy()
    places = tuple(range(1, maps.ndim - 1))
    heat = np.maximum((maps * slopes.mean(axis=places, keepdims=True)).sum(axis=-1), 0)
    found = model.cam(x, target=1, resize=False, normalize=True)
    peak = heat.max(axis=places, keepdims=True)
    np.testing.assert_allclose(found[:, 0], heat / np.where(peak > 0, peak, 1), atol=2e-5)
    assert peak.max() > 0
    assert model.cam(x, target=1).shape == (2, 1, *size)


def test_frames_whose_maps_are_not_in_one_tensor(keras: Any, tmp_path: Path) -> None:
    k = keras.layers
    frame = chain(keras, VIDEO[1:], k.Conv2D(4, 3, name="conv"), k.GlobalAveragePooling2D())
    network = chain(keras, VIDEO, k.TimeDistributed(frame, name="frames"), k.Flatten(), k.Dense(2))
    with pytest.raises(UsageError) as caught:
        layertap_export.export(network, tmp_path / "m.onnx", gradients="last-conv")
    assert str(caught.value).startswith(
        "last-conv: 'frames' computes the feature maps step by step, and gives out no tensor with "
        "those of all steps. Name the layers of the steps that you need instead, for example "
        "'frames/"
    )
    assert not (tmp_path / "m.onnx").exists()
