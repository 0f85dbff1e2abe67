"""Writing a part of a model, from some layers to others, as a file of its own with a card."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from layertap._arguments import flag
from layertap._cut import boundary
from layertap._cut.nodes import value_info
from layertap._cut.plan import CutPlan, peel
from layertap._cut.write import write_cut_file
from layertap.errors import LayertapWarning, ModelFileError, UsageError
from layertap.format.atomic import check_target
from layertap.format.axes import stated_axes
from layertap.format.card import (
    CLASS_INPUTS,
    KEY,
    Card,
    Finished,
    Gradients,
    TensorInfo,
    check_class_input,
)
from layertap.format.cardless import card_of
from layertap.format.data_file import DataFile, replacing_model
from layertap.format.digest import digest_of, inherited
from layertap.format.external import Weights, find_weights
from layertap.format.graph import External, Graph, TensorType, read_type, read_values
from layertap.format.layer import Axes, Layer
from layertap.format.limits import INLINE_BYTES, REFERENCE_BYTES
from layertap.format.references import without_references
from layertap.format.select import Selector, as_selectors
from layertap.format.source import FileSource
from layertap.format.stripping import stripped
from layertap.format.wire import Buffer, WireError, encode

from .program import Program

METADATA = 14
"""The field of `ModelProto` with the metadata; the card is appended as one more entry."""


def cut_to_file(
    program: Program,
    path: str | os.PathLike[str],
    start: Selector | Iterable[Selector] | None,
    end: Selector | Iterable[Selector] | None,
    class_input: str | None = None,
    strip: bool = False,
) -> None:
    """See `Model.cut`."""
    check_class_input(class_input)
    flag("strip", strip)
    if program.source.path is not None:
        own = find_weights(program.source, program.graph.locations).paths
        check_target(path, ".onnx", [program.source.path, *own])
    if start is None and end is None and class_input is None and not strip:
        raise UsageError(
            "give start, end or both: without them the part would be the whole model. Copy the "
            "file instead."
        )
    gradients = program.card.gradients if program.card else None
    infos = {info.name: info for info in program.inputs}
    apart = {info.name: info.name for info in program.outputs}
    apart |= {tensor: tensor for tensor in gradients.added} if gradients else {}
    starts, ends = _named(program, start, infos), _named(program, end, apart)
    with replacing_model(path) as (temporary, data):
        model, card = write_part(program, starts, ends, data, class_input)
        with temporary.open("wb") as file:
            file.write(model)
            file.flush()
            if card is not None:
                outputs = {info.name for info in card.outputs}
                card = stripped(card, outputs) if strip else card
                card = replace(card, digest=digest_of(FileSource(temporary), card))
                file.write(encode(METADATA, encode(1, KEY) + encode(2, card.to_json())))


def _named(
    program: Program, what: Selector | Iterable[Selector] | None, others: Mapping[str, Any]
) -> list[Any]:
    """The layers that `what` selects; a name that no layer has is looked up in `others`."""
    if what is None:
        return []
    layers = {layer.name for layer in program.layers}
    found: list[Any] = []
    asked = as_selectors(what)
    for one in asked if isinstance(asked, list) else [asked]:
        if isinstance(one, str) and one in others and one not in layers:
            found.append(others[one])
        else:
            found += program.select(one)
    return found


def write_part(
    program: Program,
    starts: Sequence[Layer | TensorInfo],
    ends: Sequence[Layer | str],
    data: DataFile,
    class_input: str | None = None,
) -> tuple[bytes, Card | None]:
    """The bytes of the file that computes `ends` from `starts`, without its card, and the card.

    Args:
        starts: layers and inputs; empty for the model's inputs.
        ends: layers, and names of outputs that are gradients; empty for the model's outputs.
        data: receives the weights of a part that is too large for one file, and is settled.
        class_input: the form of the input that selects the class of gradients; `None` keeps it.

    Raises:
        InputError: the ends also depend on inputs that are not among the starts.
        UsageError: a layer is both start and end, no end depends on a start, or `class_input` is
            given for a part without gradients.
        ModelFileError: the file was changed.
    """
    graph = program.graph
    asked = {end if isinstance(end, str) else str(end.tensor): _name(end) for end in ends}
    asked = asked or {info.name: info.name for info in program.outputs}
    given = {
        start.name if isinstance(start, TensorInfo) else str(start.tensor): start
        for start in starts
    }
    for name in asked.keys() & given.keys():
        raise UsageError(f"{asked[name]!r} is both start and end of the part.")
    inputs = [name for name in given if name in graph.inputs]
    layers = {name: start.name for name, start in given.items() if name not in graph.inputs}
    plan = program.plan(tuple(asked), tuple(layers))
    boundary.check_apart(plan, layers, inputs)
    if given:
        boundary.check_separates(graph, program.layers, plan, layers, inputs)
    unread = [
        name for tensor, name in layers.items() if plan.given[tensor].source not in _read(plan)
    ]
    if unread:
        raise UsageError(f"no end of the part depends on {unread[0]!r}.")
    known = _known_types(program, [*layers, *asked])
    for tensor, name in layers.items():
        kind = known[tensor].dtype if tensor in known else ""
        if kind in ("sequence", "map", "optional"):
            article = "an" if kind == "optional" else "a"
            raise UsageError(
                f"{name!r} is {article} {kind}, and a part can only start from tensors. Start from "
                "a layer before or after it."
            )
    defaults = _default_weights(program, plan, class_input)
    card = _own_card(program)
    if card:
        card = _card(inherited(card, "cut", program.source), graph, plan, known, program.card)
        if card.gradients:
            required = _is_required(graph, card.gradients.weights, defaults)
            form = CLASS_INPUTS[required]
            card = replace(card, gradients=replace(card.gradients, class_input=form))
    weights = find_weights(program.source, graph.locations)
    locate = _locating(weights, graph, plan, data)
    with program.source.read() as buffer:
        try:
            types = dict(_types(buffer, graph, known))
            part = write_cut_file(buffer, graph, plan, locate, types, program.metadata, defaults)
            model = without_references(part, data.referred, weights.load)
        except WireError as exc:
            raise ModelFileError(
                f"{program.name} is damaged ({exc}). Copy or export it again."
            ) from exc
    return model, card


def _own_card(program: Program) -> Card | None:
    """The card of the file; of one without a card that says its modules, what it says.

    A part of such a file needs a card: where it has only half of a module, its nodes cannot say
    what the output of that is.
    """
    if program.card or all(layer.name == layer.tensor for layer in program.layers):
        return program.card
    with program.source.read() as buffer:
        return card_of(buffer, program.graph, program.layers)


def _default_weights(
    program: Program, plan: CutPlan, class_input: str | None
) -> dict[str, TensorType | None]:
    """What changes for the input that selects the class, as `write_cut_file` takes it."""
    gradients = program.card.gradients if program.card else None
    if class_input is None:
        return {}
    if gradients is None or gradients.weights not in plan.optional:
        raise UsageError(
            f"the part of {program.name} has no gradients, so it has no input that could be "
            f"{class_input}. Leave out class_input, or name a gradient among the ends, as in "
            "grad/LAYER."
        )
    name = gradients.weights
    required = name not in program.graph.initializers
    if class_input == CLASS_INPUTS[required]:
        return {}
    return {name: program.graph.optional[name] if required else None}


def _is_required(graph: Graph, name: str, defaults: Mapping[str, TensorType | None]) -> bool:
    """Whether the part has no default for an optional input of the model."""
    return defaults[name] is None if name in defaults else name not in graph.initializers


def _name(end: Layer | str) -> str:
    return end if isinstance(end, str) else end.name


def _locating(
    weights: Weights, graph: Graph, plan: CutPlan, data: DataFile
) -> Callable[[External], External | bytes]:
    """Decide where the part stores weights that the model keeps in external files: inside, or in
    a data file of its own if they are too large."""
    kept = (graph.initializers[name].external for name in plan.initializers)
    sizes = {external: weights.size(external) for external in kept if external}
    if sum(sizes.values()) <= INLINE_BYTES:
        return weights.load
    moved = {
        external: data.add(weights.load(external))
        for external, size in sizes.items()
        if size >= REFERENCE_BYTES
    }
    data.settle()

    def locate(external: External) -> External | bytes:
        at = moved.get(external)
        return weights.load(external) if at is None else data.refer(at)

    return locate


def _read(plan: CutPlan) -> set[str]:
    return {*plan.starts, *plan.inputs, *plan.fed}


def _known_types(program: Program, tensors: Iterable[str]) -> dict[str, TensorType]:
    """Types of tensors, from the card, or as onnxruntime infers them."""
    rows = {layer.tensor: layer for layer in program.layers}
    infos = {info.name: info for info in (*program.inputs, *program.outputs)}
    found = {}
    for name in tensors:
        row = rows.get(name) or infos.get(name)
        if row is not None and row.dtype:
            found[name] = TensorType(row.dtype, row.shape)
        else:
            found[name] = program.infer(name)
    return found


def _types(
    buffer: Buffer, graph: Graph, known: Mapping[str, TensorType]
) -> Iterator[tuple[str, bytes]]:
    """The `ValueInfoProto`s: copied from the file, or made from the known types."""
    stated = read_values(buffer, graph)
    for name, kind in known.items():
        span = stated.get(name)
        if span and read_type(buffer, span).dims is not None:
            yield name, bytes(buffer[slice(*span)])
        else:
            yield name, value_info(name, kind)


# --- The card -----------------------------------------------------------------------------------


def _card(
    card: Card,
    graph: Graph,
    plan: CutPlan,
    known: Mapping[str, TensorType],
    stated: Card | None,
) -> Card:
    """The card of the part.

    Args:
        stated: the card in the whole file. Without one, every layer that the part computes is one
            of its layers, as in the whole file.
    """
    inside = () if stated else {name for at in plan.nodes for name in graph.nodes[at].writes}
    if card.made_from and not stated:
        source = replace(card.source, weights_sha256=card.made_from.weights)
        card = replace(card, source=source)
    rows = tuple(_rows(card.layers, graph, plan, inside))
    exposed = {row.tensor for row in rows}
    axes = stated_axes(card.layers, (*card.inputs, *card.outputs))
    inputs = tuple(info for info in card.inputs if info.name in plan.needs)
    inputs += tuple(_info(name, known[name], axes.get(name)) for name in plan.given)
    gradients = _gradients(card.gradients, plan)
    slopes = card.gradients.added if card.gradients else set()
    outputs = tuple(
        _info(name, known[name], axes.get(name)) for name in plan.leaves if name not in slopes
    )
    exposed |= slopes & plan.leaves.keys() | {info.name for info in outputs}
    first = [info.name for info in outputs[: len(card.outputs)]]
    whole = first == [info.name for info in card.outputs]
    images = [info for info in inputs if info in card.inputs and len(info.shape) == 4]
    finished = _finished(card.finished, {info.name for info in (*inputs, *outputs)})
    whole = whole or (finished is not None and finished.scores is not None)
    verification, golden = card.verification, card.golden
    if verification:
        computed = exposed - plan.given.keys()
        checks = {name: one for name, one in verification.layers.items() if name in computed}
        verification = replace(verification, layers=checks) if checks else None
    if golden:
        samples = {name: one for name, one in golden.layers.items() if name in exposed}
        fed = tuple(one for one in golden.inputs if one.name in {info.name for info in inputs})
        complete = samples and not plan.given and len(fed) == len(inputs)
        golden = replace(golden, layers=samples, inputs=fed) if complete else None
    return replace(
        card,
        inputs=inputs,
        outputs=outputs,
        layers=rows,
        preprocessing=card.preprocessing if images else None,
        images=card.images if images else None,
        labels=card.labels if whole else None,
        verification=verification,
        golden=golden,
        gradients=gradients,
        finished=finished,
    )


def _finished(facts: Finished | None, left: Container[str | None]) -> Finished | None:
    """What a part of a finished file takes and gives.

    Args:
        left: the inputs and outputs of the part.
    """
    if facts is None:
        return None

    def kept(name: str | None) -> str | None:
        return name if name in left else None

    scores, image = kept(facts.scores), kept(facts.image)
    heat_map = kept(facts.heat_map) if scores else None  # `cam` gives the scores with the maps
    found = replace(
        facts,
        scores=scores,
        image=image,
        preprocessing=facts.preprocessing if image else None,
        target=kept(facts.target),
        heat_map=heat_map,
        layer=facts.layer if heat_map else None,
        method=facts.method if heat_map else None,
        top_scores=kept(facts.top_scores),
        top_classes=kept(facts.top_classes),
    )
    return found if found != Finished(extra=facts.extra) else None


def _gradients(gradients: Gradients | None, plan: CutPlan) -> Gradients | None:
    """The gradients that the part contains, if it also contains their output.

    Warns:
        LayertapWarning: it does not, and so its card cannot describe the gradients.
    """
    if gradients is None:
        return None
    kept = {name: tensor for name, tensor in gradients.tensors.items() if tensor in plan.leaves}
    if kept and gradients.output not in plan.leaves:
        warnings.warn(
            f"the part has the gradient {next(iter(kept.values()))!r}, but not the output "
            f"{gradients.output!r} with the scores that it is the gradient of, so `gradients` and "
            "`cam` cannot use it. Name that output as an end of the part as well.",
            LayertapWarning,
            stacklevel=6,
        )
        return None
    return replace(gradients, tensors=kept) if kept else None


def _info(name: str, kind: TensorType, axes: Axes | None) -> TensorInfo:
    """What the card says of an input or output; no dtype if the number of its axes is unknown."""
    shape = tuple(size if isinstance(size, int) else None for size in kind.dims or ())
    stated = kind.dims is not None or kind.dtype in ("sequence", "map", "optional")
    return TensorInfo(
        name=name,
        shape=shape,
        dtype=kind.dtype if stated else "",
        axes=axes if axes and len(axes) == len(shape) else None,
    )


def _rows(
    layers: Sequence[Layer], graph: Graph, plan: CutPlan, shown: Collection[str]
) -> Iterator[Layer]:
    """The layers of the part. Given layers become its inputs, as in a Keras model cut there.

    Others are exposed if the part gives their tensors out, or if they are among `shown`.
    """
    inside = {name for at in plan.nodes for name in graph.nodes[at].writes} | {*_read(plan)}
    present = {*plan.leaves, *plan.given, *plan.needs, *shown}
    known = {name for node in graph.nodes for name in node.writes} | graph.inputs.keys()
    tensors = [layer.tensor for layer in layers if layer.tensor in known]
    sources = {name: leaf.source for name, leaf in peel(graph, map(str, tensors)).items()}
    names: set[str] = set()
    index = 0
    for layer in layers:
        if layer.tensor in plan.given:
            row = replace(layer, type="InputLayer", parameters=0, inbound=())
        elif layer.tensor is None:
            if not layer.inbound or not names.issuperset(layer.inbound):
                continue
            row = layer
        elif sources.get(layer.tensor) in inside:
            row = layer if layer.tensor in present else replace(layer, tensor=None)
        else:
            continue
        inbound = tuple(name for name in row.inbound if name in names)
        parent = row.parent if row.parent in names else None
        names.add(layer.name)
        yield replace(row, index=index, inbound=inbound, parent=parent)
        index += 1
