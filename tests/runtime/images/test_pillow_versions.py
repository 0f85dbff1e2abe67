"""The same pixels with every Pillow that layertap supports.

Pillow 13 changed the order of the two passes of its filters (python-pillow/Pillow#9549), and each
pass rounds. The references are the filters of older versions, in one call, as Keras calls them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layertap.images.load import load_image

ROOT = Path(__file__).parents[3]
WHEELS = sorted((ROOT / ".cache" / "pillow").glob("*illow-*.whl"))

SHAPES = [  # of the image and of the result; Pillow 13 takes the height first in some of them
    ((338, 209), (224, 224)),
    ((300, 40), (30, 37)),
    ((40, 300), (37, 30)),
    ((61, 50), (61, 20)),
    ((61, 50), (20, 50)),
    ((17, 23), (64, 64)),
    ((500, 7), (3, 50)),
]
FILTERS = ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

PROGRAM = """
import hashlib, json, sys
import numpy as np
import PIL
from PIL import Image
from layertap.images.load import load_image

digests = {}
for key, mode, shape, size, name in json.loads(sys.argv[1]):
    image = Image.open(f"{sys.argv[2]}/{mode}-{shape[0]}x{shape[1]}.png")
    image.load()
    colours = {"RGB": "rgb", "RGBA": "rgba"}.get(mode, "grayscale")
    found = load_image(image, size=size, interpolation=name, color_mode=colours)
    wanted = found
    if not (mode == "I;16" and int(PIL.__version__.split(".")[0]) < 11):  # not by one call
        plain = image.resize((size[1], size[0]), getattr(Image.Resampling, name.upper()))
        wanted = np.asarray(plain, dtype=np.float32).reshape(found.shape)
    digests[key] = [hashlib.sha256(x.tobytes()).hexdigest() for x in (found, wanted)]
print(json.dumps({"pillow": PIL.__version__, "digests": digests}))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for height, width in {shape for shape, _ in SHAPES}:
        pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        deep = pixels.view(np.uint16)[:, :, 0]
        deep[deep > 30000] = 65535  # at the edges of large white areas filters go beyond it
        modes = [
            ("RGBA", pixels),
            ("RGB", pixels[:, :, :3]),
            ("L", pixels[:, :, 0]),
            ("I;16", deep),
        ]
        for mode, array in modes:
            Image.fromarray(np.ascontiguousarray(array)).save(
                folder / f"{mode}-{height}x{width}.png"
            )
    return folder


@pytest.mark.skipif(not WHEELS, reason="needs .cache/pillow, which `make` downloads")
@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.name.split("-")[1])
def test_pixels_are_those_of_every_pillow_before_13(
    wheel: Path, images: Path, tmp_path: Path
) -> None:
    cases = [
        (f"{mode} {shape} {size} {name}", mode, shape, size, name)
        for mode in ("L", "RGB", "RGBA", "I;16")
        for shape, size in SHAPES
        for name in FILTERS
    ]
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "runtime")])
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(cases), str(images)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    there = json.loads(done.stdout)
    assert there["pillow"] == wheel.name.split("-")[1]
    assert int(there["pillow"].split(".")[0]) < 13
    for key, mode, shape, size, name in cases:
        colours = {"RGB": "rgb", "RGBA": "rgba"}.get(mode, "grayscale")
        here = load_image(
            images / f"{mode}-{shape[0]}x{shape[1]}.png",
            size=size,
            interpolation=name,  # type: ignore[arg-type]
            color_mode=colours,  # type: ignore[arg-type]
        )
        found, wanted = there["digests"][key]
        assert found == wanted, key
        assert hashlib.sha256(here.tobytes()).hexdigest() == wanted, key


@pytest.mark.parametrize("name", FILTERS)
def test_cropping_is_part_of_the_same_two_passes(name: str) -> None:
    """One pass for each axis of the box: the filter reads pixels outside it, as in one call."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (60, 90), dtype=np.uint8)
    found = load_image(
        pixels,
        size=(30, 30),
        interpolation=name,  # type: ignore[arg-type]
        keep_aspect_ratio=True,
        color_mode="grayscale",
    )
    image, filter_ = Image.fromarray(pixels), getattr(Image.Resampling, name.upper())
    wanted = image.resize((30, 30), filter_, box=(15, 0, 75, 60))
    difference = np.abs(found[:, :, 0] - np.asarray(wanted, dtype=np.float32))
    assert difference.max() <= 1  # of the rounding between the passes, in Pillow 13
    assert name != "nearest" or difference.max() == 0
