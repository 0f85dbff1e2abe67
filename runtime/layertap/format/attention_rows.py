"""The scores of attention layers, and the tokens of images, in the table of layers."""

from __future__ import annotations

from collections.abc import Sequence

from layertap.errors import LayerNotFoundError

from .layer import Layer
from .text import megabytes, number_of

SCORES = "AttentionScores"
"""The class of a row of scores."""

SCORES_NAME = "attention_scores"
"""The last part of the name of a row of scores."""

ATTENTION = "attention"
"""The word that selects the scores of every attention layer, unless a layer has this name."""


def attention_scores(layers: Sequence[Layer]) -> list[Layer]:
    """The rows of scores that the file exposes, in the order of the table.

    Raises:
        LayerNotFoundError: there are none. The error says why.
    """
    rows = [layer for layer in layers if layer.attention is not None]
    exposed = [row for row in rows if row.exposed]
    if not exposed:
        raise LayerNotFoundError(_why_none(layers, rows))
    return exposed


def price(layers: Sequence[Layer]) -> str | None:
    """What the scores of attention in the table cost, for people; `None` if there are none."""
    exposed = [layer for layer in layers if layer.attention is not None and layer.exposed]
    if not exposed:
        return None
    sizes = [layer.nbytes() for layer in exposed]
    known = [size for size in sizes if size is not None]
    size = f"{megabytes(sum(known))} MB a sample" if len(known) == len(sizes) else "of a free size"
    return (
        f"{number_of(len(exposed), 'layer')} of attention scores, {size}: not in `all`; "
        f"--layers {ATTENTION}"
    )


def without_scores(layers: Sequence[Layer], name: str) -> str | None:
    """Why the layer, which the name of a row of scores begins with, has no such row.

    Returns:
        `None` if the name is not one of scores, or no layer is called so.
    """
    path, _, last = name.rpartition("/")
    if last != SCORES_NAME:
        return None
    for layer in layers:
        if layer.name == path and layer.attention is None:
            if not is_attention(layer):
                return (
                    f"{path!r} is of the class {layer.type} and computes no attention scores."
                    f"{_hint(layers)}"
                )
            return f"this file does not contain the scores of {path!r}. {_EXPORT_AGAIN}"
    return None


def is_attention(layer: Layer) -> bool:
    """Whether the class of a layer says that it computes attention."""
    return layer.attention is None and "Attention" in layer.type


_EXPORT_AGAIN = (
    "Export the model again: files in format 1.3 and older have no scores. Layers that compute "
    "attention without a softmax have none, either."
)


def _why_none(layers: Sequence[Layer], rows: Sequence[Layer]) -> str:
    """Why the file exposes no scores."""
    if rows:
        first = rows[0]
        reason = first.why_not or "the export was limited to other layers"
        return (
            f"the file exposes none of the {number_of(len(rows), 'layer')} of attention scores: "
            f"{first.name!r} is not available, because {reason}."
        )
    found = [layer.name for layer in layers if is_attention(layer)]
    if not found:
        return (
            "no layer of this file computes attention scores that layertap knows: it has no "
            "MultiHeadAttention, GroupQueryAttention, Attention or AdditiveAttention."
        )
    return (
        f"this file does not contain the scores of its {number_of(len(found), 'attention layer')}, "
        f"such as {found[0]!r}. {_EXPORT_AGAIN}"
    )


def _hint(layers: Sequence[Layer]) -> str:
    rows = [layer for layer in layers if layer.attention is not None]
    return f" Those that do are selected by {ATTENTION!r}." if rows else ""


def last_tokens(layers: Sequence[Layer]) -> Layer | None:
    """The layer of tokens that Grad-CAM explains in a vision transformer; `None` if there is none.

    That is what the last attention layer reads, usually a normalisation. After it, the class token
    does not read the patches any more: their gradients are 0. pytorch-grad-cam recommends the same
    layer, `blocks[-1].norm1`. Without attention layers, it is the last layer of tokens.
    """
    tokens = [layer for layer in layers if layer.tokens is not None and layer.exposed]
    scores = [one for one in layers if one.attention is not None and one.attention.grid is not None]
    if not tokens or not scores:
        return tokens[-1] if tokens else None
    for row in reversed(scores):
        read = [layer for layer in tokens if layer.name in row.inbound]
        if read:
            return read[-1]
    return next(iter(_before(tokens, scores[-1], layers)), tokens[-1])


def _before(tokens: Sequence[Layer], row: Layer, layers: Sequence[Layer]) -> list[Layer]:
    """The layers of tokens that run before the attention layer of some scores, the last first."""
    by_name = {layer.name: layer for layer in layers}
    of = by_name.get(row.attention.of) if row.attention else None
    around, outer = set(), of
    while outer is not None:  # a layer runs until all layers inside of it have run
        around.add(outer.name)
        outer = by_name.get(outer.parent or "")
    end = of.index if of is not None else row.index
    return [one for one in reversed(tokens) if one.index < end and one.name not in around]
