"""numpy's sum of float32 numbers as nodes, bit for bit.

numpy adds up a contiguous array in pairs of halves, so that rounding errors stay small
(`pairwise_sum` in `numpy/_core/src/umath/loops_utils.h.src`): up to 128 numbers in 8 sums side by
side, which are added up in a fixed order; more numbers as two halves, the first of which is a
multiple of 8 long. How they are split depends on their number alone, so it has to be known.
"""

from __future__ import annotations

from collections.abc import Mapping

from layertap_export.gradients.builder import Builder, Value

from .tensors import part, reshaped

BLOCK = 128
"""The most numbers that are not halved."""

LANES = 8
"""Sums side by side."""


def pairwise_sum(build: Builder, rows: Value, size: int) -> Value:
    """The sum of each row of `(n, size)`, float32, as `(n, 1)`."""
    return _sums(build, {size: rows})[size]


def _sums(build: Builder, groups: Mapping[int, Value]) -> dict[int, Value]:
    """Sums of rows, by their length; all rows of a length are in one tensor."""
    found: dict[int, Value] = {}
    parts: dict[int, list[tuple[int, int]]] = {}
    below: dict[int, list[Value]] = {}
    for size, rows in groups.items():
        if size <= BLOCK:
            found[size] = _block(build, rows, size)
            continue
        first = size // 2 - size // 2 % LANES
        if first == size - first:  # halves are rows of half the length
            below.setdefault(first, []).append(reshaped(build, rows, -1, first))
            parts.setdefault(size, []).append((first, len(below[first]) - 1))
            continue
        for half, start in ((first, 0), (size - first, first)):
            piece = part(build, rows, 1, start, start + half)
            below.setdefault(half, []).append(piece)
            parts.setdefault(size, []).append((half, len(below[half]) - 1))
    if not parts:
        return found
    joined = {size: _joined(build, pieces) for size, pieces in below.items()}
    lower = _sums(build, joined)
    for size, places in parts.items():
        sums = [_taken(build, lower[half], below[half], at) for half, at in places]
        if len(sums) == 1:
            pairs = reshaped(build, sums[0], -1, 2)
            sums = [part(build, pairs, 1, 0, 1), part(build, pairs, 1, 1, 2)]
        found[size] = sums[0] + sums[1]
    return found


def _joined(build: Builder, pieces: list[Value]) -> Value:
    return pieces[0] if len(pieces) == 1 else build.node("Concat", *pieces, axis=0)


def _taken(build: Builder, sums: Value, pieces: list[Value], at: int) -> Value:
    """The sums of one of the pieces that were joined."""
    counts = [part(build, piece.shape(), 0, 0, 1) for piece in pieces]
    start = build.int64([0])
    for count in counts[:at]:
        start = start + count
    return sums if len(pieces) == 1 else part(build, sums, 0, start, start + counts[at])


def _block(build: Builder, rows: Value, size: int) -> Value:
    """The sums of rows of at most `BLOCK` numbers."""
    if size < LANES:
        return _in_order(build, rows)
    whole = size - size % LANES
    lanes = reshaped(build, part(build, rows, 1, 0, whole), -1, whole // LANES, LANES)
    now = lanes.op("CumSum", build.int64(1)).op("Gather", build.int64(-1), axis=1)
    for width in (4, 2, 1):  # neighbours are added
        pairs = reshaped(build, now, -1, width, 2)
        now = pairs.op("Gather", build.int64(0), axis=2) + pairs.op(
            "Gather", build.int64(1), axis=2
        )
    if whole == size:
        return now
    rest = part(build, rows, 1, whole, size)
    return _in_order(build, build.node("Concat", now, rest, axis=1))


def _in_order(build: Builder, rows: Value) -> Value:
    return rows.op("CumSum", build.int64(1)).op("Gather", build.int64([-1]), axis=1)
