"""What a user asks for of a collection: layers, reductions, gradients and heat maps.

`grad:LAYER` is a gradient and `cam:CLASS` a heat map, unless a layer has this name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from layertap._cut.reductions import check_name
from layertap._engine.program import Program
from layertap.cam import available
from layertap.cam.gradients import choose
from layertap.cam.methods import find_method
from layertap.errors import UsageError
from layertap.format.layer import Layer
from layertap.format.select import as_selectors, parse_selector
from layertap.format.text import class_text

GRADIENT, HEAT_MAP = "grad:", "cam:"
"""What the names of gradients and heat maps begin with."""


class Asked(NamedTuple):
    """One thing that is asked for."""

    kind: str
    """`layer`, `gradient` or `cam`."""
    name: Any
    """The name of the layer; of a heat map the class, by label or index."""
    how: Any
    """The reduction or `None`; the target of a gradient; the method of a heat map."""


def what_is_asked(program: Program, asked: Any) -> list[Asked]:
    """What is asked for, each once, in order."""
    found: list[Asked] = []
    if isinstance(asked, Mapping):
        for selector, hows in asked.items():
            for how in hows if isinstance(hows, (list, tuple)) and hows else [hows]:
                found += _matching(program, selector, how, split=False)
        if not found:
            raise UsageError("the dict of reductions is empty.")
    else:
        selectors = as_selectors(asked)
        for selector in selectors if isinstance(selectors, list) else [selectors]:
            found += _matching(program, selector, None, split=True)
        if not found:
            raise UsageError("no layers are given.")
    return list({repr(one): one for one in found}.values())


def _matching(program: Program, selector: Any, how: Any, *, split: bool) -> list[Asked]:
    """What one selector, with its reduction, asks for.

    Args:
        split: whether a text may contain the reduction.
    """
    known = any(layer.name == selector for layer in program.layers)
    if isinstance(selector, str) and not known:
        for prefix, kind in ((GRADIENT, "gradient"), (HEAT_MAP, "cam")):
            if selector.startswith(prefix):
                name = selector.removeprefix(prefix)
                if split and how is None:
                    name, how = _split_special(program, kind, name)
                return _special(program, kind, name, how)
        if split:
            selector, how = split_reduction(program.layers, selector)
    if how is not None:
        how = check_name(how)
    return [Asked("layer", layer.name, how) for layer in program.select(selector)]


def split_reduction(layers: Sequence[Layer], text: str) -> tuple[Any, str | None]:
    """A selector and a reduction, from a text such as `bn=mean`, `-1` or `conv5_*=max`.

    The exact name of a layer is no reduction; otherwise the text is split at the last `=`, if a
    reduction follows.

    Raises:
        UsageError: what follows looks like a reduction and is none.
    """
    selector, equals, how = text.rpartition("=")
    if not equals or any(layer.name == text for layer in layers):
        return parse_selector(text, layers), None
    try:
        return parse_selector(selector, layers), check_name(how)
    except UsageError:
        if any(layer.name == selector for layer in layers):
            raise
    return parse_selector(text, layers), None


def _split_special(program: Program, kind: str, name: str) -> tuple[str, Any]:
    """The name, and the target or method that follows it."""
    gradients = available.find(program)
    known = gradients.tensors if gradients and kind == "gradient" else (program.labels or ())
    if name in known or "=" not in name:
        return name, None
    first, _, rest = name.rpartition("=")
    return first, rest


def _special(program: Program, kind: str, name: str, how: Any) -> list[Asked]:
    """A gradient, or a heat map."""
    if kind == "cam":
        method = "gradcam" if how is None else how
        if not isinstance(method, str):
            raise UsageError(f"the method of {HEAT_MAP}{name} must be a name, got {how!r}.")
        return [Asked("cam", _class_of(program, name), find_method(method).name)]
    gradients = available.require(program)
    selector = parse_selector(name, program.layers)
    target = "top" if how is None else _class_of(program, how)
    return [Asked("gradient", found, target) for found in choose(program, gradients, selector)]


def _class_of(program: Program, target: Any) -> Any:
    """A class by its label or index; a number is an index unless it is a label."""
    if isinstance(target, str):
        if target not in (program.labels or ()) and re.fullmatch(r"-?\d+", target):
            return int(target)
        return target
    if isinstance(target, (int, np.integer)) and not isinstance(target, bool):
        return int(target)
    raise UsageError(
        f"a column is for one class: give its label or index, or 'top', got {class_text(target)}."
    )
