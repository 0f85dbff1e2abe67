"""Which layer of one file is which layer of another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, NamedTuple

from layertap._cut.plan import peel, places
from layertap.errors import UsageError
from layertap.format.graph import Graph
from layertap.format.layer import Layer, Shape, uncounted
from layertap.format.text import shape_text

if TYPE_CHECKING:
    from layertap._engine.program import Program


class Tensor(NamedTuple):
    """A tensor of a file that can be compared: a layer, or an output that is no layer."""

    name: str
    type: str
    """The layer's class, or `output`."""
    shape: Shape
    dtype: str
    tensor: str
    """The tensor in the graph."""
    place: int
    """Its place in the table of layers, where a layer comes after those in it; outputs are last."""
    nodes: tuple[str, ...] = ()
    """The nodes that make it, and make what it is a view of, as Model Explorer names them."""


class Pair(NamedTuple):
    """A tensor in both files."""

    a: Tensor
    b: Tensor


class Matches(NamedTuple):
    """What was found in both files."""

    pairs: tuple[Pair, ...]
    """In the order of the second file's table."""
    only_a: Mapping[str, str]
    """The layers of the first file that have no partner, by name, with the reason."""
    only_b: Mapping[str, str]

    def among(self, names: AbstractSet[str]) -> Matches:
        """What was found of some layers of the first file."""
        pairs = tuple(pair for pair in self.pairs if pair.a.name in names)
        only = {name: why for name, why in self.only_a.items() if name in names}
        return Matches(pairs, only, {})


def tensors_of(program: Program, scores: bool) -> tuple[list[Tensor], dict[str, str]]:
    """The tensors of a file that can be compared, and the layers that cannot, with the reason.

    Args:
        program: what the file holds.
        scores: whether scores of attention, which are large, are among them.
    """
    graph = program.graph
    known = {name for node in graph.nodes for name in node.writes}
    known |= graph.inputs.keys() | graph.initializers.keys() | graph.optional.keys()
    found: list[Tensor] = []
    hidden: dict[str, str] = {}
    for place, layer in enumerate(inside_first(program.layers)):
        if layer.attention is not None and not scores:
            continue
        if layer.tensor is None:
            hidden[layer.name] = layer.why_not or "the file does not expose it"
        elif layer.tensor not in known:
            hidden[layer.name] = "the graph has no such tensor"
        else:
            found.append(_of_layer(layer, layer.tensor, place))
    listed = {layer.tensor for layer in program.layers}
    for at, info in enumerate(program.outputs):
        if info.name not in listed and info.name in known:
            place = len(program.layers) + at
            found.append(Tensor(info.name, "output", info.shape, info.dtype, info.name, place))
    nodes = _explorer_names(graph)
    leaves = peel(graph, [one.tensor for one in found])
    made_by = [
        dict.fromkeys(
            nodes[name] for name in (one.tensor, leaves[one.tensor].source) if name in nodes
        )
        for one in found
    ]
    return [one._replace(nodes=tuple(x)) for one, x in zip(found, made_by, strict=True)], hidden


def _explorer_names(graph: Graph) -> dict[str, str]:
    """By tensor, the id that its node has in Model Explorer's adapter for ONNX."""
    names = {name: f"[value] {name}" for name in graph.inputs}
    for at, node in enumerate(graph.nodes):
        names |= dict.fromkeys(node.writes, node.name or f"<node_{at}>")
    return names


def no_layer_selected() -> UsageError:
    """The error for a list of layers that is empty."""
    return UsageError("no layer is selected: the list is empty. Leave it out for all layers.")


def as_computed(program: Program, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of a file in the order in which it computes them."""
    return sorted(tensors, key=when_computed(program, tensors))


def when_computed(
    program: Program, tensors: Sequence[Tensor]
) -> Callable[[Tensor], tuple[int, int]]:
    """What sorts tensors of a file into the order in which it computes them."""
    at = places(program.graph, [one.tensor for one in tensors])
    return lambda one: (at[one.tensor], one.place)


def inside_first(layers: Sequence[Layer]) -> list[Layer]:
    """The layers in their order, each after the layers in it.

    A model in the model passes on the values of its last layer: that is the one at fault.
    """
    parents = {layer.name: layer.parent for layer in layers}
    ends: dict[str, int] = {}
    depths: dict[str, int] = {}
    for place, layer in enumerate(layers):
        inside = {layer.name}
        outer = layer.parent
        ends[layer.name] = max(ends.get(layer.name, 0), place)
        while outer in parents and outer not in inside:  # a damaged card may have a circle
            inside.add(outer)
            ends[outer] = max(ends.get(outer, 0), place)
            outer = parents[outer]
        depths[layer.name] = len(inside)
    return sorted(layers, key=lambda layer: (ends[layer.name], -depths[layer.name]))


def _of_layer(layer: Layer, tensor: str, place: int) -> Tensor:
    return Tensor(layer.name, layer.type, layer.shape, layer.dtype, tensor, place)


def match(
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    hidden_a: Mapping[str, str],
    hidden_b: Mapping[str, str],
) -> Matches:
    """Match layers by name, and by their place where only Keras's counters differ.

    Keras numbers layers without a name in the order in which a process makes them: `dense_3` in
    one process is `dense` in another, and another layer is `dense_3` there. So where layers of one
    base name have other numbers in one file than in the other, all layers of that base name are
    matched by their order, with their class and shape. A file without a card has tensors instead
    of layers: these match the tensor of a layer, too.

    Args:
        a: what the first file has, in the order of its table.
        b: what the second file has.
        hidden_a: layers of the first file that cannot be compared, with the reason.
        hidden_b: the same of the second.
    """
    by_name = _by_name(a, b)
    renumbered = _renumbered(a, b, by_name)
    found = {
        one.name: other
        for one, other in by_name.values()
        if uncounted(one.name) not in renumbered or one.type == "output"
    }
    found |= {one.name: other for one, other in _by_place(a, b, renumbered)}
    pairs: list[Pair] = []
    only_a, only_b = dict[str, str](), dict[str, str]()
    for one in a:
        other = found.get(one.name)
        if other is None:
            only_a[one.name] = hidden_b.get(one.name, "no layer of this name")
        elif not _fit(one.shape, other.shape) and one.dtype and other.dtype:
            reason = f"other shapes: {shape_text(one.shape)} and {shape_text(other.shape)}"
            only_a[one.name] = only_b[other.name] = reason
        else:
            pairs.append(Pair(one, other))
    taken = {pair.b.name for pair in pairs} | only_b.keys()
    for other in b:
        if other.name not in taken:
            only_b[other.name] = hidden_a.get(other.name, "no layer of this name")
    only_a |= {name: reason for name, reason in hidden_a.items() if name not in only_b}
    only_b |= {name: reason for name, reason in hidden_b.items() if name not in only_a}
    pairs.sort(key=lambda pair: pair.b.place)
    return Matches(tuple(pairs), only_a, only_b)


def _by_name(a: Sequence[Tensor], b: Sequence[Tensor]) -> dict[str, Pair]:
    """Pairs of one name, and of a layer and the tensor that it is, by the name in the first file.

    The classes must be the same where both files state them; a file without a card has operators.
    """
    names = {other.name: other for other in b}
    tensors = {other.tensor: other for other in b}
    found: dict[str, Pair] = {}
    for one in a:
        other = names.get(one.name) or tensors.get(one.name) or names.get(one.tensor)
        if other is not None:
            found[one.name] = Pair(one, other)
    taken = Counter(pair.b.name for pair in found.values())
    return {
        name: pair
        for name, pair in found.items()
        if taken[pair.b.name] == 1 or pair.b.name == pair.a.name
    }


def _renumbered(
    a: Sequence[Tensor], b: Sequence[Tensor], by_name: Mapping[str, Pair]
) -> frozenset[str]:
    """The base names whose numbers differ: both files have layers that the other does not, or
    layers of one name have other classes or shapes."""
    matched = {pair.b.name for pair in by_name.values()}
    left_a = {uncounted(one.name) for one in a if one.name not in by_name}
    left_b = {uncounted(one.name) for one in b if one.name not in matched}
    unlike = {
        uncounted(one.name)
        for one, other in by_name.values()
        if one.name == other.name and not _fit(one.shape, other.shape)
    }
    # A layer without a counter cannot be another one.
    counted = {
        base for base, count in Counter(uncounted(x.name) for x in (*a, *b)).items() if count > 1
    }
    return frozenset((left_a & left_b) | (unlike & (left_a | left_b) & counted))


def _by_place(
    a: Sequence[Tensor], b: Sequence[Tensor], bases: frozenset[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The layers of some base names in the same order, as far as base names and shapes agree."""
    ours = [one for one in a if uncounted(one.name) in bases]
    theirs = [one for one in b if uncounted(one.name) in bases]
    key_a, key_b = ([(uncounted(x.name), x.shape[1:]) for x in side] for side in (ours, theirs))
    blocks = SequenceMatcher(None, key_a, key_b, autojunk=False).get_matching_blocks()
    for block in blocks:
        for at in range(block.size):
            yield ours[block.a + at], theirs[block.b + at]


def _fit(one: Shape, other: Shape) -> bool:
    """Whether arrays of these shapes can have the same shape."""
    return len(one) == len(other) and all(
        x == y or x is None or y is None for x, y in zip(one, other, strict=True)
    )
