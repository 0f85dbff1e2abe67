"""int8: onnxruntime's own quantiser decides the numbers; this module decides who reads them.

The quantiser puts a pair of QuantizeLinear and DequantizeLinear at the inputs and the outputs of
each convolution and each product with a weight, and a DequantizeLinear behind the weight, whose
channels have a scale each. It does so once for the whole graph. At other levels, a node reads what
it read before. So does everything that is not quantised: of the tensors that enter a quantised
node, only that node sees the rounded values.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from layertap.format.card import Card
from layertap_export.graph.graph import in_order, is_standard, prune, rename_reads
from layertap_export.graph.shapes.shapes import Shapes

from .levels import Level, Levels, Ownership, unused_mark
from .ranges import Ranges

QUANTISED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators that compute in integers."""

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"


class Integers:
    """A model, and the same in int8 at any levels of its layers."""

    def __init__(
        self, model: onnx.ModelProto, card: Card, owned: Ownership, shapes: Shapes, seen: Ranges
    ) -> None:
        """
        Args:
            model: its nodes are in topological order, and all its weights inside.
            card: names its outputs.
            owned: which nodes belong to which layer.
            shapes: knows the dtypes of its tensors.
            seen: the ranges of its tensors on the images for calibration.
        """
        self._model, self._owned = model, owned
        self._unrounded_mark = unused_mark(model, "/unrounded")
        self._dequantised_mark = unused_mark(model, "/dequantised")
        self._stored_mark = unused_mark(model, "/stored")
        listed = {value.name for value in model.graph.input}
        self._weights = {
            item.name: item
            for item in model.graph.initializer
            if item.data_type == TensorProto.FLOAT and item.name not in listed
        }
        finite = {name for name, ends in seen.items() if np.isfinite(ends).all()}
        self._weight = {
            at: _weight(model.graph.node[at], self._weights, finite) for at in owned.owners
        }
        self._targets = [at for at, name in self._weight.items() if name]
        self.layers: tuple[str, ...] = tuple(
            dict.fromkeys(owned.owners[at] for at in self._targets)
        )
        """The layers that would change, in the order of the graph."""
        self._read_whole: dict[int, onnx.NodeProto] = {}
        self._pairs: dict[str, tuple[onnx.NodeProto, onnx.NodeProto]] = {}
        self._single: dict[str, onnx.NodeProto] = {}
        self._constants: dict[str, onnx.TensorProto] = {}
        if self._targets:
            self._quantise(shapes, seen)

    def _quantise(self, shapes: Shapes, seen: Ranges) -> None:
        """Let onnxruntime quantise all targets, and take note of what it made."""
        whole = onnx.ModelProto()
        whole.CopyFrom(self._model)
        graph = whole.graph
        del graph.output[:], graph.value_info[:], whole.metadata_props[:]
        for at, node in enumerate(graph.node):
            node.name = str(at)
        names = dict.fromkeys(
            name
            for at in self._targets
            for name in (*graph.node[at].input, graph.node[at].output[0])
            if name in seen
        )
        for name in names:
            kind = helper.make_tensor_value_info(name, shapes.dtype(name), None)
            graph.value_info.append(kind)
        old = {item.name for item in graph.initializer}
        whole = _by_onnxruntime(whole, [str(at) for at in self._targets], names, seen)
        self._constants = {
            item.name: item for item in whole.graph.initializer if item.name not in old
        }
        made = {name: node for node in whole.graph.node for name in node.output}
        # It gives a bias the old name again, which here is still that of the exact bias.
        again = {name: f"{name}{self._dequantised_mark}" for name in made if name in old}
        rename_reads(whole.graph.node, again)
        for node in whole.graph.node:
            node.output[0] = again.get(node.output[0], node.output[0])
            if node.op_type == DEQUANTISE and is_standard(node):
                source = made.get(node.input[0])
                if source is not None and source.op_type == QUANTISE:
                    self._pairs[source.input[0]] = source, node
                else:
                    self._single[node.output[0]] = node
            elif node.name.isdecimal():
                self._read_whole[int(node.name)] = node

    def _store(self, dequantised: str, weight: onnx.TensorProto) -> None:
        """Add a weight with 8 bits, for nodes that compute in float32, where nothing overflows.

        Args:
            dequantised: the name of the weight with 7 bits, after it was dequantised.
            weight: the exact weight.
        """
        node = onnx.NodeProto()
        node.CopyFrom(self._single[dequantised])
        for place in (0, 1):
            node.input[place] += self._stored_mark
        node.output[0] += self._stored_mark
        values = numpy_helper.to_array(weight)
        narrow = numpy_helper.to_array(self._constants[self._single[dequantised].input[1]])
        sizes = [1] * values.ndim
        if narrow.ndim:  # a scale for each channel
            axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
            sizes[axis] = narrow.size
        others = tuple(at for at, size in enumerate(sizes) if size == 1)
        largest = np.abs(values).max(axis=others).reshape(narrow.shape)
        scale = np.where(largest > 0, largest / np.float32(127), narrow).astype(np.float32)
        rounded = np.clip(np.rint(values / scale.reshape(sizes)), -127, 127).astype(np.int8)
        first, second = node.input[:2]
        self._constants[first] = numpy_helper.from_array(rounded, first)
        self._constants[second] = numpy_helper.from_array(scale, second)
        self._single[node.output[0]] = node

    # --- The model ------------------------------------------------------------------------------

    def reached(self, levels: Levels) -> dict[str, Level]:
        """The level that each layer really has: that of its least exact node."""
        found: dict[str, Level] = {}
        for at in self._targets:
            layer = self._owned.owners[at]
            level = self._owned.level(at, levels)
            found[layer] = min(found.get(layer, Level.FLOAT), level)
        return {layer: found[layer] for layer in self.layers}

    def at(self, levels: Levels) -> onnx.ModelProto:
        """The model at some levels; every tensor that it gives is float32, with its old name."""
        level = {at: self._owned.level(at, levels) for at in self._targets}
        graph = self._model.graph
        narrow = [at for at in self._targets if level[at] is Level.NARROW]
        shown = {value.name for value in graph.output}
        # What a quantised node gives is rounded for all its readers. A tensor that the file shows
        # keeps its name, and what is rounded gets another.
        rounded: dict[str, str] = {}
        before: dict[str, str] = {}
        for at in narrow:
            name = graph.node[at].output[0]
            rounded[name] = name if name in shown else self._pairs[name][1].output[0]
            if name in shown:
                before[name] = f"{name}{self._unrounded_mark}"
        exact = {self._weight[at] for at in self._targets if level[at] is Level.FLOAT}
        integer = {self._weight[at]: self._dequantised(at) for at in narrow}
        integer |= {
            self._weight[at]: self._stored(at) for at in self._targets if level[at] is Level.STORED
        }
        shared = {name: new for name, new in integer.items() if name not in exact}
        again = {
            self._pairs[name][1].output[0]: new for name, new in rounded.items()
        }  # by the name that onnxruntime gave to it
        nodes: list[onnx.NodeProto] = []
        for at, old in enumerate(graph.node):
            node = onnx.NodeProto()
            chosen = level.get(at)
            node.CopyFrom(self._read_whole[at] if chosen is Level.NARROW else old)
            node.name = old.name
            if chosen is Level.NARROW:
                new = again
            elif chosen is Level.FLOAT:
                new = rounded
            elif chosen is Level.STORED:
                new = {**rounded, **integer}
            else:
                new = {**rounded, **shared}
            rename_reads([node], new)
            if node.output and node.output[0] in before and chosen is Level.NARROW:
                node.output[0] = before[node.output[0]]
            nodes.append(node)
        return self._assembled(nodes, rounded, before)

    def _dequantised(self, at: int) -> str:
        """The name of the weight of a node after it was dequantised."""
        place = list(self._model.graph.node[at].input).index(str(self._weight[at]))
        name: str = self._read_whole[at].input[place]
        return name

    def _stored(self, at: int) -> str:
        """The name of the same with 8 bits, which are made when they are first asked for."""
        dequantised = self._dequantised(at)
        name = dequantised + self._stored_mark
        if name not in self._single:
            self._store(dequantised, self._weights[self._weight[at]])
        return name

    def _assembled(
        self,
        nodes: Iterable[onnx.NodeProto],
        rounded: Mapping[str, str],
        before: Mapping[str, str],
    ) -> onnx.ModelProto:
        """The model with these nodes, and what they read."""
        made = onnx.ModelProto()
        made.CopyFrom(self._model)
        graph = made.graph
        pairs: list[onnx.NodeProto] = []
        for name, pair in self._pairs.items():
            first, second = onnx.NodeProto(), onnx.NodeProto()
            first.CopyFrom(pair[0])
            second.CopyFrom(pair[1])
            first.input[0] = before.get(name, name)
            second.output[0] = rounded.get(name, second.output[0])
            pairs += [first, second]
        ordered = in_order([*nodes, *pairs, *self._single.values()])
        del graph.node[:], graph.value_info[:]
        graph.node.extend(ordered)
        graph.initializer.extend(self._constants.values())
        prune(made, [value.name for value in graph.output])
        return made


def _weight(node: onnx.NodeProto, weights: Container[str], finite: Container[str]) -> str:
    """The weight of a node that can compute in integers; empty for other nodes.

    Its other operand and its result are tensors whose ranges are known.
    """
    if node.op_type not in QUANTISED or not is_standard(node) or node.output[0] not in finite:
        return ""
    first, second = node.input[:2]
    if second in weights and first in finite:
        return str(second)
    if node.op_type == "MatMul" and first in weights and second in finite:
        return str(first)
    return ""


def _by_onnxruntime(
    model: onnx.ModelProto, nodes: list[str], tensors: Iterable[str], seen: Ranges
) -> onnx.ModelProto:
    """A model that onnxruntime's quantiser has quantised.

    Args:
        model: the model; it is changed.
        nodes: the names of the nodes to quantise.
        tensors: names of the tensors that they read and write.
        seen: the ranges of these.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    # It would infer the dtypes again, from a file.
    model.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    ends: dict[str, Any] = {
        name: (np.float32(seen[name][0]), np.float32(seen[name][1])) for name in tensors
    }
    quantizer = QDQQuantizer(
        model,
        True,  # a scale for each channel of a weight
        True,  # 7 bits for weights: two products with 8 overflow 16 bits on x86 without VNNI
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, ends),
        nodes,
        [],
        list(QUANTISED),
        {},
    )
    quantizer.quantize_model()
    made: onnx.ModelProto = quantizer.model.model
    return made
