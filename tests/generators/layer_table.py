"""Every layer class of `keras.layers` with its main options, for the tests of the exporter.

A *kind* is a set of layers that take the same input; its layers stand side by side in one model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from generators import zoo

Make = Callable[[Any], Any]
"""From `keras.layers` to a layer, or to a function of a symbolic tensor."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Layers that take the same input."""

    rows: Mapping[str, Make]
    shape: tuple[int | None, ...]
    """Of the input, without the batch axis."""
    dtype: str = "float32"
    free: tuple[int | None, ...] | None = None
    """A shape with free sizes."""
    batch: int | None = None
    """A fixed batch size."""
    fixed_only: frozenset[str] = frozenset()
    """Rows that Keras itself builds or traces for fixed sizes only."""
    slow: frozenset[str] = frozenset()
    """Rows that only the slow tests export: variations on others."""


ACTIVATIONS = (
    "celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu "
    "linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax "
    "softplus softsign sparse_plus sparse_sigmoid sparsemax squareplus tanh tanh_shrink"
).split()

PLAIN_RANDOM = (
    "RandomFlip RandomGaussianBlur RandomGrayscale RandomInvert RandomErasing "
    "RandomElasticTransform RandomPerspective RandomShear RandAugment AugMix CutMix MixUp"
).split()
"""Augmentation that is made without arguments."""

FACTOR_RANDOM = (
    "RandomBrightness RandomColorDegeneration RandomContrast RandomHue RandomRotation "
    "RandomSaturation RandomSharpness RandomZoom"
).split()
"""Augmentation that is made with a factor."""


def activation(name: str) -> Make:
    return lambda k: k.Activation(name, name=f"act_{name}")


def plain(name: str) -> Make:
    return lambda k: getattr(k, name)()


def inside(k: Any, layer: Any) -> Any:
    """A layer in a layer, where Keras takes it on symbolic tensors only there."""

    class Inside(k.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.inner = layer

        def call(self, x: Any) -> Any:
            return self.inner(x)

    return Inside()


def factor(name: str, value: Any = 0.2) -> Make:
    return lambda k: getattr(k, name)(value)


FIRST = {"data_format": "channels_first"}

CONVOLUTIONS: Mapping[str, Make] = {
    "conv": lambda k: k.Conv2D(5, 3, padding="same"),
    "conv strides": lambda k: k.Conv2D(5, 3, strides=2, padding="same", activation="relu"),
    "conv no bias": lambda k: k.Conv2D(5, (3, 2), strides=(2, 1), use_bias=False),
    "conv dilated": lambda k: k.Conv2D(5, 3, dilation_rate=2, padding="same"),
    "conv dilated valid": lambda k: k.Conv2D(5, 3, dilation_rate=(2, 3)),
    "conv grouped": lambda k: k.Conv2D(8, 3, groups=2, padding="same"),
    "conv grouped strides": lambda k: k.Conv2D(8, 3, groups=4, strides=2, activation="gelu"),
    "conv grouped dilated": lambda k: k.Conv2D(8, 3, groups=2, dilation_rate=2),
    "conv 1 by 1": lambda k: k.Conv2D(5, 1),
    "conv large kernel": lambda k: k.Conv2D(2, (9, 8), padding="same", strides=(3, 2)),
    "transposed": lambda k: k.Conv2DTranspose(5, 3, strides=2, padding="same"),
    "transposed valid": lambda k: k.Conv2DTranspose(5, 3, strides=(2, 1)),
    "transposed plain": lambda k: k.Conv2DTranspose(5, 4, use_bias=False, activation="elu"),
    "transposed output padding": lambda k: k.Conv2DTranspose(
        5, 3, strides=2, padding="same", output_padding=1
    ),
    "transposed output padding valid": lambda k: k.Conv2DTranspose(
        5, 3, strides=3, output_padding=(1, 2)
    ),
    "transposed dilated": lambda k: k.Conv2DTranspose(5, 3, dilation_rate=2),
    "transposed dilated same": lambda k: k.Conv2DTranspose(5, 3, dilation_rate=2, padding="same"),
    "transposed large strides": lambda k: k.Conv2DTranspose(3, 2, strides=3, padding="same"),
    "depthwise": lambda k: k.DepthwiseConv2D(3, padding="same"),
    "depthwise strides": lambda k: k.DepthwiseConv2D(3, strides=2, depth_multiplier=2),
    "depthwise dilated": lambda k: k.DepthwiseConv2D(3, dilation_rate=2, use_bias=False),
    "depthwise dilated same": lambda k: k.DepthwiseConv2D(
        3, dilation_rate=2, depth_multiplier=2, padding="same"
    ),
    "separable": lambda k: k.SeparableConv2D(6, 3, padding="same"),
    "separable strides": lambda k: k.SeparableConv2D(
        6, 3, strides=2, depth_multiplier=3, activation="tanh", use_bias=False
    ),
    "separable dilated": lambda k: k.SeparableConv2D(6, 3, dilation_rate=2),
    "spectral": lambda k: k.SpectralNormalization(k.Conv2D(3, 3)),
    "spectral dense": lambda k: k.SpectralNormalization(k.Dense(3), power_iterations=2),
}

POOLING: Mapping[str, Make] = {
    "max": lambda k: k.MaxPooling2D(2),
    "max strides": lambda k: k.MaxPooling2D(3, strides=(2, 1)),
    "max same": lambda k: k.MaxPooling2D(3, strides=2, padding="same"),
    "average": lambda k: k.AveragePooling2D(2),
    "average strides": lambda k: k.AveragePooling2D((2, 3), strides=1),
    "average same": lambda k: k.AveragePooling2D(3, strides=2, padding="same"),
    "adaptive average": lambda k: k.AdaptiveAveragePooling2D((3, 4)),
    "adaptive max": lambda k: k.AdaptiveMaxPooling2D((5, 4)),
    "global average": lambda k: k.GlobalAveragePooling2D(),
    "global average kept": lambda k: k.GlobalAveragePooling2D(keepdims=True),
    "global max": lambda k: k.GlobalMaxPooling2D(),
    "global max kept": lambda k: k.GlobalMaxPooling2D(keepdims=True),
}

RESIZING: Mapping[str, Make] = {
    "pad": lambda k: k.ZeroPadding2D(((1, 2), (3, 0))),
    "crop": lambda k: k.Cropping2D(((1, 2), (3, 0))),
    "centre crop": lambda k: k.CenterCrop(5, 6),
    "centre crop odd": lambda k: k.CenterCrop(6, 5),
    "centre crop whole": lambda k: k.CenterCrop(12, 10),
    "centre crop larger": lambda k: k.CenterCrop(15, 16),
    "centre crop taller": lambda k: k.CenterCrop(15, 4),
    "up nearest": lambda k: k.UpSampling2D((2, 3)),
    "up bilinear": lambda k: k.UpSampling2D((2, 3), interpolation="bilinear"),
    "up bicubic": lambda k: k.UpSampling2D((2, 3), interpolation="bicubic"),
    "up lanczos3": lambda k: k.UpSampling2D((2, 3), interpolation="lanczos3"),
    "up lanczos5": lambda k: k.UpSampling2D(2, interpolation="lanczos5"),
    "resize bilinear": lambda k: k.Resizing(7, 9),
    "resize bilinear up": lambda k: k.Resizing(17, 23),
    "resize nearest": lambda k: k.Resizing(17, 9, interpolation="nearest"),
    "resize nearest down": lambda k: k.Resizing(5, 7, interpolation="nearest"),
    "resize bicubic": lambda k: k.Resizing(17, 9, interpolation="bicubic"),
    "resize bicubic down": lambda k: k.Resizing(5, 7, interpolation="bicubic"),
    "resize lanczos3": lambda k: k.Resizing(17, 9, interpolation="lanczos3"),
    "resize lanczos5": lambda k: k.Resizing(5, 19, interpolation="lanczos5"),
    "resize area": lambda k: k.Resizing(7, 9, interpolation="area"),
    "resize area up": lambda k: k.Resizing(17, 23, interpolation="area"),
    "resize bilinear smooth": lambda k: k.Resizing(7, 9, antialias=True),
    "resize bicubic smooth": lambda k: k.Resizing(5, 13, interpolation="bicubic", antialias=True),
    "resize lanczos3 smooth": lambda k: k.Resizing(5, 13, interpolation="lanczos3", antialias=True),
    "resize lanczos5 smooth": lambda k: k.Resizing(5, 7, interpolation="lanczos5", antialias=True),
    "resize area smooth": lambda k: k.Resizing(5, 7, interpolation="area", antialias=True),
    "resize nearest smooth": lambda k: k.Resizing(5, 7, interpolation="nearest", antialias=True),
    "resize cropped": lambda k: k.Resizing(6, 9, crop_to_aspect_ratio=True),
    "resize padded": lambda k: k.Resizing(6, 9, pad_to_aspect_ratio=True),
    "resize padded wide": lambda k: k.Resizing(9, 6, pad_to_aspect_ratio=True, fill_value=0.5),
    "resize to itself": lambda k: k.Resizing(12, 10),
}

IMAGES: Mapping[str, Make] = {
    "dense": lambda k: k.Dense(3),
    "einsum": lambda k: k.EinsumDense("bhwc,cd->bhwd", (None, None, 5), bias_axes="d"),
    "einsum two axes": lambda k: k.EinsumDense(
        "abcd,cde->abe", (12, 5), bias_axes="e", activation="relu"
    ),
    "flatten": lambda k: k.Flatten(),
    "reshape": lambda k: k.Reshape((6, -1)),
    "permute": lambda k: k.Permute((3, 1, 2)),
    "each row": lambda k: k.TimeDistributed(k.Dense(3)),
    "each row convolved": lambda k: k.TimeDistributed(k.Conv1D(3, 3, padding="same")),
    "batch norm": lambda k: k.BatchNormalization(),
    "batch norm bare": lambda k: k.BatchNormalization(center=False, scale=False),
    "batch norm no scale": lambda k: k.BatchNormalization(scale=False, epsilon=0.1),
    "batch norm of rows": lambda k: k.BatchNormalization(axis=1),
    "batch norm renorm": lambda k: k.BatchNormalization(renorm=True),
    "layer norm": lambda k: k.LayerNormalization(),
    "layer norm axes": lambda k: k.LayerNormalization(axis=[1, 2]),
    "layer norm bare": lambda k: k.LayerNormalization(center=False, scale=False),
    "group norm": lambda k: k.GroupNormalization(2),
    "group norm bare": lambda k: k.GroupNormalization(4, center=False, scale=False),
    "group norm of rows": lambda k: k.GroupNormalization(3, axis=1),
    "instance norm": lambda k: k.GroupNormalization(-1),
    "unit norm": lambda k: k.UnitNormalization(),
    "unit norm axes": lambda k: k.UnitNormalization(axis=(1, 2)),
    "rms norm": lambda k: k.RMSNormalization(),
    "rms norm axes": lambda k: k.RMSNormalization(axis=[1, 2, 3]),
    "dropout": lambda k: k.Dropout(0.5),
    "spatial dropout": lambda k: k.SpatialDropout2D(0.5),
    "gaussian dropout": lambda k: k.GaussianDropout(0.5),
    "gaussian noise": lambda k: k.GaussianNoise(0.5),
    "alpha dropout": lambda k: k.AlphaDropout(0.5),
    "identity": lambda k: k.Identity(),
    "regularization": lambda k: k.ActivityRegularization(l1=0.1, l2=0.1),
    "softmax": lambda k: k.Softmax(),
    "softmax axis": lambda k: k.Softmax(axis=1),
    "softmax axes": lambda k: k.Softmax(axis=[1, 2]),
    "relu": lambda k: k.ReLU(),
    "relu ends": lambda k: k.ReLU(max_value=0.5, negative_slope=0.1, threshold=0.2),
    "relu six": lambda k: k.ReLU(max_value=6),
    "leaky": lambda k: k.LeakyReLU(),
    "leaky slope": lambda k: k.LeakyReLU(0.01),
    "elu layer": lambda k: k.ELU(),
    "elu alpha": lambda k: k.ELU(0.3),
    "prelu": lambda k: k.PReLU("random_normal"),
    "prelu shared": lambda k: k.PReLU("random_normal", shared_axes=[1, 2]),
    "squeeze and excite": lambda k: (
        lambda x: k.Multiply()(
            [x, k.Conv2D(4, 1, activation="sigmoid")(k.GlobalAveragePooling2D(keepdims=True)(x))]
        )
    ),
    "heads over both axes": lambda k: (
        lambda x: k.MultiHeadAttention(2, 3, attention_axes=(1, 2))(x, x)
    ),
    "scan of rows": lambda k: k.ConvLSTM1D(3, 3, padding="same"),
    **{name: activation(name) for name in ACTIVATIONS},
}

PIXELS: Mapping[str, Make] = {
    "rescaling": lambda k: k.Rescaling(1 / 127.5, -1),
    "rescaling channels": lambda k: k.Rescaling([0.1, 0.2, 0.3], [0, 1, 2]),
    "normalization": lambda k: k.Normalization(mean=[1.0, 2, 3], variance=[1.0, 2, 3]),
    "normalization inverted": lambda k: k.Normalization(
        mean=[1.0, 2, 3], variance=[1.0, 2, 3], invert=True
    ),
    "normalization one": lambda k: k.Normalization(axis=None, mean=113.0, variance=70.0),
    "random crop": lambda k: k.RandomCrop(8, 8),
    "random crop resized": lambda k: k.RandomCrop(16, 14),
    "random posterization": lambda k: k.RandomPosterization(4),
    "random translation": lambda k: k.RandomTranslation(0.2, 0.3),
    "random jitter": lambda k: k.RandomColorJitter(
        brightness_factor=0.2, contrast_factor=0.2, saturation_factor=0.2, hue_factor=0.2
    ),
    "auto contrast": lambda k: k.AutoContrast(),
    "equalization": lambda k: inside(k, k.Equalization()),
    "equalization in tiles": lambda k: k.ContrastLimitedAdaptiveHistogramEqualization(
        tile_grid_size=(2, 2)
    ),
    "solarization": lambda k: k.Solarization(),
    "bounding boxes": lambda k: k.MaxNumBoundingBoxes(5),
    "pipeline": lambda k: k.Pipeline([k.Rescaling(0.5), k.RandomFlip(), k.Resizing(6, 7)]),
    **{name: plain(name) for name in PLAIN_RANDOM},
    **{name: factor(name) for name in FACTOR_RANDOM},
}

CHANNELS_FIRST: Mapping[str, Make] = {
    "conv": lambda k: k.Conv2D(5, 3, padding="same", **FIRST),
    "conv strides": lambda k: k.Conv2D(5, 3, strides=2, **FIRST),
    "conv grouped": lambda k: k.Conv2D(4, 3, groups=2, **FIRST),
    "transposed": lambda k: k.Conv2DTranspose(5, 3, strides=2, padding="same", **FIRST),
    "depthwise": lambda k: k.DepthwiseConv2D(3, padding="same", **FIRST),
    "separable": lambda k: k.SeparableConv2D(6, 3, strides=2, **FIRST),
    "max": lambda k: k.MaxPooling2D(3, strides=2, padding="same", **FIRST),
    "average": lambda k: k.AveragePooling2D(2, **FIRST),
    "average same": lambda k: k.AveragePooling2D(3, padding="same", **FIRST),
    "adaptive average": lambda k: k.AdaptiveAveragePooling2D((3, 4), **FIRST),
    "adaptive max": lambda k: k.AdaptiveMaxPooling2D((3, 4), **FIRST),
    "global average": lambda k: k.GlobalAveragePooling2D(**FIRST),
    "global max": lambda k: k.GlobalMaxPooling2D(keepdims=True, **FIRST),
    "pad": lambda k: k.ZeroPadding2D(((1, 2), (3, 0)), **FIRST),
    "crop": lambda k: k.Cropping2D(((1, 2), (3, 0)), **FIRST),
    "centre crop": lambda k: k.CenterCrop(5, 6, **FIRST),
    "up nearest": lambda k: k.UpSampling2D((2, 3), **FIRST),
    "up bilinear": lambda k: k.UpSampling2D((2, 3), interpolation="bilinear", **FIRST),
    "resize": lambda k: k.Resizing(7, 9, **FIRST),
    "resize area": lambda k: k.Resizing(7, 9, interpolation="area", **FIRST),
    "flatten": lambda k: k.Flatten(**FIRST),
    "spatial dropout": lambda k: k.SpatialDropout2D(0.5, **FIRST),
    "batch norm": lambda k: k.BatchNormalization(axis=1),
    "group norm": lambda k: k.GroupNormalization(2, axis=1),
    "random flip": lambda k: k.RandomFlip(**FIRST),
    "scan": lambda k: lambda x: k.ConvLSTM1D(3, 3, **FIRST)(k.Permute((2, 1, 3))(x)),
}

SEQUENCES: Mapping[str, Make] = {
    "conv": lambda k: k.Conv1D(5, 3, padding="same"),
    "conv valid": lambda k: k.Conv1D(5, 4, activation="relu", use_bias=False),
    "conv causal": lambda k: k.Conv1D(5, 3, padding="causal", dilation_rate=2),
    "conv causal strides": lambda k: k.Conv1D(5, 3, padding="causal", strides=2),
    "conv dilated": lambda k: k.Conv1D(5, 3, padding="same", dilation_rate=3),
    "conv strides": lambda k: k.Conv1D(5, 3, strides=2),
    "conv grouped": lambda k: k.Conv1D(4, 3, groups=2),
    "conv grouped causal": lambda k: k.Conv1D(4, 3, groups=2, padding="causal"),
    "transposed": lambda k: k.Conv1DTranspose(5, 3, strides=2),
    "transposed same": lambda k: k.Conv1DTranspose(5, 4, strides=3, padding="same"),
    "transposed dilated": lambda k: k.Conv1DTranspose(5, 3, dilation_rate=2),
    "depthwise": lambda k: k.DepthwiseConv1D(3),
    "depthwise same": lambda k: k.DepthwiseConv1D(3, padding="same", depth_multiplier=2, strides=2),
    "depthwise dilated": lambda k: k.DepthwiseConv1D(3, dilation_rate=2),
    "separable": lambda k: k.SeparableConv1D(4, 3),
    "separable strides": lambda k: k.SeparableConv1D(4, 3, padding="same", strides=2),
    "max": lambda k: k.MaxPooling1D(2),
    "max same": lambda k: k.MaxPooling1D(3, strides=2, padding="same"),
    "average": lambda k: k.AveragePooling1D(3, padding="same"),
    "average strides": lambda k: k.AveragePooling1D(2, strides=1),
    "adaptive average": lambda k: k.AdaptiveAveragePooling1D(4),
    "adaptive max": lambda k: k.AdaptiveMaxPooling1D(3),
    "global average": lambda k: k.GlobalAveragePooling1D(),
    "global average kept": lambda k: k.GlobalAveragePooling1D(keepdims=True),
    "global max": lambda k: k.GlobalMaxPooling1D(),
    "global max kept": lambda k: k.GlobalMaxPooling1D(keepdims=True),
    "pad": lambda k: k.ZeroPadding1D((1, 2)),
    "crop": lambda k: k.Cropping1D((1, 2)),
    "up": lambda k: k.UpSampling1D(3),
    "permute": lambda k: k.Permute((2, 1)),
    "spatial dropout": lambda k: k.SpatialDropout1D(0.2),
    "masking": lambda k: k.Masking(),
    "masked average": lambda k: lambda x: k.GlobalAveragePooling1D()(k.Masking()(x)),
    "dense": lambda k: k.Dense(3),
    "einsum heads": lambda k: k.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"),
    "flatten": lambda k: k.Flatten(),
    "reshape": lambda k: k.Reshape((5, 3, 4)),
    "batch norm": lambda k: k.BatchNormalization(),
    "batch norm of steps": lambda k: k.BatchNormalization(axis=1),
    "batch norm masked": lambda k: lambda x: k.BatchNormalization()(k.Masking()(x)),
    "layer norm": lambda k: k.LayerNormalization(),
    "group norm": lambda k: k.GroupNormalization(3),
    "rms norm": lambda k: k.RMSNormalization(),
    "unit norm": lambda k: k.UnitNormalization(axis=1),
    "softmax": lambda k: k.Softmax(axis=1),
    "softmax masked": lambda k: lambda x: k.Softmax()(x, mask=k.Lambda(lambda y: y > 0)(x)),
    "each step": lambda k: k.TimeDistributed(k.Dense(3)),
    "each step masked": lambda k: lambda x: k.TimeDistributed(k.Dense(3))(k.Masking()(x)),
    "dot": lambda k: lambda x: k.Dot(axes=2)([x, x]),
    "dot normalized": lambda k: lambda x: k.Dot(axes=(1, 1), normalize=True)([x, x]),
    "concatenate axis": lambda k: lambda x: k.Concatenate(axis=1)([x, k.Dense(6)(x), x]),
    "spectrogram": lambda k: k.STFTSpectrogram(frame_length=4, frame_step=2, fft_length=8),
    "reversed embedding": lambda k: (
        lambda x: k.ReversibleEmbedding(20, 6, logit_soft_cap=2.0)(x, reverse=True)
    ),
    "reversed embedding untied": lambda k: (
        lambda x: k.ReversibleEmbedding(20, 6, tie_weights=False)(x, reverse=True)
    ),
}

ATTENTION: Mapping[str, Make] = {
    "attention": lambda k: lambda x: k.Attention()([x, x]),
    "attention scaled": lambda k: lambda x: k.Attention(use_scale=True)([x, k.Dense(6)(x)]),
    "attention concat": lambda k: (
        lambda x: k.Attention(score_mode="concat", use_scale=True)([x, k.Dense(6)(x), x])
    ),
    "attention causal": lambda k: lambda x: k.Attention()([x, x], use_causal_mask=True),
    "attention scores": lambda k: (
        lambda x: k.Attention(dropout=0.5)([x, x], return_attention_scores=True)
    ),
    "attention masked": lambda k: (
        lambda x: k.Attention()([x, x], mask=[k.Lambda(_kept)(x), k.Lambda(_kept)(x)])
    ),
    "additive attention": lambda k: lambda x: k.AdditiveAttention()([x, x]),
    "additive attention plain": lambda k: (
        lambda x: k.AdditiveAttention(use_scale=False)(
            [x, k.Dense(6)(x)], return_attention_scores=True
        )
    ),
    "heads": lambda k: lambda x: k.MultiHeadAttention(2, 4)(x, x),
    "heads causal": lambda k: lambda x: k.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True),
    "heads with scores": lambda k: (
        lambda x: k.MultiHeadAttention(2, 4)(x, x, return_attention_scores=True)
    ),
    "heads masked": lambda k: lambda x: k.MultiHeadAttention(2, 4)(k.Masking(0.1)(x), x),
    "heads padded": lambda k: (
        lambda x: k.MultiHeadAttention(2, 4)(
            x, k.Dense(3)(x), key_mask=k.Lambda(_kept)(x), value_mask=k.Lambda(_kept)(x)
        )
    ),
    "heads with a mask": lambda k: (
        lambda x: k.MultiHeadAttention(2, 4)(
            x, x, attention_mask=k.Lambda(lambda y: _kept(y)[:, None, :])(x)
        )
    ),
    "heads of another value": lambda k: (
        lambda x: k.MultiHeadAttention(3, 4, value_dim=5, use_bias=False, output_shape=7)(
            x, k.Dense(3)(x), k.Dense(4)(x)
        )
    ),
    "heads in a window": lambda k: lambda x: k.MultiHeadAttention(2, 4, sliding_window=2)(x, x),
    "heads gated": lambda k: lambda x: k.MultiHeadAttention(2, 4, use_gate=True)(x, x),
    "grouped heads": lambda k: lambda x: k.GroupQueryAttention(4, 4, 2)(x, x),
    "grouped heads causal": lambda k: (
        lambda x: k.GroupQueryAttention(4, 4, 2, use_bias=False)(x, x, use_causal_mask=True)
    ),
    "grouped heads with scores": lambda k: (
        lambda x: k.GroupQueryAttention(4, 6, 3)(x, k.Dense(6)(x), return_attention_scores=True)
    ),
    "one group": lambda k: lambda x: k.GroupQueryAttention(4, 3, 1, use_gate=True)(x, x),
}


def _kept(x: Any) -> Any:
    return x[:, :, 0] > 0


RECURRENT: Mapping[str, Make] = {
    **{
        f"{cls} {option}": (lambda k, cls=cls, options=options: getattr(k, cls)(4, **options))
        for cls in ("SimpleRNN", "LSTM", "GRU")
        for option, options in {
            "plain": {},
            "sequences": {"return_sequences": True},
            "state": {"return_state": True, "return_sequences": True},
            "backwards": {"go_backwards": True, "return_sequences": True},
            "no bias": {"use_bias": False},
            "unrolled": {"unroll": True, "return_sequences": True},
            "relu": {"activation": "relu"},
            "dropout": {"dropout": 0.5, "recurrent_dropout": 0.5},
        }.items()
    },
    **{
        f"{cls} gates {name}": (
            lambda k, cls=cls, name=name: getattr(k, cls)(4, recurrent_activation=name)
        )
        for cls in ("LSTM", "GRU")
        for name in ("hard_sigmoid", "tanh", "relu")
    },
    "LSTM linear": lambda k: k.LSTM(4, activation="linear", return_state=True),
    "LSTM elu": lambda k: k.LSTM(4, activation="elu", return_sequences=True),
    "LSTM no forget": lambda k: k.LSTM(4, unit_forget_bias=False),
    "GRU reset before": lambda k: k.GRU(4, reset_after=False, return_sequences=True),
    "GRU reset before backwards": lambda k: k.GRU(
        4, reset_after=False, go_backwards=True, return_state=True
    ),
    "GRU reset before no bias": lambda k: k.GRU(4, reset_after=False, use_bias=False),
    **{
        f"{cls} masked": (
            lambda k, cls=cls: (
                lambda x: getattr(k, cls)(4, return_sequences=True)(k.Masking(0.0)(x))
            )
        )
        for cls in ("SimpleRNN", "LSTM", "GRU")
    },
    **{
        f"{cls} given a mask": (
            lambda k, cls=cls: (
                lambda x: getattr(k, cls)(4, return_sequences=True, return_state=True)(
                    x, mask=k.Lambda(_kept)(x)
                )
            )
        )
        for cls in ("SimpleRNN", "LSTM", "GRU")
    },
    **{
        f"{cls} given a state": (
            lambda k, cls=cls, n=n: (
                lambda x: getattr(k, cls)(4, return_sequences=True)(
                    x, initial_state=[k.Dense(4)(k.Flatten()(x)) for _ in range(n)]
                )
            )
        )
        for cls, n in (("SimpleRNN", 1), ("LSTM", 2), ("GRU", 1))
    },
    **{
        f"cell {cls}": (
            lambda k, cls=cls: k.RNN(getattr(k, cls)(4), return_sequences=True, return_state=True)
        )
        for cls in ("SimpleRNNCell", "LSTMCell", "GRUCell")
    },
    "cell GRU reset before": lambda k: k.RNN(k.GRUCell(4, reset_after=False)),
    "cell backwards": lambda k: k.RNN(k.LSTMCell(4), go_backwards=True),
    "cell unrolled": lambda k: k.RNN(k.GRUCell(4), unroll=True),
    "cell zero for mask": lambda k: (
        lambda x: k.RNN(k.LSTMCell(4), return_sequences=True, zero_output_for_mask=True)(
            x, mask=k.Lambda(_kept)(x)
        )
    ),
    "cells": lambda k: k.RNN([k.LSTMCell(4), k.LSTMCell(3)]),
    "cells stacked": lambda k: k.RNN(
        k.StackedRNNCells([k.GRUCell(4), k.LSTMCell(3), k.SimpleRNNCell(2)]),
        return_sequences=True,
        return_state=True,
    ),
    **{
        f"both ways {cls}": (
            lambda k, cls=cls: k.Bidirectional(getattr(k, cls)(4, return_sequences=True))
        )
        for cls in ("SimpleRNN", "LSTM", "GRU")
    },
    **{
        f"both ways {mode}": (
            lambda k, mode=mode: k.Bidirectional(k.LSTM(4, return_sequences=True), merge_mode=mode)
        )
        for mode in ("sum", "mul", "ave", None)
    },
    "both ways last": lambda k: k.Bidirectional(k.LSTM(4)),
    "both ways state": lambda k: k.Bidirectional(k.LSTM(4, return_state=True)),
    "both ways state GRU": lambda k: k.Bidirectional(
        k.GRU(4, return_sequences=True, return_state=True)
    ),
    "both ways unlike": lambda k: k.Bidirectional(
        k.LSTM(4, return_sequences=True),
        backward_layer=k.GRU(3, return_sequences=True, go_backwards=True),
    ),
    "both ways relu": lambda k: k.Bidirectional(k.LSTM(4, activation="relu")),
    "both ways masked": lambda k: (
        lambda x: k.Bidirectional(k.LSTM(4, return_sequences=True))(x, mask=k.Lambda(_kept)(x))
    ),
    "both ways cell": lambda k: k.Bidirectional(k.RNN(k.LSTMCell(4))),
    "stack": lambda k: (
        lambda x: k.LSTM(3)(k.GRU(4, return_sequences=True)(k.LSTM(5, return_sequences=True)(x)))
    ),
}

STATEFUL: Mapping[str, Make] = {
    f"{cls} stateful": (lambda k, cls=cls: getattr(k, cls)(4, stateful=True))
    for cls in ("SimpleRNN", "LSTM", "GRU")
} | {
    "both ways stateful": lambda k: k.Bidirectional(k.LSTM(4, stateful=True)),
    "cells stateful": lambda k: k.RNN([k.LSTMCell(4), k.GRUCell(3)], stateful=True),
    "scan stateful": lambda k: lambda x: k.ConvLSTM1D(2, 2, stateful=True)(k.Reshape((5, 4, 3))(x)),
}

VOLUMES: Mapping[str, Make] = {
    "conv": lambda k: k.Conv3D(3, 3, padding="same"),
    "conv strides": lambda k: k.Conv3D(3, 3, strides=2),
    "conv no bias": lambda k: k.Conv3D(3, (1, 2, 3), use_bias=False, activation="relu"),
    "conv dilated": lambda k: k.Conv3D(3, 2, dilation_rate=2),
    "conv dilated same": lambda k: k.Conv3D(3, 3, dilation_rate=(2, 1, 2), padding="same"),
    "conv grouped": lambda k: k.Conv3D(4, 3, groups=2),
    "transposed": lambda k: k.Conv3DTranspose(3, 3, strides=2),
    "transposed same": lambda k: k.Conv3DTranspose(3, 3, strides=2, padding="same"),
    "transposed output padding": lambda k: k.Conv3DTranspose(
        3, 3, strides=2, padding="same", output_padding=1
    ),
    "max": lambda k: k.MaxPooling3D(2),
    "max same": lambda k: k.MaxPooling3D(3, strides=2, padding="same"),
    "average": lambda k: k.AveragePooling3D(2, padding="same"),
    "average strides": lambda k: k.AveragePooling3D((1, 2, 3), strides=1),
    "adaptive average": lambda k: k.AdaptiveAveragePooling3D((2, 3, 4)),
    "adaptive max": lambda k: k.AdaptiveMaxPooling3D((2, 3, 4)),
    "global average": lambda k: k.GlobalAveragePooling3D(),
    "global max": lambda k: k.GlobalMaxPooling3D(),
    "global max kept": lambda k: k.GlobalMaxPooling3D(keepdims=True),
    "pad": lambda k: k.ZeroPadding3D(((1, 2), (0, 1), (2, 0))),
    "crop": lambda k: k.Cropping3D(((1, 2), (0, 1), (2, 0))),
    "up": lambda k: k.UpSampling3D((2, 1, 3)),
    "permute": lambda k: k.Permute((4, 2, 1, 3)),
    "batch norm": lambda k: k.BatchNormalization(),
    "layer norm": lambda k: k.LayerNormalization(),
    "group norm": lambda k: k.GroupNormalization(2),
    "spatial dropout": lambda k: k.SpatialDropout3D(0.2),
    "frames convolved": lambda k: k.TimeDistributed(k.Conv2D(3, 3, padding="same")),
    "frames resized": lambda k: k.TimeDistributed(k.Resizing(4, 5)),
    "scan": lambda k: k.ConvLSTM2D(3, 3),
    "scan same": lambda k: k.ConvLSTM2D(
        3, 3, padding="same", return_sequences=True, return_state=True
    ),
    "scan strides": lambda k: k.ConvLSTM2D(3, 3, strides=2, go_backwards=True),
    "scan dilated": lambda k: k.ConvLSTM2D(
        3, 2, dilation_rate=2, recurrent_activation="hard_sigmoid", use_bias=False
    ),
    "scan both ways": lambda k: k.Bidirectional(k.ConvLSTM2D(3, 3, padding="same")),
}

VOLUMES_FIRST: Mapping[str, Make] = {
    "conv": lambda k: k.Conv3D(3, 3, padding="same", **FIRST),
    "max": lambda k: k.MaxPooling3D(2, **FIRST),
    "average": lambda k: k.AveragePooling3D(2, padding="same", **FIRST),
    "adaptive average": lambda k: k.AdaptiveAveragePooling3D((2, 3, 4), **FIRST),
    "global average": lambda k: k.GlobalAveragePooling3D(**FIRST),
    "pad": lambda k: k.ZeroPadding3D(((1, 2), (0, 1), (2, 0)), **FIRST),
    "crop": lambda k: k.Cropping3D(((1, 2), (0, 1), (2, 0)), **FIRST),
    "up": lambda k: k.UpSampling3D(2, **FIRST),
    "spatial dropout": lambda k: k.SpatialDropout3D(0.2, **FIRST),
    "scan": lambda k: lambda x: k.ConvLSTM2D(3, 3, **FIRST)(k.Permute((2, 1, 3, 4))(x)),
}

VIDEOS: Mapping[str, Make] = {
    "scan": lambda k: k.ConvLSTM3D(2, 2),
    "scan same": lambda k: k.ConvLSTM3D(2, 2, padding="same", return_sequences=True),
    "frames convolved": lambda k: k.TimeDistributed(k.Conv3D(2, 2)),
    "batch norm": lambda k: k.BatchNormalization(),
    "layer norm": lambda k: k.LayerNormalization(),
    "permute": lambda k: k.Permute((5, 2, 4, 1, 3)),
    "flatten": lambda k: k.Flatten(),
    "dense": lambda k: k.Dense(3),
}

VECTORS: Mapping[str, Make] = {
    "dense": lambda k: k.Dense(4, activation="softmax"),
    "dense no bias": lambda k: k.Dense(4, use_bias=False),
    "dense adapted": lambda k: k.Dense(4, lora_rank=2),
    "einsum": lambda k: k.EinsumDense("ab,bc->ac", 3, lora_rank=2),
    "repeat": lambda k: k.RepeatVector(3),
    "reshape": lambda k: k.Reshape((2, 3)),
    "reshape rest": lambda k: k.Reshape((-1, 2, 1)),
    "flatten": lambda k: k.Flatten(),
    "batch norm": lambda k: k.BatchNormalization(),
    "layer norm": lambda k: k.LayerNormalization(),
    "group norm": lambda k: k.GroupNormalization(3),
    "rms norm": lambda k: k.RMSNormalization(),
    "unit norm": lambda k: k.UnitNormalization(),
    "prelu": lambda k: k.PReLU("random_normal"),
    "add": lambda k: lambda x: k.Add()([x, k.Dense(6)(x), k.Dense(1)(x)]),
    "subtract": lambda k: lambda x: k.Subtract()([x, k.Dense(6)(x)]),
    "multiply": lambda k: lambda x: k.Multiply()([x, k.Dense(6)(x), x]),
    "mean": lambda k: lambda x: k.Average()([x, k.Dense(6)(x), k.Dense(6)(x)]),
    "maximum": lambda k: lambda x: k.Maximum()([x, k.Dense(6)(x)]),
    "minimum": lambda k: lambda x: k.Minimum()([x, k.Dense(6)(x)]),
    "concatenate": lambda k: lambda x: k.Concatenate()([x, k.Dense(2)(x)]),
    "dot": lambda k: lambda x: k.Dot(axes=1)([x, k.Dense(6)(x)]),
    "cosine": lambda k: lambda x: k.Dot(axes=-1, normalize=True)([x, k.Dense(6)(x)]),
    "lambda": lambda k: k.Lambda(lambda x: x * 2 + 1),
    "bins": lambda k: k.Discretization([-0.5, 0.0, 0.25]),
    "bins one hot": lambda k: k.Discretization([-0.5, 0.0, 0.25], output_mode="one_hot"),
    "bins many hot": lambda k: k.Discretization([-0.5, 0.0, 0.25], output_mode="multi_hot"),
    "bins counted": lambda k: k.Discretization([-0.5, 0.0, 0.25], output_mode="count"),
    "normalization": lambda k: k.Normalization(axis=None, mean=1.0, variance=2.0),
    "dense int8": lambda k: k.Dense(4, dtype="int8_from_float32"),
    "einsum int8": lambda k: k.EinsumDense("ab,bc->ac", 4, dtype="int8_from_float32"),
    "dense int4": lambda k: k.Dense(4, dtype="int4/-1_from_float32"),
}

WAVES: Mapping[str, Make] = {
    "mel": lambda k: k.MelSpectrogram(
        fft_length=64, sequence_stride=32, num_mel_bins=20, sampling_rate=800
    ),
    "mel linear": lambda k: k.MelSpectrogram(
        fft_length=64,
        sequence_stride=16,
        sequence_length=48,
        num_mel_bins=10,
        sampling_rate=1600,
        power_to_db=False,
        mag_exp=1.0,
        window="hamming",
    ),
    **{
        f"spectrogram {mode}": (
            lambda k, mode=mode: (
                lambda x: k.STFTSpectrogram(
                    mode, frame_length=32, frame_step=20, fft_length=64, expand_dims=mode == "log"
                )(k.Reshape((-1, 2))(x))
            )
        )
        for mode in ("log", "magnitude", "psd", "real", "imag", "angle", "stft")
    },
    "spectrogram same": lambda k: (
        lambda x: k.STFTSpectrogram(
            frame_length=32, padding="same", periodic=True, scaling="spectrum", window="blackman"
        )(k.Reshape((-1, 1))(x))
    ),
    "spectrogram channels first": lambda k: (
        lambda x: k.STFTSpectrogram(frame_length=32, **FIRST)(k.Reshape((2, -1))(x))
    ),
}

WORDS: Mapping[str, Make] = {
    "embedding": lambda k: k.Embedding(10, 5),
    "embedding adapted": lambda k: k.Embedding(10, 5, lora_rank=2),
    "embedding int8": lambda k: k.Embedding(10, 5, dtype="int8_from_float32"),
    "masked": lambda k: lambda x: k.GlobalAveragePooling1D()(k.Embedding(10, 5, mask_zero=True)(x)),
    "masked LSTM": lambda k: lambda x: k.LSTM(3)(k.Embedding(10, 5, mask_zero=True)(x)),
    "masked heads": lambda k: (
        lambda x: (lambda e: k.MultiHeadAttention(2, 4)(e, e))(
            k.Embedding(10, 5, mask_zero=True)(x)
        )
    ),
    "reversible": lambda k: k.ReversibleEmbedding(10, 5),
    "reversible both ways": lambda k: (
        lambda x: (lambda e: e(e(x), reverse=True))(k.ReversibleEmbedding(10, 5))
    ),
    "one hot": lambda k: k.CategoryEncoding(10, output_mode="one_hot"),
    "multi hot": lambda k: k.CategoryEncoding(10),
    "count": lambda k: k.CategoryEncoding(10, output_mode="count"),
    "weighted count": lambda k: (
        lambda x: k.CategoryEncoding(10, output_mode="count")(x, count_weights=k.Rescaling(0.5)(x))
    ),
    "lookup": lambda k: k.IntegerLookup(vocabulary=[3, 1, 7]),
    "lookup masked": lambda k: k.IntegerLookup(vocabulary=[3, 1, 7], mask_token=0),
    "lookup no unknown": lambda k: k.IntegerLookup(vocabulary=list(range(10)), num_oov_indices=0),
    "lookup two unknown": lambda k: k.IntegerLookup(vocabulary=[3, 1, 7], num_oov_indices=2),
    "lookup inverted": lambda k: k.IntegerLookup(
        vocabulary=[30, 10, 70, 80, 90], invert=True, num_oov_indices=1
    ),
    **{
        f"lookup {mode}": (
            lambda k, mode=mode: k.IntegerLookup(
                vocabulary=[3, 1, 7],
                output_mode=mode,
                **({"idf_weights": [0.5, 0.25, 0.75]} if mode == "tf_idf" else {}),
            )
        )
        for mode in ("one_hot", "multi_hot", "count", "tf_idf")
    },
    "repeat": lambda k: lambda x: k.RepeatVector(3)(x),
    "bins of integers": lambda k: k.Discretization([2.0, 5.0]),
}

STRINGS: Mapping[str, Make] = {
    "lookup": lambda k: k.StringLookup(vocabulary=["cat", "dog", "bird"]),
    "lookup masked": lambda k: k.StringLookup(vocabulary=["cat", "dog"], mask_token=""),
    "lookup inverted": lambda k: (
        lambda x: k.StringLookup(vocabulary=["cat", "dog"], invert=True)(
            k.StringLookup(vocabulary=["cat", "dog"])(x)
        )
    ),
    **{
        f"lookup {mode}": (
            lambda k, mode=mode: k.StringLookup(
                vocabulary=["cat", "dog"],
                output_mode=mode,
                **({"idf_weights": [0.5, 0.25]} if mode == "tf_idf" else {}),
            )
        )
        for mode in ("one_hot", "multi_hot", "count", "tf_idf")
    },
    "lookup embedded": lambda k: (
        lambda x: k.Embedding(4, 3)(k.StringLookup(vocabulary=["cat", "dog"])(x))
    ),
}

SCANS = frozenset(
    {"scan", "scan same", "scan strides", "scan dilated", "scan both ways", "scan of rows"}
)
ADAPTIVE = frozenset({"adaptive average", "adaptive max"})
GIVEN_STATES = frozenset(f"{cls} given a state" for cls in ("SimpleRNN", "LSTM", "GRU"))
UNROLLED = frozenset(f"{cls} unrolled" for cls in ("SimpleRNN", "LSTM", "GRU", "cell"))

RECURRENT_QUICK = frozenset(
    {
        *("SimpleRNN plain", "SimpleRNN unrolled", "LSTM state", "LSTM given a mask"),
        *("GRU backwards", "GRU reset before", "cell GRUCell", "cells stacked", "both ways LSTM"),
    }
)

KINDS: Mapping[str, Kind] = {
    "convolutions": Kind(rows=CONVOLUTIONS, shape=(12, 10, 4), free=(None, None, 4)),
    "pooling": Kind(rows=POOLING, shape=(12, 10, 4), free=(None, None, 4), fixed_only=ADAPTIVE),
    "resizing": Kind(rows=RESIZING, shape=(12, 10, 3), free=(None, None, 3)),
    "images": Kind(
        rows=IMAGES,
        shape=(12, 10, 4),
        free=(None, None, 4),
        fixed_only=SCANS
        | {"einsum two axes", "reshape", "batch norm of rows", "layer norm axes", "prelu"}
        | {"group norm of rows", "rms norm axes"},
        slow=frozenset({"heads over both axes", "scan of rows"}),
    ),
    "pixels": Kind(
        rows=PIXELS,
        shape=(12, 10, 3),
        free=(None, None, 3),
        fixed_only=frozenset({"random crop", "random crop resized", "equalization in tiles"}),
    ),
    "channels first": Kind(
        rows=CHANNELS_FIRST,
        shape=(4, 12, 10),
        free=(4, None, None),
        fixed_only=ADAPTIVE | SCANS,
    ),
    "sequences": Kind(
        rows=SEQUENCES,
        shape=(10, 6),
        free=(None, 6),
        fixed_only=ADAPTIVE | {"reshape", "batch norm of steps"},
    ),
    "attention": Kind(rows=ATTENTION, shape=(10, 6), free=(None, 6)),
    "recurrent": Kind(
        rows=RECURRENT,
        shape=(10, 6),
        free=(None, 6),
        fixed_only=GIVEN_STATES | UNROLLED,
        slow=frozenset(RECURRENT) - RECURRENT_QUICK,
    ),
    "stateful": Kind(rows=STATEFUL, shape=(10, 6), batch=2),
    "volumes": Kind(
        rows=VOLUMES,
        shape=(6, 7, 8, 2),
        free=(None, None, None, 2),
        fixed_only=ADAPTIVE | SCANS,
        slow=SCANS - {"scan"},
    ),
    "volumes first": Kind(
        rows=VOLUMES_FIRST,
        shape=(2, 6, 7, 8),
        free=(2, None, None, None),
        fixed_only=ADAPTIVE | SCANS,
    ),
    "videos": Kind(
        rows=VIDEOS, shape=(3, 4, 5, 3, 2), free=(None, None, None, None, 2), fixed_only=SCANS
    ),
    "vectors": Kind(rows=VECTORS, shape=(6,)),
    "waves": Kind(rows=WAVES, shape=(256,), free=(None,)),
    "words": Kind(
        rows=WORDS,
        shape=(7,),
        dtype="int32",
        free=(None,),
        fixed_only=frozenset({"one hot", "lookup one_hot"}),
    ),
    "strings": Kind(
        rows=STRINGS,
        shape=(7,),
        dtype="string",
        free=(None,),
        fixed_only=frozenset({"lookup one_hot"}),
    ),
}


def built(
    keras: Any,
    makes: Mapping[str, Make],
    shape: tuple[int | None, ...],
    dtype: str,
    batch: int | None = None,
) -> Any:
    """One model with all of these layers side by side, none of them the identity by its weights."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    entry = keras.Input(shape, dtype=dtype, batch_size=batch)
    return zoo.randomised(
        keras.Model(entry, [make(keras.layers)(entry) for make in makes.values()])
    )


def side_by_side(keras: Any, kind: str) -> Any:
    """The quick rows of a kind in one model."""
    table = KINDS[kind]
    makes = {name: make for name, make in table.rows.items() if name not in table.slow}
    return built(keras, makes, table.shape, table.dtype, table.batch)


@dataclass(frozen=True)
class Refusal:
    """A layer that cannot be exported, and what the export says."""

    make: Make
    shape: tuple[int | None, ...]
    dtype: str
    message: str


TEXT = (
    "these TensorFlow operations cannot be converted to ONNX: {}. ONNX has no operators for "
    "the characters of strings. Export the part of the model after the layer, "
    "keras.Model(layer.output, model.outputs), and run the layer itself in Keras before it."
)

REFUSALS: Mapping[str, Refusal] = {
    "text": Refusal(
        lambda k: k.TextVectorization(vocabulary=["cat", "dog"], name="words"),
        (1,),
        "string",
        TEXT.format("StaticRegexReplace (layer 'words'), StringSplitV2 (layer 'words')"),
    ),
    "characters": Refusal(
        lambda k: k.TextVectorization(
            vocabulary=["a", "b"], standardize=None, split="character", name="letters"
        ),
        (1,),
        "string",
        TEXT.format("UnicodeDecode (layer 'letters'), UnicodeEncode (layer 'letters')"),
    ),
    "strings hashed": Refusal(
        lambda k: k.Hashing(5, name="hash"),
        (7,),
        "string",
        TEXT.format("StringToHashBucketFast (layer 'hash')"),
    ),
    "strings hashed with salt": Refusal(
        lambda k: k.Hashing(5, salt=7, mask_value="cat", name="hash"),
        (7,),
        "string",
        TEXT.format("StringToHashBucketStrong (layer 'hash')"),
    ),
    "integers hashed": Refusal(
        lambda k: k.Hashing(5, name="hash"),
        (7,),
        "int32",
        TEXT.format("StringToHashBucketFast (layer 'hash')"),
    ),
    "unknown strings hashed": Refusal(
        lambda k: k.StringLookup(vocabulary=["cat"], num_oov_indices=2, name="words"),
        (7,),
        "string",
        TEXT.format("StringToHashBucketFast (layer 'words')"),
    ),
    "crossing": Refusal(
        lambda k: lambda x: k.HashedCrossing(5, name="cross")((x[:, :1], x[:, 1:2])),
        (7,),
        "int32",
        TEXT.format("SparseCross (layer 'cross')"),
    ),
    "float8": Refusal(
        lambda k: k.Dense(4, dtype="float8_from_float32", name="narrow"),
        (6,),
        "float32",
        "layer 'narrow' uses the TensorFlow operation Cast on numbers of type float8_e4m3fn, which "
        "ONNX does not have before opset 19. Export a model of another dtype policy, or one that "
        "ends before it.",
    ),
}
