"""Draw the picture of the README from what `make demo` leaves in demo/.

python docs/_picture.py demo docs/images/demo.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import layertap
from layertap.view.colormaps import colored
from layertap.view.overlays import overlay
from layertap.view.panels import panel
from layertap.view.pictures import strongest_channels

SIZE = (256, 256)


def strongest_map(name: str, activation: NDArray[Any]) -> tuple[str, Image.Image]:
    """Title and picture of the strongest channel of feature maps `(h, w, c)`."""
    channel = strongest_channels(activation, 1)[0]
    values = activation[:, :, channel]
    colours = colored((values - values.min()) / np.ptp(values), "viridis")
    picture = Image.fromarray(colours).resize(SIZE, Image.Resampling.NEAREST)
    return f"{name} [..., {channel}]", picture


def main(folder: Path, target: Path) -> None:
    path = folder / "images" / "phantom_001.png"
    model = layertap.open(folder / "chest.onnx")
    image = Image.open(path).convert("RGB").resize(SIZE)
    layers = model.activations(path, ["conv1_relu", "conv3_block1_concat", "conv5_block16_concat"])
    heat = model.cam(path, target="Effusion")
    tiles = [("image", image)]
    tiles += [strongest_map(name, activation[0]) for name, activation in layers.items()]
    tiles += [("Grad-CAM, Effusion", overlay(image, heat))]
    sheet = panel(tiles, columns=5)
    sheet.quantize(256, Image.Quantize.MAXCOVERAGE).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
