"""Choosing layers: by name, glob, `re:` pattern, index, slice or class."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from layertap.errors import LayerNotFoundError, UsageError, suggest

from .layer import Layer

TYPE_CHECKING = False  # see _record.py: the table of layers is to be quick
if TYPE_CHECKING:
    from typing import Any, TypeAlias

Selector: TypeAlias = str | int | slice | Layer
"""A layer's exact name, a glob (`conv5_*`), `re:PATTERN` (full match), an index (negative counts
from the end), a slice of indices, or a `Layer`."""


def select(
    layers: Sequence[Layer],
    what: Selector | Iterable[Selector] | None = None,
    type: str | Iterable[str] | None = None,  # noqa: A002 - the word that users know from Keras
) -> list[Layer]:
    """The layers that `what` names and whose class is one of `type`.

    Args:
        layers: all layers of the model, in order.
        what: one selector or several; `None` takes all exposed layers. Patterns, slices and
            `None` pass over layers that the file does not expose.
        type: Keras class name or names, for example `Conv2D`.

    Returns:
        Each layer once, in the order asked for, and within a pattern in the model's order.

    Raises:
        LayerNotFoundError: a name, index, pattern or class that matches nothing, or a layer that
            the file does not expose.
        UsageError: something that cannot choose a layer, a float for one.
    """
    exposed = [layer for layer in layers if layer.tensor is not None]
    if what is None:
        chosen = exposed
    else:
        found = [layer for one in _several(what) for layer in _matching(layers, exposed, one)]
        chosen = list({layer.name: layer for layer in found}.values())
    if type is not None:
        chosen = _of_type(exposed, chosen, _class_names(type))
    return chosen


def only(layers: Sequence[Layer], what: str | int | Layer) -> Layer:
    """The one exposed layer with this exact name or index.

    Raises:
        LayerNotFoundError: there is none, or the file does not expose it.
        UsageError: it is neither a name, an index nor a `Layer`.
    """
    if isinstance(what, Layer):
        what = what.name
    if _is_whole(what):
        return _exposed(layers, _at(layers, int(what)))
    if not isinstance(what, str):
        raise _no_selector(what)
    return _exposed(layers, _named(layers, what))


def is_single(layers: Sequence[Layer], what: object) -> bool:
    """Whether `what` asks for exactly one layer by its name or index, and not for a list."""
    if isinstance(what, str):
        return not _is_pattern(layers, what)
    return isinstance(what, Layer) or _is_whole(what)


def parse_selector(text: str, layers: Sequence[Layer]) -> Selector:
    """A selector as typed in a shell: `-1`, `424` and `10:20` become indices and slices.

    A layer of that very name comes first.
    """
    if any(layer.name == text for layer in layers):
        return text
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if re.fullmatch(r"(-?\d+)?:(-?\d+)?(:-?\d*)?", text):
        parts = [int(part) if part else None for part in text.split(":")]
        if len(parts) == 3 and parts[2] == 0:
            raise UsageError(f"the slice {text!r} has a step of 0. Give another, or leave it out.")
        return slice(*parts)
    return text


def _several(what: Any) -> list[Any]:
    """What a list lists; what is none, alone."""
    alone = isinstance(what, (str, bytes)) or not isinstance(what, Iterable)
    return [what] if alone else list(what)


def _is_whole(value: object) -> bool:
    """Whether it is a whole number: an `int`, or one of numpy's."""
    if isinstance(value, int):
        return True
    from numbers import Integral

    return isinstance(value, Integral)


def _no_selector(what: object) -> UsageError:
    return UsageError(
        f"a layer is chosen by its name, a pattern, an index or a slice, not by {what!r}."
    )


def _class_names(given: Any) -> list[str]:
    names = _several(given)
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"a class is given by its name, as in type='Conv2D', not as {name!r}.")
    return names


def _matching(layers: Sequence[Layer], exposed: list[Layer], what: Selector) -> list[Layer]:
    if isinstance(what, slice):
        return _sliced(layers, what)
    if isinstance(what, str) and _is_pattern(layers, what):
        return _by_pattern(layers, what)
    return [only(layers, what)]


def _sliced(layers: Sequence[Layer], what: slice) -> list[Layer]:
    try:
        inside = layers[what]
    except (TypeError, ValueError) as exc:
        raise UsageError(f"the slice {_slice_text(what)} makes no sense: {exc}.") from exc
    found = [layer for layer in inside if layer.exposed]
    if inside and not found:
        raise LayerNotFoundError(f"this file exposes no layer of the slice {_slice_text(what)}.")
    if not inside:
        raise LayerNotFoundError(
            f"the slice {_slice_text(what)} takes none of the {len(layers)} layers."
        )
    return found


def _is_pattern(layers: Sequence[Layer], text: str) -> bool:
    """A layer's own name is never taken for a pattern, whatever signs it holds."""
    looks_like_one = text.startswith("re:") or any(sign in text for sign in "*?[")
    return looks_like_one and not any(layer.name == text for layer in layers)


def _by_pattern(layers: Sequence[Layer], pattern: str) -> list[Layer]:
    if pattern.startswith("re:"):
        try:
            regex = re.compile(pattern[3:])
        except re.error as exc:
            raise LayerNotFoundError(
                f"the pattern {pattern!r} is not a regular expression: {exc}."
            ) from exc
        matching = [layer for layer in layers if regex.fullmatch(layer.name)]
    else:
        import fnmatch

        matching = [layer for layer in layers if fnmatch.fnmatchcase(layer.name, pattern)]
    found = [layer for layer in matching if layer.exposed]
    if matching and not found:
        raise LayerNotFoundError(
            f"the pattern {pattern!r} matches nothing that this file exposes. "
            f"The layer {_withheld(layers, matching[0])}"
        )
    if not found:
        exposed = [layer.name for layer in layers if layer.exposed]
        near = suggest(pattern.removeprefix("re:").strip("*?[]^$."), exposed)
        raise LayerNotFoundError(
            f"the pattern {pattern!r} matches none of the {len(exposed)} exposed layers.{near}"
        )
    return found


def _of_type(exposed: list[Layer], chosen: list[Layer], types: list[str]) -> list[Layer]:
    known = sorted({layer.type for layer in exposed})
    for name in types:
        if name not in known:
            raise LayerNotFoundError(
                f"no exposed layer has the class {name!r}.{suggest(name, known)} "
                f"The classes are {', '.join(known)}."
            )
    found = [layer for layer in chosen if layer.type in types]
    if not found:
        raise LayerNotFoundError(f"no layer chosen by name has the class {' or '.join(types)}.")
    return found


def _at(layers: Sequence[Layer], index: int) -> Layer:
    try:
        return layers[index]
    except IndexError:
        there_are = f"{len(layers)} layers, 0 to {len(layers) - 1} or -{len(layers)} to -1"
        raise LayerNotFoundError(
            f"there is no layer {index}: the model has {there_are if layers else 'no layers'}."
        ) from None


def _named(layers: Sequence[Layer], name: str) -> Layer:
    for layer in layers:
        if layer.name == name:
            return layer
    exposed = [layer.name for layer in layers if layer.exposed]
    near = suggest(name, exposed)
    raise LayerNotFoundError(
        f"no layer is called {name!r}; the file exposes {len(exposed)} layers.{near} "
        "`layertap layers FILE` lists them."
    )


def _exposed(layers: Sequence[Layer], layer: Layer) -> Layer:
    if layer.tensor is None:
        raise LayerNotFoundError(f"the layer {_withheld(layers, layer)}")
    return layer


def _withheld(layers: Sequence[Layer], layer: Layer) -> str:
    """Why a layer is not exposed, and what to do."""
    if layer.why_not:
        return f"{layer.name!r} cannot be had: {layer.why_not}.{_instead(layers, layer)}"
    return (
        f"{layer.name!r} is in the model, but this file does not expose it. "
        "Export the model again with this layer among --layers, or with all."
    )


def _instead(layers: Sequence[Layer], layer: Layer) -> str:
    """The nearest layer around this one that can be had, as a hint."""
    rows = {row.name: row for row in layers}
    around = rows.get(layer.parent or "")
    while around is not None and around.why_not:
        around = rows.get(around.parent or "")
    return f" Ask for {around.name!r}, the layer around it." if around else ""


def _slice_text(what: slice) -> str:
    parts = [what.start, what.stop] + ([what.step] if what.step is not None else [])
    return repr(":".join("" if part is None else str(part) for part in parts))
