"""Seeded inputs: the same numbers on every machine, with every numpy, for ever."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layertap.comparing.golden import (
    BLOCK,
    CHUNK,
    indices,
    largest,
    norm,
    seeded,
    sum_scale,
    uniform,
    weighted_sums,
)

GAMMA = 0x9E3779B97F4A7C15


def splitmix64(state: int = 0) -> Iterator[int]:
    """The published algorithm, with Python's integers.

    Source: Sebastiano Vigna, https://prng.di.unimi.it/splitmix64.c (public domain)
    """
    while True:
        state = (state + GAMMA) % 2**64
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        yield z ^ (z >> 31)


def number(seed: int, index: int) -> int:
    """One number of the sequence; each step adds GAMMA."""
    return next(splitmix64((seed * 2**32 + index) * GAMMA))


def expected(seed: int, index: int) -> Fraction:
    """The upper 24 bits of one number of the sequence, as a fraction."""
    return Fraction(number(seed, index) >> 40, 2**24)


def test_the_reference_is_the_published_generator() -> None:
    """Its first numbers for seed 0, as many libraries print them."""
    generator = splitmix64()
    assert [next(generator) for _ in range(3)] == [
        0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F,
    ]  # fmt: skip


@given(st.integers(0, 2**31), st.integers(1, 50))
def test_every_number_is_the_references(seed: int, count: int) -> None:
    numbers = uniform((count,), 0.0, 1.0, seed)
    assert [Fraction(float(x)) for x in numbers] == [expected(seed, i) for i in range(count)]


@pytest.mark.parametrize(
    ("seed", "numbers"),
    [
        (0, [0xE220A8, 0x6E789E, 0x06C45D, 0xF88BB8]),
        (1, [0x46093C, 0xE7FF81, 0x99EDB3, 0x1DF1DE]),
        (2**31, [0x481EC0, 0xC46FA6, 0x61A685, 0x592E26]),
    ],
)
def test_numbers_that_must_never_change(seed: int, numbers: list[int]) -> None:
    """Files that are out in the world carry what Keras made of these."""
    found = uniform((4,), 0.0, 1.0, seed)
    assert [int(x * 2**24) for x in found] == numbers


def test_they_fill_the_shape_in_c_order() -> None:
    found = uniform((2, 3, 4), -1.0, 3.0, seed=7)
    assert found.shape == (2, 3, 4)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found.ravel(), -1 + 4 * uniform((24,), 0.0, 1.0, seed=7))
    np.testing.assert_array_equal(found[0, 0], uniform((4,), -1.0, 3.0, seed=7))
    assert uniform((0, 3), 0, 1, 0).shape == (0, 3)
    assert uniform((), 0.0, 1.0, 0) == expected(0, 0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_real_inputs_are_rounded_once(dtype: str) -> None:
    found = seeded((5, 5), dtype, 0.0, 255.0, seed=0)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, uniform((5, 5), 0.0, 255.0, 0).astype(dtype))


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("int32", 0, 10), ("int64", -3, 3), ("uint8", 0, 256), ("int8", -128, 128), ("int16", 5, 6)],
)
def test_whole_inputs_take_every_value_of_the_range(dtype: str, low: int, high: int) -> None:
    found = seeded((5000,), dtype, low, high, seed=0)
    assert found.dtype == dtype
    assert np.unique(found).tolist() == list(range(low, high))


@pytest.mark.parametrize("step", [None, 1.0])
@pytest.mark.parametrize(
    ("dtype", "choices"),
    [
        *((dtype, None) for dtype in ("float32", "float16", "int32", "uint8", "bool")),
        ("string", ("a", "b")),
        ("int64", (5, 6)),
    ],
)
def test_a_sample_without_axes_is_an_array(
    dtype: str, choices: tuple[Any, ...] | None, step: float | None
) -> None:
    made = seeded((), dtype, 0.0, 2.0, 0, choices, step)
    assert type(made) is np.ndarray
    assert (made.shape, made.dtype) == ((), np.dtype("O" if dtype == "string" else dtype))
    assert made.item() == seeded((1,), dtype, 0.0, 2.0, 0, choices, step)[0]


def test_truth_values_are_about_half() -> None:
    found = seeded((1000,), "bool", 0.0, 1.0, seed=0)
    assert found.dtype == np.bool_
    assert 450 < int(found.sum()) < 550


@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [
        (0, 4, []),
        (1, 4, [0]),
        (3, 4, [0, 1, 2]),
        (4, 4, [0, 1, 2, 3]),
        (10, 4, [0, 3, 6, 9]),
        (11, 4, [0, 3, 6, 10]),
        (102_400, 8, [0, 14628, 29256, 43885, 58513, 73142, 87770, 102399]),
    ],
)  # fmt: skip
def test_the_compared_indices_of_a_tensor(size: int, count: int, expected: list[int]) -> None:
    assert indices(size, count).tolist() == expected


@given(st.integers(1, 10**12), st.integers(2, 40))
def test_places_are_spread_and_have_both_ends(size: int, count: int) -> None:
    found: list[Any] = indices(size, count).tolist()
    assert (found[0], found[-1]) == (0, size - 1)
    assert found == sorted(set(found))
    assert len(found) == min(size, count)
    if size > count:
        gaps = {b - a for a, b in itertools.pairwise(found)}
        assert max(gaps) - min(gaps) <= 1


# --- Sums with random weights --------------------------------------------------------------------


def weight(k: int, i: int) -> float:
    """The weight that docs/file-format.md describes."""
    return (number(100 + k, i // 8) >> 8 * (i % 8) & 255) / 127.5 - 1


@given(st.lists(st.integers(-1000, 1000), max_size=100), st.integers(1, 4))
def test_weights_are_those_of_the_page(values: list[int], count: int) -> None:
    found = weighted_sums(np.array(values), count)
    for k in range(count):
        expected = math.fsum(weight(k, i) * x for i, x in enumerate(values))
        assert found[k] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_sums_of_a_tensor_of_several_blocks() -> None:
    """The weights go on behind a block."""
    values = np.zeros(2 * BLOCK + 70)
    for at in (BLOCK - 1, BLOCK, BLOCK + 64, 2 * BLOCK + 69):
        values[at] = 1
        assert weighted_sums(values, 2)[1] == pytest.approx(weight(1, at))
        values[at] = 0


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK + 1, 3 * CHUNK])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "bool"])
def test_norm_and_largest_value_are_those_of_the_whole(size: int, dtype: str) -> None:
    """Also of whole numbers, of which the smallest has no absolute value in its dtype."""
    values = np.random.default_rng(size).integers(-100, 100, size).astype(dtype)
    if size and dtype == "int8":
        values[-1] = -128
    whole = values.astype(np.float64)
    assert norm(values) == pytest.approx(np.linalg.norm(whole), rel=1e-14)
    assert largest(values) == np.abs(whole).max(initial=0)


@st.composite
def changed_tensors(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A tensor, and the same with a sign turned, channels or axes swapped, or a row changed."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(2, 12), st.integers(2, 12)))
    value = generator.normal(size=shape)
    if draw(st.booleans()):  # sparse, as gradients behind a pooling are
        value *= generator.uniform(size=shape) < 0.2
    other, axis = value.copy(), draw(st.integers(1, 2))
    kind = draw(st.sampled_from(["sign", "channels", "axes", "row", "one sign"]))
    if kind == "sign":
        other = -value
    elif kind == "axes":
        other = np.ascontiguousarray(value.swapaxes(1, 2)).reshape(shape)
    elif kind == "channels":
        one, two = draw(st.permutations(range(shape[axis])))[:2]
        order = list(range(shape[axis]))
        order[one], order[two] = two, one
        other = value.take(order, axis)
    elif kind == "row":
        other[:, draw(st.integers(0, shape[1] - 1))] *= 0.9
    else:
        other[..., 0] *= -1
    return value, other


@given(changed_tensors())
def test_a_changed_tensor_has_other_sums(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Unless the change is as small as rounding."""
    value, other = pair
    scale = np.abs(value).max()
    apart = np.abs(weighted_sums(value.ravel(), 3) - weighted_sums(other.ravel(), 3)).max()
    changed = np.linalg.norm(value - other)
    assert (apart > 1e-4 * sum_scale(scale, value.size)) == (changed > 0)
