"""The index of an ONNX file, compared with the `onnx` package."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from onnx import TensorProto, helper

from generators import tiny
from layertap.format import graph as graph_module
from layertap.format.graph import External, TensorType, read_graph, read_types
from layertap.format.wire import WireError, encode

MODELS = [*tiny.PLAIN, tiny.linear_chain, tiny.image_classifier, tiny.two_inputs]
every_model = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)

Make = Callable[[], onnx.ModelProto]


def read(model: onnx.ModelProto) -> graph_module.Graph:
    return read_graph(model.SerializeToString())


@every_model
def test_nodes_equal_those_of_the_onnx_package(make: Make) -> None:
    model = make()
    data, graph = model.SerializeToString(), read(model)
    assert [(n.op_type, n.domain, n.name, n.writes) for n in graph.nodes] == [
        (n.op_type, n.domain, n.name, tuple(n.output)) for n in model.graph.node
    ]
    for node, expected in zip(graph.nodes, model.graph.node, strict=True):
        inputs = tuple(dict.fromkeys(name for name in expected.input if name))
        assert node.reads[: len(inputs)] == inputs
        field = onnx.GraphProto.FromString(data[slice(*node.span)])
        assert list(field.node) == [expected]


@every_model
def test_weights_inputs_and_outputs_equal_those_of_the_onnx_package(make: Make) -> None:
    model = make()
    graph = read(model)
    weights = {
        item.name: (graph_module.element_type(item.data_type), tuple(item.dims))
        for item in model.graph.initializer
    }
    for item in model.graph.sparse_initializer:
        dtype = graph_module.element_type(item.values.data_type)
        weights[item.values.name] = (dtype, tuple(item.dims))
    assert {name: tuple(item.type) for name, item in graph.initializers.items()} == weights
    assert list(graph.inputs) == [i.name for i in model.graph.input if i.name not in weights]
    assert list(graph.outputs) == [item.name for item in model.graph.output]
    assert graph.opsets == {item.domain: item.version for item in model.opset_import}
    assert graph.metadata == {item.key: item.value for item in model.metadata_props}
    assert (graph.ir_version, graph.producer) == (model.ir_version, "tiny")


def test_subgraphs_capture_outer_tensors() -> None:
    reads = {node.writes[0]: set(node.reads) for node in read(tiny.branching()).nodes}
    assert reads["y"] == {"flag", "a", "w", "flag2", "x", "b"}
    reads = {node.writes[0]: set(node.reads) for node in read(tiny.looping()).nodes}
    assert reads["last"] == {"count", "keep", "a", "step"}
    assert reads["total"] == {"step", "a"}


def test_lists_of_subgraphs_capture_outer_tensors() -> None:
    """No standard operator has such an attribute, but functions and custom operators may."""
    bodies = [
        helper.make_graph([tiny.node("Neg", name, "o")], "g", [], [tiny.value("o", None)])
        for name in ("a", "b")
    ]
    made = tiny.model([tiny.node("Switch", "x", "y", domain="own", cases=bodies)], [], [])
    assert read(made).nodes[0].reads == ("x", "a", "b")


def test_functions_are_listed_by_domain_and_name() -> None:
    assert read(tiny.with_function()).functions == {("own", "Swish")}


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        (["n", 3, None], ("n", 3, None)),
        ([], ()),
        (None, None),
        ([0, -1, ""], (0, None, None)),
    ],
)
def test_types_and_shapes_are_read(
    shape: tiny.Shape | None, dims: graph_module.Dims | None
) -> None:
    made = tiny.model([], [tiny.value("x", shape)], [])
    assert read(made).inputs["x"] == TensorType("float32", dims)


def test_sequences_maps_and_optionals_have_their_type() -> None:
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    kinds = {
        "sequence": helper.make_sequence_type_proto(element),
        "optional": helper.make_optional_type_proto(element),
        "map": helper.make_map_type_proto(TensorProto.INT64, element),
        "float16": helper.make_sparse_tensor_type_proto(TensorProto.FLOAT16, [1]),
    }
    values = [helper.make_value_info(name, kind) for name, kind in kinds.items()]
    inputs = read(tiny.model([], values, [])).inputs
    assert {name: kind.dtype for name, kind in inputs.items()} == {name: name for name in kinds}


def test_types_of_inner_tensors_are_read_from_value_infos() -> None:
    model = tiny.residual()
    model.graph.value_info.append(tiny.value("c", ["n", 3]))
    untyped = model.graph.value_info.add()
    untyped.name = "a"
    data = model.SerializeToString()
    types = read_types(data, read_graph(data))
    assert types == {
        "c": TensorType("float32", ("n", 3)),
        "a": TensorType("", None),
        "x": TensorType("float32", ("n", 3)),
        "y": TensorType("float32", ("n", 3)),
    }


RENAMED = {
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "FLOAT6E2M3": "float6e2m3fn",
    "FLOAT6E3M2": "float6e3m2fn",
    "FLOAT4E2M1": "float4e2m1fn",
    "FLOAT8E8M0": "float8e8m0fnu",
}


def test_every_element_type_of_onnx_has_a_name() -> None:
    for name, code in TensorProto.DataType.items():
        if code:
            expected = RENAMED.get(name, name.lower())
            assert graph_module.element_type(code).replace("_", "") == expected
    assert graph_module.element_type(999) == "type 999"


def test_concatenated_models_are_merged() -> None:
    """The index merges concatenated messages, as protobuf does."""
    model = tiny.residual()
    rest = onnx.ModelProto()
    rest.graph.node.append(tiny.node("Neg", "y", "z"))
    graph = read_graph(model.SerializeToString() + rest.SerializeToString())
    assert [node.writes for node in graph.nodes][-2:] == [("y",), ("z",)]


def test_external_weights_are_found_in_every_position() -> None:
    def outside(name: str, location: str) -> TensorProto:
        tensor = TensorProto(name=name, data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
        for key, text in {"location": location, "offset": "16", "length": "8"}.items():
            tensor.external_data.add(key=key, value=text)
        return tensor

    body = helper.make_graph([], "b", [], [tiny.value("i", None)], [outside("i", "inner.data")])
    made = tiny.model(
        [
            tiny.node("If", "x", "y", then_branch=body, else_branch=body),
            tiny.node("Constant", "", "c", value=outside("", "constant.data")),
        ],
        [],
        [],
        [outside("w", "outer.data")],
    )
    graph = read(made)
    assert graph.initializers["w"].external == External("outer.data", 16, 8)
    assert graph.locations == ("inner.data", "constant.data", "outer.data")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has no graph"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "it has no graph"),
        (b"\x3a\x05", "the field at byte 0 extends beyond the end"),
        (tiny.residual().SerializeToString()[:-9], "the field at byte 8 extends beyond the end"),
        (b"hello, this is no model", "invalid wire type 4 at byte 2"),
    ],
)
def test_invalid_bytes_are_a_wire_error(data: bytes, message: str) -> None:
    with pytest.raises(WireError) as caught:
        read_graph(data)
    assert str(caught.value) == message


@pytest.mark.parametrize("depth", [30, 5000])
def test_too_deeply_nested_subgraphs_are_a_wire_error(depth: int) -> None:
    """The limit is that of protobuf: a malicious file must not overflow the stack."""
    graph = b""
    for _ in range(depth):
        graph = encode(1, encode(4, "If") + encode(5, encode(6, graph)))
    if depth < graph_module.MAX_DEPTH:
        assert len(read_graph(encode(7, graph)).nodes) == 1
    else:
        with pytest.raises(WireError, match=r"^subgraphs are nested more than 32 deep$"):
            read_graph(encode(7, graph))


def test_transpose_has_its_perm_among_other_attributes() -> None:
    node = tiny.node("Transpose", "x", "y", perm=[1, 0], doc="what is next")
    node.attribute.append(onnx.helper.make_attribute("last", 3))
    made = tiny.model([node], [tiny.value("x", [1, 2])], [tiny.value("y", [2, 1])])
    graph = graph_module.read_graph(made.SerializeToString())
    assert [item.perm for item in graph.nodes] == [(1, 0)]


@pytest.mark.parametrize("op", ["If", "Loop", "Scan", "Split"])
def test_nodes_that_leave_out_an_output_of_many(op: str) -> None:
    """onnxruntime 1.32 ends the process when it runs such a Split, If or Loop."""
    node = helper.make_node(op, ["x"], ["", "y"])
    made = tiny.model([node], [tiny.value("x", [2])], [tiny.value("y", [1])])
    with pytest.raises(WireError, match=f"^a node of type {op} leaves out one of its outputs$"):
        read(made)
    body = helper.make_graph([node], "b", [], [tiny.value("y", [1])])
    with pytest.raises(WireError, match="leaves out"):
        read(tiny.model([tiny.node("If", "c", "z", then_branch=body, else_branch=body)], [], []))
