"""Moving elements without changing them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.gradient_rules.operators import Case
from generators.gradient_rules.values import numbers, whole

ALL = (13, 18, 22)
FAR = 2**62


def _tf() -> Any:
    import tensorflow as tf

    return tf


def _slice(starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> dict[str, Any]:
    given: dict[str, Any] = {"starts": whole(*starts), "ends": whole(*ends)}
    if axes is not None:
        given["axes"] = whole(*axes)
    if steps is not None:
        given["steps"] = whole(*steps)
    return given


def _pad(mode: str, *pads: int, **more: Any) -> Case:
    function = {
        "reflect": lambda x: _tf().pad(x, np.reshape(pads, (2, -1)).T, mode="REFLECT"),
        "constant": lambda x: _tf().pad(x, np.reshape(pads, (2, -1)).T),
    }.get(mode)
    known = function if min(pads) >= 0 and not more else None
    inputs = {"x": numbers(2, 3, 5, 4), "pads": whole(*pads), **more}
    return Case("Pad", inputs, {"mode": mode}, known, rows=not (pads[0] or pads[4]))


def _depth_to_space(x: Any) -> Any:
    tf = _tf()
    found = tf.nn.depth_to_space(tf.transpose(x, [0, 2, 3, 1]), 2)
    return tf.transpose(found, [0, 3, 1, 2])


def _space_to_depth(x: Any) -> Any:
    tf = _tf()
    found = tf.nn.space_to_depth(tf.transpose(x, [0, 2, 3, 1]), 2)
    return tf.transpose(found, [0, 3, 1, 2])


CASES: Mapping[str, Case] = {
    "Reshape": Case(
        "Reshape",
        {"x": numbers(2, 3, 4), "shape": whole(2, -1)},
        tensorflow=lambda x: _tf().reshape(x, [2, -1]),
        opsets=ALL,
        rows=False,
    ),
    "Reshape of each sample": Case("Reshape", {"x": numbers(2, 3, 4), "shape": whole(-1, 12)}),
    "Reshape that keeps": Case("Reshape", {"x": numbers(2, 3, 4), "shape": whole(0, 0, 2, 2)}),
    "Flatten": Case("Flatten", {"x": numbers(2, 3, 4)}, opsets=ALL),
    "Flatten from axis 2": Case("Flatten", {"x": numbers(2, 3, 4)}, {"axis": 2}, rows=False),
    "Flatten all": Case("Flatten", {"x": numbers(2, 3)}, {"axis": 0}, rows=False),
    "Squeeze": Case("Squeeze", {"x": numbers(2, 1, 3, 1), "axes": whole(1, -1)}, opsets=ALL),
    "Squeeze all": Case("Squeeze", {"x": numbers(2, 1, 3, 1)}, rows=False),
    "Unsqueeze": Case("Unsqueeze", {"x": numbers(2, 3), "axes": whole(1, -1)}, opsets=ALL),
    "Transpose": Case(
        "Transpose",
        {"x": numbers(2, 3, 4, 5)},
        {"perm": [0, 3, 1, 2]},
        lambda x: _tf().transpose(x, [0, 3, 1, 2]),
        opsets=ALL,
    ),
    "Transpose reversed": Case("Transpose", {"x": numbers(2, 3, 4)}, rows=False),
    "Expand": Case(
        "Expand",
        {"x": numbers(2, 1, 4), "shape": whole(1, 3, 1)},
        tensorflow=lambda x: _tf().broadcast_to(x, [2, 3, 4]),
        opsets=ALL,
    ),
    "Expand to more axes": Case(
        "Expand", {"x": numbers(3, 1), "shape": whole(2, 3, 4)}, rows=False
    ),
    "Tile": Case(
        "Tile",
        {"x": numbers(2, 3, 2), "repeats": whole(1, 2, 3)},
        tensorflow=lambda x: _tf().tile(x, [1, 2, 3]),
        opsets=ALL,
    ),
    "Tile of samples": Case("Tile", {"x": numbers(2, 3), "repeats": whole(2, 1)}, rows=False),
    "Concat": Case(
        "Concat",
        {"x": numbers(2, 3, 4), "x2": numbers(2, 1, 4, seed=2)},
        {"axis": 1},
        lambda a, b: _tf().concat([a, b], 1),
        opsets=ALL,
    ),
    "Concat with a constant": Case(
        "Concat",
        {"c_": numbers(2, 2, seed=3), "x": numbers(2, 3), "d_": numbers(2, 1, seed=4)},
        {"axis": -1},
        rows=False,
    ),
    "Split": Case(
        "Split", {"x": numbers(2, 6), "split": whole(4, 2)}, {"axis": -1}, outputs=2, opsets=ALL
    ),
    "Slice": Case(
        "Slice",
        {"x": numbers(2, 5, 4), **_slice([1, 0], [4, -1], [1, 2])},
        tensorflow=lambda x: x[:, 1:4, :-1],
        opsets=ALL,
    ),
    "Slice of all axes": Case("Slice", {"x": numbers(2, 5), **_slice([0, 1], [2, 3])}, rows=False),
    "Slice to the end": Case("Slice", {"x": numbers(2, 5), **_slice([2], [FAR], [1])}),
    "Slice from the end": Case("Slice", {"x": numbers(2, 5), **_slice([-2], [FAR], [-1])}),
    "Slice too far": Case("Slice", {"x": numbers(2, 5), **_slice([-9], [9], [1])}),
    "Slice with steps": Case(
        "Slice",
        {"x": numbers(2, 5, 4), **_slice([0, 1], [FAR, FAR], [1, 2], [2, 2])},
        tensorflow=lambda x: x[:, ::2, 1::2],
    ),
    "Slice backwards": Case(
        "Slice",
        {"x": numbers(2, 5), **_slice([-1], [-FAR], [1], [-1])},
        tensorflow=lambda x: x[:, ::-1],
    ),
    "Slice of samples": Case("Slice", {"x": numbers(4, 3), **_slice([1], [3], [0])}, rows=False),
    "Pad": _pad("constant", 0, 0, 1, 2, 0, 0, 3, 0),
    "Pad that crops": _pad("constant", 0, 0, -1, 1, 0, 0, 2, -2),
    "Pad reflect": _pad("reflect", 0, 0, 2, 1, 0, 0, 3, 2),
    "Pad edge": _pad("edge", 0, 0, 2, 1, 0, 0, 1, 3),
    "Pad edge that crops": _pad("edge", 0, 0, -1, 1, 0, 0, 2, -2),
    "Pad with a value": _pad("constant", 0, 1, 0, 0, 0, 0, 0, 1, value_=np.array(2, np.float32)),
    "Pad of some axes": Case(
        "Pad",
        {"x": numbers(2, 3, 4), "pads": whole(1, 2), "value": None, "axes": whole(-1)},
        {"mode": "reflect"},
        lambda x: _tf().pad(x, [[0, 0], [0, 0], [1, 2]], mode="REFLECT"),
    ),
    "Pad wrap": Case(
        "Pad",
        {"x": numbers(2, 5), "pads": whole(0, 2, 0, 1)},
        {"mode": "wrap"},
        opsets=(19, 22),
    ),
    "DepthToSpace": Case(
        "DepthToSpace", {"x": numbers(2, 8, 3, 2)}, {"blocksize": 2}, _depth_to_space, opsets=ALL
    ),
    "DepthToSpace CRD": Case(
        "DepthToSpace", {"x": numbers(2, 8, 3, 2)}, {"blocksize": 2, "mode": "CRD"}
    ),
    "SpaceToDepth": Case(
        "SpaceToDepth", {"x": numbers(2, 2, 4, 6)}, {"blocksize": 2}, _space_to_depth, opsets=ALL
    ),
    "Trilu": Case("Trilu", {"x": numbers(2, 3, 4)}, opsets=(14, 18, 22)),
    "Trilu lower": Case(
        "Trilu", {"x": numbers(2, 3, 4), "k": np.array(-1, np.int64)}, {"upper": 0}
    ),
    "ReverseSequence": Case(
        "ReverseSequence",
        {"x": numbers(2, 4, 3), "lengths": whole(3, 2)},
        {"batch_axis": 0, "time_axis": 1},
        lambda x: _tf().reverse_sequence(x, [3, 2], 1, 0),
        rows=False,
    ),
}
