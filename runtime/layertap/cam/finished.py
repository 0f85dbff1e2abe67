"""Heat maps from a finished file, which computes them itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layertap.errors import LayerNotFoundError, UsageError

from . import targets, upsampling
from .methods import find_method
from .scores import classes_last, resolve_target
from .targets import Array, Target, Targets

if TYPE_CHECKING:
    from layertap._engine.program import Program
    from layertap.format.card import Finished


def computed_maps(
    program: Program,
    facts: Finished,
    inputs: Any,
    target: Target,
    resize: bool | Sequence[int],
) -> tuple[Array, Targets, Array]:
    """The heat maps that the file computes for some targets.

    Args:
        facts: what the card says of the finished file.
        inputs: see `Model.cam`; a picture in any size.
        resize: `True` for the size of the picture, or another.

    Returns:
        The maps `(n, targets, h, w)`, float32; the targets; and the scores of all classes.
    """
    output, scores = str(facts.heat_map), str(facts.scores)
    feeds = program.prepare_arrays(program.plan([output, scores]).needs, inputs, None)
    fetch = program.fetch([output, scores])
    values = fetch(feeds)
    by_place = classes_last(program, scores, values[scores])
    found = resolve_target(program, scores, target, by_place)
    if found.classes is None:
        raise UsageError(
            f"{program.name} is a finished file, whose heat map explains one class. Weights of the "
            "classes need the file that it was made from."
        )
    if facts.target is None:  # the same map for every class
        maps = [_in_rows(values[output])] * found.classes.shape[1]
    elif isinstance(target, str) and target == targets.TOP:
        maps = [_in_rows(values[output])]
    else:
        classes = found.classes.T.astype(np.int64)
        runs = (fetch({**feeds, facts.target: column}) for column in classes)
        maps = [_in_rows(run[output]) for run in runs]
    stacked = np.stack(maps, axis=1)
    if resize is not True:
        stacked = upsampling.resize(stacked, list(resize or ()))
    return stacked, found, found.read(by_place)


def _in_rows(maps: Array) -> Array:
    return maps if maps.ndim == 3 else maps[None]


def check_options(
    program: Program,
    facts: Finished,
    layer: Any,
    method: str | None,
    changed: Mapping[str, bool],
) -> None:
    """Check that what is asked for is what the file computes.

    Args:
        layer: the layer that a caller asks for, or `None`.
        method: the method; `None` for that of the file.
        changed: by name of an option, whether its value is not the default.

    Raises:
        UsageError: the file computes another map.
        LayerNotFoundError: it computes the map of another layer.
    """
    if facts.heat_map is None:
        raise UsageError(
            f"{program.name} is a finished file without a heat map. `layertap finish --heat-map "
            "LAYER` writes one with it."
        )
    name = getattr(layer, "name", layer)
    if name is not None and name != facts.layer:
        raise LayerNotFoundError(
            f"{program.name} is a finished file with the heat map of {facts.layer!r}, got layer "
            f"{name!r}."
        )
    if method is not None and find_method(method).name != facts.method:
        raise UsageError(
            f"{program.name} is a finished file with the method {facts.method}, got {method!r}."
        )
    wrong = [option for option, given in changed.items() if given]
    if wrong:
        raise UsageError(
            f"{program.name} is a finished file: it computes its heat map itself, so {wrong[0]}= "
            "has no effect. Use the file that it was made from."
        )
