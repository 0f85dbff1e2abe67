"""Pages for the browser: making one beside the runs themselves, and a live one in Chromium."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import layertap
from layertap._engine.program import Fetch
from layertap.errors import DependencyError
from layertap.view.engine import find_engine

from . import models
from .timing import Row

IMAGES = 10
ROUNDS = 5
RECIPE = {"size": [320, 320], "scaling": {"mode": "rescale", "scale": 1 / 255}}


def measure() -> list[Row]:
    """The default page of ten images; and a live page, where there is an engine for it."""
    with tempfile.TemporaryDirectory() as folder:
        images = _pictures(Path(folder))
        return [*_made(images, Path(folder)), *_live(images[:1], Path(folder))]


def _pictures(folder: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = [folder / f"{at}.png" for at in range(IMAGES)]
    for path in paths:
        coarse = generator.integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(coarse).resize((512, 512), Image.Resampling.BICUBIC).save(path)
    return paths


def _made(images: list[Path], folder: Path) -> list[Row]:
    """Making a page, from the images to the file, beside the time inside onnxruntime."""
    model, inside, whole = layertap.open(models.files().onnx), [], []
    run, spent = Fetch.__call__, [0.0]

    def timed(fetch: Fetch, feeds: Mapping[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        values = run(fetch, feeds)
        spent[0] += time.perf_counter() - start
        return values

    setattr(Fetch, "__call__", timed)  # noqa: B010 - mypy does not allow the assignment
    try:
        for number in range(ROUNDS + 1):
            spent[0], start = 0.0, time.perf_counter()
            model.view(images, folder / "page.html", preprocess=RECIPE)
            if number:  # the first makes the sessions
                whole.append(time.perf_counter() - start)
                inside.append(spent[0])
    finally:
        setattr(Fetch, "__call__", run)  # noqa: B010
    size = (folder / "page.html").stat().st_size / 1e6
    return [
        Row(
            what=f"layertap view of {IMAGES} images",
            peer="the runs themselves",
            unit="s",
            ours=tuple(whole),
            theirs=tuple(inside),
            most=2.0,
        ),
        Row(
            what=f"the page of {IMAGES} images",
            peer="10 MB",
            unit="MB",
            ours=(size,),
            theirs=(10.0,),
            most=1.0,
        ),
    ]


SHOW = """(async () => {
  layertap.state.view = "layer"
  layertap.state.layer = layertap.page.layers.findIndex((layer) => layer.name === %r)
  const start = performance.now()
  await layertap.show()
  return performance.now() - start
})()"""


def _live(images: list[Path], folder: Path) -> list[Row]:
    """From the start of loading until the model is ready, and from the click to the maps."""
    sys.path.append(str(models.REPOSITORY / "tests"))
    from browser import NAMES, chromium

    try:
        find_engine(None)
    except DependencyError as exc:
        print(f"a live page is not measured: {exc}", file=sys.stderr)
        return []
    if not any(map(shutil.which, NAMES)):
        print("a live page is not measured: there is no Chromium", file=sys.stderr)
        return []
    page = folder / "live.html"
    layertap.open(models.files().onnx).view(images, page, live=True, preprocess=RECIPE)
    ready, shown = [], []
    for _ in range(ROUNDS):
        with chromium() as tab:
            tab.open(page, "#view=file")
            tab.wait_until("globalThis.layertap?.readyAt", 60)
            ready.append(tab.run("layertap.readyAt") / 1000)
            time.sleep(1)
            shown.append(tab.run(SHOW % models.EARLY) / 1000)
    return [
        Row(
            what=f"a live page of the chest model, {what}",
            peer="the target",
            unit="s",
            ours=tuple(ours),
            theirs=(most,) * len(ours),
            most_ours=most,
        )
        for what, ours, most in (
            ("until it is ready", ready, 2.0),
            (f"the first click, {models.EARLY}", shown, 0.2),
        )
    ]
