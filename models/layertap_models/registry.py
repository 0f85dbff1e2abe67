"""The models that come with layertap, listed in one place."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from layertap.errors import UsageError, suggest


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The description of a model, which is available before the model is built."""

    name: str
    """The name in `MODELS` and on the command line."""
    title: str
    """One sentence: the model's input and output."""
    entry_point: str
    """`module:function`; the function returns the Keras model when it is called without
    arguments."""
    input_shape: tuple[int, ...]
    """`(height, width, channels)` of one image."""
    labels: tuple[str, ...]
    """The names of the classes, in the order of the output's last axis."""
    preprocessing: Mapping[str, object]
    """The recipe, in the form that `layertap.Preprocessing.from_dict` accepts."""
    samples: str
    """`module:function` that writes sample images: `(folder, count, seed) -> list of paths`."""
    source: str
    """The origin of the architecture, the weights and the numbers in `preprocessing`."""
    licence: str
    """The licence of the model and its source."""

    def build(self, **options: Any) -> Any:
        """Build the Keras model; `options` are passed to the entry point."""
        return _resolve(self.entry_point)(**options)

    def write_samples(
        self, folder: str | os.PathLike[str], count: int, seed: int = 0
    ) -> list[Path]:
        """Write `count` sample images for the model as PNG files, and return their paths.

        Each `seed` gives other images.
        """
        paths: list[Path] = _resolve(self.samples)(folder, count, seed)
        return paths


def find(name: str) -> ModelSpec:
    """The description of the model with this name.

    Raises:
        UsageError: no model has this name; the message lists the names.
    """
    try:
        return MODELS[name]
    except KeyError:
        known = ", ".join(MODELS)
        raise UsageError(
            f"no model is named {name!r}; the models are {known}.{suggest(name, list(MODELS))}"
        ) from None


def _resolve(entry_point: str) -> Any:
    module, _, function = entry_point.partition(":")
    return getattr(importlib.import_module(module), function)


MODELS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        "chest_xray": ModelSpec(
            name="chest_xray",
            title="DenseNet121 that scores a frontal chest X-ray for 14 findings.",
            entry_point="layertap_models.chest_xray:build",
            input_shape=(320, 320, 3),
            labels=(
                "Cardiomegaly",
                "Emphysema",
                "Effusion",
                "Hernia",
                "Infiltration",
                "Mass",
                "Nodule",
                "Atelectasis",
                "Pneumothorax",
                "Pleural_Thickening",
                "Pneumonia",
                "Fibrosis",
                "Edema",
                "Consolidation",
            ),
            preprocessing={
                "size": [320, 320],
                "color_mode": "rgb",
                "interpolation": "nearest",
                "depth": "scale",  # radiographs often have 16 bits, and `clip` turns them white
                "scaling": {"mode": "standardize", "mean": 142.95, "std": 67.39},
            },
            samples="layertap_models.phantom:write_samples",
            source=(
                "DenseNet121 of keras.applications (Huang et al. 2017, arXiv:1608.06993) with a "
                "head for the 14 findings of ChestX-ray14 (Wang et al. 2017). Without a weights "
                "file, the weights are random and the scores have no meaning. Mean and standard "
                "deviation were measured on only four radiographs, the test images of "
                "mlmed/torchxrayvision, read at 320 x 320; measure your own collection with "
                "`layertap stats`."
            ),
            licence="Apache-2.0",
        ),
        "digits": ModelSpec(
            name="digits",
            title="Small CNN that reads handwritten digits, 8 x 8; it trains in seconds.",
            entry_point="layertap_models.digits:train",
            input_shape=(8, 8, 1),
            labels=("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
            # White ink on black. The data set counted the ink of 32 x 32 scans in blocks of
            # 4 x 4 pixels; `box` does the same for larger images.
            preprocessing={
                "size": [8, 8],
                "color_mode": "grayscale",
                "interpolation": "box",
                "scaling": {"mode": "rescale", "scale": 0.00392156862745098, "offset": 0.0},
            },
            samples="layertap_models.digits:write_samples",
            source=(
                "Trained locally on the 1,797 images of sklearn.datasets.load_digits (the test "
                "part of Optical Recognition of Handwritten Digits, Alpaydin and Kaynak 1998, "
                "UCI Machine Learning Repository)."
            ),
            licence="Apache-2.0; the data: CC BY 4.0",
        ),
    }
)
