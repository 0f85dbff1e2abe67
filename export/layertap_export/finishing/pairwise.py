"""numpy's sum of float32 numbers as nodes, bit for bit.

numpy adds up a contiguous array in pairs of halves, so that rounding errors stay small
(`pairwise_sum` in `numpy/_core/src/umath/loops_utils.h.src`): up to 128 numbers in 8 sums side by
side, which are added up in a fixed order, and then the rest of a division by 8; more numbers as two
halves, the first of which is a multiple of 8 long. How they are split depends on their number
alone, so it has to be known.

Here, all blocks have one layout, in which what a shorter block lacks is 0: adding 0 changes
nothing.
"""

from __future__ import annotations

from layertap_export.gradients.builder import Builder, Value

from .tensors import reshaped

BLOCK = 128
"""The most numbers that are not halved."""

LANES = 8
"""Sums side by side."""


def pairwise_sum(build: Builder, rows: Value, size: int) -> Value:
    """The sum of each row of `(n, size)`, float32, as `(n, 1)`."""
    if size < LANES:
        return rows.op("CumSum", build.int64(1)).op("Gather", build.int64([-1]), axis=1)
    depth = _depth(size)
    lanes, rest = _indices(build, size, depth)
    zeros = rows.op("Slice", build.int64([0]), build.int64([1]), build.int64([1])) * 0.0
    padded = build.node("Concat", rows, zeros, axis=1)
    sides = padded.op("Gather", lanes, axis=1)  # (n, blocks, 16, LANES)
    now = sides.op("CumSum", build.int64(2)).op("Gather", build.int64(-1), axis=2)
    for width in (4, 2, 1):  # neighbours are added
        now = _added(build, reshaped(build, now, -1, 1 << depth, width, 2), 3)
    tail = build.node("Concat", now, padded.op("Gather", rest, axis=1), axis=2)
    now = tail.op("CumSum", build.int64(2)).op("Gather", build.int64(-1), axis=2)
    for level in reversed(range(depth)):
        now = _added(build, reshaped(build, now, -1, 1 << level, 2), 2)
    return now


def _added(build: Builder, pairs: Value, axis: int) -> Value:
    """The sums of pairs: one addition each."""
    return pairs.op("ReduceSum", build.int64([axis]), keepdims=0)


def _depth(size: int) -> int:
    """How often the numbers are halved; the second half is never shorter."""
    depth = 0
    while size > BLOCK:
        size -= size // 2 - size // 2 % LANES
        depth += 1
    return depth


def _indices(build: Builder, size: int, depth: int) -> tuple[Value, Value]:
    """Which number is where in each block; `size` stands for 0.

    Returns:
        int64 `(blocks, 16, LANES)`, and of the rest after a division by 8 `(blocks, LANES - 1)`.
    """
    starts, counts = build.int64([0]), build.int64([size])
    for _ in range(depth):  # a block that is short enough has an empty second half
        half = counts / 2
        half = (counts > BLOCK).where(half - half.op("Mod", build.int64(LANES)), counts)
        starts = _interleaved(build, starts, starts + half)
        counts = _interleaved(build, half, counts - half)
    starts, counts = (reshaped(build, value, -1, 1) for value in (starts, counts))
    whole = counts - counts.op("Mod", build.int64(LANES))

    def placed(first: Value, count: int, limit: Value) -> Value:
        numbers = build.node("Range", *map(build.int64, (0, count, 1)))
        return (numbers < limit).where(first + numbers, build.int64(size))

    lanes = placed(starts, BLOCK, whole)
    rest = placed(starts + whole, LANES - 1, counts - whole)
    return reshaped(build, lanes, -1, BLOCK // LANES, LANES), rest


def _interleaved(build: Builder, first: Value, second: Value) -> Value:
    pairs = (reshaped(build, value, -1, 1) for value in (first, second))
    return reshaped(build, build.node("Concat", *pairs, axis=1), -1)
