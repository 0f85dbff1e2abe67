"""Picking elements by number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.gradient_rules.operators import Case
from generators.gradient_rules.values import apart, numbers, whole


def _tf() -> Any:
    import tensorflow as tf

    return tf


def _indices(values: Any) -> Any:
    return np.array(values, np.int64)


CASES: Mapping[str, Case] = {
    "Gather": Case(
        "Gather",
        {"x": numbers(2, 4, 3), "i": whole(3, 0, 0, 2)},
        {"axis": 1},
        lambda x: _tf().gather(x, [3, 0, 0, 2], axis=1),
        opsets=(16, 18, 22),
    ),
    "Gather a table": Case(
        "Gather",
        {"x": numbers(2, 4, 3), "i": _indices([[3, 0], [0, -2]])},
        {"axis": -2},
        opsets=(18,),
    ),
    "Gather samples": Case("Gather", {"x": numbers(4, 3), "i": whole(3, 0, 3)}, rows=False),
    "Gather one": Case(
        "Gather",
        {"x": numbers(2, 4, 3), "i": _indices(-1)},
        {"axis": 1},
        lambda x: x[:, -1],
        opsets=(13, 18, 22),
    ),
    "Gather one, kept": Case("Gather", {"x": numbers(2, 4, 3), "i": whole(1)}, {"axis": 1}),
    "Gather one in a table": Case(
        "Gather", {"x": numbers(2, 4, 3), "i": _indices([[2]])}, {"axis": 2}
    ),
    "GatherElements": Case(
        "GatherElements",
        {"x": numbers(2, 4, 3), "i": np.random.default_rng(0).integers(-4, 4, (2, 5, 3))},
        {"axis": 1},
        opsets=(16, 18, 22),
        rows=False,
    ),
    "GatherND": Case(
        "GatherND",
        {"x": numbers(2, 3, 4), "i": _indices([[0, 1], [1, 2], [0, 1]])},
        tensorflow=lambda x: _tf().gather_nd(x, [[0, 1], [1, 2], [0, 1]]),
        opsets=(16, 18, 22),
        rows=False,
    ),
    "GatherND of each sample": Case(
        "GatherND",
        {"x": numbers(2, 3, 4, 2), "i": _indices([[[0, 1], [2, -1]], [[1, 1], [1, 1]]])},
        {"batch_dims": 1},
        lambda x: _tf().gather_nd(x, [[[0, 1], [2, 3]], [[1, 1], [1, 1]]], batch_dims=1),
        rows=False,
    ),
    "GatherND of elements": Case(
        "GatherND",
        {"x": numbers(2, 3), "i": _indices([[[0]], [[2]]])},
        {"batch_dims": 1},
        rows=False,
    ),
    "TopK": Case(
        "TopK",
        {"x": apart(2, 5, 3), "k": whole(2)},
        {"axis": 1},
        outputs=2,
        opsets=(13, 18, 22),
    ),
    "TopK last": Case(
        "TopK",
        {"x": apart(2, 5), "k": whole(3)},
        {"largest": 0},
        lambda x: -_tf().math.top_k(-x, 3)[0],
        outputs=2,
    ),
    "ScatterElements": Case(
        "ScatterElements",
        {
            "x": numbers(2, 4),
            "i": _indices([[0, 2], [3, 1]]),
            "x2": numbers(2, 2, seed=3),
        },
        {"axis": 1},
        opsets=(13, 18, 22),
        rows=False,
    ),
    "ScatterElements adding": Case(
        "ScatterElements",
        {
            "x": numbers(2, 4),
            "i": _indices([[0, 2], [3, 3]]),
            "x2": numbers(2, 2, seed=3),
        },
        {"axis": 1, "reduction": "add"},
        rows=False,
    ),
    "ScatterND": Case(
        "ScatterND",
        {"x": numbers(4, 2), "i": _indices([[3], [0]]), "x2": numbers(2, 2, seed=3)},
        tensorflow=lambda x, u: _tf().tensor_scatter_nd_update(x, [[3], [0]], u),
        opsets=(13, 18, 22),
        rows=False,
    ),
    "ScatterND adding": Case(
        "ScatterND",
        {"x": numbers(4, 2), "i": _indices([[3], [3]]), "x2": numbers(2, 2, seed=3)},
        {"reduction": "add"},
        lambda x, u: _tf().tensor_scatter_nd_add(x, [[3], [3]], u),
        rows=False,
    ),
}
