"""Preprocessing recipes: how an image is converted to an input of the model.

A recipe is plain data. It is stored in the model file's card, or in a JSON file (`layertap stats
-o`, `layertap export --preprocess`), or has a name (`layertap.images.families`). All keys, with
their defaults:

    {"size": null,                   [height, width], or null for the image's own size
     "color_mode": "rgb",            or "rgba", "grayscale"
     "interpolation": "nearest",     or "bilinear", "bicubic", "lanczos", "box", "hamming"
     "keep_aspect_ratio": false,     true crops a centred region to the size's aspect ratio
     "shorter_side": null,           resize to this length of the shorter side, then crop the
                                     centre of the size, as torchvision's Resize and CenterCrop do
     "depth": "clip",                or "scale": grey of more than 8 bits (layertap.images.load)
     "channels": null,               "first" or "last": the order of axes, (c, h, w) or (h, w, c);
                                     null: that of the model's input, or "last" without a model
     "scaling": null}                null keeps the pixels, 0..255; or one of

    {"mode": "standardize", "mean": 127.5, "std": 58.0}         numbers, or lists, one per channel
    {"mode": "samplewise", "epsilon": 1e-06}                    by each image's own mean and std
    {"mode": "rescale", "scale": 0.00392156862745098, "offset": 0.0}    like keras.layers.Rescaling
    {"mode": "caffe"}, {"mode": "tf"}, {"mode": "torch"}        like keras.applications

The result of every scaling equals that of its counterpart in Keras bit for bit, so the order of
the operations and their precision are part of the recipe.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from layertap._arguments import items
from layertap._public import public
from layertap.errors import InputError, PreprocessingError, suggest
from layertap.format.recipe import CAFFE_MEAN, TORCH_MEAN, TORCH_STD

from .families import FAMILIES, named_recipe, no_such_recipe
from .load import (
    CHANNELS,
    ColorMode,
    Depth,
    ImageSource,
    Interpolation,
    check_choice,
    checked_shorter_side,
    checked_size,
    image_name,
    load_image,
)

_NUMBER = (int, float, np.integer, np.floating)
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)

Pixels: TypeAlias = npt.NDArray[np.float32]
Channels: TypeAlias = Literal["first", "last"]
PerChannel: TypeAlias = float | tuple[float, ...]
"""One number for all channels, or one per channel."""


@dataclass(frozen=True, kw_only=True)
class Standardize:
    """`(x - mean) / std`, computed in float64 and rounded once to float32.

    It equals `(image - mean) / std` for a PIL image in numpy.
    """

    mode: ClassVar[Literal["standardize"]] = "standardize"
    mean: PerChannel
    """A number, or one per channel, on the pixels' scale of 0..255."""
    std: PerChannel
    """A number, or one per channel, greater than 0."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", _numbers("mean", self.mean))
        object.__setattr__(self, "std", _numbers("std", self.std, positive=True))

    def __call__(self, pixels: Pixels) -> Pixels:
        """Pixels `(..., c)`, scaled."""
        centred = pixels.astype(np.float64) - np.asarray(self.mean, dtype=np.float64)
        return (centred / np.asarray(self.std, dtype=np.float64)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Samplewise:
    """Scales each image to mean 0 and standard deviation 1 over its pixels and channels.

    Computed in float32, like `ImageDataGenerator(samplewise_center=True,
    samplewise_std_normalization=True)`.
    """

    mode: ClassVar[Literal["samplewise"]] = "samplewise"
    epsilon: float = 1e-6
    """Added to the standard deviation; greater than 0."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", _number("epsilon", self.epsilon, positive=True))

    def __call__(self, pixels: Pixels) -> Pixels:
        """Pixels `(h, w, c)` of one image, scaled."""
        centred = pixels - np.mean(pixels)
        scaled: Pixels = centred / (np.std(centred) + np.float32(self.epsilon))
        return scaled


@dataclass(frozen=True, kw_only=True)
class Rescale:
    """`x * scale + offset`, computed in float32, like `keras.layers.Rescaling`."""

    mode: ClassVar[Literal["rescale"]] = "rescale"
    scale: PerChannel
    """A number, or one per channel."""
    offset: PerChannel = 0.0
    """A number, or one per channel."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _numbers("scale", self.scale))
        object.__setattr__(self, "offset", _numbers("offset", self.offset))

    def __call__(self, pixels: Pixels) -> Pixels:
        """Pixels `(..., c)`, scaled."""
        scaled = pixels * np.asarray(self.scale, dtype=np.float32)
        return scaled + np.asarray(self.offset, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class ImageNet:
    """`keras.applications.imagenet_utils.preprocess_input`, computed in float32, for RGB pixels.

    `tf` scales to -1..1 (ResNetV2, Inception, Xception, MobileNet). `torch` scales to 0..1 and
    standardizes (DenseNet). `caffe` converts to BGR and subtracts the mean (VGG, ResNet).
    """

    mode: Literal["caffe", "tf", "torch"]

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, _IMAGENET_MODES)

    def __call__(self, pixels: Pixels) -> Pixels:
        """RGB pixels `(..., 3)`, scaled; for `caffe` in BGR order.

        Raises:
            InputError: the last axis does not have size 3.
        """
        if pixels.shape[-1:] != (3,):
            raise InputError(
                f'scaling "{self.mode}" expects RGB pixels of shape (..., 3), got {pixels.shape}.'
            )
        # Keras's order of operations: folding the constants would change results by 1e-7.
        scaled: Pixels
        if self.mode == "tf":
            scaled = pixels / np.float32(127.5) - np.float32(1.0)
        elif self.mode == "torch":
            scaled = (pixels / np.float32(255.0) - _TORCH_MEAN) / _TORCH_STD
        else:
            scaled = pixels[..., ::-1] - _CAFFE_MEAN
        return scaled


_IMAGENET_MODES = ("caffe", "tf", "torch")
_TORCH_MEAN = np.array(TORCH_MEAN, dtype=np.float32)
_TORCH_STD = np.array(TORCH_STD, dtype=np.float32)
_CAFFE_MEAN = np.array(CAFFE_MEAN, dtype=np.float32)  # BGR

Scaling: TypeAlias = Standardize | Samplewise | Rescale | ImageNet

_SCALINGS: Mapping[str, type[Scaling]] = {
    "standardize": Standardize,
    "samplewise": Samplewise,
    "rescale": Rescale,
    **dict.fromkeys(_IMAGENET_MODES, ImageNet),
}


@public
@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """A recipe that converts an image to an input of the model.

    The docstring of `layertap.images.preprocessing` describes the fields.

    Raises:
        PreprocessingError: the value of a field is invalid, or does not match the other fields.
    """

    size: tuple[int, int] | None = None
    """(height, width); `None` keeps each image's own size."""
    color_mode: ColorMode = "rgb"
    interpolation: Interpolation = "nearest"
    keep_aspect_ratio: bool = False
    shorter_side: int | None = None
    """If given, images are resized so that their shorter side has this length, and then cropped to
    the centre of `size`."""
    depth: Depth = "clip"
    channels: Channels | None = None
    """Whether the axis of the channels is the first or the last of an image; `None`: as in the
    model's input, and last without a model."""
    scaling: Scaling | None = None
    """The scaling of the pixels, 0..255, after resizing; `None` keeps them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", checked_size(self.size))
        check_choice("color_mode", self.color_mode, get_args(ColorMode))
        check_choice("interpolation", self.interpolation, get_args(Interpolation))
        check_choice("depth", self.depth, get_args(Depth))
        if self.channels is not None:
            check_choice("channels", self.channels, get_args(Channels))
        if not isinstance(self.keep_aspect_ratio, bool):
            raise PreprocessingError(
                f'"keep_aspect_ratio" is {self.keep_aspect_ratio!r}, but it must be true or false.'
            )
        shorter_side = checked_shorter_side(self.shorter_side, self.keep_aspect_ratio)
        object.__setattr__(self, "shorter_side", shorter_side)
        if self.scaling is not None:
            self._check_scaling(self.scaling)

    def _check_scaling(self, scaling: Scaling) -> None:
        if not isinstance(scaling, Scaling):
            raise PreprocessingError(
                f'"scaling" is {scaling!r}, but it must be a Standardize, Samplewise, Rescale or '
                "ImageNet. Use Preprocessing.from_dict for JSON data."
            )
        if isinstance(scaling, ImageNet) and self.color_mode != "rgb":
            raise PreprocessingError(
                f'scaling "{scaling.mode}" is for images read as "rgb", not as "{self.color_mode}".'
            )
        for key, value in asdict(scaling).items():
            if isinstance(value, tuple) and len(value) != self.channel_count:
                raise PreprocessingError(
                    f'"{key}" is a list of length {len(value)}, but for "{self.color_mode}" '
                    f"images it must have length {self.channel_count}: one number per channel."
                )

    @property
    def channel_count(self) -> int:
        """Number of channels of the result."""
        return CHANNELS[self.color_mode]

    def fitted(self, axes: str) -> Preprocessing:
        """The recipe for an input with these axes, in the notation of `Layer.axes`.

        It only differs if `channels` is `None`, and the axes are `NCHW`.
        """
        if self.channels is None and axes == "NCHW":
            return replace(self, channels="first")
        return self

    def __call__(self, image: ImageSource) -> Pixels:
        """Read one image and scale it.

        Args:
            image: A path, bytes, a binary file, a `PIL.Image.Image`, or an array of dtype uint8,
                uint16 or bool; as for `load_image`.

        Returns:
            A float32 array of shape `(h, w, c)`, or `(c, h, w)` if `channels` is `first`.

        Raises:
            ImageError: the image cannot be read.
        """
        pixels = self._read(image)
        return self._ordered(pixels)

    def _ordered(self, pixels: Pixels) -> Pixels:
        """Pixels `(..., h, w, c)` in the order of axes that `channels` states."""
        if self.channels != "first":
            return pixels
        return np.ascontiguousarray(np.moveaxis(pixels, -1, -3))

    def _read(self, image: ImageSource) -> Pixels:
        """One image as scaled pixels, `(h, w, c)`."""
        pixels = load_image(
            image,
            size=self.size,
            color_mode=self.color_mode,
            interpolation=self.interpolation,
            keep_aspect_ratio=self.keep_aspect_ratio,
            shorter_side=self.shorter_side,
            depth=self.depth,
        )
        return pixels if self.scaling is None else self.scaling(pixels)

    def batch(self, images: Iterable[ImageSource]) -> Pixels:
        """Read several images, scale them, and stack them.

        Returns:
            A float32 array of shape `(n, h, w, c)`, or `(n, c, h, w)` if `channels` is `first`.

        Raises:
            ImageError: an image cannot be read.
            InputError: no images were given, or they have different sizes (with `size=None`).
        """
        if isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
            raise InputError(
                f"{image_name(images)}: batch expects a list of images, not one image."
            )
        images = items("batch: the images", images)
        if not images:
            raise InputError("batch expects at least one image, got none.")
        arrays = [self._read(image) for image in images]
        for index, array in enumerate(arrays):
            if array.shape != arrays[0].shape:
                (height, width, _), (first_height, first_width, _) = array.shape, arrays[0].shape
                raise InputError(
                    "images of different sizes cannot form one batch: "
                    f"{image_name(images[0])} (image 0) has {first_height} x {first_width} pixels, "
                    f"{image_name(images[index])} (image {index}) has {height} x {width}. "
                    'Set a "size" in the preprocessing.'
                )
        return self._ordered(np.stack(arrays))

    @classmethod
    def of(cls, given: Any) -> Preprocessing:
        """A recipe in any of its forms: an object, a dict, the path of a JSON file, or a name.

        A name is that of a module or a model of `keras.applications`, for example `resnet50`,
        `EfficientNetB3` or, for images of another size, `resnet50:320x320`; see docs/images.md. A
        file that has such a name is read as `./resnet50`.

        Raises:
            PreprocessingError: it is none of these, or it is invalid.
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, str):
            named = named_recipe(given)
            if named is not None:
                return cls.from_dict(named)
            if _is_name(given):
                raise PreprocessingError(f"{given}: {no_such_recipe(given)}")
        if isinstance(given, (str, os.PathLike)):
            return cls.load(given)
        if callable(given):
            raise PreprocessingError(
                "a preprocessing recipe is data, which a file can hold, not a function, got "
                f"{getattr(given, '__qualname__', type(given).__name__)}.{_written_out(given)}"
            )
        return cls.from_dict(given)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Create a recipe from plain JSON data; missing keys have their default values.

        Raises:
            PreprocessingError: a key is unknown, or a value is invalid.
        """
        if not isinstance(data, Mapping):
            raise PreprocessingError(
                "a preprocessing recipe must be a JSON object, got "
                f"{json.dumps(data, default=repr)}."
            )
        _check_keys(data, [field.name for field in fields(cls)], "a preprocessing recipe")
        return cls(**{**data, "scaling": _scaling_from(data.get("scaling"))})

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain JSON data, with all keys in a fixed order; `from_dict` reads it.

        `channels` and `shorter_side` are left out if they are `None`: readers of format 1.2 refuse
        recipes with these keys.
        """
        data = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        for key in ("channels", "shorter_side"):
            if data[key] is None:
                del data[key]
        if self.scaling is not None:
            options = {key: _plain(value) for key, value in asdict(self.scaling).items()}
            data["scaling"] = {"mode": self.scaling.mode, **options}
        return data

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Preprocessing:
        """Read a recipe from a JSON file.

        Raises:
            PreprocessingError: the file cannot be read, is not JSON, or is not a valid recipe; the
                message starts with the file's name.
        """
        name = os.fsdecode(path)
        try:
            with open(path, encoding="utf-8") as file:
                data = json.load(file)
            return cls.from_dict(data)
        except FileNotFoundError as exc:
            raise PreprocessingError(f"{name}: there is no such file.") from exc
        except OSError as exc:
            raise PreprocessingError(f"{name}: it cannot be read ({exc.strerror}).") from exc
        except PreprocessingError as exc:
            raise PreprocessingError(f"{name}: {exc}") from exc
        except (ValueError, RecursionError) as exc:
            raise PreprocessingError(f"{name}: this is not a JSON file ({exc}).") from exc


def example(shape: Sequence[object] | None) -> str:
    """A recipe, as JSON, for an input `(n, h, w, c)` or `(n, c, h, w)` of this shape; `None` if it
    is unknown."""
    _, height, width, channels = shape if shape and len(shape) == 4 else (None,) * 4
    if channels not in CHANNELS.values() and height in CHANNELS.values():
        channels, height, width = height, width, channels
    known = isinstance(height, int) and isinstance(width, int)
    mode = next((mode for mode, count in CHANNELS.items() if count == channels), "rgb")
    data = {"size": [height, width] if known else [320, 320]}
    return json.dumps(data if mode == "rgb" else {**data, "color_mode": mode})


def _is_name(text: str) -> bool:
    """Whether a text can only be meant as the name of a recipe: it is no path of a file."""
    plain = not any(mark in text for mark in "./\\")
    return plain and not os.path.exists(text)


def _written_out(function: Any) -> str:
    """How to write a `preprocess_input` of keras.applications as a recipe."""
    module = str(getattr(function, "__module__", "")).rpartition(".")[2]
    if module in FAMILIES and getattr(function, "__name__", "") == "preprocess_input":
        return f' Give its name: "{module}", or "{module}:320x320" for images of another size.'
    return (
        ' Write what it does as a dict, for example {"size": [224, 224], "scaling": '
        '{"mode": "rescale", "scale": 0.00392156862745098}}; or call it yourself, and give '
        "batches that are ready."
    )


def _scaling_from(data: object) -> Scaling | None:
    if data is None:
        return None
    if not isinstance(data, Mapping):
        example = _object_with(data) if isinstance(data, str) else ""
        raise PreprocessingError(
            f'"scaling" is {data!r}, but it must be null or an object with a "mode".{example}'
        )
    if "mode" not in data:
        raise PreprocessingError(
            f'"scaling" has no "mode". It must be one of {", ".join(map(repr, _SCALINGS))}.'
        )
    mode = data["mode"]
    check_choice("mode", mode, list(_SCALINGS))
    scaling = _SCALINGS[str(mode)]
    options = {field.name: field.default is MISSING for field in fields(scaling)}
    _check_keys(data, ["mode", *(key for key in options if key != "mode")], f'scaling "{mode}"')
    for key, required in options.items():
        if required and key not in data:
            raise PreprocessingError(f'scaling "{mode}" requires "{key}".')
    return scaling(**{key: value for key, value in data.items() if key in options})


def _object_with(mode: str) -> str:
    """The object that was meant by a mode alone."""
    known = get_close_matches(mode, _SCALINGS, n=1)
    if not known:
        return ""
    required = [field.name for field in fields(_SCALINGS[known[0]]) if field.default is MISSING]
    others = "".join(f', "{key}": ...' for key in required if key != "mode")
    return f' Write {{"mode": "{known[0]}"{others}}}.'


def _check_keys(data: Mapping[str, Any], known: list[str], owner: str) -> None:
    for key in data:
        if key not in known:
            raise PreprocessingError(
                f'"{key}" is not a key of {owner}, which has {", ".join(known)}.'
                + suggest(str(key), known)
            )


def _numbers(key: str, value: object, *, positive: bool = False) -> PerChannel:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(_number(key, number, positive=positive) for number in value)
    return _number(key, value, positive=positive)


def _number(key: str, value: object, *, positive: bool = False) -> float:
    # In the range of float32, in which most scalings are computed. The comparison is false for NaN.
    lowest = _SMALLEST if positive else -_LARGEST
    if isinstance(value, _NUMBER) and not isinstance(value, bool) and lowest <= value <= _LARGEST:
        return float(value)
    expected = "a number greater than 0" if positive else "a finite number"
    raise PreprocessingError(f'"{key}" is {value!r}, but it must be {expected}.')


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
