"""Requests: what a caller asks for of a model, as tensors of its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from layertap._cut.plan import Appended, Leaf, peel
from layertap._cut.reductions import append
from layertap._public import public
from layertap.format.graph import Graph
from layertap.format.layer import Axes, Layer
from layertap.format.select import Selector

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Asked: TypeAlias = "Selector | Iterable[Selector] | Mapping[Any, str | None] | None"
"""What a caller may ask for: layers as `Model.select` takes them, or a dict from such selectors to
reductions."""


class Request(NamedTuple):
    """What a caller asks for, as tensors of a graph."""

    tensors: list[str]
    """The requested tensors that are in the graph itself."""
    results: Mapping[str, tuple[str, ...]]
    """The tensor of each result, by the result's name; two tensors for a `TopChannels`."""
    single: bool
    """Whether the result is one array instead of a dict."""
    layers: tuple[Layer, ...] = ()
    """The requested layers, in order; empty for the model's own outputs."""
    appended: tuple[Appended, ...] = ()

    def collect(self, values: Mapping[str, Any]) -> Any:
        """The result, from the values of all tensors."""
        found = {
            name: values[names[0]]
            if len(names) == 1
            else TopChannels(channels=values[names[1]], values=values[names[0]])
            for name, names in self.results.items()
        }
        return next(iter(found.values())) if self.single else found


def request_outputs(names: Sequence[str]) -> Request:
    """A request for a model's own outputs."""
    return Request(list(names), {name: (name,) for name in names}, len(names) == 1)


def request_layers(
    graph: Graph,
    layers: Sequence[Layer],
    reductions: Mapping[str, str | None],
    single: bool,
    dtype: str | None,
    axes: Callable[[str, int], Axes],
    peeled: bool = True,
) -> Request:
    """A request for layers, or for reductions of them.

    Args:
        layers: each layer once.
        reductions: names of reductions, by name of the layer; other layers are not reduced.
        single: whether the result is one array.
        dtype: what floating-point results are cast to; `None` leaves them as they are.
        axes: what each axis of a tensor means, by its name and the number of its axes.
        peeled: whether Transposes at the end are left to numpy.

    Raises:
        MissingTensorError: the graph has no such tensor.
        UsageError: a layer does not support the reduction.
    """
    tensors: list[str] = []
    results: dict[str, tuple[str, ...]] = {}
    appended: dict[str, Appended] = {}
    changed = bool(reductions) or dtype is not None
    leaves = peel(graph, [str(layer.tensor) for layer in layers]) if changed else {}
    opset = graph.opsets.get("", 0)
    for layer in layers:
        tensor, reduction = str(layer.tensor), reductions.get(layer.name)
        extra = None
        if reduction is not None or dtype is not None:
            leaf = leaves[tensor] if peeled or reduction is not None else Leaf(tensor, ())
            meanings = axes(tensor, len(layer.shape)) if reduction is not None else ""
            extra = append(layer, leaf, reduction, dtype, opset, meanings)
        if extra is None:
            tensors.append(tensor)
            results[layer.name] = (tensor,)
        else:
            results[layer.name] = tuple(extra.writes)
            appended[results[layer.name][0]] = extra  # two layers may be the same tensor
    return Request(tensors, results, single, tuple(layers), tuple(appended.values()))


@public
class TopChannels(NamedTuple):
    """The result of a reduction such as `top5`: the channels with the largest means, in order."""

    channels: npt.NDArray[np.int64]
    """Their indices, `(n, k)`."""
    values: npt.NDArray[Any]
    """Their means, `(n, k)`."""
