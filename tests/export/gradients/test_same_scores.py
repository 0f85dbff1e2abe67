"""One file, one meaning of "score": gradients and score-based maps explain the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
from generators import tiny
from layertap._engine.program import program_of
from layertap.cam.scores import find_scores
from layertap_export import add_gradients

LAYOUTS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "Flatten": [("Flatten", {})],
    "Reshape": [("Reshape shape", {})],
    "Squeeze": [("Squeeze axes", {})],
    "Transpose": [("Transpose", {"perm": [0, 2, 3, 1]})],
    "Unsqueeze": [("Flatten", {}), ("Unsqueeze one", {})],
    "Cast": [("Flatten", {}), ("Cast", {"to": onnx.TensorProto.DOUBLE})],
    "several": [("Transpose", {"perm": [0, 2, 3, 1]}), ("Squeeze places", {}), ("Identity", {})],
}
"""What comes after the activation: `(n, 3, 1, 1)` becomes one row of three classes."""

W = np.random.default_rng(1).normal(size=(3, 4, 1, 1)).astype(np.float32)


def classifier(activation: str, layout: str) -> onnx.ModelProto:
    attributes: dict[str, Any] = {} if activation == "Sigmoid" else {"axis": 1}
    nodes = [tiny.node("Conv", "x w", "z"), tiny.node(activation, "z", "0", **attributes)]
    for at, (step, more) in enumerate(LAYOUTS[layout]):
        op_type, *constants = step.split()
        nodes.append(tiny.node(op_type, " ".join([str(at), *constants]), str(at + 1), **more))
    kind = onnx.TensorProto.DOUBLE if layout == "Cast" else onnx.TensorProto.FLOAT
    return tiny.model(
        nodes,
        [tiny.value("x", ["n", 4, 1, 1])],
        [tiny.value(str(len(LAYOUTS[layout])), None, kind)],
        [
            onnx.numpy_helper.from_array(W, "w"),
            tiny.constant("shape", [-1, 3]),
            tiny.constant("axes", [2, 3]),
            tiny.constant("places", [1, 2]),
            tiny.constant("one", [1]),
        ],
    )


@pytest.mark.parametrize("activation", ["Sigmoid", "Softmax", "LogSoftmax"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_of_the_scores_that_the_runtime_reads(
    activation: str, layout: str, tmp_path: Path
) -> None:
    """The scores are linear in `x`: both must be what the weights say."""
    made = classifier(activation, layout)
    source = tiny.save(made, tmp_path / "m.onnx")
    add_gradients(source, tmp_path / "g.onnx", "input")
    x = np.random.default_rng(2).normal(size=(2, 4, 1, 1)).astype(np.float32)
    for path in (source, tmp_path / "g.onnx"):
        program = program_of(layertap.open(path))
        scores = find_scores(program, made.graph.output[0].name)
        values = program.fetch(scores.tensors, appended=scores.appended)({"x": x})
        expected = x[:, :, 0, 0] @ W[:, :, 0, 0].T
        found = scores.read(values).reshape(2, 3)  # without axes of positions
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    model = layertap.open(tmp_path / "g.onnx")
    for index in range(3):
        found = model.gradients(x, "x", index)
        np.testing.assert_allclose(found, np.stack([W[index]] * 2), rtol=1e-5)
