"""What a model file says about itself: its card, or where it has none, its tensors as layers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import TypeVar

from layertap._record import Record
from layertap.errors import ModelFileError

from .card import KEY, Card, TensorInfo
from .digest import graph_changed
from .graph import (
    Graph,
    TensorType,
    read_graph,
    read_metadata,
    read_type,
    read_types,
    read_value_spans,
)
from .layer import Layer
from .source import BytesSource, FileSource, describe
from .wire import Buffer, WireError

R = TypeVar("R", bound=Record)


class Index(Record):
    """All that is known of a file without running it."""

    graph: Graph
    card: Card | None
    layers: tuple[Layer, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    """The model's own outputs; in a file without a card, the graph's."""
    metadata: Mapping[str, str]
    """The metadata of the file except the card."""
    changed: bool = False
    """Whether the graph is not the one that the card states; the weights are not looked at."""


def read_index(source: FileSource | BytesSource) -> Index:
    """Read it; weights are passed over.

    Raises:
        ModelFileError: no ONNX model, or a damaged card.
        CardVersionError: the card was written by a newer layertap.
    """
    with source.read(sparsely=True) as buffer:
        try:
            graph = read_graph(buffer)
            _check_names(graph)
            types = {} if KEY in graph.metadata else read_types(buffer, graph)
            text = graph.metadata.get(KEY)
            card = None if text is None else Card.from_json(text, source.name)
            digest = card.digest if card else None
            # The nodes of a file that was converted to float16 may be the same.
            changed = (
                card is not None
                and digest is not None
                and (_retyped(buffer, graph, card) or graph_changed(buffer, graph, digest))
            )
            if card is not None and (changed or digest is None):
                card = _with_stated_dtypes(card, read_types(buffer, graph))
            layers: tuple[Layer, ...] = ()
            if card is None:
                from .cardless import layers_of  # not read where a card says it

                layers = layers_of(buffer, graph, types)
        except WireError as exc:
            raise refusal(source.name, buffer, exc) from exc
    metadata = {key: value for key, value in graph.metadata.items() if key != KEY}
    if card is not None:
        graph = _with_default_weights(graph, card)
        return Index(graph, card, card.layers, card.inputs, card.outputs, metadata, changed)
    from .cardless import info_of

    inputs = tuple(info_of(name, kind) for name, kind in graph.inputs.items())
    outputs = tuple(info_of(name, types[name]) for name in graph.outputs)
    return Index(graph, None, layers, inputs, outputs, metadata)


def _retyped(buffer: Buffer, graph: Graph, card: Card) -> bool:
    """Whether the graph states another dtype for an input or output of the model than the card."""
    stated = {name: kind.dtype for name, kind in graph.inputs.items()}
    own = [info.name for info in card.outputs if info.name in graph.outputs]
    stated |= {name: read_type(buffer, graph.outputs[name]).dtype for name in own}
    return _differ(card, stated)


def _differ(card: Card, stated: Mapping[str, str]) -> bool:
    """Whether dtypes of inputs and outputs of the model are not those of the card."""
    return any(
        info.dtype and stated.get(info.name, info.dtype) not in ("", info.dtype)
        for info in (*card.inputs, *card.outputs)
    )


def _with_stated_dtypes(card: Card, types: Mapping[str, TensorType]) -> Card:
    """The card with the dtypes that the graph states: a converter to float16 changes them."""

    def stated(one: R, tensor: str | None) -> R:
        dtype = types.get(tensor or "", TensorType()).dtype
        same = not dtype or vars(one)["dtype"] in ("", dtype)
        return one if same else type(one).trusted({**vars(one), "dtype": dtype})

    return Card.trusted(
        {
            **vars(card),
            "layers": tuple(stated(layer, layer.tensor) for layer in card.layers),
            "inputs": tuple(stated(info, info.name) for info in card.inputs),
            "outputs": tuple(stated(info, info.name) for info in card.outputs),
        }
    )


def _with_default_weights(graph: Graph, card: Card) -> Graph:
    """The graph with the weights of the scores among its optional inputs, in both forms of a file.

    Callers do not have to feed them where the graph has no initializer for them either: they are
    ones then, see `Program.fetch`.
    """
    name = card.gradients.weights if card.gradients else ""
    # The model's own inputs have no default, whatever a card says.
    if name not in graph.inputs or any(info.name == name for info in card.inputs):
        return graph
    inputs = dict(graph.inputs)
    optional = {**graph.optional, name: inputs.pop(name)}
    return Graph.trusted({**vars(graph), "inputs": inputs, "optional": optional})


def _check_names(graph: Graph) -> None:
    """Check that onnxruntime, whose names end at a zero byte, reads the same names."""
    written = chain.from_iterable(node.writes for node in graph.nodes)
    if "\0" in "".join(chain(graph.inputs, graph.outputs, graph.initializers, written)):
        raise WireError("the name of a tensor contains a zero byte")


def read_card(source: FileSource | BytesSource) -> Card | None:
    """The file's card; `None` if it has none. Faster than `read_index`: no node is read.

    As there, the dtypes are those that the graph states if these are not the card's.

    Raises:
        ModelFileError: not an ONNX model, or a damaged card.
        CardVersionError: the card was written by a newer layertap.
    """
    with source.read(sparsely=True) as buffer:
        try:
            metadata = read_metadata(buffer)
            if KEY not in metadata:
                return None
            card = Card.from_json(metadata[KEY], source.name)
            spans = read_value_spans(buffer)
            own = [info.name for info in (*card.inputs, *card.outputs) if info.name in spans]
            if _differ(card, {name: read_type(buffer, spans[name]).dtype for name in own}):
                types = {name: read_type(buffer, span) for name, span in spans.items()}
                return _with_stated_dtypes(card, types)
            return card
        except WireError as exc:
            raise refusal(source.name, buffer, exc) from exc


def refusal(name: str, buffer: Buffer, exc: WireError) -> ModelFileError:
    """The error for a file that is no ONNX model."""
    looks = describe(bytes(buffer[:512]))
    if looks:
        return ModelFileError(f"{name} is not an ONNX model. It looks like {looks}.")
    return ModelFileError(
        f"{name} is not an ONNX model, or is cut off ({exc}). Copy or export it again."
    )
