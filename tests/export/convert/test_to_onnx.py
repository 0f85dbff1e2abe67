"""How much work a conversion is."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.tensorflow


def test_the_work_grows_with_the_model_and_not_with_its_square(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """tf2onnx notes every node as a reader of every output, if it is given all nodes."""
    import keras
    from tf2onnx.graph import Graph

    from layertap_export.convert.to_onnx import to_onnx
    from layertap_export.keras_model.subject import subject_of

    calls = 0
    original = Graph._register_input_name

    def counted(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        original(*args, **kwargs)

    monkeypatch.setattr(Graph, "_register_input_name", counted)
    found = []
    for depth in (20, 40):
        calls = 0
        steps = [keras.layers.ReLU(max_value=5.0) for _ in range(depth)]
        traced = subject_of(keras.Sequential([keras.Input((4,)), *steps])).trace()
        to_onnx(traced.function, ["x"], 18)
        found.append(calls)
    assert found[1] < 2.5 * found[0], found
