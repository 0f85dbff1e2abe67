"""The networks of the benchmark `engines`, with seeded weights and inputs.

A program as well, which writes a network: `NAME ours FILE`, or `NAME plain OUTPUT MIDDLE`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers, ops

import layertap_export

SIZE, CLASSES = 224, 1000
"""Height and width of images, and the number of classes."""
WORDS, STEPS = 20_000, 128
"""Size of the vocabulary, and length of a text."""
OPSET = 18
"""The opset of tf2onnx's files, the same as of layertap's."""


def build(name: str) -> Any:
    """The network, with the same weights and names each time."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    maker = NETWORKS[name]
    model = maker(weights=None) if name in APPLICATIONS else maker()
    # As after some training: with the first weights, most biases are 0 and the variances are 1.
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(rng.uniform(0.8, 1.2, weight.shape))
        elif weight.path.endswith(("beta", "bias", "moving_mean")):
            weight.assign(rng.normal(scale=0.1, size=weight.shape))
    return model


def batch(model: Any, samples: int) -> npt.NDArray[Any]:
    """Seeded samples for a network. Texts have different lengths, with zeros behind their end."""
    rng = np.random.default_rng(samples)
    shape = (samples, *(size or SIZE for size in model.inputs[0].shape[1:]))
    if model.inputs[0].dtype != "int32":
        return rng.normal(size=shape).astype(np.float32)
    lengths = rng.integers(shape[1] // 2, shape[1] + 1, (samples, 1))
    tokens = rng.integers(1, WORDS, shape)
    return np.where(np.arange(shape[1]) < lengths, tokens, 0).astype(np.int32)


def middle(model: Any) -> str:
    """The name of the layer in the middle of the network."""
    names = [layer.name for layer in model.layers if not isinstance(layer, layers.InputLayer)]
    return str(names[len(names) // 2])


class Positions(layers.Layer):
    """Adds a vector for each position of a sequence."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.supports_masking = True

    def build(self, shape: Any) -> None:
        """Make the table of vectors, `(positions, width)`."""
        self.table = self.add_weight(shape=shape[1:], initializer="random_normal", name="table")

    def call(self, sequence: Any) -> Any:
        """The sum, `(n, positions, width)`."""
        return sequence + self.table


def vit(blocks: int = 6, width: int = 384, heads: int = 6, patch: int = 16) -> Any:
    """A vision transformer over 196 patches."""
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(width, patch, strides=patch, name="patches")(image)
    x = layers.Reshape((-1, width))(x)
    x = Positions()(x)
    for number in range(blocks):
        name = f"block{number + 1}"
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.MultiHeadAttention(heads, width // heads, name=f"{name}_attention")(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add(name=name)([x, _mlp(y, 4 * width)])
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(image, layers.Dense(CLASSES, activation="softmax")(x))


def mixer(blocks: int = 6, width: int = 384, patch: int = 16) -> Any:
    """An MLP-Mixer: products over the 196 patches and over the channels, in turn."""
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(width, patch, strides=patch, name="patches")(image)
    x = layers.Reshape((-1, width))(x)
    for number in range(blocks):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.Permute((2, 1))(y)
        y = layers.Permute((2, 1))(_mlp(y, width // 2))
        x = layers.Add()([x, y])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add(name=f"block{number + 1}")([x, _mlp(y, 4 * width)])
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(image, layers.Dense(CLASSES, activation="softmax")(x))


def swin(
    depths: tuple[int, ...] = (2, 2, 4), width: int = 96, window: int = 7, patch: int = 4
) -> Any:
    """A Swin transformer: attention in windows, which every second block shifts."""
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(width, patch, strides=patch, name="patches")(image)
    x = layers.LayerNormalization(epsilon=1e-5)(x)
    side = SIZE // patch
    for stage, blocks in enumerate(depths):
        if stage:  # four neighbours become one
            side, width = side // 2, width * 2
            x = ops.reshape(x, (-1, side, 2, side, 2, width // 2))
            x = ops.reshape(ops.transpose(x, (0, 1, 3, 4, 2, 5)), (-1, side, side, 2 * width))
            x = layers.LayerNormalization(epsilon=1e-5)(x)
            x = layers.Dense(width, use_bias=False)(x)
        for number in range(blocks):
            shift = window // 2 if number % 2 else 0
            count = side // window
            y = layers.LayerNormalization(epsilon=1e-5)(x)
            y = ops.roll(y, (-shift, -shift), (1, 2)) if shift else y
            y = ops.reshape(y, (-1, count, window, count, window, width))
            y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, window * window, width))
            y = layers.MultiHeadAttention(width // 32, 32)(y, y)
            y = ops.reshape(y, (-1, count, count, window, window, width))
            y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, side, side, width))
            y = ops.roll(y, (shift, shift), (1, 2)) if shift else y
            x = layers.Add()([x, y])
            y = layers.LayerNormalization(epsilon=1e-5)(x)
            x = layers.Add(name=f"stage{stage + 1}_block{number + 1}")([x, _mlp(y, 4 * width)])
    x = layers.LayerNormalization(epsilon=1e-5)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(CLASSES, activation="softmax")(x))


def text(blocks: int = 4, width: int = 256, heads: int = 8) -> Any:
    """A text encoder. The mask of the padding goes from the embedding into each attention."""
    tokens = keras.Input((STEPS,), dtype="int32")
    x = layers.Embedding(WORDS, width, mask_zero=True)(tokens)
    x = Positions()(x)
    x = layers.LayerNormalization(epsilon=1e-12)(x)
    for number in range(blocks):
        y = layers.MultiHeadAttention(heads, width // heads)(x, x)
        x = layers.LayerNormalization(epsilon=1e-12)(layers.Add()([x, y]))
        y = layers.Add()([x, _mlp(x, 4 * width)])
        x = layers.LayerNormalization(epsilon=1e-12, name=f"block{number + 1}")(y)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(tokens, layers.Dense(4, activation="softmax")(x))


def gru(count: int = 4, units: int = 256, features: int = 64) -> Any:
    """Four GRU layers over 128 steps."""
    sequence = keras.Input((STEPS, features))
    x = sequence
    for number in range(count):
        x = layers.GRU(units, return_sequences=number + 1 < count, name=f"gru{number + 1}")(x)
    return keras.Model(sequence, layers.Dense(10, activation="softmax")(x))


def audio(samples: int = 16_000) -> Any:
    """A network of one-dimensional convolutions over one second of sound."""
    sound = keras.Input((samples, 1))
    x = layers.Conv1D(32, 80, strides=4, padding="same", name="front")(sound)
    for number, filters in enumerate((32, 64, 128, 256)):
        x = layers.MaxPooling1D(4)(x)
        for part in "ab":
            x = layers.Conv1D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.BatchNormalization()(x)
            x = layers.ReLU(name=f"block{number + 1}{part}")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(sound, layers.Dense(35, activation="softmax")(x))


def _mlp(x: Any, units: int) -> Any:
    width = x.shape[-1]
    return layers.Dense(width)(layers.Dense(units, activation="gelu")(x))


APPLICATIONS: Mapping[str, Callable[..., Any]] = {
    "convnext": keras.applications.ConvNeXtTiny,
    "nasnet": keras.applications.NASNetMobile,
    "resnet50": keras.applications.ResNet50,
    "inceptionv3": keras.applications.InceptionV3,
    "efficientnetv2": keras.applications.EfficientNetV2B0,
    "mobilenetv3": keras.applications.MobileNetV3Large,
}
NETWORKS: Mapping[str, Callable[..., Any]] = {
    "vit": vit,
    **APPLICATIONS,
    "text": text,
    "mixer": mixer,
    "swin": swin,
    "gru": gru,
    "audio": audio,
}


def write_ours(name: str, file: Path) -> None:
    """Export the network with all layers."""
    layertap_export.export(build(name), file)


def write_plain(name: str, output: Path, middle_file: Path) -> None:
    """Convert the network with tf2onnx, up to its output and up to the layer in the middle."""
    import tensorflow as tf
    import tf2onnx

    model = build(name)
    for end, file in ((model.output, output), (model.get_layer(middle(model)).output, middle_file)):
        part = keras.Model(model.input, end)
        signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in part.inputs]
        function = tf.function(lambda x, part=part: part(x, training=False), signature)
        tf2onnx.convert.from_function(function, signature, opset=OPSET, output_path=str(file))


if __name__ == "__main__":
    _name, _kind, *_files = sys.argv[1:]
    if _kind == "ours":
        write_ours(_name, *map(Path, _files))
    else:
        write_plain(_name, *map(Path, _files))
