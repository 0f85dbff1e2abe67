"""Single operators, and what their gradients are by other means than the rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from layertap._engine.session import plain_session
from layertap.format.card import Gradients, TensorInfo
from layertap_export.gradients.extend import extend
from layertap_export.verification.float64_operators import evaluator

Array = NDArray[Any]
Function = Callable[..., Any]
"""The operator in TensorFlow, of the inputs that are differentiated by, in order."""


@dataclass(frozen=True)
class Case:
    """One form of one operator."""

    op_type: str
    inputs: Mapping[str, Array | None]
    """In the operator's order. Floating-point ones are differentiated by, others are constants;
    `None` is an input that is left out. An input with a name that ends in `_` is constant too."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    tensorflow: Function | None = None
    smooth: bool = True
    """Whether central differences give the gradient; not at a kink."""
    opsets: tuple[int, ...] = (18,)
    outputs: int = 1
    rows: bool = True
    """Whether many rows of weights go with one sample."""

    @property
    def entries(self) -> dict[str, Array]:
        """What is differentiated by."""
        return {
            name: value
            for name, value in self.inputs.items()
            if value is not None and value.dtype.kind == "f" and not name.endswith("_")
        }


def newest(case: Case) -> int:
    """The opset that exports are written for, where the case has it."""
    return 18 if 18 in case.opsets else case.opsets[-1]


CHANNELS = ("AveragePool", "LpPool", "GroupNormalization", "DepthToSpace")
"""Operators that need to know how many channels there are; models do."""


def model(case: Case, opset: int, free: bool = False, batch: bool = False) -> onnx.ModelProto:
    """The operator as a model: inputs `x...`, output `y`.

    Args:
        free: leave all sizes open, each under a name of its own.
        batch: leave the first one open.
    """
    entries = case.entries
    values = []
    for name, value in entries.items():
        dims: list[int | str] = list(value.shape)
        if free:
            dims = [f"{name}_{axis}_{size}" for axis, size in enumerate(value.shape)]
            if case.op_type in CHANNELS:
                dims[1] = value.shape[1]
            if case.op_type == "DFT":  # 1 and 2 are numbers of different kinds
                dims[-1] = value.shape[-1]
        if batch and dims:
            dims[0] = "batch"
        values.append(_info(name, value, dims))
    names = ["" if value is None else name for name, value in case.inputs.items()]
    outputs = ["y", *(f"y{i}" for i in range(1, case.outputs))]
    graph = helper.make_graph(
        [helper.make_node(case.op_type, names, outputs, name="node", **case.attributes)],
        "operator",
        values,
        [onnx.ValueInfoProto(name="y")],
        [
            numpy_helper.from_array(value, name)
            for name, value in case.inputs.items()
            if value is not None and name not in entries
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    made.graph.output[0].CopyFrom(_result(made, entries))
    return made


def _info(name: str, value: Array, dims: Sequence[int | str | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), dims)


def _result(made: onnx.ModelProto, entries: Mapping[str, Array]) -> onnx.ValueInfoProto:
    (value,) = plain_session(made.SerializeToString()).run(["y"], dict(entries))
    return _info("y", value, [None] * value.ndim)


@dataclass(frozen=True)
class Backward:
    """A model with the gradients of `y` by all its inputs."""

    model: onnx.ModelProto
    gradients: Gradients

    @classmethod
    def of(cls, made: onnx.ModelProto) -> Backward:
        extended = onnx.ModelProto()
        extended.CopyFrom(made)
        inputs = [
            TensorInfo(name=x.name, shape=(None,) * len(x.type.tensor_type.shape.dim), dtype="")
            for x in made.graph.input
        ]
        outputs = [TensorInfo(name="y", shape=(), dtype="float32")]
        gradients, independent, _ = extend(
            extended, [], inputs, outputs, ["input"], "y:probability", channels_last=False
        )
        assert independent == ()
        return cls(extended, gradients)

    def run(self, feeds: Mapping[str, Array], weights: Array) -> dict[str, Array]:
        """Gradients by name of the input."""
        opened = plain_session(self.model.SerializeToString())
        names = list(self.gradients.tensors)
        outputs = [self.gradients.tensors[name] for name in names]
        found = opened.run(outputs, {**feeds, self.gradients.weights: weights})
        return dict(zip(names, found, strict=True))


def forward(made: onnx.ModelProto, feeds: Mapping[str, Array]) -> Array:
    """The output `y`, computed by onnxruntime."""
    (value,) = plain_session(made.SerializeToString()).run(["y"], dict(feeds))
    return np.asarray(value)


def differences(case: Case, opset: int, weights: Array) -> dict[str, Array]:
    """The gradients by central differences in float64, element by element.

    The operator is computed by the reference evaluator; that it is the operator which onnxruntime
    computes is asserted on the way.
    """
    feeds = {name: value.astype(np.float64) for name, value in case.entries.items()}
    made = model(case, opset)
    wide = onnx.ModelProto()
    wide.CopyFrom(made)
    for value in wide.graph.input:
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for item in wide.graph.initializer:
        if item.data_type == onnx.TensorProto.FLOAT and not _stays_single(case, item.name):
            array = numpy_helper.to_array(item).astype(np.float64)
            item.CopyFrom(numpy_helper.from_array(array, item.name))
    exact: Any = evaluator(wide)

    def total(values: Mapping[str, Array]) -> float:
        return float(np.sum(weights * exact.run(["y"], dict(values))[0]))

    expected = exact.run(["y"], feeds)[0]
    np.testing.assert_allclose(forward(made, case.entries), expected, rtol=1e-4, atol=1e-5)
    found = {}
    for name, value in feeds.items():
        gradient = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = value.copy()
                moved[index] += step
                ends.append(total({**feeds, name: moved}))
            gradient[index] = (ends[0] - ends[1]) / 2e-6
        found[name] = gradient
    return found


def _stays_single(case: Case, name: str) -> bool:
    """The scales of a Resize are float32 whatever it resizes."""
    return case.op_type == "Resize" and name != "x"


def by_tensorflow(case: Case, weights: Array) -> dict[str, Array]:
    """The gradients that TensorFlow gives for the same operator."""
    import tensorflow as tf

    assert case.tensorflow is not None
    inputs = {name: tf.constant(value) for name, value in case.entries.items()}
    with tf.GradientTape() as tape:
        tape.watch(list(inputs.values()))
        y = case.tensorflow(*inputs.values())
        total = tf.reduce_sum(y * tf.constant(weights.astype(y.dtype.as_numpy_dtype)))
    found = tape.gradient(total, inputs)
    return {name: tf.convert_to_tensor(value).numpy() for name, value in found.items()}
