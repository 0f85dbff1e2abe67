"""Which tokens are patches of an image: on small graphs, and against numpy on random ones."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from layertap.format.layer import Tokens
from layertap_export.graph.tokens import TokenGrids

NHWC = {"x": "NHWC"}
FLAT = ["Reshape x =0,-1,5 flat"]
"""The rows and columns of the input, `(batch, 4, 6, 5)`, as tokens."""


def graph(steps: list[str], dims: tuple[Any, ...] = ("batch", 4, 6, 5)) -> onnx.ModelProto:
    """A graph of nodes, each as `OPERATOR inputs... output attribute=value`, in one line.

    An input `=1,2` is a constant of these integers, and `#2x3` one of floats with these sizes.
    """
    nodes, weights = [], []
    for step in steps:
        operator, *words = step.split()
        options: dict[str, Any] = {}
        while "=" in words[-1].lstrip("="):
            name, _, value = words.pop().partition("=")
            numbers = [int(x) for x in value.split(",")] if value[0] in "-0123456789" else []
            options[name] = value if not numbers else numbers if "," in value else numbers[0]
        *names, output = words
        for at, name in enumerate(names):
            if name[0] in "=#":
                sizes = [int(x) for x in name[1:].replace("x", ",").split(",")]
                values: NDArray[Any] = np.array(sizes, np.int64)
                if name[0] == "#":
                    values = np.ones(sizes, np.float32)
                names[at] = f"constant_{len(weights)}"
                weights.append(numpy_helper.from_array(values, names[at]))
        outputs = output.split(",")
        nodes.append(helper.make_node(operator, names, outputs, **options))
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    made = helper.make_graph(nodes, "g", [value], [], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def tokens(steps: list[str], tensor: str, axis: int = 1, **options: Any) -> Tokens | None:
    return TokenGrids(graph(steps, **options), NHWC).tokens(tensor, axis)


CLASS = ["Concat #1x1x5 flat one axis=1"]
ATTENTION = [
    "Reshape one =0,-1,1,5 q", "Transpose q left perm=0,2,1,3", "Transpose q right perm=0,2,3,1",
    "MatMul left right logits", "Softmax logits scores axis=-1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "tensor", "axis", "expected"),
    [
        (["Reshape x =0,24,5 y"], "y", 1, ((4, 6), 0)),
        (["Transpose x t perm=0,3,1,2", "Reshape t =0,5,-1 y"], "y", 2, ((4, 6), 0)),
        # Columns first, two samples as one, and other axes than rows and columns.
        (["Transpose x t perm=0,2,1,3", "Reshape t =0,-1,5 y"], "y", 1, None),
        (["Reshape x =-1,6,5 y"], "y", 1, None),
        (["Reshape x =0,4,-1 y"], "y", 1, None),
        # A convolution has feature maps of another size; channels first.
        (["Transpose x t perm=0,3,1,2", "Conv t #7x5x2x2 m strides=2,2", "Reshape m =0,7,-1 y"],
         "y", 2, ((2, 3), 0)),
        # Patches by a reshape: rows of patches, rows inside them, and the same for columns.
        (["Reshape x =0,2,2,2,3,5 s", "Transpose s t perm=0,1,3,2,4,5", "Reshape t =0,4,-1 y"],
         "y", 1, ((2, 2), 0)),
        # Without the permutation these are no patches.
        (["Reshape x =0,2,2,2,3,5 s", "Reshape s =0,4,-1 y"], "y", 1, None),
        # Windows are samples of their own, with the tokens inside them.
        (["Reshape x =0,2,2,2,3,5 s", "Transpose s t perm=0,1,3,2,4,5", "Reshape t =-1,6,5 y"],
         "y", 1, None),
        # Tokens before the patches and behind them.
        ([*FLAT, "Concat #1x2x5 flat y axis=1"], "y", 1, ((4, 6), 2)),
        ([*FLAT, "Concat flat #1x3x5 y axis=1"], "y", 1, ((4, 6), 0)),
        ([*FLAT, "Concat #1x1x5 flat #1x3x5 y axis=1"], "y", 1, ((4, 6), 1)),
        ([*FLAT, "Concat flat flat y axis=1"], "y", 1, None),
        ([*FLAT, "Concat flat flat y axis=2"], "y", 1, ((4, 6), 0)),
        ([*FLAT, *CLASS, "Slice one =1 =25 =1 y"], "y", 1, ((4, 6), 0)),
        ([*FLAT, *CLASS, "Slice one =2 =25 =1 y"], "y", 1, None),
        ([*FLAT, *CLASS, "Slice one =0 =2 =2 y"], "y", 1, ((4, 6), 1)),
        ([*FLAT, *CLASS, "Slice one =0 =25 =1 =2 y"], "y", 1, None),
        ([*FLAT, *CLASS, "Split one =1,24 a,y axis=1"], "y", 1, ((4, 6), 0)),
        ([*FLAT, *CLASS, "Split one =1,24 a,y axis=1"], "a", 1, None),
        ([*FLAT, *CLASS, "Gather one =0,1 y axis=1"], "y", 1, None),
        ([*FLAT, "Pad flat =0,1,0,0,2,0 y"], "y", 1, ((4, 6), 1)),
        # Layers that keep the positions, and some that mix them.
        ([*FLAT, *CLASS, "MatMul one #5x7 y"], "y", 1, ((4, 6), 1)),
        ([*FLAT, *CLASS, "Add one #25x5 y"], "y", 1, ((4, 6), 1)),
        ([*FLAT, *CLASS, "LayerNormalization one #5 #5 y"], "y", 1, ((4, 6), 1)),
        ([*FLAT, "MatMul #24x24 flat y"], "y", 1, None),
        ([*FLAT, "MatMul #24x24 flat m", "Add m flat y"], "y", 1, ((4, 6), 0)),
        ([*FLAT, "ReduceMean flat =1 y"], "y", 1, None),
        ([*FLAT, *CLASS, "Einsum one #5x2x3 y equation=btc,chd->bhtd"], "y", 2, ((4, 6), 1)),
        # Queries and keys, and what the values are made to.
        ([*FLAT, *CLASS, *ATTENTION], "scores", 2, ((4, 6), 1)),
        ([*FLAT, *CLASS, *ATTENTION], "scores", 3, ((4, 6), 1)),
        ([*FLAT, *CLASS, *ATTENTION, "MatMul scores left h", "Transpose h t perm=0,2,1,3",
          "Reshape t =0,25,5 y"], "y", 1, ((4, 6), 1)),
    ],
)  # fmt: skip
def test_patches_are_followed_through_operators(
    steps: list[str], tensor: str, axis: int, expected: tuple[Any, int] | None
) -> None:
    found = tokens(steps, tensor, axis)
    assert found == (expected and Tokens(grid=expected[0], first=expected[1]))
    onnx.checker.check_model(graph(steps))


@pytest.mark.parametrize("dims", [("batch", "height", 6, 5), ("batch", 1, 24, 5), (2, 4, 6, 5)])
def test_sizes_that_are_free_or_1_are_no_grid(dims: tuple[Any, ...]) -> None:
    found = tokens(["Reshape x =0,-1,5 y"], "y", dims=dims)
    assert found == (Tokens(grid=(4, 6)) if dims[0] == 2 else None)


def test_a_text_has_no_grid() -> None:
    made = graph(["Reshape x =0,-1,5 y"])
    assert TokenGrids(made, {}).tokens("y", 1) is None


def chain(rng: random.Random) -> tuple[list[str], NDArray[Any]]:
    """Random reshapes and permutations of `(2, 4, 6, 2)`, and what they make of the positions.

    Returns:
        The steps; and of each element of `y`, the last tensor, its sample, row and column.
    """
    value = np.stack(np.meshgrid(*map(np.arange, (2, 4, 6, 2)), indexing="ij"), -1)
    steps, name = [], "x"
    for at in range(rng.randint(1, 6)):
        sizes = list(value.shape[:-1])
        made = f"t{at}"
        kind = rng.choice(("split", "join", "join", "permute"))
        if kind == "permute":
            perm = rng.sample(range(len(sizes)), len(sizes))
            steps.append(f"Transpose {name} {made} perm={','.join(map(str, perm))}")
            value = value.transpose(*perm, len(sizes))
        else:
            axis = rng.randrange(len(sizes))
            if kind == "split" and sizes[axis] > 2:
                parts = [size for size in (2, 3) if sizes[axis] % size == 0]
                part = rng.choice(parts)
                sizes[axis : axis + 1] = rng.choice(
                    ([part, sizes[axis] // part], [sizes[axis] // part, part])
                )
            elif axis + 1 < len(sizes):
                sizes[axis : axis + 2] = [sizes[axis] * sizes[axis + 1]]
            steps.append(f"Reshape {name} ={','.join(map(str, sizes))} {made}")
            value = value.reshape(*sizes, 4)
        name = made
    return [*steps, f"Identity {name} y"], value[..., :3]


def is_grid(places: NDArray[Any], axis: int, grid: tuple[int, int]) -> bool:
    """Whether an axis goes through rows and columns of patches, and all else stays inside one."""
    rows, columns = grid
    moved = np.moveaxis(places, axis, 0).reshape(rows * columns, -1, 3)
    patch = np.stack([moved[..., 1] // (4 // rows), moved[..., 2] // (6 // columns)], -1)
    expected = np.stack(np.divmod(np.arange(rows * columns), columns), -1)
    return bool((patch == expected[:, None]).all())


def test_random_reshapes_agree_with_numpy() -> None:
    """Wherever a grid is found, the axis goes through the patches; and many are found."""
    rng = random.Random(1)
    found = 0
    for _ in range(400):
        steps, places = chain(rng)
        grids = TokenGrids(graph(steps, (2, 4, 6, 2)), NHWC)
        for axis in range(places.ndim - 1):
            known = grids.tokens("y", axis)
            if known is not None:
                assert is_grid(places, axis, known.grid), steps
                assert known.first == 0
                found += 1
    assert found >= 15
