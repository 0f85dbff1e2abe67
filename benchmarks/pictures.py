"""Generated grey pictures of 1024 x 1024, in the formats of the benchmark `collections`.

A program as well, which draws them: `FOLDER`, the first file that it makes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from . import models

KINDS = ("png", "jpeg")
"""The formats, which are the suffixes of the files too."""

DRAWN = 24
"""Number of different pictures."""
COUNT = 1008
"""Number of files of each format; each picture has several names."""


def pictures(kind: str, count: int = COUNT) -> list[str]:
    """The paths of pictures. They are drawn if they do not exist, or are out of date."""
    folder = models.CACHE / f"pictures-{models.state(Path(__file__), exported=False)}"
    paths = {
        one: [folder / one / f"{number:04d}.{one}" for number in range(COUNT)] for one in KINDS
    }
    models.create("the pictures", [paths[one][-1] for one in KINDS], ["benchmarks.pictures"])
    return [str(path) for path in paths[kind][:count]]


def _draw(folder: Path) -> None:
    from PIL import Image

    from layertap_models import phantom

    for kind in KINDS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(DRAWN):
        picture = Image.fromarray(phantom.draw(number))
        for kind in KINDS:
            first = folder / kind / f"{number:04d}.{kind}"
            picture.save(first)
            for other in range(number + DRAWN, COUNT, DRAWN):
                name = first.with_stem(f"{other:04d}")
                name.unlink(missing_ok=True)
                os.link(first, name)


if __name__ == "__main__":
    _draw(Path(sys.argv[1]).parents[1])
