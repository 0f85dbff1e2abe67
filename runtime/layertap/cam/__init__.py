"""Heat maps and attributions: which parts of an input the score of a class depends on.

    model.cam("chest.png", layer="conv5_block16_concat", target="Cardiomegaly")

is the short form. `heat_maps` also returns the classes and their scores; `metrics` measures the
quality of a map.
"""

from __future__ import annotations

from . import metrics
from .heat_maps import HeatMaps, heat_maps
from .methods import METHODS
from .upsampling import resize

__all__ = ["METHODS", "HeatMaps", "heat_maps", "metrics", "resize"]
