"""Selecting layers by name, glob, `re:` pattern, index, slice or class."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from layertap.errors import LayerNotFoundError, UsageError, suggest

from .attention_rows import ATTENTION, SCORES_NAME, attention_scores, without_scores
from .layer import Layer
from .text import number_of

Selector: TypeAlias = str | int | slice | Layer
"""A layer's exact name, a glob (`conv5_*`), `re:PATTERN` (full match), an index (negative indices
count from the end), a slice of indices, a `Layer`; or the words `all` and `attention`, unless a
layer has this name.

Scores of attention are large, so only what names them selects them: their name or index, the word
`attention`, their class, or a pattern that contains `attention_scores`."""

ALL = "all"
"""Selects every layer that the file exposes, without the scores of attention."""

Ways: TypeAlias = Callable[[], Mapping[str, str]]
"""Gives, by name of an output that may be no layer, how to get it; called for an error only."""

LAST = "last-conv"
"""The word of heat maps and gradients for the last layer with feature maps, unless a layer has this
name."""


def select(
    layers: Sequence[Layer],
    selector: Selector | Iterable[Selector] | None = None,
    type: str | Iterable[str] | None = None,  # noqa: A002 - the term that Keras users know
    outputs: Ways = dict,
) -> list[Layer]:
    """The layers that match `selector` and have one of the classes in `type`.

    Args:
        layers: all layers of the model, in order.
        selector: one selector or several; `None` selects all exposed layers. Patterns, slices and
            `None` skip layers that the file does not expose, and scores of attention.
        type: Keras class name or names, for example `Conv2D`; with `AttentionScores`, patterns and
            `None` do not skip them.
        outputs: gives the outputs that may be no layers, for the error.

    Returns:
        Each layer once, in the order of the selectors, and within a pattern in the model's order.

    Raises:
        LayerNotFoundError: a name, index, pattern or class matches no layer, or the file does not
            expose the layer.
        UsageError: a selector has an invalid type, for example float.
    """
    exposed = [layer for layer in layers if layer.tensor is not None]
    scores = type is not None  # which leaves out those that it does not name
    if selector is None:
        selected = exposed if scores else _ordinary(exposed)
    else:
        found = [
            layer for one in _as_list(selector) for layer in _matching(layers, one, outputs, scores)
        ]
        selected = list({layer.name: layer for layer in found}.values())
    return selected if type is None else _of_type(exposed, selected, _class_names(type))


def _ordinary(layers: Sequence[Layer]) -> list[Layer]:
    """The layers without the scores of attention."""
    return [layer for layer in layers if layer.attention is None]


def only(layers: Sequence[Layer], selector: str | int | Layer, outputs: Ways = dict) -> Layer:
    """The exposed layer with this exact name or index. `outputs` are those of `select`.

    Raises:
        LayerNotFoundError: no layer has this name or index, or the file does not expose it.
        UsageError: the selector is not a name, an index or a `Layer`.
    """
    if isinstance(selector, Layer):
        selector = selector.name
    if is_integer(selector):
        return _exposed(layers, _at(layers, int(selector)))
    if not isinstance(selector, str):
        raise _invalid(selector)
    return _exposed(layers, _named(layers, selector, outputs))


def is_single(layers: Sequence[Layer], selector: object) -> bool:
    """Whether `selector` is the name or index of exactly one layer; false for a list."""
    if isinstance(selector, str):
        return not (_is_pattern(layers, selector) or _word(layers, selector))
    return isinstance(selector, Layer) or is_integer(selector)


def parse_selector(text: str, layers: Sequence[Layer]) -> Selector:
    """Parse a selector from the command line: `-1`, `424` and `10:20` are indices and slices.

    If a layer has exactly this name, or is the tensor of this name, the text is a name.
    """
    if any(text in (layer.name, layer.tensor) for layer in layers):
        return text
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if re.fullmatch(r"(-?\d+)?:(-?\d+)?(:-?\d*)?", text):
        parts = [int(part) if part else None for part in text.split(":")]
        if len(parts) == 3 and parts[2] == 0:
            raise UsageError(f"the step of the slice {text!r} must not be 0.")
        return slice(*parts)
    return text


def _as_list(value: Any) -> list[Any]:
    """The items of an iterable; a list of one item for a string or another value."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return [value]
    try:
        return list(value)
    except TypeError:  # a numpy array without axes
        return [value]


def as_selectors(value: Any) -> Any:
    """One selector, `None` or a dict as it is; the items of any other iterable as a list.

    Raises:
        UsageError: the value is none of these, for example a float or a truth value.
    """
    if value is None or isinstance(value, (str, slice, Layer, Mapping)) or is_integer(value):
        return value
    if isinstance(value, (bytes, bool)) or not isinstance(value, Iterable):
        raise _invalid(value)
    try:
        return list(value)
    except TypeError as exc:  # a numpy array without axes
        raise _invalid(value) from exc


def _invalid(selector: object) -> UsageError:
    hint = " Truth values are no indices: give 0 or 1." if isinstance(selector, bool) else ""
    return UsageError(
        f"cannot select a layer by {selector!r}: give a name, a pattern, an index or a slice.{hint}"
    )


def is_integer(value: object) -> bool:
    """Whether it is an `int` or a numpy integer. A truth value is not an index."""
    if isinstance(value, int):
        return not isinstance(value, bool)
    from numbers import Integral

    return isinstance(value, Integral)


def _class_names(value: Any) -> list[str]:
    names = _as_list(value)
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"type must be a class name such as 'Conv2D', got {name!r}.")
    return names


def _matching(
    layers: Sequence[Layer], selector: Selector, outputs: Ways, scores: bool
) -> list[Layer]:
    """
    Args:
        scores: whether `all` and patterns include scores of attention.
    """
    if isinstance(selector, slice):
        return _sliced(_ordinary(layers), selector)
    if isinstance(selector, str) and _word(layers, selector) == ALL:
        return [one for one in (layers if scores else _ordinary(layers)) if one.exposed]
    if isinstance(selector, str) and _word(layers, selector) == ATTENTION:
        return attention_scores(layers)
    if isinstance(selector, str) and _is_pattern(layers, selector):
        return _by_pattern(layers, selector, scores or SCORES_NAME in selector)
    return [only(layers, selector, outputs)]


def _word(layers: Sequence[Layer], text: str) -> str | None:
    """The text if it is one of the words, and not the name of a layer."""
    found = text in (ALL, ATTENTION) and not any(layer.name == text for layer in layers)
    return text if found else None


def _sliced(layers: Sequence[Layer], selector: slice) -> list[Layer]:
    text = _slice_text(selector)
    if any(isinstance(part, bool) for part in (selector.start, selector.stop, selector.step)):
        raise UsageError(f"the slice {text} is invalid: its parts must be integers or None.")
    try:
        inside = layers[selector]
    except (TypeError, ValueError) as exc:
        raise UsageError(f"the slice {text} is invalid: {exc}.") from exc
    found = [layer for layer in inside if layer.exposed]
    if inside and not found:
        raise LayerNotFoundError(f"this file exposes no layer in the slice {text}.")
    if not inside:
        raise LayerNotFoundError(
            f"the slice {text} selects no layer; the model has {number_of(len(layers), 'layer')}."
        )
    return found


def _is_pattern(layers: Sequence[Layer], text: str) -> bool:
    """Whether the text is a glob or `re:` pattern; the name of a layer is never a pattern."""
    has_syntax = text.startswith("re:") or any(character in text for character in "*?[")
    return has_syntax and not any(text in (layer.name, layer.tensor) for layer in layers)


def _by_pattern(layers: Sequence[Layer], pattern: str, scores: bool) -> list[Layer]:
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
    if not scores:
        skipped, matching = matching, _ordinary(matching)
        if skipped and not matching:
            raise LayerNotFoundError(
                f"the pattern {pattern!r} only matches scores of attention, which patterns skip "
                f"because they are large. Select them by the word {ATTENTION!r} or by their names, "
                f"such as {skipped[0].name!r}."
            )
    found = [layer for layer in matching if layer.exposed]
    if matching and not found:
        raise LayerNotFoundError(
            f"the pattern {pattern!r} only matches layers that this file does not expose. "
            f"The layer {_withheld(layers, matching[0])}"
        )
    if not found:
        exposed = [layer.name for layer in layers if layer.exposed]
        near = suggest(pattern.removeprefix("re:").strip("*?[]^$."), exposed)
        raise LayerNotFoundError(
            f"the pattern {pattern!r} matches no layer; the file exposes "
            f"{number_of(len(exposed), 'layer')}.{near}"
        )
    return found


def _of_type(exposed: list[Layer], selected: list[Layer], types: list[str]) -> list[Layer]:
    known = sorted({layer.type for layer in exposed})
    for name in types:
        if name not in known:
            raise LayerNotFoundError(
                f"no exposed layer has the class {name!r}.{suggest(name, known)} "
                f"The classes are {', '.join(known)}."
            )
    found = [layer for layer in selected if layer.type in types]
    if not found:
        raise LayerNotFoundError(f"no selected layer has the class {' or '.join(types)}.")
    return found


def _at(layers: Sequence[Layer], index: int) -> Layer:
    """The layer at an index. Negative ones count as in Keras, which has no scores of attention."""
    counted = _ordinary(layers) if index < 0 else layers
    try:
        return counted[index]
    except IndexError:
        count = number_of(len(layers), "layer")
        indices = f"{count}, 0 to {len(layers) - 1} or -{len(_ordinary(layers))} to -1"
        raise LayerNotFoundError(
            f"layer index {index} is out of range: the model has "
            f"{indices if layers else 'no layers'}."
        ) from None


def _named(layers: Sequence[Layer], name: str, outputs: Ways) -> Layer:
    for layer in layers:
        if layer.name == name:
            return layer
    ways = outputs()
    if name in ways:
        raise LayerNotFoundError(f"{name!r} is an output of the file, not a layer. {ways[name]}")
    for layer in layers:  # the modules of a file from PyTorch also have the names of their tensors
        if layer.tensor == name:
            return layer
    if why := without_scores(layers, name):
        raise LayerNotFoundError(f"no layer is called {name!r}: {why}")
    exposed = [layer.name for layer in layers if layer.exposed]
    near = suggest(name, exposed)
    raise LayerNotFoundError(
        f"no layer is called {name!r}; the file exposes {number_of(len(exposed), 'layer')}.{near} "
        "`layertap layers FILE` lists them."
    )


def _exposed(layers: Sequence[Layer], layer: Layer) -> Layer:
    if layer.tensor is None:
        raise LayerNotFoundError(f"the layer {_withheld(layers, layer)}")
    return layer


def _withheld(layers: Sequence[Layer], layer: Layer) -> str:
    """The reason why a layer is not exposed, and what to do."""
    if layer.why_not:
        return f"{layer.name!r} is not available: {layer.why_not}.{_hint(layers, layer)}"
    return (
        f"{layer.name!r} is in the model, but this file does not expose it. "
        "Export the model again with this layer in --layers, or with all layers."
    )


def _hint(layers: Sequence[Layer], layer: Layer) -> str:
    """A hint to the nearest enclosing layer that an export can expose, if there is one."""
    by_name = {item.name: item for item in layers}
    enclosing = by_name.get(layer.parent or "")
    while enclosing is not None and enclosing.why_not:
        enclosing = by_name.get(enclosing.parent or "")
    return f" Request {enclosing.name!r}, which contains it." if enclosing else ""


def _slice_text(selector: slice) -> str:
    parts = [selector.start, selector.stop]
    if selector.step is not None:
        parts.append(selector.step)
    return repr(":".join("" if part is None else str(part) for part in parts))
