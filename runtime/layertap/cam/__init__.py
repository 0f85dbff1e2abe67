"""Heat maps and attributions: where in an input the evidence for a class is.

    model.cam("chest.png", layer="conv5_block16_concat", target="Cardiomegaly")

is the short way. `heat_maps` says more of what it computed; `metrics` measures how good a map is.
"""

from __future__ import annotations

from . import metrics
from .heat_maps import HeatMaps, heat_maps
from .methods import METHODS
from .upsampling import resize

__all__ = ["METHODS", "HeatMaps", "heat_maps", "metrics", "resize"]
