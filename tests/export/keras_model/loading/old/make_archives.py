"""Write `tf-2.13.zip`: `.keras` archives in the layout of TensorFlow 2.12 to 2.14.

    pip install tensorflow-cpu==2.13.1
    python make_archives.py OUT

`NAME.npz` contains inputs `x0`, `x1`, ... and the prediction `y` of that TensorFlow for them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow import keras

k: Any = keras.layers


def conv() -> Any:
    x = keras.Input((8, 8, 3), name="image")
    y = k.ReLU()(k.BatchNormalization()(k.Conv2D(4, 3)(x)))
    y = k.DepthwiseConv2D(3, padding="same")(k.Conv2D(5, 3)(y))
    return keras.Model(x, k.Dense(2)(k.GlobalAveragePooling2D()(y)), name="conv")


def nested() -> Any:
    a, x = keras.Input((4,)), keras.Input((4,))
    inner = keras.Model(a, k.Dense(3)(k.Dense(5)(a)), name="inner")
    plain = keras.Sequential([k.Dropout(0.2, input_shape=(4,))], name="plain")
    layers = keras.Sequential([k.Dense(4, input_shape=(4,)), k.Dense(4)], name="seq")
    return keras.Model(x, k.Dense(2)(inner(layers(plain(x)))))


def recurrent() -> Any:
    x = keras.Input((6,))
    y = k.Bidirectional(k.LSTM(3, return_sequences=True))(k.Embedding(10, 4)(x))
    y = k.TimeDistributed(k.Dense(3))(k.GRU(4, return_sequences=True)(y))
    y = k.LayerNormalization()(k.MultiHeadAttention(2, 3)(y, y))
    return keras.Model(x, k.Dense(2)(k.Flatten()(y)))


def sequential() -> Any:
    layers = [k.Dense(4, input_shape=(3,)), k.Dropout(0.2), k.Dense(4), k.Dense(2, "softmax")]
    return keras.Sequential(layers)


def shared() -> Any:
    layer, a, b = k.Dense(3, name="shared"), keras.Input((4,)), keras.Input((4,))
    return keras.Model([a, b], k.Concatenate()([layer(a), layer(b), k.Dense(2)(a)]))


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for build in (conv, nested, recurrent, sequential, shared):
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        model, rng = build(), np.random.default_rng(0)
        for weight in model.weights:
            weight.assign(rng.uniform(0.1, 1, weight.shape))
        shapes = [(2, *tensor.shape[1:]) for tensor in model.inputs]
        inputs = [
            np.asarray(
                rng.integers(0, 10, shape) if build is recurrent else rng.normal(size=shape),
                np.float32,
            )
            for shape in shapes
        ]
        given = inputs if len(inputs) > 1 else inputs[0]
        if build is sequential:  # with an optimizer in the file
            model.compile("adam", "mse")
            model.fit(given, model.predict(given, verbose=0), verbose=0)
        arrays = {f"x{index}": array for index, array in enumerate(inputs)}
        arrays["y"] = model.predict(given, verbose=0)
        np.savez(folder / f"{build.__name__}.npz", **arrays)  # type: ignore[arg-type]
        model.save(folder / f"{build.__name__}.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
