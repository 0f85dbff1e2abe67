"""Gradients through every Keras layer, and through every family of `keras.applications`.

The export compares them with `tf.GradientTape`, so a successful export is the test.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
import layertap_export
from generators.layer_table import KINDS, built
from layertap._engine.session import plain_session
from layertap_export.gradients.reading import strip

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

REFUSED = (
    r"'.+' has no gradient: layertap has no rule for the operator (If|Loop|MatMulInteger)"
    r"( \(.+\))?, in the layer '(.+)' between it and the score\. Choose '\3' or a layer after it\."
)
"""Conditions, loops, and products in 8 bits."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in ("images", "resizing", "sequences", "volumes", "vectors", "words")
        for name in KINDS[kind].rows
        if not name.startswith(("bins", "lookup", "weighted count"))  # indices and counts
        and (kind, name) != ("words", "repeat")  # integers
    ],
)
def test_the_gradient_through_each_layer_matches(
    kind: str, name: str, keras: Any, tmp_path: Path
) -> None:
    table = KINDS[kind]
    model = built(keras, {name: table.rows[name]}, table.shape, table.dtype)
    if len(outputs := keras.tree.flatten(model.output)) > 1:
        model = keras.Model(model.input, outputs[0])
    asked = "input" if table.dtype == "float32" else "all"
    try:
        report = layertap_export.export(model, tmp_path / "one.onnx", gradients=asked, unsafe=True)
    except layertap_export.GradientError as exc:
        assert re.fullmatch(REFUSED, str(exc))  # noqa: PT017 - most layers have a gradient
        return
    gradients = report.card.gradients
    assert gradients is not None
    # They gather with indices that include the sample, slice the samples, or have a length each.
    by_sample = any(word in name for word in ("sparsemax", "cropped", "masked LSTM"))
    assert gradients.broadcasts or not gradients.tensors or by_sample
    found = [x for x in report.verification.layers if x.name in gradients.tensors.values()]
    assert len(found) == len(gradients.tensors)
    assert max((x.scaled for x in found), default=0) < 1e-4


FAMILIES = {
    "ConvNeXtTiny": 64,
    "DenseNet121": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "InceptionResNetV2": 96,
    "InceptionV3": 96,
    "MobileNet": 96,
    "MobileNetV2": 96,
    "MobileNetV3Small": 96,
    "NASNetMobile": 96,
    "ResNet50": 64,
    "ResNet50V2": 64,
    "VGG16": 64,
    "Xception": 96,
}
"""The size of the images for a member of each family."""


def growth(path: Path) -> float:
    """By what fraction of its size a file grew when gradients were added."""
    model, card = onnx.load(path), layertap.open(path).card
    assert card is not None
    size = model.ByteSize()
    strip(model, card)
    return size / model.ByteSize() - 1


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_each_family_match(name: str, keras: Any, tmp_path: Path) -> None:
    """With respect to three convolutions, with a class per sample and a free batch size."""
    size = FAMILIES[name]
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classes=10)
    convolutions = [x.name for x in model.layers if "Conv" in type(x).__name__]
    asked = ["last-conv", convolutions[-1], convolutions[len(convolutions) // 2], convolutions[0]]
    report = layertap_export.export(model, tmp_path / "model.onnx", gradients=[*asked, "input"])
    gradients = report.card.gradients
    assert gradients is not None
    assert gradients.broadcasts
    assert {*asked[1:]} <= gradients.tensors.keys()
    checked = report.card.verification
    assert checked is not None
    errors = [checked.layers[output].scaled for output in gradients.tensors.values()]
    assert max(errors) < 1e-5
    assert growth(report.path) < 0.02

    opened = plain_session(report.path)
    names = list(gradients.tensors.values())
    entry = report.card.inputs[0].name
    images = np.random.default_rng(0).uniform(-1, 1, (3, size, size, 3)).astype(np.float32)
    classes = np.eye(10, dtype=np.float32)[[7, 0, 3]]
    together = opened.run(names, {entry: images, gradients.weights: classes})
    for sample in range(3):
        one = slice(sample, sample + 1)
        alone = opened.run(names, {entry: images[one], gradients.weights: classes[one]})
        for output, many, single in zip(names, together, alone, strict=True):
            # A batch is summed in another order, so some values may be on the other side of a kink.
            distance = np.linalg.norm((many[one] - single).ravel())
            assert distance < 0.02 * np.linalg.norm(single.ravel()), output
