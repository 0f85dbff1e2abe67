"""Recipes by name: those of the families of `keras.applications`.

A name is a module (`resnet50`, `mobilenet_v2`), a model (`EfficientNetB3`) or a mode of
`imagenet_utils` (`imagenet-caffe`); capitals, `_` and `-` do not count. The recipe is the
`preprocess_input` of the module and the default size of the model, with the filter that
`keras.utils.load_img` uses by default. `resnet50:320x320` has another size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from layertap.errors import PreprocessingError, suggest


def _models(pattern: str, *sizes: tuple[str, int]) -> dict[str, int]:
    """Sizes by name of a model: `pattern` with `*` replaced by each of the words."""
    return {pattern.replace("*", word): size for words, size in sizes for word in words.split()}


_B = (("B0", 224), ("B1", 240), ("B2", 260), ("B3", 300))

FAMILIES: Mapping[str, tuple[str | None, Mapping[str, int]]] = {
    "convnext": (None, _models("ConvNeXt*", ("Tiny Small Base Large XLarge", 224))),
    "densenet": ("torch", _models("DenseNet*", ("121 169 201", 224))),
    "efficientnet": (
        None,
        _models("EfficientNet*", *_B, ("B4", 380), ("B5", 456), ("B6", 528), ("B7", 600)),
    ),
    "efficientnet_v2": (None, _models("EfficientNetV2*", *_B, ("S", 384), ("M L", 480))),
    "imagenet-caffe": ("caffe", {"imagenet-caffe": 224}),
    "imagenet-tf": ("tf", {"imagenet-tf": 224}),
    "imagenet-torch": ("torch", {"imagenet-torch": 224}),
    "inception_resnet_v2": ("tf", {"InceptionResNetV2": 299}),
    "inception_v3": ("tf", {"InceptionV3": 299}),
    "mobilenet": ("tf", {"MobileNet": 224}),
    "mobilenet_v2": ("tf", {"MobileNetV2": 224}),
    "mobilenet_v3": (None, _models("MobileNetV3*", ("Small Large", 224))),
    "nasnet": ("tf", _models("NASNet*", ("Mobile", 224), ("Large", 331))),
    "resnet": ("caffe", _models("ResNet*", ("50 101 152", 224))),
    "resnet50": ("caffe", {"ResNet50": 224}),
    "resnet_v2": ("tf", _models("ResNet*V2", ("50 101 152", 224))),
    "vgg16": ("caffe", {"VGG16": 224}),
    "vgg19": ("caffe", {"VGG19": 224}),
    "xception": ("tf", {"Xception": 299}),
}
"""By module of keras.applications: the scaling of its `preprocess_input`, or `None` if its models
scale in a layer of their own; and the sizes of images by model, the smallest first."""


def named_recipe(given: str) -> dict[str, Any] | None:
    """The recipe with this name, as JSON data; `None` if there is none.

    Raises:
        PreprocessingError: what follows the name is not a size.
    """
    name, colon, size = given.partition(":")
    for module, (mode, models) in FAMILIES.items():
        sizes = {_plain(module): next(iter(models.values()))}
        sizes.update({_plain(model): size for model, size in models.items()})
        if _plain(name) in sizes:
            own = [sizes[_plain(name)]] * 2
            scaling = mode and {"mode": mode}
            return {"size": _size(name, size) if colon else own, "scaling": scaling}
    return None


def no_such_recipe(given: str) -> str:
    """What is wrong with a text that is neither a file nor a name, and what would be right."""
    names = [*FAMILIES, *(name for _, models in FAMILIES.values() for name in models)]
    near = suggest(given.partition(":")[0], names)
    return (
        f"there is no file and no recipe of this name.{near} The recipes of keras.applications "
        f"are {', '.join(FAMILIES)}, and each of its models, as in EfficientNetB3."
    )


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _size(name: str, text: str) -> list[int]:
    found = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text, re.ASCII)
    if found is None:
        raise PreprocessingError(
            f"{text!r} is not the size of an image: give {name}:HEIGHTxWIDTH, for example "
            f"{name}:320x320."
        )
    return [int(found[1]), int(found[2] or found[1])]
