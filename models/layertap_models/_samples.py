"""Sample images, written as PNG files into a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layertap.errors import OutputError
from layertap.format.atomic import replacing


def write_pngs(
    folder: str | os.PathLike[str], images: Iterable[tuple[str, NDArray[np.uint8]]]
) -> list[Path]:
    """Write each `(name, pixels (h, w))` as `folder/name.png`, 8-bit grey; make the folder.

    Raises:
        OutputError: the folder cannot be made, or a file in it not written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"cannot make the folder {str(folder)!r}: {exc.strerror}.") from exc
    paths = []
    for name, pixels in images:
        path = folder / f"{name}.png"
        with replacing(path) as temporary:
            Image.fromarray(pixels).save(temporary, "PNG")
        paths.append(path)
    return paths
