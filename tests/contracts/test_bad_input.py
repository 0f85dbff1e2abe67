"""Invalid input gives one clear message, the right exit code, and no incomplete file.

Each case is tested in Python and on the command line, which must give the same message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import layertap
from generators import tiny
from layertap.format.card import KEY
from shell import layertap as shell

Change = Callable[[dict[str, Any]], object]


def model_bytes(change: Change | None = None) -> bytes:
    """The classifier with a modified card."""
    made = tiny.image_classifier()
    if change:
        (prop,) = (item for item in made.metadata_props if item.key == KEY)
        data = json.loads(prop.value)
        change(data)
        prop.value = json.dumps(data)
    return made.SerializeToString()


WHOLE = model_bytes()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a valid model and a valid picture."""
    monkeypatch.chdir(tmp_path)
    Path("good.onnx").write_bytes(WHOLE)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("good.png")
    return tmp_path


def listing() -> dict[str, bytes | None]:
    return {
        path.as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(Path().rglob("*"))
    }


def error_of(*argv: str | Path, code: int = 2) -> str:
    """The error message of a command; checks that stdout is empty and no file has changed."""
    before = listing()
    done = shell(*argv)
    assert (done.code, done.out) == (code, "")
    assert listing() == before
    match = re.fullmatch(r"layertap: (.*)\n", done.err)
    assert match, done.err
    return match[1]


# --- Model files --------------------------------------------------------------------------------

AGAIN = "Copy or export it again."


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (None, "there is no file 'bad.onnx'. Did you mean 'good.onnx'?"),
        (b"", f"'bad.onnx' is empty. {AGAIN}"),
        (b"Dear reader,\nthis is no model.\n", "'bad.onnx' is not an ONNX model. It looks like a "
         "text file."),
        (WHOLE[:-40], None),
        (WHOLE[: len(WHOLE) // 2], None),
        (WHOLE[:1], None),
        (bytes(range(256)), None),
        (bytes(1000), None),
        (model_bytes(lambda data: data.update(format="2.3")), "'bad.onnx' has a layertap card of "
         "format 2.3; this layertap reads format 1. Upgrade layertap."),
        (model_bytes(lambda data: data.pop("layers")), "'bad.onnx' has a damaged layertap card "
         "(Card has no 'layers'). Export the model again."),
        (model_bytes(lambda data: data["layers"][1].update(tensor="gone")), None),
    ],
)  # fmt: skip
def test_invalid_model_file_is_an_error(contents: bytes | None, message: str | None) -> None:
    if contents is not None:
        Path("bad.onnx").write_bytes(contents)
    if message is None:
        message = error_of("run", "bad.onnx", "good.png", "--layers", "all")
        assert message.startswith("'bad.onnx' ")
        assert message.endswith((AGAIN, "export it again."))
        return
    with pytest.raises(layertap.ModelFileError) as caught:
        layertap.open("bad.onnx")
    assert str(caught.value) == message
    for command in ("layers", "info", "check"):
        assert error_of(command, "bad.onnx") == message
    assert error_of("run", "bad.onnx", "good.png", "-o", "out.npz") == message


def test_truncated_file_is_an_error() -> None:
    """At every position of a small file. A file that is cut between two fields after the graph can
    be valid; then the results must be those of the whole file."""
    x = np.random.default_rng(0).random((1, 8, 6, 3)).astype(np.float32)
    whole = layertap.open(WHOLE).predict(x)
    refusals = 0
    for end in range(len(WHOLE)):
        try:
            part = layertap.open(WHOLE[:end])
            values = part.predict(x)
        except layertap.ModelFileError:
            refusals += 1
        else:
            values = values if isinstance(values, np.ndarray) else values[part.outputs[0].name]
            np.testing.assert_array_equal(values, whole)
    assert refusals > 0.99 * len(WHOLE)


# --- Layers, images and targets -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["run", "good.onnx", "good.png", "--layers", "cnv"],
            "no layer is called 'cnv'; the file exposes 6 layers. Did you mean 'conv'? "
            "`layertap layers FILE` lists them.",
        ),
        (
            ["layers", "good.onnx", "--layers", "99"],
            "layer index 99 is out of range: the model has 7 layers, 0 to 6 or -7 to -1.",
        ),
        (
            ["run", "good.onnx", "text.png"],
            "text.png: this is not an image in a format that Pillow reads.",
        ),
        (
            ["run", "good.onnx", "bomb.png"],
            "bomb.png: Image size (400000000 pixels) exceeds limit of 178956970 "
            "pixels, could be decompression bomb DOS attack. If you trust the image, "
            "increase PIL.Image.MAX_IMAGE_PIXELS.",
        ),
        (
            ["run", "good.onnx", "rank.npy"],
            "input 'image' has shape (8, 6, 3), expected (n, 8, 6, 3). If its values are prepared, "
            "add the batch axis: x[None]. If they are pixels, give them as integers, which are "
            "prepared: x.astype('uint8').",
        ),
        (
            ["run", "good.onnx", "good.png", "-o", "missing/out.npz"],
            "cannot write 'missing/out.npz': the folder 'missing' does not exist. Nothing was "
            "written.",
        ),
        (
            ["run", "good.onnx", "good.png", "-o", "out.txt"],
            "the name of the output must end in .npz, .npy or .csv, got 'out.txt'.",
        ),
        (
            ["run", "good.onnx", "good.png", "--device", "cdua"],
            "unknown device 'cdua'. Give 'auto', a device that `layertap devices` lists, or "
            "another execution provider of onnxruntime in `providers`. Did you mean 'cuda', "
            "'cpu'?",
        ),
        (
            ["run", "good.onnx", "good.png", "--preprocess", "recipe.json"],
            'recipe.json: "sise" is not a key of a preprocessing recipe, which '
            "has size, color_mode, interpolation, keep_aspect_ratio, shorter_side, depth, "
            "channels, scaling. Did you mean 'size'?",
        ),
    ],
)
def test_invalid_request_is_an_error(argv: list[str], message: str) -> None:
    Path("text.png").write_text("no picture")
    if "bomb.png" in argv:  # which takes a second to write
        Image.new("1", (20_000, 20_000)).save("bomb.png")
    np.save("rank.npy", np.zeros((8, 6, 3), np.float32))
    Path("recipe.json").write_text('{"sise": [8, 6]}')
    assert error_of(*argv) == message
