"""The operators that Keras's layers become: one for a normalisation, none but products for
attention."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import onnx
import pytest
from keras import layers, ops

import layertap_export

pytestmark = pytest.mark.tensorflow

ONE = {"ReduceMean", "Sub", "LayerNormalization"}
TURNED = {*ONE, "Transpose"}
RMS = {"Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul"}
GROUPS = {"Transpose", "Reshape", "InstanceNormalization", "BatchNormalization"}
PRODUCTS = {"Transpose", "Reshape", "MatMul", "Add", "Mul", "Softmax"}
WIDE: dict[str, tuple[Callable[[Any], Any], set[str]]] = {
    "last": (layers.LayerNormalization(), ONE),
    "rows": (layers.LayerNormalization(axis=1), TURNED),
    "all": (layers.LayerNormalization(axis=(1, 2)), ONE),
    "bare": (layers.LayerNormalization(center=False, scale=False), ONE),
    "unscaled": (layers.LayerNormalization(scale=False), ONE),
    "uncentred": (layers.LayerNormalization(center=False), ONE),
    "mixed": (layers.LayerNormalization(dtype="mixed_float16"), {*ONE, "Cast"}),
    "half": (layers.LayerNormalization(dtype="mixed_bfloat16"), {*ONE, "Cast"}),
    "function": (lambda x: ops.layer_normalization(x, axis=-1), ONE),
    "rms": (layers.RMSNormalization(), RMS),
    "gelu": (lambda x: ops.gelu(x, approximate=False), {"Div", "Erf", "Add", "Mul"}),
    "gelu_tanh": (ops.gelu, {"Mul", "Add", "Tanh"}),
    "mish": (layers.Activation("mish"), {"Clip", "Exp", "Add", "Mul", "Div"}),
    "swish": (layers.Activation("hard_silu"), {"HardSwish"}),
    "attention": (lambda x: layers.MultiHeadAttention(2, 4)(x, x), PRODUCTS),
    "dropped": (lambda x: layers.MultiHeadAttention(2, 4, dropout=0.5)(x, x), PRODUCTS),
    "cross": (lambda x: layers.MultiHeadAttention(2, 4)(x, x[:, :3]), {*PRODUCTS, "Slice"}),
    "einsum": (lambda x: ops.einsum("abc,adc->abd", x, x), {"Transpose", "MatMul"}),
    "dense": (layers.EinsumDense("abc,cde->abde", (None, 2, 3)), {"MatMul", "Reshape"}),
}
IMAGES: dict[str, tuple[Callable[[Any], Any], set[str]]] = {
    "groups": (layers.GroupNormalization(4), GROUPS),
    "each": (layers.GroupNormalization(-1), GROUPS),
    "one": (layers.GroupNormalization(1), {*GROUPS, "Mul", "Add"}),
    "two axes": (layers.LayerNormalization(axis=(1, 3)), TURNED),
}


def exported(cases: Any, shape: Any, folder: Path) -> dict[str, set[str]]:
    """By case, the operators of a model that consists of it; the export verifies the values."""
    found = {}
    for name, (layer, _) in cases.items():
        x = keras.Input(shape)
        model = keras.Model(x, layers.Activation("linear", name="end")(layer(x)))
        generator = keras.random.SeedGenerator(0)
        for weight in model.weights:
            if weight.dtype != "uint32":
                weight.assign(keras.random.uniform(weight.shape, 0.5, 1.5, seed=generator))
        report = layertap_export.export(model, folder / "x.onnx")
        nodes = onnx.load(report.path).graph.node
        found[name] = {node.op_type for node in nodes} - {"Identity"}
        assert report.card.verification
        checks = report.card.verification.layers.values()
        assert max(check.scaled for check in checks) < 4e-6 or name in ("mixed", "half")
    return found


def test_sequences(tmp_path: Path) -> None:
    assert exported(WIDE, (6, 8), tmp_path) == {name: case[1] for name, case in WIDE.items()}


def test_images(tmp_path: Path) -> None:
    for name, operators in exported(IMAGES, (5, 6, 8), tmp_path).items():
        assert operators <= IMAGES[name][1], name
        assert len(operators & {"InstanceNormalization", "LayerNormalization"}) == 1


def test_images_of_any_size(tmp_path: Path) -> None:
    case = {"free": (layers.GroupNormalization(4), GROUPS)}
    (operators,) = exported(case, (None, None, 8), tmp_path).values()
    assert "InstanceNormalization" in operators
    assert not operators & {"ReduceMean", "Sqrt"}


def test_keras_2(tmp_path: Path) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    for options in ({}, {"axis": 1}, {"dtype": "mixed_float16"}):
        x = tf_keras.Input((6, 8))
        model = tf_keras.Model(x, tf_keras.layers.LayerNormalization(**options)(x))
        layertap_export.export(model, tmp_path / "x.onnx")
        operators = {node.op_type for node in onnx.load(tmp_path / "x.onnx").graph.node}
        assert operators - {"Transpose", "Cast"} == ONE
