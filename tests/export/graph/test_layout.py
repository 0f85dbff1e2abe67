"""Which nodes run channels last."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from layertap_export.graph.layout import channels_last_nodes
from layertap_export.graph.passes.channels_first import channels_first

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported

CHANNELS = 4
SHAPE = (2, 6, 6, CHANNELS)


class Graph:
    """A graph as tf2onnx makes it: channels last, with a Transpose on either side of a Conv."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights = {
            "kernel": np.ones((CHANNELS, 1, 3, 3), np.float32),
            "matrix": np.eye(CHANNELS, dtype=np.float32),
            "scale": np.ones(CHANNELS, np.float32),
            "axes": np.array([3]),
        }

    def add(self, op_type: str, name: str, *reads: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, reads, [name], name=name, **attributes))
        return name

    def conv(self, name: str, x: str) -> str:
        first = self.add("Transpose", f"{name}/in", x, perm=[0, 3, 1, 2])
        made = self.add("Conv", f"{name}/conv", first, "kernel", group=CHANNELS, pads=[1] * 4)
        return self.add("Transpose", name, made, perm=[0, 2, 3, 1])

    def norm(self, name: str, x: str) -> str:
        return self.add("LayerNormalization", name, x, "scale", axis=-1)

    def model(self, output: str) -> onnx.ModelProto:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "layouts",
            [value("x", TensorProto.FLOAT, SHAPE)],
            [value(output, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])

    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        inferred = onnx.shape_inference.infer_shapes(self.model(self.nodes[-1].output[0])).graph
        found = {
            item.name: tuple(d.dim_value or None for d in item.type.tensor_type.shape.dim)
            for item in inferred.value_info
        }
        shapes = {name: array.shape for name, array in self.weights.items()}
        return {self.nodes[-1].output[0]: SHAPE, "x": SHAPE, **found, **shapes}

    def channels_last(self) -> set[str]:
        return channels_last_nodes(self.model("x"), self.shapes(), self.weights)

    def turns(self) -> int:
        """How many Transposes are left after the pass; that of the input is always one."""
        model = self.model(self.nodes[-1].output[0])
        channels_first(model, self.shapes())
        return sum(node.op_type == "Transpose" for node in model.graph.node)


def test_a_convolutional_network_runs_channels_first() -> None:
    graph = Graph()
    x = graph.conv("a", "x")
    x = graph.add("Relu", "relu", x)
    x = graph.add("Erf", "erf", graph.conv("b", x))
    x = graph.add("MatMul", "product", x, "matrix")
    graph.add("Add", "sum", x, "relu")
    graph.conv("c", "sum")
    assert graph.channels_last() == set()
    assert graph.turns() == 1


def test_an_exposed_layer_is_no_reason_for_a_layout() -> None:
    """tf2onnx puts Identities in front of the outputs of a graph, which the pass removes."""
    graph = Graph()
    graph.weights["space"] = np.array([1, 2])
    x = graph.add("Mul", "scaled", graph.conv("a", "x"), "scale")
    graph.add("Identity", "exposed", graph.add("Identity", "raw", x))
    x = graph.add("Relu", "relu", x)
    graph.add("Identity", "exposed relu", graph.add("Identity", "raw relu", x))
    graph.add("ReduceMean", "pooled", x, "space", keepdims=0)
    assert graph.channels_last() == set()
    assert graph.turns() == 1


def test_blocks_of_products_run_channels_last() -> None:
    """A residual stream with depthwise convolutions, as in ConvNeXt."""
    graph = Graph()
    x = graph.norm("stem", graph.conv("patches", "x"))
    inner = set()
    for block in "abc":
        y = graph.norm(f"norm {block}", graph.conv(f"conv {block}", x))
        y = graph.add("MatMul", f"product {block}", y, "matrix")
        y = graph.add("Erf", f"erf {block}", y)
        y = graph.add("Mul", f"scaled {block}", y, "scale")
        x = graph.add("Add", f"sum {block}", x, y)
        inner |= {f"{name} {block}" for name in ("product", "erf", "scaled", "sum")}
    graph.norm("last", x)
    assert graph.channels_last() == inner
    # One for the input, one behind the first convolution, two around each other convolution.
    assert graph.turns() == 2 + 2 * 3


def test_an_activation_between_a_convolution_and_a_normalisation() -> None:
    """A Relu is computed together with the convolution; an Erf reads reordered values anyway."""
    graph = Graph()
    x = graph.add("Relu", "relu", graph.conv("a", "x"))
    x = graph.add("Erf", "erf", x)
    mean = graph.add("ReduceMean", "mean", x, "axes")
    graph.norm("norm", graph.add("Sub", "centred", x, mean))
    assert graph.channels_last() == {"erf", "mean", "centred"}
    assert graph.turns() == 2


def test_a_mean_shares_what_is_reordered() -> None:
    graph = Graph()
    x = graph.conv("a", "x")
    mean = graph.add("ReduceMean", "mean", x, "axes")
    graph.norm("norm", graph.add("Sub", "centred", x, mean))
    assert graph.channels_last() == {"mean", "centred"}
    assert graph.turns() == 2


def test_weights_that_the_graph_computes() -> None:
    """A constant is no reason for a layout, however it is made."""
    graph = Graph()
    graph.add("Transpose", "turned matrix", "matrix", perm=[1, 0])
    x = graph.add("MatMul", "product", graph.conv("a", "x"), "turned matrix")
    graph.conv("b", x)
    assert graph.channels_last() == set()


def test_the_larger_side_decides() -> None:
    """Two readers, one channels first and one channels last: the narrow place is turned."""
    graph = Graph()
    x = graph.add("Relu", "relu", graph.conv("a", "x"))
    graph.weights["half"] = np.ones((CHANNELS, 2), np.float32)
    y = graph.add("MatMul", "narrow", x, "half")
    graph.weights["scale"] = np.ones(2, np.float32)
    graph.norm("norm", graph.add("Erf", "erf", y))
    assert graph.channels_last() == {"erf"}
    assert graph.turns() == 2


def test_sequences_between_dense_layers_stay_as_they_are() -> None:
    """No Transpose between two layouts, nothing to choose."""
    graph = Graph()
    graph.norm("norm", graph.add("MatMul", "product", "x", "matrix"))
    assert graph.channels_last() == set()
