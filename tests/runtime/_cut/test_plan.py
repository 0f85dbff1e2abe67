"""The cut, against the same tensor made an output by the `onnx` package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import helper

import reference
from generators import tiny
from generators.random_graphs import squares
from layertap._cut.plan import CutPlan, Leaf, plan_cut
from layertap._cut.write import write_cut
from layertap.format.graph import External, read_graph

MODELS = [*tiny.PLAIN, tiny.linear_chain, tiny.image_classifier, tiny.two_inputs]
every_model = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)

Make = Callable[[], onnx.ModelProto]


def cut(model: onnx.ModelProto, *tensors: str) -> tuple[CutPlan, onnx.ModelProto]:
    data = model.SerializeToString()
    graph = read_graph(data)
    plan = plan_cut(graph, tensors)
    return plan, onnx.ModelProto.FromString(write_cut(data, graph, plan))


def run(model: onnx.ModelProto, tensors: Sequence[str], feeds: dict[str, Any]) -> list[Any]:
    """The values of `tensors` by way of the cut."""
    plan, part = cut(model, *tensors)
    values: dict[str, Any] = {name: feeds[name] for name in plan.fed}
    if plan.outputs:
        session = reference.session(part.SerializeToString())
        assert [item.name for item in session.get_inputs()] == list(plan.inputs)
        given_ = {name: feeds[name] for name in plan.inputs}
        results = session.run(list(plan.outputs.values()), given_)
        values.update(zip(plan.outputs, results, strict=True))
    found = []
    for name in tensors:
        source, perms = plan.leaves[name]
        value = values[source]
        for perm in perms:
            value = np.transpose(value, perm)
        found.append(value)
    return found


@every_model
def test_each_tensor_alone_is_what_the_whole_model_computes(make: Make) -> None:
    model = make()
    feeds = tiny.feeds(model)
    names = [name for node in model.graph.node for name in node.output]
    for name, expected in zip(names, reference.run(model, names, feeds), strict=True):
        (actual,) = run(model, [name], feeds)
        reference.same(actual, expected)


@every_model
def test_inputs_and_weights_can_be_asked_for(make: Make) -> None:
    model = make()
    feeds = tiny.feeds(model)
    for name, fed in feeds.items():
        assert run(model, [name], feeds)[0] is fed
    for item in model.graph.initializer:
        reference.same(run(model, [item.name], feeds)[0], onnx.numpy_helper.to_array(item))


def test_a_sparse_weight_comes_out_dense() -> None:
    (value,) = run(tiny.sparse(), ["s"], {})
    np.testing.assert_array_equal(value, np.array([[0, 1.5], [0, 0], [-2, 0]], np.float32))


@every_model
def test_a_cut_keeps_versions_and_drops_what_runs_nothing(make: Make) -> None:
    model = make()
    model.doc_string = "words"
    model.graph.doc_string = "words"
    model.graph.value_info.append(tiny.value("nothing", [1]))
    name = model.graph.node[0].output[0]
    _, part = cut(model, name)
    assert part.opset_import == model.opset_import
    assert part.functions == model.functions
    assert part.ir_version == model.ir_version
    assert part.graph.name == "tiny"
    assert not part.metadata_props
    assert not part.doc_string
    assert not part.graph.doc_string
    assert not part.graph.value_info


@pytest.mark.parametrize(
    "make", [tiny.linear_chain, tiny.image_classifier, tiny.two_inputs, tiny.residual]
)
def test_a_cut_of_a_valid_file_is_a_valid_file(make: Make) -> None:
    model = make()
    for output in model.graph.output:
        _, part = cut(model, output.name)
        onnx.checker.check_model(part, full_check=True)


def test_nothing_dead_is_kept() -> None:
    plan, part = cut(tiny.unused_parts(), "left")
    assert [node.op_type for node in part.graph.node] == ["Neg", "Split"]
    assert [item.name for item in part.graph.input] == ["x"]
    assert [item.name for item in part.graph.output] == ["left"]
    assert not part.graph.initializer
    assert plan.needs == ("x",)


def test_an_initialiser_stays_listed_as_an_input() -> None:
    """In IR version 3 it must be; the input counts as given."""
    plan, part = cut(tiny.listed_weights(), "a")
    assert [item.name for item in part.graph.input] == ["x", "w"]
    assert plan.needs == ("x",)


def test_an_optional_input_stays_one_where_it_is_read() -> None:
    plan, part = cut(tiny.optional_input(), "y")
    assert [item.name for item in part.graph.input] == ["x", "gain"]
    assert [item.name for item in part.graph.initializer] == ["w", "gain"]
    assert (plan.needs, plan.optional) == (("x",), ("gain",))
    plan, part = cut(tiny.optional_input(), "a")
    assert [item.name for item in part.graph.input] == ["x"]
    assert plan.optional == ()


def test_weights_of_a_file_of_ir_version_3_are_no_optional_inputs() -> None:
    """onnxruntime takes them as constants, and refuses to be fed others."""
    plan, _ = cut(tiny.listed_weights(), "y")
    assert plan.optional == ()
    made = tiny.listed_weights()
    made.ir_version = 4
    plan, _ = cut(made, "y")
    assert plan.optional == ("w", "b")


@pytest.mark.parametrize(
    ("tensor", "leaf"),
    [
        ("r", Leaf("r", ())),
        ("t1", Leaf("r", ((0, 2, 3, 1),))),
        ("t2", Leaf("r", ((0, 2, 3, 1),))),
        ("t3", Leaf("r", ((0, 2, 3, 1), (1, 0, 3, 2)))),
        ("t4", Leaf("r", ((0, 2, 3, 1), (1, 0, 3, 2), None))),
        ("tx", Leaf("x", ((2, 0, 1, 3),))),
        ("ix", Leaf("x", ())),
        ("tw", Leaf("w", (None,))),
        ("inner", Leaf("inner", ())),
    ],
)
def test_transposes_and_identities_at_the_end_are_peeled(tensor: str, leaf: Leaf) -> None:
    plan, part = cut(tiny.leaves(), tensor)
    assert plan.leaves == {tensor: leaf}
    kept = [node.op_type for node in part.graph.node]
    assert kept.count("Transpose") == (1 if tensor == "inner" else 0)


def test_layers_on_one_source_are_one_output() -> None:
    plan, part = cut(tiny.image_classifier(), "relu", "drop", "conv")
    assert plan.outputs == {"conv_nchw": "conv_nchw", "relu_nchw": "relu_nchw"}
    assert [item.name for item in part.graph.output] == ["conv_nchw", "relu_nchw"]


def test_an_input_alone_needs_no_model() -> None:
    plan, _ = cut(tiny.leaves(), "tx", "ix")
    assert (plan.outputs, plan.inputs, plan.fed, plan.needs) == ({}, (), ("x",), ("x",))


def test_a_function_named_like_a_standard_operator_is_not_peeled() -> None:
    """The file says itself what its Identity is: here, Neg."""
    double = helper.make_function(
        "", "Identity", ["v"], ["o"], [tiny.node("Neg", "v", "o")], [helper.make_opsetid("", 18)]
    )
    made = tiny.model(
        [tiny.node("Relu", "x", "r"), tiny.node("Identity", "r", "y")],
        [tiny.value("x", [2])],
        [tiny.value("y", [2])],
        functions=[double],
    )
    plan, _ = cut(made, "y")
    assert plan.leaves == {"y": Leaf("y", ())}


def test_nodes_out_of_order_are_all_found() -> None:
    """onnxruntime sorts nodes itself, so files that are not sorted run."""
    model = tiny.residual()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    feeds = tiny.feeds(model)
    reference.same(run(model, ["d"], feeds), reference.run(tiny.residual(), ["d"], feeds))


def test_a_tensor_that_is_not_there() -> None:
    with pytest.raises(KeyError, match="no tensor 'z'"):
        cut(tiny.residual(), "z")


def test_a_circle_of_identities_ends() -> None:
    made = tiny.model([tiny.node("Identity", "a", "b"), tiny.node("Identity", "b", "a")], [], [])
    assert cut(made, "a")[0].leaves["a"].source == "a"


@pytest.mark.parametrize(
    ("outputs", "dims"),
    [
        (["n", 4, 5, "c"], ["n", "c", 4, 5]),
        ([None, 4, 5, 3], [None, 3, 4, 5]),
        ([1, 2], None),
        (None, None),
    ],
)
def test_a_peeled_output_has_the_type_before_the_transpose(
    outputs: tiny.Shape | None, dims: tiny.Shape | None
) -> None:
    """What is stated of the Transpose holds for its source, axes turned back."""
    made = tiny.model(
        [tiny.node("Relu", "x", "r"), tiny.node("Transpose", "r", "y", perm=[0, 2, 3, 1])],
        [tiny.value("x", [None] * 4)],
        [tiny.value("y", outputs)],
    )
    _, part = cut(made, "y")
    assert list(part.graph.output) == [tiny.value("r", dims)]


def test_any_tensor_on_a_source_tells_its_type() -> None:
    made = tiny.model(
        [
            tiny.node("Relu", "x", "r"),
            tiny.node("Transpose", "r", "y"),
            tiny.node("Identity", "r", "z"),
        ],
        [tiny.value("x", [2, 3])],
        [tiny.value("y", [3, 2])],
    )
    for request in (["y", "z"], ["z", "y"]):
        assert list(cut(made, *request)[1].graph.output) == [tiny.value("r", [2, 3])]


def test_a_tensor_of_unknown_type_is_left_to_onnxruntime() -> None:
    _, part = cut(tiny.residual(), "b")
    assert [(item.name, item.HasField("type")) for item in part.graph.output] == [("b", False)]


def test_stated_types_of_inner_tensors_are_used() -> None:
    model = tiny.residual()
    model.graph.value_info.append(tiny.value("b", ["n", 3]))
    _, part = cut(model, "b")
    assert list(part.graph.output) == [tiny.value("b", ["n", 3])]


def external_model() -> onnx.ModelProto:
    model = tiny.residual()
    (w,) = model.graph.initializer
    w.ClearField("raw_data")
    w.data_location = onnx.TensorProto.EXTERNAL
    for key, text in {"location": "m.data", "offset": "8", "length": "36"}.items():
        w.external_data.add(key=key, value=text)
    return model


def test_external_weights_stay_where_the_file_says() -> None:
    _, part = cut(external_model(), "a")
    assert list(part.graph.initializer) == list(external_model().graph.initializer)


def test_external_weights_are_placed_elsewhere_or_brought_in() -> None:
    data = external_model().SerializeToString()
    graph = read_graph(data)
    plan = plan_cut(graph, ["a"])
    moved = write_cut(data, graph, plan, lambda e: External("sub/" + e.location, 4, None))
    (w,) = onnx.ModelProto.FromString(moved).graph.initializer
    assert {item.key: item.value for item in w.external_data} == {
        "location": "sub/m.data",
        "offset": "4",
    }
    values = np.arange(9, dtype=np.float32)
    inside = onnx.ModelProto.FromString(write_cut(data, graph, plan, lambda e: values.tobytes()))
    (w,) = inside.graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(w), values.reshape(3, 3))


# --- Random graphs ------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(squares())
def test_any_request_of_any_graph(case: tuple[onnx.ModelProto, list[str]]) -> None:
    model, request = case
    feeds = tiny.feeds(model)
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    known = {**feeds, **weights}
    made = [name for name in request if name not in known]
    expected = dict(zip(made, reference.run(model, made, feeds), strict=True)) if made else {}
    for name, actual in zip(request, run(model, request, feeds), strict=True):
        reference.same(actual, {**known, **expected}[name])


@settings(max_examples=100, deadline=None)
@given(squares())
def test_a_cut_has_no_node_too_many(case: tuple[onnx.ModelProto, list[str]]) -> None:
    """Every node of a cut leads to one of its outputs, and it is the same in any order."""
    model, request = case
    _, part = cut(model, *request)
    useful = {item.name for item in part.graph.output}
    for node in reversed(part.graph.node):
        assert useful.intersection(node.output)
        useful.update(node.input)
        for attribute in node.attribute:
            useful.update(name for inner in attribute.g.node for name in inner.input)
    assert cut(model, *request[::-1])[1] == part


@settings(max_examples=100, deadline=None)
@given(squares(kinds=["unary", "unary", "binary", "split"]))
def test_the_nodes_are_those_that_the_onnx_package_extracts(
    case: tuple[onnx.ModelProto, list[str]],
) -> None:
    """Where nothing is peeled off, and no branch captures what the package does not follow."""
    model, request = case
    made = [name for name in request if name.startswith("t")]
    if not made:
        return
    data = model.SerializeToString()
    graph = read_graph(data)
    plan = plan_cut(graph, made, peeled=False)
    part = onnx.ModelProto.FromString(write_cut(data, graph, plan))
    whole = onnx.shape_inference.infer_shapes(model)
    theirs = onnx.utils.Extractor(whole).extract_model(["x0", "x1"], made)
    assert [item.output for item in part.graph.node] == [item.output for item in theirs.graph.node]
    ours = {item.name for item in part.graph.initializer}
    assert ours == {item.name for item in theirs.graph.initializer}
    feeds = tiny.feeds(model)
    for name, value in zip(made, reference.run(theirs, made, feeds), strict=True):
        reference.same(reference.run(part, [name], feeds)[0], value)


NEWEST = onnx.defs.onnx_opset_version()


@pytest.mark.parametrize("opset", range(7, NEWEST + 1))
def test_every_opset_from_7_on(opset: int) -> None:
    model = tiny.model(
        [
            tiny.node("Conv", "x w", "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            tiny.node("Relu", "conv", "relu"),
            tiny.node("MaxPool", "relu", "pool", kernel_shape=[2, 2], strides=[2, 2]),
            tiny.node("Transpose", "pool", "last", perm=[0, 2, 3, 1]),
            tiny.node("GlobalAveragePool", "pool", "mean"),
            tiny.node("Flatten", "mean", "flat"),
            tiny.node("MatMul", "flat dense", "logits"),
            tiny.node("Softmax", "logits", "y", axis=1),
        ],
        [tiny.value("x", ["n", 3, 4, 4])],
        [tiny.value("y", ["n", 2])],
        [tiny.weights("w", 5, 3, 3, 3), tiny.weights("dense", 5, 2)],
        opset=opset,
        ir_version=helper.find_min_ir_version_for([helper.make_opsetid("", opset)]),
    )
    feeds = tiny.feeds(model)
    tensors = [item.output[0] for item in model.graph.node]
    try:
        expected = reference.run(model, tensors, feeds)
    except Exception:  # noqa: BLE001 - onnxruntime's errors have no common class but this
        assert opset > 23  # which onnxruntime 1.23 takes
        pytest.skip(f"the installed onnxruntime does not take opset {opset}")
    for name, value in zip(tensors, expected, strict=True):
        reference.same(run(model, [name], feeds)[0], value)
