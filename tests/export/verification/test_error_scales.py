"""The scale of a sigmoid that is sure of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import layertap
import layertap_export
from layertap.comparing.check import check
from layertap.comparing.golden import feeds
from layertap_export.verification.error_scales import LEAST_SIGMOID_SCALE, least_scales

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def sure(keras: Any) -> Any:
    """A classifier as training makes them: of noise it is sure that nothing is to be seen."""
    image = keras.Input((6, 6, 3), name="image")
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = keras.layers.GlobalAveragePooling2D(name="gap")(x)
    never = keras.initializers.Constant(-11.9)
    x = keras.layers.Dense(3, "sigmoid", bias_initializer=never, name="probs")(x)
    return keras.Model(image, x, name="sure")


@pytest.fixture(scope="module")
def sure_file(sure: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sure") / "sure.onnx"
    layertap_export.export(sure, path)
    return path


def test_a_sure_sigmoid_passes(sure: Any, sure_file: Path) -> None:
    report = layertap_export.verify(sure_file, sure)
    (probs,) = [x for x in report.layers if x.name == "probs"]
    assert probs.max_abs > 0
    assert probs.scaled <= probs.max_abs / LEAST_SIGMOID_SCALE * 1.001
    assert check(layertap.open(sure_file))


@pytest.mark.filterwarnings("ignore:.*the weights are not those that were verified")
def test_it_fails_where_its_logit_is_wrong(sure: Any, sure_file: Path, tmp_path: Path) -> None:
    model = onnx.load(sure_file)
    (bias,) = [x for x in model.graph.initializer if x.name == "probs/Add/B"]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1.0, bias.name))
    bad = tmp_path / "bad.onnx"
    onnx.save(model, bad)
    assert [x.name for x in layertap_export.verify(bad, sure).failed] == ["probs"]
    assert [x.name for x in check(layertap.open(bad)).failed] == ["probs"]


def test_the_golden_scale_is_that_of_the_sigmoid(sure: Any, sure_file: Path) -> None:
    card = layertap.open(sure_file).card
    assert card is not None
    assert card.golden is not None
    golden = card.golden.layers
    assert golden["probs"].scale == LEAST_SIGMOID_SCALE
    assert max(golden["probs"].values) < 1e-4
    assert golden["conv"].scale == pytest.approx(
        np.abs(layertap.open(sure_file).tap("conv")(feeds(card.golden, card.inputs))).max(),
        rel=1e-4,
    )


def test_movers_keep_the_least_scale_of_a_sigmoid(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3])
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"]),
        helper.make_node("Add", ["t", "t"], ["sum"]),
        helper.make_node("Transpose", ["sum"], ["u"]),
        helper.make_node("Softmax", ["x"], ["softmax"]),
    ]
    names = ["s", "t", "sum", "u", "softmax"]
    outputs = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names]
    path = tmp_path / "moved.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], outputs)), path)
    assert least_scales(path) == {"s": LEAST_SIGMOID_SCALE, "t": LEAST_SIGMOID_SCALE}
