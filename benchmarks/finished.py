"""A finished file, compared with the same work in Python: recipe, scores and heat map."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import layertap
from layertap import Preprocessing
from layertap._engine.session import plain_session

from . import models
from .timing import PAUSE, Row, alternate, compare, timed

ROUNDS = 30
SIZE = (1024, 1024)
CLASS = 3

RECIPES = {
    "nearest": {"size": [320, 320], "scaling": {"mode": "standardize", "mean": 143, "std": 67}},
    "bilinear": {"size": [320, 320], "interpolation": "bilinear", "scaling": {"mode": "torch"}},
}


def measure() -> list[Row]:
    """Time one picture in memory, with all sessions prepared."""
    import layertap_export

    generator = np.random.default_rng(0)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "gradients.onnx")
        layertap_export.add_gradients(models.files().onnx, file, models.LATE, seconds=0)
        model = layertap.open(file)
        for name, given in RECIPES.items():
            recipe = Preprocessing.from_dict(given)
            app = Path(folder, f"{name}.onnx")
            layertap_export.finish(file, app, heat_map=models.LATE, preprocess=recipe)
            session = plain_session(app)
            # Grey for the first recipe, as X-rays are; colour for the second.
            channels = 1 if name == "nearest" else 3
            picture = generator.integers(0, 256, (*SIZE, channels), np.uint8)
            rows += _rows(name, session, model, recipe, picture)
    return rows


def _rows(
    name: str, session: Any, model: layertap.Model, recipe: Preprocessing, picture: Any
) -> list[Row]:
    fed = {"image": picture, "target": np.array([CLASS])}
    output = model.outputs[0].name

    def finished() -> Any:
        return session.run(None, fed)

    def in_python() -> Any:
        batch = recipe.batch([picture])
        return model.predict(batch), model.cam(batch, models.LATE, CLASS, resize=SIZE)

    def heat_map_alone() -> Any:
        batch = recipe.batch([picture])
        return model.cam(batch, models.LATE, CLASS, resize=SIZE)

    names = [value.name for value in session.get_outputs()]
    found = dict(zip(names, finished(), strict=True))
    scores, maps = in_python()
    models.check_equal(f"{name}: scores", found[output], scores)
    models.check_equal(f"{name}: heat map", found["heat_map"], maps[0, 0])
    cases = {"ours": finished, "python": in_python, "heat map": heat_map_alone}
    taken = alternate({key: timed(call, PAUSE) for key, call in cases.items()}, ROUNDS, 3)
    peers = {
        "python": ("recipe, predict and cam in Python", 1.05),
        "heat map": ("recipe and cam in Python", None),
    }
    what = f"a finished file, 1024 x 1024, {name}: scores and heat map"
    return compare(what, taken, peers)
