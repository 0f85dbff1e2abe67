"""Every Keras layer class of common networks can be exported.

The export compares the file with Keras itself, so that it succeeds is the test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap_export

pytestmark = [
    pytest.mark.tensorflow,
    # Keras converts arrays for TensorFlow in a way that numpy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

Make = Callable[[Any], Any]
"""From `keras.layers` to a layer, or to a function of a symbolic tensor."""

ACTIVATIONS = (
    "celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu linear "
    "log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus "
    "softsign sparse_plus sparse_sigmoid sparsemax squareplus tanh tanh_shrink"
).split()


def activation(name: str) -> Make:
    return lambda layers: layers.Activation(name, name=f"act_{name}")


IMAGES: Mapping[str, Make] = {
    "conv": lambda k: k.Conv2D(5, 3, padding="same"),
    "conv strides": lambda k: k.Conv2D(5, 3, strides=2, padding="same", activation="relu"),
    "conv no bias": lambda k: k.Conv2D(5, (3, 2), strides=(2, 1), use_bias=False),
    "conv dilated": lambda k: k.Conv2D(5, 3, dilation_rate=2, padding="same"),
    "conv grouped": lambda k: k.Conv2D(8, 3, groups=2, padding="same"),
    "transposed": lambda k: k.Conv2DTranspose(5, 3, strides=2, padding="same"),
    "transposed valid": lambda k: k.Conv2DTranspose(5, 3, strides=(2, 1)),
    "depthwise": lambda k: k.DepthwiseConv2D(3, padding="same"),
    "depthwise strides": lambda k: k.DepthwiseConv2D(3, strides=2, depth_multiplier=2),
    "separable": lambda k: k.SeparableConv2D(6, 3, padding="same"),
    "spectral": lambda k: k.SpectralNormalization(k.Conv2D(3, 3)),
    "max": lambda k: k.MaxPooling2D(2),
    "max same": lambda k: k.MaxPooling2D(3, strides=2, padding="same"),
    "average": lambda k: k.AveragePooling2D(2),
    "average same": lambda k: k.AveragePooling2D(3, strides=2, padding="same"),
    "adaptive average": lambda k: k.AdaptiveAveragePooling2D((3, 4)),
    "adaptive max": lambda k: k.AdaptiveMaxPooling2D((3, 4)),
    "global average": lambda k: k.GlobalAveragePooling2D(),
    "global average kept": lambda k: k.GlobalAveragePooling2D(keepdims=True),
    "global max": lambda k: k.GlobalMaxPooling2D(),
    "pad": lambda k: k.ZeroPadding2D(((1, 2), (3, 0))),
    "crop": lambda k: k.Cropping2D(((1, 2), (3, 0))),
    "centre crop": lambda k: k.CenterCrop(5, 6),
    "centre crop larger": lambda k: k.CenterCrop(15, 16),
    "up nearest": lambda k: k.UpSampling2D((2, 3)),
    "up bilinear": lambda k: k.UpSampling2D((2, 3), interpolation="bilinear"),
    "resize bilinear": lambda k: k.Resizing(7, 9),
    "resize nearest": lambda k: k.Resizing(17, 9, interpolation="nearest"),
    "resize cropped": lambda k: k.Resizing(6, 9, crop_to_aspect_ratio=True),
    "resize padded": lambda k: k.Resizing(6, 9, pad_to_aspect_ratio=True),
    "dense": lambda k: k.Dense(3),
    "einsum": lambda k: k.EinsumDense("bhwc,cd->bhwd", (None, None, 5), bias_axes="d"),
    "flatten": lambda k: k.Flatten(),
    "reshape": lambda k: k.Reshape((6, -1)),
    "permute": lambda k: k.Permute((3, 1, 2)),
    "each row": lambda k: k.TimeDistributed(k.Dense(3)),
    "batch norm": lambda k: k.BatchNormalization(),
    "batch norm bare": lambda k: k.BatchNormalization(center=False, scale=False),
    "layer norm": lambda k: k.LayerNormalization(),
    "layer norm axes": lambda k: k.LayerNormalization(axis=[1, 2]),
    "group norm": lambda k: k.GroupNormalization(2),
    "instance norm": lambda k: k.GroupNormalization(-1),
    "unit norm": lambda k: k.UnitNormalization(),
    "rms norm": lambda k: k.RMSNormalization(),
    "rescaling": lambda k: k.Rescaling(1 / 127.5, -1),
    "rescaling channels": lambda k: k.Rescaling([0.1, 0.2, 0.3, 0.4], [0, 1, 2, 3]),
    "normalization": lambda k: k.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 2, 3, 4]),
    "dropout": lambda k: k.Dropout(0.5),
    "spatial dropout": lambda k: k.SpatialDropout2D(0.5),
    "gaussian dropout": lambda k: k.GaussianDropout(0.5),
    "gaussian noise": lambda k: k.GaussianNoise(0.5),
    "alpha dropout": lambda k: k.AlphaDropout(0.5),
    "random flip": lambda k: k.RandomFlip(),
    "random rotation": lambda k: k.RandomRotation(0.1),
    "random crop": lambda k: k.RandomCrop(8, 8),
    "identity": lambda k: k.Identity(),
    "softmax": lambda k: k.Softmax(),
    "softmax axis": lambda k: k.Softmax(axis=1),
    "softmax axes": lambda k: k.Softmax(axis=[1, 2]),
    "relu ends": lambda k: k.ReLU(max_value=0.5, negative_slope=0.1, threshold=0.2),
    "relu six": lambda k: k.ReLU(max_value=6),
    "leaky": lambda k: k.LeakyReLU(),
    "elu layer": lambda k: k.ELU(),
    "prelu": lambda k: k.PReLU("random_normal"),
    "prelu shared": lambda k: k.PReLU("random_normal", shared_axes=[1, 2]),
    "squeeze and excite": lambda k: (
        lambda x: k.Multiply()(
            [x, k.Conv2D(4, 1, activation="sigmoid")(k.GlobalAveragePooling2D(keepdims=True)(x))]
        )
    ),
    **{name: activation(name) for name in ACTIVATIONS},
}

SEQUENCES: Mapping[str, Make] = {
    "conv": lambda k: k.Conv1D(5, 3, padding="same"),
    "conv causal": lambda k: k.Conv1D(5, 3, padding="causal", dilation_rate=2),
    "conv strides": lambda k: k.Conv1D(5, 3, strides=2),
    "conv grouped": lambda k: k.Conv1D(4, 3, groups=2),
    "transposed": lambda k: k.Conv1DTranspose(5, 3, strides=2),
    "depthwise": lambda k: k.DepthwiseConv1D(3),
    "separable": lambda k: k.SeparableConv1D(4, 3),
    "max": lambda k: k.MaxPooling1D(2),
    "average": lambda k: k.AveragePooling1D(3, padding="same"),
    "global average": lambda k: k.GlobalAveragePooling1D(),
    "global max": lambda k: k.GlobalMaxPooling1D(),
    "pad": lambda k: k.ZeroPadding1D((1, 2)),
    "crop": lambda k: k.Cropping1D((1, 2)),
    "up": lambda k: k.UpSampling1D(3),
    "permute": lambda k: k.Permute((2, 1)),
    "spatial dropout": lambda k: k.SpatialDropout1D(0.2),
    "masking": lambda k: k.Masking(),
    "dense": lambda k: k.Dense(3),
    "flatten": lambda k: k.Flatten(),
    "batch norm": lambda k: k.BatchNormalization(),
    "batch norm of steps": lambda k: k.BatchNormalization(axis=1),
    "layer norm": lambda k: k.LayerNormalization(),
    "group norm": lambda k: k.GroupNormalization(3),
    "unit norm": lambda k: k.UnitNormalization(axis=1),
    "each step": lambda k: k.TimeDistributed(k.Dense(3)),
    "attention": lambda k: lambda x: k.Attention()([x, x]),
    "additive attention": lambda k: lambda x: k.AdditiveAttention()([x, x]),
    "heads": lambda k: lambda x: k.MultiHeadAttention(2, 4)(x, x),
    "heads causal": lambda k: lambda x: k.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True),
    "heads with scores": lambda k: (
        lambda x: k.MultiHeadAttention(2, 4)(x, x, return_attention_scores=True)[1]
    ),
    "grouped heads": lambda k: lambda x: k.GroupQueryAttention(4, 4, 2)(x, x),
    "dot": lambda k: lambda x: k.Dot(axes=2, normalize=True)([x, x]),
}

VOLUMES: Mapping[str, Make] = {
    "conv": lambda k: k.Conv3D(3, 3, padding="same"),
    "conv strides": lambda k: k.Conv3D(3, 3, strides=2),
    "conv grouped": lambda k: k.Conv3D(4, 3, groups=2),
    "transposed": lambda k: k.Conv3DTranspose(3, 3, strides=2),
    "max": lambda k: k.MaxPooling3D(2),
    "average": lambda k: k.AveragePooling3D(2, padding="same"),
    "global average": lambda k: k.GlobalAveragePooling3D(),
    "global max": lambda k: k.GlobalMaxPooling3D(),
    "pad": lambda k: k.ZeroPadding3D(((1, 2), (0, 1), (2, 0))),
    "crop": lambda k: k.Cropping3D(((1, 2), (0, 1), (2, 0))),
    "up": lambda k: k.UpSampling3D(2),
    "permute": lambda k: k.Permute((4, 2, 1, 3)),
    "batch norm": lambda k: k.BatchNormalization(),
    "spatial dropout": lambda k: k.SpatialDropout3D(0.2),
}

VECTORS: Mapping[str, Make] = {
    "dense": lambda k: k.Dense(4, activation="softmax"),
    "repeat": lambda k: k.RepeatVector(3),
    "reshape": lambda k: k.Reshape((2, 3)),
    "batch norm": lambda k: k.BatchNormalization(),
    "layer norm": lambda k: k.LayerNormalization(),
    "normalization": lambda k: k.Normalization(mean=1.0, variance=2.0),
    "prelu": lambda k: k.PReLU("random_normal"),
    "regularization": lambda k: k.ActivityRegularization(l2=0.1),
    "add": lambda k: lambda x: k.Add()([x, k.Dense(6)(x)]),
    "subtract": lambda k: lambda x: k.Subtract()([x, k.Dense(6)(x)]),
    "multiply": lambda k: lambda x: k.Multiply()([x, k.Dense(6)(x)]),
    "mean": lambda k: lambda x: k.Average()([x, k.Dense(6)(x)]),
    "maximum": lambda k: lambda x: k.Maximum()([x, k.Dense(6)(x)]),
    "minimum": lambda k: lambda x: k.Minimum()([x, k.Dense(6)(x)]),
    "concatenate": lambda k: lambda x: k.Concatenate()([x, k.Dense(2)(x)]),
}

WORDS: Mapping[str, Make] = {
    "embedding": lambda k: k.Embedding(20, 5),
    "masked": lambda k: lambda x: k.GlobalAveragePooling1D()(k.Embedding(20, 5, mask_zero=True)(x)),
    "one hot": lambda k: k.CategoryEncoding(10, output_mode="one_hot"),
}

KINDS: Mapping[str, tuple[Mapping[str, Make], tuple[int, ...], str]] = {
    "images": (IMAGES, (12, 10, 4), "float32"),
    "sequences": (SEQUENCES, (10, 6), "float32"),
    "volumes": (VOLUMES, (6, 7, 8, 2), "float32"),
    "vectors": (VECTORS, (6,), "float32"),
    "words": (WORDS, (7,), "int32"),
}
"""By kind of input: the layers, the input's shape and its dtype."""


def built(keras: Any, makes: Mapping[str, Make], shape: tuple[int | None, ...], dtype: str) -> Any:
    """One model with all of these layers side by side, none of them the identity by its weights."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    entry = keras.Input(shape, dtype=dtype)
    model = keras.Model(entry, [make(keras.layers)(entry) for make in makes.values()])
    generator = np.random.default_rng(0)
    for weight in model.weights:
        value = weight.numpy()
        if value.dtype.kind == "f":
            noise = generator.uniform(0.1, 0.5, value.shape)
            weight.assign(value + (noise if "variance" in weight.path else noise - 0.3))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_layers_side_by_side(kind: str, keras: Any, tmp_path: Path) -> None:
    makes, shape, dtype = KINDS[kind]
    model = built(keras, makes, shape, dtype)
    report = layertap_export.export(model, tmp_path / "all.onnx")
    assert set(report.exposed) >= {layer.name for layer in model.layers}
    assert report.verification.worst.scaled < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, (makes, _, _) in KINDS.items() for name in makes]
)
def test_each_alone(kind: str, name: str, opset: int, keras: Any, tmp_path: Path) -> None:
    makes, shape, dtype = KINDS[kind]
    model = built(keras, {name: makes[name]}, shape, dtype)
    assert layertap_export.export(model, tmp_path / "one.onnx", opset=opset).verification


FIXED_ONLY = {
    *("adaptive average", "adaptive max", "up bilinear", "prelu", "flatten", "random crop"),
    *("layer norm axes", "each row", "reshape"),
}
"""Layers that need to know the size of the image, in Keras itself."""


def test_images_of_any_size(keras: Any, tmp_path: Path) -> None:
    makes = {name: make for name, make in IMAGES.items() if name not in FIXED_ONLY}
    model = built(keras, makes, (None, None, 4), "float32")
    report = layertap_export.export(model, tmp_path / "all.onnx")
    assert len(report.verification.batches) == 2
    assert report.verification.worst.scaled < 2e-5


# --- What has no way into ONNX ------------------------------------------------------------------

NO_WAY = (
    "ONNX has no way for these TensorFlow operations: {}. Export a model that ends before them."
)


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (
            lambda k: k.Discretization([0.0, 0.5], name="bins"),
            (6,),
            NO_WAY.format("Bucketize (layer 'bins')"),
        ),
        (
            lambda k: k.Resizing(7, 9, interpolation="lanczos3", name="size_1"),
            (12, 10, 3),
            NO_WAY.format("ScaleAndTranslate (layer 'size_1')"),
        ),
        (
            lambda k: k.MelSpectrogram(fft_length=64, sequence_stride=32, name="mel"),
            (256,),
            NO_WAY.format("Imag (layer 'mel'), RFFT (layer 'mel'), Real (layer 'mel')"),
        ),
        (
            lambda k: k.Resizing(7, 9, interpolation="area", name="area"),
            (12, 10, 3),
            "layer 'area' uses the TensorFlow operation ResizeArea: area interpolation has no "
            "equal in ONNX, and tf2onnx puts another in its place. Export a model that ends "
            "before it.",
        ),
    ],
    ids=["bins", "lanczos", "spectrogram", "area"],
)
def test_layers_that_cannot_be_exported(
    make: Make, shape: tuple[int, ...], message: str, keras: Any, tmp_path: Path
) -> None:
    model = built(keras, {"one": make}, shape, "float32")
    with pytest.raises(layertap_export.UnsupportedLayerError) as caught:
        layertap_export.export(model, tmp_path / "one.onnx")
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_a_layer_inside_another_is_named_by_its_path(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    inner = keras.Sequential([keras.Input((6,)), layers.Discretization([0.5], name="bins")])
    inner.name = "inner"
    model = keras.Sequential([keras.Input((6,)), layers.Dense(6), inner])
    with pytest.raises(layertap_export.UnsupportedLayerError) as caught:
        layertap_export.export(model, tmp_path / "one.onnx")
    assert str(caught.value) == NO_WAY.format("Bucketize (layer 'inner/bins')")


def test_what_keras_refuses_is_said_in_its_words(keras: Any, tmp_path: Path) -> None:
    entry = keras.Input((4,))
    model = keras.Model(entry, keras.layers.Activation("threshold", name="step")(entry), name="bad")
    with pytest.raises(layertap_export.ExportError) as caught:
        layertap_export.export(model, tmp_path / "bad.onnx")
    assert str(caught.value).startswith(
        "Keras cannot trace the model 'bad': Exception encountered when calling Activation.call(). "
        "threshold() missing 2 required positional arguments"
    )


def test_nothing_is_random_in_the_file(keras: Any, tmp_path: Path) -> None:
    """Augmentation and dropout are what they are in inference: nothing."""
    names = "random flip,random rotation,gaussian noise,alpha dropout,dropout".split(",")
    model = built(keras, {name: IMAGES[name] for name in names}, (12, 10, 4), "float32")
    layertap_export.export(model, tmp_path / "augmented.onnx")
    nodes = onnx.load(tmp_path / "augmented.onnx").graph.node
    assert {node.op_type for node in nodes} == {"Identity"}
