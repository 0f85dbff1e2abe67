"""A part of a model as a file of its own: from some layers to others, with a card."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from layertap._cut import boundary
from layertap._cut.nodes import value_info
from layertap._cut.plan import CutPlan, peel
from layertap._cut.write import write_cut_file
from layertap.errors import ModelFileError, UsageError
from layertap.format.card import KEY, Card, Gradients, TensorInfo
from layertap.format.data_file import DataFile, replacing_model
from layertap.format.external import Weights, find_weights
from layertap.format.graph import External, Graph, TensorType, read_type, read_values
from layertap.format.layer import Layer
from layertap.format.limits import INLINE_BYTES, REFERENCE_BYTES
from layertap.format.select import Selector
from layertap.format.wire import Buffer, WireError

from .program import Program


def cut_to_file(
    program: Program,
    path: str | os.PathLike[str],
    start: Selector | Iterable[Selector] | None,
    end: Selector | Iterable[Selector] | None,
) -> None:
    """See `Model.cut`."""
    gradients = program.card.gradients if program.card else None
    infos = {info.name: info for info in program.inputs}
    slopes = {tensor: tensor for tensor in gradients.tensors.values()} if gradients else {}
    starts, ends = _named(program, start, infos), _named(program, end, slopes)
    with replacing_model(path) as (temporary, data):
        temporary.write_bytes(write_part(program, starts, ends, data))


def _named(
    program: Program, what: Selector | Iterable[Selector] | None, others: Mapping[str, Any]
) -> list[Any]:
    """What `what` names: layers, and where no layer has the name, of `others`."""
    if what is None:
        return []
    layers = {layer.name for layer in program.layers}
    found: list[Any] = []
    for one in [what] if isinstance(what, (str, int, slice, Layer)) else what:
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
) -> bytes:
    """The file that computes `ends` from `starts`.

    Args:
        starts: layers and inputs; none for the model's inputs.
        ends: layers, and names of outputs that are gradients; none for the model's outputs.
        data: takes the weights of a part that is too large for one file, and is settled then.

    Raises:
        InputError: the starts do not separate the inputs from the ends.
        UsageError: something is both start and end.
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
        raise UsageError(f"{asked[name]!r} is both where the part starts and where it ends.")
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
        raise UsageError(f"nothing that the part ends with is computed from {unread[0]!r}.")
    known = _known_types(program, [*layers, *asked])
    metadata = dict(program.metadata)
    if program.card:
        metadata[KEY] = _card(program.card, graph, plan, known).to_json()
    locate = _locating(find_weights(program.source, graph.locations), graph, plan, data)
    with program.source.read() as buffer:
        try:
            types = dict(_types(buffer, graph, known))
            return write_cut_file(buffer, graph, plan, locate, types, metadata)
        except WireError as exc:
            raise ModelFileError(
                f"{program.name} is damaged ({exc}). Copy or export it again."
            ) from exc


def _name(end: Layer | str) -> str:
    return end if isinstance(end, str) else end.name


def _locating(
    weights: Weights, graph: Graph, plan: CutPlan, data: DataFile
) -> Callable[[External], External | bytes]:
    """Where the part keeps weights that the model keeps in other files: inside, or, where they are
    too many, in a data file of its own."""
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
    """Types of tensors by the card, or by what onnxruntime makes of the file."""
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
    """The `ValueInfoProto`s: as they stand in the file, else of the types that are known."""
    stated = read_values(buffer, graph)
    for name, kind in known.items():
        span = stated.get(name)
        if span and read_type(buffer, span).dims is not None:
            yield name, bytes(buffer[slice(*span)])
        else:
            yield name, value_info(name, kind)


# --- The card -----------------------------------------------------------------------------------


def _card(card: Card, graph: Graph, plan: CutPlan, known: Mapping[str, TensorType]) -> Card:
    """What of the card holds for the part."""
    rows = tuple(_rows(card.layers, graph, plan))
    exposed = {row.tensor for row in rows}
    inputs = tuple(info for info in card.inputs if info.name in plan.needs)
    inputs += tuple(_info(name, known[name]) for name in plan.given)
    gradients = _gradients(card.gradients, plan)
    slopes = set(card.gradients.tensors.values()) if card.gradients else set()
    outputs = tuple(_info(name, known[name]) for name in plan.leaves if name not in slopes)
    first = [info.name for info in outputs[: len(card.outputs)]]
    whole = first == [info.name for info in card.outputs]
    images = [info for info in inputs if info in card.inputs and len(info.shape) == 4]
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
        labels=card.labels if whole else None,
        verification=verification,
        golden=golden,
        gradients=gradients,
    )


def _gradients(gradients: Gradients | None, plan: CutPlan) -> Gradients | None:
    """Those that the part gives, if it also gives the output that they are of."""
    if gradients is None or gradients.output not in plan.leaves:
        return None
    kept = {name: tensor for name, tensor in gradients.tensors.items() if tensor in plan.leaves}
    return replace(gradients, tensors=kept) if kept else None


def _info(name: str, kind: TensorType) -> TensorInfo:
    shape = tuple(size if isinstance(size, int) else None for size in kind.dims or ())
    return TensorInfo(name=name, shape=shape, dtype=kind.dtype)


def _rows(layers: Sequence[Layer], graph: Graph, plan: CutPlan) -> Iterator[Layer]:
    """The layers inside. The given ones are inputs of the part, as in a Keras model cut there.

    Of the others only those can be had whose tensors are there: in a channels-first graph these
    are the ones that were asked for, the leaves of others being gone.
    """
    inside = {name for at in plan.nodes for name in graph.nodes[at].writes} | {*_read(plan)}
    present = (inside - {leaf.source for leaf in plan.given.values()}) | {*plan.leaves, *plan.given}
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
