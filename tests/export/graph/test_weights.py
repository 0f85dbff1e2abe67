"""Large weights are kept outside the graph."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from layertap_export.graph.weights import STUB_BYTES, Initializers, is_stub

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported

W = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)


def test_a_large_value_is_kept_and_not_copied() -> None:
    initializers = Initializers()
    array = np.zeros(STUB_BYTES // 4, np.float32).reshape(-1, 2).T
    made = initializers.make(array, "w")
    assert (made.name, list(made.dims), made.data_type) == (
        "w",
        [2, STUB_BYTES // 8],
        TensorProto.FLOAT,
    )
    assert is_stub(made)
    assert made.ByteSize() < 100
    assert initializers.value(made) is array


def test_a_small_value_is_in_the_graph() -> None:
    initializers = Initializers()
    array = np.zeros(STUB_BYTES // 4 - 1, np.float32)
    made = initializers.make(array, "b")
    assert not is_stub(made)
    np.testing.assert_array_equal(numpy_helper.to_array(made), array)
    np.testing.assert_array_equal(initializers.value(made), array)
