"""Writing sample images as PNG files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layertap.format.atomic import make_folder, replacing


def write_pngs(
    folder: str | os.PathLike[str], images: Iterable[tuple[str, NDArray[np.uint8]]]
) -> list[Path]:
    """Write each `(name, pixels)` as `folder/name.png`, and create the folder if necessary.

    Args:
        folder: the output folder.
        images: names, and pixels `(h, w)` of dtype uint8, which are written as 8-bit grey.

    Returns:
        The paths of the files.

    Raises:
        OutputError: the folder cannot be created, or a file cannot be written.
    """
    folder = Path(folder)
    make_folder(folder)
    paths = []
    for name, pixels in images:
        path = folder / f"{name}.png"
        with replacing(path) as temporary:
            Image.fromarray(pixels).save(temporary, "PNG")
        paths.append(path)
    return paths
