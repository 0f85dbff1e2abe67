"""Images become the same inputs as in the Python runtime, bit for bit."""

from __future__ import annotations

import io
import itertools
import json
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from javascript_runtime import Array, Runtime
from layertap import Preprocessing

PREPARE = """
const cases = await json("cases.json")
for (const [i, { file, recipe }] of cases.entries()) {
  const { data, width, height, channels } = await layertap.prepare(recipe, await read(file))
  keep(String(i), { data, dims: [height, width, channels] })
}
"""

Case = tuple[str, Mapping[str, Any]]
"""The name of an image, and a recipe."""


def assert_equal(runtime: Runtime, images: Mapping[str, bytes], cases: Sequence[Case]) -> None:
    """Both runtimes make the same pixels of images; Chromium, which has node's engine, of some."""
    cases = cases if runtime.name == "node" else cases[::5]
    listed = [{"file": name, "recipe": recipe} for name, recipe in cases]
    done = runtime.run(PREPARE, files={**images, "cases.json": json.dumps(listed).encode()})
    wrong = {}
    for at, (name, recipe) in enumerate(cases):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = Preprocessing.from_dict(recipe)(images[name])
        found = done.arrays[str(at)]
        if found.shape != expected.shape:
            wrong[name, str(recipe)] = f"{found.shape} instead of {expected.shape}"
        elif not np.array_equal(found.view(np.uint32), expected.view(np.uint32)):
            differ = found != expected
            wrong[name, str(recipe)] = (
                f"{differ.sum()} of {differ.size}, by up to {np.abs(found - expected).max()}"
            )
    assert not wrong, "\n".join(f"{key}: {text}" for key, text in wrong.items())


def encoded(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def png(
    pixels: Array, depth: int, kind: int, *chunks: tuple[bytes, bytes], interlaced: bool = False
) -> bytes:
    """A PNG file with every filter, written here: Pillow cannot write some of these.

    Args:
        pixels: `(h, w)` or `(h, w, samples)`, samples of `depth` bits.
        depth: bits of a sample.
        kind: the colour type.
        chunks: more chunks, to stand before the pixels.
        interlaced: whether in seven passes (Adam7).
    """
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    height, width, samples = pixels.shape
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
    parts = [*passes, (0, 1, 1, 2)] if interlaced else [(0, 0, 1, 1)]
    raw = b""
    for x, y, dx, dy in parts:
        part = pixels[y::dy, x::dx]
        if not part.size:
            continue
        if depth == 16:
            rows = part.astype(">u2").reshape(len(part), -1).view(np.uint8)
        else:
            flat = part.reshape(len(part), -1, 1).astype(np.uint8)
            bits = np.unpackbits(flat, axis=2)[:, :, 8 - depth :]
            rows = np.packbits(bits.reshape(len(part), -1), axis=1)
        raw += filtered(rows.astype(np.uint8), max(1, samples * depth // 8))
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced))
    listed = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in listed
    )


def filtered(rows: Array, bpp: int) -> bytes:
    """Rows with the filters 0 to 4 in turn."""
    out, above = b"", np.zeros(rows.shape[1], np.int64)
    for at, row in enumerate(rows.astype(np.int64)):
        kind = at % 5
        left = np.concatenate([np.zeros(bpp, np.int64), row])[: len(row)]
        corner = np.concatenate([np.zeros(bpp, np.int64), above])[: len(row)]
        estimate = left + above - corner
        distances = np.abs(np.stack([estimate - left, estimate - above, estimate - corner]))
        paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
        guess = [0, left, above, (left + above) // 2, paeth][kind]
        out += bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes()
        above = row
    return out


def numbers(shape: Sequence[int], bits: int, seed: int = 0) -> Array:
    """Noise and ramps with hard edges, where filters overshoot."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 2**bits, shape)
    noise[: shape[0] // 2] = np.where(noise[: shape[0] // 2] % 3 == 0, 2**bits - 1, 0)
    return noise.astype(np.uint16 if bits > 8 else np.uint8)


def every_kind(height: int = 23, width: int = 31) -> Iterator[tuple[str, bytes]]:
    """PNG files of every colour type and depth, with and without interlacing and transparency."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    generator = np.random.default_rng(1)
    for kind, bits in depths.items():
        for depth, interlaced in itertools.product(bits, (False, True)):
            pixels = numbers((height, width, samples[kind]), depth, kind + depth)
            palette = generator.integers(0, 256, 3 * 2**depth, dtype=np.uint8).tobytes()
            plain = [(b"PLTE", palette)] if kind == 3 else []
            name = f"type{kind}_{depth}bits{'_interlaced' * interlaced}"
            yield name, png(pixels, depth, kind, *plain, interlaced=interlaced)
            if kind == 3:
                some = generator.integers(0, 256, 2**depth - 1, dtype=np.uint8).tobytes()
                yield f"{name}_alpha", png(pixels, depth, kind, *plain, (b"tRNS", some))
                one = bytes([255] * (2**depth - 1) + [0])
                yield f"{name}_one", png(pixels, depth, kind, *plain, (b"tRNS", one))
            elif kind in (0, 2):
                key = pixels.reshape(-1, samples[kind])[5].astype(">u2").tobytes()
                yield f"{name}_key", png(pixels, depth, kind, (b"tRNS", key))
    short = (b"PLTE", generator.integers(0, 256, 3 * 100, dtype=np.uint8).tobytes())
    yield "short_palette", png(numbers((height, width), 8), 8, 3, short)
    rgb = Image.fromarray(numbers((height, width, 3), 8))
    yield "gamma_and_profile", encoded(rgb, icc_profile=b"profile" * 20, gamma=0.3)
    animation = io.BytesIO()
    frames = [Image.fromarray(numbers((height, width, 3), 8, seed)) for seed in (3, 4)]
    frames[0].save(animation, "PNG", save_all=True, append_images=frames[1:])
    yield "animation", animation.getvalue()


MODES = ("rgb", "rgba", "grayscale")
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


def test_every_kind_of_png_in_every_colour_mode(runtime: Runtime) -> None:
    images = dict(every_kind())
    recipes: list[dict[str, Any]] = [
        {"color_mode": mode, "depth": depth, "size": size, "interpolation": "bicubic"}
        for mode in MODES
        for depth in ("clip", "scale")
        for size in (None, [17, 40])
    ]
    assert len(images) > 35
    assert_equal(runtime, images, [(name, recipe) for name in images for recipe in recipes])


SIZES = ([1, 1], [7, 5], [64, 20], [20, 64], [41, 53], [100, 130])
FITS: tuple[dict[str, Any], ...] = (
    {},
    {"keep_aspect_ratio": True},
    {"shorter_side": 9},
    {"shorter_side": 70},
)


def test_every_filter_and_size_in_every_kind_of_pixels(runtime: Runtime) -> None:
    shapes = {"rgb": (41, 53, 3), "rgba": (41, 53, 4), "grey": (53, 41), "one": (1, 1, 3)}
    images = {name: encoded(Image.fromarray(numbers(shape, 8))) for name, shape in shapes.items()}
    images["deep"] = png(numbers((41, 53), 16), 16, 0)
    modes = {"rgb": "rgb", "rgba": "rgba", "grey": "rgb", "one": "rgb", "deep": "grayscale"}
    cases = []
    for (name, mode), kind, size, fit in itertools.product(modes.items(), FILTERS, SIZES, FITS):
        for depth in ("clip", "scale") if name == "deep" else ("clip",):
            recipe = {"color_mode": mode, "interpolation": kind, "size": size, "depth": depth}
            cases.append((name, {**recipe, **fit}))
    assert_equal(runtime, images, cases)


SCALINGS: tuple[dict[str, Any], ...] = (
    {"mode": "standardize", "mean": 142.95, "std": 67.39},
    {"mode": "standardize", "mean": [123.7, 0.1, -3.3], "std": [58.4, 57.1, 3e-5]},
    {"mode": "samplewise"},
    {"mode": "samplewise", "epsilon": 0.1},
    {"mode": "rescale", "scale": 1 / 255},
    {"mode": "rescale", "scale": [1 / 127.5, 0.3, 7.7], "offset": -1},
    {"mode": "rescale", "scale": 0.017, "offset": [0.1, -0.2, 1e-3]},
    {"mode": "tf"},
    {"mode": "torch"},
    {"mode": "caffe"},
)


@pytest.mark.parametrize("size", [None, [1, 2], [13, 7], [64, 80]])
def test_every_scaling(node: Runtime, size: list[int] | None) -> None:
    images = {"image": encoded(Image.fromarray(numbers((50, 37, 3), 8)))}
    recipes = [{"scaling": scaling, "size": size} for scaling in SCALINGS]
    assert_equal(node, images, [("image", recipe) for recipe in recipes])
