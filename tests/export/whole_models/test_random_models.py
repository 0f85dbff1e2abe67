"""Small random models: the file has the layers of Keras, and computes the same values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import layertap
import layertap_export
from generators import random_models, zoo
from spying import layer_at, spied_on

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not support masking and will:UserWarning"),
]

quick = settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes too long
)


@quick
@given(data=st.data())
def test_a_few_random_models_match_keras(
    data: st.DataObject, keras: Any, tmp_path_factory: Any
) -> None:
    compare_random_model(data, keras, tmp_path_factory.mktemp("random"))


@pytest.mark.slow
@settings(quick, max_examples=150, derandomize=False)
@given(data=st.data())
def test_many_random_models_match_keras(
    data: st.DataObject, keras: Any, tmp_path_factory: Any
) -> None:
    compare_random_model(data, keras, tmp_path_factory.mktemp("random"))


def compare_random_model(data: st.DataObject, keras: Any, folder: Path) -> None:
    """Draw a model, export it, and compare the file with Keras."""
    from layertap_export.keras_model.inputs import model_inputs

    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = zoo.randomised(random_models.random_model(keras, cast(st.DrawFn, data.draw)))
    report = layertap_export.export(model, folder / "model.onnx")
    assert report.verification.worst.scaled < 1e-4
    tapped = layertap.open(report.path)
    for row in tapped.layers:
        assert row.exposed or "in the loop of" in str(row.why_not)
    if hasattr(model, "operations"):
        compare_tables(keras, model, tapped.layers)

    feeds = zoo.batch(tapped.inputs)
    inputs = model_inputs(model)
    with spied_on(model) as returned:
        result = inputs.call(model, [feeds[info.name] for info in inputs.infos])
    activations = tapped.activations(feeds, tapped.select())
    for row in tapped.select():
        if row.type == "InputLayer" or row.per_sample is False:
            continue
        name = layer_at(model, row.name).name
        values = [np.asarray(x) for x in keras.tree.flatten(returned[name])]
        assert any(near(activations[row.name], x) for x in values), row.name

    flat = keras.tree.flatten(result)
    predicted = tapped.predict(feeds)
    outputs = list(predicted.values()) if isinstance(predicted, dict) else [predicted]
    expected = [np.asarray(flat[index]) for index in zoo.numbered(keras, result)]
    assert len(outputs) == len(expected)
    assert all(map(near, outputs, expected))


def compare_tables(keras: Any, model: Any, rows: Any) -> None:
    """The top-level rows are the model's operations, in its order, with the same properties."""
    top = [row for row in rows if row.parent is None]
    first = list({re.split("[#:]", row.name)[0]: row for row in reversed(top)}.values())[::-1]
    operations = model.operations
    assert [re.split("[#:]", row.name)[0] for row in first] == [x.name for x in operations]
    assert [row.type for row in first] == [type(x).__name__ for x in operations]
    nodes = [node for nodes in model._nodes_by_depth.values() for node in nodes]
    for row, operation in zip(first, operations, strict=True):
        if isinstance(operation, keras.layers.Layer):
            assert row.parameters == operation.count_params()
        calls = [node for node in operation._inbound_nodes if node in nodes]
        if len(calls) == 1:
            shapes = [tuple(x.shape) for x in calls[0].outputs]
            assert row.shape in shapes
            sources = [node.operation.name for node in calls[0].parent_nodes]
            assert {re.split("[#:]", name)[0] for name in row.inbound} == set(sources)


def near(ours: np.ndarray, theirs: np.ndarray) -> bool:
    scale = np.abs(theirs).max(initial=0)
    return (
        ours.shape == theirs.shape
        and ours.dtype == theirs.dtype
        and np.allclose(ours, theirs, atol=1e-4 * scale, rtol=0)
    )
