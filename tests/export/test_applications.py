"""One member of each convolutional family of `keras.applications`, small, with all its layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

import layertap_export

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

# Transposes that remain, by what asks for them: 1 at the way in, 1 before a Flatten,
# and ConvNeXt normalises and multiplies channels last.
FAMILIES = {
    "ConvNeXtTiny": (64, 37),
    "DenseNet121": (64, 1),
    "EfficientNetB0": (64, 1),
    "EfficientNetV2B0": (64, 1),
    "InceptionResNetV2": (96, 1),
    "InceptionV3": (96, 1),
    "MobileNet": (96, 1),
    "MobileNetV2": (96, 1),
    "MobileNetV3Small": (96, 1),
    "NASNetMobile": (96, 1),
    "ResNet50": (64, 1),
    "ResNet50V2": (64, 1),
    "VGG16": (64, 2),
    "Xception": (96, 1),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_is_what_keras_computes(name: str, keras: Any, tmp_path: Path) -> None:
    size, transposes = FAMILIES[name]
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classes=10)
    report = layertap_export.export(model, tmp_path / "model.onnx")
    # Some have `keras.ops` or models among their layers, whose parts are rows of their own.
    layers = [layer.name for layer in model.layers]
    assert [name for name in report.exposed if name in layers] == layers
    assert report.verification.worst.scaled < 1e-5
    graph = onnx.load(report.path).graph
    outputs = {value.name for value in graph.output}
    inner = [n for n in graph.node if n.op_type == "Transpose" and n.output[0] not in outputs]
    assert len(inner) == transposes
