"""Which layers get a gradient: names, globs, `re:` patterns, indices, and three words of their own.

`all` are all layers that the file exposes and that the score depends on, `input` the model's
inputs, and `last-conv` the layer that Grad-CAM usually explains: the last feature maps with the
spatial size of the last convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import onnx

from layertap.errors import LayerNotFoundError, UsageError, suggest
from layertap.format.attention_rows import last_tokens
from layertap.format.layer import Layer
from layertap.format.select import ALL, LAST, Selector, parse_selector, select
from layertap_export.graph.graph import bodies, leading_to, makers
from layertap_export.graph.operators import is_kind, is_view
from layertap_export.graph.shapes.shapes import Shapes
from layertap_export.graph.shapes.sizes import Free, Size

INPUT = "input"


def listed(asked: Selector | Iterable[Selector] | None) -> list[Selector]:
    """The selectors, as a list: of none for `None` and `False`, of `all` for `True`.

    Raises:
        UsageError: a selector is neither a name, an index, a slice nor a layer.
    """
    if asked is None or isinstance(asked, (bool, np.bool_)):
        return [ALL] if asked else []
    selects = isinstance(asked, (str, Integral, slice, Layer, Iterable))
    if not selects or isinstance(asked, (bytes, bytearray)):
        raise UsageError(_not_a_selector(asked))
    alone = isinstance(asked, (str, Integral, slice, Layer))
    try:
        found: list[Any] = [asked] if alone else list(asked)  # type: ignore[arg-type]
    except TypeError as exc:  # a numpy array without axes
        raise UsageError(_not_a_selector(asked)) from exc
    for one in found:
        if isinstance(one, (bool, np.bool_)) or not isinstance(one, (str, Integral, slice, Layer)):
            raise UsageError(_not_a_selector(one))
    return [int(one) if isinstance(one, Integral) else one for one in found]


def _not_a_selector(given: object) -> str:
    return (
        f"cannot select layers for gradients by {given!r}: give names, patterns, indices or "
        f"slices, or one of the words {ALL!r}, {INPUT!r} and {LAST!r}."
    )


def named_layers(
    asked: Sequence[Selector],
    layers: Sequence[Layer],
    suits: Callable[[Layer], bool] = lambda layer: True,
) -> list[Layer]:
    """The layers that are selected by name, pattern, index or slice.

    Args:
        asked: the selectors; the three words are left out.
        layers: the model's.
        suits: whether a layer holds floating-point numbers. Patterns leave out others.

    Raises:
        LayerNotFoundError: a selector matches no layer.
        UsageError: a selector matches no layer of floating-point numbers.
    """
    found: dict[str, Layer] = {}
    words = _words(layers)
    for one in asked:
        if isinstance(one, str) and one in words:
            continue
        selector = parse_selector(one, layers) if isinstance(one, str) else one
        try:
            chosen = select(layers, [selector])
        except LayerNotFoundError as exc:
            raise _with_words(one, words, exc) from None
        suited = [layer for layer in chosen if suits(layer)]
        if not suited:
            raise UsageError(
                f"the layer {chosen[0].name!r} holds {chosen[0].dtype or 'no numbers'}; only "
                "floating-point numbers have gradients."
            )
        found |= {layer.name: layer for layer in suited}
    return list(found.values())


def _with_words(
    asked: Selector, words: Collection[str], error: LayerNotFoundError
) -> LayerNotFoundError:
    """The error, with the special word that was perhaps meant."""
    near = suggest(asked, sorted(words)) if isinstance(asked, str) else ""
    return LayerNotFoundError(f"{error}{near}") if near else error


def _words(layers: Sequence[Layer]) -> set[str]:
    """The special words, without those that are the name of a layer."""
    return {ALL, INPUT, LAST} - {layer.name for layer in layers}


def asks_for(word: str, asked: Sequence[Selector], layers: Sequence[Layer]) -> bool:
    """Whether one of the three words is among the selectors."""
    return word in _words(layers) and any(one == word for one in asked if isinstance(one, str))


def last_feature_maps(
    nodes: Sequence[onnx.NodeProto],
    layers: Sequence[Layer],
    shapes: Shapes,
    score: str,
    channels_last: bool,
) -> Layer:
    """The layer that Grad-CAM usually explains.

    The paper takes the last convolution, with the activation that follows (`relu5_3` of VGG), and
    in a residual network the sum of its last block. That is the last layer, in the order in which
    they run, whose output has the spatial size of the last convolution's output and that is not a
    pooling. Convolutions of images of one pixel, as in some heads, do not count. If it runs once
    for each step of a sequence, it is the layer that gives out the maps of all steps. In a vision
    transformer, whose only convolution divides the image into patches, it is the layer of tokens
    that `last_tokens` names.

    Args:
        nodes: the graph, in topological order.
        layers: the model's.
        score: the tensor that is differentiated.
        channels_last: whether the channels of a layer that does not state its axes are the last
            axis, or the second.

    Raises:
        UsageError: no convolution leads to the score, or no layer has the size of its output.
    """
    made_by = makers(nodes)
    origin = _peeled(score, made_by)
    leading = leading_to(nodes, [origin]).nodes
    order = {name: index for index, node in enumerate(leading) for name in node.output}
    # Each with its position, and the sizes of its axes except samples and channels.
    rows: list[tuple[int, Sequence[Size], Layer]] = []
    for layer in layers:
        source = _peeled(layer.tensor or "", made_by)
        if source not in order or source == origin or is_kind(made_by[source], "pooling"):
            continue
        dims = shapes.dims(str(layer.tensor)) or ()
        rows.append((order[source], _space(layer, dims, channels_last), layer))
    convolution, last = _last_convolution(leading, shapes, rows, origin)
    tokens = last_tokens([layer for _, _, layer in rows])
    if tokens is not None and order[_peeled(str(tokens.tensor), made_by)] > convolution:
        return tokens
    if convolution < 0:
        raise UsageError(
            "last-conv: no convolution with feature maps leads to the score. Name the layers "
            "instead."
        )
    found: tuple[int, Layer] | None = None
    for position, sizes, layer in rows:
        if _same(sizes, last) and (found is None or position >= found[0]):
            found = position, layer
    if found is None:
        raise UsageError(
            "last-conv: the file exposes no layer with the spatial size of the last convolution. "
            "Name the layers instead."
        )
    return _of_all_steps(found[1], layers, [layer for _, sizes, layer in rows if len(sizes) > 1])


def _last_convolution(
    leading: Sequence[onnx.NodeProto],
    shapes: Shapes,
    rows: Sequence[tuple[int, Sequence[Size], Layer]],
    origin: str,
) -> tuple[int, Sequence[Size]]:
    """The position of the last convolution whose output is no single pixel, and the sizes of that
    output; -1 if there is none.
    """
    for position in reversed(range(len(leading))):
        node = leading[position]
        last: Sequence[Size] = ()
        if is_kind(node, "convolution") and node.output[0] != origin:
            last = (shapes.dims(node.output[0]) or ())[2:]
        elif _has_convolution(node):  # a ConvLSTM is a loop; its own sizes are inside of it
            last = next((sizes for at, sizes, _ in rows if at >= position and sizes), ())
        if any(size != 1 for size in last):
            return position, last
    return -1, ()


def _has_convolution(node: onnx.NodeProto) -> bool:
    """Whether there is a convolution in a body of the node."""
    return any(
        is_kind(inner, "convolution") or _has_convolution(inner)
        for body in bodies(node)
        for inner in body.node
    )


def _of_all_steps(layer: Layer, layers: Sequence[Layer], maps: Sequence[Layer]) -> Layer:
    """The layer; if it is that of one step of a TimeDistributed, the one that has all steps.

    Args:
        layer: the last feature maps.
        layers: the model's.
        maps: those with feature maps.

    Raises:
        UsageError: the feature maps of the steps are not in one tensor.
    """
    by_name = {one.name: one for one in layers}
    wrapper: Layer | None = None
    outer = by_name.get(layer.parent or "")
    while outer is not None:
        wrapper = outer if outer.type == "TimeDistributed" else wrapper
        outer = by_name.get(outer.parent or "")
    if wrapper is None or wrapper in maps:
        return wrapper or layer
    raise UsageError(
        f"last-conv: {wrapper.name!r} computes the feature maps step by step, and gives out no "
        f"tensor with those of all steps. Name the layers of the steps that you need instead, for "
        f"example {layer.name!r}."
    )


def _space(layer: Layer, dims: Sequence[Size], channels_last: bool) -> Sequence[Size]:
    """The sizes of a layer's axes except samples and channels; none if it has no channels."""
    axes = layer.axes or ""
    if len(axes) != len(dims):
        return dims[1:-1] if channels_last else dims[2:]
    if "C" not in axes:
        return ()
    return [size for size, letter in zip(dims, axes, strict=True) if letter not in "NC"]


def _same(sizes: Sequence[Size], others: Sequence[Size]) -> bool:
    """Whether spatial sizes are equal. Two free sizes count as equal.

    Axes of size 1 do not count: a convolution of sequences may be one of images of one row.
    """
    sizes, others = ([size for size in shape if size != 1] for shape in (sizes, others))
    return len(sizes) == len(others) and all(
        size == other or (isinstance(size, Free) and isinstance(other, Free))
        for size, other in zip(sizes, others, strict=True)
    )


def _peeled(tensor: str, made_by: dict[str, onnx.NodeProto]) -> str:
    """The tensor from which one is made by Transposes, Identities and Casts alone."""
    while (node := made_by.get(tensor)) is not None and (is_view(node) or node.op_type == "Cast"):
        tensor = node.input[0]
    return tensor
