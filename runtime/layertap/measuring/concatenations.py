"""Layers that concatenate the channels of others: what is added up of them is known already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layertap._cut.plan import Leaf
from layertap._engine.program import Program
from layertap.format.layer import Layer
from layertap.format.operators import is_one_of


def concatenations(
    program: Program, layers: Sequence[Layer], axes: Sequence[int | None]
) -> dict[int, tuple[int, ...]]:
    """The layers whose channels are those of other layers, side by side.

    Args:
        program: the file.
        layers: what is measured.
        axes: for each, the axis of its channels, if it has some.

    Returns:
        By index of such a layer, the indices of the others, in the order of the channels.
    """
    makers = {name: node for node in program.graph.nodes for name in node.writes}
    leaves = program.plan(list(dict.fromkeys(str(layer.tensor) for layer in layers))).leaves
    channels = [_channels(layer, axis, leaves) for layer, axis in zip(layers, axes, strict=True)]
    index = {
        leaves[str(layer.tensor)].source: at
        for at, layer in enumerate(layers)
        if channels[at] is not None
    }
    found = {}
    for at, layer in enumerate(layers):
        node = makers.get(leaves[str(layer.tensor)].source)
        if channels[at] is None or node is None or not is_one_of(node, ("Concat",)):
            continue
        parts = tuple(index[name] for name in node.reads if name in index)
        known = [channels[part] for part in parts]
        if len(parts) == len(node.reads) > 1 and _add_up(channels[at], known):
            found[at] = parts
    return found


def _channels(
    layer: Layer, axis: int | None, leaves: Mapping[str, Leaf]
) -> tuple[int, int, int] | None:
    """The rank, the axis of the channels in the tensor that is computed, and their number."""
    if axis is None or not layer.shape[axis]:
        return None
    rank = len(layer.shape)
    order = list(range(rank))
    for perm in leaves[str(layer.tensor)].perms:
        turned = tuple(reversed(range(rank))) if perm is None else perm
        if sorted(turned) != list(range(rank)):
            return None
        order = [order[at] for at in turned]
    return rank, order[axis], int(layer.shape[axis] or 0)


def _add_up(
    whole: tuple[int, int, int] | None, parts: Sequence[tuple[int, int, int] | None]
) -> bool:
    """Whether tensors are concatenated along their channels: along another axis, all of them would
    have as many channels as the whole."""
    return (
        whole is not None
        and all(part is not None and part[:2] == whole[:2] for part in parts)
        and sum(part[2] for part in parts if part is not None) == whole[2]
    )
