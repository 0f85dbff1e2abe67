"""Names and order inside the file: readable in Netron, and the same at every export.

tf2onnx numbers its tensors with counters that continue from export to export, and the order of its
nodes depends on Python's string hashes. This pass assigns every node to the first layer that needs
it, sorts the nodes in the order in which the layers need them, and names all after their layer:
`conv1_conv/Conv` with the weights `conv1_conv/Conv/W`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx

from layertap_export.graph.graph import bodies, makers, opset_of, reads
from layertap_export.graph.unique_names import UniqueNames

from .contract import graph_pass, in_order, named_nodes


@graph_pass(requires=[], ensures=[in_order, named_nodes])
def rename(
    model: onnx.ModelProto, owners: Sequence[tuple[str, str]], fixed: Mapping[str, str]
) -> dict[str, str]:
    """Order and name everything in `model`, in place, except its inputs.

    Args:
        model: nodes in any order; those that lead to no owner are dropped.
        owners: per layer, in the order in which they finish, its name and its output tensor.
        fixed: by old name, the new names of tensors that get exactly that name. No other tensor
            gets one of these names, or the name of an owner.

    Returns:
        New name by old name, of tensors and weights.
    """
    graph = model.graph
    for node in graph.node:
        for body in bodies(node):
            _sort_body(body)
    new = {**{value.name: value.name for value in graph.input}, **fixed}
    taken = UniqueNames({*new.values(), *(owner for owner, _ in owners)}, "_", 1)
    weights = {item.name: item for item in graph.initializer}
    made_by = makers(graph.node)
    placed: set[int] = set()
    nodes: list[onnx.NodeProto] = []
    used: list[onnx.TensorProto] = []

    def use(name: str, wanted: str) -> None:
        """Name a weight after its first reader."""
        if name in weights and name not in new:
            new[name] = taken.free(wanted)
            used.append(weights[name])

    for owner, tensor in owners:
        use(tensor, f"{owner}/value")
        for node in _needed(made_by.get(tensor), made_by, placed):
            name = taken.free(f"{owner}/{node.op_type}")
            for index, read in enumerate(node.input):
                use(read, f"{name}/{_formal(node, index, model)}")
            for read in reads(node):
                use(read, f"{name}/captured")
            lone = len(node.output) == 1
            for index, output in enumerate(node.output):
                if output and output not in fixed:
                    new[output] = name if lone else taken.free(f"{name}:{index}")
            node.name = name
            nodes.append(node)

    for node in nodes:
        _apply(node, new)
    for item in used:
        item.name = new[item.name]
    ordered, initializers = [_copy(node) for node in nodes], [_copy(item) for item in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(ordered)
    graph.initializer.extend(initializers)
    return new


def _copy(message: onnx.NodeProto | onnx.TensorProto) -> onnx.NodeProto | onnx.TensorProto:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _needed(
    last: onnx.NodeProto | None, made_by: dict[str, onnx.NodeProto], placed: set[int]
) -> Iterator[onnx.NodeProto]:
    """The nodes that `last` needs and that are not placed yet, each after the nodes it reads."""
    stack = [(last, False)] if last is not None else []
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
            continue
        if id(node) in placed:
            continue
        placed.add(id(node))
        stack.append((node, True))
        stack += [(made_by[name], False) for name in reversed(reads(node)) if name in made_by]


def _formal(node: onnx.NodeProto, index: int, model: onnx.ModelProto) -> str:
    """The operator's own name for its input: `W` and `B` of a Conv."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset_of(model, node.domain), node.domain)
    except onnx.defs.SchemaError:
        return f"input_{index}"
    inputs = schema.inputs
    return inputs[index].name if index < len(inputs) else f"input_{index}"


def _apply(node: onnx.NodeProto, new: dict[str, str]) -> None:
    """Rename the inputs and outputs of `node`, and everything inside its bodies."""
    for names in (node.input, node.output):
        for index, name in enumerate(names):
            names[index] = new.get(name, name)
    for index, body in enumerate(bodies(node)):
        _rename_body(body, f"{node.name}/body_{index}", new)


def _sort_body(body: onnx.GraphProto) -> None:
    """Sort the nodes and constants of a body, in place, in the order in which its outputs need
    them.

    tf2onnx's order depends on the hashes of TensorFlow's names, which have counters in them.
    """
    for node in body.node:
        for inner in bodies(node):
            _sort_body(inner)
    made_by, placed = makers(body.node), set[int]()
    ends = [value.name for value in body.output]
    nodes = [node for end in ends for node in _needed(made_by.get(end), made_by, placed)]
    read = dict.fromkeys([name for node in nodes for name in reads(node)] + ends)
    constants = {item.name: item for item in body.initializer}
    ordered = [_copy(node) for node in nodes]
    initializers = [_copy(constants[name]) for name in read if name in constants]
    del body.node[:], body.initializer[:], body.value_info[:]
    body.node.extend(ordered)
    body.initializer.extend(initializers)


def _rename_body(body: onnx.GraphProto, prefix: str, outer: dict[str, str]) -> None:
    taken = UniqueNames((), "_", 1)
    new = dict(outer)
    for item in (body, *body.node, *body.input, *body.output, *body.initializer):
        item.ClearField("doc_string")  # tf2onnx writes TensorFlow's names into it, with counters
    for value in (*body.input, *body.output):
        for size in value.type.tensor_type.shape.dim:
            size.ClearField("dim_param")  # it has a number that continues from export to export
    for value in body.input:
        new[value.name] = taken.free(f"{prefix}/input")
        value.name = new[value.name]
    for item in body.initializer:
        new[item.name] = taken.free(f"{prefix}/constant")
        item.name = new[item.name]
    for node in body.node:
        node.name = taken.free(f"{prefix}/{node.op_type}")
        for index, name in enumerate(node.output):
            if name:
                new[name] = taken.free(f"{node.name}:{index}")
    for node in body.node:
        _apply(node, new)
    for value in body.output:
        value.name = new.get(value.name, value.name)
    body.name = prefix
