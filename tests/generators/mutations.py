"""Small Keras models of every kind, and files in which one weight was changed.

`mutants(path)` gives copies of a file, each with one weight tensor changed in one way: a row, a
sign, two rows swapped. Every such file computes something else than the model, if the change shows
at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from .zoo import randomised

Make = Callable[[Any], Any]
"""From the module `keras` to a model."""

TOKENS, STEPS, VOCABULARY = "tokens", 12, 30


def make(keras: Any, name: str) -> Any:
    """The model of this name, with seeded weights none of which are 0 or 1."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    return randomised(MODELS[name](keras))


# --- Models --------------------------------------------------------------------------------------


def stack(shape: tuple[int | None, ...], *layers: Callable[[Any], Any], **entry: Any) -> Make:
    """A chain of layers, each made from `keras.layers`."""

    def model(keras: Any) -> Any:
        x = start = keras.Input(shape, **entry)
        for layer in layers:
            x = layer(keras.layers)(x)
        return keras.Model(start, x)

    return model


def tokens(*layers: Callable[[Any], Any], dtype: str = "int32") -> Make:
    """Token numbers, embedded, and then these layers."""
    return stack((STEPS,), lambda k: k.Embedding(VOCABULARY, 5), *layers, dtype=dtype, name=TOKENS)


def attention(keras: Any) -> Any:
    layers = keras.layers
    entry, memory = keras.Input((6, 8)), keras.Input((5, 8))
    x = layers.MultiHeadAttention(2, 3)(entry, memory)
    x = layers.LayerNormalization()(layers.Add()([x, entry]))
    x = layers.AdditiveAttention()([x, memory])
    return keras.Model([entry, memory], layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def nested(keras: Any) -> Any:
    layers = keras.layers
    inside = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same")(inside)
    block = keras.Model(inside, layers.Add()([layers.BatchNormalization()(x), inside]))
    entry = keras.Input((8, 8, 3))
    x = keras.Sequential([block, layers.ReLU(), layers.Flatten()])(layers.Conv2D(4, 1)(entry))
    return keras.Model(entry, layers.Dense(2)(x))


def shared(keras: Any) -> Any:
    layers = keras.layers
    dense = layers.Dense(4, "tanh")
    entry = keras.Input((4,))
    return keras.Model(entry, layers.Dense(3)(dense(dense(entry))))


def several(keras: Any) -> Any:
    """Two inputs of two dtypes, two outputs."""
    layers = keras.layers
    image, token = keras.Input((6, 6, 2)), keras.Input((4,), dtype="int64")
    x = layers.GlobalMaxPooling2D()(layers.Conv2D(5, 3)(image))
    y = layers.Flatten()(layers.Embedding(9, 2)(token))
    both = layers.Concatenate()([x, y])
    return keras.Model([image, token], [layers.Dense(3)(both), layers.Dense(2, "softmax")(x)])


def subclassed(keras: Any) -> Any:
    layers = keras.layers

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = [layers.Dense(6, "relu"), layers.Dense(6, "relu")]
            self.norm, self.head = layers.LayerNormalization(), layers.Dense(2)

        def call(self, x: Any) -> Any:
            for block in self.blocks:
                x = x + block(x)
            return self.head(self.norm(x))

    net = Net()
    net(keras.Input((6,)))
    return net


def experts(keras: Any) -> Any:
    """One of 16 experts is chosen for each sample."""
    ops, layers = keras.ops, keras.layers
    entry = keras.Input((6,))
    gate = ops.one_hot(ops.argmax(layers.Dense(16)(entry), -1), 16)
    each = layers.Reshape((16, 3))(layers.Dense(48)(entry))
    return keras.Model(entry, ops.sum(each * gate[..., None], 1))


def largest(keras: Any) -> Any:
    """Of 12 units the three largest count."""
    ops, layers = keras.ops, keras.layers
    entry = keras.Input((6,))
    x = layers.Dense(12)(entry)
    chosen = ops.sum(ops.one_hot(ops.top_k(x, 3)[1], 12), 1)
    return keras.Model(entry, layers.Dense(3)(x * chosen))


IMAGE, VOLUME, SERIES = (10, 9, 3), (6, 7, 5, 2), (14, 4)

MODELS: dict[str, Make] = {
    "dense": stack((7,), lambda k: k.Dense(8, "relu"), lambda k: k.Dense(3, "softmax")),
    "deep": stack((7,), *[lambda k: k.Dense(8, "relu")] * 4, lambda k: k.Dense(3)),
    "experts": experts,
    "largest": largest,
    "conv1d": stack(SERIES, lambda k: k.Conv1D(6, 3), lambda k: k.Conv1D(5, 3, dilation_rate=2)),
    "conv2d": stack(
        IMAGE,
        lambda k: k.Conv2D(6, 3, activation="relu"),
        lambda k: k.Conv2D(4, 3, strides=2, padding="same"),
        lambda k: k.GlobalAveragePooling2D(),
        lambda k: k.Dense(3),
    ),
    "conv2d groups": stack((8, 8, 4), lambda k: k.Conv2D(6, 3, groups=2)),
    "conv3d": stack(VOLUME, lambda k: k.Conv3D(4, 3)),
    "conv1d transposed": stack(SERIES, lambda k: k.Conv1DTranspose(5, 3, strides=2)),
    "conv2d transposed": stack(IMAGE, lambda k: k.Conv2DTranspose(5, 3, strides=2)),
    "conv3d transposed": stack(VOLUME, lambda k: k.Conv3DTranspose(3, 2, strides=2)),
    "separable": stack(SERIES, lambda k: k.SeparableConv1D(5, 3, depth_multiplier=2)),
    "separable 2d": stack(IMAGE, lambda k: k.SeparableConv2D(5, 3, activation="relu")),
    "depthwise": stack(IMAGE, lambda k: k.DepthwiseConv2D(3, depth_multiplier=2)),
    "depthwise 1d": stack(SERIES, lambda k: k.DepthwiseConv1D(3)),
    "batch normalisation": stack(
        IMAGE,
        lambda k: k.Conv2D(5, 3, use_bias=False),
        lambda k: k.BatchNormalization(),
        lambda k: k.ReLU(),
        lambda k: k.BatchNormalization(),
    ),
    "layer normalisation": stack(SERIES, lambda k: k.LayerNormalization(), lambda k: k.Dense(4)),
    "group normalisation": stack(
        (8, 8, 6), lambda k: k.GroupNormalization(3), lambda k: k.Conv2D(3, 3)
    ),
    "rms normalisation": stack(SERIES, lambda k: k.RMSNormalization(), lambda k: k.Dense(4)),
    "embedding": tokens(lambda k: k.GlobalAveragePooling1D(), lambda k: k.Dense(3)),
    "float tokens": tokens(
        lambda k: k.GlobalAveragePooling1D(), lambda k: k.Dense(3), dtype="float32"
    ),
    "text convolution": tokens(
        lambda k: k.Conv1D(6, 3, activation="relu"),
        lambda k: k.GlobalMaxPooling1D(),
        lambda k: k.Dense(2, "sigmoid"),
    ),
    "tokens behind relus": tokens(
        lambda k: k.Conv1D(6, 3, activation="relu"),
        lambda k: k.GlobalMaxPooling1D(),
        lambda k: k.Dense(4, "relu"),
        lambda k: k.Dense(2, "sigmoid"),
    ),
    "lstm": stack(SERIES, lambda k: k.LSTM(5, return_sequences=True), lambda k: k.LSTM(3)),
    "gru": stack(SERIES, lambda k: k.GRU(5, return_sequences=True), lambda k: k.GRU(3)),
    "rnn": stack(SERIES, lambda k: k.SimpleRNN(5)),
    "bidirectional": tokens(lambda k: k.Bidirectional(k.LSTM(4))),
    "bidirectional gru": stack(SERIES, lambda k: k.Bidirectional(k.GRU(3, return_sequences=True))),
    "convlstm": stack((3, 6, 6, 2), lambda k: k.ConvLSTM2D(3, 3)),
    "attention": attention,
    "einsum": stack((6, 8), lambda k: k.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de")),
    "prelu": stack(IMAGE, lambda k: k.Conv2D(4, 3), lambda k: k.PReLU(shared_axes=[1, 2])),
    "time distributed": stack((4, *IMAGE), lambda k: k.TimeDistributed(k.Conv2D(4, 3))),
    "nested": nested,
    "shared": shared,
    "several": several,
    "channels first": stack(
        (3, 10, 9),
        lambda k: k.Conv2D(5, 3, data_format="channels_first"),
        lambda k: k.BatchNormalization(axis=1),
        lambda k: k.GlobalAveragePooling2D(data_format="channels_first"),
        lambda k: k.Dense(3),
    ),
    "subclassed": subclassed,
}


# --- Mutations -----------------------------------------------------------------------------------


def _row(value: NDArray[Any], axis: int, at: int) -> NDArray[Any]:
    changed = value.copy()
    changed[(slice(None),) * axis + (at,)] *= 1.5
    return changed


def _sign(value: NDArray[Any], axis: int, at: int) -> NDArray[Any]:
    changed = value.copy()
    changed[(slice(None),) * axis + (at,)] *= -1
    return changed


def _swap(value: NDArray[Any], axis: int, at: int) -> NDArray[Any]:
    order = list(range(value.shape[axis]))
    order[at], order[at - 1] = order[at - 1], order[at]
    return value.take(order, axis)


MUTATIONS = {"row": _row, "sign": _sign, "swap": _swap}


class Mutant(NamedTuple):
    """A file in which one weight was changed."""

    name: str
    """Of the weight, the mutation, and where it was changed."""
    model: onnx.ModelProto


def mutants(original: onnx.ModelProto, every_axis: bool) -> Iterator[Mutant]:
    """Copies of a file, each with one weight changed in one way.

    Args:
        original: the file.
        every_axis: change each weight along each of its axes, instead of along one.
    """
    generator = np.random.default_rng(0)
    for index, item in enumerate(original.graph.initializer):
        value = numpy_helper.to_array(item)
        axes = [axis for axis, size in enumerate(value.shape) if size > 1]
        if value.dtype.kind != "f" or not axes or item.name == "score_weights":
            continue
        for kind, mutation in MUTATIONS.items():
            for axis in axes if every_axis else [axes[generator.integers(len(axes))]]:
                at = int(generator.integers(value.shape[axis]))
                changed = mutation(value, axis, at)
                if np.array_equal(changed, value):
                    continue
                model = onnx.ModelProto()
                model.CopyFrom(original)
                made = numpy_helper.from_array(np.ascontiguousarray(changed), item.name)
                model.graph.initializer[index].CopyFrom(made)
                yield Mutant(f"{item.name}, {kind} at {at} of axis {axis}", model)
